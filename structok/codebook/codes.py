"""What is known of a codebook before vectors are compared with it."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

__all__ = ["Codes", "prepare"]


class Codes(NamedTuple):
    """What scores are made of: codes about their centre, |e|²/2 and the largest |e|."""

    centre: Float[Tensor, " d"]
    centred: Float[Tensor, "n d"]
    half_norm: Float[Tensor, " n"]
    reach: Float[Tensor, ""]


def prepare(codebook: Float[Tensor, "n d"]) -> Codes:
    """Any centre will do for exactness, as long as the differences are rounded once; the mean keeps them small."""
    centre = codebook.mean(0)
    centred = (codebook - centre).float()
    half_norm = centred.square().sum(1).div_(2)
    return Codes(centre, centred, half_norm, half_norm.max().mul(2).sqrt())
