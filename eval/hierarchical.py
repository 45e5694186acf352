"""Would a code of two parts serve better? Coarse × fine codebooks, the coarse part held near its open-loop choice.

    python -m eval.hierarchical

Each of `coarse` groups of steps gets a fine codebook of its own, 4,096 codes in all. The closed loop pays a price for
each code whose group is not that of the residue's own step: 0 is a flat codebook, a huge price fixes the coarse part.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

import structok
from structok.codebook.kmeans import kmeans
from structok.codebook.nearest import nearest_code
from structok.codebook.prior import learn_prior
from structok.polymer.chain import ChainModel, chain_steps
from train.data import load_backbones, shared_folder
from train.polymer.prior import step_points

OUT = Path(__file__).parent / "results" / "hierarchical.json"
CODES = 4096
PRICES = (0.0, 0.02, 0.1, 0.5, 2.0, 1e4)  # Å²


def codebook(steps: Tensor, coarse: int) -> tuple[Tensor, Tensor]:
    """Centres of the groups in pose space, and the steps of all codes, group after group."""
    generator = torch.Generator().manual_seed(0)
    centres = kmeans(step_points(steps[:100_000]), coarse, iterations=20, generator=generator)
    group = nearest_code(step_points(steps), centres)[1]
    parts = [steps[group == k].flatten(1)[:60_000] for k in range(coarse)]
    size = CODES // coarse
    # a group of fewer steps than codes is spelled out
    enough = [part.repeat(-(-size // len(part)), 1) if len(part) < size else part for part in parts]
    fine = [kmeans(part, size, iterations=6, generator=generator) for part in enough]
    return centres, torch.cat(fine).view(-1, 3, 3)


def main(
    count: Annotated[int, typer.Option(help="Validation chains, one of each cluster.")] = 60,
    jitter: Annotated[float, typer.Option(help="Noise on the coordinates, Å.")] = 0.05,
    beam: Annotated[int, typer.Option(help="Hypotheses kept.")] = 8,
) -> None:
    """Measure 16, 32 and 64 groups at several prices."""
    data = load_backbones(shared_folder() / "data" / "protein" / "train.npz")
    random = np.random.default_rng(0)
    train = data.one_per_cluster(np.flatnonzero(data.complete & (data.split == 0)), random)
    chosen = data.complete & (data.split == 1) & (data.lengths <= 300)
    chains = [data[i] for i in data.one_per_cluster(np.flatnonzero(chosen), random)[:count]]
    noisy = [x + torch.from_numpy(random.normal(scale=jitter, size=x.shape).astype(np.float32)) for x in chains]
    steps = torch.cat([chain_steps(data[i]) for i in train])
    steps = steps[torch.randperm(len(steps), generator=torch.Generator().manual_seed(0))[:300_000]]
    rows = []
    for coarse in (16, 32, 64):
        centres, codes = codebook(steps, coarse)
        size = CODES // coarse
        model = ChainModel(codes, vectors=torch.eye(coarse).repeat_interleave(size, 0))

        def own(chain: Tensor, centres: Tensor = centres, coarse: int = coarse) -> Tensor:
            """One-hot group of each residue's own step; the first residue has none."""
            group = nearest_code(step_points(chain_steps(chain)), centres)[1].long()
            return torch.cat([torch.full((1, coarse), torch.nan), torch.eye(coarse)[group]])

        latents = [[own(x) for x in some] for some in (chains, noisy)]
        for price in PRICES:
            # a wrong group lies at a squared distance of two in one-hot vectors
            found, again = (
                model.encode(some, z, latent_weight=price / 2, beam=beam) for some, z in zip((chains, noisy), latents)
            )
            error = [structok.metrics.rmsd(model.decode(c.long()), x) for c, x in zip(found, chains)]
            groups, after = ([c[1:] // size for c in codes] for codes in (found, again))
            prior = learn_prior(groups, torch.arange(coarse))
            rows.append(
                {
                    "coarse": coarse,
                    "fine": size,
                    "price": price,
                    "rmsd": {k: round(float(f(error)), 4) for k, f in (("mean", np.mean), ("max", np.max))},
                    "coarse as in open loop": share(groups, [z[1:].argmax(1) for z in latents[0]]),
                    "coarse kept under noise": share(groups, after),
                    "codes kept under noise": share([c[1:] for c in found], [c[1:] for c in again]),
                    "coarse bits after the code before": round(prior.cross_entropy(groups), 3),
                }
            )
            typer.echo(json.dumps(rows[-1]), err=True)
    record = {"chains": len(chains), "noise": jitter, "beam": beam, "rows": rows}
    OUT.write_text(json.dumps(record, indent=1) + "\n")


def share(a: list[Tensor], b: list[Tensor]) -> float:
    """Of equal entries."""
    return round(float((torch.cat(a) == torch.cat(b)).double().mean()), 4)


if __name__ == "__main__":
    typer.run(main)
