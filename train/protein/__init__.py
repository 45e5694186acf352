"""Structure tokenizers of proteins: `python -m train.protein fit --config train/configs/gcp_vqvae_plain.yaml`."""
