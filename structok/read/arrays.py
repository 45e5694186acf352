"""A biotite `AtomArray` as a `Table`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from structok.read.table import Table

if TYPE_CHECKING:
    from biotite.structure import AtomArray

__all__ = ["table_of"]


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
