"""`NucleicChain`: one DNA or RNA chain with its heavy atoms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from structok.errors import InputError
from structok.nucleic.atoms import IN_FRAME, SLOTS, names_of

if TYPE_CHECKING:
    from biotite.structure import AtomArray

__all__ = ["NucleicChain"]


class NucleicChain:
    """One chain of nucleotides.

    Parameters
    ----------
    atoms : array, shape=(L, 23, 3); heavy atoms by slot (`structok.nucleic.atoms`) in Å, NaN where missing
    sequence : one letter per slot: capitals are RNA, small letters DNA, 'X' and 'x' unknown bases
    chain_id : chain id of the file's author
    residue_ids : number and insertion code per slot; default '1', '2', ...
    name : name of the structure

    Attributes
    ----------
    mask : bool array, shape=(L,), True where the frame (C4', C3', C1') was observed; other slots are missing as a whole
    repairs : what the decoder repaired (`structok.polymer.repair.Repairs`), None where it repairs nothing

    Raises
    ------
    InputError
        If the shapes do not fit, or a coordinate is infinite.
    """

    def __init__(
        self,
        atoms: Float[np.ndarray, "l 23 3"],
        sequence: str,
        chain_id: str = "A",
        residue_ids: Sequence[str | int] | None = None,
        *,
        name: str = "",
    ) -> None:
        try:
            array = np.array(atoms, dtype=np.float32)
        except (TypeError, ValueError):
            raise InputError(f"atoms of nucleotides must be numbers, shape [L, {SLOTS}, 3]") from None
        if array.ndim != 3 or array.shape[1:] != (SLOTS, 3) or not len(array):
            raise InputError(f"atoms of nucleotides have shape {array.shape}, expected [L, {SLOTS}, 3]")
        if np.isinf(array).any():
            raise InputError(f"chain {chain_id}: infinite coordinates; mark missing atoms with NaN")
        self.mask: Bool[np.ndarray, " l"] = np.asarray(np.isfinite(array[:, IN_FRAME]).all((1, 2)))
        array[~self.mask] = np.nan
        self.atoms: Float[np.ndarray, "l 23 3"] = array
        self.sequence, self.chain_id, self.name = str(sequence), str(chain_id), name
        self.repairs: Any = None
        ids = range(1, len(array) + 1) if residue_ids is None else residue_ids
        self.residue_ids = [str(i) for i in ids]
        for what, value in (("sequence", self.sequence), ("residue_ids", self.residue_ids)):
            if len(value) != len(array):
                raise InputError(f"chain {chain_id}: {len(array)} nucleotides but {len(value)} entries in {what!r}")

    @classmethod
    def of(cls, polymer: Any) -> NucleicChain:
        """Of a nucleic `Polymer`: its atoms that have a slot here, small letters where the sugar has no O2'.

        Where no sugar was observed, T is DNA, U is RNA, and other letters are like the rest of the chain.
        """
        sequence, names = polymer.sequence.upper(), polymer.atoms.atom_name
        sugar, hydroxyl = (np.zeros(len(sequence), dtype=bool) for _ in range(2))
        sugar[polymer.slots[names == "C2'"]] = True
        hydroxyl[polymer.slots[names == "O2'"]] = True
        mostly = bool((sugar & ~hydroxyl).sum() > hydroxyl.sum())
        dna = [
            not has if seen else letter == "T" or (mostly and letter != "U")
            for letter, seen, has in zip(sequence, sugar.tolist(), hydroxyl.tolist())
        ]
        sequence = "".join(letter.lower() if small else letter for letter, small in zip(sequence, dna))
        sequence = "".join(letter if letter in "ACGUTXacgutx" else "X" for letter in sequence)
        places = {letter: {name: i for i, name in enumerate(names_of(letter)) if name} for letter in set(sequence)}
        atoms = np.full((len(sequence), SLOTS, 3), np.nan, dtype=np.float32)
        for slot, name, coord in zip(polymer.slots.tolist(), names.tolist(), polymer.atoms.coord):
            if (place := places[sequence[slot]].get(name)) is not None:
                atoms[slot, place] = coord
        return cls(atoms, sequence, polymer.chain_id, polymer.residue_ids, name=polymer.name)

    def __len__(self) -> int:
        return len(self.atoms)

    def __repr__(self) -> str:
        missing = int((~self.mask).sum())
        return (
            f"NucleicChain({self.name or 'unnamed'}, chain {self.chain_id}, {len(self)} nucleotides, {missing} missing)"
        )

    @property
    def coords(self) -> Float[np.ndarray, "l 23 3"]:
        """The atoms."""
        return self.atoms

    @property
    def components(self) -> list[str]:
        """Component name per slot: A, DA; N and DN for unknown bases."""
        return [_component(letter) for letter in self.sequence]

    @property
    def frames(self) -> Float[np.ndarray, "l 3 3"]:
        """C4', C3', C1' in Å, NaN where missing."""
        return self.atoms[:, IN_FRAME]

    def to_atom_array(self, *, oxygen: bool = True) -> AtomArray:
        """The atoms that are there, as a biotite `AtomArray`; `oxygen` is for proteins."""
        from biotite.structure import AtomArray

        names = np.array([names_of(letter) for letter in self.sequence])
        slot, place = np.nonzero(np.isfinite(self.atoms).all(-1) & (names != ""))
        array = AtomArray(len(slot))
        array.coord = self.atoms[slot, place]
        array.atom_name = names[slot, place]
        array.element = np.array([name[0] for name in array.atom_name])
        array.chain_id[:] = np.array([self.chain_id])
        digits = [
            residue.rstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") for residue in self.residue_ids
        ]
        array.res_id = np.array([int(d) for d in digits])[slot]
        array.ins_code = np.array([r[len(d) :] for r, d in zip(self.residue_ids, digits)])[slot]
        array.res_name = np.array(self.components)[slot]
        return array


def _component(letter: str) -> str:
    base = "N" if letter in "Xx" else letter.upper()
    return f"D{base}" if letter.islower() else base
