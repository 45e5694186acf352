"""mmCIF and BinaryCIF to a `Table` per data block that has atoms; columns that programs leave out are supplied."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from structok.names import component_kind, letter
from structok.read.columns import Columns, cut_atoms, cut_category
from structok.read.table import BACKBONE, MISSING, Table
from structok.structure import Note, many

__all__ = ["read_bcif", "read_cif"]

_HEADER = ("entity_poly_seq", "software", "refine", "em_3d_reconstruction", "ma_qa_metric", "ma_qa_metric_global")


def read_cif(text: str, only_backbone: bool) -> list[Table]:
    """Tables of all data blocks with atoms.

    Raises
    ------
    ValueError
        If no block has atoms, or the file is cut off or damaged.
    """
    text = _plain(text)
    if _cut_off(text):
        raise ValueError("it is cut off at the end")
    starts = _blocks(text)
    tables = []
    for start, end in zip(starts, [*starts[1:], len(text)]):
        if "_atom_site." not in text[start:end]:
            continue
        columns, rest = cut_atoms(text[start:end])
        tables.append(_table(columns, _header(rest), only_backbone))
        tables[-1].block = text[start + 5 : text.find("\n", start)].strip()
    if not tables:
        raise ValueError("it has no atoms")
    if other := len(starts) - len(tables):
        tables[0].notes.append(
            Note("blocks without atoms", other, f"{many(other, 'data block')} without atoms", routine=True)
        )
    return tables


def _plain(text: str) -> str:
    """The text with tags and keywords where they are looked for: at the beginning of lines, and nowhere else."""
    if "\n;" in text:  # words in text fields are none of them
        text = _FIELD.sub(lambda match: _TAG.sub(r" \g<0>", match[0]), text)
    if "\n_atom_site." not in text:
        text = _INDENTED.sub("", text)
        text = re.sub(r"(?im)^_atom_site\.", "_atom_site.", text)
    return text


_FIELD = re.compile(r"^;.*?^;", re.MULTILINE | re.DOTALL)
_TAG = re.compile(r"^(?:_|loop_|data_|save_|#)", re.MULTILINE | re.IGNORECASE)
_INDENTED = re.compile(r"^[ \t]+(?=_|loop_|data_)", re.MULTILINE | re.IGNORECASE)


def _blocks(text: str) -> list[int]:
    """Where each data block begins."""
    starts = [0] if text.startswith("data_") else []
    at = text.find("\ndata_")
    while at >= 0:
        starts.append(at + 1)
        at = text.find("\ndata_", at + 1)
    return starts or [0]


def read_bcif(content: bytes, only_backbone: bool) -> list[Table]:
    """Tables of all data blocks with atoms, as `read_cif`."""
    from biotite.structure.io import pdbx

    file = pdbx.BinaryCIFFile.read(io.BytesIO(content))
    tables = []
    for name, block in file.items():
        if "atom_site" not in block:
            continue
        tables.append(_table(Columns(block["atom_site"]), {c: block[c] for c in _HEADER if c in block}, only_backbone))
        tables[-1].block = name
    if not tables:
        raise ValueError("it has no atoms")
    return tables


def _header(text: str) -> dict[str, Any]:
    """The other categories that say something about the atoms; biotite parses them, cut out of the rest."""
    from biotite.structure.io import pdbx

    parts = [part for name in _HEADER if (part := cut_category(text, name))]
    if not parts:
        return {}
    block = pdbx.CIFFile.read(io.StringIO("data_header\n" + "#\n".join(parts))).block
    return {name: block[name] for name in _HEADER if name in block}


def _table(columns: Columns, header: dict[str, Any], only_backbone: bool) -> Table:
    for needed in ("Cartn_x", "Cartn_y", "Cartn_z"):
        if needed not in columns:
            raise ValueError(f"its atoms have no {needed}")
    atom, residue = (_first_of(columns, f"label_{c}_id", f"auth_{c}_id") for c in ("atom", "comp"))
    chain, asym = _chains(columns)
    rows, notes = _first_model(columns, len(columns.texts(atom)))
    every = rows
    if only_backbone:
        rows = _backbone_rows(rows, columns.texts(atom), columns.texts(asym) if asym else [""] * len(every))
    residues = columns.some(residue, rows, "")
    places = columns.integers("label_seq_id", rows)
    numbers = [p if n == MISSING else n for n, p in zip(columns.integers("auth_seq_id", rows), places)]
    letters = _letters(header)
    entity = columns.some("label_entity_id", rows, "")
    kinds = columns.some("group_PDB", rows, "")
    table = Table(
        name=columns.some(atom, rows, ""),
        res_name=residues,
        chain=columns.some(chain, rows, "") if chain else [""] * len(rows),
        number=numbers,
        ins=columns.some("pdbx_PDB_ins_code", rows, ""),
        alt=columns.some("label_alt_id", rows, ""),
        element=columns.some("type_symbol", rows, ""),
        hetero=[k == "HETATM" if k else not _is_standard(r) for k, r in zip(kinds, residues)],
        segment=_segments(columns.some(asym, rows, "") if asym else [""] * len(rows)),
        xyz=columns.coordinates(rows),
        occupancy=columns.floats("occupancy", rows, 1.0),
        b_factor=columns.floats("B_iso_or_equiv", rows, np.nan),
        place=places if letters and any((e, p) in letters for e, p in zip(entity, places)) else None,
        entity=entity,
        letters=letters,
        components=_components(columns, every, rows),
        notes=notes,
        gaps_said="software" in header and "structok" in Columns(header["software"]).texts("name"),
        predicted="ma_qa_metric" in header or "ma_qa_metric_global" in header,
    )
    for category, column in (("refine", "ls_d_res_high"), ("em_3d_reconstruction", "resolution")):
        if category in header and column in header[category] and table.resolution is None:
            value = float(Columns(header[category]).floats(column, [0], 0.0)[0])
            table.resolution = value if value > 0 else None
    return table


def _first_of(columns: Columns, *names: str) -> str:
    """The first of these columns that says anything."""
    found = next((name for name in names if columns.says(name)), None)
    if found is None:
        raise ValueError(f"its atoms have no {names[0]}")
    return found


def _chains(columns: Columns) -> tuple[str, str]:
    """Columns of the author's chain id and of the label that keeps chains apart; '' where there is none."""
    names = ("auth_asym_id", "label_asym_id")
    chain = next((name for name in names if columns.says(name)), "")
    return chain, next((name for name in reversed(names) if columns.says(name)), "")


def _first_model(columns: Columns, count: int) -> tuple[list[int], list[Note]]:
    if "pdbx_PDB_model_num" not in columns:
        return list(range(count)), []
    models = columns.texts("pdbx_PDB_model_num")
    first = models[0]
    rows = [i for i, m in enumerate(models) if m == first]
    others = len(set(models)) - 1
    text = f"{many(others, 'further frame')} ignored, the first is read"
    return rows, [Note("frames ignored", others, text)] if others else []


def _components(columns: Columns, rows: list[int], kept: list[int]) -> list[str]:
    """Names of the HETATM residues that have no row among those kept."""
    if "group_PDB" not in columns or len(kept) == len(rows):
        return []
    group = columns.texts("group_PDB")
    wanted = ("label_comp_id", "auth_comp_id", "label_asym_id", "auth_asym_id", "auth_seq_id", "label_seq_id")
    parts = [columns.texts(name) for name in (*wanted, "pdbx_PDB_ins_code") if name in columns]
    keys = list(zip(*parts))
    small = {keys[i] for i in rows if group[i] == "HETATM"} - {keys[i] for i in kept}
    return sorted(key[0] for key in small)


def _backbone_rows(rows: list[int], names: Sequence[str], asym: Sequence[str]) -> list[int]:
    kept, chain = [], None
    for i in rows:
        if names[i] in BACKBONE or asym[i] != chain:
            kept.append(i)
            chain = asym[i]
    return kept


def _segments(asym: list[str]) -> list[int]:
    known: dict[str, int] = {}
    return [known.setdefault(a, len(known)) for a in asym]


def _is_standard(residue: str) -> bool:
    return component_kind(residue) in ("protein", "nucleic")


def _letters(header: dict[str, Any]) -> dict[tuple[str, int], str]:
    """Letters of the full sequences."""
    if "entity_poly_seq" not in header:
        return {}
    table = header["entity_poly_seq"]
    columns = (table[c].as_array(str).tolist() for c in ("entity_id", "num", "mon_id"))
    return {(entity, int(number)): letter(name) for entity, number, name in zip(*columns)}


def _cut_off(text: str) -> bool:
    """Whether a file whose loops end with '#' lines does not end with one; PyMOL writes them before loops only."""
    lines = [line.strip() for line in text[: text.find("_atom_site.")].split("\n") if line.strip()]
    closes = any(line == "#" and not before.startswith(("#", "_", "loop_")) for before, line in pairwise(lines))
    return closes and not text.rstrip().rsplit("\n", 1)[-1].startswith("#")
