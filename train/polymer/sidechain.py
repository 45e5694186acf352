"""Learn codebooks of side-chain conformers as they are seen from rebuilt backbones.

python -m train.polymer.sidechain ../shared/data/protein/allatom.npz -o checkpoints/sidechain-4096 --codes 4096
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import typer
from jaxtyping import Float, Int
from rich.console import Console
from torch import Tensor

import structok
from structok.codebook.kmeans import centroids, spread_seeds
from structok.codebook.nearest import nearest_code
from structok.geometry import apply, backbone_frames, invert
from structok.protein.sidechain import CODED, SideChainConfig, SideChains, onto_rebuilt
from structok.protein.sidechain_atoms import ATOMS, BONDS
from train.polymer.data import ProteinChain, load_proteins

console = Console(stderr=True)
FIT = 0.05  # Å, how far a conformer may lie from the mean of its samples, as a standard deviation
STIFF = 0.06  # Å; distances that vary less than this are geometry, the others are conformation
FIXED = 0.97  # share of residues that have a stiff distance within five standard deviations
LEAST = 0.005  # Å, the least standard deviation that a distance is given
ITERATIONS = 10  # of plain k-means
MISFIT = 1.0  # Å from the type's usual distance between bonded atoms; such residues teach nothing


class Seen(NamedTuple):
    """Residues of one type: their atoms in the rebuilt frames (`local`) and in their own (`own`), Å."""

    local: Float[Tensor, "m n 3"]
    own: Float[Tensor, "m n 3"]


class Stiff(NamedTuple):
    """Pairs of atoms whose distance hardly varies, with its mean and standard deviation, Å."""

    pairs: Int[Tensor, "p 2"]
    mean: Float[Tensor, " p"]
    spread: Float[Tensor, " p"]


def rebuild(chains: Sequence[ProteinChain], model: str) -> list[Float[Tensor, "l 3 3"]]:
    """Backbones of the chains as `model` gives them back, missing slots filled by bridges."""
    tokenizer = structok.load(model)
    codes = tokenizer.model.encode([torch.from_numpy(c.backbone) for c in chains], beam=tokenizer.config.beam)
    return [tokenizer.model.decode(row) for row in codes]


def gather(chains: Sequence[ProteinChain], rebuilt: Sequence[Tensor]) -> tuple[dict[str, Seen], Float[Tensor, "m 4 4"]]:
    """Complete residues by type, and all errors of rebuilt frames (true frame, seen from the rebuilt one)."""
    atoms = [torch.from_numpy(c.atoms).double() for c in chains]
    local = torch.cat([onto_rebuilt(x, y).double() for x, y in zip(atoms, rebuilt)])
    letters = np.frombuffer("".join(c.sequence for c in chains).encode(), np.uint8)
    frames = backbone_frames(local[:, :3])
    own = apply(invert(frames), local)
    found = {}
    for letter in CODED:
        n = len(ATOMS[letter])
        rows = torch.from_numpy(letters == ord(letter)) & local[:, :n].isfinite().all(-1).all(-1)
        found[letter] = Seen(local[rows, :n].float(), own[rows, :n].float())
    return found, frames[frames.isfinite().all(-1).all(-1)]


def plausible(seen: Seen, letter: str) -> Seen:
    """Without residues that are broken or of the other hand."""
    names = ATOMS[letter]
    pairs = torch.tensor([[names.index(a), names.index(b)] for a, b in BONDS[letter]])
    length = (seen.own[:, pairs[:, 0]] - seen.own[:, pairs[:, 1]]).norm(dim=-1)
    usual = length.median(0).values
    good = ((length - usual).abs() < MISFIT).all(1) & ((seen.own[:, 4, 2] > 0) == (seen.own[:, 4, 2].median() > 0))
    return Seen(seen.local[good], seen.own[good])


def stiff_pairs(own: Float[Tensor, "m n 3"]) -> Stiff:
    """Distances that chemistry fixes: bonds, angles, rings, planar groups. N, CA and C count, O does not."""
    n = own.shape[1]
    pairs = torch.tensor([(i, j) for i, j in combinations(range(n), 2) if 3 not in (i, j) and j > 3])
    length = (own[:, pairs[:, 0]] - own[:, pairs[:, 1]]).norm(dim=-1)
    middle = length.median(0).values
    # robust against the few residues with wrong geometry
    spread = 1.4826 * (length - middle).abs().median(0).values
    near = (length - middle).abs() < 5 * spread.clamp(min=LEAST)
    mean = torch.where(near, length, 0).sum(0) / near.sum(0)
    spread = (torch.where(near, length - mean, 0).square().sum(0) / near.sum(0)).sqrt()
    kept = (spread < STIFF) & (
        near.float().mean(0) > FIXED
    )  # one of several rotamers may be frequent, and is not fixed
    return Stiff(pairs[kept], mean[kept], spread[kept].clamp(min=LEAST))


def idealise(
    codes: Float[Tensor, "k n 3"], backbone: Float[Tensor, "3 3"], stiff: Stiff, steps: int = 300
) -> Float[Tensor, "k n 3"]:
    """The conformers nearest to `codes` whose stiff distances are what they should be.

    Minimises the squared distance from `codes` in units of `FIT` plus that of each stiff distance from its mean in
    units of its standard deviation; N, CA and C are held.
    """
    held = torch.nn.functional.pad(backbone, (0, 0, 0, 1)).expand(len(codes), 4, 3)
    moved = codes.clone().requires_grad_()
    adam = torch.optim.Adam([moved], lr=0.01)
    for step in range(steps):
        adam.param_groups[0]["lr"] = 0.01 * (1 - step / steps) + 1e-4
        adam.zero_grad()
        whole = torch.cat([held, moved], 1)
        length = (whole[:, stiff.pairs[:, 0]] - whole[:, stiff.pairs[:, 1]]).norm(dim=-1)
        loss = ((moved - codes) / FIT).square().sum() + ((length - stiff.mean) / stiff.spread).square().sum()
        loss.backward()
        adam.step()
    return moved.detach()


def more_samples(seen: Seen, errors: Float[Tensor, "m 4 4"], sample: int, random: torch.Generator) -> Tensor:
    """Side chains in rebuilt frames; a rare type is also put into frames with the errors that others had."""
    x = seen.local[torch.randperm(len(seen.local), generator=random)[:sample], 4:]
    extra = sample - len(x)
    if extra > 0:
        rows = torch.randint(len(seen.own), (extra,), generator=random)
        other = errors[torch.randint(len(errors), (extra,), generator=random)]
        x = torch.cat([x, apply(other, seen.own[rows, 4:].double()).float()])
    return x


def learn(
    letter: str, seen: Seen, errors: Float[Tensor, "m 4 4"], codes: int, sample: int, rounds: int, seed: int
) -> Float[Tensor, "k n 3"]:
    """Conformers of one type, the most used first: k-means, then rounds of idealising and assigning."""
    random = torch.Generator().manual_seed(seed)
    seen = plausible(seen, letter)
    x = more_samples(seen, errors, max(sample, 4 * codes), random)
    stiff = stiff_pairs(seen.own)
    backbone = seen.own[:, :3].median(0).values
    flat = x.flatten(1).contiguous()
    book = spread_seeds(flat[: 4 * codes], codes, random)
    for i in range(ITERATIONS + rounds):
        distance, index = nearest_code(flat, book)
        book = centroids(flat, index, book, prior=float(i >= ITERATIONS))
        if i >= ITERATIONS - 1:
            book = idealise(book.view(codes, -1, 3), backbone, stiff).flatten(1)
    distance, index = nearest_code(flat, book)
    used = torch.bincount(index.long(), minlength=codes)
    book = book[used.argsort(descending=True, stable=True)].view(codes, -1, 3)
    error = float((distance.mean() / x.shape[1]).sqrt())
    console.log(f"{letter}: {len(seen.own)} residues, {len(stiff.mean)} stiff pairs, {error:.3f} Å per atom")
    return book


def main(
    source: Annotated[Path, typer.Argument(help="npz of chains with all heavy atoms")],
    out: Annotated[Path, typer.Option("-o", "--out", help="checkpoint folder")],
    codes: int = 4096,
    backbone: Annotated[
        str, typer.Option(help="model whose rebuilt backbones the side chains hang on")
    ] = "chain-vq-4096",
    sample: Annotated[int, typer.Option(help="residues of each type for k-means")] = 60_000,
    rounds: Annotated[int, typer.Option(help="of idealising and assigning")] = 2,
    chains: Annotated[int, typer.Option(help="how many at most, 0 = all")] = 0,
    seed: int = 0,
    force: bool = False,
) -> None:
    """Write `config.json`, `model.safetensors` and `training.json` to the checkpoint folder."""
    if (out / "model.safetensors").exists() and not force:
        raise typer.BadParameter(f"{out} holds a model already; --force replaces it")
    began = time.time()
    training = load_proteins(source, 0)[: chains or None]
    seen, errors = gather(training, rebuild(training, backbone))
    console.log(f"{len(training)} chains, {len(errors)} residues, {time.time() - began:.0f} s")
    books = {x: learn(x, seen[x], errors, codes, sample, rounds, seed) for x in CODED}
    SideChains(SideChainConfig(codes), books).save(out)
    record = {
        "command": f"python -m train.polymer.sidechain {source} -o {out} --codes {codes} --backbone {backbone}"
        f" --sample {sample} --rounds {rounds} --seed {seed}",
        "seconds": round(time.time() - began),
        "torch": torch.__version__,
        "training_chains": sorted({c.name for c in training}),
        "training_clusters": sorted({c.cluster for c in training}),
    }
    (out / "training.json").write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    typer.run(main)
