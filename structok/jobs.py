"""What the commands do with many inputs: expand, read, encode, decode; a bad one is reported and skipped."""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

from structok.errors import InputError, StructokError
from structok.protein.reading import FORMATS
from structok.tokens import Tokens
from structok.zoo import list_models, load

__all__ = ["Log", "Zoo", "decode_items", "encode_items", "expand", "read_items"]

T = TypeVar("T")
Item = tuple[str, str, Any]  # modality, label for messages, structure

_SUFFIXES = {"protein": tuple(FORMATS), "molecule": (".sdf", ".mol", ".mol2")}
_DEFAULTS = {"protein": ("gcp-vqvae", "chain-vq-4096"), "molecule": ("molstructok",)}
_AHEAD = 8  # batches read ahead, so that structures of similar length meet in one batch


class Log:
    """Counts what worked and what failed, reports failures on stderr, and shows progress on a terminal."""

    def __init__(self, strict: bool = False) -> None:
        self.strict, self.done, self.failed = strict, 0, 0

    def error(self, error: StructokError) -> None:
        """Report one bad input; `--strict` makes it the last."""
        if self.strict:
            raise error
        self.failed += 1
        print(f"structok: error: {' '.join(str(error).split())}", file=sys.stderr)

    def track(self, items: Iterable[T], what: str) -> Iterator[T]:
        """Count items as done; a progress line on stderr when it is a terminal."""
        if not sys.stderr.isatty():
            for item in items:
                self.done += 1
                yield item
            return
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TimeElapsedColumn

        console = Console(stderr=True)
        columns = (SpinnerColumn(), "{task.description}", MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(what, total=None)
            for item in items:
                self.done += 1
                bar.advance(task)
                yield item

    def finish(self) -> None:
        """Exit with status 1 if anything failed."""
        if self.failed:
            print(f"structok: {self.done} done, {self.failed} failed", file=sys.stderr)
            sys.exit(1)


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
            shipped = [m for m in _DEFAULTS[modality] if m in list_models()]
            if not shipped:
                raise InputError(f"no default {modality} model is shipped; name one with -m")
            name = shipped[0]
        if name not in self._loaded:
            self._loaded[name] = load(name, device=self._device)
        tokenizer = self._loaded[name]
        if tokenizer.modality != modality:
            raise InputError(f"{name} is a {tokenizer.modality} tokenizer, the input is a {modality}")
        return tokenizer


def modality_of(path: str) -> str | None:
    """Modality by suffix."""
    suffix = Path(path.lower().removesuffix(".gz")).suffix
    return next((m for m, suffixes in _SUFFIXES.items() if suffix in suffixes), None)


def expand(inputs: Iterable[str], log: Log) -> Iterator[str]:
    """Files of folders (recursively) and globs, in sorted order; '-' stays."""
    for name in inputs:
        path = Path(name)
        if name == "-" or path.is_file():
            yield name
        elif path.is_dir():
            files = sorted(str(p) for p in path.rglob("*") if modality_of(p.name) and p.is_file())
            if not files:
                log.error(InputError(f"{name}: no structure files in this folder"))
            yield from files
        elif matches := sorted(glob.glob(name, recursive=True)):
            yield from matches
        else:
            log.error(InputError(f"{name}: no such file"))


def read_items(paths: Iterable[str], log: Log, *, chain: str | None, add_hs: bool) -> Iterator[Item]:
    """Chains and molecules of all files, one by one."""
    for path in paths:
        try:
            stream: IO[bytes] | None = None
            modality = modality_of(path)
            if path == "-":
                stream = sys.stdin.buffer
                modality = _sniff(stream)
            if modality == "protein":
                yield from _read_protein(stream or path, chain)
            elif modality == "molecule":
                yield from _read_molecules(stream or path, path, add_hs, log)
            else:
                known = " ".join(s for suffixes in _SUFFIXES.values() for s in suffixes)
                raise InputError(f"{path}: unknown suffix; known: {known} (.gz too)")
        except StructokError as error:
            log.error(error)


def _read_protein(source: Any, chain: str | None) -> Iterator[Item]:
    from structok.protein.structure import read_structure

    label = source if isinstance(source, str) else "stdin"
    for backbone in read_structure(source, chain):
        yield "protein", label, backbone


def _read_molecules(source: Any, path: str, add_hs: bool, log: Log) -> Iterator[Item]:
    from structok.molecule.conformer import read_molecules

    for name, mol in read_molecules(source, add_hs=add_hs):
        if isinstance(mol, StructokError):
            log.error(mol)
        else:
            mol.SetProp("_Name", name)  # the id of a record without a title
            yield "molecule", "stdin" if path == "-" else path, mol


def _sniff(stream: Any) -> str:
    """Molecule when the first block of stdin looks like a connection table, else protein."""
    head = stream.peek(1 << 16)[: 1 << 16]
    tables = (b"V2000", b"V3000", b"@<TRIPOS>")
    return "molecule" if any(mark in head for mark in tables) else "protein"


def encode_items(
    items: Iterable[Item], zoo: Zoo, log: Log, *, batch_size: int, closed_loop: bool | None, beam: int | None
) -> Iterator[tuple[Any, Tokens]]:
    """(structure, tokens) in input order; memory is bounded by a few batches."""

    def encode(window: list[Item]) -> Iterator[tuple[Any, Tokens]]:
        options = {"closed_loop": closed_loop, "beam": beam}
        tokenizer = zoo.get(window[0][0])
        structures = [s for _, _, s in window]
        try:
            yield from zip(structures, tokenizer.encode_batch(structures, batch_size=batch_size, **options))
        except StructokError:  # one of them is bad: find it
            for _, label, structure in window:
                try:
                    yield structure, tokenizer.encode(structure, **options)
                except StructokError as error:
                    log.error(_located(error, label))

    yield from log.track(_by_windows(items, encode, lambda item: item[0], batch_size * _AHEAD), "tokenizing")


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

    yield from log.track(_by_windows(good(), rebuild, lambda t: (t.modality, t.model), batch_size), "decoding")


def _by_windows(items: Iterable[Any], work: Any, key: Any, size: int) -> Iterator[Any]:
    """Apply `work` to runs of items of the same key, at most `size` at a time."""
    window: list[Any] = []
    for item in items:
        if window and (key(item) != key(window[0]) or len(window) >= size):
            yield from work(window)
            window = []
        window.append(item)
    if window:
        yield from work(window)


def _located(error: StructokError, label: str) -> StructokError:
    """The error with the file in front, unless it starts with it already."""
    text = str(error)
    return error if text.startswith(label) else type(error)(f"{label}: {text}")
