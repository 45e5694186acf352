"""quantize -> decode -> quantize, through files of each format: what comes back, and what does not.

    python -m eval.measure.round_trip --count 500 -o round_trip.json

Chains and molecules are written as files, tokenized, decoded into PDB and mmCIF (SDF), and tokenized again. Ids,
sequence (SELFIES), residue ids, mask and codes must be the same both times.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

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
        write_structures(rebuilt, folder / format, format, oxygen=False, force=True, log=log)
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


def main() -> None:
    parser = argparse.ArgumentParser(description="quantize -> decode -> quantize")
    parser.add_argument("--data", type=Path, help="folder of structures; default: the held-out sets of the benchmark")
    parser.add_argument("--count", type=int, default=500, help="chains and molecules of each set")
    parser.add_argument("-m", "--model", help="tokenizer; default: each modality's")
    parser.add_argument("-o", "--out", type=Path)
    options = parser.parse_args()
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for chains in protein_sets(options.data, options.count, seed=0):
            print(f"{chains.name}: {len(chains.structures)}", file=sys.stderr, flush=True)
            report[chains.name] = round_trip(chains.structures, Path(folder) / chains.name, ("pdb", "cif"), options.model)
        for mols in molecule_sets(options.data, options.count, whole=False):
            print(f"{mols.name}: {len(mols.structures)}", file=sys.stderr, flush=True)
            report[mols.name] = round_trip(mols.structures, Path(folder) / mols.name, ("sdf",), options.model)
    text = json.dumps(report, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
