"""Learn the prior of a rigid-step codebook for rate-constrained search, and set the default weight.

python -m train.polymer.prior checkpoints/chain-vq-4096 ../shared/data/protein/train.npz -o runs/mine --rate-weight 0.03
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from jaxtyping import Float, Int
from rich.console import Console
from torch import Tensor

import structok
from structok.codebook.kmeans import kmeans
from structok.codebook.nearest import nearest_code
from structok.codebook.prior import Prior, learn_prior
from structok.geometry import backbone_frames
from structok.polymer.chain import chain_steps
from structok.protein.chain_vq import ChainVQ
from train.data import load_backbones

__all__ = ["fit_prior", "group_codes", "step_points"]

console = Console(stderr=True)
LEVER = 5.0  # Å


def group_codes(steps: Float[Tensor, "k 3 3"], seen: Float[Tensor, "n 3 3"], groups: int) -> Int[Tensor, " k"]:
    """Group of each code: k-means on poses of steps seen in training, as far apart as errors along a chain are felt."""
    centres = kmeans(step_points(seen), groups, iterations=15, generator=torch.Generator().manual_seed(0))
    return nearest_code(step_points(steps), centres)[1].long()


def step_points(steps: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 12"]:
    """Origin of the next residue's frame and the tips of its axes, `LEVER` Å long: as far apart as a chain feels it."""
    frames = backbone_frames(steps.double())
    return torch.cat([frames[:, :3, 3], LEVER * frames[:, :3, :3].mT.flatten(1)], 1).float()


def fit_prior(
    tokenizer: ChainVQ, chains: Sequence[Any], group: Int[Tensor, " k"], weight: float, *, rounds: int, beam: int
) -> tuple[Prior, float]:
    """Encode with the prior so far, count again; the more often, the more the codes agree with the prior.

    Returns the prior and its bits per code on the chains that it was counted on.
    """
    prior, bits = None, 0.0
    for i in range(rounds):
        model = with_prior(tokenizer, prior, weight if prior else 0.0)
        sequences = [torch.from_numpy(t.codes) for t in model.encode_batch(chains, beam=beam, closed_loop=True)]
        prior = learn_prior(sequences, group)
        bits = prior.cross_entropy(sequences)
        console.log(f"round {i}: {bits:.2f} bits per code")
    assert prior
    return prior, bits


def with_prior(tokenizer: ChainVQ, prior: Prior | None, weight: float) -> ChainVQ:
    """The tokenizer with another prior and default weight."""
    config = replace(tokenizer.config, groups=len(prior.bits) - 1 if prior else 0, rate_weight=weight)
    return ChainVQ(config, tokenizer.model.steps.float(), prior, name=tokenizer.name)


def main(
    model: Annotated[str, typer.Argument(help="Checkpoint of chain-vq.")],
    data: Annotated[Path, typer.Argument(help="npz, parquet or folder of structures.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Checkpoint folder to write.")],
    rate_weight: Annotated[float, typer.Option(help="Default μ, Å² per bit.")] = 0.03,
    groups: Annotated[int, typer.Option(help="Groups of codes.")] = 64,
    count: Annotated[int, typer.Option(help="Training chains, one of each cluster, to count on.")] = 4000,
    longest: Annotated[int, typer.Option(help="Longest of them.")] = 600,
    rounds: Annotated[int, typer.Option(help="How often to encode and count.")] = 4,
    beam: Annotated[int, typer.Option(help="Hypotheses kept meanwhile.")] = 4,
    seed: Annotated[int, typer.Option(help="Which chains.")] = 0,
) -> None:
    """Fit and save."""
    tokenizer, backbones = structok.load(model), load_backbones(data)
    pool = np.flatnonzero((backbones.split == 0) & backbones.complete & (backbones.lengths <= longest))
    chosen = backbones.one_per_cluster(pool, np.random.default_rng(seed))[:count]
    steps = torch.cat([chain_steps(backbones[i]) for i in chosen])
    some = steps[torch.randperm(len(steps), generator=torch.Generator().manual_seed(seed))[:60_000]]
    chains = [structok.Backbone(backbones[i].numpy()) for i in chosen]
    group = group_codes(tokenizer.model.steps, some, groups)
    prior, bits = fit_prior(tokenizer, chains, group, rate_weight, rounds=rounds, beam=beam)
    with_prior(tokenizer, prior, rate_weight).save(out)
    record = {"chains": len(chains), "bits per code": round(bits, 3), "rate_weight": rate_weight, "groups": groups}
    record |= {"longest": longest, "rounds": rounds, "beam": beam, "seed": seed}
    (out / "prior.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
