"""`NucleicChain`: one DNA or RNA chain with its heavy atoms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

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
        ids = range(1, len(array) + 1) if residue_ids is None else residue_ids
        self.residue_ids = [str(i) for i in ids]
        for what, value in (("sequence", self.sequence), ("residue_ids", self.residue_ids)):
            if len(value) != len(array):
                raise InputError(f"chain {chain_id}: {len(array)} nucleotides but {len(value)} entries in {what!r}")

    def __len__(self) -> int:
        return len(self.atoms)

    def __repr__(self) -> str:
        missing = int((~self.mask).sum())
        return (
            f"NucleicChain({self.name or 'unnamed'}, chain {self.chain_id}, {len(self)} nucleotides, {missing} missing)"
        )

    @property
    def frames(self) -> Float[np.ndarray, "l 3 3"]:
        """C4', C3', C1' in Å, NaN where missing."""
        return self.atoms[:, IN_FRAME]

    def to_atom_array(self) -> AtomArray:
        """The atoms that are there, as a biotite `AtomArray`."""
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
        array.res_name = np.array([_component(letter) for letter in self.sequence])[slot]
        return array


def _component(letter: str) -> str:
    """Component name: A, DA; N and DN for unknown bases."""
    base = "N" if letter in "Xx" else letter.upper()
    return f"D{base}" if letter.islower() else base
