"""Where structures lie: files, folders, globs, tar archives, SDF files and foldcomp databases, as a stream of units."""

from __future__ import annotations

import glob
import io
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import IO, Any

from structok.errors import InputError
from structok.read.formats import (
    ACCEPTED,
    ARCHIVES,
    BROKEN,
    MOLECULES,
    Titles,
    decompress,
    open_file,
    stem_of,
    suffix_kind,
)
from structok.read.molecules import record_title, split_records

__all__ = ["Unit", "check_inputs", "find_units", "printable"]

_BROKEN = (*BROKEN, tarfile.TarError)


@dataclass(frozen=True)
class Unit:
    """One structure file, archive member, database entry or molecule record.

    Parameters
    ----------
    source : what to call it: path, archive/member, 'x.sdf, record 3', or 'database, entry 7'
    kind : 'pdb', 'cif', 'bcif', 'fcz', 'foldcomp' (a database entry), 'sdf' (also MOL) or 'mol2'
    path : file that holds it
    offset, size : its bytes in an uncompressed archive; of a database entry, the offset is its number
    content : its bytes, where the file can only be read as a stream
    error : why it cannot be read
    title : name of a molecule record, unique in its file; of a structure, where the file before has its name too
    """

    source: str
    kind: str
    path: str = ""
    offset: int = 0
    size: int | None = None
    content: bytes | None = None
    error: str | None = None
    title: str = ""

    @property
    def modality(self) -> str:
        return "molecule" if self.kind in MOLECULES else "protein"

    @property
    def format(self) -> str:
        """Format of what `read` gives."""
        return "pdb" if self.kind in ("fcz", "foldcomp") else self.kind

    @property
    def name(self) -> str:
        """Title of a record, stem of a file as `read_structure` names it."""
        return self.title or stem_of(self.source)

    def read(self) -> bytes:
        """Its bytes; foldcomp entries come as PDB.

        Raises
        ------
        InputError
            If it cannot be read.
        """
        if self.error:
            raise InputError(f"{self.source}: {self.error}")
        try:
            if self.kind == "foldcomp":
                return _as_pdb(*_database(self.path)[self.offset])
            body = self._bytes()
            if self.kind == "fcz":
                return _as_pdb(*_foldcomp().decompress(decompress(body)))
        except InputError:
            raise
        except Exception as error:  # foldcomp has errors of its own
            raise InputError(f"{self.source}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
        if self.size is not None and len(body) < self.size:
            raise InputError(f"{self.source}: cut off, its archive ends too early")
        return body

    def _bytes(self) -> bytes:
        if self.content is not None:
            return self.content
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read() if self.size is None else file.read(self.size)


def _as_pdb(name: str, text: str) -> bytes:
    # foldcomp holds predictions only, and calls them by their file names
    return f"HEADER    PREDICTION\n{text}".encode()


def _foldcomp() -> Any:
    try:
        import foldcomp
    except ImportError:
        raise InputError("foldcomp files need foldcomp: pip install 'structok[afdb]'") from None
    return foldcomp


@lru_cache(maxsize=1)
def _database(path: str) -> Any:
    return _foldcomp().open(path)


def check_inputs(inputs: Iterable[str]) -> None:
    """Refuse inputs that do not exist.

    Raises
    ------
    InputError
        Naming the first.
    """
    for name in inputs:
        if not os.path.exists(name) and not glob.glob(name, recursive=True):
            raise InputError(f"{name}: no such file or folder")
        if _is_database(name):
            _foldcomp()


def find_units(inputs: Iterable[str]) -> Iterator[Unit]:
    """All structures of files, folders (with everything below), globs, tar archives and foldcomp databases.

    The order depends on the names alone. What cannot be opened comes as a unit with an error.
    """
    for name in inputs:
        empty = True
        for path in [name] if os.path.exists(name) else sorted(glob.glob(name, recursive=True)):
            for unit in _below(path) if os.path.isdir(path) else _of_file(path):
                empty = False
                yield unit
        if empty:
            yield Unit(printable(name), "", error=f"holds no structures of a known kind ({ACCEPTED})")


def printable(path: str) -> str:
    """The path with bytes that are no UTF-8 replaced, so that it can be written to files."""
    return os.fsencode(path).decode("utf-8", errors="replace")


def _is_database(path: str) -> bool:
    return all(os.path.isfile(path + suffix) for suffix in ("", ".index", ".dbtype"))


def _below(folder: str) -> Iterator[Unit]:
    try:
        with os.scandir(folder) as entries:
            found = sorted((e.name, e.is_dir(follow_symlinks=False), e.is_file()) for e in entries)
    except OSError as error:
        yield Unit(printable(folder), "", error=f"cannot be read ({error.strerror})")
        return
    for name, is_folder, is_file in found:
        path = os.path.join(folder, name)
        if is_folder:
            yield from _below(path)
        elif is_file:
            yield from _of_file(path)


def _of_file(path: str) -> Iterator[Unit]:
    """Units of one file; none if it is of no known kind."""
    source, kind = printable(path), suffix_kind(path)
    try:
        if path.lower().endswith(ARCHIVES):
            yield from _members(path)
        elif kind in MOLECULES:
            unit: Unit | None = None
            with open_file(path) as file:
                for unit in _records(file, kind, source):
                    yield unit
            if unit is None:
                yield Unit(source, "", error="holds no molecule")
        elif kind:
            yield Unit(source, kind, path)
        elif _is_database(path):
            for number in range(len(_database(path))):
                yield Unit(f"{source}, entry {number}", "foldcomp", path, number)
    except _BROKEN as error:
        reason = getattr(error, "strerror", None) or error
        yield Unit(source, "", error=f"cannot be read to its end ({reason})")


def _members(path: str) -> Iterator[Unit]:
    """Structures of a tar archive. A plain archive is read by offset, a compressed one as a stream."""
    plain = path.lower().endswith(".tar")
    archive: Any
    with tarfile.open(path, "r:" if plain else "r|gz") as archive:
        while (member := archive.next()) is not None:
            archive.members = []  # or it would remember them all
            kind = suffix_kind(member.name)
            if not kind or not member.isfile():
                continue
            source = printable(f"{path}/{member.name}")
            if plain and kind not in MOLECULES:
                yield Unit(source, kind, path, member.offset_data, member.size)
                continue
            body = archive.extractfile(member).read()
            if kind in MOLECULES:
                yield from _records(io.BytesIO(decompress(body)), kind, source)
            else:
                yield Unit(source, kind, path, size=member.size, content=body)


def _records(file: IO[bytes], kind: str, source: str) -> Iterator[Unit]:
    titles = Titles(stem_of(source))
    for number, record in enumerate(split_records(file, kind), 1):
        title = titles.name(record_title(record, kind), number)
        yield Unit(f"{source}, record {number}", kind, content=record.encode(), title=title)
