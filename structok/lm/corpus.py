"""From token files and annotations to pretraining texts: each structure in three views, with fields by chance."""

from __future__ import annotations

import json
import os
import random
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from structok.errors import InputError, StructokError, TokensError
from structok.files import open_whole, read_tokens, write_whole
from structok.lm.annotations import Annotations
from structok.lm.vocabulary import Vocabulary
from structok.tokens import STREAMS, Tokens

__all__ = ["Composer", "Instance", "load_vocabulary", "write_corpus"]

_SUFFIXES = (".jsonl", ".parquet")
_ROWS = 4096  # instances of a parquet row group, and all that is held in memory


class Reporter(Protocol):
    """What hears of bad records, such as `structok.work.log.Log`."""

    done: int

    def error(self, error: StructokError) -> None:
        """One bad record."""


@dataclass(frozen=True)
class Instance:
    """One pretraining text.

    Parameters
    ----------
    text : wrapped streams and fields, one a line
    id : of the structure
    view : 'sequence', 'structure' or 'both'; for molecules 'string' in place of 'sequence'
    counts : tokens by group of the vocabulary; `spelled` are tokens that it lacks, `text_characters` is ordinary text
    """

    text: str
    id: str
    view: str
    counts: Counter[str] = field(default_factory=Counter)


class Composer:
    """Makes the texts of one structure.

    The three views of a protein are its sequence alone, its structure alone, and both in random order; those of a
    molecule are its SMILES or SELFIES by chance, its structure, and both. Each field of its annotation joins each
    view with probability `keep`, as a line `Field name: text`, and the lines come in random order, so that text
    leads to structure and structure to text. A vocabulary without structure tokens (scimind) has the first view only.

    What is drawn depends on the seed and the structure's id and chain, not on what was read before.

    Parameters
    ----------
    vocabulary : whose tokens the texts are made of
    seed : of all that is random
    keep : chance of a field to join a view

    Raises
    ------
    InputError
        If `keep` is not from 0 to 1.
    """

    def __init__(self, vocabulary: Vocabulary, *, seed: int = 0, keep: float = 0.5) -> None:
        if not 0 <= keep <= 1:
            raise InputError(f"keep {keep}: a probability from 0 to 1")
        self.vocabulary, self.seed, self.keep = vocabulary, seed, keep

    def instances(self, tokens: Tokens, fields: dict[str, str] | None = None) -> list[Instance]:
        """The texts of one structure, with the fields of its annotation.

        A field `smiles` of a molecule is its SMILES in place of one made from its SELFIES.

        Raises
        ------
        TokensError
            If the vocabulary cannot express the structure at all.
        """
        fields = dict(fields or {})
        draw = random.Random(f"{self.seed}/{tokens.modality}/{tokens.id}/{tokens.chain or ''}")
        smiles = fields.pop("smiles", None) if tokens.modality == "molecule" else None
        found = []
        for view in self._views(tokens):
            parts = self._streams(tokens, view, smiles, draw)
            for name, value in fields.items():
                if draw.random() < self.keep:
                    label = name.replace("_", " ")
                    prose = self.vocabulary.quote(f"{label[:1].upper()}{label[1:]}: {value}")
                    parts.append((prose, Counter(text_characters=len(prose))))
            draw.shuffle(parts)
            counts = sum((c for _, c in parts), Counter())
            found.append(Instance("\n".join(text for text, _ in parts), tokens.id, view, counts))
        return found

    def _views(self, tokens: Tokens) -> list[str]:
        line = "string" if tokens.modality == "molecule" else "sequence"
        has_line = tokens.modality == "molecule" or bool(tokens.sequence)
        has_structure = any(s.kind in self.vocabulary.forms for s in STREAMS[tokens.modality] if s.name == "codes")
        views = [line] * has_line + ["structure"] * has_structure + ["both"] * (has_line and has_structure)
        if not views:
            raise TokensError(f"{tokens.id or 'tokens'}: no sequence, and the vocabulary has no structure tokens")
        return views

    def _streams(
        self, tokens: Tokens, view: str, smiles: str | None, draw: random.Random
    ) -> list[tuple[str, Counter[str]]]:
        wrap, kinds = self.vocabulary, list(self.vocabulary.forms)
        out = []
        if tokens.modality != "molecule":
            if view != "structure":
                sequence = wrap.wrap_sequence if tokens.modality == "protein" else wrap.wrap_nucleic
                out.append(self._counted(sequence(tokens.sequence or "", unknown="spell")))
            if view != "sequence":
                out.append(self._counted(wrap.wrap_structure(tokens, unknown="spell")))
            return out
        if view != "structure":
            if "mol_sfi" in kinds and draw.random() < 0.5:
                out.append(self._counted(wrap.wrap_selfies(tokens, unknown="spell")))
            else:
                out.append(self._counted(wrap.wrap_smiles(smiles or smiles_of(tokens), unknown="spell")))
        if view != "string":
            out.append(self._counted(wrap.wrap_molecule(tokens, unknown="spell")))
        return out

    def _counted(self, text: str) -> tuple[str, Counter[str]]:
        """A wrapped stream with its tokens by group."""
        return text, self.vocabulary.count(text)


def smiles_of(tokens: Tokens) -> str:
    """Canonical SMILES of molecule tokens, without explicit hydrogens."""
    from rdkit import Chem

    from structok.molecule.conformer import molecule_of

    mol = molecule_of(tokens.selfies or "", tokens.id or "tokens")
    return Chem.MolToSmiles(Chem.RemoveHs(mol))


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
) -> dict[str, Any]:
    """Stream token files into a corpus; bad records are reported to `log` and skipped.

    The order is that of the input, so shuffle when training. The same records give the same file however they are
    spread over sources.

    Parameters
    ----------
    sources : token files, folders of token shards, '-' for stdin
    out : .jsonl or .parquet with the columns text, id, view; its counts go beside it (`stats_file`). None: jsonl to
        stdout
    vocabulary, seed, keep : see `Composer`
    annotations : .jsonl, .csv or .parquet with an `id`, which is a structure's id or `ID_CHAIN`

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
    composer = Composer(vocabulary, seed=seed, keep=keep)
    records: Counter[str] = Counter()
    views: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        known = stack.enter_context(Annotations(annotations, log.error)) if annotations else None
        file = stack.enter_context(open_whole(out)) if out else sys.stdout.buffer
        parquet = out is not None and out.suffix.lower() == ".parquet"
        writer: _Jsonl | _Parquet = _Parquet(file) if parquet else _Jsonl(file)
        for tokens in _records(sources, log):
            fields = known.of(tokens) if known else {}
            try:
                found = composer.instances(tokens, fields)
            except StructokError as error:
                log.error(error)
                continue
            log.done += 1
            records.update([tokens.modality, *(["annotated"] if fields else [])])
            for instance in found:
                writer.write(instance)
                views[f"{tokens.modality}, {instance.view}"] += 1
                counts += instance.counts
        if not log.done:
            raise InputError(f"{out or 'corpus'}: not written, no token record could be used")
        writer.close()
    stats: dict[str, Any] = {
        "records": {"protein": records["protein"], "molecule": records["molecule"], "annotated": records["annotated"]},
        "instances": views.total(),
        "views": dict(sorted(views.items())),
        "tokens": {group: counts[group] for group in (*vocabulary.groups, "spelled", "text_characters")},
        "settings": {"seed": seed, "keep": keep, "style": vocabulary.style, "vocabulary_tokens": len(vocabulary)},
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
        try:
            import pyarrow as pa
            import pyarrow.parquet
        except ImportError:
            raise InputError("parquet needs pyarrow: pip install pyarrow") from None
        self._pa = pa
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
