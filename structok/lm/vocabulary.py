"""`Vocabulary`: the tokens that a language model gets, and the text made of them. Imports no torch."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, get_args

from structok.errors import InputError, TokensError
from structok.files import write_whole
from structok.lm import presets
from structok.lm.counting import MoleculeCounts, covering
from structok.lm.forms import FORMS, JOINT, Form, Style, describe, has_meaning, quote
from structok.lm.parsed import Parsed
from structok.lm.parsing import parse
from structok.lm.wrapping import Unknown, count, wrap, wrap_streams
from structok.tokens import AnchorText, Tokens, selfies_atoms

__all__ = ["PRESETS", "Vocabulary"]

PRESETS: tuple[Style, ...] = get_args(Style)
_FILE = "vocabulary.json"


@dataclass(frozen=True)
class Vocabulary:
    """Tokens for proteins and molecules, in groups, in the order in which a language model gets them.

    Parameters
    ----------
    style : 'biomatrix' (control tokens around each stretch), 'structok' (that, with nucleic acids, side chains and
        anchors) or 'scimind' (one character a token, in brackets)
    groups : name -> tokens; 'control', 'amino_acid', 'structure', 'selfies', 'molecule' for biomatrix, with
        'nucleotide', 'nucleic_structure', 'sidechains', 'conformers', 'anchors', 'radius' for structok;
        'nucleotide', 'amino_acid', 'smiles' for scimind
    about : where counted tokens come from

    Raises
    ------
    InputError
        If a group is missing or unknown, or a token is not of its group's form or occurs twice.
    """

    style: Style
    groups: Mapping[str, tuple[str, ...]]
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.style not in FORMS:
            raise InputError(f"vocabulary style {self.style!r} is none of {', '.join(FORMS)}")
        groups = {name: tuple(tokens) for name, tokens in self.groups.items()}
        forms = {f.group: f for f in self.forms.values() if f.group}
        wanted = {*forms} | ({"control"} if self.style != "scimind" else set())
        if set(groups) != wanted:
            raise InputError(f"a {self.style} vocabulary has the groups {', '.join(sorted(wanted))}, no others")
        controls = tuple(c for f in self.forms.values() for c in (f.start, f.end) if c)
        seen: set[str] = set()
        for name, tokens in groups.items():
            for token in tokens:
                pattern = forms[name].pattern if name != "control" else None
                if not (token in controls if pattern is None else token != "." and pattern.fullmatch(token)):
                    raise InputError(f"vocabulary: {token!r} is no token of the group {name!r}")
                if token in seen:
                    raise InputError(f"vocabulary: {token!r} occurs twice")
                seen.add(token)
        if not set(controls) <= seen:
            raise InputError(f"vocabulary: the control tokens must be {' '.join(controls)}")
        object.__setattr__(self, "groups", groups)

    # making, saving, loading

    @classmethod
    def preset(cls, name: str) -> Vocabulary:
        """'biomatrix', with molecule tokens counted from molecules of our training data; 'structok', that and more; or
        'scimind'."""
        if name not in PRESETS:
            raise InputError(f"no vocabulary {name!r}; presets: {', '.join(PRESETS)}")
        return _preset(name)  # type: ignore[arg-type]

    @classmethod
    def counted(
        cls,
        counts: MoleculeCounts,
        *,
        coverage: float = 0.99,
        structure_codes: int = 4096,
        about: Mapping[str, Any] | None = None,
    ) -> Vocabulary:
        """The biomatrix vocabulary of a corpus: all SELFIES tokens, the most frequent joint tokens.

        Parameters
        ----------
        counts : of its molecules
        coverage : share of all joint tokens in the corpus that the vocabulary covers
        structure_codes : size of the protein codebook
        about : what the corpus is
        """
        if not counts.joint:
            raise InputError("no molecule tokens were counted")
        joint = covering(counts.joint, coverage)
        found = {
            "molecules": counts.molecules,
            "joint_seen": len(counts.joint),
            "joint_occurrences": counts.joint.total(),
            "joint_coverage": round(sum(counts.joint[t] for t in joint) / counts.joint.total(), 5),
        }
        selfies = covering(counts.selfies, 1.0)
        return cls.biomatrix(selfies, joint, structure_codes=structure_codes, about={**(about or {}), **found})

    @classmethod
    def biomatrix(
        cls,
        selfies: Iterable[str],
        molecule: Iterable[str],
        *,
        structure_codes: int = 4096,
        about: Mapping[str, Any] | None = None,
    ) -> Vocabulary:
        """A vocabulary of the biomatrix style from lists of molecule tokens.

        Parameters
        ----------
        selfies : SELFIES tokens, such as '[=C]'
        molecule : joint tokens, such as '[=C 132]'
        structure_codes : size of the protein codebook
        about : where the tokens come from
        """
        return cls("biomatrix", presets.groups_of("biomatrix", selfies, molecule, structure_codes), about or {})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Vocabulary:
        """Read what `save` wrote: the file, or the folder that holds it.

        Raises
        ------
        InputError
            If there is no such file, or it is no vocabulary; the message names it.
        """
        file = Path(path) / _FILE if Path(path).is_dir() else Path(path)
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(record, dict) or set(record) != {"style", "groups", "about"}:
                raise InputError("expected the keys style, groups and about")
            return cls(**record)
        except OSError as error:
            raise InputError(f"{file}: cannot be read ({error.strerror})") from None
        except InputError as error:
            raise InputError(f"{file}: {error}") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{file}: not a vocabulary ({error})") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file."""
        record = {"style": self.style, "groups": self.groups, "about": self.about}
        write_whole(Path(path), json.dumps(record, indent=0, ensure_ascii=False).encode())

    # what is in it

    @property
    def forms(self) -> dict[str, Form]:
        """The kinds of stretches of this style."""
        return FORMS[self.style]

    @cached_property
    def tokens(self) -> list[str]:
        """All tokens, in order."""
        return [token for tokens in self.groups.values() for token in tokens]

    @cached_property
    def group_of(self) -> dict[str, str]:
        """The group of each token."""
        return {token: name for name, tokens in self.groups.items() for token in tokens}

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: object) -> bool:
        return token in self.group_of

    def descriptions(self) -> dict[str, str]:
        """Token -> the words that its embedding starts from; for codes and SELFIES the token itself."""
        return {t: describe(self.style, group, t) for group, tokens in self.groups.items() for t in tokens}

    @cached_property
    def molecule_codes(self) -> int:
        """Number of molecule codes that the joint tokens use."""
        return 1 + max((int(m[2]) for t in self.groups.get("molecule", ()) if (m := JOINT.fullmatch(t))), default=-1)

    def spellable(self, literal: str) -> bool:
        """Whether a literal outside the vocabulary still has one meaning, so that ordinary text can carry it."""
        return has_meaning(literal, self.molecule_codes)

    # text of it

    def wrap_sequence(self, sequence: str, *, unknown: Unknown = "error") -> str:
        """Amino acid letters to text: `<|prot_aa_start|><A M><A R><|prot_aa_end|>`, or `<|M|><|R|>`.

        `unknown`, here and in the other `wrap_` methods, says what to do with what the vocabulary lacks:

        - 'error': raise `TokensError` that names it, so that nothing is lost unnoticed;
        - 'spell': keep it as a literal, which a language model reads and writes as several tokens of ordinary text.
          Nothing is lost either, and `parse` reads it back.
        """
        return wrap(self, "protein" if self.style == "scimind" else "prot_aa", sequence, unknown)

    def wrap_nucleic(self, sequence: str, *, unknown: Unknown = "error") -> str:
        """Nucleotide letters to text: `<|nuc_na_start|><B A><B C><|nuc_na_end|>`, or `*|A|**|C|*`.

        Small letters are DNA, X and x unknown bases; scimind, which has capitals only, does not tell DNA from RNA and
        says N.
        """
        if self.style == "scimind":
            sequence = sequence.upper().replace("X", "N")
        return wrap(self, "nucleic" if self.style == "scimind" else "nuc_na", sequence, unknown)

    def wrap_structure(self, tokens: Tokens, *, anchors: AnchorText | None = None, unknown: Unknown = "error") -> str:
        """Structure tokens of a polymer to text, one per residue: `<|prot_3d_start|><S 4012><|prot_3d_end|>`.

        Side chains or conformers follow in a stretch of their own where the vocabulary has tokens for them. `anchors`
        is as for `Tokens.to_text`; by default inline where the vocabulary has tokens for them.
        """
        if tokens.modality == "molecule":
            raise TokensError(f"{tokens.where}: molecule tokens; wrap_molecule takes them")
        return wrap_streams(self, tokens, anchors, unknown)

    def wrap_selfies(self, selfies: str | Tokens, *, unknown: Unknown = "error") -> str:
        """A SELFIES string, or that of molecule tokens, to text: `<|mol_sfi_start|>[C][#N]<|mol_sfi_end|>`."""
        where, text = ("", selfies) if isinstance(selfies, str) else (selfies.id, selfies.selfies)
        if text is None:
            raise TokensError(f"{where or 'tokens'}: protein tokens have no SELFIES")
        return wrap(self, "mol_sfi", [token for token, _ in selfies_atoms(text)], unknown, where)

    def wrap_smiles(self, smiles: str, *, unknown: Unknown = "error") -> str:
        """A SMILES string to text: `<|mol_smi_start|>CC#N<|mol_smi_end|>`, or `{|C|}{|C|}`."""
        if self.style == "scimind":
            return wrap(self, "smiles", smiles, unknown)
        form = self.forms["mol_smi"]
        if not smiles or re.search(r"\s|<\|", smiles):
            raise TokensError(f"not a SMILES string: {smiles[:60]!r}")
        return f"{form.start}{smiles}{form.end}"

    def wrap_molecule(self, tokens: Tokens, *, anchors: AnchorText | None = None, unknown: Unknown = "error") -> str:
        """Joint tokens of a molecule to text: `<|mol_3d_start|>[H 3][C 0][#C 6]<|mol_3d_end|>`."""
        if tokens.modality != "molecule":
            raise TokensError(f"{tokens.where}: {tokens.modality} tokens; wrap_structure takes them")
        return wrap_streams(self, tokens, anchors, unknown)

    def parse(self, text: str, *, model: str = "", id: str = "", frame: str = "", spacing: int = 6) -> Parsed:
        """Read the output of a language model: what is whole, and exactly what is wrong with the rest.

        Never raises on bad text. `model`, `id` and `frame` are written into the `Tokens` that are found: give a frame
        where the text is of one complex. `spacing` is that of anchors, see `Tokens.from_text`.
        """
        return parse(self, text, model=model, id=id, frame=frame, spacing=spacing)

    def unwrap(self, text: str) -> Tokens | str:
        """Inverse of one `wrap_` call: `Tokens` of a structure, the letters of a sequence, SELFIES or SMILES.

        Raises
        ------
        TokensError
            If the text is anything else; the message is the first thing wrong with it.
        """
        found = self.parse(text)
        if found.problems:
            raise TokensError(str(found.problems[0]))
        if [(i.start, i.stop) for i in found.items] != [(0, len(text))]:
            raise TokensError(f"not one wrapped sequence, structure or molecule: {text[:60]!r}")
        return found.items[0].value

    def count(self, text: str) -> Counter[str]:
        """Tokens by group of what one `wrap_` call gave; `spelled` are those that it lacks, `text_characters` text."""
        return count(self, text)

    def quote(self, text: str) -> str:
        """Prose in which no tokenizer finds one of our tokens: an invisible joiner breaks each literal.

        For tools that call the tokenizer on whole texts. `structok.lm.Encoder` needs it only for text of others.
        """
        return quote(text, self.style, self.group_of)


@cache
def _preset(style: Style) -> Vocabulary:
    return Vocabulary(style, *presets.shipped(style))
