"""Batches of similar length, so that little of a padded batch is padding."""

from __future__ import annotations

from collections.abc import Sequence

from structok.errors import InputError

__all__ = ["by_length"]


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
