"""`structok vocab | corpus`. Imports nothing heavy by itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from structok.options import Force, Strict, refuse_overwrite
from structok.streams import AnchorText

__all__ = ["corpus", "vocab"]


def vocab(
    preset: Annotated[Literal["biomatrix", "structok", "scimind"], typer.Option("--preset", help="whose tokens")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FOLDER", help="for vocabulary.json and tokens.txt")],
    molecules: Annotated[
        Path | None, typer.Option("--molecules", metavar="TOKENS", help="count molecule tokens here (biomatrix)")
    ] = None,
    coverage: Annotated[float, typer.Option("--coverage", help="share of the tokens of --molecules to cover")] = 0.99,
    force: Force = False,
    strict: Strict = False,
) -> None:
    """Write the tokens that a language model gets: a JSON file that structok.lm reads, and a plain list."""
    from structok.lm.export import FILES, write_vocabulary
    from structok.work.log import Log

    for name in FILES:
        refuse_overwrite(out / name, force)
    log = Log(strict)
    vocabulary = write_vocabulary(preset, out, log, molecules=molecules, coverage=coverage)
    sizes = ", ".join(f"{len(tokens)} {name}" for name, tokens in vocabulary.groups.items())
    print(f"wrote {out}: {len(vocabulary)} tokens ({sizes})", file=sys.stderr)
    log.finish()


def corpus(
    inputs: Annotated[list[str], typer.Argument(metavar="TOKENS...", help="token files, folders of shards, or -")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help=".jsonl or .parquet; default jsonl to stdout")] = None,
    annotations: Annotated[
        Path | None, typer.Option("--annotations", metavar="FILE", help=".jsonl, .csv or .parquet with an id")
    ] = None,
    vocabulary: Annotated[
        str,
        typer.Option("--vocabulary", metavar="NAME|FOLDER", help="biomatrix, structok, scimind, or what vocab wrote"),
    ] = "biomatrix",
    anchors: Annotated[
        AnchorText | None,
        typer.Option("--anchors", help="where they stand; default inline if there are tokens for them"),
    ] = None,
    keep: Annotated[float, typer.Option("--keep", min=0, max=1, help="chance of a field to join a text")] = 0.5,
    seed: Annotated[int, typer.Option("--seed", help="of all that is random")] = 0,
    force: Force = False,
    strict: Strict = False,
) -> None:
    """Tokens to pretraining texts: strings, structures, both, complexes, annotations by chance; .stats.json counts."""
    from structok.lm.corpus import load_vocabulary, stats_file, write_corpus
    from structok.work.log import Log

    if out is not None:
        refuse_overwrite(out, force)
        refuse_overwrite(stats_file(out), force)
    log, words = Log(strict), load_vocabulary(vocabulary)
    stats = write_corpus(inputs, out, words, log, annotations=annotations, seed=seed, keep=keep, anchors=anchors)
    counts = ", ".join(f"{count} {group}" for group, count in stats["tokens"].items() if count)
    print(f"{stats['instances']} texts of {log.done} structures: {counts}", file=sys.stderr)
    log.finish()
