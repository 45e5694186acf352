"""Atom rows of one model as columns, whatever format they come from, and their residues."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
from jaxtyping import Float

from structok.structure import Note, many

__all__ = ["BACKBONE", "LAST", "MISSING", "Residue", "Table", "group_residues", "mark_placeholders"]

LAST = ("OXT", "OT2", "OC2")  # the second oxygen of a chain's last residue, as PDB, CHARMM and GROMACS call it
BACKBONE = ("N", "CA", "C", "O", *LAST)
MISSING = -(1 << 31)  # a number that the file does not give
_FILL = 99.0  # Å; an atom with x = y = z beyond this is a program's "unknown"
_BEYOND = 9999.0  # Å; nor are there structures as large as this
_STRAY = 4.0  # Å; an atom on the origin that is farther than this from its residue's other atoms is not there


@dataclass
class Table:
    """Columns of atoms, one entry per row.

    `number` is the author's residue number, `place` the position in the full sequence (mmCIF with `letters` only),
    `segment` counts what TER lines (PDB) or label_asym_id (mmCIF) keep apart; those in `closed` end with a TER.
    `letters` are those of the full sequences: (entity, place) -> letter. `unseen` are the residues of each chain id
    that a PDB file says are missing (REMARK 465): (number, code) -> letter. `components` are the names of HETATM
    residues that have no rows here.
    """

    name: list[str]
    res_name: list[str]
    chain: list[str]
    number: list[int]
    ins: list[str]
    alt: list[str]
    element: list[str]
    hetero: list[bool]
    segment: list[int]
    xyz: Float[np.ndarray, "n 3"]
    occupancy: Float[np.ndarray, " n"]
    b_factor: Float[np.ndarray, " n"]
    place: list[int] | None = None
    entity: list[str] | None = None
    closed: frozenset[int] = frozenset()  # segments that a TER ends
    letters: dict[tuple[str, int], str] = field(default_factory=dict)
    resolution: float | None = None
    predicted: bool = False
    block: str = ""
    gaps_said: bool = False  # written by structok: what the file does not call missing is not missing
    unseen: dict[str, dict[tuple[int, str], str]] = field(default_factory=dict)
    components: list[str] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.name)


@dataclass(slots=True)
class Residue:
    """Rows of one residue, one for each atom name."""

    rows: list[int]
    name: str
    chain: str
    number: int
    ins: str
    segment: int
    hetero: bool
    place: int = MISSING
    entity: str = ""
    stretch: int = 0  # residues of other chains stand between those of different stretches

    @property
    def key(self) -> tuple[int, str]:
        return self.number, self.ins


def group_residues(table: Table) -> list[Residue]:
    """Residues of a table in the order of the file, each with the most occupied of its alternative locations.

    A residue is a run of rows with one chain, number and name, in which no atom comes twice; pieces of one residue
    that lie apart (atoms in random order) are put together where no atom comes twice either.
    """
    runs = _runs(table)
    keys = [_key(table, rows[0]) for rows in runs]
    if len(set(keys)) < len(keys):
        runs = _join_runs(table, runs, keys)
    residues, dropped, named = [], 0, any(table.alt)
    for rows in runs:
        kept = _one_location(table, rows) if named else rows  # no atom comes twice in a run
        dropped += len(rows) - len(kept)
        i = rows[0]
        place, entity = table.place, table.entity
        residues.append(
            Residue(
                kept, table.res_name[i], table.chain[i], table.number[i], table.ins[i], table.segment[i],
                table.hetero[i], place[i] if place else MISSING, entity[i] if entity else "",
            )
        )  # fmt: skip
    _fill_numbers(residues)
    residues, replaced, repeated = _one_per_position(table, residues)
    if dropped + replaced:
        text = f"{many(dropped + replaced, 'atom')} of alternative locations left out"
        table.notes.append(Note("alternative locations", dropped + replaced, text, routine=True))
    if repeated:
        text = f"{many(repeated, 'atom')} that come twice on one spot left out"
        table.notes.append(Note("repeated atoms", repeated, text))
    return residues


def _key(table: Table, i: int) -> tuple[Any, ...]:
    return table.chain[i], table.segment[i], table.number[i], table.ins[i], table.res_name[i]


def _runs(table: Table) -> list[list[int]]:
    runs: list[list[int]] = []
    last: Any = None
    seen: set[tuple[str, str]] = set()
    columns = zip(table.chain, table.segment, table.number, table.ins, table.res_name)
    for i, (key, atom) in enumerate(zip(columns, zip(table.name, table.alt))):
        if key != last or atom in seen:
            rows = [i]
            runs.append(rows)
            last, seen = key, {atom}
        else:
            rows.append(i)
            seen.add(atom)
    return runs


def _join_runs(table: Table, runs: list[list[int]], keys: Sequence[Any]) -> list[list[int]]:
    """Runs with one key joined where no atom comes twice."""
    joined: list[list[int]] = []
    runs, keys = _unpair(table, runs, keys)
    groups: dict[Any, list[tuple[list[int], set[tuple[str, str]]]]] = {}
    for rows, key in zip(runs, keys):
        atoms = {(table.name[i], table.alt[i]) for i in rows}
        same = groups.setdefault(key, [])
        for other, has in same:
            if has.isdisjoint(atoms):
                other += rows
                has |= atoms
                break
        else:
            same.append((rows, atoms))
            joined.append(rows)
    if 2 * len(joined) < len(runs):  # atoms in random order: so are the residues
        joined.sort(key=lambda rows: (_chain_order(table, rows[0]), table.number[rows[0]], table.ins[rows[0]]))
    return joined


def _unpair(table: Table, runs: list[list[int]], keys: Sequence[Any]) -> tuple[list[list[int]], list[Any]]:
    """Residues whose atoms stand in pairs (two locations without names) as one run per location."""
    out: list[list[int]] = []
    out_keys: list[Any] = []
    for key, group in groupby(zip(keys, runs), key=lambda pair: pair[0]):
        mine = [rows for _, rows in group]
        if len(mine) > 2 and all(len(rows) < 3 for rows in mine[:-1]):
            nth: Counter[str] = Counter()
            layers: dict[int, list[int]] = {}
            for i in (i for rows in mine for i in rows):
                layers.setdefault(nth[table.name[i]], []).append(i)
                nth[table.name[i]] += 1
            mine = list(layers.values())
        out += mine
        out_keys += [key] * len(mine)
    return out, out_keys


def _chain_order(table: Table, i: int) -> tuple[int, str]:
    return table.segment[i], table.chain[i]


def _one_location(table: Table, rows: list[int]) -> list[int]:
    """One row per atom name: that of the location with the highest mean occupancy, else the best there is."""
    alts = {table.alt[i] for i in rows}
    if len(alts) < 2 and len({table.name[i] for i in rows}) == len(rows):
        return rows
    shares: dict[str, list[float]] = {}
    twice = Counter(table.name[i] for i in rows)
    for i in rows:
        if twice[table.name[i]] > 1:  # the others are common to all locations
            shares.setdefault(table.alt[i], []).append(float(table.occupancy[i]))
    best = max(shares, key=lambda alt: round(sum(shares[alt]) / len(shares[alt]), 3), default="")
    chosen: dict[str, int] = {}
    for i in rows:
        before = chosen.setdefault(table.name[i], i)
        if before != i and table.alt[before] != best:
            better = table.alt[i] == best or table.occupancy[i] > table.occupancy[before]
            chosen[table.name[i]] = i if better else before
    return list(chosen.values())


def _fill_numbers(residues: Iterable[Residue]) -> None:
    """Numbers that the file does not give, counted on from the residue before."""
    last, chain = 0, None
    for residue in residues:
        if (residue.chain, residue.segment) != chain:
            last, chain = 0, (residue.chain, residue.segment)
        if residue.number == MISSING:
            residue.number = last + 1
        last = residue.number


def _one_per_position(table: Table, residues: list[Residue]) -> tuple[list[Residue], int, int]:
    """Of adjacent residues with one number on one spot (microheterogeneity), the most occupied.

    Also how many atoms are left out: those of named alternative locations, and others.

    Neighbours that share a number because insertion codes were removed lie apart, and stay.
    """
    kept: list[Residue] = []
    named = others = 0
    for residue in residues:
        before = kept[-1] if kept else None
        if (
            before is None
            or (before.number, before.ins, before.chain) != (residue.number, residue.ins, residue.chain)
            or not _overlap(table, before, residue)
        ):
            kept.append(residue)
            continue
        one, other = (float(np.mean(table.occupancy[r.rows])) for r in (before, residue))
        out = before if other > one else residue
        if table.alt[out.rows[0]]:
            named += len(out.rows)
        else:
            others += len(out.rows)
        if other > one:
            kept[-1] = residue
    return kept, named, others


def _overlap(table: Table, one: Residue, other: Residue) -> bool:
    def spot(residue: Residue) -> Float[np.ndarray, " 3"]:
        alpha = [i for i in residue.rows if table.name[i] in ("CA", "C1'")]
        return np.asarray(table.xyz[alpha[0] if alpha else residue.rows].reshape(-1, 3).mean(0))

    return bool(np.linalg.norm(spot(one) - spot(other)) < 2.5)  # CAs of neighbours are 2.8 Å apart or more


def mark_placeholders(table: Table) -> None:
    """Atoms that a program wrote without knowing where they are become NaN: at the origin, or at a fill value.

    The origin is no placeholder where a single atom lies there, near the other atoms of its residue.
    """
    xyz = table.xyz
    fill = (np.abs(xyz) >= _BEYOND).any(1)
    fill |= (np.abs(xyz[:, 0]) >= _FILL) & (xyz[:, 0] == xyz[:, 1]) & (xyz[:, 0] == xyz[:, 2])
    fill &= np.isfinite(xyz).all(1)
    origin = np.flatnonzero(~xyz.any(1))
    if len(origin) > 1 or (len(origin) == 1 and _is_stray(table, int(origin[0]))):
        fill[origin] = True
    if fill.any():
        spots = {_key(table, int(i)) for i in np.flatnonzero(fill)}
        xyz[fill] = np.nan
        what = f"{many(int(fill.sum()), 'atom')} of {many(len(spots), 'residue')}"
        text = f"{what} at a placeholder (0,0,0 or a fill value) taken as missing"
        table.notes.append(Note("placeholder atoms", int(fill.sum()), text))


def _is_stray(table: Table, i: int) -> bool:
    lo, hi = max(0, i - 40), i + 40
    near = [j for j in range(lo, min(hi, len(table))) if j != i and _key(table, j) == _key(table, i)]
    return bool(near) and float(np.linalg.norm(table.xyz[near] - table.xyz[i], axis=1).min()) > _STRAY
