"""Chains to PDB, mmCIF and BinaryCIF files, whole or not at all."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from structok.errors import InputError
from structok.files import write_whole
from structok.geometry import BOND_LIMIT
from structok.read.formats import GAPS_SAID, suffix_kind

if TYPE_CHECKING:
    from biotite.structure import AtomArray
    from rdkit.Chem import Mol

    from structok.structure import Backbone

__all__ = ["cif_bytes", "cif_file", "pdb_text", "structure_bytes", "write_sdf", "write_structure"]

_RESIDUE_ID = re.compile(r"(-?\d+)([A-Za-z]?(?:\+\d+)?)")  # with the slots that reading adds, such as 52+1


def write_structure(
    chains: Sequence[Backbone],
    path: str | os.PathLike[str],
    *,
    oxygen: bool = False,
) -> None:
    """Write chains into one PDB, mmCIF or BinaryCIF file (.gz too), whole or not at all.

    Raises
    ------
    InputError
        If the suffix is unknown, no residue is observed, or the chains do not fit the PDB format.
    """
    path = Path(path)
    kind = suffix_kind(path.name)
    if kind not in ("pdb", "cif", "bcif") or path.suffix.lower() in (".bz2", ".xz", ".zst"):
        raise InputError(f"{path}: unknown suffix; use .pdb, .cif or .bcif (.gz too)")
    write_whole(path, structure_bytes(chains, kind, oxygen=oxygen, label=str(path)))


def structure_bytes(chains: Sequence[Backbone], kind: str, *, oxygen: bool = False, label: str = "output") -> bytes:
    """The file's content: 'pdb', 'cif' or 'bcif'. Missing residues are named: REMARK 465, or the full sequence."""
    from biotite.structure import concatenate

    chains = [c for c in chains if c.mask.any()]
    if not chains:
        raise InputError(f"{label}: no observed residue to write")
    arrays = [c.to_atom_array(oxygen=oxygen) for c in chains]
    return _pdb(chains, concatenate(arrays), label) if kind == "pdb" else _cif(chains, arrays, kind)


def _pdb(chains: Sequence[Backbone], atoms: AtomArray, label: str) -> bytes:
    """PDB text; ids of two letters stand in columns 21 and 22, as many programs write them."""
    for c in chains:
        if len(c.chain_id) > 2 or not c.chain_id.isascii():
            raise InputError(f"{label}: chain id {c.chain_id!r} does not fit the PDB format; write .cif instead")
        if np.nanmax(np.abs(c.coords)) > 999:
            raise InputError(f"{label}: coordinates beyond 999 Å do not fit the PDB format; write .cif instead")
    if len(atoms) > 99_999 or atoms.res_id.max() > 9999 or atoms.res_id.min() < -999:
        raise InputError(f"{label}: too many atoms or residues for the PDB format; write .cif instead")
    ids = iter(atoms.chain_id.tolist())
    atoms.chain_id = np.array([c[-1:] for c in atoms.chain_id.tolist()])
    lines = [_remark(c, int(i)) for c in chains for i in np.flatnonzero(~c.mask)]
    lines = [line for line in lines if line]
    if lines or any(_broken(c) for c in chains):
        lines.insert(0, GAPS_SAID)
    for line in pdb_text(atoms).splitlines():
        if line.startswith(("ATOM", "HETATM")):
            line = f"{line[:20]}{next(ids):>2}{line[22:]}"
        lines.append(line)
    return ("\n".join(lines) + "\nEND\n").encode()


def _broken(chain: Backbone) -> bool:
    """Whether neighbours are not bonded, so that a reader could take residues between them for missing."""
    gap = np.linalg.norm(chain.coords[1:, 0] - chain.coords[:-1, 2], axis=-1)
    return bool((gap >= BOND_LIMIT).any())


def _remark(chain: Backbone, slot: int) -> str:
    """The line that says that a residue is missing; '' for slots without a number."""
    match = _RESIDUE_ID.fullmatch(chain.residue_ids[slot])
    if match is None:
        return ""
    return f"REMARK 465     {chain.components[slot]:>3} {chain.chain_id:>1} {match[1]:>5}{match[2]}"


def _cif(chains: Sequence[Backbone], arrays: Sequence[AtomArray], kind: str) -> bytes:
    """mmCIF or BinaryCIF, an entity for each chain with its full sequence."""
    from biotite.structure import concatenate, get_residue_starts
    from biotite.structure.io import pdbx

    file = cif_file(kind)
    pdbx.set_structure(file, concatenate(arrays), data_block=chains[0].name or "structok")
    block = file.block
    new = type(block["atom_site"])
    per_residue = [np.diff(get_residue_starts(a, add_exclusive_stop=True)) for a in arrays]
    places = [np.repeat(np.flatnonzero(c.mask) + 1, n) for c, n in zip(chains, per_residue)]
    block["atom_site"]["label_seq_id"] = np.concatenate(places)
    entities = np.repeat(np.arange(1, len(chains) + 1), [len(a) for a in arrays])
    block["atom_site"]["label_entity_id"] = entities.astype(str)
    block["entity_poly_seq"] = new(
        {
            "entity_id": np.concatenate([np.full(len(c), i) for i, c in enumerate(chains, 1)]).astype(str),
            "num": np.concatenate([np.arange(1, len(c) + 1) for c in chains]),
            "mon_id": np.array([name for c in chains for name in c.components]),
        }
    )
    block["software"] = new({"name": np.array(["structok"])})
    return cif_bytes(file)


def pdb_text(atoms: AtomArray) -> str:
    """Lines of atoms that fit the PDB format."""
    from biotite.structure.io import pdb

    file, text = pdb.PDBFile(), io.StringIO()
    file.set_structure(atoms)
    file.write(text)
    return text.getvalue()


def cif_file(kind: str) -> Any:
    """An empty mmCIF file, or a BinaryCIF file for 'bcif'."""
    from biotite.structure.io import pdbx

    return pdbx.BinaryCIFFile() if kind == "bcif" else pdbx.CIFFile()


def cif_bytes(file: Any) -> bytes:
    """Content of a file that `cif_file` made."""
    from biotite.structure.io import pdbx

    if isinstance(file, pdbx.CIFFile):
        text = io.StringIO()
        file.write(text)
        return text.getvalue().encode()
    binary = io.BytesIO()
    pdbx.compress(file).write(binary)
    return binary.getvalue()


def write_sdf(mols: Iterable[Mol], file: str | os.PathLike[str] | IO[str]) -> None:
    """Write molecules as SDF, to a path or an open text file, one after the other."""
    from rdkit import Chem

    if hasattr(file, "write"):
        for mol in mols:
            file.write(Chem.MolToMolBlock(mol) + "$$$$\n")
        return
    with open(file, "w") as out:
        write_sdf(mols, out)
