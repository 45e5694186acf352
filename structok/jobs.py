"""What the commands do with many inputs: encode, decode, count; a bad one is reported and skipped."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from structok.errors import InputError, StructokError
from structok.read.inputs import Item, Reporter
from structok.structure import Note
from structok.tokens import Tokens
from structok.zoo import list_models, load

__all__ = ["Log", "Zoo", "decode_items", "default_models", "encode_items", "progress"]

T = TypeVar("T")

_DEFAULTS = {"protein": ("gcp-vqvae", "chain-vq-4096"), "molecule": ("molstructok",)}
_AHEAD = 8  # batches read ahead, so that structures of similar length meet in one batch


class Log:
    """Counts what worked and what failed, reports failures on stderr, and shows progress on a terminal."""

    def __init__(self, strict: bool = False, quiet: bool = False) -> None:
        self.strict, self.quiet, self.done, self.failed = strict, quiet, 0, 0

    def error(self, error: StructokError, source: str = "") -> None:
        """Report one bad input, `source`; `--strict` makes it the last."""
        if self.strict:
            raise error
        self.failed += 1
        print(f"structok: error: {' '.join(str(error).split())}", file=sys.stderr)

    def note(self, note: Note, source: str) -> None:
        """Say what was left out or invented, one line, unless it is routine or `quiet`."""
        if not (note.routine or self.quiet):
            print(f"structok: {source}: {note}", file=sys.stderr)

    def track(self, items: Iterable[T], what: str) -> Iterator[T]:
        """Count items as done; a progress line on stderr when it is a terminal."""
        with progress(what) as advance:
            for item in items:
                self.done += 1
                advance(1)
                yield item

    def finish(self) -> None:
        """Exit with status 1 if anything failed."""
        if self.failed:
            print(f"structok: {self.done} done, {self.failed} failed", file=sys.stderr)
            sys.exit(1)


@contextmanager
def progress(what: str, total: int | None = None, done: int = 0) -> Iterator[Callable[[int], None]]:
    """A function that is told of each few more; on a terminal it shows count and rate, and with a total the ETA."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    import rich.progress as show
    from rich.console import Console

    columns: list[str | show.ProgressColumn] = [show.SpinnerColumn(), "{task.description}", show.MofNCompleteColumn()]
    columns += [show.TextColumn("{task.fields[rate]}"), show.TimeElapsedColumn()]
    if total is not None:
        columns += ["left", show.TimeRemainingColumn()]
    began, count = time.monotonic(), 0
    # tasks may take minutes: the speed is that of the last hour
    with show.Progress(*columns, console=Console(stderr=True), transient=True, speed_estimate_period=3600) as bar:
        task = bar.add_task(what, total=total, completed=done, rate="")

        def advance(more: int) -> None:
            nonlocal count
            count += more
            bar.update(task, advance=more, rate=f"{count / max(time.monotonic() - began, 1e-3):.1f}/s")

        yield advance


class Zoo:
    """Loads each model once: the one asked for, the one a record names, or the modality's default."""

    def __init__(self, model: str | None, device: str) -> None:
        self._model, self._device = model, device
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
        if name not in self._loaded:
            self._loaded[name] = load(name, device=self._device)
        tokenizer = self._loaded[name]
        if tokenizer.modality != modality:
            raise InputError(f"{name} is a {tokenizer.modality} tokenizer, the input is a {modality}")
        return tokenizer


def default_models() -> dict[str, str]:
    """Modality -> the shipped model that is used unless one is named."""
    shipped = list_models()
    found = {modality: [m for m in names if m in shipped] for modality, names in _DEFAULTS.items()}
    return {modality: names[0] for modality, names in found.items() if names}


def encode_items(
    items: Iterable[Item],
    zoo: Zoo,
    log: Reporter,
    *,
    batch_size: int,
    options: Mapping[str, Any],
    eager: bool = True,
) -> Iterator[tuple[Item, Tokens]]:
    """(item, tokens) in input order; memory is bounded by a few batches. If `eager`, the first waits for no other.

    `options` go to `encode_batch`.
    """
    size = batch_size * _AHEAD

    def encode(window: list[Item]) -> Iterator[tuple[Item, Tokens]]:
        try:
            tokenizer = zoo.get(window[0][0])
            if "rate_weight" in options and tokenizer.modality != "protein":
                raise InputError(f"{tokenizer.name} knows no rate weight")
        except InputError as error:  # a molecule for a protein model, or the other way
            for _, source, _ in window:
                log.error(_located(error, source), source)
            return
        try:
            encoded = tokenizer.encode_batch([s for _, _, s in window], batch_size=batch_size, **options)
        except (StructokError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            if len(window) > 1:  # one of them is bad: find it
                half = len(window) // 2
                yield from encode(window[:half])
                yield from encode(window[half:])
            else:
                log.error(_located(error, window[0][1]), window[0][1])
            return
        yield from zip(window, encoded)

    yield from _by_windows(items, encode, lambda item: item[0], size, 1 if eager else size)


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
        options = {"relax": relax} if part[0].modality == "molecule" else {}
        return tokenizer.decode_batch(part, **options)

    def rebuild(part: list[Tokens]) -> Iterator[tuple[Tokens, Any]]:
        try:
            yield from zip(part, decode(part))
        except StructokError:  # one of them is bad: find it
            for tokens in part:
                try:
                    yield tokens, decode([tokens])[0]
                except StructokError as error:
                    log.error(_located(error, label))

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


def _located(error: Exception, label: str) -> StructokError:
    """The error with the file in front, unless it starts with it already."""
    text = str(error)
    if not isinstance(error, StructokError):
        return InputError(f"{label}: {type(error).__name__}: {text} (a bug?)")
    return error if text.startswith(label) else type(error)(f"{label}: {text}")
