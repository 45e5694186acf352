"""A decoder that reads anchors: coarse absolute positions of some residues pin the chain that the codes describe.

1. A transformer over the code vectors says each residue's step to the next (9 numbers, the head of GCP-VQVAE), and the
   steps are composed: locally right, adrift over long ways.
2. Around each residue the drifting chain is superposed on the anchors near it, which starts its absolute frame. Anchors
   far off the superposition lose weight, so that wrong ones and wrong codes do not spread.
3. Transformers that see the anchors from each residue's own frame correct that frame, a few times over. What they read
   and say is local: the result turns with the anchors (SE(3)-equivariant), and windows of chains suffice for training.

Without anchors the chain is that of step 1, corrected by what step 3 makes of it alone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from structok.geometry import apply, invert, kabsch, rigid
from structok.nn.transformer import Transformer
from structok.protein.decoder import chain_frames, frames_from_numbers

__all__ = ["AnchoredDecoder", "Anchors", "Decoded", "superpose_locally"]

_NEAR = 10  # anchors around a residue that its superposition looks at
_SEEN = 6  # anchors that the corrections look at
_ACROSS = 0.02  # weight of an anchor beyond a missing residue
_WIDTH = 16.0  # residues, within which anchors count (standard deviation of a Gaussian)
_OFF = 3.0  # Å from the superposition at which an anchor has lost three quarters of its weight
_LONG = 10.0  # Å, unit of the distances that the network reads
_HELIX = (-3.572, 0.899, 0.964, -0.402, 0.249, -0.881, 0.913, 0.031, -0.408)  # t, x, y of an ideal helix's step


class Anchors(NamedTuple):
    """Coarse positions of every `spacing`-th residue of each chain, in a frame that all of them share.

    Parameters
    ----------
    positions : anchor j belongs to slot j * spacing, Å; anything where not known
    known : whether there is one; all False decodes the codes alone
    radius : of the frame's ball, Å: it says how coarse they are
    """

    positions: Float[Tensor, "b a 3"]
    known: Bool[Tensor, "b a"]
    radius: Float[Tensor, " b"]


class Decoded(NamedTuple):
    """Frames of residues: after all corrections, after each of them, and the steps composed."""

    frames: Float[Tensor, "b l 4 4"]
    corrected: list[Float[Tensor, "b l 4 4"]]
    chained: Float[Tensor, "b l 4 4"]


def near_anchors(length: int, spacing: int, count: int, device: torch.device) -> Int[Tensor, "l c"]:
    """Places in the row of anchors of the `count` around each slot; some lie beyond its ends."""
    slot = torch.arange(length, device=device)
    return slot[:, None] // spacing + torch.arange(-(count // 2 - 1), count // 2 + 1, device=device)


def take(rows: Float[Tensor, "b a *c"], place: Int[Tensor, "l c"]) -> Float[Tensor, "b l c *c"]:
    """Rows at places, whatever beyond the ends."""
    return rows[:, place.clamp(0, rows.shape[1] - 1)]


def superpose_locally(
    chain: Float[Tensor, "b l 4 4"],
    mask: Bool[Tensor, "b l"],
    anchors: Float[Tensor, "b a 3"],
    known: Bool[Tensor, "b a"],
    spacing: int,
) -> Float[Tensor, "b l 4 4"]:
    """For each residue the rigid motion that brings the chain's anchored residues near it onto their anchors.

    Weights fall off along the chain as a Gaussian of `_WIDTH` residues, and are small beyond a missing residue, where
    the chain may be anywhere; a second superposition weighs anchors by their distance after the first (Geman, McClure).
    Where fewer than three anchors are known around it, a residue moves with the nearest that has enough; without any,
    nothing moves.
    """
    length = chain.shape[1]
    place = near_anchors(length, spacing, _NEAR, chain.device)
    here = chain[:, ::spacing, :3, 3]
    inside = (place >= 0) & (place < here.shape[1])
    away = (place * spacing - torch.arange(length, device=chain.device)[:, None]).to(chain.dtype)
    weight = torch.exp(-0.5 * (away / _WIDTH) ** 2) * inside * take(known.to(chain.dtype), place)
    stretch = (~mask).cumsum(1)
    weight = torch.where(take(stretch[:, ::spacing], place) == stretch[..., None], weight, _ACROSS * weight)
    mobile, target = take(here, place), take(torch.where(known[..., None], anchors, 0.0), place)
    move = kabsch(mobile, target, weight)
    off = (apply(move, mobile) - target).square().sum(-1)
    move = kabsch(mobile, target, weight / (1 + off / _OFF**2) ** 2)
    enough = (weight > 0).sum(-1) >= 3
    slot = torch.arange(length, device=chain.device)
    before = torch.where(enough, slot, -1).cummax(1).values
    after = torch.where(enough, slot, length).flip(1).cummin(1).values.flip(1)
    nearest = torch.where((before >= 0) & ((slot - before <= after - slot) | (after >= length)), before, after)
    some = enough.any(1)
    nearest = torch.where(some[:, None], nearest, slot).clamp(0, length - 1)
    move = move.gather(1, nearest[..., None, None].expand_as(move))
    return torch.where(some[:, None, None, None], move, torch.eye(4, device=move.device, dtype=move.dtype))


def turn(q: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3 3"]:
    """Rotation of the unit quaternion along (1, q)."""
    w = (1 + q.square().sum(-1)).rsqrt()
    x, y, z = (q * w[..., None]).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


class Correction(nn.Module):
    """Moves each residue's frame by what a transformer makes of the anchors and neighbours seen from it."""

    def __init__(self, dim: int, depth: int, heads: int, kv_heads: int, multiple: int, reach: int) -> None:
        super().__init__()
        self.see = nn.Linear(4 * _SEEN + 2 * 12 + 9 + 3, dim)
        self.transformer = Transformer(dim, depth, heads, kv_heads, multiple, reach=reach)
        self.norm = nn.LayerNorm(dim)
        self.out = nn.Linear(dim, 6)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self,
        hidden: Float[Tensor, "b l d"],
        frames: Float[Tensor, "b l 4 4"],
        numbers: Float[Tensor, "b l 9"],
        anchors: Float[Tensor, "b a 3"],
        known: Bool[Tensor, "b a"],
        context: Float[Tensor, "b l 3"],
        mask: Bool[Tensor, "b l"],
        spacing: int,
    ) -> tuple[Float[Tensor, "b l d"], Float[Tensor, "b l 4 4"]]:
        place = near_anchors(frames.shape[1], spacing, _SEEN, frames.device)
        inside = ((place >= 0) & (place < anchors.shape[1])) * take(known.to(frames.dtype), place)
        local = (take(torch.where(known[..., None], anchors, 0.0), place) - frames[:, :, None, :3, 3]) @ frames[
            ..., :3, :3
        ]
        local = local / (_LONG + local.norm(dim=-1, keepdim=True)) * inside[..., None]  # however far: within 1
        inverse = invert(frames)
        around = []
        follows = mask & nn.functional.pad(mask[:, 1:], (0, 1))
        for shift, has in ((-1, nn.functional.pad(follows[:, :-1], (1, 0))), (1, follows)):
            other = (inverse @ frames.roll(-shift, 1))[..., :3, :]
            way = other[..., 3] / (_LONG + other[..., 3].norm(dim=-1, keepdim=True))
            around.append(torch.cat([other[..., :3].flatten(-2), way], -1) * has[..., None])
        seen = torch.cat([local.flatten(-2), inside, *around, numbers / _LONG, context], -1)
        hidden = hidden + self.transformer(hidden + self.see(seen.to(hidden.dtype)), mask)
        move = self.out(self.norm(hidden))
        return hidden, frames @ rigid(turn(move[..., 3:]), move[..., :3])


class AnchoredDecoder(nn.Module):
    """See the module.

    Parameters
    ----------
    code_dim : dimension of the code vectors
    dim, depth, heads, kv_heads, multiple : of the transformers, see `Transformer`; `depth` is that of the first
    corrections, correction_depth : how many corrections, and the blocks of each
    reach : slots that a transformer looks away
    spacing : slots from anchor to anchor
    """

    def __init__(
        self,
        code_dim: int,
        dim: int,
        depth: int,
        heads: int,
        kv_heads: int,
        multiple: int,
        *,
        corrections: int,
        correction_depth: int,
        reach: int,
        spacing: int,
    ) -> None:
        super().__init__()
        self.spacing = spacing
        self.into = nn.Linear(code_dim, dim, bias=False)
        self.transformer = Transformer(dim, depth, heads, kv_heads, multiple, reach=reach)
        self.norm = nn.LayerNorm(dim)
        self.out = nn.Linear(dim, 9)
        nn.init.normal_(self.out.weight, std=0.02)
        with torch.no_grad():
            self.out.bias.copy_(torch.tensor(_HELIX))
        self.corrections = nn.ModuleList(
            Correction(dim, correction_depth, heads, kv_heads, multiple, reach) for _ in range(corrections)
        )

    def forward(
        self,
        vectors: Float[Tensor, "b l d"],
        mask: Bool[Tensor, "b l"],
        anchors: Float[Tensor, "b a 3"],
        known: Bool[Tensor, "b a"],
        radius: Float[Tensor, " b"],
    ) -> Decoded:
        """Absolute frames from code vectors and anchors; see `Anchors` and `VectorQuantizer`."""
        hidden = self.transformer(self.into(vectors), mask)
        numbers = self.out(self.norm(hidden))
        with torch.autocast(numbers.device.type, enabled=False):
            numbers = numbers.to(torch.promote_types(numbers.dtype, torch.float32))
            steps = frames_from_numbers(numbers)
            chained = chain_frames(steps, mask)
            with torch.no_grad():
                known = known & mask[:, :: self.spacing]
                move = superpose_locally(chained, mask, anchors, known, self.spacing)
            # the chain learns from what is near; through a whole chain gradients explode with its lever arms
            frames = move @ chained.detach()
        slot = torch.arange(mask.shape[1], device=mask.device) % self.spacing
        phase = slot.to(numbers.dtype) / self.spacing * (2 * torch.pi)
        context = torch.stack(
            [
                phase.sin().expand(mask.shape),
                phase.cos().expand(mask.shape),
                (radius.log() * known.any(1)).to(numbers.dtype)[:, None].expand(mask.shape) / 4,
            ],
            -1,
        )
        corrected = []
        for correction in self.corrections:
            hidden, frames = correction(hidden, frames, numbers, anchors, known, context, mask, self.spacing)
            corrected.append(frames)
        return Decoded(frames, corrected, chained)
