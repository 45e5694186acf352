"""Files of molecules, record by record: SDF, MOL, MOL2, compressed or not."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from structok.errors import InputError, StructokError
from structok.read.formats import BROKEN, MOLECULES, Titles, open_file, stem_of, suffix_kind
from structok.structure import Note, many

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = [
    "bond_lengths",
    "is_drawing",
    "molecule_notes",
    "parse_record",
    "read_molecules",
    "record_title",
    "split_records",
]

_COUNTS = re.compile(r".{33,}V[23]000\s*$")
_SHORTER = np.array([1, 1, 1, 0.93, 0.88, 0.88, 0.8, 0.8, 0.8])  # bonds, by twice their order
_SHOWN = 60  # characters of a title in messages

# atom types of GAFF and GAFF2 (Wang et al. 2004) -> SYBYL's, which RDKit reads
_GAFF_TYPES = {
    "C.3": "c3 cx cy c5 c6",
    "C.2": "c c2 ca cc cd ce cf cp cq cs cu cv cz",
    "C.1": "c1 cg ch",
    "H": "h1 h2 h3 h4 h5 ha hc hn ho hp hs hw hx",
    "O.3": "oh os op oq ow",
    "O.2": "o",
    "N.3": "n3 n4 nk nx ny nz n+ n5 n6 n7 n8 n9 np nq",
    "N.2": "n na ne nf nh nb nc nd n2 ni nj nl nm nn no ns nt nu nv",
    "N.1": "n1",
    "S.3": "sh ss sp sq",
    "S.2": "s s2",
    "S.o": "s4 sx",
    "S.o2": "s6 sy",
    "P.3": "p2 p3 p4 p5 pb pc pd pe pf px py",
    "F": "f",
    "Cl": "cl",
    "Br": "br",
    "I": "i",
}
_WILD = ("Du", "Du.C", "LP", "Any", "Hal", "Het", "Hev")
_GAFF = {gaff: sybyl for sybyl, types in _GAFF_TYPES.items() for gaff in types.split()}


@cache
def _elements() -> frozenset[str]:
    from rdkit.Chem import GetPeriodicTable

    table = GetPeriodicTable()
    return frozenset(table.GetElementSymbol(n) for n in range(1, 119))


def read_molecules(
    source: str | os.PathLike[str] | IO[bytes], add_hs: bool = False
) -> Iterator[tuple[str, Mol | StructokError]]:
    """Stream the molecules of a file as (id, sanitised Mol with its hydrogens).

    A record that cannot be read yields its error instead, and the stream goes on. The id is the record's
    title, or the file's stem and the record's number; a title that comes again gets a number.

    Parameters
    ----------
    source : path (`.sdf`, `.mol`, `.mol2`, compressed or not) or a binary file, such as stdin
    add_hs : add missing hydrogens, with coordinates

    Raises
    ------
    InputError
        If the file does not exist or its kind is unknown.
    """
    if not isinstance(source, (str, os.PathLike)):
        yield from _records(source, _sniff(source), "stdin", add_hs)
        return
    path = Path(source)
    kind = suffix_kind(path)
    if kind not in MOLECULES:
        raise InputError(f"{path}: unknown kind of molecule file; expected .sdf, .mol or .mol2 (also .gz, .bz2, .zst)")
    try:
        with open_file(path) as file:
            yield from _records(file, kind, path.name, add_hs)
    except BROKEN as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def _sniff(file: IO[bytes]) -> str:
    head = file.peek(4096) if hasattr(file, "peek") else b""
    return "mol2" if b"@<TRIPOS>" in head else "sdf"


def _records(file: IO[bytes], fmt: str, where: str, add_hs: bool) -> Iterator[tuple[str, Mol | StructokError]]:
    titles = Titles(stem_of(where))
    count = 0
    for count, record in enumerate(split_records(file, fmt), start=1):
        title = titles.name(record_title(record, fmt), count)
        try:
            yield title, parse_record(record, fmt, f"{where}, record {count} ({title[:_SHOWN]})", add_hs)
        except StructokError as error:
            yield title, error
    if not count:
        raise InputError(f"{where}: holds no molecule")


def split_records(file: IO[bytes], fmt: str) -> Iterator[str]:
    """Text of each record; the file is read line by line and never held whole.

    Records end with $$$$, or where another molecule begins without it.
    """
    lines: list[str] = []
    ended = False  # M  END came, and no data items since
    for line in _lines(file):
        if fmt == "mol2" and line.startswith("@<TRIPOS>MOLECULE"):
            if any(part.startswith("@<TRIPOS>MOLECULE") for part in lines):
                yield "\n".join(lines) + "\n"
            lines = []
        if fmt == "sdf" and line.startswith("$$$$"):
            if any(part.strip() for part in lines):
                yield "\n".join(lines) + "\n"
            lines, ended = [], False
            continue
        if fmt == "sdf" and ended and len(lines) > 3 and _COUNTS.match(line):
            yield "\n".join(lines[:-3]) + "\n"
            lines, ended = lines[-3:], False
        ended = line.startswith("M  END") or (ended and not line.startswith(">"))
        lines.append(line)
    if any(line.strip() for line in lines):
        yield "\n".join(lines) + "\n"


def _lines(file: IO[bytes]) -> Iterator[str]:
    """Lines without their ends (LF, CR LF or CR) and without a byte-order mark; UTF-8, else Latin-1."""
    first = True
    for raw in file:
        if first:
            if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):  # UTF-16 is read whole
                yield from (raw + file.read()).decode("utf-16", errors="replace").splitlines()
                return
            raw, first = raw.removeprefix(b"\xef\xbb\xbf"), False
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            text = raw.decode("latin-1")
        text = text.removesuffix("\n").removesuffix("\r")
        if "\r" in text:
            yield from text.split("\r")
        else:
            yield text


def record_title(record: str, fmt: str) -> str:
    """Title of a record, '' if it has none."""
    lines = record.split("\n", 3)
    if fmt != "mol2":
        return lines[0].strip()
    at = record.find("@<TRIPOS>MOLECULE")
    return [*record[max(at, 0) :].split("\n", 2), ""][1].strip()


def parse_record(record: str, fmt: str, where: str, add_hs: bool) -> Mol:
    """Sanitised Mol of one record; `where` names it in messages.

    Raises
    ------
    InputError
        If RDKit cannot read the record or rejects the molecule.
    """
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        try:
            if fmt == "mol2":
                mol = Chem.MolFromMol2Block(_sybyl(record, where), sanitize=False, removeHs=False)
            else:
                mol = Chem.MolFromMolBlock(record, sanitize=False, removeHs=False)
            if mol is None:
                what = f"not a {fmt.upper()} record that RDKit can read"
                raise InputError(f"{where}: {what}; check its atom and bond lines")
            Chem.SanitizeMol(mol)
            if fmt == "mol2" and any(a.GetNumRadicalElectrons() for a in mol.GetAtoms()):
                what = "hydrogens are missing, which MOL2 files must name"
                raise InputError(f"{where}: {what}; add them with the program that wrote it, or give an SDF")
            if mol.GetNumConformers():
                conformer = mol.GetConformer()
                conformer.Set3D(not is_drawing(mol))
                if conformer.Is3D():
                    Chem.AssignStereochemistryFrom3D(mol)
                elif add_hs:
                    raise InputError(f"{where}: a flat (2D) drawing; embed it in 3D first")
            return Chem.AddHs(mol, addCoords=True) if add_hs else mol
        except StructokError:
            raise
        except (ValueError, RuntimeError) as error:  # RDKit's own checks are RuntimeErrors
            lines = [line.strip() for line in str(error).strip().split("\n")]
            reason = (lines[1] if lines[0].startswith("Pre-condition") and len(lines) > 1 else lines[0])[:120]
            raise InputError(f"{where}: RDKit rejects the molecule ({reason})") from None


def _sybyl(record: str, where: str) -> str:
    """A MOL2 record with SYBYL's atom types where it has those of GAFF."""
    lines = record.split("\n")
    begin = next((i for i, line in enumerate(lines) if line.startswith("@<TRIPOS>ATOM")), len(lines))
    unknown = []
    for i in range(begin + 1, len(lines)):
        fields = lines[i].split()
        if lines[i].startswith("@") or len(fields) < 6:
            break
        kind = fields[5]
        if kind in _GAFF:
            fields[5] = _GAFF[kind]
            lines[i] = " ".join(fields)
        elif kind not in _elements() and len(kind) == 2 and kind.capitalize() in _elements():
            fields[5] = kind.capitalize()  # CL, BR
            lines[i] = " ".join(fields)
        elif kind.split(".")[0].capitalize() not in _elements() and kind not in _WILD:
            unknown.append(kind)
    if unknown:
        kinds = ", ".join(dict.fromkeys(unknown))[:_SHOWN]
        raise InputError(f"{where}: unknown MOL2 atom types {kinds}; give SYBYL or GAFF types")
    return "\n".join(lines)


@cache
def _radii() -> Float[np.ndarray, " z"]:
    from rdkit.Chem import GetPeriodicTable

    return np.array([GetPeriodicTable().GetRcovalent(n) for n in range(119)])


def bond_lengths(
    mol: Mol,
) -> tuple[Int[np.ndarray, "m 2"], Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Bonded pairs of atoms, lower index first, their distances (Å), and these as parts of what is usual.

    Usual are sums of covalent radii (RDKit's), shortened by the bond order.
    """
    from rdkit import Chem

    orders, coords = Chem.GetAdjacencyMatrix(mol, useBO=True), mol.GetConformer().GetPositions()
    pairs = np.argwhere(orders)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    i, j = pairs.T
    radii = _radii()[[mol.GetAtomWithIdx(k).GetAtomicNum() for k in range(len(coords))]]
    lengths = np.sqrt(np.square(coords[i] - coords[j]).sum(1))
    usual = (radii[i] + radii[j]) * _SHORTER[(2 * orders[i, j]).astype(int)]
    return pairs, lengths, lengths / usual


def is_drawing(mol: Mol) -> bool:
    """Whether a flat conformer is a 2D drawing, whatever its header says.

    Drawings have carbons with three or four neighbours in one plane, hydrogens left out, or bonds of one length,
    hydrogens' too; without its hydrogens a planar molecule counts as drawn unless it is said to be 3D.
    """
    from rdkit.Chem import HybridizationType

    conformer = mol.GetConformer()
    if conformer.GetPositions()[:, 2].any():
        return False
    if not mol.GetNumBonds():
        return mol.GetNumAtoms() > 1
    sp3 = HybridizationType.SP3
    if any(a.GetAtomicNum() == 6 and a.GetHybridization() == sp3 and a.GetDegree() > 2 for a in mol.GetAtoms()):
        return True
    known = not mol.NeedsUpdatePropertyCache()
    if known and not conformer.Is3D() and mol.GetNumAtoms(onlyExplicit=False) > mol.GetNumAtoms():
        return True
    off = np.abs(bond_lengths(mol)[2] - 1)
    return bool(off.mean() > 0.1 or off.max() > 0.3)


def molecule_notes(mol: Mol) -> list[Note]:
    """What tokens of a molecule do not hold."""
    atoms = [mol.GetAtomWithIdx(i) for i in range(mol.GetNumAtoms())]
    notes = []
    if isotopes := sum(a.GetIsotope() > 0 for a in atoms):
        notes.append(Note("isotopes dropped", isotopes, f"{many(isotopes, 'isotope')} not kept"))
    if maps := sum(a.GetAtomMapNum() > 0 for a in atoms):
        notes.append(Note("atom maps dropped", maps, f"{many(maps, 'atom map number')} not kept"))
    return notes
