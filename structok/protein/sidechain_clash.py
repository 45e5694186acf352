"""Other conformers where the nearest ones would run into each other, and carbonyl O out of the way."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from structok.geometry import apply, backbone_frames
from structok.polymer.near import near_points
from structok.protein.sidechain_metrics import CLASH, clashes

if TYPE_CHECKING:
    from structok.protein.sidechain import SideChains

__all__ = ["clear_oxygens", "untangle"]

_NEAR = CLASH + 0.02  # Å, files round coordinates
_OPTIONS, _SWEEPS = 256, 3
_C, _O = 2, 3  # in atom14 order
_ARM = 1.3  # Å, at least the length of the bond of C and O
# about CA-C; beyond 45° an O comes too near to the next N, if there is one
_TURNS = np.radians([0, 10, -10, 20, -20, 30, -30, 45, -45, 60, -60, 90, -90, 120, -120, 150, -150, 180])


def untangle(
    model: SideChains,
    codes: Int[np.ndarray, " l"],
    atoms: Float[np.ndarray, "l 14 3"],
    local: Float[Tensor, "l 14 3"],
    sequence: str,
    rebuilt: Float[np.ndarray, "l 3 3"],
    given: Float[np.ndarray, "l 14 3"],
) -> Int[np.ndarray, " l"]:
    """Codes of a chain with fewer clashes that the `given` atoms do not have; `atoms` is what the codes decode to.

    A residue whose side chain clashes takes the nearest of its next conformers that clashes least, residue by
    residue, in a few sweeps.
    """
    codes, frames = codes.copy(), backbone_frames(torch.from_numpy(rebuilt).double())
    allowed = clashes(given, sequence) if (found := clashes(atoms, sequence, _NEAR)) else set()
    for _ in range(_SWEEPS):
        before, atoms = codes.copy(), atoms.copy()
        for row in sorted({i // 14 for pair in found - allowed for i in pair if i % 14 > _O}):
            book = model.conformers[sequence[row]]
            there = local[row, 4 : 4 + book.shape[1]].isfinite().all(-1)
            options = model.options(sequence[row], local[row : row + 1], there, _OPTIONS)[0]
            placed = apply(frames[row], book[options].double())
            near = _elsewhere(atoms, row, placed, sequence)
            count = (torch.cdist(placed.flatten(0, 1), near) < _NEAR).view(len(options), -1).sum(1)
            best = int(count.numpy().argmin())  # the first of the best: options are sorted by distance
            codes[row] = int(options[best])
            atoms[row, 4 : 4 + book.shape[1]] = placed[best].numpy()
        if (codes == before).all():
            break
        atoms = model.decode(codes, sequence, rebuilt)  # O may have moved
        found = clashes(atoms, sequence, _NEAR)
    return codes


def _elsewhere(
    atoms: Float[np.ndarray, "l 14 3"], row: int, placed: Float[Tensor, "o n 3"], sequence: str
) -> Float[Tensor, "m 3"]:
    """Atoms of other residues, and the own O, that any of the options could touch; those of a disulfide may."""
    others = atoms.copy()
    others[row, np.arange(14) != _O] = np.nan
    if sequence[row] == "C":
        others[[i for i, letter in enumerate(sequence) if letter == "C"], 5] = np.nan
    flat = others.reshape(-1, 3)
    middle = placed.mean((0, 1)).numpy()
    reach = float((placed - placed.mean((0, 1))).norm(dim=-1).max()) + _NEAR
    return torch.from_numpy(flat[np.square(flat - middle).sum(1) < reach**2]).double()


def clear_oxygens(atoms: Float[np.ndarray, "l 14 3"]) -> None:
    """Move every O of a chain that runs into another atom out of its way, where there is one.

    Such an O is turned about CA-C, which leaves its bond and angle as they are, by the least of a few angles that
    clears it; where none does, by the one that leaves most room.
    """
    flat = atoms.reshape(-1, 3).astype(np.float64)
    seen = np.flatnonzero(np.isfinite(flat).all(1))
    rows = np.flatnonzero(np.isfinite(atoms[:, _O]).all(1))
    query, other = near_points(flat[14 * rows + _O], flat[seen], _NEAR).T
    other = seen[other]
    strange = (other != 14 * rows[query] + _O) & (other != 14 * rows[query] + _C)
    for row in np.unique(rows[query[strange]]).tolist():
        ca, c, o = flat[14 * row + 1 : 14 * row + 4].copy()
        axis = (c - ca) / np.linalg.norm(c - ca)
        x = o - c - ((o - c) @ axis) * axis
        y = np.cross(axis, x)
        turned = o - x + np.cos(_TURNS)[:, None] * x + np.sin(_TURNS)[:, None] * y
        flat[14 * row + 2 : 14 * row + 4] = np.nan
        near = flat[np.square(flat - c).sum(1) < (_ARM + _NEAR) ** 2]
        room = np.linalg.norm(turned[:, None] - near, axis=-1).min(1, initial=math.inf)
        best = int(np.argmax(room >= _NEAR)) if (room >= _NEAR).any() else int(room.argmax())
        flat[14 * row + 2], flat[14 * row + 3] = c, turned[best]
        atoms[row, _O] = turned[best]
