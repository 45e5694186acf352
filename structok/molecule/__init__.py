"""Molecules: from files to conformers, to tokens by one code per atom, and back."""
