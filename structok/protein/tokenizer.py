"""`GCPVQVAE`: backbones to codes and back with a GCP-VQVAE model, in open or closed loop."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from structok.batching import by_length
from structok.checkpoint import check_tensors, make_config, write_checkpoint
from structok.errors import CheckpointError, InputError, TokensError
from structok.protein.chain_model import ChainModel
from structok.protein.features import residue_types
from structok.protein.model import GCPVQVAEConfig, GCPVQVAEModel
from structok.protein.tokens import backbone_of, check_codes, search_of, tokens_of
from structok.read import as_backbone
from structok.structure import Backbone
from structok.tokens import Tokens

__all__ = ["GCPVQVAE"]


class GCPVQVAE:
    """Tokenizer of protein backbones: one code per residue, chosen by GCPNet and a transformer.

    Missing residues come back as NaN. Their code is -1, or, where codes are rigid steps (`config.local_steps`),
    part of a bridge that leads to the next observed residue; there code i places residue i + 1, and the last
    slot, which places nothing, repeats the code before it. The absolute head rebuilds a chain in a frame of its
    own, so superpose before comparing coordinates.

    Parameters
    ----------
    model : the network, used in evaluation mode
    name : written into the tokens
    device : where the model runs
    """

    modality: ClassVar = "protein"

    def __init__(self, model: GCPVQVAEModel, name: str = "gcp-vqvae", device: str = "cpu") -> None:
        self.model = model.to(device).eval()
        self.config: GCPVQVAEConfig = model.config
        self.name, self.device = name, device
        self.codebook_size, self.max_length = self.config.codebook_size, self.config.max_length
        self._chain: ChainModel | None = None
        if self.config.local_steps:
            codebook = self.model.quantizer.codebook
            steps, breaks = self.model.steps(), self.config.n_break
            self._chain = ChainModel(steps, breaks, vectors=codebook, prior=self.model.prior)

    @classmethod
    def from_checkpoint(
        cls, name: str, config: dict[str, Any], tensors: dict[str, Tensor], *, device: str = "cpu"
    ) -> GCPVQVAE:
        """Build from what `read_checkpoint` returns; strict. Half-precision tensors are widened."""
        if missing := {field.name for field in fields(GCPVQVAEConfig)} - set(config):
            raise CheckpointError(f"{name}: missing config keys {sorted(missing)}")
        with torch.device("meta"):
            model = GCPVQVAEModel(make_config(GCPVQVAEConfig, config, name))
        check_tensors({k: tuple(v.shape) for k, v in model.state_dict().items()}, tensors, name)
        tensors = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
        model.load_state_dict(tensors, assign=True)
        return cls(model, name, device)

    def save(self, folder: str | os.PathLike[str], *, half: bool = False) -> None:
        """Write a checkpoint folder; `half` stores float16, half the size."""
        tensors = self.model.state_dict()
        if half:
            tensors = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
        write_checkpoint(folder, "gcp-vqvae", self.config, tensors)

    def encode(
        self,
        x: Any,
        *,
        closed_loop: bool | None = None,
        beam: int | None = None,
        latent_weight: float | None = None,
        rate_weight: float | None = None,
    ) -> Tokens:
        """Tokens of one chain: a `Backbone`, a path, a biotite `AtomArray`, or an array [L, 3, 3] in Å.

        Parameters
        ----------
        closed_loop : pick codes against the rebuilt chain (True) or nearest to the latents (False);
            None is the checkpoint's default. Only models whose codes are rigid steps can do the former.
        beam : hypotheses kept by the search; None is the checkpoint's default
        latent_weight : λ of the closed loop, Å² per squared unit of the latent space: how much staying near the
            latents counts beside rebuilding well; None is the checkpoint's default
        rate_weight : μ of the closed loop, Å² per bit: how much codes that are easy to predict from the code before
            are preferred; None is the checkpoint's default

        Raises
        ------
        InputError
            If nothing is observed, the chain is longer than `max_length`, or the model has no closed loop.
        """
        return self.encode_batch(
            [x], closed_loop=closed_loop, beam=beam, latent_weight=latent_weight, rate_weight=rate_weight
        )[0]

    def encode_batch(
        self,
        chains: Sequence[Any],
        *,
        batch_size: int = 16,
        closed_loop: bool | None = None,
        beam: int | None = None,
        latent_weight: float | None = None,
        rate_weight: float | None = None,
    ) -> list[Tokens]:
        """As `encode`, for many chains; chains of similar length run together."""
        search = search_of(self.config, closed_loop, beam, latent_weight, rate_weight)
        if search.beam and self._chain is None:
            raise InputError(f"{self.name}: its codes are no rigid steps, so closed loop is impossible; use open loop")
        backbones = [as_backbone(x) for x in chains]
        for chain in backbones:
            self._check(chain)
        if self._chain is None:
            codes = self._nearest(backbones, batch_size)
        else:
            coords = [torch.from_numpy(c.coords) for c in backbones]
            needed = search.beam is None or search.latent_weight
            latents = self._step_latents(backbones, batch_size) if needed else None
            found = self._chain.encode(coords, latents, **search._asdict(), batch_size=batch_size)
            # `ChainModel` numbers codes by the residue that they place
            codes = [torch.cat([row[1:], row[-1:]]).numpy() for row in found]
        return [tokens_of(chain, row, self.name) for chain, row in zip(backbones, codes)]

    def decode(self, tokens: Tokens) -> Backbone:
        """The chain that the codes stand for, missing where the code is -1."""
        return self.decode_batch([tokens])[0]

    def decode_batch(self, tokens: Sequence[Tokens], *, batch_size: int = 16) -> list[Backbone]:
        """Many chains, each as `decode` would give."""
        for t in tokens:
            check_codes(t, self.name, self.codebook_size, missing=-1 if self._chain is None else None)
            if not (t.codes >= 0).any():
                raise TokensError(f"{t.id or 'tokens'}: no residue has a code")
            if len(t) > self.max_length:
                raise TokensError(f"{t.id or 'tokens'}: {len(t)} codes, but {self.name} takes {self.max_length}")
        out: dict[int, Backbone] = {}
        for batch in by_length([len(t) for t in tokens], batch_size):
            codes = [torch.from_numpy(tokens[i].codes).long() for i in batch]
            with torch.inference_mode():
                if self._chain is None:
                    built = self.model.decode(pad_sequence(codes, True, -1).to(self.device))
                else:
                    placed = [torch.cat([row[:1], row[:-1]]) for row in codes]
                    built = self._chain.decode(pad_sequence(placed, True).to(self.device)).float()
            coords = built.cpu().numpy()
            out.update((i, backbone_of(tokens[i], x[: len(tokens[i])])) for i, x in zip(batch, coords))
        return [out[i] for i in range(len(tokens))]

    def _check(self, chain: Backbone) -> None:
        where = f"{chain.name or 'backbone'}, chain {chain.chain_id}"
        if not chain.mask.any():
            raise InputError(f"{where}: no residue with N, CA and C; nothing to encode")
        if len(chain) > self.max_length:
            raise InputError(
                f"{where}: {len(chain)} residues, but {self.name} takes {self.max_length}; "
                "cut the chain into domains, or use a model with a larger max_length"
            )

    def _nearest(self, chains: Sequence[Backbone], batch_size: int) -> list[Int[np.ndarray, " l"]]:
        """Code nearest to each latent, -1 where a residue is missing."""
        out: dict[int, np.ndarray] = {}
        for part, latents, mask in self._latents(chains, batch_size):
            codes = torch.where(mask, self.model.quantizer.nearest(latents), -1).cpu().numpy()
            out.update((i, row[: len(chains[i])]) for i, row in zip(part, codes))
        return [out[i] for i in range(len(chains))]

    def _step_latents(self, chains: Sequence[Backbone], batch_size: int) -> list[Float[Tensor, "l d"]]:
        """For the code that places each residue, the latent of the residue before; NaN where one is missing."""
        out: dict[int, Tensor] = {}
        for part, latents, mask in self._latents(chains, batch_size):
            told = torch.where((mask[:, :-1] & mask[:, 1:])[..., None], latents[:, :-1], torch.nan)
            shifted = torch.nn.functional.pad(told, (0, 0, 1, 0), value=torch.nan)
            out.update((i, row[: len(chains[i])]) for i, row in zip(part, shifted))
        return [out[i] for i in range(len(chains))]

    def _latents(
        self, chains: Sequence[Backbone], batch_size: int
    ) -> Iterator[tuple[list[int], Float[Tensor, "b l d"], Bool[Tensor, "b l"]]]:
        """Places in `chains`, latents and mask of padded batches of similar length."""
        for part in by_length([len(chain) for chain in chains], batch_size):
            some = [chains[i] for i in part]
            coords = pad_sequence([torch.from_numpy(c.coords) for c in some], True, torch.nan).to(self.device)
            mask = pad_sequence([torch.from_numpy(c.mask) for c in some], True).to(self.device)
            types = pad_sequence([residue_types(c.sequence) for c in some], True).to(self.device)
            with torch.inference_mode():
                yield part, self.model.encode(self.model.graph(coords, mask, types), mask), mask
