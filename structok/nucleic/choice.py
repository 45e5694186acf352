"""Which of their nearest conformers the nucleotides of a chain take, so that bonds and hydrogen bonds hold."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from structok.nucleic.atoms import BACKBONE, names_of
from structok.nucleic.conformers import Bases, Options
from structok.polymer.near import near_pairs

__all__ = ["Contact", "best_path", "contacts_of", "settle"]

_LINK = 1.607  # Å, O3'-P (Gelbin et al. 1996)
_STRETCH = 1.0  # Å² of error that a link off by 1 Å is worth
_CONTACT = 4.0  # the same of a hydrogen bond
_HYDROGEN_BOND = 3.4  # Å, between N or O of two bases
_SWEEPS = 4


class Contact(NamedTuple):
    """Two atoms of two bases that are hydrogen-bonded: nucleotides, slots, distance in Å."""

    i: int
    j: int
    a: int
    b: int
    distance: float


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


def contacts_of(atoms: Float[np.ndarray, "l 23 3"], sequence: str) -> list[Contact]:
    """N and O of different bases within 3.4 Å, in an order that does not depend on the pose."""
    polar = np.array(
        [[n[:1] in ("N", "O") and k >= len(BACKBONE) for k, n in enumerate(names_of(x))] for x in sequence]
    )
    slot, place = np.nonzero(polar & np.isfinite(atoms).all(-1))
    points = atoms[slot, place].astype(np.float64)
    pairs = near_pairs(points, _HYDROGEN_BOND)
    far = np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1)
    found = zip(*(x[pairs[:, k]].tolist() for x in (slot, place) for k in (0, 1)), far.tolist())
    return sorted(Contact(*row) for row in found if row[0] != row[1])


def settle(
    path: Int[np.ndarray, " l"],
    options: Options,
    ends: Float[Tensor, "l c 2 3"],
    linked: Bool[Tensor, " l"],
    points: Float[Tensor, "l c 3 3"],
    contacts: list[Contact],
    sequence: str,
    bases: Bases,
) -> Int[np.ndarray, " l"]:
    """Change the choices of `best_path`, nucleotide by nucleotide, so that hydrogen bonds keep their length too.

    Parameters
    ----------
    points : where each option puts the base (`Bases.points`), Å, in the frame of `ends`
    contacts : the hydrogen bonds; those with a nucleotide that has no options are left out
    """
    path, error = path.copy(), options.error.double().numpy()
    tips, able = ends.double().numpy(), (options.code[:, 0] >= 0).numpy()
    known = points[:, 0].isfinite().all(-1).all(-1).numpy() & able
    partners: dict[int, list[tuple[Float[np.ndarray, "c 3"], int, Float[np.ndarray, "c 3"], float]]] = {}
    for i, j, a, b, distance in contacts:
        if known[i] and known[j]:
            one, other = (bases.atom(points[k].double().numpy(), sequence[k], at) for k, at in ((i, a), (j, b)))
            partners.setdefault(i, []).append((one, j, other, distance))
            partners.setdefault(j, []).append((other, i, one, distance))
    for _ in range(_SWEEPS):
        before = path.copy()
        for at in sorted(partners):
            cost = error[at].copy()
            for mine, other_at, theirs, distance in partners[at]:
                cost += _CONTACT * np.square(np.linalg.norm(mine - theirs[path[other_at]], axis=1) - distance)
            for next_to, end, their_end in ((at - 1, 0, 1), (at + 1, 1, 0)):
                if 0 <= next_to < len(path) and linked[max(at, next_to)]:
                    their_tip = tips[next_to, path[next_to], their_end]
                    length = np.linalg.norm(tips[at, :, end] - their_tip, axis=1)
                    cost += np.nan_to_num(_STRETCH * np.square(length - _LINK))
            path[at] = cost.argmin()
        if (path == before).all():
            break
    return path
