"""How tokens look: the forms of the published vocabularies and of our own, and in words what each token means."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Literal

from structok.streams import RADIUS, STREAMS, Modality, Stream

__all__ = [
    "AMINO_ACIDS",
    "FORMS",
    "JOINT",
    "NUCLEOTIDES",
    "SMILES_CHARACTERS",
    "STRANDS",
    "Form",
    "Style",
    "describe",
    "has_meaning",
    "quote",
]

Style = Literal["biomatrix", "scimind", "structok"]


_NUMBER = "(?:0|[1-9][0-9]{0,8})"
_JOINER = "\N{WORD JOINER}"  # invisible; no token holds it
JOINT = re.compile(rf"(\[[^\[\]\s]+) (-1|{_NUMBER})\]")
# what SELFIES may write: bond, isotope, element, chirality, hydrogens, charge; or a branch or ring with its size
_SELFIES = re.compile(r"\[[=#/\\]?(?:\d*[A-Z][a-z]?@{0,2}(?:H\d)?(?:[+-]\d+)?|[=#/\\-]*(?:Branch|Ring)[123])\]")


@dataclass(frozen=True)
class Form:
    """One kind of stretch in a text.

    Parameters
    ----------
    kind : its name, such as 'prot_3d'
    group : group of the vocabulary that its tokens belong to; '' where its content is ordinary text
    start, end : control tokens around it; '' where the style has none
    pattern : one token
    token : how a token is written; `{}` is the letter, character or code
    modality, stream : what a stretch of codes belongs to, see `structok.streams`
    inline : tokens of other groups that may stand between: anchors and their radius
    """

    kind: str
    group: str
    start: str
    end: str
    pattern: re.Pattern[str] | None
    token: str = "{}"
    modality: Modality | None = None
    stream: str = ""
    inline: re.Pattern[str] | None = None

    @cached_property
    def any(self) -> re.Pattern[str] | None:
        """One token of the stretch, its own or one that may stand between."""
        if self.pattern is None or self.inline is None:
            return self.pattern
        return re.compile(f"{self.pattern.pattern}|{self.inline.pattern}")


def _wrapped(kind: str, group: str, pattern: str | None, token: str = "{}") -> Form:
    return Form(kind, group, f"<|{kind}_start|>", f"<|{kind}_end|>", re.compile(pattern) if pattern else None, token)


def _bare(kind: str, group: str, pattern: str, token: str) -> Form:
    return Form(kind, group, "", "", re.compile(pattern), token)


def _group(modality: Modality, stream: Stream) -> str:
    """Group of the vocabulary that a stream's tokens belong to."""
    if stream.name != "codes":
        return stream.name
    return {"protein": "structure", "molecule": "molecule"}.get(modality, f"{modality}_structure")


def _codes(modality: Modality, stream: Stream) -> Form:
    """The form of a declared stream."""
    pattern = rf"<{stream.letter} (-1|{_NUMBER})>" if stream.letter else rf"\[[^\[\]\s]+ (?:-1|{_NUMBER})\]"
    token = stream.token if stream.letter else "{}"
    form = _wrapped if stream.kind else _bare
    made = form(stream.kind or stream.name, _group(modality, stream), pattern, token)
    return replace(made, modality=modality, stream=stream.name)


_SMILES = _wrapped("mol_smi", "", None)
_SELFIES_STRING = _wrapped("mol_sfi", "selfies", r"\[[^\[\]\s]+\]|\.")
_AMINO_ACIDS = _wrapped("prot_aa", "amino_acid", r"<A ([^<>\s])>", "<A {}>")
_NUCLEOTIDES = _wrapped("nuc_na", "nucleotide", r"<B ([^<>\s])>", "<B {}>")
_STRUCTURES = [_codes(modality, stream) for modality, streams in STREAMS.items() for stream in streams if stream.kind]
_ANCHORS = [_codes("protein", next(s for s in STREAMS["protein"] if s.spaced)), _codes("protein", RADIUS)]
_BETWEEN = re.compile("|".join(f.pattern.pattern for f in _ANCHORS if f.pattern))


def _structure(modality: Modality) -> Form:
    return next(f for f in _STRUCTURES if (f.modality, f.stream) == (modality, "codes"))


def _by_kind(*forms: Form) -> dict[str, Form]:
    return {form.kind: form for form in forms}


FORMS: dict[Style, dict[str, Form]] = {
    "biomatrix": _by_kind(_SMILES, _SELFIES_STRING, _structure("molecule"), _AMINO_ACIDS, _structure("protein")),
    "scimind": _by_kind(
        _bare("nucleic", "nucleotide", r"\*\|([^\s|])\|\*", "*|{}|*"),
        _bare("protein", "amino_acid", r"<\|([^\s|])\|>", "<|{}|>"),
        _bare("smiles", "smiles", r"\{\|([^\s|])\|\}", "{{|{}|}}"),
    ),
    "structok": _by_kind(
        _SMILES,
        _SELFIES_STRING,
        _AMINO_ACIDS,
        _NUCLEOTIDES,
        *(replace(f, inline=_BETWEEN) if f.stream == "codes" else f for f in _STRUCTURES),
        *_ANCHORS,
    ),
}

_KIND_IN_WORDS = {
    "mol_smi": "molecule SMILES string",
    "mol_sfi": "molecule SELFIES string",
    "mol_3d": "molecule 3D structure",
    "prot_aa": "protein amino acid sequence",
    "prot_3d": "protein 3D structure",
    "prot_sc": "protein side chains",
    "nuc_na": "nucleic acid sequence",
    "nuc_3d": "nucleic acid 3D structure",
    "nuc_cf": "nucleotide conformers",
}

AMINO_ACIDS = {
    "A": "Alanine",
    "R": "Arginine",
    "N": "Asparagine",
    "D": "Aspartic acid",
    "C": "Cysteine",
    "Q": "Glutamine",
    "E": "Glutamic acid",
    "G": "Glycine",
    "H": "Histidine",
    "I": "Isoleucine",
    "L": "Leucine",
    "K": "Lysine",
    "M": "Methionine",
    "F": "Phenylalanine",
    "P": "Proline",
    "S": "Serine",
    "T": "Threonine",
    "W": "Tryptophan",
    "Y": "Tyrosine",
    "V": "Valine",
    "U": "Selenocysteine",
    "O": "Pyrrolysine",
    "B": "Aspartic acid or Asparagine",
    "Z": "Glutamic acid or Glutamine",
    "J": "Leucine or Isoleucine",
    "X": "any amino acid",
}

NUCLEOTIDES = {  # IUPAC
    "A": "Adenine",
    "C": "Cytosine",
    "G": "Guanine",
    "T": "Thymine",
    "U": "Uracil",
    "R": "Adenine or Guanine",
    "Y": "Cytosine or Thymine",
    "S": "Guanine or Cytosine",
    "W": "Adenine or Thymine",
    "K": "Guanine or Thymine",
    "M": "Adenine or Cytosine",
    "B": "any nucleotide but Adenine",
    "D": "any nucleotide but Cytosine",
    "H": "any nucleotide but Guanine",
    "V": "any nucleotide but Thymine",
    "N": "any nucleotide",
}
# as in `NucleicChain`: small letters are DNA, X and x bases that nobody knows
STRANDS = NUCLEOTIDES | {letter.lower(): f"{NUCLEOTIDES[letter]} of DNA" for letter in "ACGTU"}
STRANDS |= {"X": "an unknown base of RNA", "x": "an unknown base of DNA"}

# every character of an OpenSMILES string: symbols of the elements (no J and Q; no j, q, w, x, z), digits, marks
SMILES_CHARACTERS = "ABCDEFGHIKLMNOPRSTUVWXYZabcdefghiklmnoprstuvy0123456789" + "#$%()*+-./:=@[\\]"


def describe(style: Style, group: str, token: str) -> str:
    """Words whose embeddings a new token starts from; the token itself where no word says more."""
    if group == "control":
        which, _, edge = token.strip("<|>").rpartition("_")
        return f"{'Begins' if edge == 'start' else 'Ends'} a {_KIND_IN_WORDS[which]}"
    if group in ("amino_acid", "nucleotide", "smiles"):
        form = next(f for f in FORMS[style].values() if f.group == group)
        match = form.pattern and form.pattern.fullmatch(token)
        if match and group != "smiles":
            return (AMINO_ACIDS if group == "amino_acid" else STRANDS).get(match[1], token)
        return match[1] if match else token
    return token


def has_meaning(literal: str, molecule_codes: int) -> bool:
    """Whether a literal outside the vocabulary has one meaning, so that ordinary text can carry it.

    True for a missing code such as `<S -1>`, and for SELFIES and joint tokens too rare to be in the vocabulary.
    """
    if joint := JOINT.fullmatch(literal):
        return bool(_SELFIES.fullmatch(joint[1] + "]")) and int(joint[2]) < molecule_codes
    return literal == "." or bool(re.fullmatch(r"<[A-Z] -1>", literal) or _SELFIES.fullmatch(literal))


def quote(text: str, style: Style, known: Collection[str]) -> str:
    """Text in which an invisible joiner breaks each literal that is one of the known tokens."""
    pattern = r"<\|\w+\|>|<[A-Z] [^<>\s]+>|\[[^\[\]\s]+(?: -?\d+)?\]"
    if style == "scimind":
        pattern = "|".join(f.pattern.pattern for f in FORMS[style].values() if f.pattern)
    breaks = [m.start() + 1 for m in re.finditer(f"(?=(?P<literal>{pattern}))", text) if m["literal"] in known]
    return _JOINER.join(text[a:b] for a, b in pairwise([0, *breaks, len(text)]))
