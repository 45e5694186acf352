"""Codebooks of rigid steps: `python -m train.polymer.chain_vq`, and their prior: `python -m train.polymer.prior`."""
