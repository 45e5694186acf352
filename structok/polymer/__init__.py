"""Chains of rigid frames: steps, closed-loop search, bridges. Knows no residue names."""
