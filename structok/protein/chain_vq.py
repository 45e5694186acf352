"""chain-vq: protein backbones as rigid steps, one code per residue, assigned in closed loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from structok.chains import ChainTokenizer
from structok.checkpoint import check_tensors, make_config
from structok.codebook.prior import Prior
from structok.errors import CheckpointError, InputError
from structok.polymer.anchors import Anchoring
from structok.polymer.chain import ChainModel
from structok.protein.tokens import BackboneTokenizer, backbone_of
from structok.structure import Backbone
from structok.tokenizer import Search
from structok.tokens import Stream, Tokens, declare

__all__ = ["ChainVQ", "ChainVQConfig"]


@dataclass(frozen=True)
class ChainVQConfig:
    """Configuration of a chain-vq checkpoint.

    codebook_size : number of codes, those for chain breaks included
    n_break : how many of them, the last ones, are long steps over chain breaks
    beam, closed_loop, latent_weight, rate_weight : how `encode` searches unless asked otherwise, see `Search`
    groups : how many groups of codes the prior of the rate-constrained search knows, 0 without a prior
    max_length : longest chain, in residue slots
    anchors : that tokens carry, None without
    """

    codebook_size: int
    n_break: int = 0
    beam: int = 8
    closed_loop: bool = True
    latent_weight: float = 0.0
    groups: int = 0
    rate_weight: float = 0.0
    max_length: int = 4096
    anchors: Anchoring | None = None

    def __post_init__(self) -> None:
        if self.rate_weight and not self.groups:
            raise CheckpointError("a rate_weight needs a prior: set groups")
        if not 0 <= self.n_break < self.codebook_size:
            raise CheckpointError(f"n_break {self.n_break} leaves none of {self.codebook_size} codes for bonds")


class ChainVQ(ChainTokenizer[Backbone], BackboneTokenizer):
    """Tokenizer whose codes are rigid steps: the next residue's N, CA, C in the current residue's frame.

    Decoding composes the steps by a prefix scan. Encoding picks each code against the chain rebuilt so far
    (closed loop, beam search), so that errors do not add up along the chain. Missing residues carry a bridge,
    so both sides of a gap come back in their relative pose; a break without missing slots is crossed by one of
    the `n_break` long codes and the residues after it are steered back.

    With `config.anchors`, tokens say where every few residues lie in the chain's body frame, see `ChainTokenizer`.

    Parameters
    ----------
    config : see `ChainVQConfig`
    steps : float32 tensor, shape=(codebook_size, 3, 3), Å
    prior : bits of each code after the code before it, of `config.groups` groups
    """

    kind = "chain-vq"
    fewest = 2

    def __init__(
        self,
        config: ChainVQConfig,
        steps: Float[Tensor, "k 3 3"],
        prior: Prior | None = None,
        *,
        name: str = "chain-vq",
        device: str = "cpu",
    ) -> None:
        super().__init__(config, name, device)
        self.model = ChainModel(steps.to(device), config.n_break, prior=prior)

    @classmethod
    def from_checkpoint(
        cls, name: str, config: dict[str, Any], tensors: dict[str, Tensor], *, device: str = "cpu"
    ) -> ChainVQ:
        """Build from what `structok.checkpoint.read_checkpoint` read; strict."""
        built = make_config(ChainVQConfig, config, name)
        expected: dict[str, tuple[int, ...]] = {"steps": (built.codebook_size, 3, 3)}
        if built.groups:
            expected |= {"group": (built.codebook_size,), "bits": (built.groups + 1, built.codebook_size)}
        check_tensors(expected, tensors, name)
        prior = Prior(tensors["group"].long(), tensors["bits"].float()) if built.groups else None
        return cls(built, tensors["steps"], prior, name=name, device=device)

    def tensors(self) -> dict[str, Tensor]:
        steps, prior = {"steps": self.model.steps.float()}, self.model.prior
        return steps | ({"group": prior.group.int(), "bits": prior.bits.half()} if prior else {})

    def settings(self, asked: Search) -> Search:
        found = super().settings(asked)
        if found.rate_weight and not self.config.groups:
            raise InputError(f"{self.name} has no prior, so rate_weight must be 0")
        return found

    def assign(self, items: Sequence[Backbone], search: Search, batch_size: int) -> list[Int[np.ndarray, " l"]]:
        codes = self.model.encode(
            [torch.from_numpy(chain.coords) for chain in items],
            latent_weight=search.latent_weight or 0.0,
            rate_weight=search.rate_weight or 0.0,
            beam=search.beam,
            batch_size=batch_size,
        )
        return [row.numpy() for row in codes]

    @property
    def streams(self) -> tuple[Stream, ...]:
        if not self.config.anchors:
            return super().streams
        return declare(self.modality, codes=self.codebook_size, anchors=len(self.points))

    def plain(self, item: Backbone, codes: Int[np.ndarray, "*n l"]) -> Tokens:
        return BackboneTokenizer.tokens(self, item, codes)

    def trace(self, chain: Backbone) -> Float[np.ndarray, "l 3"]:
        return chain.coords[:, 1]

    def built(self, tokens: Tokens, coords: Float[Tensor, "l 3 3"]) -> Backbone:
        return backbone_of(tokens, coords.float().numpy())
