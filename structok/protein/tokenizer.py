"""`GCPVQVAE`: backbones to codes and back with a GCP-VQVAE network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from structok.batching import in_batches
from structok.checkpoint import check_tensors, make_config, write_checkpoint
from structok.protein.features import residue_types
from structok.protein.model import GCPVQVAEConfig, GCPVQVAEModel
from structok.protein.tokens import BackboneTokenizer, backbone_of
from structok.structure import Backbone
from structok.tokenizer import Search
from structok.tokens import Tokens

__all__ = ["GCPVQVAE"]


class GCPVQVAE(BackboneTokenizer):
    """Tokenizer of protein backbones: one code per residue, chosen by GCPNet and a transformer.

    Missing residues have code -1 and come back as NaN. A chain is rebuilt in a frame of its own, so superpose
    before comparing coordinates.

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

    def tensors(self) -> dict[str, Tensor]:
        return self.model.state_dict()

    def save(self, folder: str | os.PathLike[str], *, half: bool = False) -> None:
        """Write a checkpoint folder; `half` stores float16, half the size."""
        tensors = {k: v.half() if half and v.is_floating_point() else v for k, v in self.tensors().items()}
        write_checkpoint(folder, self.kind, self.config, tensors)

    @torch.inference_mode()
    def assign(self, items: Sequence[Backbone], search: Search, batch_size: int) -> list[Int[np.ndarray, " l"]]:
        def work(part: list[int]) -> Int[np.ndarray, "b l"]:
            some = [items[i] for i in part]
            coords = pad_sequence([torch.from_numpy(c.coords) for c in some], True, torch.nan).to(self.device)
            mask = pad_sequence([torch.from_numpy(c.mask) for c in some], True).to(self.device)
            types = pad_sequence([residue_types(c.sequence) for c in some], True).to(self.device)
            latents = self.model.encode(self.model.graph(coords, mask, types), mask)
            return torch.where(mask, self.model.quantizer.nearest(latents), -1).cpu().numpy()

        return in_batches(work, [len(c) for c in items], batch_size)

    @torch.inference_mode()
    def rebuild(self, many: Sequence[Tokens], batch_size: int) -> list[Backbone]:
        def work(part: list[int]) -> Float[np.ndarray, "b l 3 3"]:
            codes = pad_sequence([torch.from_numpy(many[i].codes).long() for i in part], True, -1)
            return self.model.decode(codes.to(self.device)).cpu().numpy()

        rows = in_batches(work, [len(t) for t in many], batch_size)
        return [backbone_of(tokens, coords) for tokens, coords in zip(many, rows)]
