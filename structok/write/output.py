"""Rebuilt structures to files: all into one, one per structure into a folder, or to stdout."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from structok.errors import InputError, StructokError
from structok.files import write_whole
from structok.read.formats import suffix_kind
from structok.structure import Note
from structok.tokens import Tokens
from structok.work.log import Log

__all__ = ["write_structures"]

_LONGEST = 180  # bytes of a file name before its suffix
_FEW = ("pdb", "cif", "bcif")  # formats of files that hold one structure


class _Made(NamedTuple):
    """A rebuilt structure, and the formats that its tokenizer says can hold it, the usual one first."""

    structure: Any
    formats: tuple[str, ...]


def write_structures(
    rebuilt: Iterable[tuple[Tokens, Any]],
    out: Path | None,
    format: str | None,
    *,
    tokenizer: Callable[[str, str], Any],
    oxygen: bool,
    force: bool,
    log: Log,
) -> None:
    """Write chains of one structure into one file each; molecules as SDF.

    `out` with a structure suffix is one file, otherwise a folder of `<id>.<format>`; None is stdout. What cannot be
    written is reported, and the others are. `tokenizer` is that of a modality and a model's name.
    """
    kind = suffix_kind(out) if out is not None else None
    grouped = _grouped(rebuilt, tokenizer)
    if out is not None and (kind is None or out.is_dir()):
        names = _Names(log)
        for id, made in grouped:
            try:
                stem = names.name(id)
                polymers, ligands = _split(made)
                main = polymers or ligands
                _write(main, out / f"{stem}.{_kind(main[0], format, None)}", format, oxygen, force)
                for one in ligands if polymers else []:
                    _write([one], out / f"{names.name(f'{stem}_{_title(one.structure)}')}.sdf", None, oxygen, force)
            except StructokError as error:
                log.error(error)
            except OSError as error:
                log.error(InputError(f"{id[:60]}: cannot be written ({error.strerror or error})"))
        return
    groups = list(grouped)
    if not groups:
        return
    everything = [one for _, made in groups for one in made]
    chosen = _kind((_split(everything)[0] or everything)[0], format, kind)
    if chosen in _FEW and len(groups) > 1:
        raise InputError(f"{len(groups)} structures do not fit one {chosen} file; give a folder: -o rebuilt/")
    if out is None:
        sys.stdout.buffer.write(_body(everything, chosen, oxygen, "stdout"))
        sys.stdout.buffer.flush()
    else:
        _write(everything, out, chosen, oxygen, force)


def _grouped(
    rebuilt: Iterable[tuple[Tokens, Any]], tokenizer: Callable[[str, str], Any]
) -> Iterator[tuple[str, list[_Made]]]:
    """Runs of chains of one structure, with its id, or of all that lies in one frame, with the frame's name."""
    name = frame = ""
    made: list[_Made] = []
    ids: set[str] = set()
    for tokens, structure in rebuilt:
        formats = tokenizer(tokens.modality, tokens.model).formats
        id = tokens.chain or "A"
        if formats[0] in _FEW:
            same = id not in ids and (tokens.frame == frame if tokens.frame else tokens.id == name and not frame)
        else:
            same, id = bool(tokens.frame) and tokens.frame == frame, ""
        if made and not same:
            yield name, made
            made, ids = [], set()
        name, frame = tokens.frame or tokens.id, tokens.frame
        made.append(_Made(structure, formats))
        ids.add(id)
    if made:
        yield name, made


class _Names:
    """File names of ids: none comes twice, not even where capitals do not count, and none is too long."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._used: dict[str, int] = {}

    def name(self, id: str) -> str:
        """A name for the next structure of this id."""
        stem = "".join("_" if c in '/\\:*?"<>|' or ord(c) < 32 else c for c in id) or "structure"
        stem = f"_{stem[1:]}" if stem.startswith(".") else stem  # a hidden file
        short = stem.encode()[:_LONGEST].decode(errors="ignore")
        name, again = short, self._used.get(short.casefold(), 1)
        while name.casefold() in self._used:
            again += 1
            name = f"{short}_{again}"
        if again > 1:
            self._used[short.casefold()] = again
        self._used[name.casefold()] = 1
        if short != stem:
            self._log.note(Note("names shortened", 1, f"too long for a file name, written as {name[:60]}…"), id[:60])
        return name


def _kind(made: _Made, format: str | None, from_suffix: str | None) -> str:
    """Format by -f, else by suffix, else the usual one; refused where it cannot hold the structure."""
    kind = format or from_suffix or made.formats[0]
    if kind not in made.formats:
        raise InputError(f"{kind} cannot hold this kind of structure; it can be written as {', '.join(made.formats)}")
    return kind


def _split(made: list[_Made]) -> tuple[list[_Made], list[_Made]]:
    """Polymers, which share a file, and molecules, each a record of its own."""
    polymers = [one for one in made if one.formats[0] in _FEW]
    return polymers, [one for one in made if one.formats[0] not in _FEW]


def _title(mol: Any) -> str:
    return (mol.GetProp("_Name") if mol.HasProp("_Name") else "") or "ligand"


def _body(made: list[_Made], kind: str, oxygen: bool, label: str) -> bytes:
    polymers, ligands = ([one.structure for one in some] for some in _split(made))
    if polymers and ligands:
        from structok.complex import Complex, complex_bytes

        return complex_bytes(Complex(polymers, ligands, polymers[0].name), kind, label, oxygen=oxygen)
    if kind == "sdf":
        from structok.write.structures import write_sdf

        text = io.StringIO()
        write_sdf(ligands, text)
        return text.getvalue().encode()
    from structok.write.structures import structure_bytes

    return structure_bytes(polymers, kind, oxygen=oxygen, label=label)


def _write(made: list[_Made], path: Path, format: str | None, oxygen: bool, force: bool) -> None:
    if path.exists() and not force:
        raise InputError(f"{path}: exists; --force overwrites it")
    kind = _kind((_split(made)[0] or made)[0], format, suffix_kind(path))
    write_whole(path, _body(made, kind, oxygen, str(path)))
