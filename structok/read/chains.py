"""Residues of one kind to chains: what is bonded belongs together, TER and repeated numbers keep chains apart."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from structok.geometry import BOND_LIMIT, CA_STEP
from structok.read.table import LAST, Residue, Table

__all__ = ["Chain", "Ends", "find_chains"]

_LINK = 2.0  # Å; a bond between residues that are not neighbours in the file must be a good one
_TORN = 4.0  # Å; N, CA and C of an amino acid are at most 1.6 Å apart
_FAR = 60.0  # Å; beyond this, what numbers do not explain is no gap but another chain


class Ends:
    """Where residues are bonded to each other (head and tail), and where their trace runs.

    Parameters
    ----------
    table : the atoms
    residues : those that are asked for
    names : atoms of head, tail and trace, such as N, C and CA
    """

    def __init__(self, table: Table, residues: Sequence[Residue], names: tuple[str, str, str]) -> None:
        self._x, self._y, self._z = table.xyz.T.tolist()
        atoms, (head, tail, trace) = table.name, names
        self._rows: dict[int, tuple[int, int, int]] = {}
        self.last: set[int] = set()  # residues that end a chain by their atoms
        for residue in residues:
            h = t = r = -1
            for i in residue.rows:
                name = atoms[i]
                if name == head:
                    h = i
                elif name == tail:
                    t = i
                elif name == trace:
                    r = i
                elif name in LAST:
                    self.last.add(id(residue))
            self._rows[id(residue)] = h, t, r

    def bond(self, a: Residue, b: Residue) -> float:
        """Distance from the tail of a to the head of b, Å; NaN where one is missing."""
        return self._distance(self._rows[id(a)][1], self._rows[id(b)][0])

    def apart(self, a: Residue, b: Residue) -> float:
        """Distance of two residues on the trace, Å; NaN where one is missing."""
        return self._distance(self._rows[id(a)][2], self._rows[id(b)][2])

    def is_torn(self, residue: Residue) -> bool:
        """Whether head or tail lie where no bond to the trace is possible."""
        head, tail, trace = self._rows[id(residue)]
        return self._distance(head, trace) > _TORN or self._distance(tail, trace) > _TORN

    def forget(self, residue: Residue) -> None:
        """Take a residue's atoms for missing."""
        self._rows[id(residue)] = -1, -1, -1

    def points(self, residues: Sequence[Residue], which: int) -> Float[np.ndarray, "n 3"]:
        """Heads (0) or tails (1) of residues, NaN where missing."""
        rows = [self._rows[id(r)][which] for r in residues]
        xyz = np.array([[self._x[i], self._y[i], self._z[i]] for i in rows])
        xyz[np.array(rows) < 0] = np.nan
        return xyz

    def _distance(self, i: int, j: int) -> float:
        if i < 0 or j < 0:
            return math.nan
        x, y, z = self._x[i] - self._x[j], self._y[i] - self._y[j], self._z[i] - self._z[j]
        return math.sqrt(x * x + y * y + z * z)


@dataclass
class Chain:
    """Residues in chain order, and where they are bonded; `step` is the distance of neighbours on the trace, Å."""

    residues: list[Residue]
    ends: Ends = field(repr=False)
    step: float = CA_STEP
    exact: bool = False  # placed by the full sequence of an mmCIF
    unseen: dict[tuple[int, str], str] = field(default_factory=dict)  # what a PDB file says is missing
    gaps_said: bool = False  # the file says what is missing, and nothing else is

    def bonded(self) -> list[bool]:
        """Whether each residue is bonded to the one before; the first counts as bonded."""
        return [True, *(self.ends.bond(a, b) < BOND_LIMIT for a, b in pairwise(self.residues))]

    def may_miss(self, before: Residue, after: Residue, bonded: bool) -> bool:
        """Whether residues may be missing between two neighbours."""
        if self.gaps_said:
            return bool(self.unseen) or (self.exact and after.place - before.place > 1)
        return not bonded


def find_chains(
    residues: list[Residue], ends: Ends, closed: frozenset[int], step: float = CA_STEP
) -> tuple[list[Chain], list[Residue], list[Residue]]:
    """Chains among the residues of one chain id, loose residues (free amino acids), and strays.

    Strays are single residues far from where their number puts them; they get a place in the chain, but their
    coordinates are not to be believed. `closed` are segments that a TER ends, `step` is the distance of traces in Å.
    """
    fragments = _fragments(residues, ends)
    if len(fragments) > 1 and not all(_part(a) == _part(b) and a.key < b.key for a, b in pairwise(residues)):
        fragments = _linked(fragments, ends)
    chains: list[_Growing] = []
    loose: list[Residue] = []
    standing = [f for f in fragments if not all(r.hetero for r in f)]
    by_segment = Counter(r.segment for f in standing for r in f)
    for place, fragment in enumerate(fragments):
        het = all(r.hetero for r in fragment)
        apart = (c for c in chains if het or _part(fragment[0]) != _part(c.residues[-1]))
        if host := next((c for c in apart if c.has_room(fragment) and c.is_near(fragment, ends, step)), None):
            host.insert(fragment)
        elif (
            het
            and standing
            and len(fragment) == 1
            # a modified residue stands in its chain before a TER, or is followed by more of it
            and not (by_segment[fragment[0].segment] and fragment[0].segment in closed)
            and (id(fragment[0]) in ends.last or not _followed(fragment[0], fragments[place + 1 :]))
        ):
            loose += fragment
        elif before := next((c for c in reversed(chains) if c.goes_on(fragment, ends, step)), None):
            before.extend(fragment)
        else:
            chains.append(_Growing(fragment))
    strays = []
    for single in [c for c in chains if len(c.residues) == 1] if len(chains) > 1 else []:
        if host := next((c for c in chains if c is not single and c.has_room(single.residues)), None):
            host.insert(single.residues)
            chains.remove(single)
            strays += single.residues
            ends.forget(single.residues[0])
    return [Chain(c.residues, ends, step) for c in chains], loose, strays


class _Growing:
    """A chain that fragments are added to."""

    def __init__(self, fragment: list[Residue]) -> None:
        self.residues = list(fragment)
        self.keys = {r.key for r in fragment}

    def extend(self, fragment: list[Residue]) -> None:
        self.residues += fragment
        self.keys |= {r.key for r in fragment}

    def insert(self, fragment: list[Residue]) -> None:
        """Put a fragment to the place of its numbers."""
        self.extend(fragment)
        self.residues.sort(key=lambda r: r.key)

    def has_room(self, fragment: list[Residue]) -> bool:
        """Whether the numbers of a fragment fit into a gap of this chain's, which rise."""
        keys = [r.key for r in self.residues]
        if not all(keys[0] < r.key < keys[-1] and r.key not in self.keys for r in fragment):
            return False
        return keys == sorted(keys)

    def is_near(self, fragment: list[Residue], ends: Ends, step: float) -> bool:
        """Whether a fragment lies where its numbers put it, as far as is known."""
        before = max((r for r in self.residues if r.key < fragment[0].key), key=lambda r: r.key)
        after = min((r for r in self.residues if r.key > fragment[-1].key), key=lambda r: r.key)
        gaps = (before, fragment[0]), (fragment[-1], after)
        return not any(ends.apart(a, b) > 1.2 * step * max(b.number - a.number, 1) for a, b in gaps)

    def goes_on(self, fragment: list[Residue], ends: Ends, step: float) -> bool:
        """Whether a fragment that is not bonded to this chain belongs to it, behind a gap."""
        last = self.residues[-1]
        if _part(fragment[0]) != _part(last) or any(r.key in self.keys for r in fragment):
            return False
        gap = fragment[0].number - last.number
        if gap == 1 and id(last) in ends.last:
            return False
        apart = ends.apart(fragment[0], last)
        return not apart > _FAR or (gap > 1 and apart < step * (gap + 1))


def _part(residue: Residue) -> tuple[int, int]:
    """What TER lines and residues of other chains keep apart."""
    return residue.segment, residue.stretch


def _fragments(residues: list[Residue], ends: Ends) -> list[list[Residue]]:
    """Runs of bonded residues."""
    fragments = [[residues[0]]]
    for a, b in pairwise(residues):
        if ends.bond(a, b) < BOND_LIMIT:
            fragments[-1].append(b)
        else:
            fragments.append([b])
    return fragments


def _linked(fragments: list[list[Residue]], ends: Ends) -> list[list[Residue]]:
    """Fragments that are bonded to each other put in a row, wherever they stand in the file."""
    tails = ends.points([f[-1] for f in fragments], 1)
    heads = ends.points([f[0] for f in fragments], 0)
    after: dict[int, int] = {}
    taken: set[int] = set()
    for start in range(0, len(fragments), 512):
        d = np.linalg.norm(tails[start : start + 512, None] - heads[None], axis=-1)
        d[np.isnan(d)] = np.inf
        for i, row in enumerate(d, start):
            row[i] = np.inf
            j = int(row.argmin())
            if row[j] < _LINK and j not in taken and fragments[i][-1].key < fragments[j][0].key:
                after[i] = j
                taken.add(j)
    if not after:
        return fragments
    joined, used = [], set[int]()
    for first in [i for i in range(len(fragments)) if i not in taken]:
        chain: list[Residue] = []
        at: int | None = first
        while at is not None and at not in used:
            used.add(at)
            chain += fragments[at]
            at = after.get(at)
        joined.append(chain)
    joined += [fragments[i] for i in range(len(fragments)) if i not in used]  # rings stay as they are
    order = {id(r): k for k, r in enumerate(r for f in fragments for r in f)}
    return sorted(joined, key=lambda row: min(order[id(r)] for r in row))


def _followed(residue: Residue, later: list[list[Residue]]) -> bool:
    """Whether the chain goes on behind a residue, with higher numbers, before a TER."""
    return any(f[0].segment == residue.segment and f[0].key > residue.key and not f[0].hetero for f in later)
