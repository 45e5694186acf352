"""Protein backbones: structure IO, the chain-vq tokenizers, and GCP-VQVAE."""
