"""`structok data`: the commands for data sets. Imports nothing heavy by itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from structok.options import AddHs

__all__ = ["app"]

app = typer.Typer(help="Data sets for training.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def data() -> None:
    """Data sets for training."""


@app.command()
def build(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="files, folders, globs, .tar(.gz) archives, foldcomp databases"),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="folder of the data set")],
    modality: Annotated[
        Literal["protein", "nucleic", "molecule"] | None,
        typer.Option(help="default: protein or molecule, as the first structure"),
    ] = None,
    atoms: Annotated[Literal["backbone", "all"], typer.Option(help="of proteins; all keeps side chains")] = "backbone",
    min_length: Annotated[int | None, typer.Option(help="residues or atoms [25, nucleic 2, molecules 1]")] = None,
    max_length: Annotated[int | None, typer.Option(help="residues or atoms [2048, molecules 1000]")] = None,
    max_missing: Annotated[float, typer.Option(help="share of a chain's residues that may be missing")] = 0.2,
    longest_gap: Annotated[int, typer.Option(help="residues that may be missing in a row")] = 15,
    min_plddt: Annotated[float | None, typer.Option(help="mean pLDDT of predictions, 0 to 100")] = None,
    max_resolution: Annotated[float | None, typer.Option(help="Å; unknown resolutions pass")] = None,
    plddt: Annotated[
        Literal["auto", "always", "never"], typer.Option(help="are B-factors pLDDT? auto: as the files say")
    ] = "auto",
    coords: Annotated[
        Literal["float32", "int16"], typer.Option(help="int16 is in 0.01 Å about the centre")
    ] = "float32",
    dedup: Annotated[bool, typer.Option(help="keep the first of equal sequences or SMILES")] = True,
    clusters: Annotated[
        Path | None, typer.Option(help="lines cluster<TAB>member; default: MMseqs2 if installed, else equal sequences")
    ] = None,
    identity: Annotated[float, typer.Option(help="sequence identity for MMseqs2")] = 0.4,
    validation: Annotated[float, typer.Option(help="share of clusters for validation")] = 0.05,
    seed: Annotated[int, typer.Option(help="of the split")] = 0,
    shard_size: Annotated[int, typer.Option(min=1, help="chains or molecules per shard")] = 8192,
    add_hs: AddHs = False,
    workers: Annotated[int, typer.Option(min=1, help="processes")] = 1,
    force: Annotated[bool, typer.Option("--force", help="discard an existing data set")] = False,
) -> None:
    """Structures to parquet shards: filtered, without duplicates, split by cluster, with a data card.

    Proteins, DNA and RNA from PDB, mmCIF and BinaryCIF, proteins from foldcomp, molecules from SDF, MOL and MOL2 (.gz
    too). Run the same command again after an interruption and it goes on; the result has the same bytes.
    """
    from structok.data.build import build
    from structok.data.options import KINDS, BuildOptions
    from structok.read.sources import check_inputs, find_units
    from structok.work.log import say, show_failures

    check_inputs(inputs)
    first = (unit.modality for unit in find_units(inputs) if not unit.error)
    found: str = modality if modality else next(first, "protein")
    shortest, longest = KINDS[found].lengths
    options = BuildOptions(
        modality=found,  # type: ignore[arg-type]
        atoms=atoms,
        min_length=shortest if min_length is None else min_length,
        max_length=longest if max_length is None else max_length,
        max_missing=max_missing,
        longest_gap=longest_gap,
        min_plddt=min_plddt,
        max_resolution=max_resolution,
        plddt=plddt,
        coords=coords,
        dedup=dedup,
        clusters=str(clusters) if clusters else None,
        identity=identity,
        validation=validation,
        seed=seed,
        shard_size=shard_size,
        add_hs=add_hs,
    )
    card = build(inputs, out, options, workers=workers, force=force)
    counts = card["counts"]
    say(f"{counts['kept']:,} of {counts['found']:,} kept in {out}, see README.md there")
    if counts["aside"]:
        other = "protein" if found == "molecule" else "molecule"
        say(f"{counts['aside']:,} of --modality {other} left aside")
    if counts["failed"]:
        show_failures(out / "failures.jsonl", counts["failed"])
        sys.exit(1)
