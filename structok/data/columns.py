"""Columns of parquet shards: their names, types and meanings, and the schema that they make."""

from __future__ import annotations

from typing import TYPE_CHECKING

from structok.data.records import MISSING, SCALE
from structok.files import pyarrow

if TYPE_CHECKING:
    from pyarrow import Schema

    from structok.data.options import BuildOptions

__all__ = ["COLUMNS", "STRUCTURE", "WIDTHS", "columns", "schema"]

WIDTHS = {"protein": 9, "nucleic": 69, "molecule": 3}  # numbers per slot in the column of coordinates

# name -> (type, meaning); the types in capitals are lists
COLUMNS: dict[str, dict[str, tuple[str, str]]] = {
    "protein": {
        "id": ("string", "file's stem and chain id, made unique by a suffix such as '.2'"),
        "chain": ("string", "chain id of the file's author"),
        "sequence": ("string", "one letter per residue slot, X where unknown"),
        "residue_ids": ("STRING", "number and insertion code per slot"),
        "coords": ("COORDS", "N, CA, C of each slot: 9 numbers, x y z each"),
        "plddt": ("FLOAT", "B-factor of each CA where it is the pLDDT of a prediction, else null; NaN where missing"),
        "mean_plddt": ("float", "mean over observed residues"),
        "resolution": ("float", "Å, null where the file does not say"),
        "length": ("int32", "residue slots"),
        "observed": ("int32", "residues that are not missing"),
    },
    "nucleic": {
        "id": ("string", "file's stem and chain id, made unique by a suffix such as '.2'"),
        "chain": ("string", "chain id of the file's author"),
        "sequence": ("string", "one letter per slot: capitals are RNA, small letters DNA, X and x unknown bases"),
        "residue_ids": ("STRING", "number and insertion code per slot"),
        "coords": ("COORDS", "23 heavy atoms of each slot (structok.nucleic.atoms): 69 numbers, x y z each"),
        "resolution": ("float", "Å, null where the file does not say"),
        "length": ("int32", "slots"),
        "observed": ("int32", "nucleotides whose frame is not missing"),
    },
    "molecule": {
        "id": ("string", "title of the record, or the file's stem and its number, made unique by a suffix"),
        "smiles": ("string", "canonical SMILES with stereochemistry of the 3D structure, without hydrogens"),
        "selfies": ("string", "SELFIES with hydrogens; its atoms are in the order of the coordinates"),
        "atomic_numbers": ("UINT8", "one per atom"),
        "coords": ("COORDS", "x y z of each atom, in the order of the SELFIES"),
        "length": ("int32", "atoms, hydrogens included"),
    },
}
_SIDE_ATOMS = {"side_atoms": ("COORDS", "O, then the side chain of each slot in atom14 order: 33 numbers, x y z each")}
_ALL = {
    "source": ("string", "file, archive member or record it was read from"),
    "cluster": ("int64", "equal for chains or molecules of one cluster, and in every build with the same clusters"),
    "split": ("string", "train or validation; clusters are never divided"),
}
STRUCTURE = {  # the columns that a structure is made of
    "protein": ("id", "chain", "sequence", "residue_ids", "coords"),
    "nucleic": ("id", "chain", "sequence", "residue_ids", "coords"),
    "molecule": ("id", "selfies", "coords"),
}
_INT16 = f"{SCALE} Å about `centre`, {MISSING} = missing"
_KEYS = {"key": ("digest", ""), "group": ("digest", "")}  # of parts: equal for duplicates, equal within a cluster


def columns(options: BuildOptions) -> dict[str, tuple[str, str]]:
    """Columns of finished shards."""
    sides = _SIDE_ATOMS if options.modality == "protein" and options.atoms == "all" else {}
    centre = {"centre": ("FLOAT", "Å; what was subtracted before rounding")} if options.coords == "int16" else {}
    return COLUMNS[options.modality] | sides | centre | _ALL


def schema(options: BuildOptions, *, part: bool = False) -> Schema:
    """Arrow schema of shards, or of the parts they are made from."""
    pa = pyarrow()
    kinds = {
        **{"string": pa.string(), "float": pa.float32(), "int32": pa.int32(), "int64": pa.int64()},
        **{"STRING": pa.list_(pa.string()), "FLOAT": pa.list_(pa.float32()), "UINT8": pa.list_(pa.uint8())},
        **{"COORDS": pa.list_(pa.float32() if options.coords == "float32" else pa.int16()), "digest": pa.binary(16)},
    }
    chosen = columns(options)
    if part:
        chosen = {k: v for k, v in chosen.items() if k not in ("cluster", "split")} | _KEYS
    unit = "Å, NaN = missing" if options.coords == "float32" else _INT16
    notes = {"structok": options.modality, "coords": unit}
    return pa.schema([(name, kinds[kind]) for name, (kind, _) in chosen.items()], metadata=notes)
