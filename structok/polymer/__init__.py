"""Chains of rigid frames: anchors and repair; knows no residue names."""
