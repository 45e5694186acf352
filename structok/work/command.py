"""`structok quantize | decode | evaluate`. Imports nothing heavy by itself."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from structok.errors import InputError, StructokError
from structok.options import (
    AddHs,
    AllAtoms,
    Batch,
    Beam,
    Chain,
    Device,
    Force,
    Inputs,
    Loop,
    Model,
    Out,
    Quiet,
    Rate,
    Strict,
    refuse_overwrite,
)
from structok.streams import AnchorText

if TYPE_CHECKING:
    from structok.tokens import Tokens
    from structok.work.log import Log
    from structok.work.tasks import Settings

__all__ = ["decode", "evaluate", "into_folder", "into_stream", "quantize"]


TokenFormat = Literal["jsonl", "text", "csv", "parquet"]
StructureFormat = Literal["pdb", "cif", "sdf"]


def quantize(
    inputs: Inputs,
    model: Model = None,
    chain: Chain = None,
    format: Annotated[
        TokenFormat | None, typer.Option("-f", "--format", help="default by suffix, else jsonl; parquet in folders")
    ] = None,
    out: Annotated[str | None, typer.Option("-o", "--out", help="file, or folder/ for shards; default stdout")] = None,
    closed_loop: Loop = None,
    beam: Beam = None,
    rate_weight: Rate = None,
    device: Device = "cpu",
    batch_size: Batch = 32,
    add_hs: AddHs = False,
    all_atom: AllAtoms = False,
    ligands: Annotated[bool, typer.Option("--ligands", help="also the ligands of structure files")] = False,
    together: Annotated[
        bool, typer.Option("--complex", help="all inputs lie in one frame: a receptor and SDFs")
    ] = False,
    anchors: Annotated[
        AnchorText,
        typer.Option("--anchors", help="where text has them; other formats always do"),
    ] = "none",
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="processes, a model each; default all cores for a folder")
    ] = None,
    shard_size: Annotated[int, typer.Option("--shard-size", min=1, help="inputs per shard of a folder")] = 1024,
    shard: Annotated[str | None, typer.Option("--shard", metavar="I/N", help="every N-th shard only")] = None,
    engine: Annotated[
        Literal["local", "ray"], typer.Option("--engine", help="who makes the shards of a folder")
    ] = "local",
    force: Force = False,
    strict: Strict = False,
    quiet: Quiet = False,
) -> None:
    """Structures to tokens: PDB, mmCIF, BinaryCIF, foldcomp (proteins), SDF, MOL, MOL2 (molecules), .gz, .tar, parquet.

    What is left out of a file, or invented, is said on stderr. Into a folder (-o tokens/) it makes shards, goes on
    where it was stopped, and lists what failed.
    """
    from structok.files import token_format
    from structok.tokenizer import Search
    from structok.work.tasks import Settings

    path = Path(out) if out else None
    folder = path is not None and (path.is_dir() or str(out).endswith("/"))
    if not folder and (shard or engine != "local"):
        raise typer.BadParameter("--shard and --engine need an output folder: -o tokens/")
    kind = format or ("parquet" if folder else token_format(path))
    settings = Settings(
        model, device, chain, add_hs, Search(closed_loop, beam, None, rate_weight), batch_size, kind, strict,
        all_atom=all_atom, anchors=anchors, ligands=ligands, together=together,
    )  # fmt: skip
    if (ligands or together) and (folder or workers or chain or "-" in inputs):
        raise typer.BadParameter("--complex and --ligands take files and write one file or stdout, in one process")
    if path is not None and folder:
        into_folder(inputs, path, settings, shard_size, shard, engine, workers, force)
    else:
        refuse_overwrite(path, force)
        if kind == "parquet" and path is None:
            raise typer.BadParameter("parquet needs a file: -o tokens.parquet")
        into_stream(inputs, path, settings, workers, quiet)


def decode(
    tokens: Annotated[str, typer.Argument(metavar="TOKENS", help="jsonl, text, csv or parquet; - for stdin")],
    out: Out = None,
    format: Annotated[StructureFormat | None, typer.Option("-f", "--format")] = None,
    model: Model = None,
    relax: Annotated[bool, typer.Option("--relax", help="relax molecules with MMFF94")] = False,
    oxygen: Annotated[bool, typer.Option("--oxygen", help="add the carbonyl O of proteins by ideal geometry")] = False,
    device: Device = "cpu",
    batch_size: Batch = 32,
    force: Force = False,
    strict: Strict = False,
    quiet: Quiet = False,
) -> None:
    """Tokens to structures: one file (-o back.pdb), or one file per structure in a folder (-o rebuilt/)."""
    from structok.files import read_tokens
    from structok.work.log import Log
    from structok.work.stream import Zoo, decode_items
    from structok.write.output import write_structures

    refuse_overwrite(out, force)
    log, zoo = Log(strict, quiet), Zoo(model, device)
    label = "stdin" if tokens == "-" else tokens
    rebuilt = decode_items(read_tokens(tokens), zoo, log, label=label, batch_size=batch_size, relax=relax)
    write_structures(rebuilt, out, format, tokenizer=zoo.get, oxygen=oxygen, force=force, log=log)
    log.finish()


def evaluate(
    inputs: Inputs,
    model: Model = None,
    chain: Chain = None,
    closed_loop: Loop = None,
    beam: Beam = None,
    rate_weight: Rate = None,
    device: Device = "cpu",
    batch_size: Batch = 32,
    add_hs: AddHs = False,
    all_atom: AllAtoms = False,
    strict: Strict = False,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
) -> None:
    """Encode, decode and compare with the input: RMSD in Å, TM-score, lDDT; molecules: RMSD, bond lengths."""
    from structok.read.inputs import read_inputs
    from structok.report import compare, summarise, table
    from structok.tokenizer import Search
    from structok.work.log import Log
    from structok.work.stream import Zoo, encode_items, wanted_of

    log, zoo = Log(strict, quiet), Zoo(model, device, all_atom=all_atom)
    items = read_inputs(inputs, log, chain=chain, add_hs=add_hs, wanted=wanted_of(model, all_atom))
    search = Search(closed_loop, beam, None, rate_weight)
    encoded = encode_items(items, zoo, log, batch_size=batch_size, search=search)
    rows = list(compare(log.track(encoded, "tokenizing"), zoo, log))
    if as_json:
        print(json.dumps({"structures": rows, "summary": summarise(rows)}, indent=2))
    else:
        table(rows)
    log.finish()


def into_stream(inputs: list[str], out: Path | None, settings: Settings, workers: int | None, quiet: bool) -> None:
    """Tokenize to stdout or into one file, in the order of the inputs."""
    from structok.files import TokenWriter, open_whole
    from structok.work.log import Log

    log = Log(settings.strict, quiet)
    found = _shared(inputs, settings, workers, log) if workers else _alone(inputs, settings, log)
    encoded = log.track(found, "tokenizing")
    if out is None:
        writer = TokenWriter(sys.stdout.buffer, settings.format, anchors=settings.anchors)
        for tokens in encoded:
            writer.write(tokens)
            sys.stdout.buffer.flush()  # whoever reads the pipe need not wait
        writer.close()
    else:
        with open_whole(out) as file:
            writer = TokenWriter(file, settings.format, anchors=settings.anchors)
            for tokens in encoded:
                writer.write(tokens)
            writer.close()
            if not log.done:
                raise StructokError(f"{out}: not written, no input could be tokenized")
    log.finish()


def _alone(inputs: list[str], settings: Settings, log: Log) -> Iterator[Tokens]:
    """In this process, with all its threads."""
    from structok.read.inputs import read_inputs
    from structok.work.frames import complex_items
    from structok.work.tasks import Quantizer, say_what_tokens_lose

    if settings.ligands or settings.together:
        for item, tokens in complex_items(_groups(inputs, settings.together), settings, log):
            say_what_tokens_lose(tokens, settings.format, log, item[1])
            yield tokens
        return
    alone = Quantizer(replace(settings, threads=0))
    yield from (tokens for _, tokens in alone.encode(partial(read_inputs, inputs), log))


def _groups(inputs: list[str], together: bool) -> list[list[str]]:
    """Files that lie in one frame: all of them, or each by itself."""
    files = [f for name in inputs for f in ([name] if os.path.exists(name) else sorted(glob(name)) or [name])]
    return [files] if together else [[f] for f in files]


def _shared(inputs: list[str], settings: Settings, workers: int, log: Log) -> Iterator[Tokens]:
    """By worker processes."""
    from structok.structure import Note
    from structok.work.quantize import quantize_stream

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
    from structok.structure import many
    from structok.work.engines import usable_cores
    from structok.work.folder import ShardFolder
    from structok.work.log import say, show_failures
    from structok.work.quantize import quantize_folder

    folder = ShardFolder(out, settings.format)
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
        say(f"{out}: finished shards are kept; the same command goes on from there")
        raise
    seconds = time.monotonic() - began
    say(
        f"{out}: {summary.rows} tokenized, {summary.failed} failed of {summary.inputs} inputs, "
        f"{summary.shards} shards, {seconds:.0f} s"
    )
    if summary.missing:
        say(f"{summary.missing} shards are left to other parts of --shard")
    if summary.notes:
        say(f"{many(summary.notes, 'note')} on what was left out or invented: {folder.notes}")
    if summary.failed:
        show_failures(folder.failures, summary.failed)
        sys.exit(1)


def _part(shard: str | None) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", shard or "1/1")
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise typer.BadParameter(f"--shard {shard}: give I/N with I from 1 to N, such as 3/8")
    return int(found[1]), int(found[2])
