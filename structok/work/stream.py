"""Structures to tokens and back, one after the other; a bad one is reported and skipped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from structok.errors import InputError, StructokError
from structok.read.inputs import Item, Reporter, Wanted
from structok.tokenizer import Search, Tokenizer
from structok.tokens import Tokens
from structok.work.frames import in_frames, placed
from structok.work.log import Log, located
from structok.zoo import default_models, load, modality_of, with_all_atoms

__all__ = ["Zoo", "decode_items", "encode_items", "wanted_of"]

_AHEAD = 8  # batches read ahead, so that structures of similar length meet in one batch


class Zoo:
    """Loads each model once: the one asked for, the one a record names, or the modality's default.

    `all_atom` adds side chains to models of backbones.
    """

    def __init__(self, model: str | None, device: str, *, all_atom: bool = False) -> None:
        self._model, self._device, self._all_atom = model, device, all_atom
        self._loaded: dict[str, Any] = {}

    def get(self, modality: str, named: str = "") -> Any:
        """Tokenizer for a modality; `named` is the model that made the tokens, if known."""
        if self._model:
            name = self._model
        elif named:
            name = named
        else:
            name = default_models().get(modality, "")
            if not name:
                raise InputError(f"no default {modality} model is shipped; name one with -m")
        if self._all_atom:
            name = with_all_atoms(name)
        if name not in self._loaded:
            loaded = load(name, device=self._device)
            if not isinstance(loaded, Tokenizer):
                raise InputError(f"{name} codes side chains only: put it behind a backbone model, chain-vq-4096+{name}")
            self._loaded[name] = loaded
        tokenizer = self._loaded[name]
        if tokenizer.modality != modality:
            raise InputError(f"{name} is a {tokenizer.modality} tokenizer, the input is a {modality}")
        return tokenizer


def wanted_of(model: str | None, all_atom: bool) -> Wanted:
    """What a model takes of a file; without one, proteins, and with `all_atom` nucleic acids too."""
    if model is None:
        return Wanted.polymers if all_atom else Wanted.backbones
    if modality_of(model) == "nucleic":
        return Wanted.nucleic
    return Wanted.proteins if all_atom or "+" in model else Wanted.backbones


def encode_items(
    items: Iterable[Item],
    zoo: Zoo,
    log: Reporter,
    *,
    batch_size: int,
    search: Search,
    eager: bool = True,
) -> Iterator[tuple[Item, Tokens]]:
    """(item, tokens) in input order; memory is bounded by a few batches. If `eager`, the first waits for no other."""
    size = batch_size * _AHEAD

    def encode(window: list[Item]) -> Iterator[tuple[Item, Tokens]]:
        try:
            tokenizer = zoo.get(window[0][0])
            tokenizer.settings(search)
        except InputError as error:  # a molecule for a protein model, or the other way; or a setting it does not know
            for _, source, _ in window:
                log.error(located(error, source), source)
            return
        try:
            encoded = tokenizer.encode_batch([s for _, _, s in window], batch_size=batch_size, search=search)
        except (StructokError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            if len(window) > 1:  # one of them is bad: find it
                half = len(window) // 2
                yield from encode(window[:half])
                yield from encode(window[half:])
            else:
                log.error(located(error, window[0][1]), window[0][1])
            return
        yield from zip(window, encoded)

    found = _by_windows(items, encode, lambda item: item[0], size, 1 if eager else size)
    yield from in_frames(found, zoo.get, log)


def decode_items(
    records: Iterable[Tokens | StructokError], zoo: Zoo, log: Log, *, label: str, batch_size: int, relax: bool
) -> Iterator[tuple[Tokens, Any]]:
    """(tokens, rebuilt structure) in input order; `label` names the token file in messages."""

    def good() -> Iterator[Tokens]:
        for record in records:
            if isinstance(record, StructokError):
                log.error(record)
            else:
                yield record

    def decode(part: list[Tokens]) -> list[Any]:
        tokenizer = zoo.get(part[0].modality, part[0].model)
        rebuilt = tokenizer.decode_batch(part, relax=relax)
        return placed(part, rebuilt, tokenizer)

    def rebuild(part: list[Tokens]) -> Iterator[tuple[Tokens, Any]]:
        try:
            yield from zip(part, decode(part))
        except StructokError:  # one of them is bad: find it
            for tokens in part:
                try:
                    yield tokens, decode([tokens])[0]
                except StructokError as error:
                    log.error(located(error, label))

    yield from log.track(_by_windows(good(), rebuild, lambda t: (t.modality, t.model), batch_size, 1), "decoding")


def _by_windows(items: Iterable[Any], work: Any, key: Any, size: int, most: int) -> Iterator[Any]:
    """Apply `work` to runs of items of the same key, `most` at a time, then twice as many, up to `size`."""
    window: list[Any] = []
    for item in items:
        if window and (key(item) != key(window[0]) or len(window) >= most):
            yield from work(window)
            window, most = [], min(2 * most, size)
        window.append(item)
    if window:
        yield from work(window)
