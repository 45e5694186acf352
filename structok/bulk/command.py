"""What `structok quantize` does with its options, and what it says."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from structok.bulk.tasks import Settings, say_what_text_loses
from structok.errors import InputError, StructokError
from structok.structure import Note, many
from structok.tokens import Tokens

if TYPE_CHECKING:
    from structok.jobs import Log

__all__ = ["into_folder", "into_stream"]

_SHOWN = 20  # failures on stderr; the file has them all


def into_stream(inputs: list[str], out: Path | None, settings: Settings, workers: int | None, quiet: bool) -> None:
    """Tokenize to stdout or into one file, in the order of the inputs."""
    from structok.files import TokenWriter, open_whole
    from structok.jobs import Log

    log = Log(settings.strict, quiet)
    found = _shared(inputs, settings, workers, log) if workers else _alone(inputs, settings, log)
    encoded = log.track(found, "tokenizing")
    if out is None:
        writer = TokenWriter(sys.stdout.buffer, settings.format)
        for tokens in encoded:
            writer.write(tokens)
            sys.stdout.buffer.flush()  # whoever reads the pipe need not wait
        writer.close()
    else:
        with open_whole(out) as file:
            writer = TokenWriter(file, settings.format)
            for tokens in encoded:
                writer.write(tokens)
            writer.close()
            if not log.done:
                raise StructokError(f"{out}: not written, no input could be tokenized")
    log.finish()


def _alone(inputs: list[str], settings: Settings, log: Log) -> Iterator[Tokens]:
    """In this process, with all its threads."""
    from structok.jobs import Zoo, encode_items
    from structok.read.inputs import read_inputs

    zoo = Zoo(settings.model, settings.device)
    items = read_inputs(inputs, log, chain=settings.chain, add_hs=settings.add_hs)
    for item, tokens in encode_items(items, zoo, log, batch_size=settings.batch_size, options=settings.options):
        say_what_text_loses(tokens, settings.format, log, item[1])
        yield tokens


def _shared(inputs: list[str], settings: Settings, workers: int, log: Log) -> Iterator[Tokens]:
    """By worker processes."""
    from structok.bulk.run import quantize_stream

    for outcome in quantize_stream(inputs, settings, workers):
        for source, reason in outcome.failures:
            log.error(InputError(f"{source}: {reason}"), source)
        for source, kind, count, text in outcome.notes:
            log.note(Note(kind, count, text), source)
        yield from outcome.tokens


def into_folder(
    inputs: list[str],
    out: Path,
    settings: Settings,
    shard_size: int,
    shard: str | None,
    engine: str,
    workers: int | None,
    force: bool,
) -> None:
    """Tokenize into a folder of shards and say what came of it; exit status 1 if an input failed."""
    from structok.bulk.engines import usable_cores
    from structok.bulk.folder import TokenFolder
    from structok.bulk.run import quantize_folder

    folder = TokenFolder(out, settings.format)
    if folder.foreign():
        raise typer.BadParameter(f"{out} holds other files; give a new or an empty folder")
    if workers is None and engine == "local":
        workers = usable_cores() if settings.device == "cpu" else 1
    began = time.monotonic()
    part = _part(shard)
    try:
        summary = quantize_folder(
            inputs, out, settings,
            shard_size=shard_size, part=part, engine=engine, workers=workers or 0, force=force,
        )  # fmt: skip
    except KeyboardInterrupt:
        print(f"structok: {out}: finished shards are kept; the same command goes on from there", file=sys.stderr)
        raise
    seconds = time.monotonic() - began
    _say(
        f"{out}: {summary.rows} tokenized, {summary.failed} failed of {summary.inputs} inputs, "
        f"{summary.shards} shards, {seconds:.0f} s"
    )
    if summary.missing:
        _say(f"{summary.missing} shards are left to other parts of --shard")
    if summary.notes:
        _say(f"{many(summary.notes, 'note')} on what was left out or invented: {folder.notes}")
    if summary.failed:
        with folder.failures.open("rb") as file:
            for failure in map(json.loads, islice(file, _SHOWN)):
                _say(f"error: {failure['input']}: {failure['reason']}")
        _say(f"all failures are listed in {folder.failures}")
        sys.exit(1)


def _part(shard: str | None) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", shard or "1/1")
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise typer.BadParameter(f"--shard {shard}: give I/N with I from 1 to N, such as 3/8")
    return int(found[1]), int(found[2])


def _say(text: str) -> None:
    print(f"structok: {text}", file=sys.stderr)
