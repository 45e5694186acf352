"""The command line: `structok quantize | decode | evaluate | models | ...`. Imports no torch by itself."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from structok.data.command import app as data_app
from structok.errors import StructokError
from structok.lm.command import corpus, vocab
from structok.options import Force, refuse_overwrite
from structok.work.command import decode, evaluate, quantize

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
app.command()(quantize)
app.command()(decode)
app.command()(evaluate)


@app.command()
def models(as_json: Annotated[bool, typer.Option("--json", help="a JSON list on stdout")] = False) -> None:
    """List the shipped models."""
    from structok.zoo import describe_models

    rows = describe_models()
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        use = f" (add-on: chain-vq-4096+{row['name']})" if row["role"] == "add-on" else ""
        print(f"{row['name']:<20} {row['modality']:<9} {row['codebook_size']:>6} codes  {row['title']}{use}")


@app.command()
def convert(
    kind: Annotated[Literal["gcp-vqvae", "molstructok"], typer.Argument(help="which published model")],
    source: Annotated[Path, typer.Argument(help="its checkpoint folder or weights file")],
    out: Annotated[Path, typer.Option("-o", "--out", help="checkpoint folder to write")],
    force: Force = False,
) -> None:
    """Turn published weights into a checkpoint folder that -m and structok.load() take."""
    import importlib

    refuse_overwrite(out / "model.safetensors", force)
    room = {"gcp-vqvae": "protein", "molstructok": "molecule"}[kind]
    importlib.import_module(f"structok.{room}.convert").convert(source, out, force=force)
    print(f"wrote {out}; use it with -m {out}", file=sys.stderr)


app.command()(vocab)
app.command()(corpus)


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
