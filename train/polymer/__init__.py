"""Recipes for chains of rigid frames: steps, priors, side chains, nucleotides, anchors."""
