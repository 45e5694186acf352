"""Batches of similar length, so that little of a padded batch is padding, and threads to work on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from structok.errors import InputError

__all__ = ["by_length", "in_batches", "in_threads"]

Part = TypeVar("Part")


def by_length(lengths: Sequence[int], batch_size: int, *, most: int | None = None) -> list[list[int]]:
    """Indices in batches of at most `batch_size`, shortest first; at most `most` padded slots in a batch.

    An item longer than `most` is a batch of its own.

    Raises
    ------
    InputError
        If `batch_size` is below 1.
    """
    if batch_size < 1:
        raise InputError(f"batch size must be at least 1, not {batch_size}")
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        last = batches[-1] if batches else None
        full = last is None or len(last) == batch_size
        if full or (most is not None and (len(last or ()) + 1) * lengths[i] > most):
            batches.append([])
        batches[-1].append(i)
    return batches


def in_batches(
    work: Callable[[list[int]], Any],
    lengths: Sequence[int],
    batch_size: int,
    *,
    most: int | None = None,
    several: bool = False,
) -> list[Any]:
    """Results of `work` on batches of similar length, put back in order.

    Parameters
    ----------
    work : takes the places of a batch and gives a row for each, which is cut to its length: padding lies behind
    lengths, batch_size, most : see `by_length`
    several : share the batches among torch's threads
    """
    out: list[Any] = [None] * len(lengths)

    def one(part: list[int]) -> None:
        for i, row in zip(part, work(part), strict=True):
            out[i] = row[: lengths[i]]

    # the longest first, to balance threads
    in_threads(one, by_length(lengths, batch_size, most=most)[::-1], several=several)
    return out


def in_threads(work: Callable[[Part], None], parts: Sequence[Part], *, several: bool) -> None:
    """Do all parts, one after the other or on torch's number of threads.

    Where operations are short, a thread for each part beats several for each.
    """
    import torch

    threads = min(torch.get_num_threads(), len(parts))
    if not several or threads <= 1:
        for part in parts:
            work(part)
        return
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for _ in pool.map(work, parts):
            pass
