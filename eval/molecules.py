"""Measures of molecule tokenizers, as `eval.protein` has them for proteins. RMSD in Å, angles in degrees."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from rdkit import Chem
from rdkit.Geometry import Point3D

from eval.protein import JITTERS, RATES, corrupt
from eval.sets import MoleculeSet
from eval.stats import by_bins, leakage, share, spread
from structok.errors import InputError
from structok.metrics import lddt_points
from structok.molecule.convert import convert
from structok.molecule.metrics import compare_molecules, rmsd
from structok.molecule.tokenizer import MolStrucTok
from structok.tokens import Tokens

__all__ = ["accuracy", "converted", "element_leakage", "robustness", "stability"]

RESULTS = Path(__file__).parent / "results"
BINS = (0, 19, 29, 44, 59, 89, 1000)  # atoms


def converted(weights: Path) -> MolStrucTok:
    """The released MolStrucTok weights as a tokenizer."""
    return convert(weights, Path(tempfile.mkdtemp()) / "molstructok-official")


def accuracy(
    tokenizer: MolStrucTok, chosen: MoleculeSet, options: dict[str, Any], random: np.random.Generator
) -> tuple[list[Tokens], dict[str, Any]]:
    """Tokens of a set, and its reconstruction: each metric over molecules, chirality, validity, RMSD by size."""
    start = time.perf_counter()
    tokens = tokenizer.encode_batch(chosen.molecules, **options)
    encoded = time.perf_counter()
    rebuilt = tokenizer.decode_batch(tokens)
    decoded = time.perf_counter()
    rows = [compare_molecules(m, b, t) for m, b, t in zip(chosen.molecules, rebuilt, tokens)]
    atoms = [int(r["atoms"] or 0) for r in rows]
    result: dict[str, Any] = {"molecules": len(rows), "atoms": sum(atoms), "excluded": chosen.excluded}
    for name in ("rmsd", "rmsd_heavy", "bond_mae", "angle_mae"):
        result[name] = spread([r[name] for r in rows], random)
    errors = [float(r["rmsd"] or 0) for r in rows]
    result["rmsd_by_atoms"] = by_bins(atoms, errors, BINS)
    centres = sum(int(r["centres"] or 0) for r in rows)
    kept = sum(int(r["centres_kept"] or 0) for r in rows)
    result |= {"stereocentres": centres, "chirality_kept": round(kept / centres, 5) if centres else None}
    result["valid"] = round(float(np.mean([_valid(m, b) for m, b in zip(chosen.molecules, rebuilt)])), 5)
    if chosen.unseen is not None:
        new = [e for e, unseen in zip(errors, chosen.unseen) if unseen]
        result["unseen_scaffold"] = {"molecules": len(new), "rmsd": round(float(np.mean(new)), 4) if new else None}
    result["seconds"] = {"encode": round(encoded - start, 3), "decode": round(decoded - encoded, 4)}
    return tokens, result


def _valid(mol: Chem.Mol, back: Chem.Mol) -> bool:
    """Whether the rebuilt molecule is the same graph, with finite coordinates."""
    same = Chem.MolToSmiles(back, isomericSmiles=False) == Chem.MolToSmiles(mol, isomericSmiles=False)
    return bool(same and np.isfinite(back.GetConformer().GetPositions()).all())


def _moved(mol: Chem.Mol, coords: Float[np.ndarray, "n 3"]) -> Chem.Mol:
    copy = Chem.Mol(mol)
    for i, place in enumerate(coords.tolist()):
        copy.GetConformer().SetAtomPosition(i, Point3D(*place))
    return copy


def _encode(tokenizer: MolStrucTok, mols: Sequence[Chem.Mol], options: dict[str, Any]) -> list[Tokens | None]:
    """Tokens; None for a molecule that is refused (changed coordinates can become collinear)."""
    try:
        return list(tokenizer.encode_batch(mols, **options))
    except InputError:
        pass
    found: list[Tokens | None] = []
    for mol in mols:
        try:
            found.append(tokenizer.encode(mol, **options))
        except InputError:
            found.append(None)
    return found


def _agreement(before: Tokens, after: Tokens | None) -> Bool[np.ndarray, " n"]:
    if after is None or after.selfies != before.selfies:
        return np.zeros(len(before), dtype=bool)
    return np.asarray(before.codes == after.codes)


def stability(
    tokenizer: MolStrucTok,
    mols: Sequence[Chem.Mol],
    options: dict[str, Any],
    random: np.random.Generator,
) -> dict[str, Any]:
    """Share of codes that jitter, or encoding the rebuilt molecule, leaves as they are; refused = all changed."""
    before = tokenizer.encode_batch(mols, **options)
    result: dict[str, Any] = {"molecules": len(mols), "jitter": {}}
    for scale in JITTERS:
        places = [m.GetConformer().GetPositions() for m in mols]
        moved = [_moved(m, x + random.normal(scale=scale, size=x.shape)) for m, x in zip(mols, places)]
        after = _encode(tokenizer, moved, options)
        result["jitter"][f"{scale:g}"] = share([_agreement(a, b) for a, b in zip(before, after)], random)
    after = _encode(tokenizer, tokenizer.decode_batch(before), options)
    result["encoded again"] = share([_agreement(a, b) for a, b in zip(before, after)], random)
    return result


def robustness(
    tokenizer: MolStrucTok, mols: Sequence[Chem.Mol], tokens: Sequence[Tokens], random: np.random.Generator
) -> dict[str, Any]:
    """All-atom RMSD and lDDT after each code was replaced, with a given chance, by any other code."""
    result = {}
    for rate in RATES:
        broken = [corrupt(t, rate, tokenizer.codebook_size, random) for t in tokens]
        rows: dict[str, list[float]] = {"rmsd": [], "lddt": []}
        for mol, back, t in zip(mols, tokenizer.decode_batch(broken), tokens):
            true = mol.GetConformer().GetPositions()[t.atom_order]
            rebuilt = back.GetConformer().GetPositions()
            rows["rmsd"].append(rmsd(true, rebuilt))
            rows["lddt"].append(float(lddt_points(torch.from_numpy(rebuilt), torch.from_numpy(true))))
        hit = sum(int((a.codes != b.codes).sum()) for a, b in zip(tokens, broken))
        result[f"{rate:g}"] = {"draws": 1, "replaced": hit, **{k: spread(v, random) for k, v in rows.items()}}
    return result


def element_leakage(mols: Sequence[Chem.Mol], tokens: Sequence[Tokens], size: int) -> dict[str, Any] | None:
    """What single codes tell about the element of their atom, see `eval.stats.leakage`."""
    elements = [np.array([a.GetAtomicNum() for a in m.GetAtoms()])[t.atom_order] for m, t in zip(mols, tokens)]
    return leakage([t.codes for t in tokens], elements, range(len(mols)), size)
