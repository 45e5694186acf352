"""How many bits a code costs after the code before it: what a rate-constrained search weighs against accuracy.

The prior is a Markov chain whose states are groups of codes. It is no compressor, only a cheap stand-in for what a
language model will find easy to predict (entropy-constrained vector quantisation, Chou, Lookabaugh & Gray 1989).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Prior", "learn_prior"]

_SEEN = 0.3  # counts that every code starts with
_BACK_OFF = 200.0  # transitions out of a group after which they count as much as the codes' overall frequencies


class Prior(NamedTuple):
    """Groups of codes, and the price of each code after each group.

    Parameters
    ----------
    group : group of each code
    bits : -log2 of the probability of each code (column) after a code of each group (row); the last row is for
        the first code of a sequence
    """

    group: Int[Tensor, " k"]
    bits: Float[Tensor, "g+1 k"]

    def to(self, device: str | torch.device) -> Prior:
        return Prior(self.group.to(device), self.bits.to(device))

    def cross_entropy(self, sequences: Sequence[Int[Tensor, " n"]]) -> float:
        """Mean bits per code of some sequences, their first codes left out."""
        paid = [self.bits[self.group[codes[:-1].long()], codes[1:].long()] for codes in sequences]
        return float(torch.cat(paid).double().mean())


def learn_prior(sequences: Sequence[Int[Tensor, " n"]], group: Int[Tensor, " k"]) -> Prior:
    """Count codes and transitions; what is rare leans on the codes' overall frequencies."""
    size, groups = len(group), int(group.max()) + 1
    every = torch.cat([codes.long() for codes in sequences])
    overall = torch.bincount(every, minlength=size).double() + _SEEN
    overall /= overall.sum()
    pairs = torch.cat([group[codes[:-1].long()] * size + codes[1:].long() for codes in sequences])
    count = torch.bincount(pairs, minlength=groups * size).view(groups, size).double()
    after = (count + _BACK_OFF * overall) / (count.sum(1, keepdim=True) + _BACK_OFF)
    return Prior(group, -torch.cat([after, overall[None]]).log2().float())
