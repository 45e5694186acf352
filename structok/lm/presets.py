"""The shipped vocabularies."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from structok.lm.forms import AMINO_ACIDS, FORMS, NUCLEOTIDES, SMILES_CHARACTERS
from structok.lm.vocabulary import Vocabulary

__all__ = ["biomatrix", "scimind"]

_COUNTED = Path(__file__).with_name("biomatrix.json")  # written by train/lm/vocabulary.py


@lru_cache
def biomatrix() -> Vocabulary:
    """See `Vocabulary.preset`."""
    return Vocabulary.biomatrix(**json.loads(_COUNTED.read_text(encoding="utf-8")))


@lru_cache
def scimind() -> Vocabulary:
    """See `Vocabulary.preset`."""
    letters = {"nucleic": NUCLEOTIDES, "protein": AMINO_ACIDS, "smiles": SMILES_CHARACTERS}
    forms = FORMS["scimind"]
    groups = {forms[kind].group: tuple(map(forms[kind].token.format, chars)) for kind, chars in letters.items()}
    return Vocabulary("scimind", groups)
