"""What to build: the choices of `structok data build`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from structok.errors import InputError

__all__ = ["KINDS", "BuildOptions", "Kind"]


@dataclass(frozen=True)
class Kind:
    """What differs between data sets of a modality: their words, how rows are grouped, and default lengths."""

    title: str
    noun: str
    unit: str
    grouped: str
    lengths: tuple[int, int]


KINDS = {
    "protein": Kind("Protein backbones", "chains", "residues", "equal sequences", (25, 2048)),
    "nucleic": Kind("DNA and RNA", "chains", "nucleotides", "equal sequences", (2, 2048)),
    "molecule": Kind("Molecule conformers", "molecules", "atoms", "equal Murcko scaffolds", (1, 1000)),
}


@dataclass(frozen=True)
class BuildOptions:
    """Filters, numbers and splits. The defaults for proteins are the published preparation of GCP-VQVAE.

    Parameters
    ----------
    modality : 'protein', 'nucleic' or 'molecule'
    atoms : 'all' keeps the side chains of proteins; nucleotides have all their atoms always
    min_length, max_length : residue slots of a chain, or atoms of a molecule
    max_missing : share of a chain's residues that may be missing
    longest_gap : residues that may be missing in a row
    min_plddt : mean pLDDT of predicted chains, 0 to 100
    max_resolution : Å; structures whose resolution is unknown pass
    plddt : whether B-factors are pLDDT: 'auto' trusts what files say of themselves
    coords : 'float32', or 'int16' in 0.01 Å about the centre
    dedup : keep only the first of equal sequences (proteins) or equal SMILES (molecules)
    clusters : file of lines 'cluster<TAB>member', as MMseqs2 writes it; None clusters by MMseqs2 if it is installed
    identity : least sequence identity within a cluster of MMseqs2
    validation : share of clusters for validation
    seed : of the split
    shard_size : chains or molecules per shard
    add_hs : add missing hydrogens to molecules
    """

    modality: Literal["protein", "nucleic", "molecule"] = "protein"
    atoms: Literal["backbone", "all"] = "backbone"
    min_length: int = 25
    max_length: int = 2048
    max_missing: float = 0.2
    longest_gap: int = 15
    min_plddt: float | None = None
    max_resolution: float | None = None
    plddt: Literal["auto", "always", "never"] = "auto"
    coords: Literal["float32", "int16"] = "float32"
    dedup: bool = True
    clusters: str | None = None
    identity: float = 0.4
    validation: float = 0.05
    seed: int = 0
    shard_size: int = 8192
    add_hs: bool = False

    def __post_init__(self) -> None:
        for name, low, high in (("max_missing", 0, 1), ("identity", 0, 1), ("validation", 0, 1), ("min_plddt", 0, 100)):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InputError(f"{name} must be between {low} and {high}, not {value}")
        if not 1 <= self.min_length <= self.max_length or self.shard_size < 1:
            raise InputError("lengths and the shard size must be positive, and min_length at most max_length")
        if self.atoms == "all" and self.modality == "molecule":
            raise InputError("molecules have all their atoms; atoms='all' is for proteins")
