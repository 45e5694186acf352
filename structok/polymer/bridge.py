"""Bridges over missing residues: a plausible backbone that leaves one observed residue and lands on the next.

The tokens of missing residues carry the bridge, so that both sides of a gap are rebuilt in the right relative
pose. What the bridge looks like inside is not a prediction of the missing loop.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from structok.codebook.nearest import nearest_code
from structok.geometry import apply, backbone_frames, invert, rigid
from structok.polymer.link import PEPTIDE

__all__ = ["Pieces", "fill_missing"]

_WALKERS, _TRIES, _LANDINGS = 48, 96, 1024
# three points that weigh rotation against translation as N, CA and C do
_TRIAD = torch.tensor([[-0.5, 1.4, 0.0], [0.0, 0.0, 0.0], [1.5, 0.0, 0.0]], dtype=torch.float64)


class Pieces(NamedTuple):
    """What bridges are built from: bonded steps as frames, where each puts the triad, residues in their own frames.

    `usual` is the step nearest the mean one, `stride` the usual distance of neighbours in Å.
    """

    transforms: Float[Tensor, "k 4 4"]
    landing: Float[Tensor, "k 9"]
    inner: Float[Tensor, "k 3 3"]
    usual: int
    stride: float

    @classmethod
    def of(cls, steps: Float[Tensor, "k 3 3"], stride: float = PEPTIDE.stride) -> Pieces:
        steps = steps.double()
        transforms = backbone_frames(steps)
        landing = apply(transforms, _TRIAD.expand(len(steps), 3, 3)).flatten(1)
        usual = int((steps - steps.mean(0)).square().sum((1, 2)).argmin())
        return cls(transforms, landing, apply(invert(transforms), steps), usual, stride)


def fill_missing(coords: Float[Tensor, "l 3 3"], mask: Bool[Tensor, " l"], pieces: Pieces) -> Float[Tensor, "l 3 3"]:
    """Put residues where `mask` is False, built from bonded steps; observed ones stay as they are.

    Inside the chain a gap is bridged; where its ends are further apart than its residues can reach, they
    grow backwards from the far end and one long step is left behind the near end. Missing residues at a
    terminus extend the chain. Deterministic.
    """
    if mask.all():
        return coords.double()
    coords = torch.where(mask[:, None, None], coords.double(), 0.0)
    seen = mask.nonzero()[:, 0].tolist()
    frames = backbone_frames(coords[seen])
    at = dict(zip(seen, frames))
    if seen[0] > 0:
        coords[: seen[0]] = _grow(at[seen[0]], seen[0], pieces, backwards=True, toward=None)
    for left, right in pairwise(seen):
        if n := right - left - 1:
            span = float((at[right][:3, 3] - at[left][:3, 3]).norm())
            if span > 0.95 * pieces.stride * (n + 1):
                bridge = _grow(at[right], n, pieces, backwards=True, toward=at[left][:3, 3])
            else:
                bridge = _bridge(at[left], at[right], n, pieces)
            coords[left + 1 : right] = bridge
    if tail := len(coords) - 1 - seen[-1]:
        coords[seen[-1] + 1 :] = _grow(at[seen[-1]], tail, pieces, backwards=False, toward=None)
    return coords


def _grow(
    frame: Float[Tensor, "4 4"],
    n: int,
    pieces: Pieces,
    *,
    backwards: bool,
    toward: Tensor | None,
) -> Float[Tensor, "n 3 3"]:
    """n residues that extend a chain from `frame`: the median step over and over, or the steps nearest a point."""
    transforms = invert(pieces.transforms) if backwards else pieces.transforms
    out = []
    for _ in range(n):
        options = frame @ transforms
        pick = pieces.usual
        if toward is not None:
            pick = int((options[:, :3, 3] - toward).norm(dim=-1).argmin())
        frame = options[pick]
        out.append(apply(frame, pieces.inner[pick]))
    return torch.stack(out[::-1] if backwards else out)


def _bridge(left: Float[Tensor, "4 4"], right: Float[Tensor, "4 4"], n: int, pieces: Pieces) -> Float[Tensor, "n 3 3"]:
    """Random walkers that close in on the far end, an exact search for the last two steps, a small correction.

    The walkers keep to the share of the distance that the remaining steps have to cover. The landing error
    that is left is spread over the bridge as a growing part of one rigid motion.
    """
    random = torch.Generator().manual_seed(n)
    transforms, stride = pieces.transforms, pieces.stride
    goal, span = right[:3, 3], float((right[:3, 3] - left[:3, 3]).norm())
    near = stride + 1.2  # Å, room for the last two steps
    paths = left[None, None]  # walkers, residues so far, 4, 4
    for remaining in range(n, 1, -1):
        want = max(span * remaining / (n + 1), min(span, near), near if remaining == 2 else 0.0)
        want = min(want, 0.9 * stride * remaining)
        picks = torch.randperm(len(transforms), generator=random)[:_TRIES]
        miss = (_distances(paths[:, -1], transforms[picks], goal) - want).abs()
        # walkers within 1 Å of the plan count as equal, so that the kept ones stay diverse
        score = miss.clamp(min=1.0) + 0.2 * torch.rand(len(miss), generator=random, dtype=miss.dtype)
        kept = score.topk(min(_WALKERS, len(score)), largest=False).indices
        walker = kept // len(picks)
        frames = paths[walker, -1] @ transforms[picks[kept % len(picks)]]
        paths = torch.cat([paths[walker], frames[:, None]], 1)
    picks = torch.randperm(len(transforms), generator=random)[:_LANDINGS]
    far = (_distances(paths[:, -1], transforms[picks], goal) - stride).abs()
    nearest = far.topk(min(512, len(far)), largest=False).indices
    walker = nearest // len(picks)
    frames = paths[walker, -1] @ transforms[picks[nearest % len(picks)]]
    target = apply(right, _TRIAD)
    seen_from = apply(invert(frames), target.expand(len(nearest), 3, 3)).flatten(1)
    miss, index = nearest_code(seen_from, pieces.landing)
    chosen = int(miss.argmin())
    path = torch.cat([paths[walker[chosen], 1:], frames[chosen, None]])
    return apply(
        _spread(path, frames[chosen] @ transforms[int(index[chosen])], right), pieces.inner[:1].expand(n, 3, 3)
    )


def _distances(
    frames: Float[Tensor, "w 4 4"], transforms: Float[Tensor, "p 4 4"], goal: Float[Tensor, " 3"]
) -> Float[Tensor, " w*p"]:
    """How far from a point each frame would end up after each step."""
    moved = (frames[:, :3, :3].flatten(0, 1) @ transforms[:, :3, 3].T).unflatten(0, (-1, 3))
    return (moved + (frames[:, :3, 3] - goal)[..., None]).square_().sum(1).sqrt_().flatten()


def _spread(
    path: Float[Tensor, "n 4 4"], landed: Float[Tensor, "4 4"], right: Float[Tensor, "4 4"]
) -> Float[Tensor, "n 4 4"]:
    """Move the path so that it would end at `right` instead of `landed`, each residue by its share."""
    n = len(path)
    share = (torch.arange(1, n + 1, dtype=path.dtype) / (n + 1))[:, None]
    turn = right[:3, :3] @ landed[:3, :3].T
    axis = torch.stack([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]]) / 2
    sine = axis.norm()
    angle = torch.atan2(sine, (turn.trace() - 1) / 2)
    axis = axis / sine.clamp(min=1e-9)
    cross = path.new_zeros(3, 3)
    cross[0, 1], cross[0, 2], cross[1, 2] = -axis[2], axis[1], -axis[0]
    cross = cross - cross.T
    part = torch.linalg.matrix_exp((share * angle)[:, :, None] * cross)
    moved = (part @ (path[:, :3, 3] - landed[:3, 3])[..., None])[..., 0]
    origin = moved + landed[:3, 3] + share * (right[:3, 3] - landed[:3, 3])
    return rigid(part @ path[:, :3, :3], origin)
