"""The nearest code of each vector on the CPU: scores by matrix product, and one compiled pass over them.

The pass reads a block of scores while it is in cache and keeps of each row the lowest and the second lowest. The
winner is measured in float64; whether rounding could have hidden another is for `nearest` to say. For short
vectors a matrix product takes longer than to read its result: the pass then makes the scores as it goes.

Scores are compared as integers, by their bits: a compiler makes vector code of the least of integers, but not of the
least of numbers that may be NaN.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray as Array
from torch import Tensor
from torch.nn.functional import pad

from structok.codebook.codes import Codes
from structok.codebook.cpu import compiled

__all__ = ["nearest"]

_TILE = 1 << 19  # scores of a block: 2 MB
_WIDE = 1 << 12  # codes of a block
_SHORT, _PART = 9, 128  # components up to which scores are made in the pass (steps of chains have 9), and codes at once
_LAST = np.int32(0x7FFFFFFF)


def nearest(
    x: Float[Tensor, "r d"],
    codebook: Float[Tensor, "n d"],
    codes: Codes,
) -> tuple[Float[Tensor, " r"], Int[Tensor, " r"], Float[Tensor, " r"], Float[Tensor, " r"], Float[Tensor, " r"]]:
    """The code of lowest score |e|²/2 - x·e about a centre.

    Parameters
    ----------
    x, codebook : both float32 or both float64
    codes : what is known of the codebook, in the same type

    Returns
    -------
    distance : squared, measured in float64
    index : of the code
    score, floor : its score, and the next lowest
    length : of the vectors about the centre
    """
    centre, centred, half_norm, _ = codes
    rows, short = len(x), x.shape[1] <= _SHORT
    tall, long = (rows + -rows % 4, _SHORT) if short else x.shape
    local, length = torch.zeros(tall, long), torch.empty(rows)
    _centre(x.numpy(), centre.numpy(), local.numpy(), length.numpy())
    best, floor = (torch.full((tall,), int(_LAST), dtype=torch.int32) for _ in range(2))
    index = torch.zeros(tall, dtype=torch.long)
    distance = torch.empty(rows)
    if short:
        _reduce_short(local.numpy(), *_in_parts(centred, half_norm), *(y.numpy() for y in (best, floor, index)))
    else:
        _by_product(local, centred, half_norm, best, floor, index)
    _measure(x.numpy(), codebook.numpy(), index.numpy(), distance.numpy())
    score, floor = (_in_order(y[:rows]).view(torch.float32) for y in (best, floor))
    return distance, index[:rows], score, floor, length


def _by_product(
    local: Float[Tensor, "r d"],
    centred: Float[Tensor, "n d"],
    half_norm: Float[Tensor, " n"],
    best: Int[Tensor, " r"],
    floor: Int[Tensor, " r"],
    index: Int[Tensor, " r"],
) -> None:
    """Scores of blocks of vectors and codes, each reduced while it is in cache."""
    (rows, d), n = local.shape, len(centred)
    wide = min(n, _WIDE >> (d >= 128))  # long codes leave less cache to the scores
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
def _least(bits, r, p):
    """Lowest score of one part of a row."""
    least = _LAST
    for i in range(bits.shape[2]):
        least = np.int32(min(least, _key(bits[r, p, i])))
    return least


@compiled()
def _first_two(bits, r, p, lowest, second):
    """Where in a part the lowest score stands first, and the second lowest, there or elsewhere."""
    at = _LAST
    for i in range(bits.shape[2]):
        at = np.int32(min(at, np.int32(i) if _key(bits[r, p, i]) == lowest else _LAST))
    for i in range(bits.shape[2]):
        second = np.int32(min(second, _LAST if np.int32(i) == at else _key(bits[r, p, i])))
    return at, second


@compiled()
def _reduce(bits, start, best, floor, index):
    """Lowest score of each row, its code, and the second lowest score, over this block and those before it."""
    rows, parts, size = bits.shape
    for r in range(rows):
        lowest, second, part = _LAST, _LAST, 0
        for p in range(parts):
            least = _least(bits, r, p)
            if least < lowest:
                lowest, second, part = least, lowest, p
            else:
                second = np.int32(min(second, least))
        if lowest >= best[r]:
            floor[r] = min(floor[r], lowest)
            continue
        at, second = _first_two(bits, r, part, lowest, second)
        floor[r] = min(best[r], floor[r], second)
        best[r], index[r] = lowest, start + part * size + at


def _in_parts(
    centred: Float[Tensor, "n d"], half_norm: Float[Tensor, " n"]
) -> tuple[Float[Array, "p d*s"], Float[Array, "p s"]]:
    """Codes in parts, component by component; the last part is filled up with codes of infinite norm."""
    short = -len(centred) % _PART
    e = pad(centred, (0, _SHORT - centred.shape[1], 0, short))
    bias = pad(half_norm, (0, short), value=torch.inf)
    table = e.unflatten(0, (-1, _PART)).transpose(1, 2).flatten(1).contiguous()
    return table.numpy(), bias.unflatten(0, (-1, _PART)).contiguous().numpy()


@compiled(fastmath={"contract"})
def _scores(x, r, table, bias, p, out):
    """Scores of four vectors with one part of the codes."""
    for j in range(_PART):
        one = two = three = four = bias[p, j]
        for i in range(_SHORT):
            e = table[p, i * _PART + j]
            one -= x[r, i] * e
            two -= x[r + 1, i] * e
            three -= x[r + 2, i] * e
            four -= x[r + 3, i] * e
        out[j], out[_PART + j], out[2 * _PART + j], out[3 * _PART + j] = one, two, three, four


@compiled()
def _reduce_short(x, table, bias, best, floor, index):
    """`_reduce` of scores that are made on the way, for four vectors at a time."""
    out = np.empty(4 * _PART, np.float32)
    bits, part = out.view(np.int32).reshape(4, 1, _PART), np.empty(4, np.int64)
    for r in range(0, len(x), 4):
        for p in range(len(bias)):
            _scores(x, r, table, bias, p, out)
            for q in range(4):
                least = _least(bits, q, 0)
                if p == 0 or least < best[r + q]:
                    floor[r + q], best[r + q], part[q] = best[r + q], least, p
                else:
                    floor[r + q] = min(floor[r + q], least)
        for q in range(4):
            _scores(x, r, table, bias, part[q], out)
            at, floor[r + q] = _first_two(bits, q, 0, best[r + q], floor[r + q])
            index[r + q] = part[q] * _PART + at


@compiled(fastmath={"contract", "reassoc"})
def _measure(x, codebook, index, distance):
    """Squared distance of each vector to its code."""
    for r in range(len(x)):
        square, code = 0.0, min(index[r], len(codebook) - 1)  # a row that is not finite may name a place without a code
        for i in range(x.shape[1]):
            square += (np.float64(x[r, i]) - np.float64(codebook[code, i])) ** 2
        distance[r] = square
