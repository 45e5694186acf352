"""What is special about molecules in `eval.measure.axes`. RMSD in Å, angles in degrees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from rdkit import Chem
from rdkit.Geometry import Point3D

from eval.measure.axes import Kind, Report
from eval.measure.sets import StructureSet
from eval.measure.stats import leakage
from structok.errors import InputError
from structok.metrics import lddt_points
from structok.molecule.metrics import compare_molecules, rmsd
from structok.tokens import Tokens

__all__ = ["Molecules"]


class Molecules(Kind):
    """All atoms of RDKit molecules, hydrogens included."""

    name, unit, size = "molecules", "atoms", "atoms"
    metrics = ("rmsd", "rmsd_heavy", "bond_mae", "angle_mae")
    bins = (0, 19, 29, 44, 59, 89, 1000)

    def compare(self, true: Chem.Mol, back: Chem.Mol, tokens: Tokens) -> Report:
        """Valid: the same graph, with finite coordinates."""
        same = Chem.MolToSmiles(back, isomericSmiles=False) == Chem.MolToSmiles(true, isomericSmiles=False)
        return {**compare_molecules(true, back, tokens), "valid": same and np.isfinite(self.places(back)).all()}

    def summary(self, rows: Sequence[Report], chosen: StructureSet) -> Report:
        """Chirality, validity, and the RMSD of molecules with a new scaffold."""
        centres, kept = (sum(int(r[k] or 0) for r in rows) for k in ("centres", "centres_kept"))
        result = {"stereocentres": centres, "chirality_kept": round(kept / centres, 5) if centres else None}
        result["valid"] = round(float(np.mean([r["valid"] for r in rows])), 5)
        if chosen.unseen is None:
            return result
        new = [float(r["rmsd"] or 0) for r, unseen in zip(rows, chosen.unseen) if unseen]
        found = {"molecules": len(new), "rmsd": round(float(np.mean(new)), 4) if new else None}
        return {**result, "unseen_scaffold": found}

    def errors(self, true: Chem.Mol, back: Chem.Mol, tokens: Tokens) -> dict[str, float]:
        a, b = self.places(true)[tokens.atom_order], self.places(back)
        return {"rmsd": rmsd(a, b), "lddt": float(lddt_points(torch.from_numpy(b), torch.from_numpy(a)))}

    def places(self, structure: Chem.Mol) -> Float[np.ndarray, "n 3"]:
        return np.asarray(structure.GetConformer().GetPositions())

    def moved(self, structure: Chem.Mol, coords: Float[np.ndarray, "n 3"]) -> Chem.Mol:
        copy = Chem.Mol(structure)
        for i, place in enumerate(coords.tolist()):
            copy.GetConformer().SetAtomPosition(i, Point3D(*place))
        return copy

    def leakage(self, tokens: Sequence[Tokens], chosen: StructureSet, size: int) -> Report | None:
        """Of the element."""
        elements = [np.array([a.GetAtomicNum() for a in m.GetAtoms()]) for m in chosen.structures]
        ordered = [e[t.atom_order] for e, t in zip(elements, tokens)]
        return leakage([t.codes for t in tokens], ordered, chosen.groups, size)

    def encode(self, tokenizer: Any, structures: Sequence[Chem.Mol], options: dict[str, Any]) -> list[Tokens | None]:
        """Changed coordinates can become collinear, which is refused."""

        def one(mol: Chem.Mol) -> Tokens | None:
            try:
                return tokenizer.encode(mol, **options)
            except InputError:
                return None

        try:
            return list(tokenizer.encode_batch(structures, **options))
        except InputError:
            return [one(mol) for mol in structures]
