"""Text that lost or gained codes between two anchors: what follows goes back to its slots.

An anchor stands before the code of its slot, and slots with anchors are a fixed number apart. Where two anchors stand
closer together than that, codes are missing between them; where further apart, some are too many. Which ones, no text
tells, so the middle of the stretch takes the change: a lost code becomes -1, which a decoder that repairs makes up for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

__all__ = ["Realigned", "realign"]

LOST = -1
_TWICE = 2  # stretches between anchors that must be of one length before it counts as the spacing


class Realigned(NamedTuple):
    """What stands where, and (anchor, codes that are missing before it, below 0 too many) in order.

    codes, lost : of each slot, and the slots whose code is missing (-1)
    slots, spacing : of the anchors
    """

    codes: list[int]
    lost: list[int]
    slots: list[int]
    spacing: int
    changes: list[tuple[int, int]]


def realign(codes: Sequence[int], places: Sequence[int], spacing: int) -> Realigned | None:
    """Codes at the slots that the anchors between them tell; None where nothing is out of place.

    Parameters
    ----------
    codes : of a text
    places : how many of them come before each anchor, rising
    spacing : slots from anchor to anchor as far as known; where anchors do not keep to it, their most frequent distance
    """
    if not any(place % spacing for place in places):
        return None
    gaps = Counter(b - a for a, b in pairwise(places))
    usual, often = gaps.most_common(1)[0] if gaps else (spacing, 0)
    spacing = usual if often >= _TWICE else spacing
    if spacing < 2 or not any(place % spacing for place in places):
        return None
    out: list[int] = []
    slots: list[int] = []
    lost: list[int] = []
    changes = []
    start = 0
    for number, place in enumerate(places):
        here = list(codes[start:place])
        # at least one spacing from the anchor before; more where anchors are left out
        wanted = spacing * max(int(number > 0), (len(here) + spacing // 2) // spacing)
        middle = min(len(here), wanted) // 2
        if len(here) < wanted:
            lost += range(len(out) + middle, len(out) + middle + wanted - len(here))
            here[middle:middle] = [LOST] * (wanted - len(here))
        del here[middle : middle + len(here) - wanted]
        if change := wanted - (place - start):
            changes.append((number, change))
        out += here
        slots.append(len(out))
        start = place
    return Realigned([*out, *codes[start:]], lost, slots, spacing, changes)
