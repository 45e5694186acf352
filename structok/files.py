"""Token files: jsonl, text, csv and parquet, read and written as streams. Imports no torch."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any

from structok.errors import InputError, StructokError, TokensError
from structok.tokens import CODE_STREAMS, AnchorText, Tokens

__all__ = ["TOKEN_FORMATS", "TokenWriter", "open_whole", "pyarrow", "read_tokens", "token_format", "write_whole"]

TOKEN_FORMATS = ("jsonl", "text", "csv", "parquet")
_SUFFIX = {".jsonl": "jsonl", ".json": "jsonl", ".txt": "text", ".csv": "csv", ".parquet": "parquet"}
# columns of csv and parquet; the lists are space-separated in csv
_INTEGERS = ("spacing", "radius")
_LISTS = (*CODE_STREAMS, "residue_ids", "atom_order", "missing")
_COLUMNS = ("id", "modality", "model", "chain", "sequence", "selfies", "frame", *_INTEGERS, *_LISTS)


def token_format(path: str | os.PathLike[str] | None) -> str:
    """Format by suffix, jsonl where it says nothing."""
    return _SUFFIX.get(Path(path).suffix.lower(), "jsonl") if path else "jsonl"


@contextmanager
def open_whole(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that appears under its name only when it is complete."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            raise InputError(f"{path}: cannot be written ({error.strerror})") from None
        raise


def write_whole(path: Path, body: bytes) -> None:
    """Write a file at once, gzipped where its name ends in .gz."""
    with open_whole(path) as file:
        file.write(gzip.compress(body, mtime=0) if path.name.lower().endswith(".gz") else body)


class TokenWriter:
    """Writes `Tokens` one by one to a binary file in one of `TOKEN_FORMATS`; `close` ends the file.

    With `source`, records say which input they are from (text has no room for it). `anchors` says where texts have
    them.
    """

    def __init__(self, file: IO[bytes], format: str, *, source: bool = False, anchors: AnchorText = "none") -> None:
        if format not in TOKEN_FORMATS:
            raise InputError(f"unknown token format {format!r}; one of {', '.join(TOKEN_FORMATS)}")
        self._file, self._format, self._anchors = file, format, anchors
        self._rows: list[dict[str, Any]] = []
        self._parquet: Any = None
        self._columns = (*_COLUMNS, "source") if source else _COLUMNS
        if format == "csv":
            self._line(self._columns)

    def write(self, tokens: Tokens, source: str = "") -> None:
        """Append one record."""
        if self._format == "text":
            self._file.write(tokens.to_text(anchors=self._anchors).encode() + b"\n")
            return
        record = tokens.to_dict()
        if "source" in self._columns:
            record["source"] = source
        if self._format == "jsonl":
            self._file.write(json.dumps(record, separators=(", ", ": ")).encode() + b"\n")
        elif self._format == "csv":
            row = [record.get(c, "") for c in self._columns]
            self._line([" ".join(map(str, v)) if c in _LISTS and v != "" else v for c, v in zip(self._columns, row)])
        else:
            self._rows.append({c: record.get(c) for c in self._columns})
            if len(self._rows) >= 4096:
                self._flush()

    def close(self) -> None:
        """Write what is buffered and the file's end."""
        if self._format == "parquet":
            self._flush()
            self._parquet.close()
        self._file.flush()

    def _line(self, values: Any) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(values)
        self._file.write(text.getvalue().encode())

    def _flush(self) -> None:
        pa = pyarrow()
        kinds = dict.fromkeys(_INTEGERS, pa.int32())
        kinds |= {c: pa.list_(pa.string() if c == "residue_ids" else pa.int32()) for c in _LISTS}
        schema = pa.schema([(c, kinds.get(c, pa.string())) for c in self._columns])
        if self._parquet is None:
            self._parquet = pa.parquet.ParquetWriter(self._file, schema, compression="zstd")
        if self._rows:
            self._parquet.write_table(pa.Table.from_pylist(self._rows, schema=schema))
        self._rows = []


def pyarrow() -> Any:
    """The package with its parquet module.

    Raises
    ------
    InputError
        If it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError("parquet needs pyarrow: pip install pyarrow") from None
    return pyarrow


def read_tokens(source: str | os.PathLike[str]) -> Iterator[Tokens | StructokError]:
    """Token records of a file, a folder of shards, or stdin for '-'; a broken record yields its error, others follow.

    The format follows the suffix (.jsonl .txt .csv .parquet), else the content.

    Raises
    ------
    InputError
        If the file cannot be read at all.
    """
    label = "stdin" if os.fspath(source) == "-" else os.fspath(source)
    if os.path.isdir(label):
        shards = sorted(p for p in Path(label).glob("part-*.*") if p.suffix in _SUFFIX)
        if not shards:
            raise InputError(f"{label}: no token shards (part-*) in this folder")
        for shard in shards:
            yield from read_tokens(shard)
        return
    kind = None if label == "stdin" else _SUFFIX.get(Path(label).suffix.lower())
    if kind == "parquet":
        yield from _read_parquet(label)
        return
    try:
        binary = sys.stdin.buffer if label == "stdin" else open(label, "rb")  # noqa: SIM115
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise InputError(f"{label}: {reason}") from None
    try:
        with io.TextIOWrapper(binary, encoding="utf-8-sig", newline="") as text:
            yield from _read_lines(text, kind, label)
    except UnicodeDecodeError:
        raise InputError(f"{label}: not a token file (it is not text)") from None
    except csv.Error as error:
        raise InputError(f"{label}: not a readable csv file ({error})") from None
    except OSError as error:
        raise InputError(f"{label}: cannot be read ({error.strerror})") from None


def _read_lines(text: IO[str], kind: str | None, label: str) -> Iterator[Tokens | StructokError]:
    empty = True
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        empty = False
        where = f"{label}, line {number}"
        if kind is None:
            kind = "jsonl" if line.lstrip().startswith("{") else "csv" if line.startswith("id,") else "text"
        if kind == "csv":
            rows = csv.DictReader(chain([line], text))
            for row in rows:
                yield _record(
                    lambda row=row: Tokens.from_dict(_from_csv(row)),
                    f"{label}, line {rows.line_num + number - 1}",
                )
            return
        if kind == "jsonl":
            yield _record(lambda line=line: Tokens.from_dict(json.loads(line)), where)
        else:
            stem = "stdin" if label == "stdin" else Path(label).stem
            yield _record(lambda line=line, i=f"{stem}_{number}": Tokens.from_text(line, id=i), where)
    if empty:
        raise InputError(f"{label}: the file is empty")


def _from_csv(row: dict[str, Any]) -> dict[str, Any]:
    record: dict[str, Any] = {k: v for k, v in row.items() if v and k in _COLUMNS}
    for name in _INTEGERS:
        if name in record:
            record[name] = int(record[name])
    for name in _LISTS:
        if name in record:
            items = record[name].split()
            record[name] = items if name == "residue_ids" else [int(v) for v in items]
    return record


def _record(make: Any, where: str) -> Tokens | StructokError:
    try:
        return make()
    except json.JSONDecodeError as error:
        return TokensError(f"{where}: not a JSON record, cut off? ({error.msg} at column {error.colno})")
    except StructokError as error:
        return TokensError(f"{where}: {error}")
    except (ValueError, RecursionError) as error:
        return TokensError(f"{where}: malformed record ({error})")


def _read_parquet(label: str) -> Iterator[Tokens | StructokError]:
    pa = pyarrow()
    try:
        file = pa.parquet.ParquetFile(label)
        number = 0
        for batch in file.iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield _record(lambda row=row: Tokens.from_dict(row), f"{label}, row {number}")
    except FileNotFoundError:
        raise InputError(f"{label}: no such file") from None
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{label}: not a readable parquet file ({str(error).splitlines()[0][:80]})") from None
