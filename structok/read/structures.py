"""From a path or bytes to `Structure` and `Backbone`: PDB, PDBQT, mmCIF, BinaryCIF, compressed or not."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any, Literal

from structok.errors import InputError
from structok.read.assemble import assemble
from structok.read.cif import read_bcif, read_cif
from structok.read.formats import ACCEPTED, BROKEN, MOLECULES, Titles, decompress, stem_of, suffix_kind
from structok.read.pdb import read_pdb
from structok.read.table import Table
from structok.structure import Backbone, Polymer, Structure

__all__ = ["as_backbone", "backbones", "parse_structures", "read_structure", "structure", "structures"]

logger = logging.getLogger("structok")

Atoms = Literal["all", "backbone"]


def structure(source: Any, *, atoms: Atoms = "all", format: str | None = None, name: str | None = None) -> Structure:
    """The structure that a file holds: `.proteins`, `.nucleic`, `.ligands`, `.solvent`, in one frame; first model.

    Parameters
    ----------
    source : path, or a binary file object such as `sys.stdin.buffer`
    atoms : 'all', or 'backbone' for proteins without side chains, at a fraction of the time
    format : 'pdb', 'cif' or 'bcif'; default by suffix, or by content
    name : of the structure; default the file's stem

    Raises
    ------
    InputError
        If the file cannot be read, or its data blocks hold several structures (then use `structures`).
    """
    found = structures(source, atoms=atoms, format=format, name=name)
    if len(found) > 1:
        blocks = ", ".join(s.name for s in found)
        raise InputError(
            f"{_label(source)}: {len(found)} data blocks ({blocks}); structok.read.structures gives them all"
        )
    return found[0]


def structures(
    source: Any, *, atoms: Atoms = "all", format: str | None = None, name: str | None = None
) -> list[Structure]:
    """As `structure`, one for each data block of an mmCIF that has atoms, named after file and block."""
    label = _label(source)
    stem = name if name is not None else ("stdin" if label == "stdin" else stem_of(label))
    try:
        if isinstance(source, (str, os.PathLike)):
            with open(source, "rb") as file:
                content = file.read()
        else:
            content = source.read()
    except FileNotFoundError:
        raise InputError(f"{label}: no such file") from None
    except OSError as error:
        raise InputError(f"{label}: cannot be read ({error.strerror or error})") from None
    return parse_structures(content, format or suffix_kind(label), stem, label, atoms=atoms)


def parse_structures(
    content: bytes, kind: str | None, name: str, label: str, *, atoms: Atoms = "backbone"
) -> list[Structure]:
    """Structures of a file's content; `kind` None goes by the content.

    Raises
    ------
    InputError
        One line that starts with `label`.
    """
    if kind in MOLECULES or kind == "fcz":
        raise InputError(f"{label}: holds no protein structure; expected {ACCEPTED}")
    try:
        content = _clean(decompress(content))
    except BROKEN as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InputError(f"{label}: cannot be read ({reason}); expected {ACCEPTED}") from None
    if not content.strip():
        raise InputError(f"{label}: the file is empty")
    kind = kind or _sniff(content)
    only_backbone = atoms == "backbone"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # biotite's notes on fallback columns
            tables = _tables(content, kind, only_backbone)
    except InputError:
        raise
    except Exception as error:  # damaged files trip parsers in many ways
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        other = _sniff(content)
        hint = "" if other == kind else f"; it looks like {other}"
        raise InputError(f"{label}: not a {kind} file, or a broken one ({reason}){hint}") from None
    blocks = Titles("block")
    names = [name] if len(tables) == 1 else [f"{name}_{blocks.name(t.block, i)}" for i, t in enumerate(tables, 1)]
    return [assemble(t, n, label, only_backbone=only_backbone) for t, n in zip(tables, names)]


def _tables(content: bytes, kind: str, only_backbone: bool) -> list[Table]:
    if kind == "pdb":
        return [read_pdb(content, only_backbone)]
    if kind == "bcif":
        return read_bcif(content, only_backbone)
    if kind != "cif":
        raise ValueError(f"unknown format {kind!r}; pdb, cif or bcif")
    return read_cif(_text(content), only_backbone)


def _clean(content: bytes) -> bytes:
    """Without a byte-order mark; UTF-16 as UTF-8."""
    if content[:3] == b"\xef\xbb\xbf":
        return content.replace(b"\xef\xbb\xbf", b"")  # files that were put together have more of them
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16", errors="replace").encode()
    return content


def _text(content: bytes) -> str:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _sniff(content: bytes) -> str:
    if content[:1] and (0x80 <= content[0] <= 0x8F or content[0] in (0xDE, 0xDF)):
        return "bcif"  # a MessagePack map
    head = content[:4096].decode("latin-1").lstrip()
    return "cif" if head.startswith(("data_", "#", "loop_")) else "pdb"


def _label(source: Any) -> str:
    return str(source) if isinstance(source, (str, os.PathLike)) else "stdin"


def read_structure(
    source: Any,
    chain: str | None = None,
    *,
    format: str | None = None,
    name: str | None = None,
    atoms: Atoms = "backbone",
) -> list[Backbone]:
    """Protein chains of a PDB, PDBQT, mmCIF or BinaryCIF file (.gz, .bz2, .xz, .zst too); first model.

    Of alternative locations the most occupied counts, residue by residue. Modified residues such as MSE keep their
    parent's letter, force-field names such as HSE that of what they stand for. Residues missing in the chain get a
    slot with `mask` False, see `structok.read.chains.with_gaps`. Chains that a TER or repeated numbers keep apart get
    ids of their own. All that is left out, invented or changed is told to the logger 'structok'.

    Parameters
    ----------
    source : path, or a binary file object such as `sys.stdin.buffer`
    chain : chain id of the file's author; default all
    format : 'pdb', 'cif' or 'bcif'; default by suffix, or by content
    name : name for the chains; default the file's stem
    atoms : 'all' keeps side chains in `backbone.entity.atoms`

    Raises
    ------
    InputError
        If the file cannot be read, holds no protein backbone, has no such chain, or has non-finite coordinates.
    """
    label = _label(source)
    found = structures(source, atoms=atoms, format=format, name=name)
    chains = [b for s in found for b in backbones(s, chain, label)]
    for s in found:
        for note in s.notes:
            if not note.routine and chain in (None, note.chain):
                logger.info("%s: %s", label, note)
    return chains


def backbones(found: Structure, chain: str | None, label: str) -> Iterator[Backbone]:
    """Backbones of all protein chains, or of one.

    Raises
    ------
    InputError
        If there is no such chain, or no protein.
    """
    skipped = {n.chain: n.text.split("skipped, ")[-1] for n in found.notes if n.kind == "chains skipped"}
    ids = [p.chain_id for p in found.polymers] + list(skipped)
    if chain is not None and chain not in ids:
        raise InputError(f"{label}: no chain {chain!r}; it has {', '.join(i or '(blank)' for i in ids)}")
    chosen: list[Polymer] = [p for p in found.proteins if chain in (None, p.chain_id)]
    if not chosen:
        which = "no protein chain" if chain is None else f"chain {chain!r} is no protein backbone"
        reason = skipped.get(chain) if chain is not None else next(iter(reversed(list(skipped.values()))), None)
        raise InputError(f"{label}: {which} ({reason or 'no amino acids'})")
    for polymer in chosen:
        yield polymer.backbone()


def as_backbone(x: Any) -> Backbone:
    """A `Backbone` from a `Backbone`, a path (one protein chain), a biotite `AtomArray` or an array [L, 3, 3]."""
    if isinstance(x, Backbone):
        return x
    if isinstance(x, (str, os.PathLike)):
        chains, label = read_structure(x), os.fspath(x)
    elif hasattr(x, "get_annotation_categories"):
        from structok.read.arrays import table_of

        label = "AtomArray"
        chains = list(backbones(assemble(table_of(x), "", label, only_backbone=True), None, label))
    else:
        return Backbone(x)
    if len(chains) > 1:
        ids = ", ".join(c.chain_id for c in chains)
        raise InputError(
            f"{label}: holds protein chains {ids}; pick one: read_structure(path, chain={chains[0].chain_id!r})"
        )
    return chains[0]
