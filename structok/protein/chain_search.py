"""Beam search for chains of rigid steps: which codes extend which hypotheses, exactly and in few operations.

The hypotheses of a chain are close to each other, so the codes that could be of use to any of them are those
around one point. `Neighbourhoods` holds the codes around each of some centres; a slot is scored against one
neighbourhood, and against the whole codebook where a code from outside could have been better.

Here components come first and hypotheses last, so that every operation runs along long rows.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from structok.codebook.kmeans import kmeans
from structok.codebook.nearest import smallest

__all__ = ["ChainSearch", "Neighbourhoods", "StepTable"]

_CENTRES, _NEAR = 256, 768  # neighbourhoods of a codebook, and codes in each
_FEW, _ROWS = 4, 64  # hypotheses of a chain, and of all chains, below which the whole codebook is as quick
_BLOCK = 1 << 17  # scores at once, so that they are reduced while in cache
_SPARE = 8  # extensions beyond the beam that are measured again: scores are rounded
_SAFE = 1e-4  # Å, more than the rounding of the distances that a proof rests on


class Neighbourhoods(NamedTuple):
    """The codes nearest to each of some centres; no other code is nearer to centre i than `radius[i]`, Å."""

    centre: Float[Tensor, "c 9"]
    half_norm: Float[Tensor, " c"]
    code: Int[Tensor, "c m"]
    table: Float[Tensor, "c 11 m"]
    radius: Float[Tensor, " c"]


class StepTable:
    """A codebook of steps as the search needs it, about its mean.

    Parameters
    ----------
    steps : step k as nine numbers, Å
    transforms : the same steps as frames, float64
    vectors : of the codes in the latent space
    group : group of each code, see `Prior`
    """

    def __init__(
        self,
        steps: Float[Tensor, "k 9"],
        transforms: Float[Tensor, "k 4 4"],
        vectors: Float[Tensor, "k d"],
        group: Int[Tensor, " k"] | None = None,
    ) -> None:
        self.steps, self.vectors = steps.double().T.contiguous(), vectors
        self.half_square = vectors.square().sum(1) / 2
        number = torch.zeros_like(transforms[:, 0, :1]) if group is None else group[:, None].double()
        self.poses = torch.cat([transforms[:, :3, :3].flatten(1), transforms[:, :3, 3], number], 1).T.contiguous()
        self.middle = steps.double().mean(0)
        self.local = (steps.double() - self.middle).float()
        self.table = _columns(self.local)
        # on a GPU one large product beats many small ones
        self.has_near = steps.device.type == "cpu" and len(steps) >= 2 * _NEAR

    @cached_property
    def near(self) -> Neighbourhoods:
        """Made on first use; several threads may each make the same one."""
        centre = kmeans(self.local, _CENTRES, iterations=4, generator=torch.Generator().manual_seed(0))
        distance = torch.cdist(centre, self.local, compute_mode="donot_use_mm_for_euclid_dist")
        value, code = distance.topk(_NEAR + 1, dim=1, largest=False)
        code = code[:, :_NEAR].sort(dim=1).values
        table = torch.stack([_columns(self.local[row]) for row in code])
        return Neighbourhoods(centre, centre.square().sum(1) / 2, code, table, value[:, -1] - _SAFE)


def _columns(codes: Float[Tensor, "m 9"]) -> Float[Tensor, "11 m"]:
    """Columns whose products with (-2 w x, w, w |x|² + c) are w |x - e|² + c."""
    norm = codes.double().square().sum(1, keepdim=True).float()
    return torch.cat([codes, norm, torch.ones_like(norm)], 1).T.contiguous()


class _Slot(NamedTuple):
    """What extends the hypotheses of some chains by one residue: goals in their last frames, and scores."""

    cost: Float[Tensor, "b h"]
    goal: Float[Tensor, "9 b h"]
    query: Float[Tensor, "11 b h"]
    weight: Float[Tensor, " b"]
    latent: Float[Tensor, "b d"] | None
    pull: Float[Tensor, " b"] | None
    after: Int[Tensor, "b h"] | None

    def of(self, rows: Int[Tensor, " r"]) -> _Slot:
        goal, query = self.goal.index_select(1, rows), self.query.index_select(1, rows)
        latent, pull, after = (None if part is None else part[rows] for part in (self.latent, self.pull, self.after))
        return _Slot(self.cost[rows], goal, query, self.weight[rows], latent, pull, after)


class ChainSearch:
    """Extends partial chains; the state is the pose of the last rebuilt residue, its rotation row by row, then its
    origin, and the group of its code (`Prior`).

    Parameters
    ----------
    codes : the codebook
    coords, weight, active : residues to rebuild in Å, the weights of their squared errors, and which there are
    latents, pull : finite vectors that codes should be near to and the weight of that, 0 where there is no latent
    own : whether the latents are steps, as the codes themselves; else `codes.vectors` are compared with them
    price : what each code costs after a code of each group, Å²; the last row is for the first code
    """

    def __init__(
        self,
        codes: StepTable,
        coords: Float[Tensor, "b l 3 3"],
        weight: Float[Tensor, "b l"],
        active: Bool[Tensor, "b l"],
        latents: Float[Tensor, "b l d"] | None = None,
        pull: Float[Tensor, "b l"] | None = None,
        *,
        own: bool = True,
        price: Float[Tensor, "g+1 k"] | None = None,
    ) -> None:
        self.codes, self.weight, self.active, self.price = codes, weight, active, price
        self.coords = coords.permute(1, 2, 3, 0)[..., None].contiguous()
        self.latents, self.pull, self.own = latents, pull, own
        self.row = torch.arange(len(coords), device=coords.device)[:, None]

    def start(self, frames: Float[Tensor, "b 4 4"]) -> Float[Tensor, "13 b 1"]:
        """The state of one hypothesis per chain."""
        none = torch.full_like(frames[:, 0, :1], 0 if self.price is None else len(self.price) - 1)
        return torch.cat([frames[:, :3, :3].flatten(1), frames[:, :3, 3], none], 1).T[..., None].contiguous()

    def extend(
        self, state: Float[Tensor, "13 b h"], cost: Float[Tensor, "b h"], step: int, keep: int
    ) -> tuple[Float[Tensor, "b n"], Int[Tensor, "b n"], Int[Tensor, "b n"]]:
        slot, aim, weight = self._slot(state, cost, step)
        few = cost.shape[1] < _FEW or cost.numel() < _ROWS
        if few or not self.codes.has_near or keep + _SPARE > _NEAR or (slot.latent is not None and not self.own):
            return self._best(slot, keep)
        near = self.codes.near
        which = torch.addmm(near.half_norm, aim.mean(2).float().T, near.centre.T, alpha=-1.0).argmin(1)
        score = torch.bmm(slot.query.permute(1, 2, 0), near.table.index_select(0, which))
        if slot.after is not None and self.price is not None:
            score += self.price[slot.after[..., None], near.code.index_select(0, which)[:, None]]
        total, parent, code = self._measure(slot, score, near.code.index_select(0, which), keep)
        # a code from outside is at least this far from a hypothesis' goal
        apart = (aim - near.centre.index_select(0, which).T[..., None]).square_().sum(0).sqrt_()
        least = (near.radius[which, None] - apart).clamp_(min=0).square_() * weight[:, None] + cost
        unsure = (least < total[:, -1:]).any(1) & self.active[:, step]
        if len(rows := unsure.nonzero()[:, 0]):
            total[rows], parent[rows], code[rows] = self._best(slot.of(rows), keep)
        return total, parent, code

    def _slot(
        self, state: Float[Tensor, "13 b h"], cost: Float[Tensor, "b h"], step: int
    ) -> tuple[_Slot, Float[Tensor, "9 b h"], Float[Tensor, " b"]]:
        """The slot, and the points (about the codes' mean) and weights of the squares that its scores stand for."""
        rotation, origin = state[:9].unflatten(0, (3, 3)), state[9:12]
        # elementwise rather than batched products: the result must not depend on the batch size
        goal = ((self.coords[step] - origin)[:, :, None] * rotation).sum(1).flatten(0, 1)
        aim, weight, base = goal - self.codes.middle[:, None, None], self.weight[:, step], cost
        latent = pull = None
        if self.latents is not None and self.pull is not None:
            latent, pull = self.latents[:, step], self.pull[:, step]
        if latent is not None and pull is not None and self.own:
            # w |x - e|² + λ |z - e|² is (w + λ) times the square about the point between, and a constant
            z = (latent.double() - self.codes.middle).T[..., None]
            both = weight + pull
            share = (pull / both)[:, None]
            base = base + weight[:, None] * share * (aim - z).square().sum(0)
            aim, weight = aim + share * (z - aim), both
        scale = weight[:, None]
        base = aim.square().sum(0).mul_(scale).add_(base)
        base -= base.amin(1, keepdim=True)
        query = torch.empty(11, *cost.shape, device=cost.device)
        torch.mul(aim, -2 * scale, out=query[:9])
        query[9], query[10] = scale, base
        after = None if self.price is None else state[12].long()
        return _Slot(cost, goal, query, self.weight[:, step], latent, pull, after), aim, weight

    def _best(self, slot: _Slot, keep: int) -> tuple[Float[Tensor, "b n"], Int[Tensor, "b n"], Int[Tensor, "b n"]]:
        """The best extensions by any codes."""
        b, h = slot.cost.shape
        chains = _BLOCK // (h * self.codes.table.shape[1]) or 1
        if b > chains and not slot.cost.is_cuda:
            parts = [self._best(slot.of(rows), keep) for rows in self.row[:b, 0].split(chains)]
            total, parent, code = zip(*parts)
            return torch.cat(total), torch.cat(parent), torch.cat(code)
        score = (slot.query.flatten(1).T @ self.codes.table).view(b, h, -1)
        if slot.latent is not None and slot.pull is not None and not self.own:
            miss = torch.addmm(self.codes.half_square, slot.latent, self.codes.vectors.T, alpha=-1.0)
            score = score.add_((2 * slot.pull[:, None] * miss)[:, None])
        if slot.after is not None and self.price is not None:
            score += self.price[slot.after]
        return self._measure(slot, score, None, keep)

    def _measure(
        self, slot: _Slot, score: Float[Tensor, "b h m"], codes: Int[Tensor, "b m"] | None, keep: int
    ) -> tuple[Float[Tensor, "b n"], Int[Tensor, "b n"], Int[Tensor, "b n"]]:
        """The extensions of lowest score, measured again in float64, so that rounding does not rank close codes.

        Ties go to the earlier hypothesis, then to the lower code.
        """
        b, h, size = score.shape
        at = smallest(score.flatten(1), min(keep + _SPARE, h * size)).sort(dim=1).values
        parent, code = at // size, at % size
        if codes is not None:
            code = codes.gather(1, code)
        goal = slot.goal.flatten(1).index_select(1, (parent + h * self.row[:b]).flatten())
        error = goal.sub_(self.codes.steps.index_select(1, code.flatten())).square_().sum(0).view(b, -1)
        total = slot.cost.gather(1, parent).addcmul_(error, slot.weight[:, None])
        if slot.latent is not None and slot.pull is not None:
            far = (slot.latent[:, None].double() - self.codes.vectors[code]).square().sum(-1)
            total += far * slot.pull[:, None]
        if slot.after is not None and self.price is not None:
            total += self.price[slot.after.gather(1, parent), code]
        total, order = total.sort(dim=1, stable=True)
        order = order[:, :keep]
        return total[:, :keep], parent.gather(1, order), code.gather(1, order)

    def advance(
        self, state: Float[Tensor, "13 b h"], step: int, parent: Int[Tensor, "b n"], code: Int[Tensor, "b n"]
    ) -> Float[Tensor, "13 b n"]:
        b, h = state.shape[1:]
        old = state.flatten(1).index_select(1, (parent + h * self.row).flatten())
        new = self.codes.poses.index_select(1, code.flatten())
        rotation = old[:9].view(3, 3, -1)
        # rotation times (rotation of the step, its origin): rows of the first, columns of the second
        columns = torch.cat([new[:9].view(3, 3, -1), new[9:12, None]], 1)
        product = (rotation[:, :, None] * columns).sum(1)
        product[:, 3] += old[9:12]
        return torch.cat([product[:, :3].flatten(0, 1), product[:, 3], new[12:]]).view(13, b, -1)
