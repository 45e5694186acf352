"""What the benchmark measures on: held-out sets of the project's data, or structures of your own.

Without a folder and without the project's data beside the clone, the two examples that ship are used.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem, RDLogger
from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles
from rich.progress import track

from structok.errors import InputError, StructokError
from structok.molecule.conformer import prepare
from structok.read.formats import MOLECULES, suffix_kind
from structok.read.molecules import read_molecules
from train.data import Backbones, load_backbones, shared_folder
from train.molecule.data import npz_molecules

__all__ = ["StructureSet", "examples", "molecule_sets", "protein_sets", "steady_chains"]

FEWEST = 25  # residues; the shortest chain that counts


@dataclass(frozen=True)
class StructureSet:
    """Chains or molecules of one kind, and what was left out and why.

    Parameters
    ----------
    structures : `Backbone`s or RDKit molecules
    groups : sequence cluster of each chain; each molecule is a group of its own
    unseen : whether a molecule's scaffold is in no training molecule; None = not looked up
    """

    name: str
    structures: list[Any]
    groups: list[int]
    excluded: dict[str, str] = field(default_factory=dict)
    unseen: list[bool] | None = None

    def only(self, kept: Sequence[int]) -> StructureSet:
        """Some of the chains."""
        chains, groups = ([some[i] for i in kept] for some in (self.structures, self.groups))
        return StructureSet(self.name, chains, groups, self.excluded)


def examples() -> Path:
    """The structures that ship with the package."""
    import structok

    return Path(structok.__file__).parent / "examples"


def protein_sets(data: Path | None, limit: int, seed: int) -> list[StructureSet]:
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


def steady_chains(chosen: StructureSet, count: int, longest: int) -> StructureSet:
    """At most `count` chains for the measures that encode many times: one of a cluster, not the longest."""
    fits = [len(chain) <= min(longest, 500) for chain in chosen.structures]
    first = {g: i for i, g in reversed(list(enumerate(chosen.groups))) if fits[i]}
    picked = sorted(first.values())
    some = np.unique(np.linspace(0, len(picked) - 1, min(count, len(picked))).astype(int))
    return chosen.only([picked[i] for i in some])


def _is_structure(path: Path) -> bool:
    return path.suffix == ".parquet" or suffix_kind(path) in ("pdb", "cif", "bcif")


def _protein_set(
    name: str, data: Backbones, chosen: np.ndarray, limit: int, random: np.random.Generator
) -> StructureSet:
    if limit and len(chosen) > limit:
        chosen = np.sort(data.one_per_cluster(chosen, random)[:limit])
    chains, groups, excluded = [], [], {}
    for i in chosen.tolist():
        chain = data.chain(i)
        observed = int(chain.mask.sum())
        if observed < FEWEST:
            excluded[data.names[i]] = f"{observed} observed residues, fewer than {FEWEST}"
            continue
        chains.append(chain)
        groups.append(int(data.cluster[i]))
    return StructureSet(name, chains, groups, excluded)


# name, file, split
SUBSETS = (
    ("CCD test", "ccd_ideal.npz", 2),
    ("CCD validation", "ccd_ideal.npz", 1),
    ("QM9 test", "qm9.npz", 2),
    ("QM9 validation", "qm9.npz", 1),
    ("FEP ligands", "fep_ligands.npz", None),
    ("PDB ligands, crystal, not in CCD train", "genentech_pdb.npz", None),
)


def molecule_sets(data: Path | None, limit: int, *, whole: bool) -> list[StructureSet]:
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
        chosen = [s for s in SUBSETS if whole or "validation" not in s[0]]
        return [_molecule_set(s, _stored(folder / file, split, limit, whole), known) for s, file, split in chosen]
    source = data or examples()
    files = [source] if source.is_file() else sorted(source.rglob("*"))
    files = [f for f in files if suffix_kind(f) in MOLECULES]
    found = ((name, mol) for file in files for name, mol in read_molecules(file))
    found = itertools.islice(found, limit or None)
    return [_molecule_set(f"molecules of {source.name}", found, None)] if files else []


def _stored(path: Path, split: int | None, limit: int, whole: bool) -> Iterable[tuple[str, Chem.Mol]]:
    """Molecules of a data file; where it says which are in training data, all the others (`limit` unless `whole`)."""
    with np.load(path) as file:
        unseen = ~file["in_train"].astype(bool) if "in_train" in file.files else None
    if unseen is None:
        return npz_molecules(path, split, limit)
    new = list(itertools.compress(npz_molecules(path, split), unseen))
    if whole or not limit or len(new) <= limit:
        return new
    return [new[i] for i in np.sort(np.random.default_rng(0).choice(len(new), limit, replace=False))]


def _molecule_set(name: str, found: Iterable[tuple[str, Any]], known: set[str] | None) -> StructureSet:
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
    return StructureSet(name, molecules, list(range(len(molecules))), excluded, unseen)


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
