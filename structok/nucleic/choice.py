"""Which of their nearest conformers the nucleotides of a chain take, so that bonds and base pairs hold."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from structok.nucleic.atoms import BACKBONE, BASES, names_of
from structok.nucleic.conformers import SUGAR_OXYGENS, Bases, Options
from structok.polymer.near import near_pairs

__all__ = ["Contact", "best_path", "contacts_of", "settle"]

_LINK = 1.607  # Å, O3'-P (Gelbin et al. 1996)
_STRETCH = 16.0  # Å² of error that a link off by 1 Å is worth
_CONTACT = 4.0  # the same of a hydrogen bond
_HYDROGEN_BOND = 3.4  # Å, between N or O of two bases
# what tells base pairs from others (biotite's `base_pairs`): Å between N or O, Å between planes, cosine between normals
_PAIR, _HEIGHT, _ANGLE = 3.6, 2.5, math.cos(math.radians(115))
_CROSSING, _BEYOND, _MARGIN = 12.0, 40.0, 0.05  # Å² for crossing them, Å² for each Å² beyond, Å to stay away from them
_WIDE = 4.6  # Å; contacts that are longer do not come to be shorter than `_PAIR`
_POLAR = tuple(BACKBONE.index(name) for name in SUGAR_OXYGENS)
_SWEEPS = 8


class Contact(NamedTuple):
    """Two polar atoms near each other: nucleotides, slots, distance in Å, whether they are hydrogen-bonded bases."""

    i: int
    j: int
    a: int
    b: int
    distance: float
    bond: bool


def best_path(options: Options, ends: Float[Tensor, "l c 2 3"], linked: Bool[Tensor, " l"]) -> Int[np.ndarray, " l"]:
    """The option of each nucleotide for which errors and strained links together are least (Viterbi).

    Parameters
    ----------
    ends : where each option puts P and O3', Å, in one frame for the whole chain
    linked : nucleotides whose P is bonded to the O3' of the one before
    """
    error, ends = options.error.double().numpy(), ends.double()
    length = (ends[1:, None, :, 0] - ends[:-1, :, None, 1]).norm(dim=-1)  # l - 1, before, after
    strain = (_STRETCH * (length - _LINK).square()).nan_to_num(0.0).numpy()
    strain[~linked[1:].numpy()] = 0.0
    cost, back = error[0], np.zeros(error.shape, dtype=np.int64)
    for i in range(1, len(error)):
        total = cost[:, None] + strain[i - 1]
        back[i] = total.argmin(0)
        cost = np.minimum(total.min(0) + error[i], 1e30)
    path = np.empty(len(error), dtype=np.int64)
    path[-1] = cost.argmin()
    for i in range(len(error) - 1, 0, -1):
        path[i - 1] = back[i, path[i]]
    return path


def contacts_of(atoms: Float[np.ndarray, "l 23 3"], points: Float[np.ndarray, "l 3 3"], sequence: str) -> list[Contact]:
    """N and O of bases and sugars near each other, in an order that does not depend on the pose.

    Only those that are hydrogen bonds of bases, or of bases whose normals point against each other, as those of a
    pair do. `points` say where the bases are (`Bases.points`).
    """
    polar = np.array(
        [
            [n[:1] in ("N", "O") and (k >= len(BACKBONE) or k in _POLAR) for k, n in enumerate(names_of(letter))]
            for letter in sequence
        ]
    )
    slot, place = np.nonzero(polar & np.isfinite(atoms).all(-1))
    where = atoms[slot, place].astype(np.float64)
    pairs = near_pairs(where, _WIDE)
    far = np.linalg.norm(where[pairs[:, 0]] - where[pairs[:, 1]], axis=1)
    (i, j), (a, b) = (x[pairs.T] for x in (slot, place))
    bond = (far < _HYDROGEN_BOND) & (np.minimum(a, b) >= len(BACKBONE))
    normal = _normals(points.astype(np.float64))
    kept = (i != j) & (bond | ((normal[i] * normal[j]).sum(1) < 0))
    return sorted(Contact(*row) for row in zip(*(x[kept].tolist() for x in (i, j, a, b, far, bond))))


def _normals(points: Float[np.ndarray, "*l 3 3"]) -> Float[np.ndarray, "*l 3"]:
    """Normals of bases, which are pairs' against each other."""
    normal = np.cross(points[..., 1, :] - points[..., 0, :], points[..., 2, :] - points[..., 0, :])
    return normal / np.linalg.norm(normal, axis=-1, keepdims=True)


@dataclass(frozen=True)
class _Planes:
    """Middles of the six-membered rings of bases, and normals of the bases."""

    middle: Float[np.ndarray, "*l 3"]
    normal: Float[np.ndarray, "*l 3"]

    @classmethod
    def of(cls, points: Float[np.ndarray, "l *c 3 3"], sequence: str, bases: Bases) -> _Planes:
        middle = np.full((*points.shape[:-2], 3), np.nan)
        for at, letter in enumerate(sequence.upper()):
            if letter in BASES:
                across = ("N1", "C4") if letter in "AG" else ("N3", "C6")
                slots = [len(BACKBONE) + BASES[letter].index(name) for name in across]
                middle[at] = sum(bases.atom(points[at], letter, slot) for slot in slots) / 2
        return cls(middle, _normals(points))

    def height(self, other: _Planes) -> Float[np.ndarray, "*l"]:
        """Å between the planes, along the mean of their normals (Lu et al. 1997)."""
        mean = self.normal + np.sign(self.cosine(other))[..., None] * other.normal
        mean /= np.linalg.norm(mean, axis=-1, keepdims=True)
        return np.abs(((other.middle - self.middle) * mean).sum(-1))

    def cosine(self, other: _Planes) -> Float[np.ndarray, "*l"]:
        """Of the angle between the normals."""
        return (self.normal * other.normal).sum(-1)

    def __getitem__(self, at: Any) -> _Planes:
        return _Planes(self.middle[at], self.normal[at])


def settle(
    path: Int[np.ndarray, " l"],
    options: Options,
    ends: Float[Tensor, "l c 2 3"],
    linked: Bool[Tensor, " l"],
    points: Float[Tensor, "l c 6 3"],
    true: Float[Tensor, "l 3 3"],
    contacts: list[Contact],
    sequence: str,
    bases: Bases,
) -> Int[np.ndarray, " l"]:
    """Change the choices of `best_path`, nucleotide by nucleotide, so that base pairs hold too.

    Hydrogen bonds should keep their length; other contacts, and the planes of bases that have any, should stay on
    their side of what makes a pair.

    Parameters
    ----------
    points : where each option puts `SUGAR_OXYGENS` and the base (`Bases.points`), Å, in the frame of `ends`
    true : where the bases are, in any pose
    contacts : those with a nucleotide that has no options are left out
    """
    path, error = path.copy(), options.error.double().numpy()
    tips, able = ends.double().numpy(), (options.code[:, 0] >= 0).numpy()
    where = points.double().numpy()

    def atom(at: int, slot: int) -> Float[np.ndarray, "c 3"]:
        if slot < len(BACKBONE):
            return where[at, :, _POLAR.index(slot)]
        return bases.atom(where[at, :, len(_POLAR) :], sequence[at], slot)

    partners: dict[int, list[tuple[Float[np.ndarray, "c 3"], int, Float[np.ndarray, "c 3"], float, bool]]] = {}
    for i, j, a, b, distance, bond in contacts:
        if able[i] and able[j]:
            one, other = atom(i, a), atom(j, b)
            if np.isfinite(one[0]).all() and np.isfinite(other[0]).all():
                partners.setdefault(i, []).append((one, j, other, distance, bond))
                partners.setdefault(j, []).append((other, i, one, distance, bond))
    around = {at: _Around(*map(np.array, zip(*some))) for at, some in partners.items()}
    planes = _Planes.of(where[:, :, len(_POLAR) :], sequence, bases)
    true_planes = _Planes.of(true.double().numpy(), sequence, bases)
    opposite = {at: np.unique(some.others) for at, some in around.items()}
    heights = {at: true_planes[at].height(true_planes[others]) for at, others in opposite.items()}
    angles = {at: true_planes[at].cosine(true_planes[others]) for at, others in opposite.items()}
    waiting = set(around)
    for _ in range(_SWEEPS):
        for at in sorted(waiting):
            waiting.discard(at)
            found = around[at]
            there = found.theirs[np.arange(len(found.others)), path[found.others]]
            length = np.linalg.norm(found.mine - there[:, None], axis=-1)
            cost = error[at] + _crossed(length, found.distance, _PAIR).sum(0)
            cost += _CONTACT * np.square(length - found.distance[:, None])[found.bond].sum(0)
            facing = planes[opposite[at], path[opposite[at]]][:, None]
            cost += _crossed(planes[at].height(facing), heights[at], _HEIGHT).sum(0)
            cost += _crossed(planes[at].cosine(facing), angles[at], _ANGLE).sum(0)
            for next_to, end, their_end in ((at - 1, 0, 1), (at + 1, 1, 0)):
                if 0 <= next_to < len(path) and linked[max(at, next_to)]:
                    their_tip = tips[next_to, path[next_to], their_end]
                    length = np.linalg.norm(tips[at, :, end] - their_tip, axis=1)
                    cost += np.nan_to_num(_STRETCH * np.square(length - _LINK))
            best = int(cost.argmin())
            if best != path[at]:
                path[at] = best
                waiting |= around.keys() & {at - 1, at + 1, *found.others.tolist()}
        if not waiting:
            break
    return path


class _Around(NamedTuple):
    """The contacts of one nucleotide: where each option puts its atoms and those of the others, distances, bonds."""

    mine: Float[np.ndarray, "m c 3"]
    others: Int[np.ndarray, " m"]
    theirs: Float[np.ndarray, "m c 3"]
    distance: Float[np.ndarray, " m"]
    bond: Bool[np.ndarray, " m"]


def _crossed(values: Float[np.ndarray, "m c"], true: Float[np.ndarray, " m"], limit: float) -> Float[np.ndarray, "m c"]:
    """What values cost that are not on the same side of a limit as the true ones, Å²; nothing where unknown."""
    beyond = np.where(true < limit, 1.0, -1.0)[:, None] * (values - limit)
    cost = _CROSSING * (beyond > 0) + _BEYOND * np.square(np.maximum(beyond + _MARGIN, 0))
    return np.nan_to_num(np.where(np.isnan(true)[:, None], 0.0, cost))
