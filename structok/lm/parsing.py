"""Reading what a language model wrote: every whole structure, and exactly what is wrong with the rest."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from structok.errors import TokensError
from structok.lm.forms import FORMS, Form, Style
from structok.lm.parsed import Item, Parsed, Problem, Words
from structok.lm.realign import Realigned, realign
from structok.streams import place_anchors
from structok.tokens import Tokens, selfies_atoms

__all__ = ["control_pattern", "parse"]

# how any of our tokens may begin, for text that stops in the middle of one
_BEGUN = re.compile(r"<([A-Z]( [^<>\s]*)?)?|\[[^\[\]]*|<\|\w*\|?|[*{]\|?[^\s|]?\|?|<\|?[^\s|]?\|?")
_LOOSE = re.compile(r"(?:<[A-Z] (?:[0-9]+|[^<>\s])>|\[[^\[\]\s]+ (?:-1|[0-9]+)\])+")


@cache
def control_pattern(style: Style) -> re.Pattern[str]:
    """Control tokens of a style: (kind, 'start' or 'end')."""
    kinds = "|".join(form.kind for form in FORMS[style].values() if form.start)
    return re.compile(rf"<\|({kinds})_(start|end)\|>")


def parse(vocabulary: Words, text: str, *, model: str = "", id: str = "", frame: str = "", spacing: int = 6) -> Parsed:
    """See `Vocabulary.parse`."""
    items: list[Item] = []
    problems: list[Problem] = []
    named = {"model": model, "id": id, "frame": frame}
    read = (
        _read_bare(vocabulary, text)
        if vocabulary.style == "scimind"
        else _read_wrapped(vocabulary, text, named, spacing)
    )
    for found in read:
        if isinstance(found, Problem):
            problems.append(found)
        elif isinstance(found, _Beside):
            _pair(found, items, problems, text)
        else:
            items.append(found)
    return Parsed(tuple(items), tuple(problems))


@dataclass(frozen=True)
class _Beside:
    """A stretch of codes that belongs to the structure before it."""

    form: Form
    codes: list[int]
    start: int
    stop: int


def _pair(found: _Beside, items: list[Item], problems: list[Problem], text: str) -> None:
    """Side chains or conformers join the structure that they follow directly."""
    last = items[-1] if items else None
    value = last.value if last else None
    fits = last and last.whole and isinstance(value, Tokens) and value.modality == found.form.modality
    if not (fits and last and isinstance(value, Tokens)) or text[last.stop : found.start].strip():
        problems.append(Problem("unpaired", found.start, f"{found.form.kind} without its structure before it"))
    elif getattr(value, found.form.stream) is not None or len(value) != len(found.codes):
        problems.append(
            Problem("unpaired", found.start, f"{len(found.codes)} {found.form.stream} for {len(value)} codes")
        )
    else:
        joined: dict[str, Any] = {found.form.stream: np.array(found.codes)}
        items[-1] = replace(last, value=replace(value, **joined), stop=found.stop)


def _read_wrapped(
    vocabulary: Words, text: str, named: dict[str, str], spacing: int
) -> Iterator[Item | _Beside | Problem]:
    at, controls = 0, control_pattern(vocabulary.style)
    while True:
        control = controls.search(text, at)
        yield from _loose(vocabulary, text, at, control.start() if control else len(text))
        if control is None:
            tail = text[text.rfind("<|", at) :] if "<|" in text[at:] else ""
            if tail and re.fullmatch(r"<\|(?:mol|prot|nuc)_\w*\|?", tail):
                yield Problem("cut off", len(text) - len(tail), f"the text ends inside a control token: {tail!r}")
            return
        form = vocabulary.forms[control[1]]
        at = control.end()
        if control[2] == "end":
            yield Problem("unopened", control.start(), f"{control[0]} without its {form.start}")
            continue
        after = controls.search(text, at)
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
        value, wrong = _value(form, good, named, spacing)
        problems += wrong
        end = after.end() if closed and after else stop
        if isinstance(value, list):
            if not problems:
                yield _Beside(form, value, control.start(), end)
        elif value is not None:
            whole = all(p.kind == "realigned" for p in problems)
            yield Item(form.kind, value, control.start(), end, whole=whole)
        yield from sorted(problems, key=lambda p: p.position)
        at = end


def _tokens(
    vocabulary: Words, form: Form, text: str, at: int, stop: int, *, cut: bool
) -> tuple[list[tuple[int, str]], list[Problem]]:
    """Tokens of one stretch with their positions; `cut` when nothing follows the stretch."""
    problems: list[Problem] = []
    if form.any is None:
        if cut:
            stop = min(stop, stop if (angle := text.find("<", at)) < 0 else angle)  # half a control token
        words = text[at:stop].split(maxsplit=1)
        if len(words) > 1:
            problems.append(Problem("foreign", text.index(words[1], at), f"not {form.kind}: {words[1][:40]!r}"))
        return ([(at, words[0])] if words else []), problems
    literals: list[tuple[int, str]] = []
    while at < stop:
        if match := form.any.match(text, at, stop):
            literals.append((at, match[0]))
            if match[0] not in vocabulary and not vocabulary.spellable(match[0]):
                problems.append(Problem("unknown", at, f"{match[0]} is not in the vocabulary"))
            at = match.end()
            continue
        following = form.any.search(text, at, stop)
        end = following.start() if following else stop
        if fragment := text[at:end].strip():
            if cut and following is None and _BEGUN.fullmatch(fragment):
                problems.append(Problem("cut off", at, f"the text ends inside a token: {fragment!r}"))
            else:
                problems.append(Problem("foreign", at, f"not {form.kind}: {fragment[:40]!r}"))
        at = end
    return literals, problems


def _value(
    form: Form, literals: list[tuple[int, str]], named: dict[str, str], spacing: int
) -> tuple[Tokens | str | list[int] | None, list[Problem]]:
    """What a stretch stands for, bare codes where they belong to a structure; None where nothing was read."""
    if not literals:
        return None, []
    if form.stream == "codes":
        return _structure(form, literals, named, spacing)
    if form.stream:
        return [int(t[3:-1]) for _, t in literals], []
    joined = "".join(t for _, t in literals)
    return (form.pattern.sub(r"\1", joined) if form.pattern and form.token != "{}" else joined), []


def _structure(
    form: Form, literals: list[tuple[int, str]], named: dict[str, str], spacing: int
) -> tuple[Tokens | None, list[Problem]]:
    """Tokens of one stretch, with the anchors between its codes."""
    between = [(n, i, t) for n, (i, t) in enumerate(literals) if form.inline and form.inline.fullmatch(t)]
    own = [(i, t) for i, t in literals if not (form.inline and form.inline.fullmatch(t))]
    if not own:
        return None, []
    codes = [int(t[:-1].rpartition(" ")[2]) for _, t in own]
    fields: dict[str, Any] = {}
    problems: list[Problem] = []
    owns = [True] * len(own)
    if form.modality == "molecule":
        owners = selfies_atoms("".join(f"{t.partition(' ')[0]}]" for _, t in own))
        owns = [owner for _, owner in owners]
        wrong = [n for n, owner in enumerate(owns) if owner != (codes[n] >= 0)]
        for n in wrong:
            position, literal = own[n]
            says = "needs a code" if owns[n] else "owns no atom here, its code is -1"
            problems.append(Problem("code", position, f"{literal} {says}"))
        owners, owns = owners[: wrong[0] if wrong else None], owns[: wrong[0] if wrong else None]
        if not owners:
            return None, problems
        fields["selfies"], spacing = "".join(t for t, _ in owners), 1
    elif found := _realigned(codes, between, spacing):
        moved, between, said = found
        codes, spacing, owns = moved.codes, moved.spacing, [True] * len(moved.codes)
        problems += said
        # a lost code is no missing residue
        fields["mask"] = [code >= 0 or slot in set(moved.lost) for slot, code in enumerate(codes)]
    fields["codes"] = np.array([code for code, owner in zip(codes, owns) if owner], dtype=np.int64)
    try:
        fields |= _anchors(between, owns, spacing)
    except TokensError as error:
        problems.append(Problem("anchor", between[0][1], str(error)))
    return Tokens(**fields, modality=form.modality, **named), problems  # type: ignore[arg-type]


def _realigned(
    codes: list[int], between: list[tuple[int, int, str]], spacing: int
) -> tuple[Realigned, list[tuple[int, int, str]], list[Problem]] | None:
    """Codes at the slots that the anchors between them tell, those anchors there, and what was moved."""
    head = int(bool(between) and between[0][2].startswith("<R"))
    points = between[head:]
    places = [place - head - k for k, (place, _, _) in enumerate(points)]
    if len(set(places)) < len(places) or any(literal.startswith("<R") for _, _, literal in points):
        return None
    if not (found := realign(codes, places, spacing)):
        return None
    said = []
    for at, change in found.changes:
        _, position, literal = points[at]
        how = f"{abs(change)} code(s) {'missing' if change > 0 else 'too many'} before {literal}"
        said.append(Problem("realigned", position, f"{how}; what follows is at its slots again"))
    there = [(slot + head + k, i, text) for k, (slot, (_, i, text)) in enumerate(zip(found.slots, points))]
    return found, [*between[:head], *there], said


def _anchors(between: list[tuple[int, int, str]], owns: list[bool], spacing: int) -> dict[str, Any]:
    """Fields of anchors and radius, given as (place among all tokens of the stretch, position, literal)."""
    fields: dict[str, Any] = {}
    found = []
    for k, (place, _, literal) in enumerate(between):
        code = int(literal[3:-1])
        if literal[1] == "R":
            if k or place:
                raise TokensError(f"{literal} belongs to the beginning")
            fields["radius"] = code
        elif place - k < len(owns):  # not behind what could be read
            found.append((place - k, code))
    if found:
        slot_of, slot = [], 0
        for owner in owns:
            slot_of.append(slot if owner else -1)
            slot += owner
        fields |= place_anchors(found, slot_of, slot, spacing)
    return fields


def _loose(vocabulary: Words, text: str, start: int, stop: int) -> Iterator[Problem]:
    """Runs of structure tokens that no control token announces. A lone SELFIES token may be prose."""
    for run in _LOOSE.finditer(text, start, stop):
        first = run[0][: re.search(r"[>\]]", run[0]).end()]  # type: ignore[union-attr]
        if first in vocabulary:
            yield Problem("loose", run.start(), f"{first} outside of control tokens")


def _read_bare(vocabulary: Words, text: str) -> Iterator[Item | Problem]:
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
