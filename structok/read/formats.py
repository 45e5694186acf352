"""What a file is by its name: THE table of suffixes, and how compressed files are opened."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import zlib
from pathlib import PurePath
from typing import IO, Any

from structok.errors import InputError

__all__ = [
    "ACCEPTED",
    "ARCHIVES",
    "BROKEN",
    "GAPS_SAID",
    "MOLECULES",
    "STRUCTURES",
    "Titles",
    "decompress",
    "open_file",
    "stem_of",
    "suffix_kind",
]

# suffix -> kind; assemblies (.pdb1) and compressed files are stripped down to these
_KINDS = {
    **dict.fromkeys((".pdb", ".ent", ".brk", ".pdbqt"), "pdb"),
    **dict.fromkeys((".cif", ".mmcif", ".pdbx"), "cif"),
    ".bcif": "bcif",
    ".fcz": "fcz",
    **dict.fromkeys((".sdf", ".sd", ".mol"), "sdf"),
    ".mol2": "mol2",
}
MOLECULES = ("sdf", "mol2")
STRUCTURES = ("pdb", "cif", "bcif", "fcz", "foldcomp")  # the last is an entry of a database
GAPS_SAID = "REMARK   6 WRITTEN BY STRUCTOK: WHAT IS NOT IN REMARK 465 IS NOT MISSING"
ARCHIVES = (".tar", ".tar.gz", ".tgz")
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
ACCEPTED = "PDB, PDBQT, mmCIF, BinaryCIF, SDF, MOL, MOL2; also .gz, .bz2, .xz, .zst"
_ASSEMBLY = re.compile(r"(\.(?:pdb|ent))(\d+)$")
BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError)


def _plain_name(path: str | os.PathLike[str]) -> str:
    """File name without the suffix of a compression."""
    name = PurePath(path).name
    return name[: -len(PurePath(name).suffix)] if name.lower().endswith(_COMPRESSED) else name


def _split(path: str | os.PathLike[str]) -> tuple[str, str | None]:
    """Stem and kind of a file by its name; 1abc.pdb2 is called 1abc-assembly2, as the PDB calls its mmCIF."""
    name = _plain_name(path)
    if match := _ASSEMBLY.search(name.lower()):
        return f"{name[: match.start()]}-assembly{match[2]}", _KINDS[match[1]]
    suffix = PurePath(name).suffix
    kind = _KINDS.get(suffix.lower())
    return (name[: -len(suffix)] if kind else name), kind


def suffix_kind(path: str | os.PathLike[str]) -> str | None:
    """'pdb', 'cif', 'bcif', 'fcz', 'sdf' (also .mol) or 'mol2', compressed or not; None when it is none of them."""
    return _split(path)[1]


def stem_of(path: str | os.PathLike[str]) -> str:
    """Name of a structure: the file's name without the suffixes of kind and compression; other dots stay."""
    stem, _ = _split(path)
    return stem or PurePath(path).name


class Titles:
    """Names of the records of one file, no name twice: the title, else stem and number."""

    def __init__(self, stem: str) -> None:
        self._stem = stem
        self._used: dict[str, int] = {}

    def name(self, title: str, number: int) -> str:
        """The name of a record; a title that comes again gets the next free number."""
        title = title or f"{self._stem}-{number}"
        name, again = title, self._used.get(title, 0)
        while name in self._used:
            again += 1
            name = f"{title}_{again + 1}"
        if again:
            self._used[title] = again
        self._used[name] = 0
        return name


def decompress(content: bytes) -> bytes:
    """Bytes of a file as they are, or as they were before gzip, bzip2, xz or zstandard.

    Raises
    ------
    InputError
        If no zstandard library is there.
    OSError, EOFError, zlib.error, lzma.LZMAError
        If it is cut off or damaged.
    """
    if content[:2] == b"\x1f\x8b":
        return gzip.decompress(content)
    if content[:3] == b"BZh":
        try:
            return bz2.decompress(content)
        except ValueError as error:  # cut off
            raise EOFError(str(error)) from None
    if content[:6] == b"\xfd7zXZ\x00":
        return lzma.decompress(content)
    if content[:4] == b"\x28\xb5\x2f\xfd":
        with _zstd(io.BytesIO(content)) as file:
            return file.read()
    return content


def open_file(path: str | os.PathLike[str]) -> IO[bytes]:
    """A binary file, decompressed as it is read; what it is says its content, as for `decompress`."""
    with open(path, "rb") as file:
        head = file.read(6)
    for magic, opener in _OPENERS.items():
        if head.startswith(magic):
            return opener(path)  # type: ignore[no-any-return]
    return open(path, "rb")


def _open_zstd(path: str | os.PathLike[str]) -> Any:
    return _zstd(open(path, "rb"))


_OPENERS: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open, b"\x28\xb5\x2f\xfd": _open_zstd
}  # fmt: skip


def _zstd(file: IO[bytes]) -> Any:
    try:
        from compression import zstd  # Python 3.14
    except ImportError:
        pass
    else:
        return zstd.ZstdFile(file)
    try:
        import zstandard
    except ImportError:
        pass
    else:
        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file, closefd=True))
    try:
        import pyarrow
    except ImportError:
        raise InputError("zstandard files need a library: pip install zstandard") from None
    return io.BufferedReader(_Raw(pyarrow.input_stream(file, compression="zstd")))


class _Raw(io.RawIOBase):
    """A pyarrow stream as a raw file of Python."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            found = self._stream.read(len(buffer))
        except ValueError as error:  # pyarrow's errors
            raise OSError(str(error)) from None
        buffer[: len(found)] = found
        return len(found)
