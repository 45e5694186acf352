"""From token files and annotations to pretraining texts: each structure in three views, complexes as a whole."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Protocol

from structok.errors import InputError, StructokError
from structok.files import open_whole, pyarrow, read_tokens, write_whole
from structok.lm.annotations import Annotations
from structok.lm.composing import Composer, Instance
from structok.lm.vocabulary import Vocabulary
from structok.tokens import STREAMS, AnchorText, Tokens

__all__ = ["load_vocabulary", "write_corpus"]

_SUFFIXES = (".jsonl", ".parquet")
_ROWS = 4096  # instances of a parquet row group, and all that is held in memory


class Reporter(Protocol):
    """What hears of bad records, such as `structok.work.log.Log`."""

    done: int

    def error(self, error: StructokError) -> None:
        """One bad record."""


def load_vocabulary(name: str) -> Vocabulary:
    """A preset by name, or a vocabulary that was saved: its file or folder."""
    return Vocabulary.load(name) if Path(name).exists() else Vocabulary.preset(name)


def write_corpus(
    sources: Iterable[str | os.PathLike[str]],
    out: Path | None,
    vocabulary: Vocabulary,
    log: Reporter,
    *,
    annotations: Path | None = None,
    seed: int = 0,
    keep: float = 0.5,
    anchors: AnchorText | None = None,
) -> dict[str, Any]:
    """Stream token files into a corpus; bad records are reported to `log` and skipped.

    The order is that of the input, so shuffle when training. The same records give the same file however they are
    spread over sources. Records that follow each other and share a frame are a complex; its texts come behind theirs.

    Parameters
    ----------
    sources : token files, folders of token shards, '-' for stdin
    out : .jsonl or .parquet with the columns text, id, view; its counts go beside it (`stats_file`). None: jsonl to
        stdout
    vocabulary, seed, keep, anchors : see `Composer`
    annotations : .jsonl, .csv or .parquet with an `id`, which is a structure's id or `ID_CHAIN`; a complex has those of
        the id of its first entity

    Returns
    -------
    stats : what lies beside it: counts of records, views and tokens, the settings, and under `llama_factory` the
        entry for its `dataset_info.json`

    Raises
    ------
    InputError
        If a source cannot be read, the suffix of `out` is another, or no record could be used.
    """
    if out is not None and out.suffix.lower() not in _SUFFIXES:
        raise InputError(f"{out}: a corpus is written as {' or '.join(_SUFFIXES)}")
    composer = Composer(vocabulary, seed=seed, keep=keep, anchors=anchors)
    records: Counter[str] = Counter()
    views: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        known = stack.enter_context(Annotations(annotations, log.error)) if annotations else None
        file = stack.enter_context(open_whole(out)) if out else sys.stdout.buffer
        parquet = out is not None and out.suffix.lower() == ".parquet"
        writer: _Jsonl | _Parquet = _Parquet(file) if parquet else _Jsonl(file)

        def put(kind: str, made: list[Instance]) -> None:
            for instance in made:
                writer.write(instance)
                views[f"{kind}, {instance.view}" if kind else instance.view] += 1
                counts.update(instance.counts)

        for group in _complexes(_records(sources, log)):
            usable = []
            for tokens in group:
                fields = known.of(tokens) if known else {}
                try:
                    put(tokens.modality, composer.instances(tokens, fields))
                except StructokError as error:
                    log.error(error)
                    continue
                log.done += 1
                records.update([tokens.modality, *(["annotated"] if fields else [])])
                usable.append(tokens)
            if made := composer.complex(usable, known.of(replace(group[0], chain=None)) if known else {}):
                put("", made)
                records["complex"] += 1
        if not log.done:
            raise InputError(f"{out or 'corpus'}: not written, no token record could be used")
        writer.close()
    stats: dict[str, Any] = {
        "records": {kind: records[kind] for kind in (*STREAMS, "annotated", "complex")},
        "instances": views.total(),
        "views": dict(sorted(views.items())),
        "tokens": {group: counts[group] for group in (*vocabulary.groups, "spelled", "text_characters")},
        "settings": {
            "seed": seed,
            "keep": keep,
            "anchors": composer.anchors,
            "style": vocabulary.style,
            "vocabulary_tokens": len(vocabulary),
        },
    }
    if out is not None:
        entry = {"file_name": out.name, "columns": {"prompt": "text"}}
        stats["llama_factory"] = {out.stem: entry}
        write_whole(stats_file(out), json.dumps(stats, indent=1).encode() + b"\n")
    return stats


def stats_file(out: Path) -> Path:
    """Where the counts of a corpus are written."""
    return out.with_name(f"{out.name}.stats.json")


def _records(sources: Iterable[str | os.PathLike[str]], log: Reporter) -> Iterator[Tokens]:
    for source in sources:
        try:
            for record in read_tokens(source):
                if isinstance(record, StructokError):
                    log.error(record)
                else:
                    yield record
        except StructokError as error:  # the file as a whole
            log.error(error)


def _complexes(records: Iterable[Tokens]) -> Iterator[list[Tokens]]:
    """Records that follow each other and name the same frame, together; all others alone."""
    group: list[Tokens] = []
    for tokens in records:
        if group and not (tokens.frame and tokens.frame == group[0].frame):
            yield group
            group = []
        group.append(tokens)
    if group:
        yield group


class _Jsonl:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, instance: Instance) -> None:
        record = {"text": instance.text, "id": instance.id, "view": instance.view}
        self._file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")

    def close(self) -> None:
        self._file.flush()


class _Parquet:
    def __init__(self, file: IO[bytes]) -> None:
        self._pa = pa = pyarrow()
        self._schema = pa.schema([(name, pa.string()) for name in ("text", "id", "view")])
        self._writer = pa.parquet.ParquetWriter(file, self._schema, compression="zstd")
        self._rows: list[dict[str, str]] = []

    def write(self, instance: Instance) -> None:
        self._rows.append({"text": instance.text, "id": instance.id, "view": instance.view})
        if len(self._rows) == _ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(self._pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []

    def close(self) -> None:
        self._flush()
        self._writer.close()
