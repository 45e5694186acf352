"""Anchors: positions of every S-th residue in one shared frame, each one of 4,096 points of a ball.

Codes of local geometry say where the next residue is; anchors say where the chain is. The frame is the body frame of
a chain, which jitter hardly moves; the ball's radius is one of 24 powers of √2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from structok.checkpoint import check_sizes, check_tensors, checkpoints_folder, make_config, read_checkpoint
from structok.codebook.nearest import nearest_code
from structok.errors import CheckpointError, InputError
from structok.geometry import apply, gram_schmidt, invert, rigid

__all__ = [
    "RADII",
    "AnchorPoints",
    "AnchorPointsConfig",
    "Anchoring",
    "Sketch",
    "body_frame",
    "load_points",
    "radius_code",
    "spacing_for",
]

RADII = 2.0 * 2.0 ** (torch.arange(24, dtype=torch.float64) / 2)  # Å: 2, 2.8, 4, ... 5793
_FEWEST = 6  # anchors of a chain that is long enough for them
NONE = -1  # the anchor of a slot where nothing was observed


def body_frame(
    positions: Float[Tensor, "*b l 3"],
    mask: Bool[Tensor, "*b l"],
    fallback: Float[Tensor, "*b 3 3"] | None = None,
) -> Float[Tensor, "*b 4 4"]:
    """The frame of a chain as a whole, float64: it moves with the chain, and jitter averages out.

    Origin: the centroid of the observed residues. Axes: from the centroid of the first third of them to that of
    the last (x), and to that of the second (in the xy-plane, y > 0).

    Parameters
    ----------
    positions : of the residues (CA), Å; anything where not observed
    mask : residues that were observed, at least one
    fallback : axes for chains of fewer than three observed residues; without it they get the identity
    """
    positions = torch.where(mask[..., None], positions.double(), 0.0)
    count = mask.sum(-1, keepdim=True)
    third = (mask.cumsum(-1) - 1) * 3 // count.clamp(min=1)
    member = (third[..., None, :] == torch.arange(3, device=mask.device)[:, None]) & mask[..., None, :]
    a, b, c = (member.double() @ positions / member.sum(-1, keepdim=True).clamp(min=1)).unbind(-2)
    centroid = positions.sum(-2) / count.clamp(min=1)
    turn = gram_schmidt(c - a, b - a)
    spare = torch.eye(3, dtype=turn.dtype, device=turn.device) if fallback is None else fallback.double()
    return rigid(torch.where(count[..., None] < 3, spare, turn), centroid)


def radius_code(reach: Float[Tensor, "*b"]) -> Int[Tensor, "*b"]:
    """Code of the least of `RADII` that is not below `reach`, Å; len(RADII) where even the largest is."""
    return torch.searchsorted(RADII.to(reach.device), reach.double() * (1 - 1e-9))


class Sketch(NamedTuple):
    """Anchors of chains: `frame` maps the shared frame to the chains' coordinates, Å; -1 where there is no anchor."""

    frame: Float[Tensor, "*b 4 4"]
    radius: Int[Tensor, "*b"]
    anchors: Int[Tensor, "*b n"]


@dataclass(frozen=True)
class Anchoring:
    """The anchors that a tokenizer writes.

    points : the checkpoint that they are quantised to
    spacing : slots from anchor to anchor, fewer in short chains
    """

    points: str = "anchors-4096"
    spacing: int = 6

    def __post_init__(self) -> None:
        check_sizes(self)


def spacing_for(length: int, spacing: int) -> int:
    """Slots from anchor to anchor in a chain: enough anchors to pose a short one too."""
    return max(1, min(spacing, length // _FEWEST))


@dataclass(frozen=True)
class AnchorPointsConfig:
    """codebook_size : number of points"""

    codebook_size: int


class AnchorPoints:
    """The points of the unit ball that anchors are quantised to.

    Parameters
    ----------
    points : float32 tensor, shape=(k, 3)
    """

    def __init__(self, points: Float[Tensor, "k 3"]) -> None:
        self.points = points.float()

    def __len__(self) -> int:
        return len(self.points)

    def nearest(self, positions: Float[Tensor, "*b n 3"], radius: Int[Tensor, "*b"]) -> Int[Tensor, "*b n"]:
        """The point nearest to each position, Å in the shared frame; -1 where the position is not finite."""
        scaled = (positions / RADII.to(positions.device)[radius][..., None, None]).float()
        told = scaled.isfinite().all(-1)
        index = nearest_code(torch.where(told[..., None], scaled, 0.0), self.points.to(scaled.device))[1]
        return torch.where(told, index.long(), NONE)

    def positions(self, anchors: Int[Tensor, "*b n"], radius: Int[Tensor, "*b"]) -> Float[Tensor, "*b n 3"]:
        """Where anchors lie in the shared frame, Å, float64; NaN where there is none."""
        unit = self.points.to(anchors.device).double()[anchors.clamp(min=0)]
        size = RADII.to(anchors.device)[radius][..., None, None]
        return torch.where((anchors >= 0)[..., None], unit * size, torch.nan)

    def sketch(
        self,
        positions: Float[Tensor, "*b l 3"],
        mask: Bool[Tensor, "*b l"],
        spacing: int = 8,
        fallback: Float[Tensor, "*b 3 3"] | None = None,
    ) -> Sketch:
        """Body frame, radius and the nearest points of every `spacing`-th residue (open loop).

        Batches may be padded: what `mask` leaves out changes nothing but the number of anchors, which are -1 there.
        The true anchor positions are `apply(invert(frame), positions)[..., ::spacing, :]`.

        Parameters
        ----------
        positions : of the residues (CA), Å; anything where not observed
        mask : residues that were observed, at least one in each chain
        fallback : see `body_frame`

        Raises
        ------
        InputError
            If a chain is larger than the largest ball.
        """
        frame = body_frame(positions, mask, fallback)
        local = torch.where(mask[..., None], apply(invert(frame), positions.double()), torch.nan)
        radius = radius_code(local.norm(dim=-1).nan_to_num(0.0).amax(-1))
        if (radius >= len(RADII)).any():
            raise InputError(f"a chain reaches further than {float(RADII[-1]):.0f} Å from its centre; no anchor can")
        return Sketch(frame, radius, self.nearest(local[..., ::spacing, :], radius))


@lru_cache
def load_points(name: str = "anchors-4096") -> AnchorPoints:
    """The points of a shipped checkpoint.

    Raises
    ------
    CheckpointError
        If there is none of that name, or it holds something else.
    """
    folder = checkpoints_folder() / name
    config, tensors = read_checkpoint(folder)
    if config.pop("model_type", None) != "anchors":
        raise CheckpointError(f"{folder}: these are no anchors")
    size = make_config(AnchorPointsConfig, config, name).codebook_size
    check_tensors({"points": (size, 3)}, tensors, name)
    return AnchorPoints(tensors["points"])
