"""Whether what a language model samples decodes to plausible structures: bonds, CA distances, clashes, compactness."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from rdkit import Chem
from transformers import Qwen3ForCausalLM

from structok.molecule.metrics import compare_molecules
from structok.tokens import Tokens
from train.lm.data import LONGEST, Pair, PairVocabulary, pair_of
from train.lm.fit import sample

CA_BOND = (3.6, 4.0)  # Å between consecutive CA of a trans peptide
CN_BOND = (1.18, 1.48)  # Å, 1.33 ± 0.15
CA_CLASH = 3.5  # Å; CA of residues three or more apart never come this close
ATOM_CLASH = 1.5  # Å; atoms three or more bonds apart never come this close


def protein_geometry(chains: Sequence[Float[np.ndarray, "l 3 3"]]) -> dict[str, float | None]:
    """Shares over all residues of many chains: bonded as they should be, clashing; and how compact the chains are.

    `compactness` is the median of the radius of gyration over 2.2 L^0.38 Å, that of a globular protein of L residues.
    """
    ca_good, cn_good, clashing, compact = [], [], [], []
    for coords in chains:
        ca = coords[:, 1].astype(np.float64)
        step = np.linalg.norm(np.diff(ca, axis=0), axis=1)
        bond = np.linalg.norm(coords[1:, 0] - coords[:-1, 2], axis=1)
        ca_good.append((step > CA_BOND[0]) & (step < CA_BOND[1]))
        cn_good.append((bond > CN_BOND[0]) & (bond < CN_BOND[1]))
        distance = np.linalg.norm(ca[:, None] - ca[None], axis=-1)
        distance[np.abs(np.subtract.outer(np.arange(len(ca)), np.arange(len(ca)))) < 3] = np.inf
        clashing.append(distance.min(1) < CA_CLASH)
        if len(ca) >= 40:
            compact.append(np.sqrt(((ca - ca.mean(0)) ** 2).sum(1).mean()) / (2.2 * len(ca) ** 0.38))
    return {
        "chains": len(chains),
        "finite": share([np.isfinite(c).all() for c in chains]),
        "ca_distance_3.6_to_4.0": share(np.concatenate(ca_good)),
        "cn_bond_1.18_to_1.48": share(np.concatenate(cn_good)),
        "residues_clashing": share(np.concatenate(clashing)),
        "compactness": round(float(np.median(compact)), 3) if compact else None,
    }


def share(flags: Any) -> float:
    """Mean of booleans."""
    return round(float(np.mean(flags)), 4)


def sample_chains(
    model: Qwen3ForCausalLM, vocabulary: PairVocabulary, tokenizer: Any, count: int, seed: int
) -> dict[str, Any]:
    """Sample chains of codes from nothing, decode the well-formed ones, and look at their geometry."""
    start = torch.full((count, 1), vocabulary.CODES_START)
    rows = sample(model, start, torch.zeros(1, dtype=torch.long), LONGEST + 1, seed).numpy()
    good, ended = [], 0
    for row in rows:
        ends = np.flatnonzero(row == vocabulary.CODES_END)
        ended += len(ends) > 0
        codes = row[: ends[0] if len(ends) else LONGEST] - vocabulary.first_code
        if len(codes) >= 2 and (codes >= 0).all() and (codes < vocabulary.codebook_size).all():
            good.append(Tokens(codes, "protein", tokenizer.name))
    rebuilt = [c.coords for c in tokenizer.decode_batch(good)] if good else []
    found = {"sampled": count, "well_formed": round(len(good) / count, 4), "ended": round(ended / count, 4)}
    if rebuilt:
        found |= {"mean_length": round(float(np.mean([len(c) for c in rebuilt])), 1), **protein_geometry(rebuilt)}
    return found


def molecule_geometry(true: Sequence[Chem.Mol], made: Sequence[Chem.Mol], tokens: Sequence[Tokens]) -> dict[str, float]:
    """Bond lengths against those of the true conformers, and molecules in which atoms clash."""
    bonds, angles = [], []
    for mol, back, t in zip(true, made, tokens):
        measured = compare_molecules(mol, back, t)
        bonds.append(measured["bond_mae"])
        angles.append(measured["angle_mae"])
    return {
        "molecules": len(made),
        "finite": share([np.isfinite(m.GetConformer().GetPositions()).all() for m in made]),
        "bond_mae": round(float(np.nanmean(bonds)), 4),
        "angle_mae": round(float(np.nanmean(angles)), 2),
        "molecules_clashing": clashing(made),
    }


def clashing(mols: Sequence[Chem.Mol]) -> float:
    """Share of molecules in which atoms three or more bonds apart come closer than they ever do."""
    found = []
    for mol in mols:
        xyz = mol.GetConformer().GetPositions()
        far = Chem.GetDistanceMatrix(mol) >= 3
        found.append((np.linalg.norm(xyz[:, None] - xyz[None], axis=-1)[far] < ATOM_CLASH).any())
    return share(found)


def sample_molecules(
    model: Qwen3ForCausalLM,
    vocabulary: PairVocabulary,
    tokenizer: Any,
    mols: Sequence[Chem.Mol],
    tokens: Sequence[Tokens],
    seed: int,
) -> dict[str, Any]:
    """Sample the codes of molecules whose SELFIES is given, decode the well-formed ones, and look at their geometry."""
    good, true = [], []
    for i, (mol, known) in enumerate(zip(mols, tokens)):
        pair = pair_of(known)
        made = sample_codes(model, vocabulary, pair, seed + i)
        owns = pair.codes >= 0
        if ((made >= 0) == owns).all():
            good.append(dataclasses.replace(known, codes=made[owns].astype(np.int32)))
            true.append(mol)
    found: dict[str, Any] = {"sampled": len(mols), "well_formed": round(len(good) / len(mols), 4)}
    return found | (molecule_geometry(true, tokenizer.decode_batch(good), good) if good else {})


def sample_codes(
    model: Qwen3ForCausalLM, vocabulary: PairVocabulary, pair: Pair, seed: int
) -> np.ndarray:  # int64, shape=(n,)
    """Codes for given symbols; -1 for 'no code', -2 for tokens that are no codes at all."""
    document = vocabulary.document(pair, codes_first=False)
    known = len(pair.symbols) + 3  # up to the token that starts the codes
    prefix = torch.from_numpy(document.ids[None, :known])
    ids = sample(model, prefix, torch.from_numpy(document.positions[:known]), len(pair.symbols), seed)[0].numpy()
    codes = ids - vocabulary.first_code
    return np.where(codes == vocabulary.codebook_size, -1, np.where(codes < 0, -2, codes))
