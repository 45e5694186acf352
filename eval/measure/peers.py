"""What others do on the same chains: Foldcomp, 3Di letters (mini3di), coordinates rounded to a grid.

foldcomp and mini3di are optional (`pip install '.[bench]'`); a peer that is not installed is left out by name.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from eval.clock import machine
from eval.measure import axes
from eval.measure.model import Scope
from eval.measure.protein import LETTERS, Proteins
from eval.measure.sets import StructureSet, protein_sets
from eval.measure.stats import code_rate, rounded, spread
from structok import metrics
from structok.geometry import BOND_LIMIT
from structok.read import read_structure
from structok.structure import Backbone
from structok.tokens import Tokens
from structok.write.structures import structure_bytes

__all__ = ["PEERS", "Letters", "measure_peer"]

GRIDS = (0.1, 0.25, 0.5, 1.0, 1.5, 2.0)  # Å
CB = (-0.58273431, 0.56802827, -0.54067466)  # ideal CB on (CA - N) × (C - CA), CA - N, C - CA


def measure_peer(name: str, scope: Scope) -> dict[str, Any]:
    """One peer on the sets of the benchmark; {'missing': package} when its package is not installed."""
    package, work = PEERS[name]
    if package and importlib.util.find_spec(package) is None:
        return {"missing": package}
    sets = protein_sets(scope.data, scope.chains, scope.seed)
    figures = work(sets, scope) if sets else {"sets": {}}
    return {"settings": scope.about, "machine": machine(), **figures}


def _errors(pairs: Sequence[tuple[Any, Backbone]], random: np.random.Generator) -> dict[str, Any]:
    return {
        k: spread([getattr(metrics, k)(back, chain) for back, chain in pairs], random)
        for k in ("rmsd", "rmsd_ca", "tm_score", "lddt")
    }


def _unbroken(chain: Backbone) -> bool:
    """Complete, and every residue bonded to the next."""
    gaps = np.linalg.norm(chain.coords[1:, 0] - chain.coords[:-1, 2], axis=-1)
    return bool(chain.mask.all() and (gaps <= BOND_LIMIT).all())


def _foldcomp(sets: list[StructureSet], scope: Scope) -> dict[str, Any]:
    """Round trip of N, CA, C. Bits: of the whole file, and of the file of an all-glycine chain (no side chains)."""
    import foldcomp

    random = np.random.default_rng(scope.seed)
    out: dict[str, Any] = {}
    for chosen in sets:
        pairs, size, bare, residues, excluded = [], 0, 0, 0, dict(chosen.excluded)
        for chain in chosen.structures:
            if not _unbroken(chain):
                excluded[chain.name] = "missing residues or a break, which its Python interface does not take"
                continue
            sequence = "".join(x if x in LETTERS else "A" for x in chain.sequence)
            packed = [
                foldcomp.compress("chain", structure_bytes([Backbone(chain.coords, s)], "pdb").decode())
                for s in (sequence, "G" * len(chain))
            ]
            [back] = read_structure(io.BytesIO(foldcomp.decompress(packed[0])[1].encode()), format="pdb")
            pairs.append((back, chain))
            residues += len(chain)
            size, bare = size + len(packed[0]), bare + len(packed[1])
        if pairs:
            bits = rounded({"bits": 8 * bare / residues, "bits_with_side_chains": 8 * size / residues}, 2)
            figures = {"chains": len(pairs), "residues": residues, **bits, **_errors(pairs, random)}
            out[chosen.name] = {**figures, "excluded": excluded}
    return {"sets": out}


def _rounded_coordinates(sets: list[StructureSet], scope: Scope) -> dict[str, Any]:
    """Coordinates on a grid, each atom as its step from the atom before, as coordinate formats (PDC, MMTF) do.

    Bits: nine times the entropy of a step along one axis, what an ideal entropy coder would need.
    """
    random = np.random.default_rng(scope.seed)
    out: dict[str, Any] = {}
    for chosen in sets:
        chains = [c for c in chosen.structures if c.mask.all()]
        curve = []
        for grid in GRIDS if chains else ():
            cells = [np.round(c.coords / grid).astype(int) for c in chains]
            steps = np.concatenate([np.diff(x.reshape(-1, 3), axis=0).ravel() for x in cells])
            p = np.unique(steps, return_counts=True)[1] / len(steps)
            bits = float(-9 * (p * np.log2(p)).sum())
            pairs = [(x * grid, c) for x, c in zip(cells, chains)]
            curve.append({"grid": grid, "bits": round(bits, 2), **_errors(pairs, random)})
        if curve:
            out[chosen.name] = {"chains": len(chains), "curve": curve}
    return {"sets": out}


class Letters:
    """3Di letters as a tokenizer without a decoder; undefined (the ends, missing residues) is masked."""

    name, modality, codebook_size, max_length = "3Di letters (mini3di)", "protein", 20, 1 << 20

    def __init__(self) -> None:
        import mini3di

        self.encoder = mini3di.Encoder()

    @property
    def codebook(self) -> Float[torch.Tensor, "20 2"]:
        """Centroids in the latent space of the letters' encoder."""
        return torch.tensor(self.encoder.vae_encoder.layers[-1].centroids)

    def encode_batch(self, chains: Sequence[Backbone]) -> list[Tokens]:
        """A letter per residue."""
        rows = [self._letters(chain.coords) for chain in chains]
        return [Tokens(row, mask=row >= 0, sequence=chain.sequence) for row, chain in zip(rows, chains)]

    def _letters(self, coords: Float[np.ndarray, "l 3 3"]) -> Int[np.ndarray, " l"]:
        n, ca, c = np.moveaxis(coords.astype(np.float64), 1, 0)
        a, b = ca - n, c - ca
        cb = CB[0] * np.cross(a, b) + CB[1] * a + CB[2] * b + ca
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self.encoder.encode_atoms(ca, cb, n, c).astype(int).filled(-1))


def _mini3di(sets: list[StructureSet], scope: Scope) -> dict[str, Any]:
    """Stability of a learned local alphabet of 20 letters under the same changes; it has no decoder."""
    letters, kind, random = Letters(), Proteins(), np.random.default_rng(scope.seed)
    chosen = sets[0].only([i for i, c in enumerate(sets[0].structures) if c.mask.all()])
    tokens = letters.encode_batch(chosen.structures)
    steady = [c for c in kind.steady(sets[0], scope.steady, letters.max_length) if c.mask.all()]
    return {
        "codes": letters.codebook_size,
        "rate": code_rate(axes.observed_codes(tokens), letters.codebook_size),
        "stability": axes.stability(kind, letters, steady, {}, random),
        "leakage": kind.leakage(tokens, chosen, letters.codebook_size),
    }


# name -> (package it needs, what measures it)
PEERS: dict[str, tuple[str, Callable[[list[StructureSet], Scope], dict[str, Any]]]] = {
    "foldcomp": ("foldcomp", _foldcomp),
    "3Di letters (mini3di)": ("mini3di", _mini3di),
    "rounded coordinates": ("", _rounded_coordinates),
}
