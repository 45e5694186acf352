"""Conformers with the geometry that chemistry fixes, near given ones; k-means over such conformers."""

from __future__ import annotations

import math
from itertools import combinations
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from structok.codebook.kmeans import centroids, spread_seeds
from structok.codebook.nearest import nearest_code
from structok.geometry import apply

__all__ = ["Stiff", "idealise", "in_many_frames", "learn_conformers", "stiff_pairs", "usual_errors"]

ITERATIONS = 8  # of plain k-means
FIT = 0.05  # Å, how far a conformer may lie from the mean of its samples, as a standard deviation
STIFF = 0.06  # Å; distances that vary less than this are geometry, the others are conformation
FIXED, NEAR = 0.97, 0.15  # share of residues that have a stiff distance, within five deviations or this many Å
LEAST = 0.005  # Å, the least standard deviation that a distance is given


class Stiff(NamedTuple):
    """Pairs of atoms whose distance hardly varies, with its mean and standard deviation, Å."""

    pairs: Int[Tensor, "p 2"]
    mean: Float[Tensor, " p"]
    spread: Float[Tensor, " p"]


def stiff_pairs(own: Float[Tensor, "m n 3"], frame: int = 3) -> Stiff:
    """Distances that chemistry fixes: bonds, angles, rings, planar groups; not those within the first `frame` atoms.

    One of several rotamers may be frequent and is not fixed: a stiff distance is that of nearly all residues.
    """
    pairs = torch.tensor([(i, j) for i, j in combinations(range(own.shape[1]), 2) if j >= frame])
    length = (own[:, pairs[:, 0]] - own[:, pairs[:, 1]]).norm(dim=-1)
    middle = length.median(0).values
    # robust against the few residues with wrong geometry
    spread = 1.4826 * (length - middle).abs().median(0).values
    near = (length - middle).abs() < (5 * spread).clamp(min=NEAR)
    mean = torch.where(near, length, 0).sum(0) / near.sum(0)
    spread = (torch.where(near, length - mean, 0).square().sum(0) / near.sum(0)).sqrt()
    kept = (spread < STIFF) & (near.float().mean(0) > FIXED)
    return Stiff(pairs[kept], mean[kept], spread[kept].clamp(min=LEAST))


def idealise(
    codes: Float[Tensor, "k n 3"], frame: Float[Tensor, "f 3"], stiff: Stiff, steps: int = 150
) -> Float[Tensor, "k n 3"]:
    """The conformers nearest to `codes` whose stiff distances are what they should be.

    Minimises the squared distance from `codes` in units of `FIT` plus that of each stiff distance from its mean in
    units of its standard deviation; the atoms of the frame are held.
    """
    held = frame.expand(len(codes), -1, -1)
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


def usual_errors(frames: Float[Tensor, "m 4 4"], shift: float, degrees: float) -> Bool[Tensor, " m"]:
    """Which errors of rebuilt frames are small; the others, of breaks and bad models, no conformer should make good."""
    turn = (frames[:, :3, :3].diagonal(dim1=-1, dim2=-2).sum(-1) - 1) / 2
    return (frames[:, :3, 3].norm(dim=-1) < shift) & (turn > math.cos(math.radians(degrees)))


def in_many_frames(
    local: Float[Tensor, "m n 3"],
    own: Float[Tensor, "m n 3"],
    errors: Float[Tensor, "e 4 4"],
    sample: int,
    random: torch.Generator,
) -> Float[Tensor, "s n 3"]:
    """Residues in rebuilt frames; where there are too few, also put into frames with the errors that others had."""
    x = local[torch.randperm(len(local), generator=random)[:sample]]
    if (extra := sample - len(x)) > 0:
        rows = torch.randint(len(own), (extra,), generator=random)
        other = errors[torch.randint(len(errors), (extra,), generator=random)]
        x = torch.cat([x, apply(other, own[rows].double()).float()])
    return x


def learn_conformers(
    x: Float[Tensor, "s n 3"],
    weight: Float[Tensor, " n"],
    codes: int,
    frame: Float[Tensor, "f 3"],
    stiff: Stiff,
    rounds: int,
    random: torch.Generator,
) -> tuple[Float[Tensor, "k n 3"], float]:
    """Conformers, the most used first, and their RMS error in Å: k-means, then rounds of assigning and idealising."""
    scale = weight.sqrt()[:, None]
    flat = (x * scale).flatten(1)
    flat = flat[torch.randperm(len(flat), generator=random)]
    book = spread_seeds(flat[: 4 * codes], codes, random)
    for i in range(ITERATIONS + rounds):
        book = centroids(flat, nearest_code(flat, book)[1], book, prior=float(i >= ITERATIONS))
        if i >= ITERATIONS - 1:
            ideal = idealise(book.view(codes, -1, 3) / scale, frame, stiff)
            book = (ideal * scale).flatten(1)
    distance, index = nearest_code(flat, book)
    used = torch.bincount(index.long(), minlength=codes).argsort(descending=True, stable=True)
    return ideal[used], float((distance.mean() / weight.sum()).sqrt())
