"""Counting molecule tokens in a stream, and the shortest list that covers a given share of what was seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from structok.errors import InputError
from structok.tokens import Tokens, selfies_atoms

__all__ = ["MoleculeCounts", "covering"]


@dataclass
class MoleculeCounts:
    """How often each SELFIES token and each joint token `[C 132]` occurs in the molecules added so far.

    Memory grows with the number of different tokens, not of molecules.
    """

    selfies: Counter[str] = field(default_factory=Counter)
    joint: Counter[str] = field(default_factory=Counter)
    molecules: int = 0

    def add(self, tokens: Tokens) -> None:
        """Count one tokenized molecule: its SELFIES tokens and its joint tokens."""
        if tokens.selfies is None:
            raise InputError(f"{tokens.id or 'tokens'}: {tokens.modality} tokens, but molecules are counted here")
        codes = iter(tokens.codes.tolist())
        for token, owns in selfies_atoms(tokens.selfies):
            if token == ".":
                continue
            self.selfies[token] += 1
            self.joint[f"{token[:-1]} {next(codes) if owns else -1}]"] += 1
        self.molecules += 1

    def add_selfies(self, selfies: str) -> None:
        """Count the tokens of a SELFIES string that carries no codes, such as one without hydrogens."""
        self.selfies.update(token for token, _ in selfies_atoms(selfies) if token != ".")

    def update(self, records: Iterable[Tokens]) -> MoleculeCounts:
        """Count every record of a stream; returns itself."""
        for tokens in records:
            self.add(tokens)
        return self


def covering(counts: Counter[str], share: float) -> list[str]:
    """The fewest tokens that make up at least `share` of all occurrences, most frequent first.

    Equal counts are ordered by the token itself, so that the list does not depend on the order of the data.

    Raises
    ------
    InputError
        If `share` is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise InputError(f"coverage {share}: a share above 0, at most 1")
    need, have = share * counts.total(), 0
    chosen = []
    for token, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if have >= need:
            break
        chosen.append(token)
        have += count
    return chosen
