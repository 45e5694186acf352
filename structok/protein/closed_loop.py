"""Closed-loop assignment for the chained head: each code is picked against the chain rebuilt so far.

It needs a decoder without transformer, whose steps depend on their own code only: then code k is a rigid step
T_k, and with λ between rebuilding well and staying near the encoder's latent z, the search minimises

    sum over residues |x(true) - x(rebuilt)|² + λ |z - e_k|²

over N, CA, C of the residue that each code places, that is the next observed one.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from structok.codebook.nearest import nearest_code
from structok.codebook.search import beam_search
from structok.geometry import apply, gram_schmidt, invert, rigid
from structok.protein.decoder import backbone, frames_from_numbers
from structok.protein.model import GCPVQVAEModel

__all__ = ["closed_loop_codes"]


class _StepSearch:
    """Extends chains of frames by the steps of a codebook; the state is the last frame of each hypothesis."""

    def __init__(
        self,
        model: GCPVQVAEModel,
        goals: Float[Tensor, "b n 3 3"],
        latents: Float[Tensor, "b n d"],
        latent_weight: float,
        beam: int,
    ) -> None:
        codebook = model.quantizer.codebook
        self.steps = frames_from_numbers(model.decoder.numbers(codebook[None])[0].double())
        self.goals, self.candidate_count = goals, min(beam, len(codebook))
        # one squared distance in the joint space of atoms and latents is the cost
        root = latent_weight**0.5
        self.table = torch.cat([backbone(self.steps).flatten(1).float(), root * codebook], 1)
        self.latents = root * latents

    def candidates(
        self, frames: Float[Tensor, "b h 4 4"], step: int
    ) -> tuple[Float[Tensor, "b h m"], Int[Tensor, "b h m"]]:
        goal = apply(invert(frames), self.goals[:, None, step + 1]).flatten(2).float()
        latent = self.latents[:, None, step].expand(-1, goal.shape[1], -1)
        cost, code = nearest_code(torch.cat([goal, latent], -1), self.table, k=self.candidate_count)
        if self.candidate_count == 1:
            cost, code = cost[..., None], code[..., None]
        return cost, code.long()

    def advance(
        self,
        frames: Float[Tensor, "b h 4 4"],
        step: int,
        parent: Int[Tensor, "b h2"],
        code: Int[Tensor, "b h2"],
    ) -> Float[Tensor, "b h2 4 4"]:
        return frames.gather(1, parent[..., None, None].expand(-1, -1, 4, 4)) @ self.steps[code]


@torch.no_grad()
def closed_loop_codes(
    model: GCPVQVAEModel,
    coords: Float[Tensor, "b l 3 3"],
    mask: Bool[Tensor, "b l"],
    latents: Float[Tensor, "b l d"],
    *,
    beam: int,
    latent_weight: float = 0.0,
) -> Int[Tensor, "b l"]:
    """Codes of a padded batch, -1 where `mask` is False.

    Parameters
    ----------
    model : with `head='chained'` and `decoder_depth=0`
    coords : true N, CA, C, Å; anything where `mask` is False
    latents : of the encoder; the last observed residue, which places nothing, gets the nearest code
    beam : hypotheses kept per chain
    latent_weight : λ in Å² per unit of the latent space; 0 looks at the coordinates only
    """
    seen = [row.nonzero()[:, 0] for row in mask]
    goals = pad_sequence([x[s].double() for x, s in zip(coords, seen)], True)
    near = pad_sequence([z[s].float() for z, s in zip(latents, seen)], True)
    count = mask.sum(1, keepdim=True)
    active = torch.arange(goals.shape[1] - 1, device=mask.device) < count - 1
    n, ca, c = goals[:, :1].unbind(2)
    start = rigid(gram_schmidt(ca - c, n - ca), ca)
    search = _StepSearch(model, goals, near, latent_weight, beam)
    found, _ = beam_search(search, start, active, beam=beam)
    codes = torch.full(mask.shape, -1, device=mask.device)
    for row, picked, z, s in zip(codes, found, near, seen):
        row[s[:-1]] = picked[: len(s) - 1]
        row[s[-1]] = model.quantizer.nearest(z[len(s) - 1])
    return codes
