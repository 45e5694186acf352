"""`Backbone`: one protein chain as N, CA, C coordinates with a mask; and how it is written to files."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from structok.errors import InputError
from structok.files import write_whole
from structok.geometry import place_oxygen
from structok.protein.reading import BOND_LIMIT, find_structures, parse_chains, read_atoms, structure_format

if TYPE_CHECKING:
    from biotite.structure import AtomArray

__all__ = ["Backbone", "find_structures", "read_structure", "write_structure"]

_THREE = {
    "A": "ALA", "C": "CYS", "D": "ASP", "E": "GLU", "F": "PHE", "G": "GLY", "H": "HIS", "I": "ILE",
    "K": "LYS", "L": "LEU", "M": "MET", "N": "ASN", "P": "PRO", "Q": "GLN", "R": "ARG", "S": "SER",
    "T": "THR", "V": "VAL", "W": "TRP", "Y": "TYR", "U": "SEC", "O": "PYL", "B": "ASX", "Z": "GLX",
}  # fmt: skip
_RESIDUE_ID = re.compile(r"(-?\d+)([A-Za-z]?)")


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

    Attributes
    ----------
    coords : float32 array, shape=(L, 3, 3), NaN where missing
    mask : bool array, shape=(L,), True where observed

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
        self.residue_ids = [str(i) for i in ids]
        self.oxygen = None if oxygen is None else np.asarray(oxygen, dtype=np.float32)
        self.b_factors = None if b_factors is None else np.asarray(b_factors, dtype=np.float32)
        self.name = name
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
        atoms.res_name = np.repeat([_THREE.get(self.sequence[i], "UNK") for i in seen], len(names))
        atoms.atom_name = np.tile(names, len(seen))
        atoms.element = np.tile([n[0] for n in names], len(seen))
        return atoms

    def write(self, path: str | os.PathLike[str], *, oxygen: bool = False) -> None:
        """Write observed residues to .pdb, .cif or .bcif (.gz too); the file appears whole or not at all.

        `oxygen=True` adds the carbonyl O, by ideal geometry where it was not read.
        """
        write_structure([self], path, oxygen=oxygen)


def read_structure(
    source: Any, chain: str | None = None, *, format: str | None = None, name: str | None = None
) -> list[Backbone]:
    """Protein chains of a PDB, mmCIF or BinaryCIF file (.gz too); first model, highest-occupancy altlocs.

    Modified residues such as MSE keep their parent's letter. Residues missing in the chain get a slot with
    `mask` False: as many as the mmCIF sequence numbering or the PDB residue numbers say; where numbers do not
    explain a break (or jump by more than 100), as many as the distance needs. Chains without protein are
    skipped with a note to the logger 'structok'.

    Parameters
    ----------
    source : path, or a binary file object such as `sys.stdin.buffer`
    chain : chain id of the file's author; default all
    format : 'pdb', 'cif' or 'bcif'; default by suffix, or by content
    name : name for the chains; default the file's stem

    Raises
    ------
    InputError
        If the file cannot be read, holds no protein backbone, has no such chain, or has non-finite coordinates.
    """
    label = str(source) if isinstance(source, (str, os.PathLike)) else "stdin"
    stem = name if name is not None else ("stdin" if label == "stdin" else Path(label).name.split(".")[0])
    contents = read_atoms(source, format, label)
    return [Backbone(**fields, name=stem) for fields in parse_chains(contents.atoms, contents.letters, chain, label)]


def write_structure(
    chains: Sequence[Backbone],
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    oxygen: bool = False,
) -> None:
    """Write chains into one PDB, mmCIF or BinaryCIF file (.gz too), whole or not at all.

    Raises
    ------
    InputError
        If the suffix is unknown, no residue is observed, or the chains do not fit the PDB format.
    """
    path = Path(path)
    kind = format or structure_format(path.name)
    if kind not in ("pdb", "cif", "bcif"):
        raise InputError(f"{path}: unknown suffix; use .pdb, .cif or .bcif (.gz too)")
    write_whole(path, structure_bytes(chains, kind, oxygen=oxygen, label=str(path)))


def structure_bytes(chains: Sequence[Backbone], kind: str, *, oxygen: bool = False, label: str = "output") -> bytes:
    """The file's content: 'pdb', 'cif' or 'bcif'."""
    from biotite.structure import concatenate
    from biotite.structure.io import pdb, pdbx

    chains = [c for c in chains if c.mask.any()]
    if not chains:
        raise InputError(f"{label}: no observed residue to write")
    if kind == "pdb":
        for c in chains:
            if len(c.chain_id) > 1:
                raise InputError(f"{label}: chain id {c.chain_id!r} does not fit the PDB format; write .cif instead")
            if np.nanmax(np.abs(c.coords)) > 999:
                raise InputError(f"{label}: coordinates beyond 999 Å do not fit the PDB format; write .cif instead")
    atoms = concatenate([c.to_atom_array(oxygen=oxygen) for c in chains])
    if kind == "pdb":
        if len(atoms) > 99_999 or atoms.res_id.max() > 9999 or atoms.res_id.min() < -999:
            raise InputError(f"{label}: too many atoms or residues for the PDB format; write .cif instead")
        text = io.StringIO()
        file: Any = pdb.PDBFile()
        file.set_structure(atoms)
        file.write(text)
        return (text.getvalue().rstrip("\n") + "\nEND\n").encode()
    file = pdbx.BinaryCIFFile() if kind == "bcif" else pdbx.CIFFile()
    pdbx.set_structure(file, atoms, data_block=chains[0].name or "structok")
    if kind == "cif":
        text = io.StringIO()
        file.write(text)
        return text.getvalue().encode()
    binary = io.BytesIO()
    pdbx.compress(file).write(binary)
    return binary.getvalue()


def as_backbone(x: Any) -> Backbone:
    """A `Backbone` from a `Backbone`, a path (one protein chain), a biotite `AtomArray` or an array [L, 3, 3]."""
    if isinstance(x, Backbone):
        return x
    if isinstance(x, (str, os.PathLike)):
        chains, label = read_structure(x), os.fspath(x)
    elif hasattr(x, "get_annotation_categories"):
        chains, label = [Backbone(**fields) for fields in parse_chains(x, {}, None, "AtomArray")], "AtomArray"
    else:
        return Backbone(x)
    if len(chains) > 1:
        ids = ", ".join(c.chain_id for c in chains)
        raise InputError(
            f"{label}: holds protein chains {ids}; pick one: read_structure(path, chain={chains[0].chain_id!r})"
        )
    return chains[0]
