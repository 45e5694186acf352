"""Other conformers where the nearest ones would run into each other, and carbonyl O out of the way."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from structok.geometry import apply, backbone_frames
from structok.protein.sidechain_metrics import CLASH, clashes

if TYPE_CHECKING:
    from structok.protein.sidechain import SideChains

__all__ = ["clear_oxygens", "untangle"]

_MARGIN = 0.02  # Å, files round coordinates
_OPTIONS, _SWEEPS = 64, 3
_AHEAD = (2, 3, 4, 5, 6)  # residues whose backbone an O may be pushed away from
_TURNS = tuple(math.radians(angle) for angle in (0, 10, -10, 20, -20, 30, -30, 45, -45, 60, -60, 90, -90))


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
    found = clashes(atoms, sequence, CLASH + _MARGIN)
    if not found:
        return codes
    codes, atoms = codes.copy(), atoms.copy()
    allowed = clashes(given, sequence, CLASH + _MARGIN)
    frames = backbone_frames(torch.from_numpy(rebuilt).double())
    for _ in range(_SWEEPS):
        rows = sorted({i // 14 for pair in found - allowed for i in pair if i % 14 > 3})
        before = codes.copy()
        for row in rows:
            book = model.conformers[sequence[row]]
            there = local[row, 4 : 4 + book.shape[1]].isfinite().all(-1)
            options = model.options(sequence[row], local[row : row + 1], there, _OPTIONS)[0]
            placed = apply(frames[row], book[options].double())
            near = _elsewhere(atoms, row, placed, sequence)
            distance = torch.cdist(placed.flatten(0, 1), near).view(len(options), -1)
            count = (distance < CLASH + _MARGIN).sum(1)
            best = int(count.numpy().argmin())  # the first of the best: options are sorted by distance
            codes[row] = int(options[best])
            atoms[row, 4 : 4 + book.shape[1]] = placed[best].numpy()
        if (codes == before).all():
            break
        found = clashes(atoms, sequence, CLASH + _MARGIN)
    return codes


def _elsewhere(
    atoms: Float[np.ndarray, "l 14 3"], row: int, placed: Float[Tensor, "o n 3"], sequence: str
) -> Float[Tensor, "m 3"]:
    """Atoms of other residues that any of the options could touch; those of a disulfide may."""
    others = atoms.copy()
    others[row] = np.nan
    if sequence[row] == "C":
        others[[i for i, letter in enumerate(sequence) if letter == "C"], 5] = np.nan
    flat = others.reshape(-1, 3)
    middle = placed.mean((0, 1)).numpy()
    reach = float((placed - placed.mean((0, 1))).norm(dim=-1).max()) + CLASH + _MARGIN
    return torch.from_numpy(flat[np.square(flat - middle).sum(1) < reach**2]).double()


def clear_oxygens(backbone: Float[Tensor, "l 4 3"]) -> Float[Tensor, "l 4 3"]:
    """N, CA, C, O in which no O runs into the backbone of the second to sixth residue after it.

    Such an O is turned about CA-C, which leaves its bond and angle as they are, by the least of a few angles that
    clears it, or left alone when none does.
    """
    atoms, length = backbone.clone(), len(backbone)
    reach = torch.nn.functional.pad(atoms, (0, 0, 0, 0, 0, _AHEAD[-1]), value=torch.nan)
    ahead = torch.cat([reach[k : k + length] for k in _AHEAD], 1)
    rows = (_closest(atoms[:, 3], ahead) < CLASH + _MARGIN).nonzero()[:, 0]
    if not len(rows):
        return atoms
    ca, c, o = atoms[rows, 1], atoms[rows, 2], atoms[rows, 3]
    axis = torch.nn.functional.normalize(c - ca, dim=-1)
    x = o - c - ((o - c) * axis).sum(-1, keepdim=True) * axis
    y = torch.linalg.cross(axis, x)
    turned = torch.stack([o - x + x * math.cos(angle) + y * math.sin(angle) for angle in _TURNS])
    clear = torch.stack([_closest(option, ahead[rows]) >= CLASH + _MARGIN for option in turned])
    first = clear.int().argmax(0)  # 0 where none is clear: the O as it was
    atoms[rows, 3] = turned[first, torch.arange(len(rows))]
    return atoms


def _closest(points: Float[Tensor, "l 3"], others: Float[Tensor, "l n 3"]) -> Float[Tensor, " l"]:
    return (points[:, None] - others).norm(dim=-1).nan_to_num(torch.inf).amin(1)
