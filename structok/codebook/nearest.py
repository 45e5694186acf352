"""Nearest-code lookup: exact k nearest codebook entries of many vectors, in bounded memory.

The lookup ranks, then proves. Every code is scored by |e|²/2 - x·e about the codebook's mean: one matrix product,
in float32 here and in `nearest_cpu`, in split bfloat16 on tensor cores in `nearest_triton`. A bound on the rounding
of those scores tells which codes could be the nearest: those are measured again as |x - e|² in float64. Mostly that
is one code.
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from structok.batching import in_threads
from structok.codebook.codes import Codes, prepare

__all__ = ["nearest_code", "smallest"]

_TILE = 1 << 19  # scores computed at once: 2 MB in float32, so that they are reduced while in cache
_BLOCK = 1 << 20  # entries of the working arrays of a block of vectors
_MANY = 1 << 24  # scores that are worth threads
_SMALL = 1 << 16  # differences x - e below which measuring all of them is the quickest
_SPARE = 8  # candidates beyond k that are kept with their scores
_UNIT = 2.0**-24
# worst relative error of the factors of a float32 matrix product, by what torch has been allowed to use for it
_PRODUCT = {"none": 0, "ieee": 0, "highest": 0, "tf32": 2**-9, "high": 2**-9, "bf16": 2**-6, "medium": 2**-6}


class Leaders(NamedTuple):
    """The codes of lowest score of each row, ascending; no other code scores below `floor`."""

    score: Float[Tensor, "r m"]
    code: Int[Tensor, "r m"]
    floor: Float[Tensor, " r"]


def nearest_code(
    x: Float[Tensor, "*batch d"], codebook: Float[Tensor, "n d"], k: int = 1
) -> tuple[Float[Tensor, "*batch k"], Int[Tensor, "*batch k"]]:
    """Squared Euclidean distance and index of the `k` nearest codes of each vector.

    The answer is that of an exhaustive float64 search in every regime (near-duplicate codes, vectors far from
    the codebook, large offsets); rows where rounding hides much cost more. Memory beyond the answer is bounded,
    whatever the number of vectors. CUDA tensors go through a fused Triton kernel where that is possible.

    Neither result carries a gradient: take it through `(x - codebook[index])`. Under `torch.compile` this is
    one node, `structok::nearest_code`. A row with a missing (NaN) value gets index 0 and distance NaN, cheaply.

    Parameters
    ----------
    x : vectors, any leading shape, any float type
    codebook : the codes
    k : how many, nearest first; for k = 1 the last axis is dropped

    Returns
    -------
    distance : float32, squared, shape (*batch, k), or (*batch) for k = 1
    index : int32, likewise; ties go to the lowest index

    Raises
    ------
    ValueError
        If shapes do not fit, the codebook is empty, or k is out of range.
    """
    if codebook.ndim != 2 or not len(codebook) or x.shape[-1:] != codebook.shape[1:]:
        raise ValueError(f"x [..., d] and codebook [n, d] do not fit: {tuple(x.shape)}, {tuple(codebook.shape)}")
    n, d = codebook.shape
    if not 1 <= k <= n:
        raise ValueError(f"k = {k} is not between 1 and the codebook size {n}")
    distance, index = lookup(x.detach().reshape(-1, d), codebook.detach(), k)
    shape = x.shape[:-1] if k == 1 else (*x.shape[:-1], k)
    return distance.reshape(shape), index.reshape(shape)


@torch.library.custom_op(
    "structok::nearest_code", mutates_args=(), schema="(Tensor x, Tensor codebook, int k) -> (Tensor, Tensor)"
)
def lookup(x: Float[Tensor, "r d"], codebook: Float[Tensor, "n d"], k: int) -> tuple[Tensor, Tensor]:
    """`nearest_code` of a plain list of vectors, as an operator that `torch.compile` leaves whole."""
    if len(x) * codebook.numel() <= _SMALL:
        return _exhaustive(x, codebook, k)
    wide = torch.promote_types(torch.promote_types(x.dtype, codebook.dtype), torch.float32)
    distance = torch.empty(len(x), k, device=x.device)
    index = torch.empty(len(x), k, dtype=torch.int32, device=x.device)
    kernel, cpu, product = _kernel(x, codebook, k), _compiled(x, k), _product(x)
    rows = (max(1, _BLOCK // max(x.shape[1], 128))) << (0 if kernel is None else 4)
    if threads := cpu is not None and len(x) * len(codebook) >= _MANY:
        rows = min(rows, -(-len(x) // (4 * torch.get_num_threads())))
    rivals = codebook.to(wide).contiguous()
    codes = prepare(rivals)

    def work(i: int) -> None:
        block, out = x[i : i + rows].to(wide).contiguous(), slice(i, i + rows)
        with torch.autocast(x.device.type, enabled=False):
            if cpu is not None:
                near, at, score, floor, length = cpu.nearest(block, rivals, codes)
                unsure = ~(floor > score + 2 * _rounding(length, codes, product))
                if unsure.any():
                    far, code = _resolve(block[unsure], codebook, codes, k)
                    near[unsure], at[unsure] = far[:, 0].float(), code[:, 0]
                distance[out, 0], index[out, 0] = near, at
                return
            local, error = (block - codes.centre).float(), product
            if kernel is not None:
                leaders, error = Leaders(*kernel.leaders(local, *codes[1:3], k)), kernel.product_error(x.shape[1])
            else:
                leaders = _several(local, codes, k)
            rounding = _rounding(local.norm(dim=1), codes, error)
            distance[out], index[out] = _certify(block, codebook, codes, leaders, rounding, k)

    in_threads(work, range(0, len(x), rows), several=threads)
    return distance, index


@lookup.register_fake
def _(x: Tensor, codebook: Tensor, k: int) -> tuple[Tensor, Tensor]:
    shape = (x.shape[0], k)
    return x.new_empty(shape, dtype=torch.float32), x.new_empty(shape, dtype=torch.int32)


def smallest(score: Float[Tensor, "r n"], m: int) -> Int[Tensor, "r m"]:
    """Indices of the `m` smallest entries of each row, in no particular order.

    The m smallest lie in the m blocks with the smallest minima, so long rows are first reduced to those
    blocks: one streaming pass instead of a selection over the whole row.
    """
    n = score.shape[1]
    size = 4
    while 4 * size * size * m < 2 * n:  # as many blocks as entries in the kept ones
        size *= 2
    if n % size or n // size <= 2 * m:
        return score.topk(m, dim=1, largest=False, sorted=False).indices
    # block j holds entries j, j + n / size, ..., so that minima are taken along whole cache lines
    blocks = score.unflatten(1, (size, -1))
    kept = blocks.amin(1).topk(m, dim=1, largest=False, sorted=False).indices
    inside = blocks.gather(2, kept[:, None].expand(-1, size, -1)).flatten(1)
    best = inside.topk(m, dim=1, largest=False, sorted=False).indices
    return kept.gather(1, best % m) + best // m * (n // size)


def _exhaustive(x: Float[Tensor, "r d"], codebook: Float[Tensor, "n d"], k: int) -> tuple[Tensor, Tensor]:
    distance = (x.double()[:, None] - codebook.double()).square_().sum(-1)
    if k == 1:
        # argmin takes the first of equals, but NaN for the smallest; a sort puts it last
        index = distance.where(~distance.isnan(), torch.inf).argmin(1, keepdim=True)
    else:
        index = distance.sort(dim=1, stable=True).indices[:, :k]
    return distance.gather(1, index).float(), index.int()


def _kernel(x: Tensor, codebook: Tensor, k: int) -> ModuleType | None:
    """The Triton kernel's module, where it can do the work."""
    if not (x.is_cuda and codebook.is_cuda and len(x)):
        return None
    try:
        from structok.codebook import nearest_triton
    except ImportError:
        return None
    return nearest_triton if nearest_triton.supports(x, codebook, k) else None


def _compiled(x: Tensor, k: int) -> ModuleType | None:
    """The compiled search's module, where it can do the work: for one code, on a CPU."""
    if k > 1 or x.device.type != "cpu":
        return None
    from structok.codebook import nearest_cpu  # loads its machine code, which not everybody needs

    return nearest_cpu


def _product(x: Tensor) -> float:
    backend = torch.backends.cuda if x.is_cuda else torch.backends.mkldnn
    setting = getattr(backend.matmul, "fp32_precision", None) or torch.get_float32_matmul_precision()
    return _PRODUCT[setting]


def _rounding(length: Float[Tensor, " r"], codes: Codes, product: float) -> Float[Tensor, " r"]:
    """A bound on the error of every score of a row; infinite or NaN where scores may have overflowed.

    Standard bounds of a float32 sum of d products, of the rounding of x and e about the centre, and of |e|²/2;
    by Cauchy-Schwarz |x||e| stands for Σ|x_i e_i|. The last term covers results flushed to zero.
    """
    d, reach = codes.centred.shape[1], codes.reach
    relative = 1.01 * ((d + 8) * _UNIT + product)
    return relative * (length + reach) * reach + d * torch.finfo(torch.float32).tiny * (1 + length + reach)


def _several(local: Float[Tensor, "r d"], codes: Codes, k: int) -> Leaders:
    n = len(codes.centred)
    m = min(n, k + _SPARE)
    score = local.new_empty(len(local), m)
    index = torch.empty(len(local), m, dtype=torch.long, device=local.device)
    rows = max(1, _TILE // n)
    for i in range(0, len(local), rows):
        full = torch.addmm(codes.half_norm, local[i : i + rows], codes.centred.T, alpha=-1.0)
        index[i : i + rows] = smallest(full, m).sort(dim=1).values
        score[i : i + rows] = full.gather(1, index[i : i + rows])
    floor = score.amax(1) if m < n else score.new_full((len(score),), torch.inf)
    return Leaders(score, index, floor)


def _certify(
    x: Float[Tensor, "r d"],
    codebook: Float[Tensor, "n d"],
    codes: Codes,
    leaders: Leaders,
    rounding: Float[Tensor, " r"],
    k: int,
) -> tuple[Float[Tensor, "r k"], Int[Tensor, "r k"]]:
    """Measure the leaders that could be among the k nearest, and all codes where others could be too.

    k codes have scores up to t, so the k-th nearest has a true score below t + ρ, and whatever is as near was
    scored below t + 2ρ.
    """
    score, code, floor = leaders
    limit = score.topk(k, dim=1, largest=False).values.amax(1) + 2 * rounding
    unsure = ~(floor > limit)
    near, at = x.new_full((len(x), k), torch.nan, dtype=torch.float64), code[:, :k].clone()
    sure = ~unsure
    row, column = (score[sure] <= limit[sure, None]).nonzero(as_tuple=True)
    near[sure], at[sure] = _select(x[sure], codebook, row, code[sure][row, column], k)
    if unsure.any():
        near[unsure], at[unsure] = _resolve(x[unsure], codebook, codes, k)
    return near, at


def _resolve(
    x: Float[Tensor, "r d"], codebook: Float[Tensor, "n d"], codes: Codes, k: int
) -> tuple[Float[Tensor, "r k"], Int[Tensor, "r k"]]:
    """Measure every code that rounding cannot rule out; all of them where nothing can be said."""
    n = len(codebook)
    parts = []
    for part in x.split(max(1, _TILE // n)):
        local = (part - codes.centre).float()
        score = torch.addmm(codes.half_norm, local, codes.centred.T, alpha=-1.0)
        rounding = _rounding(local.norm(dim=1), codes, _product(x))
        limit = score.topk(k, dim=1, largest=False).values.amax(1) + 2 * rounding
        keep = ~(score > limit[:, None])
        # against a finite codebook all distances of a row that is not finite are alike
        lost = ~part.isfinite().all(1) & codes.reach.isfinite()
        keep = torch.where(lost[:, None], torch.arange(n, device=x.device) < k, keep)
        row, code = keep.nonzero(as_tuple=True)
        parts.append(_select(part, codebook, row, code, k))
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def _select(
    x: Float[Tensor, "r d"], codebook: Float[Tensor, "n d"], row: Int[Tensor, " p"], code: Int[Tensor, " p"], k: int
) -> tuple[Float[Tensor, "r k"], Int[Tensor, "r k"]]:
    """The k nearest of each row's candidates, given as pairs sorted by row, then by code."""
    distance = _measure(x, codebook, row, code)
    order = distance.argsort(stable=True)
    order = order[row[order].argsort(stable=True)]
    every = torch.arange(len(x), device=x.device)
    first = torch.searchsorted(row, every)
    taken = order[first[:, None] + every.new_tensor(range(k))]
    return distance[taken], code[taken]


def _measure(
    x: Float[Tensor, "r d"], codebook: Float[Tensor, "n d"], row: Int[Tensor, " p"], code: Int[Tensor, " p"]
) -> Float[Tensor, " p"]:
    """|x - e|² in float64 of each pair."""
    distance = torch.empty(len(code), dtype=torch.float64, device=x.device)
    size = max(1, (_BLOCK << (4 if x.is_cuda else 0)) // (8 * x.shape[1]))
    for i in range(0, len(code), size):
        difference = x.index_select(0, row[i : i + size]).double()
        difference -= codebook.index_select(0, code[i : i + size])
        torch.sum(difference.square_(), 1, out=distance[i : i + size])
    return distance
