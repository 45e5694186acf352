"""What sampled molecules look like beside those of QM9: valid, unique, new, strained, with which bonds and angles."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import cache
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

__all__ = ["molecule_figures", "sample_molecules"]

ATOM_CLASH = 1.5  # Å; atoms three or more bonds apart never come this close
LONGEST = 64  # SELFIES tokens
SAMPLES = 200  # of each model
KNOWN = 20_000  # training molecules that novelty is measured against
BOND, ANGLE = np.arange(0.8, 2.4, 0.02), np.arange(60.0, 181.0, 4.0)  # Å, degrees: edges of histograms


def sample_molecules(model: TokenModel, tokenizer: Any, count: int, seed: int) -> list[Chem.Mol | None]:
    """Sample SELFIES strings, then codes for them, and decode what is a molecule; None is what is none."""
    words = model.vocabulary
    block = words.block(Kind.SYMBOL)
    blank = Document(
        np.r_[PairVocabulary.SYMBOLS_START, np.full(LONGEST, block.start)],
        np.arange(LONGEST + 1),
        np.r_[-1, np.full(LONGEST, Kind.SYMBOL)],
    )
    strings = sample(model, [blank] * count, [np.r_[True, np.zeros(LONGEST, dtype=bool)]] * count, seed)
    drafts = []
    for i, row in enumerate(strings):
        stop = np.flatnonzero(row == PairVocabulary.SYMBOLS_END)
        own = row[1 : stop[0]] if len(stop) else row[:0]
        if len(own) and (own > PairVocabulary.UNKNOWN).all():
            symbols = [words.symbols[i - 5] for i in own]
            owns = np.array([o for _, o in selfies_atoms("".join(symbols))])
            try:
                molecule_of("".join(symbols))
            except StructokError:
                continue
            if owns.sum() > 1:
                drafts.append((i, symbols, owns))
    documents = [words.document(Pair(s, np.where(o, 0, -1)), given=True) for _, s, o in drafts]
    made = sample(model, documents, [d.kinds != Kind.CODE for d in documents], seed) if documents else []
    found: list[Chem.Mol | None] = [None] * count
    for (i, symbols, _), document, ids in zip(drafts, documents, made):
        codes = ids[document.kinds == Kind.CODE] - words.block(Kind.CODE).start
        with suppress(StructokError):
            found[i] = tokenizer.decode(Tokens(codes, "molecule", selfies="".join(symbols)))
    return found


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


def geometry(seeds: Sequence[Sequence[Chem.Mol | None]], real: Sequence[Chem.Mol]) -> dict[str, Any]:
    """Clashes and strain of what is a molecule, and distances to real ones, each with its interval."""
    clashes = np.array([[float(clashing(m)) if m else np.nan for m in mols] for mols in seeds])
    strains = np.array([[strain(m) if m else None for m in mols] for mols in seeds], dtype=float)
    found: dict[str, Any] = {}
    for name, values in (("clashing", clashes), ("strain", strains)):
        known = np.isfinite(values)
        found[name] = figure(np.where(known, values, 0), known)
    found["strain"]["median"] = round(float(np.nanmedian(strains)), 3)
    apart = [[_apart(*both) for both in zip(_shapes([m for m in mols if m]), _shapes(real))] for mols in seeds]
    return found | {name: figure(np.array(apart)[:, i : i + 1]) for i, name in enumerate(("bonds", "angles"))}


@cache
def known_molecules(data: Path) -> set[str]:
    """Training molecules of QM9 that novelty is measured against."""
    return {_name(m) for m in small_molecules(data / "molecule" / "qm9.npz", 0, KNOWN)}


def molecule_figures(models: Sequence[TokenModel], held: Held, data: Path) -> dict[str, Any]:
    """Shares of valid, unique and new molecules, and their geometry beside that of validation molecules.

    Unique is of the valid, new of the unique: not among 20,000 training molecules of QM9.
    """
    made = [sample_molecules(model, held.tokenizer, SAMPLES, seed) for seed, model in enumerate(models)]
    names = [[_name(m) for m in part if m] for part in made]
    once, known, real = [set(n) for n in names], known_molecules(data), held.structures
    found: dict[str, Any] = {
        "sampled": SAMPLES,
        "valid": figure(np.array([[float(m is not None) for m in part] for part in made])),
        "unique": figure(np.array([[len(o)] for o in once]), np.array([[len(n)] for n in names])),
        "new": figure(np.array([[len(o - known)] for o in once]), np.array([[len(o)] for o in once])),
        "training_molecules": len(known),
        "real": geometry([real[: len(real) // 2]], real[len(real) // 2 :]),
    }
    return found | ({"sampled molecules": geometry(made, real)} if all(names) else {})
