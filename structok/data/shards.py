"""Parquet shards of structures: writing them row group by row group, reading them back."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from structok.data.columns import STRUCTURE, WIDTHS
from structok.data.records import MISSING, SCALE
from structok.errors import InputError
from structok.files import pyarrow

if TYPE_CHECKING:
    from pyarrow import Schema, Table
    from rdkit.Chem import Mol

    from structok.nucleic.chain import NucleicChain
    from structok.structure import Backbone

__all__ = [
    "ROW_GROUP",
    "SPLITS",
    "ShardWriter",
    "columns_of",
    "coordinates",
    "find_shards",
    "modality_of",
    "read_rows",
    "read_structures",
    "rows_of",
    "structure_of",
    "write_table",
]

ROW_GROUP = 256  # rows that are written and read at once
SPLITS = ("train", "validation")


def write_table(table: Table, path: Path, work: Path) -> None:
    """Write a parquet file that appears whole; unfinished files stay in the folder `work`."""
    temporary = work / f"{path.name}.{os.getpid()}"
    pyarrow().parquet.write_table(table, temporary, compression="zstd", row_group_size=ROW_GROUP)
    os.replace(temporary, path)


class ShardWriter:
    """Writes the rows of one split to `split-00000-of-00007.parquet` and so on; shards that exist are not rewritten.

    Parameters
    ----------
    folder : where shards appear when they are complete
    work : folder for unfinished ones
    total : rows of the split
    size : rows per shard
    """

    def __init__(self, folder: Path, work: Path, split: str, schema: Schema, total: int, size: int) -> None:
        self._folder, self._work, self._split, self._schema = folder, work, split, schema
        self._size, self._shards, self._left = size, -(-total // size), total
        self._number, self._room = -1, 0
        self._pending: list[Table] = []
        self._file: Any = None

    def add(self, table: Table) -> None:
        """Append rows, in order."""
        while len(table):
            if not self._room:
                self._open()
            now = table.slice(0, self._room)
            table = table.slice(len(now))
            self._room -= len(now)
            self._left -= len(now)
            if self._file is not None:
                self._pending.append(now)
            self._flush(ROW_GROUP if self._room else 1)
            if not self._room:
                self._close()

    def _path(self) -> Path:
        return self._folder / f"{self._split}-{self._number:05d}-of-{self._shards:05d}.parquet"

    def _open(self) -> None:
        self._number += 1
        self._room = min(self._size, self._left)
        if not self._path().exists():
            self._file = pyarrow().parquet.ParquetWriter(
                self._work / self._path().name, self._schema, compression="zstd"
            )

    def _flush(self, least: int) -> None:
        """Write whole row groups, or everything with `least` 1."""
        while sum(map(len, self._pending)) >= least:
            rows = pyarrow().concat_tables(self._pending)
            # row groups must not depend on how the rows arrived
            self._file.write_table(rows.slice(0, ROW_GROUP).combine_chunks(), row_group_size=ROW_GROUP)
            self._pending = [rows.slice(ROW_GROUP)] if len(rows) > ROW_GROUP else []

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            os.replace(self._work / self._path().name, self._path())
            self._file = None


def find_shards(source: str | os.PathLike[str], split: str | None = None) -> list[Path]:
    """Shards of a data folder, or of one split, in order; a single parquet file is its own shard.

    Raises
    ------
    InputError
        If there are none.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    found = sorted(p for s in ([split] if split else SPLITS) for p in path.glob(f"{s}-*-of-*.parquet"))
    if not found:
        raise InputError(f"{path}: no {split or 'parquet'} shards here; make them with structok data build")
    return found


def columns_of(path: Path) -> list[str]:
    """Names of a parquet file's columns.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    with _opened(path) as file:
        return list(file.schema_arrow.names)


def read_rows(path: Path, columns: Sequence[str] | None = None, groups: Sequence[int] | None = None) -> Iterator[Table]:
    """Row groups of a parquet file: all of them, or those numbered `groups`.

    Raises
    ------
    InputError
        If it cannot be read, or lacks a column.
    """
    with _opened(path) as file:
        lacking = set(columns or ()) - set(file.schema_arrow.names)
        if lacking:
            raise InputError(f"{path}: no column {', '.join(sorted(lacking))}; not made by structok data build?")
        for group in range(file.num_row_groups) if groups is None else groups:
            yield file.read_row_group(group, columns=columns)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    pa = pyarrow()
    try:
        with pa.parquet.ParquetFile(path) as file:
            yield file
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a readable parquet file ({str(error).splitlines()[0][:80]})") from None


def modality_of(path: Path) -> str:
    """What the rows of a file are.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    with _opened(path) as file:
        return _modality(file.schema_arrow)


def _modality(found: Schema) -> str:
    """As the file says of itself, else by its columns."""
    said = (found.metadata or {}).get(b"structok", b"").decode()
    return said if said in WIDTHS else "molecule" if "selfies" in found.names else "protein"


def coordinates(table: Table, width: int, name: str = "coords") -> list[Float[np.ndarray, "l w"]]:
    """Coordinates of each row in Å, NaN = missing; `width` numbers per slot (`WIDTHS`; 33 of `side_atoms`)."""
    column = table[name].combine_chunks()
    flat, ends = column.flatten().to_numpy(zero_copy_only=False), np.cumsum(column.value_lengths().to_numpy())
    rows = [x.reshape(-1, width) for x in np.split(flat, ends[:-1])]
    if flat.dtype != np.int16:
        return [x.astype(np.float32) for x in rows]
    centres = np.stack([np.tile(c, width // 3) for c in table["centre"].to_pylist()]).astype(np.float32)
    scaled = (np.where(x == MISSING, np.float32(np.nan), x * np.float32(SCALE)) for x in rows)
    return [x + c for x, c in zip(scaled, centres)]


def rows_of(table: Table) -> Iterator[tuple[Float[np.ndarray, "l w"], dict[str, Any]]]:
    """Coordinates (Å) and the other columns of each row of a table with `id`, `coords` and what structures need.

    Where there are side chains, a slot's 14 atoms stand together.
    """
    names = [c for c in table.column_names if c not in ("coords", "centre", "side_atoms")]
    rows = zip(*(table[c].to_pylist() for c in names))
    found = coordinates(table, WIDTHS[_modality(table.schema)])
    if "side_atoms" in table.column_names:
        found = [np.concatenate(pair, 1) for pair in zip(found, coordinates(table, 33, "side_atoms"))]
    for xyz, values in zip(found, rows):
        yield xyz, dict(zip(names, values))


def structure_of(xyz: Float[np.ndarray, "l w"], row: dict[str, Any]) -> Backbone | NucleicChain | Mol:
    """Chain, or molecule with explicit hydrogens and one conformer, of a row; named by its id."""
    if "selfies" in row:
        from structok.molecule.conformer import add_conformer, molecule_of

        mol = add_conformer(molecule_of(row["selfies"], row["id"]), xyz)
        mol.SetProp("_Name", row["id"])
        return mol
    from structok.nucleic.chain import NucleicChain
    from structok.protein.allatom import AtomChain
    from structok.structure import Backbone

    kind: Any = {9: Backbone, 42: AtomChain, WIDTHS["nucleic"]: NucleicChain}[xyz.shape[1]]
    chain = "A" if row.get("chain") is None else row["chain"]
    atoms = xyz.reshape(len(xyz), -1, 3)
    return kind(atoms, row.get("sequence"), chain, row.get("residue_ids"), name=str(row["id"]))


def read_structures(
    source: str | os.PathLike[str], modality: str, split: str | None = None
) -> Iterator[Backbone | NucleicChain | Mol]:
    """Chains or molecules of a data folder or of one shard, one by one, see `structure_of`.

    Raises
    ------
    InputError
        If they cannot be read, or are not of this modality.
    """
    for path in find_shards(source, split):
        optional = [c for c in ("centre", "side_atoms") if c in columns_of(path)]
        if "nucleic" in (modality, found := modality_of(path)) and found != modality:
            raise InputError(f"{path}: a data set of modality {found}, not {modality}")
        for table in read_rows(path, [*STRUCTURE[modality], *optional]):
            yield from (structure_of(xyz, row) for xyz, row in rows_of(table))
