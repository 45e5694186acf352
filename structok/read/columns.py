"""Columns of an mmCIF or BinaryCIF table as texts, integers and floats."""

from __future__ import annotations

import io
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from jaxtyping import Float

from structok.read.table import MISSING

__all__ = ["UNKNOWN", "Columns", "cut_atoms", "cut_category"]

UNKNOWN = 99_999.0  # Å; what stands for a coordinate that is '?', see `mark_placeholders`
_SILENT = frozenset((".", "?", ""))


class Columns:
    """Columns of one category by name.

    Parameters
    ----------
    source : lists of texts by column name, or a biotite category
    """

    def __init__(self, source: Any) -> None:
        self._source = source
        self._texts: dict[str, list[str]] = source if isinstance(source, dict) else {}

    def __contains__(self, name: object) -> bool:
        return name in self._source

    def texts(self, name: str) -> list[str]:
        """All values, '.' or '?' where the file says nothing."""
        if name not in self._texts:
            values = self._source[name].as_array(str, masked_value=".").tolist()
            joined = "".join(values)
            padded = joined.split() != [joined]
            self._texts[name] = [value.strip() for value in values] if padded else values
        return self._texts[name]

    def some(self, name: str, rows: Sequence[int], default: str) -> list[str]:
        """Values of these rows, '' where the file says nothing; the default where there is no such column."""
        if name not in self:
            return [default] * len(rows)
        taken = self._take(name, rows)
        return taken if _SILENT.isdisjoint(taken) else ["" if value in _SILENT else value for value in taken]

    def _take(self, name: str, rows: Sequence[int]) -> list[str]:
        values = self.texts(name)
        return list(itemgetter(*rows)(values)) if len(rows) > 1 else [values[i] for i in rows]

    def says(self, name: str) -> bool:
        """Whether a column is there and any of its values says something."""
        return name in self and any(value not in _SILENT for value in self.texts(name))

    def integers(self, name: str, rows: Sequence[int]) -> list[int]:
        """Integers of these rows, `MISSING` where there is none."""
        array = self._numbers(name, "iu")
        if array is not None:
            return array[rows].tolist()  # type: ignore[no-any-return]
        return [_integer(value) for value in self.some(name, rows, "")]

    def floats(self, name: str, rows: Sequence[int], default: float) -> Float[np.ndarray, " n"]:
        """Numbers of these rows; the default where there is none."""
        if name not in self:
            return np.full(len(rows), default, dtype=np.float32)
        array = self._numbers(name, "fiu")
        if array is not None:
            found = array[rows].astype(np.float32)
            return np.where(found == np.float32(MISSING), np.float32(default), found)
        taken = self._take(name, rows)
        try:
            return np.array(taken, dtype=np.float32)
        except ValueError:
            return np.array([_float(value, default) for value in taken], dtype=np.float32)

    def coordinates(self, rows: Sequence[int]) -> Float[np.ndarray, "n 3"]:
        """Cartn_x, y and z of these rows, `UNKNOWN` where the file says nothing.

        Raises
        ------
        ValueError
            If one is no number.
        """
        xyz = np.stack([self._coordinate(f"Cartn_{axis}", rows) for axis in "xyz"], axis=1)
        xyz[(xyz == UNKNOWN).any(1)] = UNKNOWN
        return xyz.astype(np.float32)

    def _coordinate(self, name: str, rows: Sequence[int]) -> Float[np.ndarray, " n"]:
        array = self._numbers(name, "fiu")
        if array is not None:
            return np.where(array[rows] == MISSING, UNKNOWN, array[rows]).astype(np.float64)
        taken = self._take(name, rows)
        try:
            if any("_" in value for value in taken):
                raise ValueError  # Python takes 36.3_6 for a number
            return np.array(taken, dtype=np.float64)
        except ValueError:
            return np.array([_known(value) for value in taken])

    def _numbers(self, name: str, kinds: str) -> np.ndarray | None:
        """The array of a binary column, `MISSING` where it is masked; None where it holds text."""
        if isinstance(self._source, dict) or name not in self._source:
            return None
        column = self._source[name]
        array = np.asarray(column.data.array)
        if array.dtype.kind not in kinds:
            return None
        if column.mask is None:
            return array
        masked = np.asarray(column.mask.array) != 0
        return np.where(masked, MISSING, array.astype(np.float64 if "f" in array.dtype.kind else np.int64))


def _integer(value: str) -> int:
    try:
        return int(value) if value else MISSING
    except ValueError:
        return MISSING


def _float(value: str, default: float) -> float:
    try:
        return float(value)
    except ValueError:
        return default


def _known(value: str) -> float:
    try:
        if "_" in value:
            raise ValueError
        return UNKNOWN if value in _SILENT else float(value)
    except ValueError:
        raise ValueError(f"an atom with the coordinate {value[:20]!r}") from None


def cut_atoms(text: str) -> tuple[Columns, str]:
    """Columns of atom_site of one data block, and the text without its rows.

    Rows without quotes or line breaks in their values, as all programs write them, are split at once; biotite parses
    the others.

    Raises
    ------
    ValueError
        If values are missing.
    """
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
    stop = _end_of_rows(text, position - 1)
    body = text[position:stop]
    rest = before[:-5] + text[stop:]
    if "#" in body:  # the rest of a line is a comment
        body = "\n".join(line.split(" #")[0] for line in body.split("\n") if not line.startswith("#"))
    values = body.split()
    if "'" in body or '"' in body:
        if any((_opens(v) and not _closes(v)) or v in ("'", '"') for v in values):
            return _by_biotite(text), rest  # values with spaces in them
        values = [v[1:-1] if _opens(v) else v for v in values]
    if "\n;" in body:
        return _by_biotite(text), rest
    if not values or len(values) % len(names):
        raise ValueError(f"its table of atoms has {len(values)} values for {len(names)} columns")
    return Columns({name: values[i :: len(names)] for i, name in enumerate(names)}), rest


def cut_category(text: str, name: str) -> str:
    """The lines of a category, with their loop_; '' where it is not there."""
    start = text.find(f"\n_{name}.") + 1
    if not start:
        return ""
    end = start
    while text.startswith(f"_{name}.", end):  # names of columns, or names and values
        end = text.find("\n", end) + 1 or len(text)
    looped = text[max(0, start - 20) : start].rstrip().lower().endswith("loop_")
    stop = _end_of_rows(text, end - 1) if looped else end
    return ("loop_\n" if looped else "") + text[start:stop].rstrip() + "\n"


def _end_of_rows(text: str, start: int) -> int:
    """Where the rows of a loop end: at the next loop, item or block, or at the end of the text."""
    found = (text.find(mark, start) for mark in ("\nloop_", "\n_", "\ndata_", "\nsave_"))
    return min((at + 1 for at in found if at >= 0), default=len(text))


def _opens(value: str) -> bool:
    return value[0] in "'\"" and len(value) > 1


def _closes(value: str) -> bool:
    return value[-1] == value[0]


def _by_biotite(text: str) -> Columns:
    from biotite.structure.io import pdbx

    return Columns(pdbx.CIFFile.read(io.StringIO(text)).block["atom_site"])
