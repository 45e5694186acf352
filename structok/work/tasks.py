"""What a tokenizing worker does: the structures of one chunk to tokens, written as one shard or handed back."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from structok.errors import InputError
from structok.read.inputs import Item, Reporter, read_units, singles, weight
from structok.read.sources import Unit
from structok.structure import Note, many
from structok.tokenizer import Search
from structok.tokens import STREAMS, AnchorText, Tokens
from structok.work.engines import DIED
from structok.work.log import Failure, Notes, Remark

__all__ = ["Chunk", "Listing", "Outcome", "Quantizer", "Settings", "chunks", "say_what_tokens_lose"]


@dataclass(frozen=True)
class Settings:
    """What decides the tokens of a structure, besides the structure; `threads` 0 leaves torch as it is."""

    model: str | None = None
    device: str = "cpu"
    chain: str | None = None
    add_hs: bool = False
    search: Search = field(default_factory=Search)
    batch_size: int = 32
    format: str = "parquet"
    strict: bool = False
    threads: int = 1
    all_atom: bool = False
    anchors: AnchorText = "none"
    ligands: bool = False
    together: bool = False


@dataclass(frozen=True)
class Chunk:
    """Inputs that are tokenized together.

    Parameters
    ----------
    number : counts from 0; the number of the shard
    units : its inputs
    shard : file to write; None hands the tokens back
    probe : only see whether a worker survives it
    """

    number: int
    units: tuple[Unit, ...]
    shard: Path | None = None
    probe: bool = False

    def __len__(self) -> int:
        return sum(map(weight, self.units))

    def probes(self) -> Iterator[Chunk]:
        return (replace(self, number=i, units=(u,), probe=True) for i, u in enumerate(singles(self.units)))

    def without(self, dead: Collection[int]) -> Chunk:
        units = (replace(u, error=DIED) if i in dead else u for i, u in enumerate(singles(self.units)))
        return replace(self, units=tuple(units))


@dataclass
class Outcome:
    """What came of a chunk: how many chains or molecules, what failed and why, and what was left out or invented.

    `dropped` counts rows that were not wanted by reason, `aside` inputs of another kind.
    """

    inputs: int
    rows: int = 0
    size: int = 0  # bytes of the shard
    dropped: dict[str, int] = field(default_factory=dict)
    aside: int = 0
    failures: list[Failure] = field(default_factory=list)
    notes: list[Remark] = field(default_factory=list)
    tokens: list[Tokens] = field(default_factory=list)  # unless they went into a shard


def say_what_tokens_lose(tokens: Tokens, format: str, log: Reporter, source: str) -> None:
    """Residues without a code for their atoms; and text has no room for the mask."""
    for stream in STREAMS[tokens.modality][1:]:
        codes = getattr(tokens, stream.name)
        if stream.spaced or codes is None:
            continue
        coded = [letter not in stream.bare for letter in tokens.sequence or ""]
        if bare := int((tokens.mask & (codes < 0) & np.array(coded)).sum()):
            text = f"chain {tokens.chain}: {many(bare, 'residue')} with missing or odd atoms, back as their frame only"
            log.note(Note("frames only", bare, text, tokens.chain), source)
    missing = int((~tokens.mask).sum())
    if format == "text" and missing:
        where = "" if tokens.chain is None else f"chain {tokens.chain or '(blank)'}: "
        text = f"{where}text does not say that {missing} of {len(tokens)} residues are missing; jsonl does"
        log.note(Note("mask lost in text", missing, text, tokens.chain), source)


class Quantizer:
    """Tokenizes chunks with a model of its own, loaded when the first chunk needs it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._zoo: Any = None

    def run(self, task: Chunk) -> Outcome:
        """Tokens of a chunk.

        Raises
        ------
        StructokError
            If the model cannot be loaded, the shard cannot be written, or with `strict` an input fails.
        """
        notes = Notes(self.settings.strict)
        encoded = self.encode(partial(read_units, task.units), notes, eager=False)
        outcome = Outcome(len(task), failures=notes.failures, notes=notes.notes)
        if task.probe:
            outcome.rows = sum(1 for _ in encoded)
        elif task.shard is None:
            outcome.tokens = [tokens for _, tokens in encoded]
            outcome.rows = len(outcome.tokens)
        else:
            outcome.rows, outcome.size = write_shard(task.shard, self.settings.format, encoded, self.settings.anchors)
        return outcome

    def encode(
        self, read: Callable[..., Iterable[Item]], log: Reporter, *, eager: bool = True
    ) -> Iterator[tuple[Item, Tokens]]:
        """(item, tokens) of what `read(log, chain, add_hs, wanted)` gives; see `encode_items` for `eager`."""
        from structok.work.stream import Zoo, encode_items, wanted_of

        how = self.settings
        if self._zoo is None:
            if how.threads:
                import torch

                torch.set_num_threads(how.threads)
            self._zoo = Zoo(how.model, how.device, all_atom=how.all_atom)
        items = read(log, chain=how.chain, add_hs=how.add_hs, wanted=wanted_of(how.model, how.all_atom))
        for item, tokens in encode_items(
            items, self._zoo, log, batch_size=how.batch_size, search=how.search, eager=eager
        ):
            say_what_tokens_lose(tokens, how.format, log, item[1])
            yield item, tokens


class _EmptyShard(Exception):
    pass


def write_shard(
    path: Path, format: str, encoded: Iterable[tuple[Item, Tokens]], anchors: AnchorText = "none"
) -> tuple[int, int]:
    """Write tokens with their sources; number of rows and bytes. Without rows there is no file."""
    from structok.files import TokenWriter, open_whole

    rows = 0
    try:
        with open_whole(path) as file:
            writer = TokenWriter(file, format, source=True, anchors=anchors)
            for (_, source, _), tokens in encoded:
                writer.write(tokens, source)
                rows += 1
            if not rows:
                raise _EmptyShard
            writer.close()
            os.fsync(file.fileno())
    except _EmptyShard:
        return 0, 0
    return rows, path.stat().st_size


def chunks(units: Iterable[Unit], size: int, first: int | None = None) -> Iterator[tuple[Unit, ...]]:
    """Units in order, `size` inputs at a time; parquet files are cut. `first` starts smaller, then doubles."""
    most = min(first or size, size)
    chunk: list[Unit] = []
    room = most
    for unit in units:
        while unit.kind == "rows" and weight(unit) > room:
            yield (*chunk, replace(unit, size=room))
            unit = replace(unit, offset=unit.offset + room, size=weight(unit) - room)
            most = min(2 * most, size)
            chunk, room = [], most
        chunk.append(unit)
        room -= weight(unit)
        if not room:
            yield tuple(chunk)
            most = min(2 * most, size)
            chunk, room = [], most
    if chunk:
        yield tuple(chunk)


class Listing:
    """Units, listed again whenever they are iterated, so that memory does not grow with their number.

    Raises `InputError` if there are none, or a later listing differs from the first.

    Parameters
    ----------
    find : lists them

    Attributes
    ----------
    count : how many inputs they are
    digest : of their names
    """

    def __init__(self, find: Callable[[], Iterable[Unit]]) -> None:
        self._find = find
        self.count, self.digest = 0, ""
        for _ in self:
            pass
        if not self.count:
            raise InputError("the inputs hold no structures")

    def __iter__(self) -> Iterator[Unit]:
        digest, count = hashlib.sha256(), 0
        for unit in self._find():
            digest.update(f"{unit.kind}\t{unit.source}\t{unit.size}\n".encode())
            count += weight(unit)
            yield replace(unit, path=os.path.abspath(unit.path)) if unit.path else unit
        if self.digest not in ("", digest.hexdigest()):
            raise InputError("the inputs changed during the run; start again, into another folder")
        self.count, self.digest = count, digest.hexdigest()
