"""Reading what a language model wrote: every whole structure, and exactly what is wrong with the rest."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from structok.lm.forms import Form
from structok.tokens import Tokens, selfies_atoms

if TYPE_CHECKING:
    from structok.lm.vocabulary import Vocabulary

__all__ = ["Item", "Parsed", "Problem", "parse"]

CONTROL = re.compile(r"<\|(mol_smi|mol_sfi|mol_3d|prot_aa|prot_3d)_(start|end)\|>")
# how any of our tokens may begin, for text that stops in the middle of one
_BEGUN = re.compile(r"<(S( -?[0-9]*)?|A( [^<>\s]?)?)?|\[[^\[\]]*|<\|\w*\|?|[*{]\|?[^\s|]?\|?|<\|?[^\s|]?\|?")
_LOOSE = re.compile(r"(?:<S [0-9]+>|<A \S>|\[[^\[\]\s]+ (?:-1|[0-9]+)\])+")


@dataclass(frozen=True)
class Item:
    """One stretch that was found.

    Parameters
    ----------
    kind : 'prot_3d', 'mol_3d', 'prot_aa', 'mol_sfi', 'mol_smi'; or 'protein', 'nucleic', 'smiles'
    value : `Tokens` of a structure, else letters, SELFIES or SMILES
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
    """Something wrong: its kind, where it is in the text, and a line that says it."""

    kind: Literal["cut off", "unclosed", "unopened", "empty", "foreign", "unknown", "code", "loose"]
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


def parse(vocabulary: Vocabulary, text: str, *, model: str = "", id: str = "") -> Parsed:
    """See `Vocabulary.parse`."""
    items: list[Item] = []
    problems: list[Problem] = []
    read = _read_wrapped if vocabulary.style == "biomatrix" else _read_bare
    for found in read(vocabulary, text, model, id):
        (items if isinstance(found, Item) else problems).append(found)  # type: ignore[arg-type]
    return Parsed(tuple(items), tuple(problems))


def _read_wrapped(vocabulary: Vocabulary, text: str, model: str, id: str) -> Iterator[Item | Problem]:
    at = 0
    while True:
        control = CONTROL.search(text, at)
        yield from _loose(vocabulary, text, at, control.start() if control else len(text))
        if control is None:
            tail = text[text.rfind("<|", at) :] if "<|" in text[at:] else ""
            if tail and re.fullmatch(r"<\|(?:mol|prot)_\w*\|?", tail):
                yield Problem("cut off", len(text) - len(tail), f"the text ends inside a control token: {tail!r}")
            return
        form = vocabulary.forms[control[1]]
        at = control.end()
        if control[2] == "end":
            yield Problem("unopened", control.start(), f"{control[0]} without its {form.start}")
            continue
        after = CONTROL.search(text, at)
        stop = after.start() if after else len(text)
        closed = after is not None and after[0] == form.end
        literals, problems = _tokens(vocabulary, form, text, at, stop, cut=after is None)
        if not closed:
            if after is not None:
                problems.append(Problem("unclosed", stop, f"{after[0]} comes before {form.end}"))
            elif not any(p.kind == "cut off" for p in problems):
                problems.append(Problem("cut off", stop, f"the text ends before {form.end}"))
        elif at == stop:
            problems.append(Problem("empty", at, f"nothing between {form.start} and {form.end}"))
        first = min((p.position for p in problems), default=stop)
        good = [(i, t) for i, t in literals if i < first]
        value, wrong = _value(form, good, model, id)
        problems += wrong
        end = after.end() if closed and after else stop
        if value is not None:
            yield Item(form.kind, value, control.start(), end, whole=not problems)
        yield from sorted(problems, key=lambda p: p.position)
        at = end


def _tokens(
    vocabulary: Vocabulary, form: Form, text: str, at: int, stop: int, *, cut: bool
) -> tuple[list[tuple[int, str]], list[Problem]]:
    """Tokens of one stretch with their positions; `cut` when nothing follows the stretch."""
    problems: list[Problem] = []
    if form.pattern is None:
        if cut:
            stop = min(stop, stop if (angle := text.find("<", at)) < 0 else angle)  # half a control token
        words = text[at:stop].split(maxsplit=1)
        if len(words) > 1:
            problems.append(Problem("foreign", text.index(words[1], at), f"not {form.kind}: {words[1][:40]!r}"))
        return ([(at, words[0])] if words else []), problems
    literals: list[tuple[int, str]] = []
    while at < stop:
        if match := form.pattern.match(text, at, stop):
            literals.append((at, match[0]))
            if match[0] not in vocabulary and not vocabulary.spellable(match[0]):
                problems.append(Problem("unknown", at, f"{match[0]} is not in the vocabulary"))
            at = match.end()
            continue
        following = form.pattern.search(text, at, stop)
        end = following.start() if following else stop
        if fragment := text[at:end].strip():
            if cut and following is None and _BEGUN.fullmatch(fragment):
                problems.append(Problem("cut off", at, f"the text ends inside a token: {fragment!r}"))
            else:
                problems.append(Problem("foreign", at, f"not {form.kind}: {fragment[:40]!r}"))
        at = end
    return literals, problems


def _value(
    form: Form, literals: list[tuple[int, str]], model: str, id: str
) -> tuple[Tokens | str | None, list[Problem]]:
    """What the tokens of a stretch stand for; None where nothing could be read."""
    if not literals:
        return None, []
    if form.kind == "prot_3d":
        return Tokens(np.array([int(t[3:-1]) for _, t in literals]), "protein", model, id=id), []
    if form.kind != "mol_3d":
        joined = "".join(t for _, t in literals)
        return (form.pattern.sub(r"\1", joined) if form.kind == "prot_aa" and form.pattern else joined), []
    codes = [int(t[:-1].rpartition(" ")[2]) for _, t in literals]
    owners = selfies_atoms("".join(f"{t.partition(' ')[0]}]" for _, t in literals))
    wrong = [n for n, (_, owns) in enumerate(owners) if owns != (codes[n] >= 0)]
    problems = []
    for n in wrong:
        position, literal = literals[n]
        says = "needs a code" if owners[n][1] else "owns no atom here, its code is -1"
        problems.append(Problem("code", position, f"{literal} {says}"))
    owners = owners[: wrong[0] if wrong else None]
    if not owners:
        return None, problems
    own = np.array([code for code, (_, owns) in zip(codes, owners) if owns], dtype=np.int64)
    return Tokens(own, "molecule", model, id=id, selfies="".join(t for t, _ in owners)), problems


def _loose(vocabulary: Vocabulary, text: str, start: int, stop: int) -> Iterator[Problem]:
    """Runs of structure tokens that no control token announces. A lone SELFIES token may be prose."""
    for run in _LOOSE.finditer(text, start, stop):
        first = run[0][: re.search(r"[>\]]", run[0]).end()]  # type: ignore[union-attr]
        if first in vocabulary:
            yield Problem("loose", run.start(), f"{first} outside of control tokens")


def _read_bare(vocabulary: Vocabulary, text: str, model: str, id: str) -> Iterator[Item | Problem]:
    patterns = {f.kind: f.pattern for f in vocabulary.forms.values() if f.pattern}
    at = 0
    while True:
        # the stretch that begins first; the forms share no first two characters
        matches = [(m.start(), kind) for kind, p in patterns.items() if (m := p.search(text, at))]
        if not matches:
            break
        start, kind = min(matches)
        literals, problems, at = [], [], start
        while match := patterns[kind].match(text, at):
            literals.append(match[1])
            if match[0] not in vocabulary:
                problems.append(Problem("unknown", at, f"{match[0]} is not in the vocabulary"))
            at = match.end()
        good = problems[0].position if problems else at
        fragment = text[at:]
        if re.fullmatch(r"[<*{]\|?[^\s|]?\|?", fragment):
            problems.append(Problem("cut off", at, f"the text ends inside a token: {fragment!r}"))
        width = (at - start) // len(literals)
        if value := "".join(literals[: (good - start) // width]):
            yield Item(kind, value, start, at, whole=not problems)
        yield from problems
