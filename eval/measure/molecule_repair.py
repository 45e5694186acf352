"""Whether anchors could repair a wrong code of a molecule: one code wrong, its slot known, every other code tried.

    python -m eval.measure.molecule_repair

Knowing the slot is more than a decoder does, so this is the most that repair could win. Ligands of the shared data's
complexes; anchors of eight atoms far apart, in a frame of the molecule's own and in that of its complex.
"""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from jaxtyping import Float, Int
from rdkit.Chem import Mol

import structok
from eval import RESULTS
from eval.measure.stats import summary
from structok.errors import StructokError
from structok.frame import far_atoms
from structok.geometry import apply, kabsch
from structok.polymer.anchors import RADII, load_points, radius_code
from structok.read.molecules import read_molecules
from train.data import shared_folder

__all__ = ["measure"]

_COMPLEX = 9  # code of the radius of a usual complex's frame, 45 Å


def measure(files: list[Path], model: str, seed: int = 0) -> dict[str, Any]:
    """RMSD of heavy atoms, Å: whole, with one wrong code, and with the code that agrees best with the anchors."""
    tok, random = structok.load(model), np.random.default_rng(seed)
    found: dict[str, list[float]] = {"undamaged": [], "one code wrong": [], "own frame": [], "frame of a complex": []}
    exact = {"own frame": 0, "frame of a complex": 0}
    for file in files:
        _, mol = next(iter(read_molecules(str(file))))
        if isinstance(mol, StructokError):
            continue
        try:
            tokens = tok.encode(mol)
        except StructokError:
            continue
        truth = mol.GetConformer().GetPositions()[tokens.atom_order]
        heavy = np.array([mol.GetAtomWithIdx(int(i)).GetAtomicNum() > 1 for i in tokens.atom_order])
        slot = int(random.integers(3, len(tokens)))
        options = np.repeat(tokens.codes[None], tok.codebook_size, 0)
        options[:, slot] = np.arange(tok.codebook_size)
        built = positions(tok.decode_batch([replace(tokens, codes=row) for row in options]))
        off = distance(built[:, heavy], truth[heavy])
        right, wrong = int(tokens.codes[slot]), int(random.integers(tok.codebook_size))
        found["undamaged"].append(float(off[right]))
        found["one code wrong"].append(float(off[wrong]))
        chosen = far_atoms(tokens)
        local = truth[chosen] - truth.mean(0)
        reach = int(radius_code(torch.tensor(np.linalg.norm(truth - truth.mean(0), axis=1).max())))
        for name, radius in (("own frame", reach), ("frame of a complex", _COMPLEX)):
            places = anchored(local + (name != "own frame") * float(RADII[radius]) * np.array([0.4, 0.2, 0.1]), radius)
            best = int(distance(built[:, chosen], places).argmin())
            found[name].append(float(off[best]))
            exact[name] += best == right
        print(file.stem, {k: round(v[-1], 2) for k, v in found.items()}, file=sys.stderr, flush=True)
    return {
        "model": model,
        "heavy atoms, Å": {name: summary(values) for name, values in found.items()},
        "right code found": {name: count / len(found[name]) for name, count in exact.items()},
    }


def positions(mols: list[Mol]) -> Float[np.ndarray, "k l 3"]:
    return np.stack([mol.GetConformer().GetPositions() for mol in mols])


def anchored(points: Float[np.ndarray, "n 3"], radius: int) -> Float[np.ndarray, "n 3"]:
    """The nearest points of the frame."""
    codes = load_points()
    near: Int[torch.Tensor, " n"] = codes.nearest(torch.from_numpy(points), torch.tensor(radius))
    return codes.positions(near, torch.tensor(radius)).numpy()


def distance(many: Float[np.ndarray, "k n 3"], one: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " k"]:
    """RMSD of each after superposition, Å."""
    x, y = torch.from_numpy(many).double(), torch.from_numpy(one).double().expand(len(many), -1, -1)
    return (apply(kabsch(x, y), x) - y).square().sum(-1).mean(-1).sqrt().numpy()


def main(
    count: Annotated[int, typer.Option(help="ligands")] = 40,
    model: Annotated[str, typer.Option("-m", "--model")] = "molstructok",
    out: Path = RESULTS / "anchors.json",
) -> None:
    """Measure, and write beside the other results of anchors."""
    folder = shared_folder() / "data" / "complexes" / "protein_ligand"
    rows = list(csv.DictReader((folder / "index.tsv").open(), delimiter="\t"))[:count]
    report = json.loads(out.read_text()) if out.exists() else {}
    report["molecules"] = measure([folder / row["ligand_file"] for row in rows], model)
    out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
