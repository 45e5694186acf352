"""Training of a GCP-VQVAE whose decoder reads anchors.

Windows of chains get anchors made up on the way: in a frame turned at random, on the points of a ball as large as that
of a chain the window may be cut from, chosen as `GCPVQVAE.sketch` chooses them. Some codes and anchors are replaced at
random, some windows have no anchors, and some are encoded twice, the second time with noise and an end cut off, to get
the same codes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from structok.codebook.nearest import nearest_code
from structok.polymer.anchors import RADII, AnchorPoints, load_points, radius_code
from structok.polymer.shaping import shape_anchors
from structok.protein.anchored import Anchors, Decoded
from structok.protein.decoder import backbone
from structok.protein.losses import bond_error, position_error, relative_error
from train.protein.data import Batch
from train.protein.tasks import ProteinTask, Training

__all__ = ["AnchoredTask", "Damage", "make_anchors"]

_LARGER = 3  # √2 to this power: how much larger than the window's own ball the chain's may be
_CANDIDATES = 16


@dataclass(frozen=True)
class Damage:
    """What examples go through.

    Parameters
    ----------
    withheld : share of examples without anchors
    damaged, most : share of examples with wrong codes and anchors, and the largest share of them that is wrong
    twice : share of examples that are encoded again
    jitter, cut : of the second time: largest standard deviation of the noise, Å, and residues cut off at most
    steady : weight of the squared distance of its latents from the first codes
    noise : standard deviation of noise on the latents as long as there is no codebook
    """

    withheld: float = 0.2
    damaged: float = 0.55
    most: float = 0.1
    twice: float = 0.25
    jitter: float = 0.2
    cut: int = 24
    steady: float = 8.0
    noise: float = 0.6


def make_anchors(
    target: Float[Tensor, "b l 3 3"], mask: Bool[Tensor, "b l"], spacing: int, points: AnchorPoints
) -> Anchors:
    """Anchors of windows, in the windows' own coordinates."""
    ball = points.points.double()
    positions, radius = [], []
    for x, seen in zip(target[:, :, 1].double(), mask):
        centre = x[seen].mean(0)
        turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
        reach = (x[seen] - centre).norm(dim=-1).max()
        size = RADII[radius_code(reach) + torch.randint(_LARGER + 1, ())]
        shift = (
            (size - reach) * torch.nn.functional.normalize(torch.randn(3, dtype=torch.float64), dim=0) * torch.rand(())
        )
        here, known = x[::spacing], seen[::spacing]
        local = (here[known] - centre) @ turn + shift
        near = ball[nearest_code((local / size).float(), points.points, k=_CANDIDATES)[1].long()] * size
        pick = shape_anchors(local, near)
        placed = torch.full_like(here, torch.nan)
        placed[known] = (near[torch.arange(len(pick)), pick] - shift) @ turn.T + centre
        positions.append(placed)
        radius.append(size)
    stacked = torch.stack(positions).to(target.dtype)
    known = stacked.isfinite().all(-1)
    return Anchors(stacked.nan_to_num(), known, torch.stack(radius).to(target.dtype))


class AnchoredTask(ProteinTask):
    """As `ProteinTask`, with anchors; its losses are those of frames where anchors put them."""

    def __init__(
        self,
        model: Any,
        settings: Training,
        damage: Damage,
        export: Callable[[Any], None] | None = None,
        samples: str = "",
    ) -> None:
        super().__init__(model, settings, export, samples)
        self.damage = damage
        self.points = load_points(model.config.anchors.points)

    def anchors(self, batch: Batch) -> Anchors:
        """Made on the CPU."""
        made = make_anchors(batch.target.cpu(), batch.mask.cpu(), self.model.config.anchors.spacing, self.points)
        return Anchors(*(x.to(self.device) for x in made))

    def rebuild(
        self,
        model: Any,
        batch: Batch,
    ) -> tuple[Float[Tensor, "b l 3 3"], Int[Tensor, "b l"], Float[Tensor, ""]]:
        made = model(model.graph(batch.coords, batch.mask, batch.types), batch.mask, self.anchors(batch))
        return made.coords, made.codes, made.quantizer_loss

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        d, model, quantizer = self.damage, self.model, self.model.quantizer
        self.start_codebook()
        count = round(d.twice * len(batch.mask))
        coords, mask = self._again(batch, count)
        latents = model.encode(model.graph(coords, mask, torch.cat([batch.types, batch.types[:count]])), mask)
        first, second = latents[: len(batch.mask)], latents[len(batch.mask) :]
        quantized = quantizer(first, batch.mask)
        vectors = quantized.vectors
        if quantizer.bypass:
            self._latents.append(first.detach()[batch.mask].float())
            vectors, aim = first + d.noise * torch.randn_like(first), first[:count].detach()
        else:
            aim = quantizer.lookup(quantized.codes[:count]).detach()
        both = (mask[len(batch.mask) :] & batch.mask[:count])[..., None]
        steady = ((second - aim).square() * both).sum() / (both.sum() * first.shape[-1]).clamp(min=1)
        anchors = self.anchors(batch)
        told = torch.rand(len(first), device=self.device) >= d.withheld
        anchors = anchors._replace(known=anchors.known & told[:, None])
        if not quantizer.bypass:
            vectors, anchors = self._spoil(vectors, batch.mask, anchors)
        decoded = model.frames(vectors, batch.mask, anchors)
        losses = self._losses(decoded, batch, told)
        total = sum(losses.values()) + 0.25 * quantized.loss + d.steady * steady
        named = {**losses, "steady": steady, "quantizer": quantized.loss, "total": total}
        self.log_dict({f"loss/{name}": value for name, value in named.items()}, batch_size=len(first))
        return total

    def _losses(self, decoded: Decoded, batch: Batch, told: Bool[Tensor, " b"]) -> dict[str, Tensor]:
        chained, last = backbone(decoded.chained), backbone(decoded.frames)
        place = sum(
            weight * position_error(backbone(frames), batch.target, batch.mask)
            for frames, weight in zip(decoded.corrected[::-1], (1.0, 0.4))
        )
        return {
            "position": (place * told).sum() / told.sum().clamp(min=1),
            "relative": relative_error(last, batch.target, batch.mask).mean(),
            "chained": relative_error(chained, batch.target, batch.mask).mean(),
            "bonds": 0.5 * bond_error(last, batch.target, batch.mask).mean(),
        }

    def _again(self, batch: Batch, count: int) -> tuple[Float[Tensor, "m l 3 3"], Bool[Tensor, "m l"]]:
        """The batch, and its first examples once more with noise, some without their first residues."""
        d, x, mask = self.damage, batch.coords[:count], batch.mask[:count]
        noise = d.jitter * torch.rand(count, 1, 1, 1, device=x.device) * torch.randn_like(x)
        cut = torch.randint(0, d.cut + 1, (count, 1), device=x.device) * (torch.rand(count, 1, device=x.device) < 0.5)
        kept = mask & (torch.arange(mask.shape[1], device=x.device) >= cut)
        return torch.cat([batch.coords, x + noise]), torch.cat([batch.mask, kept])

    def _spoil(
        self, vectors: Float[Tensor, "b l d"], mask: Bool[Tensor, "b l"], anchors: Anchors
    ) -> tuple[Float[Tensor, "b l d"], Anchors]:
        """Random codes and anchors in place of some."""
        d, book = self.damage, self.model.quantizer.codebook.detach()
        rate = d.most * torch.rand(len(mask), 1, device=mask.device)
        rate = rate * (torch.rand_like(rate) < d.damaged)
        wrong = (torch.rand(mask.shape, device=mask.device) < rate) & mask
        other = book[torch.randint(len(book), mask.shape, device=mask.device)]
        ball = self.points.points.to(mask.device)
        middle = (anchors.positions * anchors.known[..., None]).sum(1) / anchors.known.sum(1, keepdim=True).clamp(min=1)
        anywhere = (
            ball[torch.randint(len(ball), anchors.known.shape, device=mask.device)] * anchors.radius[:, None, None]
        )
        off = (torch.rand(anchors.known.shape, device=mask.device) < rate) & anchors.known
        positions = torch.where(off[..., None], anywhere + middle[:, None], anchors.positions)
        return torch.where(wrong[..., None], other, vectors), anchors._replace(positions=positions)
