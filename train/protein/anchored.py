"""How a network whose decoder reads anchors learns: damaged codes and anchors, no anchors, jittered chains.

Nothing global is asked of it. Losses look at what is near along the chain, and at absolute positions only where anchors
say them, so windows of chains suffice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from structok.geometry import apply, backbone_frames, invert
from structok.protein.anchored import Anchors
from structok.protein.decoder import backbone
from train.protein.data import Batch
from train.protein.tasks import ProteinTask, Training

__all__ = ["AnchoredTask", "Damage", "absolute_error", "bond_error", "local_error"]

_APART = (1, 2, 3, 5, 8, 12, 16, 24)  # residues, how far `local_error` looks
_CN, _CA = 1.33, 3.8  # Å between bonded neighbours


@dataclass(frozen=True)
class Damage:
    """What is done to examples so that tokens become robust.

    Parameters
    ----------
    share, most : share of examples with wrong codes and anchors, and the largest share of them that are wrong
    withheld : share of examples without anchors
    again, jitter, crop : share of a batch that is encoded again, with noise of at most this standard deviation (Å) and
        without up to so many residues at its start; the same codes are wanted
    blur : largest noise on latents before there is a codebook
    absolute, local, chained, bonds, quantizer, consistency : weights of the losses
    """

    share: float = 0.55
    most: float = 0.1
    withheld: float = 0.2
    again: float = 0.25
    jitter: float = 0.2
    crop: int = 24
    blur: float = 0.6
    absolute: float = 1.0
    local: float = 1.0
    chained: float = 1.0
    bonds: float = 0.5
    quantizer: float = 0.25
    consistency: float = 8.0


def local_error(
    frames: Float[Tensor, "b l 4 4"], target: Float[Tensor, "b l 3 3"], mask: Bool[Tensor, "b l"]
) -> Float[Tensor, ""]:
    """Mean distance (Å, at most 10) of atoms of residues a little on, seen from each residue; near ones weigh more."""
    true = backbone_frames(torch.where(mask[..., None, None], target, _SOME.to(target)))
    here = backbone_frames(backbone(torch.eye(4, dtype=frames.dtype, device=frames.device)))
    seen, wanted = invert(frames @ here), invert(true)
    atoms, total, weights = backbone(frames), frames.new_zeros(()), 0.0
    for k in _APART:
        if k >= mask.shape[1]:
            break
        error = apply(seen[:, :-k], atoms[:, k:]) - apply(wanted[:, :-k], target[:, k:].nan_to_num())
        distance = (error.square().sum(-1) + (1e-4 if k == 1 else 1e-2)).sqrt().clamp(max=10)
        weight = (2.0 if k == 1 else 1.0) / k**0.5
        total, weights = total + weight * _mean(distance, mask[:, :-k] & mask[:, k:]), weights + weight
    return total / max(weights, 1e-9)


_SOME = torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 1.0, 0]])  # any residue that has a frame


def absolute_error(
    frames: Float[Tensor, "b l 4 4"], target: Float[Tensor, "b l 3 3"], mask: Bool[Tensor, "b l"]
) -> Float[Tensor, ""]:
    """Distance of atoms, squared below 2 Å, linear beyond, cut off at 30."""
    square = (backbone(frames) - target.nan_to_num()).square().sum(-1)
    huber = torch.where(square < 4, square / 2, 2 * (square + 1e-6).sqrt() - 2).clamp(max=30)
    return _mean(huber + 0.3 * (square + 0.01).sqrt(), mask)


def bond_error(
    frames: Float[Tensor, "b l 4 4"], target: Float[Tensor, "b l 3 3"], mask: Bool[Tensor, "b l"]
) -> Float[Tensor, ""]:
    """Mean deviation (Å) of C-N and CA-CA of neighbours; cis bonds, which are rare, cost 0.85 Å."""
    x = backbone(frames)
    error = ((x[:, 1:, 0] - x[:, :-1, 2]).norm(dim=-1) - _CN).abs().clamp(max=1.5)
    error = error + ((x[:, 1:, 1] - x[:, :-1, 1]).norm(dim=-1) - _CA).abs().clamp(max=1.0)
    return _mean(error[..., None], mask[:, 1:] & mask[:, :-1])


def _mean(values: Float[Tensor, "b l a"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, ""]:
    return (values * mask[..., None]).sum() / (mask.sum().clamp(min=1) * values.shape[-1])


class AnchoredTask(ProteinTask):
    """Autoencoding with anchors; validated as it is used, with all of them.

    Parameters
    ----------
    points : that anchors are quantised to, in the unit ball
    """

    points: Tensor

    def __init__(
        self,
        model: Any,
        settings: Training,
        damage: Damage,
        points: Float[Tensor, "k 3"],
        export: Callable[[Any], None] | None = None,
        samples: str = "",
    ) -> None:
        super().__init__(model, settings, export, samples)
        self.damage = damage
        self.register_buffer("points", points.clone())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        d, model, mask, anchors = self.damage, self.model, batch.mask, batch.anchors
        assert anchors is not None
        again, seen = self._again(batch)
        some = len(again)
        coords, masks = torch.cat([batch.coords, again]), torch.cat([mask, seen])
        latents = model.encode(model.graph(coords, masks, torch.cat([batch.types, batch.types[:some]])), masks)
        z, repeated = latents[: len(mask)], latents[len(mask) :]
        self.start(model.quantizer)
        self.keep(model.quantizer, z[mask])
        vectors, codes, commitment = model.quantizer(z, mask)
        if model.quantizer.bypass:
            wanted = z[:some].detach()
            grown = min(1.0, self.global_step / max(1, self.settings.continuous))
            vectors = vectors + d.blur * (0.25 + 0.75 * grown) * torch.randn_like(z)
        else:
            wanted = model.quantizer.lookup(codes[:some]).detach()
            vectors, anchors = self._damaged(vectors, codes, anchors, mask)
        given = torch.rand(len(mask), device=self.device) >= d.withheld
        anchors = anchors._replace(known=anchors.known & given[:, None])
        made = model.frames(vectors, mask, anchors)
        losses = {
            "absolute": sum(
                w * absolute_error(f, batch.target, mask & given[:, None]) for w, f in _late(made.corrected, 0.4)
            ),
            "local": sum(w * local_error(f, batch.target, mask) for w, f in _late(made.corrected, 0.3)),
            "chained": local_error(made.chained, batch.target, mask),
            "bonds": bond_error(made.frames, batch.target, mask),
            "quantizer": commitment,
            "consistency": _mean((repeated - wanted).square(), seen & mask[:some]),
        }
        total = sum(getattr(d, name) * value for name, value in losses.items())
        self.log_dict({f"loss/{name}": value for name, value in losses.items()}, batch_size=len(mask))
        self.log("loss/total", total, batch_size=len(mask), prog_bar=True)
        return total

    def _again(self, batch: Batch) -> tuple[Float[Tensor, "j l 3 3"], Bool[Tensor, "j l"]]:
        """Some of the chains with noise, and cropped at their start."""
        count = max(1, round(self.damage.again * len(batch.mask)))
        coords, mask = batch.coords[:count], batch.mask[:count]
        sigma = self.damage.jitter * torch.rand(count, 1, 1, 1, device=self.device)
        cut = torch.randint(0, self.damage.crop, (count, 1), device=self.device)
        cut = cut * (torch.rand(count, 1, device=self.device) < 0.5) * (mask.sum(1, keepdim=True) > 2 * cut)
        left = mask & (torch.arange(mask.shape[1], device=self.device) >= cut)
        return coords + sigma * torch.randn_like(coords), left

    def _damaged(
        self, vectors: Float[Tensor, "b l d"], codes: Int[Tensor, "b l"], anchors: Anchors, mask: Bool[Tensor, "b l"]
    ) -> tuple[Float[Tensor, "b l d"], Anchors]:
        """Some codes and anchors replaced by any; a wrong code has no gradient."""
        d, device = self.damage, self.device
        rate = d.most * torch.rand(len(mask), 1, device=device) * (torch.rand(len(mask), 1, device=device) < d.share)
        hit = (torch.rand(mask.shape, device=device) < rate) & mask
        wrong = torch.randint(0, len(self.model.quantizer.codebook), codes.shape, device=device)
        vectors = torch.where(hit[..., None], self.model.quantizer.lookup(wrong), vectors)
        hit = (torch.rand(anchors.known.shape, device=device) < rate) & anchors.known
        wrong = torch.randint(0, len(self.points), hit.shape, device=device)
        anywhere = self.points[wrong] * anchors.radius[:, None, None]
        return vectors, anchors._replace(positions=torch.where(hit[..., None], anywhere, anchors.positions))


def _late(corrected: list[Float[Tensor, "b l 4 4"]], early: float) -> list[tuple[float, Float[Tensor, "b l 4 4"]]]:
    """Weights of the corrections: the last counts whole, those before it a part."""
    return [(1.0 if f is corrected[-1] else early, f) for f in corrected]
