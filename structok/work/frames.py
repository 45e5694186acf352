"""Structures that lie in one frame: chains of one file, or a complex of several files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from structok.errors import StructokError
from structok.read.formats import MOLECULES, suffix_kind
from structok.tokens import Tokens
from structok.work.log import located

if TYPE_CHECKING:
    from structok.read.inputs import Item, Reporter
    from structok.work.tasks import Settings

__all__ = ["complex_items", "in_frames", "placed"]


def in_frames(
    encoded: Iterable[tuple[Item, Tokens]], tokenizer: Callable[[str, str], Any], log: Reporter
) -> Iterator[tuple[Item, Tokens]]:
    """Polymers of one file get anchors in one frame, so that they come back as they lay.

    Parameters
    ----------
    encoded : items and their tokens, those of one file one after the other
    tokenizer : of a modality and a model's name
    """
    for (source, name), found in groupby(encoded, lambda pair: (pair[0][1], pair[1].id)):
        first, *more = found
        if not more or first[1].chain is None:  # no chains of one structure
            yield from (first, *more)
            continue
        from structok.frame import share_frame

        group = [first, *more]
        entities = [(item[2], tokens, tokenizer(tokens.modality, tokens.model)) for item, tokens in group]
        try:
            shared = share_frame(entities, name or "complex")
        except StructokError as error:  # each in a frame of its own then
            log.error(located(error, source), source)
            yield from group
        else:
            yield from ((item, tokens) for (item, _), tokens in zip(group, shared))


def complex_items(groups: Iterable[Sequence[str]], settings: Settings, log: Reporter) -> Iterator[tuple[Item, Tokens]]:
    """(item, tokens) of complexes, each of files that lie in one frame, with the ligands of the structure files."""
    from structok.complex import read_complex
    from structok.frame import encode_complex
    from structok.zoo import default_models, modality_of

    models: dict[str, Any] = dict(default_models())
    if settings.model:
        models[modality_of(settings.model)] = settings.model
    for files in groups:
        source = files[0]

        def skipped(error: StructokError, source: str = source) -> None:
            log.error(located(error, source), source)

        try:
            complex = read_complex(*files, ligands=settings.ligands, all_atom=settings.all_atom)
            for note in complex.notes:
                log.note(note, source)
            found = encode_complex(
                complex, models=models, device=settings.device, skipped=skipped, search=settings.search
            )
        except StructokError as error:
            skipped(error)
            continue
        if len(found) == 1 and suffix_kind(source) in MOLECULES:
            found = [_alone(found[0])]
        yield from (((tokens.modality, source, None), tokens) for tokens in found)


def _alone(tokens: Tokens) -> Tokens:
    """Without a frame, which says nothing of a single molecule."""
    from dataclasses import replace

    return replace(tokens.without_anchors(), frame="")


def placed(many: Sequence[Tokens], rebuilt: Sequence[Any], tokenizer: Any) -> list[Any]:
    """Structures where their anchors say, if they share a frame."""
    if not any(tokens.frame for tokens in many):
        return list(rebuilt)
    from structok.frame import place

    return [place(t, s, tokenizer) if t.frame else s for t, s in zip(many, rebuilt)]
