"""Reconstruction of molecules by every tokenizer, open and closed loop, written to eval/results/molecule.json.

    python -m eval.molecules --official ../shared/reference/molstructok/weights.safetensors

Sets are never trained on. `unseen scaffold` counts the molecules whose Murcko scaffold no training molecule has.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rdkit import Chem, RDLogger
from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles
from rich.progress import track

import structok
from structok.errors import InputError
from structok.metrics import codebook_use
from structok.molecule.conformer import prepare
from structok.molecule.convert import convert
from structok.molecule.metrics import compare_molecules
from structok.molecule.tokenizer import MolStrucTok
from train.data import shared_folder
from train.molecule_data import npz_molecules

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
RESULTS = Path(__file__).parent / "results"
SIZES = (0, 20, 30, 45, 60, 90, 1000)  # atoms


@dataclass(frozen=True)
class Subset:
    """A named part of a data file."""

    name: str
    file: str
    split: int | None = None


SETS = (
    Subset("QM9 validation", "qm9.npz", 1),
    Subset("QM9 test", "qm9.npz", 2),
    Subset("CCD validation", "ccd_ideal.npz", 1),
    Subset("CCD test", "ccd_ideal.npz", 2),
    Subset("FEP ligands", "fep_ligands.npz"),
    Subset("PDB ligands, crystal, not in CCD train", "genentech_pdb.npz"),
)


def molecules(subset: Subset, limit: int) -> Iterator[Chem.Mol]:
    """Molecules of a set; of the crystal ligands only those that are in no training data."""
    path = shared_folder() / "data" / "molecule" / subset.file
    with np.load(path) as file:
        unseen = ~file["in_train"].astype(bool) if "in_train" in file.files else None
    for i, (_, mol) in enumerate(npz_molecules(path, subset.split, limit if unseen is None else 0)):
        if unseen is None or unseen[i]:
            yield mol


def training_scaffolds() -> set[str]:
    """Murcko scaffolds of the molecules that the shipped models learned from; kept in runs/cache."""
    kept = Path("runs/cache/training_scaffolds.json")
    if kept.exists():
        return set(json.loads(kept.read_text()))
    found = set()
    for name in ("qm9.npz", "ccd_ideal.npz"):
        with np.load(shared_folder() / "data" / "molecule" / name) as file:
            smiles = file["smiles_nl"].item().decode().split("\n")
            train = file["split"] == 0
        found |= {scaffold(s) for s, keep in zip(track(smiles, f"scaffolds of {name}"), train) if keep}
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(sorted(found)))
    return found


def scaffold(smiles: str) -> str:
    """Murcko scaffold, '' for chains and for what RDKit cannot cut."""
    try:
        return MurckoScaffoldSmiles(smiles)
    except (RuntimeError, ValueError):
        return ""


def summary(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Mean, median, 95th percentile and maximum of each measure, chirality kept, and RMSD by size."""
    out: dict[str, Any] = {"molecules": len(rows), "atoms": sum(int(r["atoms"]) for r in rows)}
    for key in ("rmsd", "rmsd_heavy", "bond_mae", "angle_mae"):
        values = np.array([r[key] for r in rows], dtype=float)
        values = values[np.isfinite(values)]
        out[key] = {
            "mean": round(float(values.mean()), 4),
            "median": round(float(np.median(values)), 4),
            "p95": round(float(np.quantile(values, 0.95)), 4),
            "max": round(float(values.max()), 4),
        }
    centres = sum(int(r["centres"]) for r in rows)
    out["stereocentres"] = centres
    out["chirality_kept"] = round(sum(int(r["centres_kept"]) for r in rows) / centres, 5) if centres else None
    out["valid"] = round(float(np.mean([r["valid"] for r in rows])), 5)
    by_size = {}
    for low, high in itertools.pairwise(SIZES):
        inside = [r["rmsd"] for r in rows if low <= r["atoms"] < high]
        if inside:
            by_size[f"{low}-{high - 1}"] = {"molecules": len(inside), "rmsd": round(float(np.mean(inside)), 4)}
    out["rmsd_by_atoms"] = by_size
    unseen = [r["rmsd"] for r in rows if r["unseen"]]
    out["unseen_scaffold"] = {
        "molecules": len(unseen), "rmsd": round(float(np.mean(unseen)), 4) if unseen else None
    }  # fmt: skip
    return out


def measure(
    tokenizer: MolStrucTok, mols: list[Chem.Mol], unseen: list[bool], closed: bool, beam: int
) -> dict[str, Any]:
    """Tokenize, rebuild, compare."""
    tokens = tokenizer.encode_batch(mols, closed_loop=closed, beam=beam)
    rebuilt = tokenizer.decode_batch(tokens)
    rows = []
    for mol, back, t, new in zip(mols, rebuilt, tokens, unseen):
        row = compare_molecules(mol, back, t)
        same = Chem.MolToSmiles(back, isomericSmiles=False) == Chem.MolToSmiles(mol, isomericSmiles=False)
        rows.append(
            {**row, "valid": float(same and np.isfinite(back.GetConformer().GetPositions()).all()), "unseen": new}
        )
    used = codebook_use(np.concatenate([t.codes for t in tokens]), tokenizer.codebook_size)
    return {**summary(rows), "codes": {k: round(float(v), 4) for k, v in used.items()}}


def converted(weights: Path) -> MolStrucTok:
    """The released weights as a tokenizer."""
    return convert(weights, Path(tempfile.mkdtemp()) / "molstructok-official")


@app.command()
def reconstruction(
    official: Annotated[Path | None, typer.Option(help="released MolStrucTok weights, measured too")] = None,
    model: Annotated[list[str] | None, typer.Option(help="names or folders; default: the shipped ones")] = None,
    limit: Annotated[int, typer.Option(help="molecules per set, drawn at random; 0 = all")] = 1000,
    out: Path = RESULTS / "molecule.json",
) -> None:
    """Every tokenizer on every set; results are merged into the file."""
    RDLogger.DisableLog("rdApp.*")
    torch.manual_seed(0)
    names = model if model is not None else [n for n in structok.list_models() if n.startswith("molstructok")]
    tokenizers = {Path(n).name: structok.load(n) for n in names}
    if official:
        tokenizers = {"released weights": converted(official), **tokenizers}
    known = training_scaffolds()
    results = json.loads(out.read_text()) if out.exists() else {}
    for subset in SETS:
        mols, refused = [], 0
        for mol in molecules(subset, limit):
            try:
                prepare(mol)
                mols.append(mol)
            except InputError:
                refused += 1
        unseen = [scaffold(Chem.MolToSmiles(Chem.RemoveHs(m))) not in known for m in mols]
        for name, tokenizer in tokenizers.items():
            beams = sorted({1, tokenizer.config.beam})
            for closed, beam in [(False, 1), *((True, b) for b in beams)]:
                label = f"closed loop, beam {beam}" if closed else "open loop"
                found = {"refused": refused, **measure(tokenizer, mols, unseen, closed, beam)}
                results.setdefault(name, {}).setdefault(subset.name, {})[label] = found
                print(
                    f"{subset.name:40s} {name:24s} {label:22s} {found['rmsd']} bond {found['bond_mae']['mean']}",
                    flush=True,
                )
        out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    app()
