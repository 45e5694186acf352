"""Reading and writing files of molecules, record by record: SDF, MOL, MOL2, plain or gzipped."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from structok.errors import InputError, StructokError

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["FORMATS", "parse_record", "read_molecules", "record_title", "split_records", "write_sdf"]

FORMATS = {".sdf": "sdf", ".sd": "sdf", ".mol": "mol", ".mol2": "mol2"}


def read_molecules(
    source: str | os.PathLike[str] | IO[bytes], fmt: str | None = None, add_hs: bool = False
) -> Iterator[tuple[str, Mol | StructokError]]:
    """Stream the molecules of a file as (id, sanitised Mol with its hydrogens).

    A record that cannot be read yields its error instead, and the stream goes on. The id is the record's
    title, or the file's stem and the record's number.

    Parameters
    ----------
    source : path (`.sdf`, `.mol`, `.mol2`, each also with `.gz`) or a binary file, such as stdin
    fmt : 'sdf', 'mol' or 'mol2'; default: by the path's suffix, or by what stdin begins with
    add_hs : add missing hydrogens, with coordinates

    Raises
    ------
    InputError
        If the file does not exist or its kind is unknown.
    """
    if not isinstance(source, (str, os.PathLike)):
        yield from _records(source, fmt or _sniff(source), "stdin", add_hs)
        return
    path = Path(source)
    suffixes = [s.lower() for s in path.suffixes]
    zipped = bool(suffixes) and suffixes[-1] == ".gz"
    if zipped:
        suffixes.pop()
    kind = fmt or FORMATS.get(suffixes[-1] if suffixes else "", "")
    if kind not in FORMATS.values():
        raise InputError(f"{path}: unknown kind of molecule file; expected {', '.join(FORMATS)} (also .gz)")
    try:
        opened: Any = gzip.open(path) if zipped else open(path, "rb")  # noqa: SIM115
        with opened as file:
            yield from _records(file, kind, path.name, add_hs)
    except (OSError, EOFError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def _sniff(file: IO[bytes]) -> str:
    head = file.peek(4096) if hasattr(file, "peek") else b""
    return "mol2" if b"@<TRIPOS>" in head else "sdf"


def _records(file: IO[bytes], fmt: str, where: str, add_hs: bool) -> Iterator[tuple[str, Mol | StructokError]]:
    stem = where.split(".")[0]
    count = 0
    for count, record in enumerate(split_records(file, fmt), start=1):
        name = f"{where}, record {count}"
        try:
            title = record_title(record, fmt) or f"{stem}-{count}"
            yield title, parse_record(record, fmt, f"{name} ({title})", add_hs)
        except StructokError as error:
            yield f"{stem}-{count}", error
    if not count:
        raise InputError(f"{where}: holds no molecule")


def split_records(file: IO[bytes], fmt: str) -> Iterator[str]:
    """Text of each record; the file is read line by line and never held whole."""
    lines: list[str] = []
    for raw in file:
        line = raw.decode("utf-8", errors="replace").rstrip("\r\n")
        if fmt == "mol2" and line.startswith("@<TRIPOS>MOLECULE"):
            if any(part.startswith("@<TRIPOS>MOLECULE") for part in lines):
                yield "\n".join(lines) + "\n"
            lines = []
        if fmt == "sdf" and line.startswith("$$$$"):
            yield "\n".join(lines) + "\n"
            lines = []
        else:
            lines.append(line)
    if any(line.strip() for line in lines):
        yield "\n".join(lines) + "\n"


def record_title(record: str, fmt: str) -> str:
    """Title of a record, '' if it has none."""
    return record.split("\n")[1 if fmt == "mol2" else 0].strip()


def parse_record(record: str, fmt: str, where: str, add_hs: bool) -> Mol:
    """Sanitised Mol of one record; `where` names it in messages."""
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        if fmt == "mol2":
            mol = Chem.MolFromMol2Block(record, sanitize=False, removeHs=False)
        else:
            mol = Chem.MolFromMolBlock(record, sanitize=False, removeHs=False)
        if mol is None:
            raise InputError(f"{where}: not a {fmt.upper()} record that RDKit can read; check its atom and bond lines")
        try:
            Chem.SanitizeMol(mol)
            if mol.GetNumConformers() and mol.GetConformer().Is3D():
                Chem.AssignStereochemistryFrom3D(mol)
            return Chem.AddHs(mol, addCoords=True) if add_hs else mol
        except ValueError as error:
            reason = str(error).strip().split("\n")[0]
            raise InputError(f"{where}: RDKit rejects the molecule ({reason})") from None


def write_sdf(mols: Iterable[Mol], file: str | os.PathLike[str] | IO[str]) -> None:
    """Write molecules as SDF, to a path or an open text file, one after the other."""
    from rdkit import Chem

    if hasattr(file, "write"):
        for mol in mols:
            file.write(Chem.MolToMolBlock(mol) + "$$$$\n")
        return
    with open(file, "w") as out:
        write_sdf(mols, out)
