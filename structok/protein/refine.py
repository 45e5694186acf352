"""Better codes for a decoder that looks both ways: try neighbouring codes, keep what rebuilds the chain better.

A causal decoder can be searched from one end to the other (`structok.polymer`); a transformer cannot, since each code
changes residues on both sides. But it changes those near it most, so codes far enough apart are tried at once, each
judged by the error around it. Weights, codebook and vocabulary stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from structok.geometry import superpose

__all__ = ["refine_codes"]

_APART = 24  # slots between codes that are tried at once
_LEAST = 1e-3  # Å², gain below which a change is not worth it


def refine_codes(
    codes: Int[Tensor, " l"],
    options: Int[Tensor, "l k"],
    decode: Callable[[Int[Tensor, "n l"]], Float[Tensor, "n l 3 3"]],
    target: Float[Tensor, "l 3 3"],
    mask: Bool[Tensor, " l"],
    *,
    sweeps: int,
    superposed: bool,
) -> tuple[Int[Tensor, " l"], list[float]]:
    """Codes whose chain is no further from the target, and the mean squared error (Å²) before and after each sweep.

    Parameters
    ----------
    codes : to start from, anything where `mask` is False
    options : codes to try for each slot
    decode : coordinates of several rows of codes, Å
    target, mask : the chain, and where it was observed
    sweeps : how often each slot is tried; ends early when nothing changes
    superposed : whether the decoder's frame is its own, so that chains are superposed before they are compared
    """
    weight = mask[:, None].expand(-1, 3).reshape(1, -1)
    goal = torch.where(mask[:, None, None], target, 0.0).reshape(1, -1, 3)

    def errors(rows: Int[Tensor, "n c"]) -> Float[Tensor, "n l"]:
        built = decode(rows).flatten(1, 2)
        if superposed:
            built = superpose(built, goal.expand_as(built), weight.expand(len(built), -1))
        off = (built - goal).square().sum(-1).unflatten(1, (-1, 3)).sum(-1)
        return torch.where(mask, off, 0.0)

    codes = codes.clone()
    here = errors(codes[None])[0]
    size = 3 * mask.sum().clamp(min=1)
    trace = [float(here.sum() / size)]
    near = torch.nn.functional.conv1d
    window = torch.ones(1, 1, 2 * (_APART // 2) + 1, dtype=here.dtype, device=here.device)
    for _ in range(sweeps):
        changed = False
        for first in range(min(_APART, len(codes))):
            tried = torch.arange(first, len(codes), _APART, device=codes.device)
            rows = codes.repeat(options.shape[1], 1)
            rows[:, tried] = options[tried].T
            gain = near((here - errors(rows))[:, None], window, padding=_APART // 2)[:, 0, tried]
            best, which = gain.max(0)
            order = best.argsort(descending=True)[: int((best > _LEAST).sum())]
            while len(order):
                new = codes.clone()
                new[tried[order]] = options[tried[order], which[order]]
                there = errors(new[None])[0]
                if there.sum() < here.sum() - _LEAST:
                    codes, here, changed = new, there, True
                    break
                order = order[: len(order) // 2]
        trace.append(float(here.sum() / size))
        if not changed:
            break
    return codes, trace
