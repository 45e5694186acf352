"""The rigid steps, breaks and prior of a GCP-VQVAE whose codes are rigid steps, as a chain-vq checkpoint.

python -m train.steps_of checkpoints/gcp-vqvae -o runs/chain-vq-gcp
"""

from pathlib import Path
from typing import Annotated

import typer

import structok
from structok.protein.chain_vq import ChainVQ, ChainVQConfig


def main(model: str, out: Annotated[Path, typer.Option("--out", "-o")]) -> None:
    """Convert and save."""
    source = structok.load(model)
    config = source.config
    made = ChainVQConfig(
        config.codebook_size,
        config.n_break,
        config.beam,
        groups=config.groups,
        rate_weight=config.rate_weight,
        max_length=config.max_length,
    )
    ChainVQ(made, source.model.steps().float(), source.model.prior).save(out)


if __name__ == "__main__":
    typer.run(main)
