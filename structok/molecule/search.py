"""Closed-loop assignment for molecules: codes whose reconstruction is close to the target.

A beam search over a `Placement`: `search_cpu` on a CPU, that of `structok.codebook.search` elsewhere.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from structok.codebook.search import beam_search
from structok.molecule.placement import Coords, Placement, is_compiled, position
from structok.molecule.topo import code_cost

__all__ = ["PRIOR", "Growth", "closed_loop", "in_torch"]

PRIOR = 1e-6  # Å²; keeps the superposition at the starting pose where the atoms placed so far leave it free
_SPARE = 8  # codes beyond the beam that are measured again: scores are rounded


class _State(NamedTuple):
    """Hypotheses, with the sums from which the truth is superposed on what each has rebuilt."""

    coords: Coords
    total: Float[Tensor, "b h 3"]  # sum of rebuilt positions
    product: Float[Tensor, "b h 3 3"]  # sum of (true ⊗ rebuilt)


class Growth:
    """Expansion of a `Placement` towards a target, in torch: for other devices than a CPU.

    The error of an atom is measured after superposing the true positions of the atoms placed so far on
    their rebuilt ones (Kabsch), anew for each hypothesis and step: no pose has to be held on to.
    """

    def __init__(self, placement: Placement, target: Float[Tensor, "b n 3"], beam: int):
        self.placement, self.target, self.beam = placement, target, beam
        self.length = placement.bond_lengths(target)
        self.target_total = target.cumsum(1)

    def start(self, n: int) -> _State:
        coords = self.placement.start(n)
        zero = coords.new_zeros(len(coords), 1, 3)
        return _State(coords, zero, zero[..., None].expand(-1, -1, 3, 3))

    def _superposed(self, state: _State, step: int) -> Float[Tensor, "b h 3"]:
        """True position of atom `step`, moved with the atoms before it onto their rebuilt positions."""
        target = self.target[:, None, step]
        if step < 3:
            return target.expand_as(state.total)
        true_centre = self.target_total[:, None, step - 1] / step
        centre = state.total / step
        covariance = state.product - step * true_centre[..., None] * centre[..., None, :]
        u, _, vt = torch.linalg.svd(covariance + PRIOR * torch.eye(3, dtype=centre.dtype, device=centre.device))
        flip = torch.ones_like(centre)
        flip[..., 2] = torch.det(u @ vt).sign()
        return torch.einsum("bhi,bhij->bhj", target - true_centre, (u * flip[..., None, :]) @ vt) + centre

    def candidates(self, state: _State, step: int) -> tuple[Float[Tensor, "b h m"], Int[Tensor, "b h m"]]:
        self._at = self.placement.local(state.coords, step)  # `advance` follows with the same state
        origin, axes, table = self._at
        y = torch.einsum("bhij,bhj->bhi", axes, self._superposed(state, step) - origin)
        length = self.length[:, step, None].expand(y.shape[:-1])
        score = code_cost(table.float(), y.float(), length.float(), self.placement.bond_weight)
        code = score.topk(min(self.beam + _SPARE, score.shape[2]), dim=2, largest=False).indices.sort(dim=2).values
        index = code[..., None].expand(*code.shape, 3)
        picked = table[code] if table.ndim == 2 else table.gather(2, index).double()
        # measured again without the expanded square, whose rounding must not rank close codes
        cost = (picked - y[:, :, None]).square().sum(-1)
        if self.placement.bond_weight:
            cost = cost + self.placement.bond_weight * (picked.norm(dim=-1) - length[..., None]).square()
        cost, order = cost.sort(dim=2, stable=True)
        return cost[..., : self.beam], code.gather(2, order[..., : self.beam])

    def advance(self, state: _State, step: int, parent: Int[Tensor, "b h2"], code: Int[Tensor, "b h2"]) -> _State:
        rows = torch.arange(len(parent), device=code.device)[:, None]
        place = position(self._at, parent, code)
        coords = state.coords[rows, parent]
        coords[:, :, step + self.placement.n_virtual] = place
        product = self.target[:, None, step, :, None] * place[..., None, :]
        return _State(coords, state.total[rows, parent] + place, state.product[rows, parent] + product)


@torch.no_grad()
def closed_loop(
    placement: Placement, target: Float[Tensor, "b n 3"], mask: Bool[Tensor, "b n"], *, beam: int
) -> Int[Tensor, "b n"]:
    """Codes whose reconstruction is close to `target`, -1 in padding.

    Parameters
    ----------
    placement : of these molecules
    target : true coordinates (Å, float64), posed by `orient`
    mask : True where there is an atom
    beam : hypotheses kept; 1 is greedy
    """
    if is_compiled(target):
        codes = placement.search_cpu(target, mask.sum(1), beam)
        codes[:, 0] = placement.first_code
        return codes
    return in_torch(placement, target, mask, beam)[0]


@torch.no_grad()
def in_torch(
    placement: Placement, target: Float[Tensor, "b n 3"], mask: Bool[Tensor, "b n"], beam: int
) -> tuple[Int[Tensor, "b n"], Float[Tensor, " b"]]:
    """`closed_loop` for other devices than a CPU: codes, and what they cost."""
    growth = Growth(placement, target, beam)
    codes, cost = beam_search(growth, growth.start(target.shape[1]), mask, beam=beam, start=1)
    codes[:, 0] = placement.first_code
    return codes, cost
