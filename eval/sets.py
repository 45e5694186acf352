"""What the benchmark measures on: held-out sets of the project's data, or structures of your own.

Without a folder and without the project's data beside the clone, the two examples that ship are used.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem, RDLogger
from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles
from rich.progress import track

from structok.errors import InputError, StructokError
from structok.molecule.conformer import prepare
from structok.molecule.files import read_molecules
from structok.protein.structure import Backbone
from train.data import Backbones, load_backbones, shared_folder
from train.molecule.data import npz_molecules

__all__ = ["MoleculeSet", "ProteinSet", "examples", "molecule_sets", "protein_sets"]

FEWEST = 25  # residues; the shortest chain that counts
MOLECULE_SUFFIXES = (".sdf", ".mol", ".mol2", ".sdf.gz", ".mol.gz", ".mol2.gz")


@dataclass(frozen=True)
class ProteinSet:
    """Chains of one kind, the sequence cluster of each, and what was left out and why."""

    name: str
    chains: list[Backbone]
    groups: list[int]
    excluded: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class MoleculeSet:
    """Molecules of one kind, whether their scaffold is in no training molecule (None = not looked up), exclusions."""

    name: str
    molecules: list[Chem.Mol]
    unseen: list[bool] | None
    excluded: dict[str, str] = field(default_factory=dict)


def examples() -> Path:
    """The structures that ship with the package."""
    import structok

    return Path(structok.__file__).parent / "examples"


def protein_sets(data: Path | None, limit: int, seed: int) -> list[ProteinSet]:
    """Complete validation chains, those with gaps, and CASP14; or all chains of `data` as one set.

    Parameters
    ----------
    data : a folder of structure files, an .npz or a .parquet (`train.data.load_backbones`); None = the project's
        held-out data, or the examples where there is none
    limit : chains per set, drawn at random, at most one of a cluster; 0 = all. CASP14 is always whole.
    """
    random = np.random.default_rng(seed)
    folder = shared_folder() / "data" / "protein"
    if data is None and folder.is_dir():
        held_out, casp = load_backbones(folder / "train.npz"), load_backbones(folder / "casp14.npz")
        unseen = np.flatnonzero(held_out.split == 1)
        return [
            _protein_set("validation, complete", held_out, unseen[held_out.complete[unseen]], limit, random),
            _protein_set("validation, with gaps", held_out, unseen[~held_out.complete[unseen]], limit // 2, random),
            _protein_set("CASP14", casp, np.arange(len(casp)), 0, random),
        ]
    source = data or examples()
    if source.is_dir() and not any(_is_structure(p) for p in source.rglob("*")):
        return []
    own = load_backbones(source)
    return [_protein_set(f"chains of {source.name}", own, np.arange(len(own)), limit, random)]


def _is_structure(path: Path) -> bool:
    return path.name.removesuffix(".gz").endswith((".pdb", ".ent", ".cif", ".mmcif", ".bcif", ".parquet"))


def _protein_set(name: str, data: Backbones, chosen: np.ndarray, limit: int, random: np.random.Generator) -> ProteinSet:
    if limit and len(chosen) > limit:
        chosen = np.sort(data.one_per_cluster(chosen, random)[:limit])
    chains, groups, excluded = [], [], {}
    for i in chosen.tolist():
        rows = slice(data.offsets[i], data.offsets[i + 1])
        observed = int(np.isfinite(data.coords[rows]).all((1, 2)).sum())
        if observed < FEWEST:
            excluded[data.names[i]] = f"{observed} observed residues, fewer than {FEWEST}"
            continue
        letters = None if data.sequence is None else bytes(data.sequence[rows].astype(np.uint8)).decode()
        chains.append(Backbone(data.coords[rows], letters, name=data.names[i]))
        groups.append(int(data.cluster[i]))
    return ProteinSet(name, chains, groups, excluded)


@dataclass(frozen=True)
class _Subset:
    """A named part of a data file."""

    name: str
    file: str
    split: int | None = None


SUBSETS = (
    _Subset("CCD test", "ccd_ideal.npz", 2),
    _Subset("CCD validation", "ccd_ideal.npz", 1),
    _Subset("QM9 test", "qm9.npz", 2),
    _Subset("QM9 validation", "qm9.npz", 1),
    _Subset("FEP ligands", "fep_ligands.npz"),
    _Subset("PDB ligands, crystal, not in CCD train", "genentech_pdb.npz"),
)


def molecule_sets(data: Path | None, limit: int, *, whole: bool) -> list[MoleculeSet]:
    """Test and validation sets of molecules; or all molecules in the files of `data` as one set.

    Parameters
    ----------
    data : a folder of .sdf, .mol and .mol2 files or one such file; None = the project's data, or the examples
    limit : molecules per set, drawn at random; 0 = all
    whole : every set, and whether scaffolds are new; else only the test sets
    """
    RDLogger.DisableLog("rdApp.*")
    folder = shared_folder() / "data" / "molecule"
    if data is None and folder.is_dir():
        known = training_scaffolds() if whole else None
        chosen = [s for s in SUBSETS if whole or "validation" not in s.name]
        return [_molecule_set(s.name, _stored(s, limit, whole), known) for s in chosen]
    source = data or examples()
    files = [source] if source.is_file() else sorted(source.rglob("*"))
    files = [f for f in files if f.name.endswith(MOLECULE_SUFFIXES)]
    found = ((name, mol) for file in files for name, mol in read_molecules(file))
    found = itertools.islice(found, limit or None)
    return [_molecule_set(f"molecules of {source.name}", found, None)] if files else []


def _stored(subset: _Subset, limit: int, whole: bool) -> Iterable[tuple[str, Chem.Mol]]:
    """Molecules of a data file; where it says which are in training data, all the others (`limit` unless `whole`)."""
    path = shared_folder() / "data" / "molecule" / subset.file
    with np.load(path) as file:
        unseen = ~file["in_train"].astype(bool) if "in_train" in file.files else None
    if unseen is None:
        return npz_molecules(path, subset.split, limit)
    new = list(itertools.compress(npz_molecules(path, subset.split), unseen))
    if whole or not limit or len(new) <= limit:
        return new
    return [new[i] for i in np.sort(np.random.default_rng(0).choice(len(new), limit, replace=False))]


def _molecule_set(name: str, found: Iterable[tuple[str, Any]], known: set[str] | None) -> MoleculeSet:
    molecules, excluded = [], {}
    for label, mol in found:
        try:
            if isinstance(mol, StructokError):
                raise mol
            prepare(mol)
            molecules.append(mol)
        except InputError as error:
            excluded[label] = str(error)
    unseen = None if known is None else [scaffold(Chem.MolToSmiles(Chem.RemoveHs(m))) not in known for m in molecules]
    return MoleculeSet(name, molecules, unseen, excluded)


def training_scaffolds() -> set[str]:
    """Murcko scaffolds of the molecules that the shipped models learned from; kept in runs/cache."""
    kept = Path("runs/cache/training_scaffolds.json")
    if kept.exists():
        return set(json.loads(kept.read_text()))
    found = set()
    for name in ("qm9.npz", "ccd_ideal.npz"):
        with np.load(shared_folder() / "data" / "molecule" / name) as file:
            smiles = file["smiles_nl"].item().decode().split("\n")
            train = file["split"] == 0
        found |= {scaffold(s) for s, keep in zip(track(smiles, f"scaffolds of {name}"), train) if keep}
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(sorted(found)))
    return found


def scaffold(smiles: str) -> str:
    """Murcko scaffold, '' for chains and for what RDKit cannot cut."""
    try:
        return MurckoScaffoldSmiles(smiles)
    except (RuntimeError, ValueError):
        return ""
