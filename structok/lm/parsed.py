"""What parsing needs, and what it finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from structok.lm.forms import Form, Style
from structok.tokens import Tokens

__all__ = ["Item", "Parsed", "Problem", "Words"]


class Words(Protocol):
    """What parsing needs of a `Vocabulary`."""

    @property
    def style(self) -> Style: ...

    @property
    def groups(self) -> Mapping[str, tuple[str, ...]]: ...

    @property
    def group_of(self) -> dict[str, str]: ...

    @property
    def forms(self) -> dict[str, Form]: ...

    def __contains__(self, token: object) -> bool: ...

    def spellable(self, literal: str) -> bool: ...


@dataclass(frozen=True)
class Item:
    """One stretch that was found.

    Parameters
    ----------
    kind : 'prot_3d', 'nuc_3d', 'mol_3d', 'prot_aa', 'nuc_na', 'mol_sfi', 'mol_smi'; or 'protein', 'nucleic', 'smiles'
    value : `Tokens` of a structure, with the side chains or conformers that follow it; else letters, SELFIES or SMILES
    start, stop : where it stands in the text, control tokens included
    whole : False where only what precedes the first fault could be read
    """

    kind: str
    value: Tokens | str
    start: int
    stop: int
    whole: bool


@dataclass(frozen=True)
class Problem:
    """Something wrong: its kind, where it is in the text, and a line that says it.

    All but 'realigned' leave a structure that is not whole: there, codes were lost or are too many between two anchors,
    and what follows is back at its slots.
    """

    kind: Literal[
        "cut off",
        "unclosed",
        "unopened",
        "empty",
        "foreign",
        "unknown",
        "code",
        "anchor",
        "realigned",
        "unpaired",
        "loose",
    ]
    position: int
    message: str

    def __str__(self) -> str:
        return f"{self.message} (character {self.position})"


@dataclass(frozen=True)
class Parsed:
    """What `Vocabulary.parse` found, in the order of the text."""

    items: tuple[Item, ...]
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return not self.problems

    @property
    def structures(self) -> list[Tokens]:
        """The whole structures: proteins and molecules that a tokenizer decodes."""
        return [i.value for i in self.items if i.whole and isinstance(i.value, Tokens)]

    @property
    def partial(self) -> list[Tokens]:
        """The beginnings of structures that were cut off or went wrong."""
        return [i.value for i in self.items if not i.whole and isinstance(i.value, Tokens)]
