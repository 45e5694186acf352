"""chain-vq: protein backbones as rigid steps, one code per residue, assigned in closed loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from structok.batching import in_batches
from structok.checkpoint import check_tensors, make_config
from structok.codebook.prior import Prior
from structok.errors import CheckpointError, InputError, TokensError
from structok.polymer.anchors import RADII, Anchoring, AnchorPoints, load_points, spacing_for
from structok.polymer.chain import ChainModel
from structok.polymer.repair import Repairer, Repairs
from structok.protein.tokens import BackboneTokenizer, backbone_of
from structok.structure import Backbone
from structok.tokenizer import Search
from structok.tokens import Stream, Tokens, declare

__all__ = ["ChainVQ", "ChainVQConfig"]

_TRIES = 4  # to leave out anchors that chain and codes contradict


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


class ChainVQ(BackboneTokenizer):
    """Tokenizer whose codes are rigid steps: the next residue's N, CA, C in the current residue's frame.

    Decoding composes the steps by a prefix scan. Encoding picks each code against the chain rebuilt so far
    (closed loop, beam search), so that errors do not add up along the chain. Missing residues carry a bridge,
    so both sides of a gap come back in their relative pose; a break without missing slots is crossed by one of
    the `n_break` long codes and the residues after it are steered back.

    With `config.anchors`, tokens say where every few residues lie in the chain's body frame. A rebuilt chain lies
    there, and codes and anchors that contradict each other are repaired (`polymer.repair`): `back.repairs` says which.

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

    @cached_property
    def points(self) -> AnchorPoints:
        """What anchors are quantised to."""
        return load_points((self.config.anchors or Anchoring()).points)

    @cached_property
    def repairer(self) -> Repairer:
        """Poses and repairs chains by their anchors."""
        return Repairer(self.model, self.points)

    def encode(self, x: Any, *, spacing: int | None = None, search: Search | None = None, **options: Any) -> Tokens:
        return self.encode_batch([x], spacing=spacing, search=search, **options)[0]

    def encode_batch(
        self,
        xs: Sequence[Any],
        *,
        batch_size: int | None = None,
        spacing: int | None = None,
        search: Search | None = None,
        **options: Any,
    ) -> list[Tokens]:
        """As `encode`, for many structures, `batch_size` of similar size at a time; equal to one by one.

        `spacing` is the number of slots from anchor to anchor, 0 for none; default the checkpoint's.
        """
        how = self.settings(Search(**options) if search is None else search)
        chains = [self.prepare(x) for x in xs]
        found = self.assign(chains, how, self.sizes[0] if batch_size is None else batch_size)
        if spacing is None:
            spacing = self.config.anchors.spacing if self.config.anchors else 0
        plain = (super(ChainVQ, self).tokens(chain, codes) for chain, codes in zip(chains, found))
        trust = bool(how.closed_loop)
        return [self._anchored(tokens, chain, spacing, trust) for tokens, chain in zip(plain, chains)]

    def tokens(self, item: Backbone, codes: Int[np.ndarray, " l"]) -> Tokens:
        tokens = super().tokens(item, codes)
        return self._anchored(tokens, item, self.config.anchors.spacing) if self.config.anchors else tokens

    def _anchored(self, tokens: Tokens, chain: Backbone, spacing: int, trust: bool = True) -> Tokens:
        """With the anchors of its own frame, `trust`: none that would make `decode` repair the codes as they are.

        Codes of an open loop drift from their anchors, so those are what is right: all stay, and `decode` repairs.
        """
        if spacing < 0:
            raise InputError(f"spacing must be at least 0, not {spacing}")
        if not spacing:
            return tokens.without_anchors()
        spacing = spacing_for(len(chain), spacing)
        alpha, mask = torch.from_numpy(chain.coords[:, 1]), torch.from_numpy(chain.mask)
        sketch = self.points.sketch(alpha, mask, spacing)
        anchors, radius = sketch.anchors.numpy(), int(sketch.radius)
        anchored = replace(tokens, anchors=anchors, spacing=spacing, radius=radius)
        return self.trusted(anchored) if trust else anchored

    @property
    def posed(self) -> bool:  # type: ignore[override]
        return self.config.anchors is not None

    def contradictions(self, tokens: Tokens) -> Repairs:
        """What `decode` would repair of tokens that are as they were encoded."""
        assert tokens.anchors is not None and tokens.radius is not None
        return self.repairer(tokens.codes, tokens.anchors, tokens.spacing, tokens.radius, shared=bool(tokens.frame))[1]

    def trusted(self, tokens: Tokens) -> Tokens:
        """Without the anchors that would make `decode` repair the codes as they are."""
        for width in range(_TRIES):
            assert tokens.anchors is not None
            if not (repairs := self.contradictions(tokens)):
                return tokens
            anchors = tokens.anchors.copy()
            around = [slot // tokens.spacing + k for slot in repairs.slots for k in range(-width, width + 2)]
            anchors[list(repairs.rejected) or [k for k in around if 0 <= k < len(anchors)]] = -1
            tokens = replace(tokens, anchors=anchors)
        return replace(tokens, anchors=np.full_like(tokens.anchors, -1))

    def check(self, tokens: Tokens) -> None:
        lost = tokens.codes.min(initial=0) < 0 and self._lost(tokens).any()
        super().check(replace(tokens, codes=self._filled(tokens)) if lost else tokens)
        if tokens.anchors is not None and (tokens.radius is None or tokens.radius >= len(RADII)):
            raise TokensError(f"{tokens.where}: radius {tokens.radius} is outside 0..{len(RADII) - 1}")

    def decode(self, tokens: Tokens, *, relax: bool = False, repair: bool = True) -> Backbone:
        return self.decode_batch([tokens], relax=relax, repair=repair)[0]

    def decode_batch(
        self, many: Sequence[Tokens], *, batch_size: int | None = None, relax: bool = False, repair: bool = True
    ) -> list[Backbone]:
        """As `decode`, for many structures; `repair=False` takes every code and anchor at its word."""
        for tokens in many:
            self.check(tokens)
        return self.rebuild(many, self.sizes[1] if batch_size is None else batch_size, repair)

    def rebuild(self, many: Sequence[Tokens], batch_size: int, repair: bool = True) -> list[Backbone]:
        def work(part: list[int]) -> Float[Tensor, "b l 3 3"]:
            codes = pad_sequence([torch.from_numpy(self._filled(many[i])) for i in part], batch_first=True)
            return self.model.decode(codes.to(self.device)).cpu()

        rows = in_batches(work, [len(t) for t in many], batch_size)
        return [self._placed(tokens, coords, repair) for tokens, coords in zip(many, rows)]

    def _lost(self, tokens: Tokens) -> Bool[np.ndarray, " l"]:
        """Slots of residues whose code a text has lost; without anchors nothing makes up for it."""
        lost: Bool[np.ndarray, " l"] = (tokens.codes < 0) & tokens.mask & (tokens.anchors is not None)
        return lost

    def _filled(self, tokens: Tokens) -> Int[np.ndarray, " l"]:
        """Codes, lost ones as the bonded one before (else after) them: most residues go on as their neighbours do."""
        codes = tokens.codes.astype(np.int64)
        if codes.min(initial=0) >= 0:
            return codes
        bonded = np.flatnonzero((codes >= 0) & (codes < self.codebook_size - self.config.n_break))
        if len(bonded):
            lost = np.flatnonzero(self._lost(tokens))
            codes[lost] = codes[bonded[(np.searchsorted(bonded, lost) - 1).clip(min=0)]]
        return codes

    def _placed(self, tokens: Tokens, coords: Float[Tensor, "l 3 3"], repair: bool) -> Backbone:
        """The chain where its anchors say, repaired."""
        if not self.config.anchors or tokens.anchors is None or tokens.radius is None:
            return backbone_of(tokens, coords.float().numpy())
        codes = self._filled(tokens)
        placed, repairs = self.repairer(
            codes, tokens.anchors, tokens.spacing, tokens.radius,
            coords=coords, shared=bool(tokens.frame), repair=repair,
        )  # fmt: skip
        back = backbone_of(tokens, placed.astype(np.float32))
        if tokens.codes.min(initial=0) < 0:
            repairs = _with_lost(repairs, np.flatnonzero(self._lost(tokens)), codes)
        back.repairs = repairs
        return back


def _with_lost(repairs: Repairs, lost: Int[np.ndarray, " n"], codes: Int[np.ndarray, " l"]) -> Repairs:
    """Lost codes count as repaired, -1 before, also where what they were filled with has stayed."""
    found = dict(zip(repairs.slots, zip(repairs.old, repairs.new)))
    found |= {int(s): (-1, found[s][1] if s in found else int(codes[s])) for s in lost}
    slots = sorted(found)
    return replace(
        repairs, slots=tuple(slots), old=tuple(found[s][0] for s in slots), new=tuple(found[s][1] for s in slots)
    )
