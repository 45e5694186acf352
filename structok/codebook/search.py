"""Closed-loop assignment: pick each code against the reconstruction so far (analysis by synthesis).

One beam search for both modalities. What is rebuilt (a chain of residue frames, a tree of atom
frames) is the business of an `Expansion`; this module keeps the beam, batched over structures.
"""

from __future__ import annotations

from functools import partial
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["Expansion", "Selection", "beam_search"]

State = TypeVar("State")


class _Advance(Protocol[State]):
    def advance(self, state: State, step: int, parent: Int[Tensor, "b h2"], code: Int[Tensor, "b h2"]) -> State:
        """State after hypothesis `parent` (index into the old beam) is extended by `code`."""
        ...


class Expansion(_Advance[State], Protocol[State]):
    """How a modality extends partial reconstructions by one slot, each hypothesis for itself."""

    def candidates(self, state: State, step: int) -> tuple[Float[Tensor, "b h m"], Int[Tensor, "b h m"]]:
        """Cost (non-negative, additive; inf = not allowed) and code of m ways to extend each hypothesis."""
        ...


@runtime_checkable
class Selection(_Advance[State], Protocol[State]):
    """How a modality extends partial reconstructions by one slot, where it knows how to find the best at once."""

    def extend(
        self, state: State, cost: Float[Tensor, "b h"], step: int, keep: int
    ) -> tuple[Float[Tensor, "b n"], Int[Tensor, "b n"], Int[Tensor, "b n"]]:
        """Summed cost, parent and code of the `keep` best extensions (of all, if there are fewer), best first."""
        ...


@torch.no_grad()
def beam_search(
    expansion: Expansion[State] | Selection[State],
    state: State,
    active: Bool[Tensor, "b n"],
    *,
    beam: int,
    start: int = 0,
) -> tuple[Int[Tensor, "b n"], Float[Tensor, " b"]]:
    """Minimise the summed cost over n slots with at most `beam` hypotheses per structure.

    Parameters
    ----------
    expansion : scores and extends hypotheses
    state : state of one hypothesis per structure (h = 1)
    active : False where a structure has no slot n (it is shorter than the batch); such slots must be last
    beam : hypotheses kept per structure; 1 is greedy
    start : first slot to search; earlier slots are returned as -1

    Returns
    -------
    codes : the best path, -1 where inactive
    cost : its summed cost

    Ties go to the earlier hypothesis, then to the earlier candidate, so results do not depend on the batch.
    """
    b, n = active.shape
    cost = torch.zeros(b, 1, dtype=torch.float64, device=active.device)
    parents, chosen = [], []
    full = active.all(0).tolist()
    select = expansion.extend if isinstance(expansion, Selection) else partial(_best, expansion)
    for step in range(start, n):
        h = cost.shape[1]
        best, parent, pick = select(state, cost, step, beam)
        keep = best.shape[1]
        if not full[step]:
            # a finished structure keeps its hypotheses as they are; a growing beam pads with copies at infinite cost
            live, slots = active[:, step, None], torch.arange(keep, device=cost.device).expand(b, keep)
            best = torch.where(live, best, torch.where(slots < h, cost.gather(1, slots.clamp(max=h - 1)), torch.inf))
            parent = torch.where(live, parent, slots.clamp(max=h - 1))
            pick = torch.where(live, pick, -1)
        cost = best
        state = expansion.advance(state, step, parent, pick.clamp(min=0))
        parents.append(parent)
        chosen.append(pick)
    codes = torch.full((b, n), -1, dtype=torch.long, device=active.device)
    total_cost, at = cost.min(1)
    at = at[:, None]
    for step in range(n - 1, start - 1, -1):
        codes[:, step] = chosen[step - start].gather(1, at)[:, 0]
        at = parents[step - start].gather(1, at)
    return codes, total_cost


def _best(
    expansion: Expansion[State], state: State, cost: Float[Tensor, "b h"], step: int, keep: int
) -> tuple[Float[Tensor, "b n"], Int[Tensor, "b n"], Int[Tensor, "b n"]]:
    extra, code = expansion.candidates(state, step)
    b, h, m = extra.shape
    total = (cost[:, :, None] + extra.to(cost.dtype)).reshape(b, h * m)
    best, flat = total.topk(min(keep, h * m), dim=1, largest=False, sorted=True)
    return best, flat // m, code.reshape(b, h * m).gather(1, flat)
