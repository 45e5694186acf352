"""How well nucleotides come back: RMSD of frames and of all heavy atoms, sugar pucker, bonds between nucleotides."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float

from structok.geometry import dihedral, superpose
from structok.nucleic.atoms import BACKBONE, IN_FRAME

__all__ = ["Comparison", "compare_atoms", "frame_rmsd", "is_north", "link_lengths", "pseudorotation"]

_RING = ("C4'", "O4'", "C1'", "C2'", "C3'")
Atoms = Float[np.ndarray, "l 23 3"]


class Comparison(NamedTuple):
    """Squared distances after superposing all heavy atoms that both have, Å², NaN where either lacks the atom."""

    square: Float[np.ndarray, "l 23"]

    @property
    def rmsd(self) -> float:
        """Of all heavy atoms, Å."""
        return float(np.sqrt(np.nanmean(self.square)))


def compare_atoms(rebuilt: Atoms, true: Atoms) -> Comparison:
    """Superpose the rebuilt heavy atoms on the true ones (Kabsch) and measure."""
    a, b = torch.from_numpy(rebuilt).double(), torch.from_numpy(true).double()
    both = (a.isfinite() & b.isfinite()).all(-1)
    moved = superpose(a.flatten(0, 1), b.flatten(0, 1), both.flatten()).view_as(a)
    square = (moved - b).square().sum(-1)
    return Comparison(torch.where(both, square, torch.nan).numpy())


def frame_rmsd(rebuilt: Atoms, true: Atoms) -> float:
    """RMSD of C4', C3' and C1' after superposing them, Å."""
    return compare_atoms(rebuilt[:, IN_FRAME], true[:, IN_FRAME]).rmsd


def pseudorotation(atoms: Atoms) -> Float[np.ndarray, " l"]:
    """Phase angle P of each sugar in radians, -π to π, NaN where an atom of the ring is missing.

    Altona & Sundaralingam 1972: tan P = ((ν₄ + ν₁) - (ν₃ + ν₀)) / (2 ν₂ (sin 36° + sin 72°)).
    """
    ring = [torch.from_numpy(atoms[:, BACKBONE.index(name)]).double() for name in _RING]
    nu = [dihedral(*(ring[(i + k) % 5] for k in range(4))) for i in range(5)]  # ν₀ begins at C4'
    x = 2 * nu[2] * (math.sin(math.radians(36)) + math.sin(math.radians(72)))
    return torch.atan2((nu[4] + nu[1]) - (nu[3] + nu[0]), x).numpy()


def is_north(phase: Float[np.ndarray, " l"]) -> Bool[np.ndarray, " l"]:
    """C3'-endo and its neighbours (P within 90° of 0); the others are C2'-endo and its neighbours."""
    return np.cos(phase) > 0


def link_lengths(atoms: Atoms) -> Float[np.ndarray, " l-1"]:
    """Distance from O3' to the next P, Å, NaN where missing."""
    return np.linalg.norm(atoms[1:, BACKBONE.index("P")] - atoms[:-1, BACKBONE.index("O3'")], axis=-1)
