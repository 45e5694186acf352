"""Options that several commands share. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "AddHs",
    "AllAtoms",
    "Batch",
    "Beam",
    "Chain",
    "Device",
    "Force",
    "Inputs",
    "Loop",
    "Model",
    "Out",
    "Quiet",
    "Rate",
    "Strict",
    "refuse_overwrite",
]

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
AllAtoms = Annotated[bool, typer.Option("--all-atom", help="side chains of proteins too, and DNA and RNA")]
AddHs = Annotated[bool, typer.Option("--add-hs", help="add missing hydrogens to molecules")]


def refuse_overwrite(out: Path | None, force: bool) -> None:
    """Wrong use, unless `force`: the file is there already."""
    if out is not None and out.is_file() and not force:
        raise typer.BadParameter(f"{out} exists; --force overwrites it")
