"""The command line: `structok quantize | decode | evaluate | models | ...`. Imports no torch by itself."""

from __future__ import annotations

import json
import logging
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from structok.data.command import app as data_app
from structok.errors import StructokError

__all__ = ["main"]

app = typer.Typer(
    name="structok",
    help="Turn 3D structures of proteins and molecules into discrete tokens, and back.",
    epilog="Data goes to stdout, talk to stderr. Exit status 1: some input failed; 2: wrong use. "
    "--debug anywhere shows tracebacks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data_app, name="data")


class TokenFormat(StrEnum):
    """Formats of token files."""

    jsonl = "jsonl"
    text = "text"
    csv = "csv"
    parquet = "parquet"


class Engine(StrEnum):
    """Who does bulk work."""

    local = "local"
    ray = "ray"


class StructureFormat(StrEnum):
    """Formats of rebuilt structures."""

    pdb = "pdb"
    cif = "cif"
    sdf = "sdf"


Inputs = Annotated[list[str], typer.Argument(metavar="INPUT...", help="files, folders, globs, or - for stdin")]
Model = Annotated[str | None, typer.Option("-m", "--model", metavar="NAME|FOLDER", help="see `structok models`")]
Chain = Annotated[str | None, typer.Option("--chain", help="only this protein chain")]
Out = Annotated[Path | None, typer.Option("-o", "--out", help="output file or folder; default stdout")]
Loop = Annotated[
    bool | None,
    typer.Option("--closed-loop/--open-loop", help="pick codes against the rebuilt structure, or each by itself"),
]
Beam = Annotated[int | None, typer.Option("--beam", min=1, help="hypotheses kept by the closed loop")]
Rate = Annotated[
    float | None, typer.Option("--rate-weight", min=0, help="Å² per bit: how much the closed loop prefers likely codes")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda")]
Batch = Annotated[int, typer.Option("--batch-size", min=1, help="structures per batch")]
Force = Annotated[bool, typer.Option("--force", help="overwrite existing output")]
Strict = Annotated[bool, typer.Option("--strict", help="stop at the first bad input")]
Quiet = Annotated[bool, typer.Option("--quiet", help="do not say what was left out or invented")]
AddHs = Annotated[bool, typer.Option("--add-hs", help="add missing hydrogens to molecules")]


@app.command()
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
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="processes, a model each; default all cores for a folder")
    ] = None,
    shard_size: Annotated[int, typer.Option("--shard-size", min=1, help="inputs per shard of a folder")] = 1024,
    shard: Annotated[str | None, typer.Option("--shard", metavar="I/N", help="every N-th shard only")] = None,
    engine: Annotated[Engine, typer.Option("--engine", help="who makes the shards of a folder")] = Engine.local,
    force: Force = False,
    strict: Strict = False,
    quiet: Quiet = False,
) -> None:
    """Structures to tokens: PDB, mmCIF, BinaryCIF, foldcomp (proteins), SDF, MOL, MOL2 (molecules), .gz, .tar, parquet.

    What is left out of a file, or invented, is said on stderr. Into a folder (-o tokens/) it makes shards, goes on
    where it was stopped, and lists what failed.
    """
    from structok.bulk.command import into_folder, into_stream
    from structok.bulk.tasks import Settings
    from structok.files import token_format

    path = Path(out) if out else None
    folder = path is not None and (path.is_dir() or str(out).endswith("/"))
    if not folder and (shard or engine is not Engine.local):
        raise typer.BadParameter("--shard and --engine need an output folder: -o tokens/")
    kind = format.value if format else "parquet" if folder else token_format(path)
    settings = Settings(model, device, chain, add_hs, closed_loop, beam, rate_weight, batch_size, kind, strict)
    if path is not None and folder:
        into_folder(inputs, path, settings, shard_size, shard, engine.value, workers, force)
    else:
        _refuse_overwrite(path, force)
        if kind == "parquet" and path is None:
            raise typer.BadParameter("parquet needs a file: -o tokens.parquet")
        into_stream(inputs, path, settings, workers, quiet)


@app.command()
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
    from structok.jobs import Log, Zoo, decode_items
    from structok.write.output import write_structures

    _refuse_overwrite(out, force)
    log, zoo = Log(strict, quiet), Zoo(model, device)
    label = "stdin" if tokens == "-" else tokens
    rebuilt = decode_items(read_tokens(tokens), zoo, log, label=label, batch_size=batch_size, relax=relax)
    write_structures(rebuilt, out, format.value if format else None, oxygen=oxygen, force=force, log=log)
    log.finish()


@app.command()
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
    strict: Strict = False,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
) -> None:
    """Encode, decode and compare with the input: RMSD in Å, TM-score, lDDT; molecules: RMSD, bond lengths."""
    from structok.bulk.tasks import Settings
    from structok.jobs import Log, Zoo, encode_items
    from structok.read.inputs import read_inputs
    from structok.report import compare, summarise, table

    log, zoo = Log(strict, quiet), Zoo(model, device)
    items = read_inputs(inputs, log, chain=chain, add_hs=add_hs)
    options = Settings(closed_loop=closed_loop, beam=beam, rate_weight=rate_weight).options
    encoded = encode_items(items, zoo, log, batch_size=batch_size, options=options)
    rows = list(compare(log.track(encoded, "tokenizing"), zoo, log))
    if as_json:
        print(json.dumps({"structures": rows, "summary": summarise(rows)}, indent=2))
    else:
        table(rows)
    log.finish()


@app.command()
def models(as_json: Annotated[bool, typer.Option("--json", help="a JSON list on stdout")] = False) -> None:
    """List the shipped models."""
    from structok.zoo import describe_models

    rows = describe_models()
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        print(f"{row['name']:<20} {row['modality']:<9} {row['codebook_size']:>6} codes  {row['title']}")


class Source(StrEnum):
    """Published models that can be converted."""

    gcp_vqvae = "gcp-vqvae"
    molstructok = "molstructok"


@app.command()
def convert(
    kind: Annotated[Source, typer.Argument(help="which published model")],
    source: Annotated[Path, typer.Argument(help="its checkpoint folder or weights file")],
    out: Annotated[Path, typer.Option("-o", "--out", help="checkpoint folder to write")],
    force: Force = False,
) -> None:
    """Turn published weights into a checkpoint folder that -m and structok.load() take."""
    import importlib

    _refuse_overwrite(out / "model.safetensors", force)
    room = {"gcp-vqvae": "protein", "molstructok": "molecule"}[kind.value]
    importlib.import_module(f"structok.{room}.convert").convert(source, out, force=force)
    print(f"wrote {out}; use it with -m {out}", file=sys.stderr)


class Preset(StrEnum):
    """Vocabularies of published language models."""

    biomatrix = "biomatrix"
    scimind = "scimind"


@app.command()
def vocab(
    preset: Annotated[Preset, typer.Option("--preset", help="whose tokens")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FOLDER", help="for vocabulary.json and tokens.txt")],
    molecules: Annotated[
        Path | None, typer.Option("--molecules", metavar="TOKENS", help="count molecule tokens here (biomatrix)")
    ] = None,
    coverage: Annotated[float, typer.Option("--coverage", help="share of the tokens of --molecules to cover")] = 0.99,
    force: Force = False,
    strict: Strict = False,
) -> None:
    """Write the tokens that a language model gets: a JSON file that structok.lm reads, and a plain list."""
    from structok.jobs import Log
    from structok.lm.command import FILES, write_vocabulary

    for name in FILES:
        _refuse_overwrite(out / name, force)
    log = Log(strict)
    vocabulary = write_vocabulary(preset.value, out, log, molecules=molecules, coverage=coverage)
    sizes = ", ".join(f"{len(tokens)} {name}" for name, tokens in vocabulary.groups.items())
    print(f"wrote {out}: {len(vocabulary)} tokens ({sizes})", file=sys.stderr)
    log.finish()


@app.command()
def corpus(
    inputs: Annotated[list[str], typer.Argument(metavar="TOKENS...", help="token files, folders of shards, or -")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help=".jsonl or .parquet; default jsonl to stdout")] = None,
    annotations: Annotated[
        Path | None, typer.Option("--annotations", metavar="FILE", help=".jsonl, .csv or .parquet with an id")
    ] = None,
    vocabulary: Annotated[
        str, typer.Option("--vocabulary", metavar="NAME|FOLDER", help="biomatrix, scimind, or what vocab wrote")
    ] = "biomatrix",
    keep: Annotated[float, typer.Option("--keep", min=0, max=1, help="chance of a field to join a text")] = 0.5,
    seed: Annotated[int, typer.Option("--seed", help="of all that is random")] = 0,
    force: Force = False,
    strict: Strict = False,
) -> None:
    """Tokens to pretraining texts: sequence, structure, or both, with annotations by chance; counts in .stats.json."""
    from structok.jobs import Log
    from structok.lm.corpus import load_vocabulary, stats_file, write_corpus

    if out is not None:
        _refuse_overwrite(out, force)
        _refuse_overwrite(stats_file(out), force)
    log, words = Log(strict), load_vocabulary(vocabulary)
    stats = write_corpus(inputs, out, words, log, annotations=annotations, seed=seed, keep=keep)
    counts = ", ".join(f"{count} {group}" for group, count in stats["tokens"].items() if count)
    print(f"{stats['instances']} texts of {log.done} structures: {counts}", file=sys.stderr)
    log.finish()


def _refuse_overwrite(out: Path | None, force: bool) -> None:
    if out is not None and out.is_file() and not force:
        raise typer.BadParameter(f"{out} exists; --force overwrites it")


def main() -> None:
    """Entry point: one-line errors, exit status 0, 1 or 2, and no traceback without --debug."""
    debug = "--debug" in sys.argv
    sys.argv = [a for a in sys.argv if a != "--debug"]
    logging.basicConfig(format="structok: %(message)s", level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("structok").setLevel(logging.INFO)
    try:
        app()
    except StructokError as error:
        if debug:
            raise
        _fail(f"error: {error}", 1)
    except KeyboardInterrupt:
        _fail("stopped", 130)
    except BrokenPipeError:
        # the reader (head, less) has gone; keep the interpreter from complaining at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if debug:
            raise
        _fail(f"error: {error.filename or 'output'}: {error.strerror or error}", 1)
    except Exception as error:
        if debug:
            raise
        _fail(f"error: {type(error).__name__}: {error} (a bug? run again with --debug)", 1)


def _fail(message: str, status: int) -> Any:
    print(f"structok: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
