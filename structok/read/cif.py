"""mmCIF and BinaryCIF to a `Table` per data block that has atoms; columns that programs leave out are supplied."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from structok.names import component_kind, letter
from structok.read.table import BACKBONE, MISSING, Table
from structok.structure import Note, many

__all__ = ["read_bcif", "read_cif"]

_NONE = (".", "?", "")
_HEADER = ("entity_poly_seq", "refine", "em_3d_reconstruction", "ma_qa_metric", "ma_qa_metric_global")
_BLOCK = re.compile(r"^data_(\S*)", re.M | re.I)

Columns = dict[str, Sequence[str]]


def read_cif(text: str, only_backbone: bool) -> list[Table]:
    """Tables of all data blocks with atoms.

    Raises
    ------
    ValueError
        If no block has atoms, or the file is cut off or damaged.
    """
    if _cut_off(text):
        raise ValueError("it is cut off at the end")
    starts = [m.start() for m in _BLOCK.finditer(text)] or [0]
    tables = []
    for start, end in zip(starts, [*starts[1:], len(text)]):
        if "_atom_site." not in text[start:end]:
            continue
        columns, rest = _atom_columns(text[start:end])
        tables.append(_table(columns, _header(rest), only_backbone))
        name = _BLOCK.match(text, start)
        tables[-1].block = name[1] if name else ""
    if not tables:
        raise ValueError("it has no atoms")
    if other := len(starts) - len(tables):
        tables[0].notes.append(
            Note("blocks without atoms", other, f"{many(other, 'data block')} without atoms", routine=True)
        )
    return tables


def read_bcif(content: bytes, only_backbone: bool) -> list[Table]:
    """Tables of all data blocks with atoms, as `read_cif`."""
    from biotite.structure.io import pdbx

    file = pdbx.BinaryCIFFile.read(io.BytesIO(content))
    tables = []
    for name, block in file.items():
        if "atom_site" not in block:
            continue
        site = block["atom_site"]
        tables.append(_table(_Lazy(site), {c: block[c] for c in _HEADER if c in block}, only_backbone))
        tables[-1].block = name
    if not tables:
        raise ValueError("it has no atoms")
    return tables


class _Lazy(dict[str, Sequence[str]]):
    """Columns of a biotite category, decoded when they are asked for."""

    def __init__(self, category: Any) -> None:
        super().__init__()
        self._category = category

    def __contains__(self, name: object) -> bool:
        return name in self._category

    def __missing__(self, name: str) -> Sequence[str]:
        column = self._category[name]
        values = [str(v) for v in column.as_array(str, masked_value=".")]
        self[name] = values
        return values


def _header(text: str) -> dict[str, Any]:
    """The other categories that say something about the atoms; biotite parses them, cut out of the rest."""
    from biotite.structure.io import pdbx

    parts = [part for name in _HEADER if (part := _category(text, name))]
    if not parts:
        return {}
    block = pdbx.CIFFile.read(io.StringIO("data_header\n" + "#\n".join(parts))).block
    return {name: block[name] for name in _HEADER if name in block}


def _category(text: str, name: str) -> str:
    start = text.find(f"\n_{name}.") + 1
    if not start:
        return ""
    end = re.compile(rf"^(?:#|loop_|data_|_(?!{name}\.))", re.M).search(text, start)
    looped = text[max(0, start - 20) : start].rstrip().lower().endswith("loop_")
    return ("loop_\n" if looped else "") + text[start : end.start() if end else len(text)].rstrip() + "\n"


def _atom_columns(text: str) -> tuple[Columns, str]:
    """Columns of atom_site by name, and the text around them."""
    start = text.find("\n_atom_site.") + 1
    before = text[:start].rstrip()
    if before[-5:].lower() != "loop_":
        return _by_biotite(text), text
    position, names = start, []
    while text.startswith("_atom_site.", position):
        end = text.find("\n", position)
        if end < 0:
            raise ValueError("its table of atoms has no rows")
        names.append(text[position + 11 : end].strip())
        position = end + 1
    stop = _end_of_rows(text, position)
    body = text[position:stop]
    values = body.split()
    if "'" in body or '"' in body:
        if any(_opens(v) and not _closes(v) for v in values):
            return _by_biotite(text), before[:-5] + text[stop:]  # values with spaces in them
        values = [v[1:-1] if _opens(v) else v for v in values]
    if "\n;" in body:
        return _by_biotite(text), before[:-5] + text[stop:]
    if not values or len(values) % len(names):
        raise ValueError(f"its table of atoms has {len(values)} values for {len(names)} columns")
    return {name: values[i :: len(names)] for i, name in enumerate(names)}, before[:-5] + text[stop:]


def _opens(value: str) -> bool:
    return value[0] in "'\"" and len(value) > 1


def _closes(value: str) -> bool:
    return value[-1] == value[0]


_ROWS_END = re.compile(r"^(?:#|loop_|_|data_)", re.M)


def _end_of_rows(text: str, start: int) -> int:
    found = _ROWS_END.search(text, start)
    return found.start() if found else len(text)


def _by_biotite(text: str) -> Columns:
    from biotite.structure.io import pdbx

    return _Lazy(pdbx.CIFFile.read(io.StringIO(text)).block["atom_site"])


def _table(columns: Columns, header: dict[str, Any], only_backbone: bool) -> Table:
    for needed in ("Cartn_x", "Cartn_y", "Cartn_z"):
        if needed not in columns:
            raise ValueError(f"its atoms have no {needed}")
    names = _first_of(columns, "label_atom_id", "auth_atom_id")
    chains = _first_of(columns, "auth_asym_id", "label_asym_id")
    asym = _first_of(columns, "label_asym_id", "auth_asym_id")
    rows, notes = _first_model(columns, len(names))
    every = rows
    if only_backbone:
        rows = _backbone_rows(rows, names, asym)

    def take(values: Sequence[str]) -> list[str]:
        return [values[i] for i in rows]

    def optional(name: str, default: str) -> list[str]:
        if name not in columns:
            return [default] * len(rows)
        return ["" if v in _NONE else v for v in take(columns[name])]

    residues = take(_first_of(columns, "label_comp_id", "auth_comp_id"))
    places = _places(optional("label_seq_id", ""))
    numbers = _places(optional("auth_seq_id", ""))
    numbers = [p if n == MISSING else n for n, p in zip(numbers, places)]
    letters = _letters(header)
    entity = optional("label_entity_id", "")
    kinds = optional("group_PDB", "")
    table = Table(
        name=take(names),
        res_name=residues,
        chain=["" if v in _NONE else v for v in take(chains)],
        number=numbers,
        ins=optional("pdbx_PDB_ins_code", ""),
        alt=optional("label_alt_id", ""),
        element=[v.upper() for v in optional("type_symbol", "")],
        hetero=[k == "HETATM" if k else not _is_standard(r) for k, r in zip(kinds, residues)],
        segment=_segments(take(asym)),
        xyz=_coordinates([take(columns[f"Cartn_{a}"]) for a in "xyz"]),
        occupancy=_floats(optional("occupancy", "1"), 1.0),
        b_factor=_floats(optional("B_iso_or_equiv", ""), np.nan),
        place=places if letters and any((e, p) in letters for e, p in zip(entity, places)) else None,
        entity=entity,
        letters=letters,
        components=_components(columns, every, rows),
        notes=notes,
        predicted="ma_qa_metric" in header or "ma_qa_metric_global" in header,
    )
    for category, column in (("refine", "ls_d_res_high"), ("em_3d_reconstruction", "resolution")):
        if category in header and column in header[category] and table.resolution is None:
            value = _floats([str(header[category][column].as_array(str)[0])], 0.0)[0]
            table.resolution = float(value) if value > 0 else None
    return table


def _first_of(columns: Columns, *names: str) -> Sequence[str]:
    """The first of these columns that says anything."""
    for name in names:
        if name in columns and any(v not in _NONE for v in columns[name]):
            return columns[name]
    if names[0].startswith(("label_asym", "auth_asym")):
        return ["."] * len(columns["Cartn_x"])
    raise ValueError(f"its atoms have no {names[0]}")


def _first_model(columns: Columns, count: int) -> tuple[list[int], list[Note]]:
    if "pdbx_PDB_model_num" not in columns:
        return list(range(count)), []
    models = columns["pdbx_PDB_model_num"]
    first = models[0]
    rows = [i for i, m in enumerate(models) if m == first]
    others = len(set(models)) - 1
    text = f"{many(others, 'further frame')} ignored, the first is read"
    return rows, [Note("frames ignored", others, text)] if others else []


def _components(columns: Columns, rows: list[int], kept: list[int]) -> list[str]:
    """Names of the HETATM residues that have no row among those kept."""
    if "group_PDB" not in columns or len(kept) == len(rows):
        return []
    group = columns["group_PDB"]
    wanted = ("label_comp_id", "auth_comp_id", "label_asym_id", "auth_asym_id", "auth_seq_id", "label_seq_id")
    parts = [columns[name] for name in (*wanted, "pdbx_PDB_ins_code") if name in columns]
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


def _places(values: list[str]) -> list[int]:
    out = []
    for value in values:
        try:
            out.append(int(value) if value else MISSING)
        except ValueError:
            out.append(MISSING)
    return out


def _coordinates(columns: list[list[str]]) -> np.ndarray:
    try:
        xyz = np.array(columns, dtype="S12").astype(np.float64)
    except ValueError:  # unknown coordinates are atoms that are not there
        xyz = np.array([[_unknown(v) for v in column] for column in columns])
        xyz[:, (xyz == _UNKNOWN).any(0)] = _UNKNOWN
    return np.ascontiguousarray(xyz.T, dtype=np.float32)


_UNKNOWN = 99_999.0  # a fill value, see `mark_placeholders`


def _unknown(value: str) -> float:
    try:
        return _UNKNOWN if value in _NONE else float(value)
    except ValueError:
        raise ValueError(f"an atom with the coordinate {value[:20]!r}") from None


def _floats(values: list[str], default: float) -> np.ndarray:
    try:
        return np.array(values, dtype=np.float32)
    except ValueError:
        return np.array([_float(v, default) for v in values], dtype=np.float32)


def _float(value: str, default: float) -> float:
    try:
        return float(value)
    except ValueError:
        return default


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
