"""A vocabulary as files."""

from __future__ import annotations

from pathlib import Path

from structok.errors import InputError, StructokError
from structok.files import read_tokens, write_whole
from structok.lm.counting import MoleculeCounts
from structok.lm.vocabulary import Vocabulary
from structok.work.log import Log

__all__ = ["FILES", "write_vocabulary"]

FILES = ("vocabulary.json", "tokens.txt")


def write_vocabulary(
    preset: str, out: Path, log: Log, *, molecules: Path | None = None, coverage: float = 0.99
) -> Vocabulary:
    """Write a vocabulary as JSON, and its tokens one a line.

    Parameters
    ----------
    preset : 'biomatrix' or 'scimind'
    out : folder of the two files
    log : of bad token records
    molecules : token file whose molecules are counted in place of the shipped list (biomatrix)
    coverage : share of the joint tokens of these molecules that the vocabulary covers
    """
    if molecules is None:
        vocabulary = Vocabulary.preset(preset)
    elif preset == "biomatrix":
        vocabulary = Vocabulary.counted(_count(molecules, log), coverage=coverage, about={"counted": molecules.name})
    else:
        raise InputError(f"the {preset} vocabulary has no molecule tokens to count")
    vocabulary.save(out / FILES[0])
    write_whole(out / FILES[1], "".join(f"{token}\n" for token in vocabulary.tokens).encode())
    return vocabulary


def _count(file: Path, log: Log) -> MoleculeCounts:
    counts = MoleculeCounts()
    for record in read_tokens(file):
        try:
            if isinstance(record, StructokError):
                raise record
            counts.add(record)
            log.done += 1
        except StructokError as error:
            log.error(error)
    if not counts.joint:
        raise InputError(f"{file}: no molecule tokens to count")
    return counts
