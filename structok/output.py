"""Rebuilt structures to files: all into one, one per structure into a folder, or to stdout."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from structok.errors import InputError, StructokError
from structok.files import write_whole
from structok.protein.reading import FORMATS
from structok.tokens import Tokens
from structok.work.log import Log

__all__ = ["write_structures"]

_KINDS = {**FORMATS, ".sdf": "sdf"}
_PROTEIN = ("pdb", "cif", "bcif")


def write_structures(
    rebuilt: Iterable[tuple[Tokens, Any]],
    out: Path | None,
    format: str | None,
    *,
    oxygen: bool,
    force: bool,
    log: Log,
) -> None:
    """Write chains of one structure into one file each; molecules as SDF.

    `out` with a structure suffix is one file, otherwise a folder of `<id>.<format>`; None is stdout.
    """
    kind = _KINDS.get(_suffix(out)) if out is not None else None
    if out is not None and (kind is None or out.is_dir()):
        for name, chains in _grouped(rebuilt):
            path = out / f"{name}.{_kind(chains[0], format, None)}"
            try:
                _write(chains, path, format, oxygen, force)
            except StructokError as error:
                log.error(error)
        return
    groups = list(_grouped(rebuilt))
    if not groups:
        return
    everything = [s for _, chains in groups for s in chains]
    chosen = _kind(everything[0], format, kind)
    if chosen in _PROTEIN and len(groups) > 1:
        raise InputError(f"{len(groups)} structures do not fit one {chosen} file; give a folder: -o rebuilt/")
    if out is None:
        sys.stdout.buffer.write(_body(everything, chosen, oxygen, "stdout"))
        sys.stdout.buffer.flush()
    else:
        _write(everything, out, chosen, oxygen, force)


def _grouped(rebuilt: Iterable[tuple[Tokens, Any]]) -> Iterator[tuple[str, list[Any]]]:
    """Runs of chains of one structure, under a name that is used once."""
    used: dict[str, int] = {}
    name = ""
    chains: list[Any] = []
    ids: set[str] = set()

    def named() -> tuple[str, list[Any]]:
        stem = "".join("_" if c in '/\\:*?"<>|\0' else c for c in name) or "structure"
        used[stem] = used.get(stem, 0) + 1
        return (stem if used[stem] == 1 else f"{stem}_{used[stem]}"), chains

    for tokens, structure in rebuilt:
        same = chains and tokens.modality == "protein" and tokens.id == name and (tokens.chain or "A") not in ids
        if chains and not same:
            yield named()
            chains, ids = [], set()
        name = tokens.id
        chains.append(structure)
        ids.add(tokens.chain or "A")
    if chains:
        yield named()


def _suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _kind(structure: Any, format: str | None, from_suffix: str | None) -> str:
    """Format by -f, else by suffix, else pdb or sdf; refused where it cannot hold the structure."""
    protein = hasattr(structure, "coords")
    kind = format or from_suffix or ("pdb" if protein else "sdf")
    if protein != (kind in _PROTEIN):
        raise InputError(f"{'proteins' if protein else 'molecules'} cannot be written as {kind}")
    return kind


def _body(structures: list[Any], kind: str, oxygen: bool, label: str) -> bytes:
    if kind == "sdf":
        from structok.molecule.conformer import write_sdf

        text = io.StringIO()
        write_sdf(structures, text)
        return text.getvalue().encode()
    from structok.protein.structure import structure_bytes

    return structure_bytes(structures, kind, oxygen=oxygen, label=label)


def _write(structures: list[Any], path: Path, format: str | None, oxygen: bool, force: bool) -> None:
    if path.exists() and not force:
        raise InputError(f"{path}: exists; --force overwrites it")
    kind = _kind(structures[0], format, _KINDS.get(_suffix(path)))
    write_whole(path, _body(structures, kind, oxygen, str(path)))
