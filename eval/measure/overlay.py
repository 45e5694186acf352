"""Structures and their reconstructions for the report's 3D viewer: a few traces, superposed, small enough to embed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from eval.measure.assignments import assignments_of, label_of
from eval.measure.model import load_tokenizer
from eval.measure.sets import examples, molecule_sets, protein_sets
from structok.geometry import superpose
from structok.metrics import rmsd_points
from structok.molecule.graph import bonds_of

__all__ = ["overlay_of"]

Points = Float[np.ndarray, "n 3"]


def overlay_of(model: str, data: Path | None) -> list[dict[str, Any]]:
    """Traces of the shown structures as this model rebuilds them, default assignment first, then open loop.

    Each item has the structure's name, its points and line segments (pairs of indices; a chain's trace is N, CA, C
    in order), and per assignment the rebuilt points, superposed on the input, and their RMSD. Units: 0.01 Å.
    """
    tokenizer = load_tokenizer(model)
    items = []
    for name, structure in _shown(tokenizer.modality, data):
        if tokenizer.modality == "protein":
            true = structure.coords.reshape(-1, 3)
            lines = [[i, i + 1] for i in range(len(true) - 1)]
            seen = structure.mask.repeat(3)
        else:
            true = structure.GetConformer().GetPositions()
            lines = bonds_of(structure).tolist()
            seen = np.ones(len(true), dtype=bool)
        lines = [[i, j] for i, j in lines if seen[i] and seen[j]]
        item: dict[str, Any] = {"structure": name, "modality": tokenizer.modality, "lines": lines, "rebuilt": {}}
        if tokenizer.modality == "molecule":
            item["elements"] = [a.GetSymbol() for a in structure.GetAtoms()]
        item["points"] = _packed(true)
        for how in assignments_of(tokenizer, [], [])[:2]:
            tokens = tokenizer.encode(structure, search=how)
            back = tokenizer.decode(tokens)
            if tokenizer.modality == "protein":
                points = back.coords.reshape(-1, 3)
            else:
                points = np.empty_like(true)
                points[tokens.atom_order] = back.GetConformer().GetPositions()
            a, b, mask = torch.from_numpy(points).double(), torch.from_numpy(true).double(), torch.from_numpy(seen)
            item["rebuilt"][label_of(how)] = {
                "points": _packed(superpose(a, b, mask).numpy()),
                "rmsd": round(float(rmsd_points(a, b, mask)), 4),
            }
        items.append(item)
    return items


def _packed(points: Points) -> list[int]:
    """Flat whole numbers of 0.01 Å."""
    return np.round(np.nan_to_num(points) * 100).astype(int).ravel().tolist()


def _shown(modality: str, data: Path | None) -> list[tuple[str, Any]]:
    """The shipped example, and one structure of middling size from the last (CASP14) or first set."""
    found: list[Any]
    if modality == "protein":
        shown = protein_sets(examples(), 1, 0)
        found = [s for s in protein_sets(data, 0, 0) if s.structures]
        more = [c for c in found[-1].structures if c.mask.all()] if found else []
        more.sort(key=len)
        chains = [*(shown[0].structures), *more[len(more) // 2 : len(more) // 2 + 1]]
        return [(f"{c.name}, {len(c)} residues", c) for c in {c.name: c for c in chains}.values()]
    shown_molecules = [m for s in molecule_sets(examples(), 1, whole=False) for m in s.structures]
    found = [m for s in molecule_sets(data, 40, whole=False)[:1] for m in s.structures]
    found.sort(key=lambda m: m.GetNumAtoms())
    molecules = [*shown_molecules, *found[len(found) * 3 // 4 : len(found) * 3 // 4 + 1]]
    named = {m.GetProp("_Name") if m.HasProp("_Name") else "molecule": m for m in molecules}
    return [(f"{name}, {m.GetNumAtoms()} atoms", m) for name, m in named.items()]
