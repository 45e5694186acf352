"""Annotations by structure id, kept in a temporary database so that memory does not grow with them."""

from __future__ import annotations

import csv
import json
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from structok.errors import InputError, StructokError
from structok.files import pyarrow
from structok.tokens import Tokens

__all__ = ["Annotations", "read_annotations"]

_BATCH = 1024


def read_annotations(path: str | os.PathLike[str]) -> Iterator[tuple[str, dict[str, str]] | StructokError]:
    """(id, field -> text) of each record of a .jsonl, .csv or .parquet file with a field or column `id`.

    Numbers become text, lists are joined by commas, empty values are left out. A bad record yields its error.

    Raises
    ------
    InputError
        If the file cannot be read at all.
    """
    path = Path(path)
    readers: dict[str, Callable[[Path], Iterator[tuple[str, Any]]]] = {
        ".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet
    }  # fmt: skip
    if path.suffix.lower() not in readers:
        raise InputError(f"{path}: annotations are .jsonl, .csv or .parquet")
    try:
        for where, record in readers[path.suffix.lower()](path):
            try:
                yield _fields(record, where)
            except StructokError as error:
                yield error
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None


def _jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    record = json.loads(line)
                except ValueError:
                    record = None
                yield f"{path}, line {number}", record


def _csv(path: Path) -> Iterator[tuple[str, Any]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, restkey="\0")
        for row in rows:
            # a line with more cells than the header has no names for them
            yield f"{path}, line {rows.line_num}", None if "\0" in row else row


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    pa = pyarrow()
    try:
        number = 0
        for batch in pa.parquet.ParquetFile(path).iter_batches(batch_size=_BATCH):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", row
    except pa.ArrowException as error:
        raise InputError(f"{path}: not a readable parquet file ({str(error).splitlines()[0][:80]})") from None


def _fields(record: Any, where: str) -> tuple[str, dict[str, str]]:
    if not isinstance(record, dict) or record.get("id") in (None, ""):
        raise InputError(f"{where}: not an annotation; it needs an id and fields of text")
    fields = {}
    for name, value in record.items():
        parts = [v for v in (value if isinstance(value, list) else [value]) if v is not None]
        if any(isinstance(v, (dict, list)) for v in parts):
            raise InputError(f"{where}: the field {name!r} is no text, number or list of them")
        text = " ".join(", ".join(map(str, parts)).split())
        if text and name != "id":
            fields[_utf8(str(name))] = _utf8(text)
    return _utf8(str(record["id"])), fields


def _utf8(text: str) -> str:
    """JSON can name half a character; no file can hold it."""
    return text.encode(errors="replace").decode()


class Annotations:
    """Annotations of a file by id; a context manager, since they lie in a temporary file.

    Parameters
    ----------
    path : see `read_annotations`
    report : told of bad records, and of ids that come twice (the first counts)
    """

    def __init__(self, path: str | os.PathLike[str], report: Callable[[StructokError], None]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="structok-")
        self._database = sqlite3.connect(Path(self._folder.name) / "annotations.sqlite", isolation_level=None)
        self.count = 0
        try:
            # nobody reads the file after a crash
            self._database.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;")
            self._database.execute("CREATE TABLE annotation (id TEXT PRIMARY KEY, fields TEXT) WITHOUT ROWID")
            self._database.execute("BEGIN")
            for found in read_annotations(path):
                if isinstance(found, StructokError):
                    report(found)
                elif not self._insert(*found):
                    report(InputError(f"{path}: the id {found[0]!r} comes twice; the first record counts"))
            self._database.execute("COMMIT")
        except BaseException:
            self.close()
            raise

    def _insert(self, id: str, fields: dict[str, str]) -> bool:
        new = self._database.execute("INSERT OR IGNORE INTO annotation VALUES (?, ?)", (id, json.dumps(fields)))
        self.count += new.rowcount
        return new.rowcount == 1

    def of(self, tokens: Tokens) -> dict[str, str]:
        """Fields for a structure: those under `ID_CHAIN` if there are any, else those under its id."""
        keys = [f"{tokens.id}_{tokens.chain}", tokens.id] if tokens.chain else [tokens.id]
        for key in keys:
            row = self._database.execute("SELECT fields FROM annotation WHERE id = ?", (key,)).fetchone()
            if row is not None:
                return json.loads(row[0])
        return {}

    def close(self) -> None:
        """Remove the temporary file."""
        self._database.close()
        self._folder.cleanup()

    def __enter__(self) -> Annotations:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
