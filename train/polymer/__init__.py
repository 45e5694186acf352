"""Codebooks of rigid steps: `python -m train.polymer.chain_vq`, their prior, and the points of anchors."""
