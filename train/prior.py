"""Learn the prior of a rigid-step codebook for rate-constrained search, and set the default weight.

python -m train.prior checkpoints/chain-vq-4096 ../shared/data/protein/train.npz -o runs/with-prior --rate-weight 0.03
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
from rich.progress import Progress
from torch import Tensor

import structok
from structok.codebook.kmeans import kmeans
from structok.codebook.nearest import nearest_code
from structok.codebook.prior import Prior, learn_prior
from structok.geometry import backbone_frames
from structok.polymer.chain import chain_steps
from structok.protein.chain_vq import ChainVQ
from structok.protein.features import lever_points, pose_numbers
from structok.protein.model import GCPVQVAEModel
from structok.protein.tokenizer import GCPVQVAE
from train.chain_vq import break_windows, learn_breaks
from train.data import Backbones, load_backbones

__all__ = ["fit_prior", "group_codes", "step_points"]

console = Console(stderr=True)


def group_codes(steps: Float[Tensor, "k 3 3"], seen: Float[Tensor, "n 3 3"], groups: int) -> Int[Tensor, " k"]:
    """Group of each code: k-means on poses of steps seen in training, as far apart as errors along a chain are felt."""
    centres = kmeans(step_points(seen), groups, iterations=15, generator=torch.Generator().manual_seed(0))
    return nearest_code(step_points(steps), centres)[1].long()


def step_points(steps: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 12"]:
    """`lever_points` of the next residue's frame, Å."""
    return lever_points(pose_numbers(backbone_frames(steps.double()))).float()


def fit_prior(
    tokenizer: Any, chains: Sequence[Any], group: Int[Tensor, " k"], weight: float, *, rounds: int, beam: int
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


def with_breaks(tokenizer: GCPVQVAE, data: Backbones, chains: Sequence[Any], breaks: int) -> GCPVQVAE:
    """Long steps over chain breaks in place of the codes that `chains` use least; they become the last ones."""
    codes = np.concatenate([t.codes for t in tokenizer.encode_batch(chains, beam=4, closed_loop=True)])
    order = torch.from_numpy(np.argsort(-np.bincount(codes, minlength=tokenizer.codebook_size), kind="stable"))
    kept = order[:-breaks].sort().values
    steps = tokenizer.model.steps()[kept].flatten(1).float()
    windows = break_windows(data, np.flatnonzero(data.split == 0))
    with Progress(console=console) as progress:
        found = learn_breaks(steps, breaks, windows, 8, progress).view(-1, 3, 3)
    model, features = GCPVQVAEModel(replace(tokenizer.config, n_break=breaks)), tokenizer.model.step_features
    order = torch.cat([kept, order[-breaks:]])
    state = tokenizer.model.state_dict() | {"break_steps": found}
    for name in ("quantizer.codebook", "quantizer.cluster_size"):
        state[name] = state[name][order]
    if features is not None:
        pose = torch.cat([pose_numbers(backbone_frames(found.double())), torch.ones(breaks, 1)], 1).float()
        state["quantizer.codebook"][-breaks:] = features(pose)
    model.load_state_dict(state)
    return GCPVQVAE(model, tokenizer.name)


def with_prior(tokenizer: Any, prior: Prior | None, weight: float) -> Any:
    """The tokenizer with another prior and default weight."""
    groups = len(prior.bits) - 1 if prior else 0
    config = replace(tokenizer.config, groups=groups, rate_weight=weight)
    if isinstance(tokenizer, ChainVQ):
        return ChainVQ(config, tokenizer.model.steps.float(), prior, name=tokenizer.name)
    model = GCPVQVAEModel(config)
    state = {k: v for k, v in tokenizer.model.state_dict().items() if k not in ("group", "bits")}
    model.load_state_dict(state | ({"group": prior.group, "bits": prior.bits} if prior else {}))
    return GCPVQVAE(model, tokenizer.name)


def main(
    model: Annotated[str, typer.Argument(help="Checkpoint of chain-vq, or of gcp-vqvae with rigid-step codes.")],
    data: Annotated[Path, typer.Argument(help="npz, parquet or folder of structures.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Checkpoint folder to write.")],
    rate_weight: Annotated[float, typer.Option(help="Default μ, Å² per bit.")] = 0.03,
    groups: Annotated[int, typer.Option(help="Groups of codes.")] = 64,
    breaks: Annotated[int, typer.Option(help="Codes of gcp-vqvae that become steps over chain breaks.")] = 0,
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
    if breaks:
        tokenizer = with_breaks(tokenizer, backbones, chains, breaks)
    group = group_codes(codebook_steps(tokenizer), some, groups)
    prior, bits = fit_prior(tokenizer, chains, group, rate_weight, rounds=rounds, beam=beam)
    with_prior(tokenizer, prior, rate_weight).save(out)
    record = {"chains": len(chains), "bits per code": round(bits, 3), "rate_weight": rate_weight, "groups": groups}
    record |= {"breaks": breaks, "longest": longest, "rounds": rounds, "beam": beam, "seed": seed}
    (out / "prior.json").write_text(json.dumps(record, indent=1) + "\n")


def codebook_steps(tokenizer: Any) -> Float[Tensor, "k 3 3"]:
    """N, CA, C of the next residue for each code, Å."""
    return tokenizer.model.steps if isinstance(tokenizer, ChainVQ) else tokenizer.model.steps()


if __name__ == "__main__":
    typer.run(main)
