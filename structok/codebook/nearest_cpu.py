"""The nearest code of each vector on the CPU: scores by matrix product, and one compiled pass over them.

The pass reads a block of scores while it is in cache and keeps of each row the lowest and the second lowest. The
winner is measured in float64, and it is the nearest unless rounding could have hidden another (`nearest`).

Scores are compared as integers, by their bits: a compiler makes vector code of the least of integers, but not of the
least of numbers that may be NaN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

if TYPE_CHECKING:
    from structok.codebook.nearest import Codes

from structok.codebook.cpu import compiled

__all__ = ["nearest"]

_TILE = 1 << 19  # scores of a block: 2 MB
_WIDE = 1 << 12  # codes of a block
_LAST = np.int32(0x7FFFFFFF)


def nearest(
    x: Float[Tensor, "r d"],
    codebook: Float[Tensor, "n d"],
    codes: Codes,
    relative: float,
) -> tuple[Float[Tensor, " r"], Int[Tensor, " r"], Bool[Tensor, " r"]]:
    """The code of lowest score |e|²/2 - x·e about a centre.

    Parameters
    ----------
    x, codebook : both float32 or both float64
    codes : what is known of the codebook, in the same type
    relative : bound on the rounding of a score, relative to (|x| + max |e|) max |e|

    Returns
    -------
    distance : squared, measured in float64
    index : of the code
    unsure : where rounding could have hidden a code as near, or one before it
    """
    centre, centred, half_norm, reach = codes
    rows, n = len(x), len(centred)
    local, length = torch.empty(x.shape), torch.empty(rows)
    _centre(x.numpy(), centre.numpy(), local.numpy(), length.numpy())
    best, floor = (torch.full((rows,), int(_LAST), dtype=torch.int32) for _ in range(2))
    index, distance, unsure = (
        torch.zeros(rows, dtype=torch.long),
        torch.empty(rows),
        torch.empty(rows, dtype=torch.bool),
    )
    wide = min(n, _WIDE >> (x.shape[1] >= 128))  # long codes leave less cache to the scores
    part = 128 if n > 256 else 32  # scores whose least is found at once; the part with the least of all is looked into
    tall = max(1, _TILE // wide)
    for start in range(0, n, wide):
        e, bias = centred[start : start + wide], half_norm[start : start + wide]
        if short := -len(e) % part:
            e, bias = pad(e, (0, 0, 0, short)), pad(bias, (0, short), value=torch.inf)
        score = torch.empty(min(rows, tall), len(e))
        for i in range(0, rows, tall):
            some = local[i : i + tall]
            torch.addmm(bias, some, e.T, alpha=-1.0, out=score[: len(some)])
            bits = score[: len(some)].view(torch.int32).unflatten(1, (-1, part)).numpy()
            _reduce(bits, start, *(y[i : i + tall].numpy() for y in (best, floor, index)))
    told = (y.numpy() for y in (_in_order(best).view(torch.float32), _in_order(floor).view(torch.float32), index))
    _settle(
        x.numpy(), codebook.numpy(), relative, float(reach), *told, length.numpy(), distance.numpy(), unsure.numpy()
    )
    return distance, index, unsure


@compiled(fastmath={"contract", "reassoc"})
def _centre(x, centre, local, length):
    for r in range(len(x)):
        square = np.float32(0)
        for i in range(x.shape[1]):
            value = np.float32(x[r, i] - centre[i])
            local[r, i] = value
            square += value * value
        length[r] = np.sqrt(square)


def _in_order(bits: Int[Tensor, " r"]) -> Int[Tensor, " r"]:
    """Bits of floats to integers in the order of the floats, and back."""
    return bits ^ ((bits >> 31) & int(_LAST))


@compiled()
def _key(bits):
    """`_in_order` of one score; unless 32 bits are asked for at every turn, numbers are widened and vectors short."""
    return np.int32(bits ^ (np.int32(bits >> np.int32(31)) & _LAST))


@compiled()
def _reduce(bits, start, best, floor, index):
    """Lowest score of each row, its code, and the second lowest score, over this block and those before it."""
    rows, parts, size = bits.shape
    for r in range(rows):
        lowest, second, part = _LAST, _LAST, 0
        for p in range(parts):
            least = _LAST
            for i in range(size):
                least = np.int32(min(least, _key(bits[r, p, i])))
            if least < lowest:
                lowest, second, part = least, lowest, p
            else:
                second = np.int32(min(second, least))
        if lowest >= best[r]:
            floor[r] = min(floor[r], lowest)
            continue
        at = _LAST
        for i in range(size):
            at = np.int32(min(at, np.int32(i) if _key(bits[r, part, i]) == lowest else _LAST))
        for i in range(size):
            second = np.int32(min(second, _LAST if np.int32(i) == at else _key(bits[r, part, i])))
        floor[r] = min(best[r], floor[r], second)
        best[r], index[r] = lowest, start + part * size + at


@compiled(fastmath={"contract", "reassoc"})
def _settle(x, codebook, relative, reach, best, floor, index, length, distance, unsure):
    """Distance to the winner, and whether another code's score is within twice the rounding of its own."""
    for r in range(len(x)):
        square = 0.0
        for i in range(x.shape[1]):
            square += (np.float64(x[r, i]) - np.float64(codebook[index[r], i])) ** 2
        distance[r] = square
        rounding = relative * (length[r] + reach) * reach + x.shape[1] * 1.2e-38 * (1 + length[r] + reach)
        unsure[r] = not floor[r] > best[r] + 2 * rounding
