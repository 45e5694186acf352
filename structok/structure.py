"""`Structure`: the entities of a file in one frame, with the atoms that were read; `Backbone`: a view of a protein."""

from __future__ import annotations

import logging
import os
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from structok.errors import InputError
from structok.geometry import BOND_LIMIT, place_oxygen
from structok.names import three_letters

if TYPE_CHECKING:
    from biotite.structure import AtomArray

__all__ = ["CHAIN_IDS", "Backbone", "Ligand", "Note", "Polymer", "Structure", "check_bond", "many"]

CHAIN_IDS = string.ascii_uppercase + string.ascii_lowercase + string.digits  # of chains that need a new id
_MOST = 1.5  # times longer or shorter than usual, which no noise makes the median bond of a chain
_RESIDUE_ID = re.compile(r"(-?\d+)([A-Za-z]?)")


def many(count: int, noun: str) -> str:
    """'1 slot', '2 slots'."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def check_bond(name: str, a: Float[np.ndarray, "n 3"], b: Float[np.ndarray, "n 3"], usual: float, where: str) -> None:
    """Raise `InputError` where bonds show that coordinates are in nm; warn where they are of other odd lengths (Å)."""
    length = float(np.median(np.linalg.norm(b - a, axis=-1))) if len(a) else usual
    said = f"{where}: {name} bonds of {length:.2f} Å, not {usual}"
    if 0 < length < usual / 5:
        raise InputError(f"{said}; coordinates in nm? multiply them by 10")
    if not usual / _MOST < length < usual * _MOST:
        logging.getLogger("structok").warning("%s; are these %s, in Å?", said, name.replace("-", " and "))


@dataclass(frozen=True)
class Note:
    """Something that reading left out, invented or changed.

    Parameters
    ----------
    kind : what it counts, such as 'slots added' or 'frames ignored'
    count : how many
    text : one line for people
    chain : the chain that it is about, None for the file
    routine : expected in good files (waters, alternative locations): counted, but not worth a line on stderr
    """

    kind: str
    count: int
    text: str
    chain: str | None = None
    routine: bool = False

    def __str__(self) -> str:
        return self.text


@dataclass
class Polymer:
    """One protein or nucleic chain.

    Parameters
    ----------
    kind : 'protein' or 'nucleic'
    chain_id : chain id of the file's author; chains that share an id in the file get ids of their own
    sequence : one letter per slot, 'X' where unknown
    residue_ids : number and insertion code per slot, such as '52' or '52A'
    atoms : AtomArray of the atoms that were read, in the order of the slots, with occupancy and b_factor;
        atoms without a place (placeholders) are not among them
    slots : int array, shape=(n,), the slot of each atom; a slot without atoms is a missing residue
    name : name of the structure
    """

    kind: Literal["protein", "nucleic"]
    chain_id: str
    sequence: str
    residue_ids: list[str]
    atoms: AtomArray
    slots: Int[np.ndarray, " n"]
    name: str = ""

    def __len__(self) -> int:
        return len(self.sequence)

    def __repr__(self) -> str:
        return f"Polymer({self.kind}, chain {self.chain_id}, {len(self)} residues, {len(self.atoms)} atoms)"

    def place(self, names: Sequence[str]) -> Float[np.ndarray, "l a 3"]:
        """Coordinates of these atoms of each slot, Å, NaN where missing."""
        out = np.full((len(self), len(names), 3), np.nan, dtype=np.float32)
        for column, name in enumerate(names):
            rows = np.flatnonzero(self.atoms.atom_name == name)
            out[self.slots[rows], column] = self.atoms.coord[rows]
        return out

    def backbone(self) -> Backbone:
        """N, CA, C of a protein as a `Backbone`; residues that lack one of them are missing."""
        coords = self.place(("N", "CA", "C", "O"))
        whole = np.isfinite(coords[:, :3]).all((1, 2))
        coords[~whole] = np.nan
        b_factors = np.full(len(self), np.nan, dtype=np.float32)
        alpha = self.atoms.atom_name == "CA"
        b_factors[self.slots[alpha]] = self.atoms.b_factor[alpha]
        return Backbone(
            coords[:, :3], self.sequence, self.chain_id, self.residue_ids,
            oxygen=coords[:, 3], b_factors=b_factors, name=self.name, entity=self,
        )  # fmt: skip


@dataclass
class Ligand:
    """One component that belongs to no polymer: a cofactor, a sugar, a free amino acid, a lipid.

    Parameters
    ----------
    name : component name, such as 'HEM'
    chain_id : chain id of the file's author
    residue_id : number and insertion code
    atoms : AtomArray of its atoms
    """

    name: str
    chain_id: str
    residue_id: str
    atoms: AtomArray


@dataclass
class Structure:
    """Every entity of a file in one frame.

    Parameters
    ----------
    name : usually the file's stem
    polymers : protein and nucleic chains, in the order of the file
    ligands : components that belong to no polymer; empty when only backbones were read
    solvent : AtomArray of waters and ions, None when only backbones were read
    notes : what was left out, invented or changed
    resolution : Å, None where unknown
    predicted : the file says that it is a prediction, so B-factors hold the pLDDT
    """

    name: str
    polymers: list[Polymer]
    ligands: list[Ligand] = field(default_factory=list)
    solvent: AtomArray | None = None
    notes: list[Note] = field(default_factory=list)
    resolution: float | None = None
    predicted: bool = False

    @property
    def proteins(self) -> list[Polymer]:
        """Protein chains."""
        return [p for p in self.polymers if p.kind == "protein"]

    @property
    def nucleic(self) -> list[Polymer]:
        """DNA and RNA chains."""
        return [p for p in self.polymers if p.kind == "nucleic"]

    def counts(self, chain: str | None = None) -> dict[str, int]:
        """Notes as numbers, those of the whole file and, if given, of one chain only."""
        found: Counter[str] = Counter()
        for note in self.notes:
            if chain is None or note.chain in (None, chain):
                found[note.kind] += note.count
        return dict(found)


class Backbone:
    """One protein chain.

    Parameters
    ----------
    coords : array, shape=(L, 3, 3); N, CA, C in Å. A residue with any NaN is missing as a whole.
    sequence : one letter per residue slot; default all 'X'
    chain_id : chain id of the file's author
    residue_ids : number and insertion code per slot, such as '52' or '52A'; default '1', '2', ...
    oxygen : array, shape=(L, 3), carbonyl O in Å where it was read; it is kept but not coded
    b_factors : array, shape=(L,), of each CA where they were read; the pLDDT of predicted structures
    name : name of the structure
    entity : the chain with all its atoms that this is a view of, where it was read from a file

    Attributes
    ----------
    coords : float32 array, shape=(L, 3, 3), NaN where missing
    mask : bool array, shape=(L,), True where observed
    repairs : what the decoder repaired (`structok.polymer.repair.Repairs`), None where it repairs nothing

    Raises
    ------
    InputError
        If the shapes do not fit or a coordinate is infinite.
    """

    def __init__(
        self,
        coords: Float[np.ndarray, "l 3 3"],
        sequence: str | None = None,
        chain_id: str = "A",
        residue_ids: Sequence[str | int] | None = None,
        *,
        oxygen: Float[np.ndarray, "l 3"] | None = None,
        b_factors: Float[np.ndarray, " l"] | None = None,
        name: str = "",
        entity: Polymer | None = None,
    ) -> None:
        if isinstance(coords, torch.Tensor):
            coords = coords.detach().cpu().numpy()
        try:
            array = np.array(coords, dtype=np.float32)
        except (TypeError, ValueError):
            raise InputError("backbone coordinates must be numbers, shape [L, 3, 3] (N, CA, C)") from None
        if array.ndim != 3 or array.shape[1:] != (3, 3) or not len(array):
            raise InputError(f"backbone coordinates have shape {array.shape}, expected [L, 3, 3] (N, CA, C)")
        if np.isinf(array).any():
            raise InputError(f"chain {chain_id}: infinite coordinates; mark missing residues with NaN")
        self.mask: Bool[np.ndarray, " l"] = np.asarray(np.isfinite(array).all((1, 2)))
        array[~self.mask] = np.nan
        self.coords: Float[np.ndarray, "l 3 3"] = array
        self.sequence = "X" * len(array) if sequence is None else str(sequence)
        self.chain_id = str(chain_id)
        ids = range(1, len(array) + 1) if residue_ids is None else residue_ids
        self.residue_ids = list(map(str, ids))
        self.oxygen = None if oxygen is None else np.asarray(oxygen, dtype=np.float32)
        self.b_factors = None if b_factors is None else np.asarray(b_factors, dtype=np.float32)
        self.name, self.entity = name, entity
        self.repairs: Any = None
        for what, value in (
            ("sequence", self.sequence),
            ("residue_ids", self.residue_ids),
            ("oxygen", self.oxygen),
            ("b_factors", self.b_factors),
        ):
            if value is not None and len(value) != len(array):
                raise InputError(f"chain {chain_id}: {len(array)} residues but {len(value)} entries in {what!r}")

    def __len__(self) -> int:
        return len(self.coords)

    def __repr__(self) -> str:
        missing = int((~self.mask).sum())
        return f"Backbone({self.name or 'unnamed'}, chain {self.chain_id}, {len(self)} residues, {missing} missing)"

    def place_oxygen(self) -> Float[np.ndarray, "l 3"]:
        """Carbonyl oxygens: as read where they were, elsewhere by ideal geometry; NaN where missing. Å."""
        coords = torch.from_numpy(self.coords)
        gap = np.linalg.norm(np.roll(self.coords[:, 0], -1, 0) - self.coords[:, 2], axis=-1)
        gap[-1] = np.inf
        ideal = place_oxygen(coords, torch.from_numpy(gap < BOND_LIMIT)).numpy()
        return ideal if self.oxygen is None else np.where(np.isnan(self.oxygen), ideal, self.oxygen)

    @property
    def components(self) -> list[str]:
        """Component name per slot, such as ALA."""
        return [three_letters(letter) for letter in self.sequence]

    def to_atom_array(self, *, oxygen: bool = False) -> AtomArray:
        """Observed residues as a biotite `AtomArray` of N, CA, C, and O with `oxygen=True`."""
        from biotite.structure import AtomArray

        names = ["N", "CA", "C", "O"][: 4 if oxygen else 3]
        seen = np.flatnonzero(self.mask)
        coords = np.concatenate([self.coords, self.place_oxygen()[:, None]], 1) if oxygen else self.coords
        ids = [_RESIDUE_ID.fullmatch(self.residue_ids[i]) for i in seen]
        atoms = AtomArray(len(seen) * len(names))
        atoms.coord = coords[seen].reshape(-1, 3)
        atoms.chain_id[:] = np.array([self.chain_id])
        # slots without a number of their own (unnumbered gaps) are never observed in a file that was read
        numbers = [int(m[1]) if m else int(i) + 1 for m, i in zip(ids, seen)]
        atoms.res_id = np.repeat(numbers, len(names))
        atoms.ins_code = np.repeat([m[2] if m else "" for m in ids], len(names))
        components = self.components
        atoms.res_name = np.repeat([components[i] for i in seen], len(names))
        atoms.atom_name = np.tile(names, len(seen))
        atoms.element = np.tile([n[0] for n in names], len(seen))
        return atoms

    def write(self, path: str | os.PathLike[str], *, oxygen: bool = False) -> None:
        """Write observed residues to .pdb, .cif or .bcif (.gz too); the file appears whole or not at all.

        `oxygen=True` adds the carbonyl O, by ideal geometry where it was not read.
        """
        from structok.write.structures import write_structure

        write_structure([self], path, oxygen=oxygen)
