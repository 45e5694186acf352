"""Proteins with all heavy atoms: a model of backbones and codebooks of side chains, as one tokenizer."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from structok.errors import CheckpointError, InputError, TokensError
from structok.protein.sidechain import SideChains
from structok.protein.sidechain_atoms import ATOMS
from structok.protein.sidechain_metrics import chi_angles, clashes, compare_atoms
from structok.read.structures import read_structure
from structok.structure import Backbone, Polymer
from structok.tokenizer import Search, Tokenizer
from structok.tokens import Stream, Tokens, declare

if TYPE_CHECKING:
    from biotite.structure import AtomArray

__all__ = ["AllAtom", "AtomChain"]

_CHI = math.radians(20)  # within which a chi angle counts as kept


class AtomChain(Backbone):
    """One protein chain with its heavy atoms.

    Parameters
    ----------
    atoms : array, shape=(L, 14, 3), in atom14 order (`sidechain_atoms.ATOMS`) in Å, NaN where missing; a residue
        that lacks N, CA or C is missing as a whole
    sequence : one letter per residue slot
    chain_id, residue_ids, name : see `Backbone`
    """

    def __init__(
        self,
        atoms: Float[np.ndarray, "l 14 3"],
        sequence: str,
        chain_id: str = "A",
        residue_ids: Sequence[str | int] | None = None,
        *,
        name: str = "",
    ) -> None:
        array = np.array(atoms, dtype=np.float32)
        if array.ndim != 3 or array.shape[1:] != (14, 3):
            raise InputError(f"atoms of a protein have shape {array.shape}, expected [L, 14, 3]")
        super().__init__(array[:, :3], sequence, chain_id, residue_ids, oxygen=array[:, 3], name=name)
        array[~self.mask] = np.nan
        self.atoms: Float[np.ndarray, "l 14 3"] = array

    @classmethod
    def of(cls, polymer: Any) -> AtomChain:
        """Of a protein `Polymer`: the atoms that its residues' types have, SE of selenomethionine as SD.

        Isoleucine's CD, as CHARMM calls it, is CD1.
        """
        sequence = polymer.sequence
        places = {x: {name: i for i, name in enumerate(ATOMS.get(x, ATOMS["G"]))} for x in set(sequence)}
        places.get("M", {})["SE"] = ATOMS["M"].index("SD")
        places.get("I", {})["CD"] = ATOMS["I"].index("CD1")
        atoms = np.full((len(sequence), 14, 3), np.nan, dtype=np.float32)
        names, coords = polymer.atoms.atom_name.tolist(), polymer.atoms.coord
        for slot, name, coord in zip(polymer.slots.tolist(), names, coords):
            if (place := places[sequence[slot]].get(name)) is not None:
                atoms[slot, place] = coord
        return cls(atoms, sequence, polymer.chain_id, polymer.residue_ids, name=polymer.name)

    def to_atom_array(self, *, oxygen: bool = True) -> AtomArray:
        """The atoms that are there, as a biotite `AtomArray`; `oxygen` is for backbones only."""
        from biotite.structure import concatenate

        backbone = super().to_atom_array(oxygen=True)
        parts, per = [], 4
        for i, slot in enumerate(np.flatnonzero(self.mask)):
            names = ATOMS.get(self.sequence[slot], ATOMS["G"])
            there = np.flatnonzero(np.isfinite(self.atoms[slot, : len(names)]).all(-1))
            residue = backbone[[per * i] * len(there)]
            residue.coord = self.atoms[slot, there]
            residue.atom_name = np.array([names[k] for k in there])
            residue.element = np.array([names[k][0] for k in there])
            parts.append(residue)
        return concatenate(parts)


class AllAtom(Tokenizer[AtomChain, AtomChain]):
    """A tokenizer of backbones with codebooks of side chains: two codes per residue.

    Parameters
    ----------
    backbone : any tokenizer of proteins
    sidechains : the codebooks
    """

    modality: ClassVar = "protein"
    kind = "all-atom"

    def __init__(self, backbone: Tokenizer[Backbone, Backbone], sidechains: SideChains) -> None:
        if backbone.modality != "protein" or not isinstance(sidechains, SideChains):
            raise CheckpointError(
                f"{backbone.name}+{sidechains.name}: give a model of protein backbones and one of side chains"
            )
        super().__init__(backbone.config, f"{backbone.name}+{sidechains.name}", backbone.device)
        self.backbone, self.sidechains = backbone, sidechains
        self.sizes, self.missing = backbone.sizes, backbone.missing  # type: ignore[misc]

    @property
    def streams(self) -> tuple[Stream, ...]:
        sizes = {stream.name: stream.size for stream in self.backbone.streams}
        return declare("protein", **sizes, sidechains=self.sidechains.codebook_size)

    @property
    def posed(self) -> bool:  # type: ignore[override]
        return self.backbone.posed

    def tensors(self) -> dict[str, Any]:
        raise CheckpointError(f"{self.name} is two checkpoints: save .backbone and .sidechains")

    def settings(self, asked: Search) -> Search:
        return self.backbone.settings(asked)

    def prepare(self, x: Any) -> AtomChain:
        """An `AtomChain`, a protein `Polymer`, a `Backbone` that was read with all atoms, or a path (one chain)."""
        if isinstance(x, (str, os.PathLike)):
            chains = read_structure(x, atoms="all")
            if len(chains) > 1:
                ids = ", ".join(c.chain_id for c in chains)
                raise InputError(f"{os.fspath(x)}: holds protein chains {ids}; pick one with read_structure")
            x = chains[0]
        if isinstance(x, Backbone) and not isinstance(x, AtomChain):
            x = x.entity
        if isinstance(x, Polymer) and x.kind == "protein":
            x = AtomChain.of(x)
        if not isinstance(x, AtomChain):
            raise InputError(f"{self.name} needs all atoms: an AtomChain, or a file read with atoms='all'")
        if not np.isfinite(x.atoms[:, 4:]).any() and set(x.sequence) - set("GX"):
            where = f"{x.name or 'structure'}, chain {x.chain_id}"
            raise InputError(f"{where}: no side chain; {self.name} needs all atoms (atoms='all' when reading)")
        self.backbone.prepare(x)
        return x

    def assign(self, items: Sequence[AtomChain], search: Search, batch_size: int) -> list[Int[np.ndarray, "two l"]]:
        steps = self.backbone.assign(items, search, batch_size)
        tokens = [self.backbone.tokens(item, codes) for item, codes in zip(items, steps)]
        rebuilt = [chain.coords for chain in self.backbone.rebuild(tokens, batch_size)]
        sides = self.sidechains.encode_batch([x.atoms for x in items], [x.sequence for x in items], rebuilt)
        return [np.stack(both) for both in zip(steps, sides)]

    def tokens(self, item: AtomChain, codes: Int[np.ndarray, "two l"]) -> Tokens:
        return replace(self.backbone.tokens(item, codes[0]), model=self.name, sidechains=codes[1])

    def compare(self, structure: AtomChain, back: AtomChain, tokens: Tokens) -> dict[str, Any]:
        found = self.backbone.compare(structure, back, tokens)
        compared = compare_atoms(back.atoms, structure.atoms, structure.sequence)
        chi = chi_angles(back.atoms, back.sequence) - chi_angles(structure.atoms, structure.sequence)
        off = np.abs(np.angle(np.exp(1j * chi[:, 0])))
        known = np.isfinite(off)
        new = clashes(back.atoms, back.sequence) - clashes(structure.atoms, structure.sequence)
        return found | {
            "rmsd_all": compared.rmsd,
            "rmsd_alike": compared.rmsd_alike,
            "chi1_kept": float((off[known] <= _CHI).mean()) if known.any() else None,
            "new_clashes": len(new),
            "uncoded": int(((tokens.sidechains < 0) & np.isfinite(structure.atoms[:, 4]).all(1)).sum()),  # type: ignore
            "bits_per_token": found["bits_per_token"] + math.log2(self.sidechains.codebook_size),
        }

    def rebuild(self, many: Sequence[Tokens], batch_size: int) -> list[AtomChain]:
        for tokens in many:
            if tokens.sequence is None or tokens.sidechains is None:
                lacks = "sequence" if tokens.sequence is None else "side-chain codes"
                raise TokensError(f"{tokens.where}: no {lacks}, which {self.name} needs")
        chains = self.backbone.rebuild(many, batch_size)
        sequences = [chain.sequence for chain in chains]
        codes = [tokens.sidechains for tokens in many if tokens.sidechains is not None]
        atoms = self.sidechains.decode_batch(codes, sequences, [chain.coords for chain in chains])
        return [AtomChain(x, c.sequence, c.chain_id, c.residue_ids, name=c.name) for x, c in zip(atoms, chains)]
