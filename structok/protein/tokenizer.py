"""`GCPVQVAE`: backbones to codes and back with a GCP-VQVAE network."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from structok.batching import in_batches
from structok.checkpoint import check_tensors, make_config, write_checkpoint
from structok.codebook.nearest import nearest_code
from structok.errors import TokensError
from structok.geometry import apply, invert
from structok.polymer.anchors import RADII, AnchorPoints, Sketch, load_points
from structok.polymer.repair import Repairs
from structok.polymer.shaping import near_and_shaped
from structok.protein.anchored import Anchors
from structok.protein.features import residue_types
from structok.protein.model import GCPVQVAEConfig, GCPVQVAEModel
from structok.protein.refine import refine_codes
from structok.protein.tokens import BackboneTokenizer, backbone_of
from structok.structure import Backbone
from structok.tokenizer import Search
from structok.tokens import Stream, Tokens, declare

__all__ = ["GCPVQVAE"]

_OPTIONS = 8  # codes near a latent that `refine` tries
_ODD = 0.2  # of the radius; anchors that the chain does not come nearer to are taken to be wrong


class GCPVQVAE(BackboneTokenizer):
    """Tokenizer of protein backbones: one code per residue, chosen by GCPNet and a transformer.

    Missing residues have code -1 and come back as NaN. Where the decoder reads anchors (`config.anchors`), tokens carry
    them and the chain is rebuilt in their frame; tokens without them are decoded from the codes alone. Anchors that the
    chain stays far from are wrong: it is decoded again without them, and `back.repairs` says which. Superpose before
    comparing coordinates.

    Parameters
    ----------
    model : the network, used in evaluation mode
    name : written into the tokens
    device : where the model runs
    """

    kind = "gcp-vqvae"
    sizes = (16, 16)
    missing = True

    def __init__(self, model: GCPVQVAEModel, name: str = "gcp-vqvae", device: str = "cpu") -> None:
        super().__init__(model.config, name, device)
        self.model = model.to(device).eval()

    @classmethod
    def from_checkpoint(
        cls, name: str, config: dict[str, Any], tensors: dict[str, Tensor], *, device: str = "cpu"
    ) -> GCPVQVAE:
        """Build from what `read_checkpoint` returns; strict. Half-precision tensors are widened."""
        with torch.device("meta"):
            model = GCPVQVAEModel(make_config(GCPVQVAEConfig, config, name))
        check_tensors({k: tuple(v.shape) for k, v in model.state_dict().items()}, tensors, name)
        tensors = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
        model.load_state_dict(tensors, assign=True)
        return cls(model, name, device)

    @property
    def streams(self) -> tuple[Stream, ...]:
        if not self.config.anchors:
            return super().streams
        return declare(self.modality, codes=self.codebook_size, anchors=len(self._points))

    @property
    def defaults(self) -> Search:
        return dataclasses.replace(super().defaults, refine=0)

    @cached_property
    def _points(self) -> AnchorPoints:
        assert self.config.anchors
        return load_points(self.config.anchors.points)

    def tensors(self) -> dict[str, Tensor]:
        return self.model.state_dict()

    def save(self, folder: str | os.PathLike[str], *, half: bool = False) -> None:
        """Write a checkpoint folder; `half` stores float16, half the size."""
        tensors = {k: v.half() if half and v.is_floating_point() else v for k, v in self.tensors().items()}
        write_checkpoint(folder, self.kind, self.config, tensors)

    @torch.inference_mode()
    def assign(self, items: Sequence[Backbone], search: Search, batch_size: int) -> list[Int[np.ndarray, " l"]]:
        def work(part: list[int]) -> list[Int[np.ndarray, " l"]]:
            some = [items[i] for i in part]
            coords = pad_sequence([torch.from_numpy(c.coords) for c in some], True, torch.nan).to(self.device)
            mask = pad_sequence([torch.from_numpy(c.mask) for c in some], True).to(self.device)
            types = pad_sequence([residue_types(c.sequence) for c in some], True).to(self.device)
            latents = self.model.encode(self.model.graph(coords, mask, types), mask)
            codes = torch.where(mask, self.model.quantizer.nearest(latents), -1)
            rows = list(codes.cpu().numpy())
            if search.refine:
                for n, chain in enumerate(some):
                    rows[n] = self._refine(chain, codes[n, : len(chain)], latents[n, : len(chain)], search.refine)
            return rows

        return in_batches(work, [len(c) for c in items], batch_size)

    def _refine(
        self, chain: Backbone, codes: Int[Tensor, " l"], latents: Float[Tensor, "l d"], sweeps: int
    ) -> Int[np.ndarray, " l"]:
        """Codes near the latents that rebuild the chain better."""
        target, mask = torch.from_numpy(chain.coords).to(self.device), torch.from_numpy(chain.mask).to(self.device)
        options = nearest_code(latents, self.model.quantizer.codebook, k=_OPTIONS)[1].long()
        anchors = None
        if self.config.anchors:
            sketch = self.sketch(chain)
            target = apply(invert(sketch.frame).float().to(self.device), target.flatten(0, 1)).unflatten(0, (-1, 3))
            anchors = self._anchors([sketch])

        def decode(rows: Int[Tensor, "n l"]) -> Float[Tensor, "n l 3 3"]:
            rows = torch.where(mask, rows, -1)
            repeated = None if anchors is None else Anchors(*(x.expand(len(rows), *x.shape[1:]) for x in anchors))
            return self.model.decode(rows, repeated)

        found, _ = refine_codes(codes, options, decode, target, mask, sweeps=sweeps, superposed=anchors is None)
        return torch.where(mask, found, -1).cpu().numpy()

    @property
    def posed(self) -> bool:  # type: ignore[override]
        return self.config.anchors is not None

    def sketch(self, chain: Backbone) -> Sketch:
        """The anchors of a chain in its body frame."""
        alpha = torch.from_numpy(chain.coords[:, 1])
        assert self.config.anchors
        found = self._points.sketch(alpha, torch.from_numpy(chain.mask), self.config.anchors.spacing)
        here = apply(invert(found.frame), alpha.double()).numpy()
        return found._replace(anchors=torch.from_numpy(self.anchors_at(here, int(found.radius))).long())

    def anchors_at(self, positions: Float[np.ndarray, "l 3"], radius: int) -> Int[np.ndarray, " n"]:
        """Anchors of residues (CA, Å, NaN where missing) in a frame: points near them whose errors cancel."""
        assert self.config.anchors
        here = torch.from_numpy(positions[:: self.config.anchors.spacing]).double()
        known = here.isfinite().all(-1)
        anchors = torch.full((len(here),), -1)
        anchors[known] = near_and_shaped(here[known], self._points.points, float(RADII[radius]))
        return anchors.numpy()

    def tokens(self, item: Backbone, codes: Int[np.ndarray, " l"]) -> Tokens:
        tokens = super().tokens(item, codes)
        if not self.config.anchors:
            return tokens
        sketch = self.sketch(item)
        return dataclasses.replace(
            tokens,
            anchors=sketch.anchors.numpy(),
            radius=int(sketch.radius),
            spacing=self.config.anchors.spacing,
        )

    def check(self, tokens: Tokens) -> None:
        super().check(tokens)
        spacing = self.config.anchors.spacing if self.config.anchors else tokens.spacing
        if tokens.spacing != spacing and tokens.anchors is not None and len(tokens) > min(tokens.spacing, spacing):
            raise TokensError(
                f"{tokens.where}: an anchor every {tokens.spacing} residues, {self.name} reads one every "
                f"{spacing}; drop the anchors, or encode again"
            )

    def _anchors(self, sketches: Sequence[Sketch]) -> Anchors:
        """What the decoder reads of anchors, padded; a row without any where a chain has none."""
        where = [self._points.positions(s.anchors, s.radius) for s in sketches]
        positions = pad_sequence(where, True, torch.nan).float()
        known = positions.isfinite().all(-1)
        radius = torch.stack([RADII[s.radius].float() for s in sketches])
        return Anchors(*(x.to(self.device) for x in (positions.nan_to_num(), known, radius)))

    @torch.inference_mode()
    def rebuild(self, many: Sequence[Tokens], batch_size: int) -> list[Backbone]:
        odd: dict[int, tuple[int, ...]] = {}

        def work(part: list[int]) -> Float[np.ndarray, "b l 3 3"]:
            some = [many[i] for i in part]
            codes = pad_sequence([torch.from_numpy(t.codes).long() for t in some], True, -1).to(self.device)
            anchors = self._anchors([self._told(t) for t in some]) if self.config.anchors else None
            coords = self.model.decode(codes, anchors)
            if anchors is not None and self.config.anchors:
                off = (coords[:, :: self.config.anchors.spacing, 1] - anchors.positions).norm(dim=-1)
                wrong = anchors.known & (off > _ODD * anchors.radius[:, None])
                if wrong.any():
                    coords = self.model.decode(codes, anchors._replace(known=anchors.known & ~wrong))
                    odd.update((i, tuple(row.nonzero()[:, 0].tolist())) for i, row in zip(part, wrong) if row.any())
            return coords.cpu().numpy()

        rows = in_batches(work, [len(t) for t in many], batch_size)
        built = [backbone_of(tokens, coords) for tokens, coords in zip(many, rows)]
        for i, found in odd.items():
            built[i].repairs = Repairs(rejected=found)
        return built

    def _told(self, tokens: Tokens) -> Sketch:
        """The anchors of a record, or as many that are unknown."""
        assert self.config.anchors
        still = torch.eye(4, dtype=torch.float64)
        if tokens.anchors is None or tokens.radius is None:
            count = -(-len(tokens) // self.config.anchors.spacing)
            return Sketch(still, torch.tensor(0), torch.full((count,), -1))
        return Sketch(still, torch.tensor(tokens.radius), torch.from_numpy(tokens.anchors).long())
