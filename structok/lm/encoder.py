"""`Encoder`: text to ids in which only wrapped structure tokens count, and prose is prose."""

from __future__ import annotations

import json
import re
from functools import cached_property
from typing import TYPE_CHECKING, Any

from structok.errors import InputError
from structok.lm.parsing import control_pattern
from structok.lm.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

__all__ = ["Encoder", "backend_of"]


def backend_of(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """The `tokenizers` object inside a fast tokenizer; `InputError` for any other."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise InputError(f"{type(tokenizer).__name__} is not a fast tokenizer; load it with use_fast=True")
    return backend


class Encoder:
    """Encodes text with an extended tokenizer so that nobody's prose becomes structure.

    `tokenizer(text)` finds added tokens in any text, whatever surrounds them: '[C]' in a sentence or in a SMILES, or
    '<S 12>' in a question, become structure tokens. Here a structure token counts only in an unbroken run right
    behind the control token that announces it, and everything else gets the ids that the tokenizer gave before it
    was extended. Where a text holds no such literals, the ids are those of `tokenizer(text)`.

    Parameters
    ----------
    tokenizer : fast tokenizer that `extend_tokenizer` has extended
    vocabulary : what it was extended by

    Raises
    ------
    InputError
        If the tokenizer is not a fast one or lacks tokens of the vocabulary.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> None:
        self.vocabulary, self._backend = vocabulary, backend_of(tokenizer)
        found = {token: self._backend.token_to_id(token) for token in vocabulary.tokens}
        self._ids = {token: id for token, id in found.items() if id is not None}
        if missing := [token for token in vocabulary.tokens if token not in self._ids]:
            raise InputError(
                f"the tokenizer lacks {missing[0]} and {len(missing) - 1} more; extend_tokenizer adds them"
            )
        self._runs = {
            form.start: (re.compile(f"(?:{form.any.pattern})*"), form.any)
            for form in vocabulary.forms.values()
            if form.start and form.any
        }

    def __call__(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Ids of a text; structure tokens only where control tokens announce them.

        The scimind style has no control tokens: there each bracketed letter counts, as in `tokenizer(text)`.

        Parameters
        ----------
        text : prose, chat template, wrapped structures
        add_special_tokens : begin and end as the tokenizer does by itself
        """
        if self.vocabulary.style == "scimind":
            return self._announced.encode(text, add_special_tokens=add_special_tokens).ids
        # the runs are taken out, the rest is encoded as one text, and their ids are put back behind their control token
        skeleton, runs = [], []
        at = 0
        for control in control_pattern(self.vocabulary.style).finditer(text):
            skeleton.append(text[at : control.end()])
            at = control.end()
            if control[2] == "start":
                run, at = self._run(text, at, control[0])
                runs.append(run)
        skeleton.append(text[at:])
        waiting = iter(runs)
        starts = {self._ids[f.start] for f in self.vocabulary.forms.values() if f.start}
        out: list[int] = []
        for id in self._announced.encode("".join(skeleton), add_special_tokens=add_special_tokens).ids:
            out.append(id)
            if id in starts:
                out += next(waiting)
        return out

    def prose(self, text: str) -> list[int]:
        """Ids of a text that holds no structure, whatever it says: those of the tokenizer before it was extended."""
        return self.base.encode(text, add_special_tokens=False).ids

    def _run(self, text: str, at: int, start: str) -> tuple[list[int], int]:
        """Ids of the tokens that follow a control token, and where they end."""
        if start not in self._runs:
            return [], at
        many, one = self._runs[start]
        match = many.match(text, at)
        assert match is not None  # the empty run matches
        ids: list[int] = []
        for token in one.finditer(text, at, match.end()):
            id = self._ids.get(token[0])
            ids += self.prose(token[0]) if id is None else [id]
        return ids, match.end()

    @cached_property
    def base(self) -> Tokenizer:
        """The `tokenizers` object that finds no token of ours."""
        return _without(self._backend, set(self.vocabulary.tokens))

    @cached_property
    def _announced(self) -> Tokenizer:
        """Finds control tokens but nothing that needs one in front."""
        groups = self.vocabulary.groups
        return _without(
            self._backend, set(self.vocabulary.tokens) - set(groups["control"]) if "control" in groups else set()
        )


def _without(backend: Tokenizer, hidden: set[str]) -> Tokenizer:
    """A copy with the same ids that does not find these added tokens in text."""
    from tokenizers import Tokenizer

    # tokens flagged special, and only they, are passed over with encode_special_tokens
    record: dict[str, Any] = json.loads(backend.to_str())
    for token in record["added_tokens"]:
        token["special"] = token["content"] in hidden
    copy = Tokenizer.from_str(json.dumps(record))
    copy.encode_special_tokens = True
    copy.no_padding()
    copy.no_truncation()
    return copy
