"""How well side chains come back: RMSD by names and up to alike names, chi angles, clashes."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from structok.geometry import dihedral, superpose
from structok.polymer.near import near_pairs
from structok.protein.sidechain_atoms import ALIKE, ATOMS, BONDS, CHIS, LETTERS

__all__ = ["Comparison", "chi_angles", "clashes", "compare_atoms", "with_alike_names"]

CLASH = 2.0  # Å; no two atoms more than two bonds apart come nearer
_KINDS = np.frombuffer(LETTERS.encode(), np.uint8)
_KIND_OF = np.zeros(256, dtype=np.int64)
_KIND_OF[_KINDS] = np.arange(len(_KINDS))

Atoms = Float[np.ndarray, "l 14 3"]


class Comparison(NamedTuple):
    """Squared distances after superposing all heavy atoms that both have, Å², NaN where either lacks the atom.

    `strict` goes by names, `alike` takes the better of the names that may be exchanged (`sidechain_atoms.ALIKE`).
    """

    strict: Float[np.ndarray, "l 14"]
    alike: Float[np.ndarray, "l 14"]

    @property
    def rmsd(self) -> float:
        return float(np.sqrt(np.nanmean(self.strict)))

    @property
    def rmsd_alike(self) -> float:
        return float(np.sqrt(np.nanmean(self.alike)))


def compare_atoms(rebuilt: Atoms, true: Atoms, sequence: str) -> Comparison:
    """Superpose the rebuilt heavy atoms on the true ones (Kabsch) and measure."""
    a, b = torch.from_numpy(rebuilt).double(), torch.from_numpy(true).double()
    both = (a.isfinite() & b.isfinite()).all(-1)
    moved = superpose(a.flatten(0, 1), b.flatten(0, 1), both.flatten()).view_as(a).numpy()
    strict = np.square(moved - true).sum(-1)
    strict[~both.numpy()] = np.nan
    turned = np.square(with_alike_names(moved, sequence) - true).sum(-1)
    turned[~both.numpy()] = np.nan
    better = np.nansum(turned, 1) < np.nansum(strict, 1)
    return Comparison(strict, np.where(better[:, None], turned, strict))


def with_alike_names(atoms: Atoms, sequence: str) -> Atoms:
    """The same atoms with all names exchanged that may be."""
    out = atoms.copy()
    for letter, swaps in ALIKE.items():
        rows = _rows(sequence, letter)
        for one, other in swaps:
            i, j = ATOMS[letter].index(one), ATOMS[letter].index(other)
            out[rows, i], out[rows, j] = atoms[rows, j], atoms[rows, i]
    return out


def chi_angles(atoms: Atoms, sequence: str) -> Float[np.ndarray, "l 4"]:
    """Side-chain dihedrals in radians, NaN where there is none."""
    out = np.full((len(sequence), 4), np.nan)
    x = torch.from_numpy(atoms).double()
    for letter, quadruples in CHIS.items():
        rows = _rows(sequence, letter)
        for i, names in enumerate(quadruples):
            four = [x[rows, ATOMS[letter].index(name)] for name in names]
            out[rows, i] = dihedral(*four).numpy()
    return out


def clashes(atoms: Atoms, sequence: str, limit: float = CLASH) -> set[tuple[int, int]]:
    """Pairs of atoms (numbered 14 to a residue) nearer than `limit` Å, and more than two bonds apart.

    Two SG atoms are never among them: they may be a disulfide.
    """
    flat = atoms.reshape(-1, 3)
    seen = np.flatnonzero(np.isfinite(flat).all(1))
    first, second = seen[near_pairs(flat[seen].astype(np.float64), limit)].T
    (i, x), (j, y) = divmod(first, 14), divmod(second, 14)
    letters = np.frombuffer(sequence.encode("latin-1"), np.uint8)
    kind = np.where(np.isin(letters, _KINDS), letters, ord("G"))
    linked = _linked()[_KIND_OF[kind[i]], _KIND_OF[kind[np.minimum(i + 1, len(kind) - 1)]], x, (second - 14 * i) % 28]
    linked &= j - i < 2
    sulfur = ATOMS["C"].index("SG")
    disulfide = (letters[i] == ord("C")) & (letters[j] == ord("C")) & (x == sulfur) & (y == sulfur)
    apart = ~linked & ~disulfide
    return set(zip(first[apart].tolist(), second[apart].tolist()))


@cache
def _linked() -> Bool[np.ndarray, "20 20 28 28"]:
    """By the types of a residue and the next: slots, those of the next from 14 on, that are one or two bonds apart."""
    table = np.zeros((len(LETTERS), len(LETTERS), 28, 28), dtype=bool)
    for kinds in np.ndindex(table.shape[:2]):
        one = np.zeros((28, 28), dtype=bool)
        bonds = [(2, 14)]  # C and the next N
        for start, letter in zip((0, 14), (LETTERS[k] for k in kinds)):
            names = ATOMS[letter]
            bonds += [(start + names.index(a), start + names.index(b)) for a, b in BONDS[letter]]
        one[tuple(np.transpose(bonds))] = True
        one |= one.T
        table[kinds] = one | (one @ one)
    return table


def _rows(sequence: str, letter: str) -> Int[np.ndarray, " m"]:
    return np.flatnonzero(np.frombuffer(sequence.encode("latin-1"), np.uint8) == ord(letter))
