"""How well a molecule was rebuilt. Atom identity is known from the tokens, so no symmetry matching is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from structok.metrics import rmsd_points
from structok.molecule.graph import bonds_of
from structok.tokens import Tokens

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["angle_mae", "bond_mae", "chirality", "compare_molecules", "rmsd"]


def rmsd(a: Float[np.ndarray, "n 3"], b: Float[np.ndarray, "n 3"], mask: Bool[np.ndarray, " n"] | None = None) -> float:
    """Root-mean-square distance (Å) of the atoms in `mask` after optimal superposition, no reflection."""
    keep = slice(None) if mask is None else mask
    return float(rmsd_points(torch.from_numpy(a[keep]), torch.from_numpy(b[keep])))


def bond_mae(a: Float[np.ndarray, "n 3"], b: Float[np.ndarray, "n 3"], bonds: Int[np.ndarray, "m 2"]) -> float:
    """Mean absolute difference of bond lengths (Å); NaN without bonds."""
    if not len(bonds):
        return float("nan")
    lengths = [np.linalg.norm(x[bonds[:, 0]] - x[bonds[:, 1]], axis=1) for x in (a, b)]
    return float(np.abs(lengths[0] - lengths[1]).mean())


def angle_mae(a: Float[np.ndarray, "n 3"], b: Float[np.ndarray, "n 3"], bonds: Int[np.ndarray, "m 2"]) -> float:
    """Mean absolute difference of the angles between bonds that share an atom (degrees); NaN without any."""
    triples = _angles(bonds)
    if not len(triples):
        return float("nan")
    angles = []
    for x in (a, b):
        u, v = x[triples[:, 0]] - x[triples[:, 1]], x[triples[:, 2]] - x[triples[:, 1]]
        angles.append(np.degrees(np.arctan2(np.linalg.norm(np.cross(u, v), axis=1), (u * v).sum(1))))
    return float(np.abs(angles[0] - angles[1]).mean())


def _angles(bonds: Int[np.ndarray, "m 2"]) -> Int[np.ndarray, "k 3"]:
    """All i - centre - j."""
    ends = np.concatenate([bonds, bonds[:, ::-1]])
    ends = ends[np.argsort(ends[:, 1], kind="stable")]
    first, second = np.triu_indices(len(ends), k=1)
    same = ends[first, 1] == ends[second, 1]
    first, second = first[same], second[same]
    return np.stack([ends[first, 0], ends[first, 1], ends[second, 0]], axis=1)


def chirality(mol: Mol, coords: Float[np.ndarray, "n 3"]) -> tuple[int, int]:
    """Stereocentres of `mol` whose handedness `coords` keep, and how many there are.

    Handedness is the sign of the volume that a centre's neighbours span (with the centre, where it has three).
    """
    from rdkit import Chem

    true = mol.GetConformer().GetPositions()
    centres = Chem.FindMolChiralCenters(mol, includeUnassigned=True, useLegacyImplementation=False)
    kept = total = 0
    for centre, _ in centres:
        corners = [a.GetIdx() for a in mol.GetAtomWithIdx(centre).GetNeighbors()]
        if len(corners) < 3:
            continue
        corners = corners[:4] if len(corners) > 3 else [centre, *corners]
        volumes = [np.linalg.det(x[corners[1:]] - x[corners[0]]) for x in (true, coords)]
        total += 1
        kept += bool(np.sign(volumes[0]) == np.sign(volumes[1]))
    return kept, total


def compare_molecules(true: Mol, rebuilt: Mol, tokens: Tokens) -> dict[str, float | int | None]:
    """All measures of one molecule.

    Parameters
    ----------
    true : the molecule that was tokenized
    rebuilt : what its tokens decode to
    tokens : its tokens, whose `atom_order` says which atom is which

    Returns
    -------
    measures : atoms, rmsd, rmsd_heavy, bond_mae (Å), angle_mae (degrees), centres, centres_kept; None where
        there is nothing to measure
    """
    a = np.asarray(true.GetConformer().GetPositions())
    b = np.empty_like(a)
    b[tokens.atom_order] = rebuilt.GetConformer().GetPositions()
    bonds = bonds_of(true)
    heavy = np.array([x.GetAtomicNum() > 1 for x in true.GetAtoms()])
    kept, centres = chirality(true, b)
    measures = {
        "atoms": len(a),
        "rmsd": rmsd(a, b),
        "rmsd_heavy": rmsd(a, b, heavy) if heavy.any() else None,
        "bond_mae": bond_mae(a, b, bonds),
        "angle_mae": angle_mae(a, b, bonds),
        "centres": centres,
        "centres_kept": kept,
    }
    return {k: None if v is not None and np.isnan(v) else v for k, v in measures.items()}
