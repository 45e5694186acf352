"""Groups of tokens of the shipped vocabularies."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from structok.lm.forms import AMINO_ACIDS, FORMS, NUCLEOTIDES, SMILES_CHARACTERS, STRANDS, Style

__all__ = ["groups_of", "shipped"]

_COUNTED = Path(__file__).with_name("biomatrix.json")  # written by train/lm/vocabulary.py
RADII = 24

Groups = dict[str, tuple[str, ...]]


def shipped(style: Style) -> tuple[Groups, Mapping[str, Any]]:
    """Groups of a preset, and where its counted tokens come from."""
    if style == "scimind":
        letters = {"nucleic": NUCLEOTIDES, "protein": AMINO_ACIDS, "smiles": SMILES_CHARACTERS}
        forms = FORMS[style]
        return {forms[kind].group: tuple(map(forms[kind].token.format, chars)) for kind, chars in letters.items()}, {}
    counted = json.loads(_COUNTED.read_text(encoding="utf-8"))
    return groups_of(style, counted["selfies"], counted["molecule"]), counted["about"]


def groups_of(style: Style, selfies: Iterable[str], molecule: Iterable[str], codes: int = 4096) -> Groups:
    """Groups of a biomatrix or structok vocabulary; every stream of polymers has as many codes."""
    forms = FORMS[style].values()
    groups: Groups = {
        "control": tuple(c for f in forms for c in (f.start, f.end) if c),
        "amino_acid": tuple(f"<A {letter}>" for letter in AMINO_ACIDS),
        "structure": tuple(f"<S {code}>" for code in range(codes)),
        "selfies": tuple(selfies),
        "molecule": tuple(molecule),
    }
    for form in forms:  # what BioMatrix does not have comes behind
        if form.group and form.group not in groups:
            parts: Iterable[Any] = STRANDS if form.group == "nucleotide" else range(codes)
            groups[form.group] = tuple(map(form.token.format, range(RADII) if form.group == "radius" else parts))
    return groups
