"""Tokenizers of molecules: `python -m train.molecule topo --config train/configs/molstructok-topo.yaml`."""
