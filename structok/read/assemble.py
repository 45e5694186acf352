"""A `Table` of atoms to a `Structure`: which residues are protein, nucleic, ligand or solvent, and form which chain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from structok.errors import InputError
from structok.geometry import CA_STEP
from structok.names import PEPTIDE_NUCLEIC, component_kind, nucleotide_atom
from structok.read.arrays import Rows
from structok.read.chains import Chain, Ends, find_chains
from structok.read.gaps import with_gaps
from structok.read.table import MISSING, Residue, Table, group_residues, mark_placeholders
from structok.structure import CHAIN_IDS, Ligand, Note, Polymer, Structure, many

__all__ = ["assemble"]

Kind = Literal["protein", "nucleic"]

_BONDS = {"protein": (("N", "C", "CA"), CA_STEP), "nucleic": (("P", "O3'", "C4'"), 6.0)}


def assemble(table: Table, name: str, label: str, *, only_backbone: bool) -> Structure:
    """The entities of a table.

    Parameters
    ----------
    table : atoms of one model; its coordinates change where they are placeholders
    name : of the structure
    label : what messages call the file
    only_backbone : the table was read without most atoms: make protein chains only

    Raises
    ------
    InputError
        If a coordinate is not finite.
    """
    _check_finite(table, label)
    mark_placeholders(table)
    residues = group_residues(table)
    kinds = [_kind(table, r) for r in residues]
    for row in (row for r, k in zip(residues, kinds) if k == "nucleic" for row in r.rows):
        table.name[row] = nucleotide_atom(table.name[row])
    _note_peptide_nucleic(table, residues)
    _number_stretches(r for r, kind in zip(residues, kinds) if kind in _BONDS)
    polymers: list[tuple[Kind, str, Chain]] = []
    rest = [r for r, kind in zip(residues, kinds) if kind not in _BONDS]
    for kind in ("protein", "nucleic"):
        if only_backbone and kind == "nucleic":
            continue
        of_kind = [r for r, k in zip(residues, kinds) if k == kind]
        for chain_id, group in _by_chain(of_kind, table.place is not None):
            chains, loose = _chains(table, group, kind)
            polymers += [(kind, chain_id, chain) for chain in chains]
            rest += loose
    if any(len(chain.residues) > 1 for kind, _, chain in polymers if kind == "protein"):
        free = [p[0] == "protein" and _is_free(p[2]) for p in polymers]
        rest += [p[2].residues[0] for p, is_free in zip(polymers, free) if is_free]
        polymers = [p for p, is_free in zip(polymers, free) if not is_free]
    order = {id(r): i for i, r in enumerate(residues)}
    polymers.sort(key=lambda p: min(order[id(r)] for r in p[2].residues))
    columns = Rows(table)
    found = Structure(name, [], notes=table.notes, resolution=table.resolution, predicted=table.predicted)
    for (kind, before, chain), chain_id in zip(polymers, _unique_ids([c for _, c, _ in polymers], table)):
        polymer = _polymer(columns, chain, kind, chain_id, name, found.notes)
        if kind == "protein" and not np.isfinite(polymer.place(("N", "CA", "C"))).all((1, 2)).any():
            reason = "no residue has N, CA and C; a CA-only model?"
            found.notes.append(Note("chains skipped", 1, f"chain {chain_id or '(blank)'} skipped, {reason}", chain_id))
            continue
        if chain_id != before:
            text = f"chain {chain_id}: another chain under the id {before} in the file"
            text = text if before else f"chain {chain_id}: without an id in the file"
            found.notes.append(Note("chains renamed", 1, text, chain_id))
        found.polymers.append(polymer)
    if only_backbone:
        inside = {id(r) for _, _, chain in polymers for r in chain.residues}
        inside |= {id(r) for r, kind in zip(residues, kinds) if kind == "nucleic"}
        _say_what_is_left_out(table, residues, kinds, inside, found)
    else:
        rest.sort(key=lambda r: order[id(r)])
        _add_small(columns, rest, found)
    return found


def _check_finite(table: Table, label: str) -> None:
    bad = np.flatnonzero(~np.isfinite(table.xyz).all(1))
    if len(bad):
        i = int(bad[0])
        where = f"chain {table.chain[i]}, residue {table.res_name[i]} {table.number[i]}"
        raise InputError(f"{label}: {where} has non-finite coordinates; remove it from the file")


def _kind(table: Table, residue: Residue) -> str:
    """'protein', 'nucleic', 'water', 'ion' or 'ligand'."""
    kind = component_kind(residue.name)
    if table.place is not None and kind in ("protein", "nucleic", "ligand"):
        if (residue.entity, residue.place) not in table.letters:
            return "ligand"  # the file says what is part of a polymer
        if kind == "ligand":
            kind = "protein" if "CA" in (table.name[i] for i in residue.rows) else kind
    names = {table.name[i] for i in residue.rows}
    if kind == "protein":
        return kind if names & {"N", "CA", "C"} else "ligand"
    if {"N", "CA", "C"} <= names and (kind == "ligand" or (kind == "nucleic" and "C4'" not in names)):
        return "protein"  # whatever it is called
    return kind


def _note_peptide_nucleic(table: Table, residues: Iterable[Residue]) -> None:
    count = Counter(r.chain for r in residues if r.name in PEPTIDE_NUCLEIC)
    for chain, n in count.items():
        text = f"chain {chain or '(blank)'}: peptide nucleic acid, neither a protein nor DNA or RNA; no chain is made"
        table.notes.append(Note("peptide nucleic acid", n, f"{text} of its {many(n, 'residue')}", chain))


def _number_stretches(residues: Iterable[Residue]) -> None:
    stretch, chain = 0, None
    for residue in residues:
        if residue.chain != chain:
            stretch, chain = stretch + 1, residue.chain
        residue.stretch = stretch


def _by_chain(residues: Iterable[Residue], exact: bool) -> Iterator[tuple[str, list[Residue]]]:
    groups: dict[Any, list[Residue]] = {}
    for residue in residues:
        key = (residue.chain, residue.segment) if exact else residue.chain
        groups.setdefault(key, []).append(residue)
    for group in groups.values():
        yield group[0].chain, group


def _chains(table: Table, group: list[Residue], kind: Kind) -> tuple[list[Chain], list[Residue]]:
    names, step = _BONDS[kind]
    ends = Ends(table, group, names)
    if kind == "protein" and (torn := [r for r in group if ends.is_torn(r)]):
        for residue in torn:
            table.xyz[residue.rows] = np.nan
            ends.forget(residue)
        text = f"{many(len(torn), 'residue')} with N, CA and C far from each other taken as missing"
        table.notes.append(Note("torn residues", len(torn), text, group[0].chain))
    places = [r.place for r in group]
    if table.place is not None and all(b > a for a, b in pairwise(places)):
        return [Chain(group, ends, step, exact=True, gaps_said=table.gaps_said)], []
    chains, loose, strays = find_chains(group, ends, table.closed, step)
    for chain in chains:
        chain.unseen, chain.gaps_said = table.unseen.get(group[0].chain, {}), table.gaps_said
    for residue in strays:
        table.xyz[residue.rows] = np.nan
        where = f"chain {residue.chain or '(blank)'}: residue {residue.name} {residue.number}"
        text = f"{where} lies far from both its neighbours: missing"
        table.notes.append(Note("stray residues", 1, text, residue.chain))
    return chains, loose


def _is_free(chain: Chain) -> bool:
    """Whether a chain is a free amino acid: a single residue that the file calls HETATM, or that is a chain's end."""
    [first, *more] = chain.residues
    return not more and not chain.exact and (first.hetero or id(first) in chain.ends.last)


def _unique_ids(ids: list[str], table: Table) -> list[str]:
    """A chain id for each polymer: the file's, or, where several share one, a letter that is free."""
    used = set(table.chain) - {""}
    taken: set[str] = set()
    blank = ids.count("") > 1
    out = []
    for chain_id in ids:
        if chain_id in taken or (blank and not chain_id):
            free = (c for c in CHAIN_IDS if c not in used)
            numbered = (f"{chain_id or 'A'}{n}" for n in range(2, len(ids) + len(used) + 2))
            chain_id = next(free, None) or next(c for c in numbered if c not in used)
        used.add(chain_id)
        taken.add(chain_id)
        out.append(chain_id)
    return out


def _polymer(columns: Rows, chain: Chain, kind: Kind, chain_id: str, name: str, notes: list[Note]) -> Polymer:
    table = columns.table
    slots_of, sequence, ids, said = with_gaps(chain, table.letters)
    notes += [Note(n.kind, n.count, f"chain {chain_id or '(blank)'}: {n.text}", chain_id) for n in said]
    rows: list[int] = []
    observed: list[int] = []
    counts: list[int] = []
    incomplete, seen, names, wanted = 0, columns.seen.tolist(), table.name, set(_BONDS[kind][0])
    for slot, i in enumerate(slots_of):
        if i < 0:
            continue
        there = [row for row in chain.residues[i].rows if seen[row]]
        rows += there
        observed.append(slot)
        counts.append(len(there))
        if kind == "protein" and not wanted.issubset([names[row] for row in there]):
            incomplete += 1
    if incomplete:
        text = f"chain {chain_id or '(blank)'}: {many(incomplete, 'residue')} without N, CA or C taken as missing"
        notes.append(Note("incomplete residues", incomplete, text, chain_id))
    numbers = [chain.residues[slots_of[slot]].number for slot in observed]
    codes = [ids[slot][len(str(number)) :][:1] for slot, number in zip(observed, numbers)]
    slots = np.repeat(np.array(observed, dtype=int), counts)
    atoms = columns.atoms(
        np.array(rows, dtype=int), chain_id, np.repeat(numbers, counts), np.repeat(codes, counts), polymer=True
    )
    return Polymer(kind, chain_id, sequence, ids, atoms, slots, name)


def _say_what_is_left_out(
    table: Table, residues: list[Residue], kinds: list[str], polymers: set[int], found: Structure
) -> None:
    """Chains without protein, ligands and solvent, where only backbones were read."""
    having = {p.chain_id for p in found.proteins} | {n.chain for n in found.notes if n.kind == "chains skipped"}
    of_chain: dict[str, set[str]] = {}
    for residue, kind in zip(residues, kinds):
        of_chain.setdefault(residue.chain, set()).add(kind)
    for chain, have in of_chain.items():
        if chain not in having and "protein" not in have:
            small = have <= {"water", "ion"}
            found.notes.append(
                Note("chains skipped", 1, f"chain {chain or '(blank)'} skipped, no amino acids", chain, routine=small)
            )
    others = [r.name for r in residues if id(r) not in polymers] + table.components
    solvent = sum(component_kind(name) in ("water", "ion") for name in others)
    ligands = Counter(name for name in others if component_kind(name) not in ("water", "ion"))
    _count_small(found.notes, ligands, solvent)


def _count_small(notes: list[Note], ligands: Counter[str], solvent: int) -> None:
    if total := ligands.total():
        names = ", ".join(f"{n} {name}" if n > 1 else name for name, n in list(ligands.items())[:5])
        more = ", …" if len(ligands) > 5 else ""
        text = f"{many(total, 'ligand')} left out ({names}{more})"
        notes.append(Note("ligands left out", total, text))
    if solvent:
        notes.append(Note("waters and ions", solvent, f"{solvent} waters and ions left out", routine=True))


def _add_small(columns: Rows, rest: list[Residue], found: Structure) -> None:
    """Ligands one by one, waters and ions together."""
    solvent: list[Residue] = []
    for residue in rest:
        rows = np.array([i for i in residue.rows if columns.seen[i]], dtype=int)
        if component_kind(residue.name) in ("water", "ion"):
            solvent.append(residue)
        elif len(rows):
            number = residue.number if residue.number != MISSING else 0
            atoms = columns.atoms(rows, residue.chain, [number] * len(rows), [residue.ins] * len(rows), polymer=False)
            found.ligands.append(Ligand(residue.name, residue.chain, f"{number}{residue.ins}", atoms))
    rows = np.array([i for r in solvent for i in r.rows if columns.seen[i]], dtype=int)
    table = columns.table
    numbers = [max(table.number[i], 0) for i in rows]
    found.solvent = columns.atoms(rows, "", numbers, [table.ins[i] for i in rows], polymer=False)
    found.solvent.chain_id = np.array([table.chain[i] for i in rows], dtype="U8")
    if solvent:
        text = f"{len(solvent)} waters and ions"
        found.notes.append(Note("waters and ions", len(solvent), text, routine=True))
