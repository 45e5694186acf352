"""Chains with all heavy atoms, as the recipes and the evaluation of side chains read them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

__all__ = ["ProteinChain", "load_proteins"]

_MISSING = np.iinfo(np.int16).min
_LONGEST_GAP = 40  # missing residues that are given slots; files with larger jumps in numbering were renumbered


@dataclass(frozen=True)
class ProteinChain:
    """Heavy atoms in atom14 order in Å (NaN = missing), one letter per slot ('X' for slots without a residue)."""

    atoms: Float[np.ndarray, "l 14 3"]
    sequence: str
    name: str
    cluster: int

    @property
    def backbone(self) -> Float[np.ndarray, "l 3 3"]:
        """N, CA, C; a residue that lacks one of them is missing as a whole."""
        backbone = self.atoms[:, :3].copy()
        backbone[~np.isfinite(backbone).all((1, 2))] = np.nan
        return backbone


def load_proteins(path: Path, split: int) -> list[ProteinChain]:
    """Chains of a split from an npz: `xyz` int16 [R, 14, 3] in 0.01 Å, `offsets`, `seq`, `resnum`, `break_before`.

    Residues that the numbering says are missing get empty slots, as from a file. Chains without
    B-factors are left out, and those with coordinates rounded to 0.1 Å: a program may have built their side chains.
    """
    with np.load(path) as file:
        data = {key: file[key] for key in file.files}
    chosen = (data["split"] == split) & (data["has_bfactor"] == 1) & (data["rounded_0p1"] == 0)
    return [_chain(data, int(i)) for i in np.flatnonzero(chosen)]


def _chain(data: dict[str, np.ndarray], i: int) -> ProteinChain:
    rows = slice(data["offsets"][i], data["offsets"][i + 1])
    raw = data["xyz"][rows]
    atoms = np.where(raw == _MISSING, np.nan, raw.astype(np.float32) / 100)
    at = _gaps(data["resnum"][rows].astype(int), data["break_before"][rows].astype(bool))
    atoms = np.insert(atoms, at, np.nan, axis=0)
    sequence = np.insert(data["seq"][rows], at, ord("X")).tobytes().decode("ascii")
    return ProteinChain(atoms, sequence, f"{data['pdb'][i]}_{data['chain'][i]}", int(data["cluster40"][i]))


def _gaps(number: Int[np.ndarray, " l"], broken: np.ndarray) -> Int[np.ndarray, " m"]:
    """Where empty slots go in, once for each; at least one at a break."""
    size = np.where(broken[1:], np.clip(np.diff(number) - 1, 1, _LONGEST_GAP), 0)
    return np.repeat(np.arange(1, len(number)), size)


@dataclass(frozen=True)
class NucleicExample:
    """Heavy atoms by slot (`structok.nucleic.atoms`) in Å (NaN = missing), one letter per slot, 'X' without one."""

    atoms: Float[np.ndarray, "l 23 3"]
    sequence: str
    name: str
    cluster: int


def load_nucleic(path: Path, split: int) -> list[NucleicExample]:
    """Chains of a split from an npz: `xyz` int16 [R, 24, 3] in 0.01 Å, `offsets`, `types`, `restype`, ...

    As for proteins, missing nucleotides get empty slots.
    """
    with np.load(path) as file:
        data = {key: file[key] for key in file.files}
    letters = np.array([t[1].lower() if len(t) == 2 else t for t in data["types"]])[data["restype"]]
    chains = []
    for i in np.flatnonzero(data["split"] == split):
        rows = slice(data["offsets"][i], data["offsets"][i + 1])
        raw = data["xyz"][rows, :23]
        atoms = np.where(raw == _MISSING, np.nan, raw.astype(np.float32) / 100)
        at = _gaps(data["resnum"][rows], data["break_before"][rows].astype(bool))
        sequence = "".join(np.insert(letters[rows], at, "X"))
        name = f"{data['pdb'][i]}_{data['chain'][i]}"
        chains.append(NucleicExample(np.insert(atoms, at, np.nan, axis=0), sequence, name, int(data["cluster80"][i])))
    return chains
