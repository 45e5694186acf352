"""Recipes for chains with all their atoms: side chains of proteins, nucleotides."""
