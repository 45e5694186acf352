"""Fused Triton kernel of the nearest-code lookup: the leading codes of each vector, without the N x K scores.

Each program holds a block of vectors and walks over all codes. Scores |e|²/2 - x·e are made on tensor cores and
reduced on the spot: a row keeps `m` (score, index) pairs in registers, and the lowest score that it has let go.
`nearest` measures the leaders exactly, and searches in full the rows whose leaders are not proven.

Products are made of bfloat16 halves, x = x₀ + x₁ + r with |r| ≤ 2⁻¹⁶|x| (round to nearest, 8 bits each):
x·e ≈ x₀·e₀ + x₀·e₁ + x₁·e₀, summed in float32. What is left out is x₁·e₁ and the remainders, at most
(2⁻¹⁶ + 2 · 2⁻¹⁶)(1 + 2⁻⁷) Σ|x_i e_i| < 2⁻¹⁴ |x||e|. The sum of 3d products adds 3 (d + 8) 2⁻²⁴; tensor cores may
truncate where they add, which doubles that. `product_error` is the total, with the last bits of the score, which
give way to the number of its column: 7 of 24 for the largest tile.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["constants", "leaders", "product_error", "supports"]

_MAX_DIM, _MAX_K = 512, 8
# scores of columns without a code, and what is below all of them; rows that come near are searched in full
_LAST, _NONE = tl.constexpr(3e38), tl.constexpr(2.9e38)


def supports(x: Tensor, codebook: Tensor, k: int) -> bool:
    """Whether the kernel can do it: bfloat16 tensor cores, a dimension and a k that fit on chip, an int32 index."""
    fits = 1 <= x.shape[1] <= _MAX_DIM and k <= _MAX_K and len(codebook) < 2**31 - 512
    return fits and torch.cuda.get_device_capability(x.device) >= (8, 0)


def product_error(dim: int) -> float:
    """Bound on the error of a score as the kernel makes it, relative to (|x| + |e|) |e|."""
    return 2.0**-14 + 6 * (dim + 8) * 2.0**-24 + 2.0**-16


def constants(dim: int, k: int, generation: int) -> dict[str, int]:
    """What the kernel is compiled for; the generation is the major part of the GPU's compute capability.

    From Hopper (9) on tensor cores read shared memory; before, 128 components of the vectors overflow the registers.
    """
    whole = 128 if generation >= 9 else 64
    block = max(16, triton.next_power_of_2(dim)) if dim <= whole else 64
    return {"DIM": triton.cdiv(dim, block) * block, "BLOCK_D": block, "M": triton.next_power_of_2(k + 2), "TAKE": k}


@triton.jit
def _leaders(
    x_high_ptr,
    x_low_ptr,
    e_high_ptr,
    e_low_ptr,
    half_norm_ptr,
    score_ptr,
    index_ptr,
    floor_ptr,
    rows,
    codes,
    DIM: tl.constexpr,  # a multiple of BLOCK_D
    M: tl.constexpr,  # leaders kept of each row
    TAKE: tl.constexpr,  # leaders taken from each tile of codes
    UPCAST: tl.constexpr,  # for Triton's interpreter, which has no products of bfloat16
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    lane, column, along = tl.arange(0, M), tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_D)
    inf = float("inf")
    held = row < rows
    score = tl.full((BLOCK_R, M), inf, tl.float32)
    index = tl.zeros((BLOCK_R, M), tl.int32)
    floor = tl.full((BLOCK_R,), inf, tl.float32)
    x_at = row[:, None] * DIM + along[None, :]
    if DIM == BLOCK_D:  # the vectors stay on chip while the codes go by
        x_high = tl.load(x_high_ptr + x_at, mask=held[:, None], other=0.0)
        x_low = tl.load(x_low_ptr + x_at, mask=held[:, None], other=0.0)
        if UPCAST:
            x_high, x_low = x_high.to(tl.float32), x_low.to(tl.float32)
    for start in range(0, codes, BLOCK_C):
        code = start + column
        real = code < codes
        product = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
        for d in range(0, DIM, BLOCK_D):
            if DIM > BLOCK_D:
                x_high = tl.load(x_high_ptr + x_at + d, mask=held[:, None], other=0.0)
                x_low = tl.load(x_low_ptr + x_at + d, mask=held[:, None], other=0.0)
                if UPCAST:
                    x_high, x_low = x_high.to(tl.float32), x_low.to(tl.float32)
            e_at = code.to(tl.int64)[None, :] * DIM + (d + along)[:, None]
            e_high = tl.load(e_high_ptr + e_at, mask=real[None, :], other=0.0)
            e_low = tl.load(e_low_ptr + e_at, mask=real[None, :], other=0.0)
            if UPCAST:
                e_high, e_low = e_high.to(tl.float32), e_low.to(tl.float32)
            product = tl.dot(x_low, e_high, product)
            product = tl.dot(x_high, e_low, product)
            product = tl.dot(x_high, e_high, product)
        half_norm = tl.load(half_norm_ptr + code, mask=real, other=_LAST)
        # the column in the last bits of its score: one plain minimum then finds both
        bits = (half_norm[None, :] - product).to(tl.int32, bitcast=True)
        tile = ((bits & -BLOCK_C) | column[None, :]).to(tl.float32, bitcast=True)
        for _ in tl.static_range(TAKE):
            low = tl.min(tile, 1)
            tile = tl.where(tile == low[:, None], _LAST, tile)
            place = low.to(tl.int32, bitcast=True) & (BLOCK_C - 1)
            worst, seat = tl.max(score, 1, return_indices=True)
            better = low < worst
            floor = tl.minimum(floor, tl.where(better, worst, low))
            here = (lane[None, :] == seat[:, None]) & better[:, None]
            score = tl.where(here, low[:, None], score)
            # a row with NaN, which is searched in full in any case, may name any column
            index = tl.where(here, tl.minimum(start + place, codes - 1)[:, None], index)
        floor = tl.minimum(floor, tl.min(tile, 1))
    out, found = row[:, None] * M + lane[None, :], score < _NONE
    tl.store(score_ptr + out, tl.where(found, score, inf), mask=held[:, None])
    tl.store(index_ptr + out, tl.where(found, index, 0), mask=held[:, None])
    tl.store(floor_ptr + row, tl.where(floor < _NONE, floor, inf), mask=held)


_CONFIGS = [
    triton.Config({"BLOCK_R": 128, "BLOCK_C": 128}, num_warps=8, num_stages=2),
    triton.Config({"BLOCK_R": 128, "BLOCK_C": 64}, num_warps=4, num_stages=2),
    triton.Config({"BLOCK_R": 64, "BLOCK_C": 128}, num_warps=4, num_stages=2),
    triton.Config({"BLOCK_R": 64, "BLOCK_C": 64}, num_warps=4, num_stages=2),
]
# few keys: the best tile should hardly depend on the number of codes; TRITON_CACHE_AUTOTUNING=1 keeps it on disk
_tuned = triton.autotune(_CONFIGS, key=["DIM", "M"])(_leaders)


def leaders(
    x: Float[Tensor, "r d"],
    codes: Float[Tensor, "n d"],
    half_norm: Float[Tensor, " n"],
    k: int,
    *,
    tile: tuple[int, int] | None = None,
) -> tuple[Float[Tensor, "r m"], Int[Tensor, "r m"], Float[Tensor, " r"]]:
    """Codes of low score |e|²/2 - x·e of each row, float32, with a score that all others reach.

    Parameters
    ----------
    x, codes : float32, about a common centre
    half_norm : |e|²/2
    k : how many nearest codes are wanted; some more are kept
    tile : rows and codes of a block; None tunes them on first use

    Returns
    -------
    score : infinite where there are fewer than m codes
    index : of each score, ascending; 0 where the score is infinite
    floor : no other code has a lower score; infinite where there is none
    """
    rows, dim = x.shape
    known = constants(dim, k, torch.cuda.get_device_capability(x.device)[0] if x.is_cuda else 9)
    m, padded = known["M"], known["DIM"]
    score, floor = x.new_empty(rows, m), x.new_empty(rows)
    index = torch.empty(rows, m, dtype=torch.int32, device=x.device)
    kernel, tiles = (_tuned, {}) if tile is None else (_leaders, {"BLOCK_R": tile[0], "BLOCK_C": tile[1]})
    kernel[lambda c: (triton.cdiv(rows, c["BLOCK_R"]),)](
        *_halves(x, padded),
        *_halves(codes, padded),
        half_norm.contiguous(),
        score,
        index,
        floor,
        rows,
        len(codes),
        UPCAST=not x.is_cuda,
        **known,
        **tiles,
    )
    ordered, order = index.long().sort(dim=1)
    return score.gather(1, order), ordered, floor


def _halves(x: Float[Tensor, "n d"], padded: int) -> tuple[Float[Tensor, "n p"], Float[Tensor, "n p"]]:
    """Two bfloat16 parts of each value, the second the first's remainder; columns padded with zeros."""
    high = x.new_zeros(len(x), padded, dtype=torch.bfloat16)
    low = torch.zeros_like(high)
    high[:, : x.shape[1]] = x
    low[:, : x.shape[1]] = x - high[:, : x.shape[1]]
    return high, low
