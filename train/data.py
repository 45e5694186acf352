"""Backbones to train on: a packed npz, parquet shards, or a folder of structure files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from structok.data.shards import columns_of, coordinates, read_rows
from structok.errors import InputError
from structok.geometry import BOND_LIMIT
from structok.structure import Backbone

__all__ = ["Backbones", "load_backbones", "shared_folder"]


def shared_folder() -> Path:
    """Where the project's data lies beside a clone; STRUCTOK_SHARED overrides it."""
    return Path(os.environ.get("STRUCTOK_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@dataclass(frozen=True)
class Backbones:
    """Protein chains end to end; chain i is rows `offsets[i]:offsets[i+1]`.

    `coords` are N, CA, C in Å (NaN = missing), `break_before` marks a row that is not bonded to the row before
    it, `cluster` groups chains by sequence identity, `split` is 0 for training and 1 for validation.
    """

    coords: Float[np.ndarray, "r 3 3"]
    offsets: Int[np.ndarray, " n+1"]
    names: list[str]
    break_before: Bool[np.ndarray, " r"]
    cluster: Int[np.ndarray, " n"]
    split: Int[np.ndarray, " n"]
    sequence: Int[np.ndarray, " r"] | None = None  # ASCII letters

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> Float[torch.Tensor, "l 3 3"]:
        return torch.from_numpy(self.coords[self.offsets[i] : self.offsets[i + 1]])

    def chain(self, i: int) -> Backbone:
        """Chain i with its name, and its sequence where that is known."""
        rows = slice(self.offsets[i], self.offsets[i + 1])
        letters = None if self.sequence is None else self.sequence[rows].astype(np.uint8).tobytes().decode("ascii")
        return Backbone(self.coords[rows], letters, name=self.names[i])

    @property
    def lengths(self) -> Int[np.ndarray, " n"]:
        return np.diff(self.offsets)

    @property
    def observed(self) -> Bool[np.ndarray, " r"]:
        return np.isfinite(self.coords).all((1, 2))

    @property
    def complete(self) -> Bool[np.ndarray, " n"]:
        """Chains without missing residues or breaks."""
        flaw = self.break_before | ~self.observed
        flaw[self.offsets[:-1]] = ~self.observed[self.offsets[:-1]]
        return np.add.reduceat(flaw, self.offsets[:-1]) == 0

    def one_per_cluster(self, among: Int[np.ndarray, " m"], random: np.random.Generator) -> Int[np.ndarray, " k"]:
        """A random chain of each cluster of `among`, shuffled: large families do not dominate."""
        shuffled = random.permutation(among)
        _, first = np.unique(self.cluster[shuffled], return_index=True)
        return random.permutation(shuffled[first])


def load_backbones(source: str | Path) -> Backbones:
    """Read training chains.

    Parameters
    ----------
    source : one of
        - .npz with `xyz` int16 [R, 3 or more, 3] in 0.01 Å (-32768 = missing) and `offsets`; optional
          `break_before`, `name` or `pdb` + `chain`, `cluster40`, `split`, `seq`;
        - a folder made by `structok data build`, or one .parquet with columns `id` and `coords` (flat list of 9
          floats per residue, Å, NaN = missing); optional `cluster`, `split`, `sequence`;
        - a folder of PDB, mmCIF or BinaryCIF files. Without cluster information each chain is its own
          cluster, and every 20th chain is validation.

    Raises
    ------
    InputError
        If there is nothing to read.
    """
    path = Path(source)
    if path.is_dir():
        shards = sorted(path.glob("*-of-*.parquet"))
        return _from_parquet(shards) if shards else _from_folder(path)
    if not path.exists():
        raise InputError(f"{path}: no such file; give an npz, a parquet file or a folder of structures")
    if path.suffix == ".npz":
        return _from_npz(path)
    if path.suffix == ".parquet":
        return _from_parquet([path])
    raise InputError(f"{path}: expected .npz, .parquet or a folder of structures")


def _from_npz(path: Path) -> Backbones:
    with np.load(path) as file:
        data = {key: file[key] for key in file.files}
    xyz = data["xyz"][:, :3]
    coords = xyz.astype(np.float32) / 100
    coords[(xyz == np.iinfo(np.int16).min).any((1, 2))] = np.nan
    n = len(data["offsets"]) - 1
    names = (
        [f"{p}_{c}" if p else str(m) for p, c, m in zip(*(data[k] for k in ("pdb", "chain", "name")))]
        if ("pdb" in data)
        else [str(m) for m in data.get("name", np.arange(n))]
    )
    return _assemble(
        coords,
        data["offsets"].astype(np.int64),
        names,
        data.get("break_before"),
        data.get("cluster40"),
        data.get("split"),
        data.get("seq"),
    )


def _from_parquet(paths: Sequence[Path]) -> Backbones:
    wanted = ["id", "coords", "centre", "cluster", "split", "sequence"]
    columns = [c for c in wanted if c in columns_of(paths[0])]
    coords: list[np.ndarray] = []
    found: dict[str, list] = {c: [] for c in columns}
    for path in paths:
        for table in read_rows(path, columns):
            coords += coordinates(table, 9)
            for c in {"id", "cluster", "split", "sequence"} & set(columns):
                found[c] += table[c].to_pylist()
    offsets = np.cumsum([0, *map(len, coords)])
    split = np.array([{"train": 0, "validation": 1}.get(s, s) for s in found["split"]]) if "split" in found else None
    cluster = np.unique(found["cluster"], return_inverse=True)[1] if "cluster" in found else None
    letters = np.frombuffer("".join(found["sequence"]).encode(), np.uint8) if "sequence" in found else None
    whole = np.concatenate(coords).reshape(-1, 3, 3)
    return _assemble(whole, offsets, found["id"], None, cluster, split, letters)


def _from_folder(path: Path) -> Backbones:
    from structok.read.inputs import read_inputs
    from structok.work.log import Log

    found = read_inputs([str(path)], Log(quiet=True), chain=None, add_hs=False)
    chains = [chain for modality, _, chain in found if modality == "protein"]
    if not chains:
        raise InputError(f"{path}: no protein chain found in this folder")
    offsets = np.cumsum([0, *(len(c.coords) for c in chains)])
    sequence = np.frombuffer("".join(c.sequence for c in chains).encode(), dtype=np.uint8)
    names = [f"{c.name}_{c.chain_id}" for c in chains]
    return _assemble(np.concatenate([c.coords for c in chains]), offsets, names, None, None, None, sequence)


def _assemble(
    coords: Float[np.ndarray, "r 3 3"],
    offsets: Int[np.ndarray, " n+1"],
    names: list[str],
    break_before: np.ndarray | None,
    cluster: np.ndarray | None,
    split: np.ndarray | None,
    sequence: np.ndarray | None,
) -> Backbones:
    n = len(names)
    if break_before is None:
        gap = np.linalg.norm(coords[1:, 0] - coords[:-1, 2], axis=-1)
        break_before = np.r_[True, ~(gap <= BOND_LIMIT)]
    if cluster is None:
        cluster = np.arange(n)
    if split is None:
        split = (np.arange(n) % 20 == 19).astype(np.int8)
    return Backbones(coords, offsets, names, break_before.astype(bool), cluster, split, sequence)
