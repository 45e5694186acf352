"""Anchors of training chains, chosen as the tokenizer chooses them, in a random frame each time."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from structok.polymer.anchors import RADII, load_points, radius_code
from structok.polymer.shaping import near_and_shaped

__all__ = ["Sketcher"]


class Sketcher:
    """Sees a chain's CA through the points of a shipped checkpoint.

    Parameters
    ----------
    points : its name
    spacing : residues from anchor to anchor
    """

    def __init__(self, points: str = "anchors-4096", spacing: int = 8) -> None:
        self.name, self.spacing = points, spacing

    @property
    def points(self) -> Float[Tensor, "k 3"]:
        """In the unit ball."""
        return _points(self.name)

    def __call__(
        self, coords: Float[Tensor, "l 3 3"], rng: np.random.Generator
    ) -> tuple[Float[Tensor, "l 3 3"], Float[Tensor, "a 3"], float]:
        """The chain about its centroid, anchors there (NaN where unobserved), and the radius of their ball; Å."""
        ca = coords[:, 1]
        seen = coords.isfinite().all((-1, -2))
        centre = ca[seen].mean(0)
        coords = coords - centre
        turn, triangle = np.linalg.qr(rng.normal(size=(3, 3)))
        turn *= np.sign(np.diag(triangle))  # uniform over rotations and mirror images
        turn[:, 0] *= np.linalg.det(turn)
        way = torch.from_numpy(turn)
        local = coords[:: self.spacing, 1].double() @ way.T
        radius = float(RADII[min(int(radius_code(coords[seen, 1].double().norm(dim=-1).max())), len(RADII) - 1)])
        known = seen[:: self.spacing]
        chosen = near_and_shaped(local[known], self.points, radius)
        anchors = torch.full_like(local, torch.nan)
        anchors[known] = self.points[chosen].double() * radius @ way
        return coords, anchors.float(), radius


@lru_cache
def _points(name: str) -> Float[Tensor, "k 3"]:
    return load_points(name).points
