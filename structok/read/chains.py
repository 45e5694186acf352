"""Residues of one kind to chains: what is bonded belongs together, TER and repeated numbers keep chains apart."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from structok.geometry import BOND_LIMIT, CA_STEP
from structok.names import letter
from structok.read.table import MISSING, Residue, Table
from structok.structure import Note, many

__all__ = ["Chain", "ends_of", "find_chains", "with_gaps"]

_LINK = 2.0  # Å; a bond between residues that are not neighbours in the file must be a good one
_FAR = 150.0  # Å; beyond this, what numbers do not explain is no gap but another chain
_SHORT_GAP = 5  # numbering gaps up to this are taken at their word


Point = list[float]
_NOWHERE = [math.nan] * 3


@dataclass
class Chain:
    """Residues in chain order, and where they are bonded; `step` is the distance of neighbours on the trace, Å."""

    residues: list[Residue]
    ends: dict[int, Ends] = field(repr=False)
    step: float = CA_STEP
    exact: bool = False  # placed by the full sequence of an mmCIF
    unseen: dict[tuple[int, str], str] = field(default_factory=dict)  # what a PDB file says is missing

    def bonded(self) -> list[bool]:
        """Whether each residue is bonded to the one before; the first counts as bonded."""
        return [True, *(_bond(self.ends, a, b) < BOND_LIMIT for a, b in pairwise(self.residues))]


@dataclass(slots=True)
class Ends:
    """Where a residue is bonded to others, and where its trace runs."""

    head: Point
    tail: Point
    trace: Point


def ends_of(table: Table, residues: Sequence[Residue], head: str, tail: str, trace: str) -> dict[int, Ends]:
    """Ends of each residue, by its identity; NaN where an atom is missing."""
    points, names = table.xyz.tolist(), table.name
    found = {}
    for residue in residues:
        at = {names[i]: points[i] for i in residue.rows}
        found[id(residue)] = Ends(at.get(head, _NOWHERE), at.get(tail, _NOWHERE), at.get(trace, _NOWHERE))
    return found


def _bond(ends: dict[int, Ends], a: Residue, b: Residue) -> float:
    """Distance from the tail of a to the head of b; NaN where one is missing."""
    return math.dist(ends[id(b)].head, ends[id(a)].tail)


def find_chains(
    residues: list[Residue], ends: dict[int, Ends], closed: frozenset[int], step: float = CA_STEP
) -> tuple[list[Chain], list[Residue], list[Residue]]:
    """Chains among the residues of one chain id, loose residues (free amino acids), and strays.

    Strays are single residues far from where their number puts them; they get a place in the chain, but their
    coordinates are not to be believed. `closed` are segments that a TER ends, `step` is the distance of traces in Å.
    """
    fragments = _fragments(residues, ends)
    if len(fragments) > 1:
        fragments = _linked(fragments, ends)
    chains: list[list[Residue]] = []
    loose: list[Residue] = []
    standing = [f for f in fragments if not all(r.hetero for r in f)]
    by_segment = Counter(r.segment for f in standing for r in f)
    for place, fragment in enumerate(fragments):
        het = all(r.hetero for r in fragment)
        host = _host(chains, fragment, het)
        if host is None and het and standing and len(fragment) == 1:
            # a modified residue stands in its chain before a TER, or is followed by more of it
            inside = by_segment[fragment[0].segment] and fragment[0].segment in closed
            inside = inside or _followed(fragment[0], fragments[place + 1 :])
            if not inside:
                loose += fragment
                continue
        if host is not None:
            _insert(host, fragment)
        elif before := next((c for c in reversed(chains) if _goes_on(c, fragment, ends, step)), None):
            before += fragment
        else:
            chains.append(list(fragment))
    strays = []
    for single in [c for c in chains if len(c) == 1]:
        others = [c for c in chains if c is not single]
        if host := _host(others, single, True):
            _insert(host, single)
            chains.remove(single)
            strays += single
            ends[id(single[0])] = Ends(_NOWHERE, _NOWHERE, _NOWHERE)
    return [Chain(c, ends, step) for c in chains], loose, strays


def _fragments(residues: list[Residue], ends: dict[int, Ends]) -> list[list[Residue]]:
    """Runs of bonded residues."""
    fragments = [[residues[0]]]
    for a, b in pairwise(residues):
        if _bond(ends, a, b) < BOND_LIMIT:
            fragments[-1].append(b)
        else:
            fragments.append([b])
    return fragments


def _linked(fragments: list[list[Residue]], ends: dict[int, Ends]) -> list[list[Residue]]:
    """Fragments that are bonded to each other put in a row, wherever they stand in the file."""
    tails = np.array([ends[id(f[-1])].tail for f in fragments])
    heads = np.array([ends[id(f[0])].head for f in fragments])
    after: dict[int, int] = {}
    taken: set[int] = set()
    for start in range(0, len(fragments), 512):
        d = np.linalg.norm(tails[start : start + 512, None] - heads[None], axis=-1)
        d[np.isnan(d)] = np.inf
        for i, row in enumerate(d, start):
            row[i] = np.inf
            j = int(row.argmin())
            if row[j] < _LINK and j not in taken:
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


def _host(chains: list[list[Residue]], fragment: list[Residue], het: bool) -> list[Residue] | None:
    """The chain into whose numbering gaps a fragment fits, if it stands apart from it in the file."""
    for chain in chains:
        keys = [r.key for r in chain]
        low, high = min(keys), max(keys)
        apart = _part(fragment[0]) != _part(chain[-1]) or het
        inside = all(low < r.key < high for r in fragment)
        if apart and inside and not {r.key for r in chain} & {r.key for r in fragment} and keys == sorted(keys):
            return chain
    return None


def _part(residue: Residue) -> tuple[int, int]:
    """What TER lines and residues of other chains keep apart."""
    return residue.segment, residue.stretch


def _insert(chain: list[Residue], fragment: list[Residue]) -> None:
    chain += fragment
    chain.sort(key=lambda r: r.key)


def _followed(residue: Residue, later: list[list[Residue]]) -> bool:
    """Whether the chain goes on behind a residue, with higher numbers, before a TER."""
    return any(f[0].segment == residue.segment and f[0].key > residue.key and not f[0].hetero for f in later)


def _goes_on(chain: list[Residue], fragment: list[Residue], ends: dict[int, Ends], length: float) -> bool:
    """Whether a fragment that is not bonded to a chain belongs to it, behind a gap."""
    if _part(fragment[0]) != _part(chain[-1]) or {r.key for r in chain} & {r.key for r in fragment}:
        return False
    step = fragment[0].number - chain[-1].number
    apart = math.dist(ends[id(fragment[0])].trace, ends[id(chain[-1])].trace)
    return not apart > _FAR or (step > 1 and apart < length * (step + 1))


def with_gaps(chain: Chain, letters: dict[tuple[str, int], str]) -> tuple[list[int], str, list[str], list[Note]]:
    """Slots of a chain: index of each slot's residue (-1 = added), letters, ids, and notes.

    A numbering gap of g residues adds g slots, or, where g is above 5, at most floor(1.2 d / 3.8) - 1 of them, d being
    the distance of the CAs (Pourmirzaei et al. 2025). An mmCIF with the full sequence, and REMARK 465 of a PDB file,
    say how many. Where that is too few to span the distance, as many are added as the distance needs.
    """
    residues, bonded = chain.residues, chain.bonded()
    rows: list[int] = []
    sequence: list[str] = []
    ids: list[str] = []
    gaps = numbered = 0
    for i, residue in enumerate(residues):
        if not bonded[i]:
            before = residues[i - 1]
            said = sorted(k for k in chain.unseen if before.key < k < residue.key)
            if said:
                found = [(chain.unseen[k], f"{k[0]}{k[1]}") for k in said]
            else:
                distance = math.dist(chain.ends[id(residue)].trace, chain.ends[id(before)].trace)
                found = _gap(chain, before, residue, distance, letters)
            gap = len(found) if said or chain.exact else max(residue.number - before.number - 1, 0)
            gaps, numbered = gaps + bool(found), numbered + gap
            rows += [-1] * len(found)
            sequence += [one for one, _ in found]
            ids += [name for _, name in found]
        rows.append(i)
        sequence.append(letter(residue.name))
        ids.append(f"{residue.number}{residue.ins}")
    notes = []
    if added := rows.count(-1):
        why = "" if added == numbered else f", where numbers leave out {numbered}"
        text = f"{many(added, 'slot')} added in {many(gaps, 'gap')}{why}"
        notes.append(Note("slots added", added, text))
    if renamed := _number_anew(ids):
        notes.append(
            Note(
                "residue ids changed",
                renamed,
                f"{many(renamed, 'residue')} given insertion codes: their numbers come twice",
            )
        )
    return rows, "".join(sequence), ids, notes


def _gap(
    chain: Chain, before: Residue, after: Residue, distance: float, letters: dict[tuple[str, int], str]
) -> list[tuple[str, str]]:
    """Letter and id of each slot to add between two residues."""
    step = after.place - before.place if chain.exact else after.number - before.number
    n = _missing(distance, step, chain)
    counted = n == after.number - before.number - 1
    found = []
    for k in range(1, n + 1):
        one = letters.get((after.entity, before.place + k), "X") if chain.exact else "X"
        found.append((one, str(before.number + k) if counted else f"{before.number}{before.ins}+{k}"))
    return found


def _missing(distance: float, step: int, chain: Chain) -> int:
    """Slots to add between two residues that are not bonded and whose numbers are `step` apart."""
    gap = max(step - 1, 0) if step != MISSING else 0
    if not math.isfinite(distance):  # one of the two is incomplete: only the numbers can tell
        return gap if chain.exact or gap <= 100 else 0
    if not chain.exact and gap > _SHORT_GAP:
        gap = min(gap, max(0, math.floor(1.2 * distance / chain.step) - 1))
    # a stretched bond (up to 5.1 Å between CAs) is not a gap
    needed = max(0, math.ceil(distance / chain.step - 0.35) - 1)
    if gap and chain.step * (gap + 1) * 1.05 > distance:
        return gap
    return max(gap, needed)


def _number_anew(ids: list[str]) -> int:
    """Give residues that share an id the insertion codes A, B, ...; how many."""
    counts, used, renamed = Counter(ids), set(ids), 0
    if len(used) == len(ids):
        return 0
    seen: set[str] = set()
    for i, name in enumerate(ids):
        if counts[name] > 1 and name in seen:
            stem = name.rstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
            codes = (stem + c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
            free = next((c for c in codes if c not in used), f"{name}+{i}")
            ids[i] = free
            used.add(free)
            renamed += 1
        seen.add(name)
    return renamed
