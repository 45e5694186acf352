"""The command line: `structok quantize | decode | evaluate | models | convert`. Imports no torch by itself."""

from __future__ import annotations

import json
import logging
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

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


class TokenFormat(StrEnum):
    """Formats of token files."""

    jsonl = "jsonl"
    text = "text"
    csv = "csv"
    parquet = "parquet"


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
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda")]
Batch = Annotated[int, typer.Option("--batch-size", min=1, help="structures per batch")]
Force = Annotated[bool, typer.Option("--force", help="overwrite existing output")]
Strict = Annotated[bool, typer.Option("--strict", help="stop at the first bad input")]
AddHs = Annotated[bool, typer.Option("--add-hs", help="add missing hydrogens to molecules")]


@app.command()
def quantize(
    inputs: Inputs,
    model: Model = None,
    chain: Chain = None,
    format: Annotated[TokenFormat, typer.Option("-f", "--format")] = TokenFormat.jsonl,
    out: Out = None,
    closed_loop: Loop = None,
    beam: Beam = None,
    device: Device = "cpu",
    batch_size: Batch = 32,
    add_hs: AddHs = False,
    force: Force = False,
    strict: Strict = False,
) -> None:
    """Structures to tokens: PDB, mmCIF, BinaryCIF (proteins), SDF, MOL, MOL2 (molecules), .gz too."""
    from structok.files import TokenWriter, open_whole
    from structok.jobs import Log, Zoo, encode_items, expand, read_items

    _refuse_overwrite(out, force)
    if out is not None and out.is_dir():
        raise typer.BadParameter(f"{out} is a folder; -o takes a file here")
    if format is TokenFormat.parquet and out is None:
        raise typer.BadParameter("parquet needs a file: -o tokens.parquet")
    log, zoo = Log(strict), Zoo(model, device)
    items = read_items(expand(inputs, log), log, chain=chain, add_hs=add_hs)
    encoded = encode_items(items, zoo, log, batch_size=batch_size, closed_loop=closed_loop, beam=beam)
    if out is None:
        writer = TokenWriter(sys.stdout.buffer, format.value)
        for _, tokens in encoded:
            writer.write(tokens)
        writer.close()
    else:
        with open_whole(out) as file:
            writer = TokenWriter(file, format.value)
            for _, tokens in encoded:
                writer.write(tokens)
            writer.close()
            if not log.done:
                raise StructokError(f"{out}: not written, no input could be tokenized")
    log.finish()


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
) -> None:
    """Tokens to structures: one file (-o back.pdb), or one file per structure in a folder (-o rebuilt/)."""
    from structok.files import read_tokens
    from structok.jobs import Log, Zoo, decode_items
    from structok.output import write_structures

    _refuse_overwrite(out, force)
    log, zoo = Log(strict), Zoo(model, device)
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
    device: Device = "cpu",
    batch_size: Batch = 32,
    add_hs: AddHs = False,
    strict: Strict = False,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
) -> None:
    """Encode, decode and compare with the input: RMSD in Å, TM-score, lDDT; molecules: RMSD, bond lengths."""
    from structok.jobs import Log, Zoo, encode_items, expand, read_items
    from structok.report import compare, summarise, table

    log, zoo = Log(strict), Zoo(model, device)
    items = read_items(expand(inputs, log), log, chain=chain, add_hs=add_hs)
    encoded = encode_items(items, zoo, log, batch_size=batch_size, closed_loop=closed_loop, beam=beam)
    rows = list(compare(encoded, zoo, log))
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
