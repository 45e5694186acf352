"""Chains of rigid frames: `python -m train.polymer.chain_vq` learns steps, `prior` what a code costs after another,
`sidechain` the side chains of proteins, `nucleic` DNA and RNA.
"""
