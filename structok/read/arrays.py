"""A biotite `AtomArray` as a `Table`, and rows of a table as an `AtomArray`."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from structok.read.table import Table

if TYPE_CHECKING:
    from biotite.structure import AtomArray

__all__ = ["Rows", "table_of"]

_ELEMENT_NAMES = "H C N O S P F D I B K V W U Y SE CL BR LI NA MG AL SI CA MN FE CO NI CU ZN AS RU RH PD AG CD PT AU HG"
_ELEMENTS = frozenset(_ELEMENT_NAMES.split())


def table_of(atoms: AtomArray) -> Table:
    """The table of an array; occupancy, B-factor and alternative locations where it has them."""
    have = atoms.get_annotation_categories()

    def column(name: str, default: Any) -> Any:
        return getattr(atoms, name) if name in have else np.full(len(atoms), default)

    return Table(
        name=atoms.atom_name.tolist(),
        res_name=atoms.res_name.tolist(),
        chain=atoms.chain_id.tolist(),
        number=atoms.res_id.tolist(),
        ins=column("ins_code", "").tolist(),
        alt=[a.strip(".? ") for a in column("altloc_id", "").tolist()],
        element=column("element", "").tolist(),
        hetero=column("hetero", False).tolist(),
        segment=[0] * len(atoms),
        xyz=np.array(atoms.coord, dtype=np.float32),
        occupancy=np.asarray(column("occupancy", 1.0), dtype=np.float32),
        b_factor=np.asarray(column("b_factor", np.nan), dtype=np.float32),
    )


class Rows:
    """Columns of a table as arrays, made once, of which some rows become an `AtomArray`."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.name, self.res_name = np.array(table.name), np.array(table.res_name)
        self.hetero = np.array(table.hetero)
        self.seen = np.isfinite(table.xyz).all(1)

    def atoms(self, rows: np.ndarray, chain_id: str, numbers: Any, codes: Any, polymer: bool) -> AtomArray:
        from biotite.structure import AtomArray

        table = self.table
        atoms = AtomArray(len(rows))
        atoms.coord = table.xyz[rows]
        atoms.set_annotation("chain_id", np.full(len(rows), chain_id, dtype=f"U{max(4, len(chain_id))}"))
        atoms.set_annotation("res_id", np.asarray(numbers, dtype=int))
        atoms.set_annotation("ins_code", np.asarray(codes, dtype="U1"))
        atoms.set_annotation("res_name", self.res_name[rows])
        atoms.set_annotation("atom_name", self.name[rows])
        atoms.set_annotation("hetero", self.hetero[rows])
        elements = [_element(table.element[i], table.name[i], polymer) for i in rows]
        atoms.set_annotation("element", np.array(elements, dtype="U2"))
        atoms.set_annotation("occupancy", table.occupancy[rows])
        atoms.set_annotation("b_factor", table.b_factor[rows])
        return atoms


@lru_cache(4096)
def _element(element: str, name: str, polymer: bool) -> str:
    """Element as the file gives it, if it is one (PDBQT has types there), else by the atom's name."""
    element = element.upper()
    bare = name.lstrip("0123456789'\"*").upper()
    if element in _ELEMENTS and (not polymer or bare.startswith(element)):
        return element
    if not polymer and bare[:2] in _ELEMENTS and bare[:2] not in ("CA", "CD", "CO", "NA", "HG"):
        return bare[:2]
    return bare[:1]
