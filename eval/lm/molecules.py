"""What sampled molecules look like beside those of QM9: valid, unique, new, strained, with which bonds and angles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem
from rdkit.Chem.rdForceFieldHelpers import (
    MMFFGetMoleculeForceField,
    MMFFGetMoleculeProperties,
    MMFFHasAllMoleculeParams,
)

from eval.lm.heldout import Held, figure
from structok.errors import StructokError
from structok.molecule.conformer import molecule_of
from structok.tokens import Tokens, selfies_atoms
from train.lm.data import small_molecules
from train.lm.network import TokenModel, sample
from train.lm.words import Document, Kind, Pair, PairVocabulary

__all__ = ["Samples", "molecule_figures", "sample_molecules"]

ATOM_CLASH = 1.5  # Å; atoms three or more bonds apart never come this close
LONGEST = 64  # SELFIES tokens
KNOWN = 20_000  # training molecules that novelty is measured against
BOND, ANGLE = np.arange(0.8, 2.4, 0.02), np.arange(60.0, 181.0, 4.0)  # Å, degrees: edges of histograms


@dataclass(frozen=True)
class Samples:
    """Molecules that a model wrote: those that decode, and how many were asked for and ended."""

    molecules: list[Chem.Mol]
    asked: int
    ended: int


def sample_molecules(model: TokenModel, tokenizer: Any, count: int, seed: int) -> Samples:
    """Sample SELFIES strings, then codes for them, and decode what is a molecule."""
    words = model.vocabulary
    block = words.block(Kind.SYMBOL)
    blank = Document(
        np.r_[PairVocabulary.SYMBOLS_START, np.full(LONGEST, block.start)],
        np.arange(LONGEST + 1),
        np.r_[-1, np.full(LONGEST, Kind.SYMBOL)],
    )
    strings = sample(model, [blank] * count, [np.r_[True, np.zeros(LONGEST, dtype=bool)]] * count, seed)
    drafts, ended = [], 0
    for row in strings:
        stop = np.flatnonzero(row == PairVocabulary.SYMBOLS_END)
        ended += len(stop) > 0
        own = row[1 : stop[0]] if len(stop) else row[:0]
        if len(own) and (own > PairVocabulary.UNKNOWN).all():
            symbols = [words.symbols[i - 5] for i in own]
            owns = np.array([o for _, o in selfies_atoms("".join(symbols))])
            try:
                molecule_of("".join(symbols))
            except StructokError:
                continue
            if owns.sum() > 1:
                drafts.append((symbols, owns))
    documents = [words.document(Pair(s, np.where(o, 0, -1)), given=True) for s, o in drafts]
    made = sample(model, documents, [d.kinds != Kind.CODE for d in documents], seed) if documents else []
    found = []
    for (symbols, _), document, ids in zip(drafts, documents, made):
        codes = ids[document.kinds == Kind.CODE] - words.block(Kind.CODE).start
        try:
            found.append(tokenizer.decode(Tokens(codes, "molecule", selfies="".join(symbols))))
        except StructokError:
            continue
    return Samples(found, count, ended)


def strain(mol: Chem.Mol) -> float | None:
    """MMFF94 energy above the nearest minimum, kcal/mol per heavy atom; None where MMFF lacks parameters."""
    if not MMFFHasAllMoleculeParams(mol):
        return None
    mol = Chem.Mol(mol)
    field = MMFFGetMoleculeForceField(mol, MMFFGetMoleculeProperties(mol))
    if field is None:
        return None
    before = field.CalcEnergy()
    field.Minimize(maxIts=500)
    return float((before - field.CalcEnergy()) / mol.GetNumHeavyAtoms())


def clashing(mol: Chem.Mol) -> bool:
    """Whether atoms three or more bonds apart come closer than they ever do."""
    xyz = mol.GetConformer().GetPositions()
    far = Chem.GetDistanceMatrix(mol) >= 3
    return bool((np.linalg.norm(xyz[:, None] - xyz[None], axis=-1)[far] < ATOM_CLASH).any())


def _shapes(mols: Sequence[Chem.Mol]) -> tuple[np.ndarray, np.ndarray]:
    """Histograms of bond lengths and of angles."""
    bonds, angles = [], []
    for mol in mols:
        xyz = mol.GetConformer().GetPositions()
        bonds += [np.linalg.norm(xyz[b.GetBeginAtomIdx()] - xyz[b.GetEndAtomIdx()]) for b in mol.GetBonds()]
        for atom in mol.GetAtoms():
            arms = np.array([xyz[n.GetIdx()] - xyz[atom.GetIdx()] for n in atom.GetNeighbors()]).reshape(-1, 3)
            arms = arms / np.linalg.norm(arms, axis=1, keepdims=True).clip(1e-6)
            i, j = np.triu_indices(len(arms), 1)
            angles += np.degrees(np.arccos((arms[i] * arms[j]).sum(1).clip(-1, 1))).tolist()
    edges = [np.r_[-np.inf, e, np.inf] for e in (BOND, ANGLE)]
    return np.histogram(bonds, edges[0])[0].astype(float), np.histogram(angles, edges[1])[0].astype(float)


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    return round(float(np.abs(a / a.sum() - b / b.sum()).sum() / 2), 4)


def _name(mol: Chem.Mol) -> str:
    return Chem.MolToSmiles(Chem.RemoveHs(mol))


def geometry(mols: Sequence[Chem.Mol]) -> dict[str, Any]:
    """Clashes and strain."""
    strains = [s for s in map(strain, mols) if s is not None and np.isfinite(s)]
    found: dict[str, Any] = {"clashing": figure(np.array([[float(clashing(m)) for m in mols]]))}
    if strains:
        found["strain"] = figure(np.array([strains])) | {"median": round(float(np.median(strains)), 3)}
    return found


def molecule_figures(made: Samples, held: Held, data: Path) -> dict[str, Any]:
    """Shares of valid, unique and new molecules, and their geometry beside that of validation molecules.

    Unique is of the valid, new of the unique: not among 20,000 training molecules of QM9.
    """
    known = {_name(m) for m in small_molecules(data / "molecule" / "qm9.npz", 0, KNOWN)}
    names = [_name(m) for m in made.molecules]
    real, half = list(held.structures), len(held.structures) // 2
    found: dict[str, Any] = {
        "ended": round(made.ended / made.asked, 4),
        "valid": round(len(names) / made.asked, 4),
        "unique": round(len(set(names)) / max(len(names), 1), 4),
        "new": round(len(set(names) - known) / max(len(set(names)), 1), 4),
        "training_molecules": len(known),
        "real": geometry(real),
    }
    pairs = {"real": (real[:half], real[half:])}
    if made.molecules:
        found["sampled molecules"] = geometry(made.molecules)
        pairs["sampled molecules"] = (made.molecules, real)
    for name, (one, other) in pairs.items():
        (bonds, angles), (true_bonds, true_angles) = _shapes(one), _shapes(other)
        found[name]["distance to real"] = {"bonds": _apart(bonds, true_bonds), "angles": _apart(angles, true_angles)}
    return found
