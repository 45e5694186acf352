"""chain-vq: protein backbones as rigid steps, one code per residue, assigned in closed loop."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from structok.batching import by_length
from structok.checkpoint import check_tensors, make_config, write_checkpoint
from structok.codebook.prior import Prior
from structok.errors import CheckpointError, InputError
from structok.protein.chain_model import ChainModel
from structok.protein.tokens import backbone_of, check_codes, search_of, tokens_of
from structok.read import as_backbone
from structok.structure import Backbone
from structok.tokens import Tokens

__all__ = ["ChainVQ", "ChainVQConfig"]


@dataclass(frozen=True)
class ChainVQConfig:
    """Configuration of a chain-vq checkpoint.

    codebook_size : number of codes, those for chain breaks included
    n_break : how many of them, the last ones, are long steps over chain breaks
    beam : hypotheses kept by the closed-loop encoder unless asked otherwise
    closed_loop : whether `encode` searches in closed loop unless asked otherwise
    latent_weight : λ of the closed loop unless asked otherwise: 0 looks at the rebuilt chain only, a large
        one at the true step from the residue before only, as open loop does
    groups : how many groups of codes the prior of the rate-constrained search knows, 0 without a prior
    rate_weight : μ of the closed loop unless asked otherwise: how much easy to predict codes are preferred
    max_length : longest chain, in residue slots
    """

    codebook_size: int
    n_break: int = 0
    beam: int = 8
    closed_loop: bool = True
    latent_weight: float = 0.0
    groups: int = 0
    rate_weight: float = 0.0
    max_length: int = 4096

    def __post_init__(self) -> None:
        if self.rate_weight and not self.groups:
            raise CheckpointError("a rate_weight needs a prior: set groups")


class ChainVQ:
    """Tokenizer whose codes are rigid steps: the next residue's N, CA, C in the current residue's frame.

    Decoding composes the steps by a prefix scan. Encoding picks each code against the chain rebuilt so far
    (closed loop, beam search), so that errors do not add up along the chain. Missing residues carry a bridge,
    so both sides of a gap come back in their relative pose; a break without missing slots is crossed by one of
    the `n_break` long codes and the residues after it are steered back.

    Parameters
    ----------
    config : see `ChainVQConfig`
    steps : float32 tensor, shape=(codebook_size, 3, 3), Å
    prior : bits of each code after the code before it, of `config.groups` groups
    """

    modality = "protein"

    def __init__(
        self,
        config: ChainVQConfig,
        steps: Float[Tensor, "k 3 3"],
        prior: Prior | None = None,
        *,
        name: str = "chain-vq",
        device: str = "cpu",
    ) -> None:
        self.config, self.name, self.device = config, name, device
        self.model = ChainModel(steps.to(device), config.n_break, prior=prior)
        self.codebook_size, self.max_length = config.codebook_size, config.max_length

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

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `config.json` and `model.safetensors`; `structok.load(folder)` reads them back."""
        tensors, prior = {"steps": self.model.steps.float()}, self.model.prior
        if prior:
            tensors |= {"group": prior.group.int(), "bits": prior.bits.half()}
        write_checkpoint(folder, "chain-vq", self.config, tensors)

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
        closed_loop : search against the rebuilt chain (True) or take the nearest step (False);
            None is the checkpoint's default
        beam : hypotheses kept by the search; None is the checkpoint's default
        latent_weight : λ ≥ 0 of the search, which minimises the squared error of the rebuilt N, CA, C plus λ times
            that of the step from the residue before; None is the checkpoint's default
        rate_weight : μ ≥ 0 of the search, Å² per bit: how much codes that are easy to predict from the code before
            are preferred; None is the checkpoint's default

        Raises
        ------
        InputError
            If fewer than two residues are observed, the chain is longer than `max_length`, or an option is out
            of range.
        """
        return self.encode_batch(
            [x], closed_loop=closed_loop, beam=beam, latent_weight=latent_weight, rate_weight=rate_weight
        )[0]

    def encode_batch(
        self,
        xs: Sequence[Any],
        *,
        batch_size: int = 32,
        closed_loop: bool | None = None,
        beam: int | None = None,
        latent_weight: float | None = None,
        rate_weight: float | None = None,
    ) -> list[Tokens]:
        """As `encode`, for many chains; equal to one by one."""
        chains = [as_backbone(x) for x in xs]
        for chain in chains:
            self._check(chain)
        search = search_of(self.config, closed_loop, beam, latent_weight, rate_weight)
        coords = [torch.from_numpy(c.coords) for c in chains]
        codes = self.model.encode(coords, **search._asdict(), batch_size=batch_size)
        return [tokens_of(chain, row.numpy(), self.name) for chain, row in zip(chains, codes)]

    def decode(self, tokens: Tokens) -> Backbone:
        """Rebuild a chain; slots whose `mask` is False come back as missing.

        Raises
        ------
        TokensError
            If the tokens are another model's, or a code is out of range.
        """
        return self.decode_batch([tokens])[0]

    def decode_batch(self, many: Sequence[Tokens], *, batch_size: int = 256) -> list[Backbone]:
        """As `decode`, for many chains."""
        for tokens in many:
            check_codes(tokens, self.name, self.codebook_size)
        rebuilt: list[Backbone | None] = [None] * len(many)
        for part in by_length([len(t) for t in many], batch_size):
            codes = pad_sequence([torch.from_numpy(many[i].codes.astype(np.int64)) for i in part], batch_first=True)
            coords = self.model.decode(codes.to(self.device)).float().cpu().numpy()
            for i, row in zip(part, coords):
                rebuilt[i] = backbone_of(many[i], row[: len(many[i])])
        return rebuilt  # type: ignore[return-value]

    def _check(self, chain: Backbone) -> None:
        where = f"{chain.name or 'structure'}, chain {chain.chain_id}"
        if chain.mask.sum() < 2:
            raise InputError(f"{where}: {int(chain.mask.sum())} observed residue(s); a chain needs at least 2")
        if len(chain) > self.max_length:
            raise InputError(f"{where}: {len(chain)} residues, {self.name} takes {self.max_length}; split the chain")
