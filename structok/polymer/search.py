"""Beam search for chains of rigid steps: which codes extend which hypotheses.

Tensors of any device, all chains of a batch at once: the scores of all codes for all hypotheses are one matrix
product. On the CPU `search_cpu` gives the same codes in a fraction of the time.

Here components come first and hypotheses last, so that every operation runs along long rows.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from structok.codebook.nearest import smallest

__all__ = ["ChainSearch", "StepTable", "pose_rows"]

_SPARE = 8  # extensions beyond the beam that are measured again: scores are rounded


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
        group: Int[Tensor, " k"],
    ) -> None:
        self.steps, self.vectors = steps.double().T.contiguous(), vectors
        self.half_square = vectors.square().sum(1) / 2
        self.poses = torch.cat([pose_rows(transforms), group[:, None].double()], 1).T.contiguous()
        self.middle = steps.double().mean(0)
        self.table = _columns((steps.double() - self.middle).float())


def pose_rows(frames: Float[Tensor, "b 4 4"]) -> Float[Tensor, "b 12"]:
    """The rotation of each frame row by row, then its origin."""
    return torch.cat([frames[:, :3, :3].flatten(1), frames[:, :3, 3]], 1)


def _columns(codes: Float[Tensor, "m 9"]) -> Float[Tensor, "11 m"]:
    """Columns whose products with (-2 w x, w, w |x|² + c) are w |x - e|² + c."""
    norm = codes.double().square().sum(1, keepdim=True).float()
    return torch.cat([codes, norm, torch.ones_like(norm)], 1).T.contiguous()


class ChainSearch:
    """Extends partial chains; the state is the pose of the last rebuilt residue, its rotation row by row, then its
    origin, and the group of its code (`Prior`).

    Parameters
    ----------
    codes : the codebook
    coords, weight : residues to rebuild in Å, and the weights of their squared errors
    latents, pull : finite vectors that codes should be near to and the weight of that, 0 where there is no latent
    price : what each code costs after a code of each group, Å²; the last row is for the first code
    """

    def __init__(
        self,
        codes: StepTable,
        coords: Float[Tensor, "b l 3 3"],
        weight: Float[Tensor, "b l"],
        latents: Float[Tensor, "b l d"] | None = None,
        pull: Float[Tensor, "b l"] | None = None,
        *,
        price: Float[Tensor, "g+1 k"] | None = None,
    ) -> None:
        self.codes, self.weight, self.price = codes, weight, price
        self.coords = coords.permute(1, 2, 3, 0)[..., None].contiguous()
        self.latents, self.pull = latents, pull
        self.row = torch.arange(len(coords), device=coords.device)[:, None]

    def start(self, frames: Float[Tensor, "b 4 4"]) -> Float[Tensor, "13 b 1"]:
        """The state of one hypothesis per chain."""
        none = torch.full_like(frames[:, 0, :1], 0 if self.price is None else len(self.price) - 1)
        return torch.cat([pose_rows(frames), none], 1).T[..., None].contiguous()

    def extend(
        self, state: Float[Tensor, "13 b h"], cost: Float[Tensor, "b h"], step: int, keep: int
    ) -> tuple[Float[Tensor, "b n"], Int[Tensor, "b n"], Int[Tensor, "b n"]]:
        """The best extensions by any codes. Ties go to the earlier hypothesis, then to the lower code."""
        b, h = cost.shape
        rotation, origin, group = state[:9].unflatten(0, (3, 3)), state[9:12], state[12].long()
        # elementwise rather than batched products: the result must not depend on the batch size
        goal = ((self.coords[step] - origin)[:, :, None] * rotation).sum(1).flatten(0, 1)
        aim, weight = goal - self.codes.middle[:, None, None], self.weight[:, step, None]
        base = aim.square().sum(0) * weight + cost
        query = torch.empty(11, b, h, device=cost.device)
        torch.mul(aim, -2 * weight, out=query[:9])
        query[9], query[10] = weight, base - base.amin(1, keepdim=True)
        score = (query.flatten(1).T @ self.codes.table).view(b, h, -1)
        if self.latents is not None and self.pull is not None:
            z, pull = self.latents[:, step], self.pull[:, step, None]
            score += (2 * pull * torch.addmm(self.codes.half_square, z, self.codes.vectors.T, alpha=-1.0))[:, None]
        if self.price is not None:
            score += self.price[group]
        size = score.shape[2]
        at = smallest(score.flatten(1), min(keep + _SPARE, h * size)).sort(dim=1).values
        parent, code = at // size, at % size
        # measured again in float64, so that rounding does not rank close codes
        own = goal.flatten(1).index_select(1, (parent + h * self.row).flatten())
        error = own.sub_(self.codes.steps.index_select(1, code.flatten())).square_().sum(0).view(b, -1)
        total = cost.gather(1, parent).addcmul_(error, weight)
        if self.latents is not None and self.pull is not None:
            total += pull * (z[:, None].double() - self.codes.vectors[code]).square().sum(-1)
        if self.price is not None:
            total += self.price[group.gather(1, parent), code]
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
