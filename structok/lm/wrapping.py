"""Text made of a vocabulary's tokens: what the `wrap_` methods of `Vocabulary` do."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

from structok.errors import InputError, TokensError
from structok.lm.parsed import Words
from structok.tokens import AnchorText, Tokens

__all__ = ["Unknown", "count", "wrap", "wrap_streams"]

Unknown = Literal["error", "spell"]

_STRETCH = re.compile(r"<\|(\w+)_start\|>(.*?)<\|\1_end\|>")


def wrap(words: Words, kind: str, parts: Iterable[Any], unknown: Unknown, where: str = "") -> str:
    """Letters, characters or tokens as one stretch."""
    token = words.forms[kind].token if kind in words.forms else ""
    return _checked(words, kind, [token.format(part) for part in parts], unknown, where)


def wrap_streams(words: Words, tokens: Tokens, anchors: AnchorText | None, unknown: Unknown) -> str:
    """The codes of a record, and what belongs to them as far as the vocabulary has tokens for it."""
    how: AnchorText = anchors or ("inline" if "anchors" in words.groups else "none")
    stretches = {m[1]: m[2] for m in _STRETCH.finditer(tokens.to_text(anchors=how))}
    kinds = [kind for n, kind in enumerate(stretches) if n == 0 or kind in words.forms]
    literals = {k: _split(words, k, stretches[k], tokens.id) for k in kinds}
    return "".join(_checked(words, kind, literals[kind], unknown, tokens.id) for kind in kinds)


def _split(words: Words, kind: str, body: str, where: str) -> list[str]:
    form = words.forms.get(kind)
    if not form or not form.any:
        return []
    literals = [m[0] for m in form.any.finditer(body)]
    if len("".join(literals)) < len(body):  # a number of more digits than any vocabulary has
        raise TokensError(f"{where or 'text'}: {form.any.sub('', body)[:60]} means nothing in the vocabulary")
    return literals


def _checked(words: Words, kind: str, literals: list[str], unknown: Unknown, where: str) -> str:
    where = f"{where or 'text'}: "
    if kind not in words.forms:
        raise InputError(f"the {words.style} vocabulary has no tokens for {kind}")
    if unknown not in ("error", "spell"):
        raise InputError(f"unknown={unknown!r}: 'error' or 'spell'")
    form = words.forms[kind]
    if not literals:
        raise TokensError(f"{where}nothing to write as {kind}")
    for i, literal in enumerate(literals):
        if literal in words or literal == ".":
            continue
        if unknown == "error":
            raise TokensError(f"{where}{literal} at {i} is not in the vocabulary; unknown='spell' keeps it as text")
        if not words.spellable(literal):
            raise TokensError(f"{where}{literal} at {i} means nothing in the {words.style} vocabulary")
    return f"{form.start}{''.join(literals)}{form.end}"


def count(words: Words, text: str) -> Counter[str]:
    """See `Vocabulary.count`."""
    counts: Counter[str] = Counter()
    stretches = [(m[1], m[2]) for m in _STRETCH.finditer(text)] or [("", text)]
    for kind, body in stretches:
        counts["control"] += 2 if kind else 0
        found = [words.forms[kind]] if kind else [f for f in words.forms.values() if f.any and f.any.match(body)]
        for form in found:
            if form.any is None:
                counts["text_characters"] += len(body)
            else:
                counts.update(words.group_of.get(m[0], "spelled") for m in form.any.finditer(body))
    return +counts
