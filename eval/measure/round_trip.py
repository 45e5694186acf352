"""quantize -> decode -> quantize, through files of each format: what comes back, and what does not.

    python -m eval.measure.round_trip --count 500 -o round_trip.json

Chains and molecules are written as files, tokenized, decoded into PDB and mmCIF (SDF), and tokenized again. Ids,
sequence (SELFIES), residue ids, mask and codes must be the same both times.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from eval.measure.sets import molecule_sets, protein_sets
from structok.errors import StructokError
from structok.read.inputs import read_inputs
from structok.structure import Backbone
from structok.tokenizer import Search
from structok.tokens import Tokens
from structok.work.log import Log
from structok.work.stream import Zoo, decode_items, encode_items
from structok.write.output import write_structures
from structok.write.structures import write_sdf, write_structure

__all__ = ["round_trip"]

FIELDS = ("id", "chain", "sequence", "selfies", "residue_ids", "mask", "codes")


class _Quiet(Log):
    """Keeps what would be said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.errors: list[str] = []

    def error(self, error: StructokError, source: str = "") -> None:
        self.errors.append(str(error))


def round_trip(structures: Iterable[Backbone | Any], folder: Path, formats: Sequence[str], model: str | None) -> dict:
    """Outcome per format: how many records, how many came back equal, what differs and in which.

    Parameters
    ----------
    structures : `Backbone`s with names of their own, or RDKit molecules with conformers
    folder : for the files
    formats : 'pdb' and 'cif' for chains, 'sdf' for molecules
    model : tokenizer; None is the default
    """
    for number, one in enumerate(structures):
        if isinstance(one, Backbone):
            write_structure([one], folder / "in" / f"{one.name or number}.cif")
        else:
            (folder / "in").mkdir(parents=True, exist_ok=True)
            write_sdf([one], folder / "in" / f"{number:05}.sdf")
    log, zoo = _Quiet(), Zoo(model, "cpu")
    first = _quantize(folder / "in", zoo, log)
    outcome: dict[str, Any] = {"records": len(first), "errors": list(log.errors)}
    for format in formats:
        log.errors.clear()
        rebuilt = decode_items(first, zoo, log, label="tokens", batch_size=32, relax=False)
        write_structures(rebuilt, folder / format, format, tokenizer=zoo.get, oxygen=False, force=True, log=log)
        again = {(t.id, t.chain): t for t in _quantize(folder / format, zoo, log)}
        differ: Counter[str] = Counter()
        examples: dict[str, list[str]] = {}
        equal = 0
        for tokens in first:
            back = again.get((tokens.id, tokens.chain))
            found = ["lost"] if back is None else [f for f in FIELDS if not _same(tokens, back, f)]
            equal += not found
            differ.update(found)
            for name in found:
                examples.setdefault(name, []).append(tokens.id)
        outcome[format] = {
            "equal": equal,
            "differ": dict(differ),
            "examples": {name: ids[:10] for name, ids in examples.items()},
            "errors": list(log.errors),
        }
    return outcome


def _quantize(folder: Path, zoo: Zoo, log: Log) -> list[Tokens]:
    items = read_inputs([str(folder)], log, chain=None, add_hs=False)
    return [tokens for _, tokens in encode_items(items, zoo, log, batch_size=32, search=Search())]


def _same(a: Tokens, b: Tokens, field: str) -> bool:
    one, other = getattr(a, field), getattr(b, field)
    return np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other


def main(
    data: Annotated[Path | None, typer.Option(help="folder of structures; default: the benchmark's sets")] = None,
    count: Annotated[int, typer.Option(help="chains and molecules of each set")] = 500,
    model: Annotated[str | None, typer.Option("-m", "--model", help="tokenizer; default: each modality's")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="JSON file")] = None,
) -> None:
    """Tokenize, decode and tokenize again; print what differs."""
    report: dict[str, Any] = {}
    proteins, molecules = protein_sets(data, count, seed=0), molecule_sets(data, count, whole=False)
    with tempfile.TemporaryDirectory() as folder:
        for some, formats in (*((s, ("pdb", "cif")) for s in proteins), *((s, ("sdf",)) for s in molecules)):
            print(f"{some.name}: {len(some.structures)}", file=sys.stderr, flush=True)
            report[some.name] = round_trip(some.structures, Path(folder) / some.name, formats, model)
    text = json.dumps(report, indent=1)
    print(text)
    if out:
        out.write_text(text + "\n")


if __name__ == "__main__":
    typer.run(main)
