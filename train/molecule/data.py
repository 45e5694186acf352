"""Training data of the molecule tokenizers: any source of molecules to ragged arrays, cached, and batches of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int
from rich.progress import track

from structok.data.shards import SPLITS, read_structures
from structok.errors import StructokError
from structok.molecule.conformer import in_token_order
from structok.molecule.graph import Graph, graph_of
from structok.molecule.spherical import reference_atoms
from structok.molecule.topology import Topology, topology_of
from structok.read.molecules import read_molecules
from train.data import shared_folder

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["MoleculeArrays", "Sample", "Source", "draw", "fixed_batches", "npz_molecules"]

_VERSION = b"1"  # of the cached arrays


@dataclass(frozen=True)
class Source:
    """Molecules of one file.

    Parameters
    ----------
    path : .npz as described by `npz_molecules`, a folder made by `structok data build`, .parquet with a column
        `molblock`, .sdf, .mol2 (also .gz), or arrays that `MoleculeArrays.load` left in a cache folder, which need
        no RDKit; a relative path that does not exist here is looked up in the shared data folder
    split : only molecules whose column `split` has this value (.npz), or 0 = train, 1 = validation (folders)
    limit : at most so many molecules, drawn at random with a fixed seed; 0 = all
    """

    path: str
    split: int | None = None
    limit: int = 0

    def file(self) -> Path:
        here = Path(self.path)
        return here if here.exists() else shared_folder() / "data" / "molecule" / self.path


def npz_molecules(path: Path, split: int | None = None, limit: int = 0) -> Iterator[tuple[str, Mol]]:
    """Molecules of a ragged .npz: per molecule `id`, `natoms`, `nbonds` and perhaps `split`; per atom `Z`, `q`
    and position bytes `x0`, `x1`, `x2` (little endian, offset 2^23, units of 1e-4 Å); per bond `bi`, `bj`, `bo`."""
    from rdkit import Chem
    from rdkit.Geometry import Point3D

    orders = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}
    with np.load(path) as file:
        data = {k: file[k] for k in file.files}
    atom_end, bond_end = np.cumsum(data["natoms"], dtype=np.int64), np.cumsum(data["nbonds"], dtype=np.int64)
    words = data["x0"].astype(np.int64) | data["x1"].astype(np.int64) << 8 | data["x2"].astype(np.int64) << 16
    xyz = (words - (1 << 23)) * 1e-4
    chosen = np.arange(len(atom_end))
    if split is not None:
        chosen = chosen[data["split"] == split]
    if 0 < limit < len(chosen):
        chosen = np.sort(np.random.default_rng(0).choice(chosen, limit, replace=False))
    for i in chosen.tolist():
        atoms = slice(atom_end[i] - int(data["natoms"][i]), atom_end[i])
        bonds = slice(bond_end[i] - int(data["nbonds"][i]), bond_end[i])
        mol = Chem.RWMol()
        for element, charge in zip(data["Z"][atoms].tolist(), data["q"][atoms].tolist()):
            atom = Chem.Atom(element)
            atom.SetFormalCharge(charge)
            atom.SetNoImplicit(True)
            mol.AddAtom(atom)
        for a, b, order in zip(*(data[k][bonds].tolist() for k in ("bi", "bj", "bo"))):
            mol.AddBond(a, b, orders[order])
        conformer = Chem.Conformer(mol.GetNumAtoms())
        conformer.Set3D(True)
        for k, position in enumerate(xyz[atoms].tolist()):
            conformer.SetAtomPosition(k, Point3D(*position))
        mol.AddConformer(conformer, assignId=True)
        mol = mol.GetMol()
        Chem.SanitizeMol(mol)
        Chem.AssignStereochemistryFrom3D(mol)
        name = data["id"][i].decode()
        mol.SetProp("_Name", name)
        yield name, mol


def _molecules(source: Source) -> Iterator[tuple[str, Mol]]:
    from rdkit import Chem

    path = source.file()
    if path.suffix == ".npz":
        yield from npz_molecules(path, source.split, source.limit)
        return
    if path.is_dir():
        split = None if source.split is None else SPLITS[source.split]
        found = ((mol.GetProp("_Name"), mol) for mol in read_structures(path, "molecule", split))
    elif path.suffix == ".parquet":
        import pyarrow.parquet

        blocks = (str(b) for b in pyarrow.parquet.read_table(path, columns=["molblock"])["molblock"].to_pylist())
        found = ((str(i), Chem.MolFromMolBlock(block, removeHs=False)) for i, block in enumerate(blocks))
    else:
        found = ((name, None if isinstance(m, StructokError) else m) for name, m in read_molecules(path))
    for i, (name, mol) in enumerate(found):
        if source.limit and i >= source.limit:
            return
        if mol is not None:
            yield name, mol


@dataclass(frozen=True)
class Sample:
    """One molecule in token order, as the models take it."""

    coords: Float[np.ndarray, "n 3"]
    refs: Int[np.ndarray, "n 3"]
    graph: Graph
    topology: Topology


@dataclass(frozen=True)
class MoleculeArrays:
    """Many samples, their arrays end to end; rows of molecule i lie before `atom_end[i]`, `bond_end[i]`."""

    atom_end: Int[np.ndarray, " m"]
    bond_end: Int[np.ndarray, " m"]
    coords: Float[np.ndarray, "n 3"]
    refs: Int[np.ndarray, "n 3"]
    atoms: Int[np.ndarray, "n f"]
    bonds: Int[np.ndarray, "e 2"]
    bond_types: Int[np.ndarray, " e"]
    topo_refs: Int[np.ndarray, "n 3"]
    context: Int[np.ndarray, "n c"]
    context_distance: Int[np.ndarray, "n c"]
    relations: Int[np.ndarray, "n r"]

    def __len__(self) -> int:
        return len(self.atom_end)

    @cached_property
    def sizes(self) -> Int[np.ndarray, " m"]:
        """Atoms of each molecule."""
        return np.diff(self.atom_end, prepend=0)

    @cached_property
    def by_size(self) -> Int[np.ndarray, " m"]:
        """Molecules from small to large."""
        return np.argsort(self.sizes, kind="stable")

    def __getitem__(self, i: int) -> Sample:
        a = slice(self.atom_end[i - 1] if i else 0, self.atom_end[i])
        b = slice(self.bond_end[i - 1] if i else 0, self.bond_end[i])
        topology = Topology(self.topo_refs[a], self.context[a], self.context_distance[a], self.relations[a])
        graph = Graph(self.atoms[a], self.bonds[b].astype(np.int64), self.bond_types[b])
        return Sample(self.coords[a], self.refs[a], graph, topology)

    @classmethod
    def load(cls, source: Source, cache: Path) -> MoleculeArrays:
        """Arrays of a source; read once, then from the cache folder. Molecules of one fragment only."""
        file = source.file()
        if file.suffix == ".npz":
            with np.load(file) as data:
                if "topo_refs" in data.files:
                    return cls(**{f.name: data[f.name] for f in fields(cls)})
        key = hashlib.sha256(_VERSION + repr((str(file.resolve()), file.stat().st_mtime_ns, source)).encode())
        cached = cache / f"{file.stem}-{key.hexdigest()[:12]}.npz"
        if not cached.exists():
            arrays = cls._build(source)
            cache.mkdir(parents=True, exist_ok=True)
            partial = cached.with_suffix(".partial.npz")
            np.savez(partial, **{f.name: getattr(arrays, f.name) for f in fields(cls)})
            partial.rename(cached)
        with np.load(cached) as data:
            return cls(**{f.name: data[f.name] for f in fields(cls)})

    @classmethod
    def _build(cls, source: Source) -> MoleculeArrays:
        from rdkit import Chem

        rows: dict[str, list[np.ndarray]] = {f.name: [] for f in fields(cls)}
        skipped = 0
        for _, mol in track(_molecules(source), description=f"reading {source.path}"):
            smiles, order = in_token_order(mol)
            if "." in smiles:
                skipped += 1
                continue
            mol = Chem.RenumberAtoms(mol, order)
            graph = graph_of(mol)
            topology = topology_of(graph)
            values = {
                "atom_end": np.array([len(graph)]),
                "bond_end": np.array([len(graph.bonds)]),
                "coords": mol.GetConformer().GetPositions().astype(np.float32),
                "refs": reference_atoms(graph.bonds, len(graph)).astype(np.int16),
                "atoms": graph.atoms,
                "bonds": graph.bonds.astype(np.int16),
                "bond_types": graph.bond_types.astype(np.int8),
                "topo_refs": topology.refs.astype(np.int16),
                "context": topology.context.astype(np.int16),
                "context_distance": topology.context_distance.astype(np.int8),
                "relations": topology.relations.astype(np.int8),
            }
            for name, value in values.items():
                rows[name].append(value)
        if skipped:
            print(f"{source.path}: {skipped} molecules of several fragments left out")
        arrays = {name: np.concatenate(parts) for name, parts in rows.items()}
        arrays["atom_end"], arrays["bond_end"] = np.cumsum(arrays["atom_end"]), np.cumsum(arrays["bond_end"])
        return cls(**arrays)


def draw(arrays: MoleculeArrays, atoms: int, rng: np.random.Generator) -> list[Sample]:
    """A random batch of about `atoms` atoms, of molecules of similar size so that padding stays small."""
    start = int(rng.integers(len(arrays)))
    count = max(1, min(len(arrays), atoms // int(arrays.sizes[arrays.by_size[start]])))
    spread = 4 * count
    low = max(0, min(start - spread // 2, len(arrays) - spread))
    window = arrays.by_size[low : low + spread]
    return [arrays[int(i)] for i in rng.choice(window, size=min(count, len(window)), replace=False)]


def fixed_batches(arrays: MoleculeArrays, atoms: int, molecules: int) -> list[Sequence[Sample]]:
    """The same `molecules` molecules each time, in batches of about `atoms` atoms: for validation."""
    chosen = np.random.default_rng(0).permutation(len(arrays))[:molecules]
    chosen = chosen[np.argsort(arrays.sizes[chosen], kind="stable")]
    batches: list[Sequence[Sample]] = []
    batch: list[Sample] = []
    for i in chosen.tolist():
        batch.append(arrays[i])
        if sum(len(s.coords) for s in batch) >= atoms:
            batches.append(batch)
            batch = []
    return [*batches, batch] if batch else batches
