"""Inputs of the commands, whatever they are, to chains and molecules one by one; a bad one is reported and skipped."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from enum import Enum
from glob import glob
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from structok.data.columns import STRUCTURE
from structok.data.shards import modality_of, read_rows, rows_of, structure_of
from structok.errors import InputError, StructokError
from structok.files import pyarrow
from structok.read.molecules import molecule_notes, parse_record, read_molecules
from structok.read.sources import Unit, find_units, printable
from structok.read.structures import backbones, parse_structures, structures
from structok.structure import Note, Structure

__all__ = ["Distinct", "Item", "Reporter", "Wanted", "find_inputs", "read_inputs", "read_units", "singles", "weight"]

Item = tuple[str, str, Any]  # modality, source for messages, structure

_STRUCTURE = ("centre", *{c: None for columns in STRUCTURE.values() for c in columns})
_FOREIGN = "no columns id and coords; make such files with structok data build"


class Wanted(Enum):
    """What to take of files of proteins and nucleic acids."""

    backbones = "backbones of proteins"
    proteins = "proteins, all atoms"
    nucleic = "nucleic acids"
    polymers = "proteins and nucleic acids, all atoms"

    @property
    def kinds(self) -> tuple[str, ...]:
        return {"nucleic": ("nucleic",), "polymers": ("protein", "nucleic")}.get(self.name, ("protein",))

    @property
    def atoms(self) -> Literal["all", "backbone"]:
        return "backbone" if self is Wanted.backbones else "all"


class Reporter(Protocol):
    """Where bad inputs are reported, and what was left out or invented in good ones."""

    def error(self, error: StructokError, source: str = "") -> None: ...

    def note(self, note: Note, source: str) -> None: ...


def find_inputs(inputs: Iterable[str]) -> Iterator[Unit]:
    """Units of files, folders, globs, archives and foldcomp databases, in an order that depends on names alone.

    A parquet file of `structok data build` is one unit of kind 'rows': `offset` is its first row, `size` their
    number. What does not exist or cannot be opened is a unit with an error, reported when it is read.
    """
    for name in inputs:
        if os.path.isdir(name) or (not _is_parquet(name) and os.path.exists(name)):
            rows = _rows_below(name) if os.path.isdir(name) else []
            yield from (unit for unit in find_units([name]) if not (rows and unit.error and unit.source == name))
            yield from rows
        elif os.path.exists(name):
            yield from _rows(name)
        elif matches := sorted(glob(name, recursive=True)):
            yield from find_inputs(matches)
        else:
            yield Unit(printable(name), "", error="no such file")


def _is_parquet(name: str) -> bool:
    return name.lower().endswith(".parquet")


def _rows_below(folder: str) -> list[Unit]:
    """Parquet files of a folder and below that hold structures, sorted; not those of token folders, or hidden ones."""
    found = []
    for root, folders, files in os.walk(folder):
        if ".structok" in folders:
            folders.clear()
            continue
        folders[:] = [f for f in folders if not f.startswith(".")]
        found += [os.path.join(root, f) for f in files if _is_parquet(f) and not f.startswith(".")]
    units = (unit for path in sorted(found) for unit in _rows(path))
    return [unit for unit in units if unit.error != _FOREIGN]


def _rows(path: str) -> Iterator[Unit]:
    source = printable(path)
    try:
        with pyarrow().parquet.ParquetFile(path) as file:
            count, columns = file.metadata.num_rows, set(file.schema_arrow.names)
    except InputError as error:
        yield Unit(source, "", error=str(error))
        return
    except (OSError, pyarrow().ArrowException) as error:
        yield Unit(source, "", error=f"not a readable parquet file ({str(error).splitlines()[0][:80]})")
        return
    if {"id", "coords"} <= columns:
        yield Unit(source, "rows", path, 0, count)
    else:
        yield Unit(source, "", error=_FOREIGN)


def weight(unit: Unit) -> int:
    """Inputs that a unit counts for: rows of a parquet file, else 1."""
    return (unit.size or 0) if unit.kind in ("rows", "row") else 1


def singles(units: Iterable[Unit]) -> Iterator[Unit]:
    """The same units with parquet files taken apart into rows, counted from 1 as their errors do."""
    for unit in units:
        if unit.kind == "rows":
            rows = range(unit.offset, unit.offset + weight(unit))
            yield from (Unit(f"{unit.source}, row {row + 1}", "row", unit.path, row, 1) for row in rows)
        else:
            yield unit


class Distinct:
    """Units by names that differ from that of the structure before: prot.cif and prot.pdb are prot and prot_2.

    Chains in a row under one id are chains of one structure. No more than that can be asked of millions of files.
    """

    def __init__(self) -> None:
        self._stem, self._name, self._count = "", "", 1

    def rename(self, units: Iterable[Unit]) -> Iterator[Unit]:
        """The same units, some with a `title`."""
        for unit in units:
            if unit.modality == "protein" and unit.kind not in ("", "rows", "row"):
                name = stem = unit.name
                self._count = self._count + 1 if stem == self._stem else 1
                if self._count > 1 or name == self._name:
                    name = f"{stem}_{max(self._count, 2)}"
                    unit = replace(unit, title=name)
                self._stem, self._name = stem, name
            yield unit


def read_inputs(
    inputs: Iterable[str], log: Reporter, *, chain: str | None, add_hs: bool, wanted: Wanted = Wanted.backbones
) -> Iterator[Item]:
    """Chains and molecules of everything that was named; '-' is stdin."""
    names = Distinct()
    for name in inputs:
        if name != "-":
            yield from read_units(names.rename(find_inputs([name])), log, chain=chain, add_hs=add_hs, wanted=wanted)
            continue
        try:
            yield from _read_stdin(log, chain, add_hs, wanted)
        except StructokError as error:
            log.error(error, "stdin")


def read_units(
    units: Iterable[Unit], log: Reporter, *, chain: str | None, add_hs: bool, wanted: Wanted = Wanted.backbones
) -> Iterator[Item]:
    """Chains and molecules of units, in order."""
    for unit in units:
        try:
            if unit.error:
                raise InputError(f"{unit.source}: {unit.error}")
            if unit.kind in ("rows", "row"):
                yield from _read_rows(unit, log, chain, wanted)
            elif unit.modality == "protein":
                yield from _read_chains(unit, log, chain, wanted)
            else:
                yield _read_molecule(unit, log, add_hs)
        except StructokError as error:
            log.error(error, unit.source)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            # a parser that trips over one file must not end a run of millions
            log.error(InputError(f"{unit.source}: cannot be read ({type(error).__name__}: {error})"), unit.source)


def _read_chains(unit: Unit, log: Reporter, chain: str | None, wanted: Wanted) -> Iterator[Item]:
    found = parse_structures(unit.read(), unit.format, unit.name, unit.source, atoms=wanted.atoms)
    yield from _chains(found, log, unit.source, chain, wanted)
    if unit.title:
        log.note(
            Note("ids changed", 1, f"the file before has this name too, this one is called {unit.title}"), unit.source
        )


def _chains(
    found: Iterable[Structure], log: Reporter, source: str, chain: str | None, wanted: Wanted
) -> Iterator[Item]:
    for structure in found:
        if wanted is Wanted.backbones:
            for backbone in backbones(structure, chain, source):
                yield "protein", source, backbone
        else:
            yield from _with_atoms(structure, log, source, chain, wanted)
        for note in structure.notes:
            if chain in (None, note.chain):
                log.note(note, source)


def _with_atoms(structure: Structure, log: Reporter, source: str, chain: str | None, wanted: Wanted) -> Iterator[Item]:
    """Chains with their heavy atoms."""
    from structok.nucleic.chain import NucleicChain
    from structok.protein.allatom import AtomChain

    chosen = [p for p in structure.polymers if p.kind in wanted.kinds and chain in (None, p.chain_id)]
    if not chosen:
        which = "" if chain is None else f" {chain!r}"
        raise InputError(f"{source}: no {' or '.join(wanted.kinds)} chain{which}")
    for polymer in chosen:
        found = AtomChain.of(polymer) if polymer.kind == "protein" else NucleicChain.of(polymer)
        lost = int((polymer.atoms.element != "H").sum() - np.isfinite(found.atoms).all(-1).sum())
        if lost:
            text = f"chain {polymer.chain_id}: {lost} heavy atoms that the residue's parent lacks are left out"
            log.note(Note("atoms without a place", lost, text, polymer.chain_id, routine=lost == 1), source)
        yield polymer.kind, source, found


def _read_molecule(unit: Unit, log: Reporter, add_hs: bool) -> Item:
    mol = parse_record(unit.read().decode(), unit.kind, f"{unit.source} ({unit.name[:60]})", add_hs)
    return _named(mol, unit.name, unit.source, log)


def _named(mol: Any, name: str, source: str, log: Reporter) -> Item:
    title = mol.GetProp("_Name").strip() if mol.HasProp("_Name") else ""
    mol.SetProp("_Name", name)
    notes = molecule_notes(mol)
    if title not in ("", name):
        notes.append(Note("ids changed", 1, f"the title {title[:60]} comes again, this one is called {name[-60:]}"))
    for note in notes:
        log.note(note, source)
    return "molecule", source, mol


def _read_rows(unit: Unit, log: Reporter, chain: str | None, wanted: Wanted) -> Iterator[Item]:
    """Rows `offset` to `offset + size` of a parquet file, row group by row group."""
    with pyarrow().parquet.ParquetFile(unit.path) as file:
        sizes = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
        known = _STRUCTURE if wanted is Wanted.backbones else [*_STRUCTURE, "side_atoms"]
        columns = [c for c in known if c in file.schema_arrow.names]
    modality = modality_of(Path(unit.path))
    last, start = unit.offset + weight(unit), 0
    for group, size in enumerate(sizes):
        first, start = start, start + size
        if start <= unit.offset or first >= last:
            continue
        [table] = read_rows(Path(unit.path), columns, [group])
        skipped = max(unit.offset - first, 0)
        table = table.slice(skipped, min(last, start) - first - skipped)
        for number, (xyz, row) in enumerate(rows_of(table), first + skipped):
            source = unit.source if unit.kind == "row" else f"{unit.source}, row {number + 1}"
            try:
                if modality == "molecule" or chain in (None, row.get("chain")):
                    yield modality, source, structure_of(xyz, row)
            except StructokError as error:
                log.error(InputError(f"{source}: {error}"), source)


def _read_stdin(log: Reporter, chain: str | None, add_hs: bool, wanted: Wanted) -> Iterator[Item]:
    stream: Any = sys.stdin.buffer
    if any(mark in stream.peek(1 << 16)[: 1 << 16] for mark in (b"V2000", b"V3000", b"@<TRIPOS>")):
        for name, mol in read_molecules(stream, add_hs=add_hs):
            if isinstance(mol, StructokError):
                log.error(mol, "stdin")
            else:
                yield _named(mol, name, "stdin", log)
    else:
        yield from _chains(structures(stream, atoms=wanted.atoms), log, "stdin", chain, wanted)
