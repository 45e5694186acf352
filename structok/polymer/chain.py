"""Rigid-step codebooks: the next residue's N, CA, C in the current residue's frame, and their search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from structok.batching import in_batches
from structok.codebook.nearest import nearest_code
from structok.codebook.prior import Prior
from structok.codebook.search import beam_search
from structok.geometry import (
    apply,
    backbone_frames,
    gram_schmidt,
    invert,
    rigid,
    rotation_from_6d,
    rotation_to_6d,
    scan,
    superpose,
)
from structok.polymer.bridge import Pieces, fill_missing
from structok.polymer.link import PEPTIDE, Link
from structok.polymer.search import ChainSearch, StepTable

if TYPE_CHECKING:
    from structok.polymer.search_cpu import CompiledSearch

__all__ = ["ChainModel", "chain_steps"]

_MADE = 0.01  # Å², squared error of a residue up to which a chain counts as made of codes (files round to 0.001 Å)
_MISSING_WEIGHT = 0.02  # residues that nobody observed only have to lead to the next observed one


def chain_steps(coords: Float[Tensor, "*b l 3 3"]) -> Float[Tensor, "*b l-1 3 3"]:
    """N, CA, C of each residue but the first, in the frame of the residue before it, Å."""
    return apply(invert(backbone_frames(coords[..., :-1, :, :])), coords[..., 1:, :, :])


class ChainModel:
    """A codebook of rigid steps with its decoder (a prefix scan) and its two encoders.

    Parameters
    ----------
    steps : code k puts the next residue's N, CA, C at `steps[k]`, Å, in the current residue's frame
    n_break : the last `n_break` codes are long steps over chain breaks; bridges do not use them
    prior : what a code costs after another, for a rate-constrained search
    link : how neighbours hang together
    """

    def __init__(
        self,
        steps: Float[Tensor, "k 3 3"],
        n_break: int = 0,
        prior: Prior | None = None,
        link: Link = PEPTIDE,
    ) -> None:
        self.link = link
        self.steps = steps.detach().double()
        self.bonded = self.steps[: len(steps) - n_break]
        self.transforms = backbone_frames(self.steps)
        self.flat = rearrange(steps.detach().float(), "k a x -> k (a x)").contiguous()
        # the residue in its own frame: what a code says when there is no residue before it
        self.inner = apply(invert(self.transforms), self.steps).flatten(1).float()
        self.prior = prior.to(steps.device) if prior else None
        group = self.prior.group if self.prior else torch.zeros(len(steps), dtype=torch.long, device=steps.device)
        self._book = self.flat, self.transforms, self.flat, group  # what the searches are made from
        self._last_price: tuple[float, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.steps)

    def decode(self, codes: Int[Tensor, "*b l"]) -> Float[Tensor, "*b l 3 3"]:
        """Rebuild N, CA, C in Å; residue 0 follows a virtual residue whose frame is the identity."""
        frames = scan(self.transforms[codes])
        origin = torch.eye(4, dtype=frames.dtype, device=frames.device).expand(*frames.shape[:-3], 1, 4, 4)
        return apply(torch.cat([origin, frames[..., :-1, :, :]], -3), self.steps[codes])

    def encode(
        self,
        chains: Sequence[Float[Tensor, "l 3 3"]],
        *,
        latent_weight: float = 0.0,
        rate_weight: float = 0.0,
        beam: int | None,
        batch_size: int = 32,
    ) -> list[Int[Tensor, " l"]]:
        """Codes of many chains (NaN = missing), the same for any batch size; `beam=None` is open loop.

        Chains of similar length share a batch, batches share the CPU's threads (`torch.get_num_threads`). Each
        chain needs at least one observed residue.

        Parameters
        ----------
        chains : N, CA, C in Å
        latent_weight : λ ≥ 0: closed loop minimises the sum of |x(true) - x(rebuilt)|² + λ |s(true) - s(code)|² over N,
            CA, C of the residues and of their steps from the residue before. The second term counts where both
            residues are observed and bonded
        rate_weight : μ ≥ 0, Å² per bit: closed loop adds μ times the bits of each code after the code before it
            (`prior`, at most log2 of the number of codes), and so takes codes that are easy to predict where they serve
            as well
        beam : hypotheses kept per chain
        """
        if rate_weight and self.prior is None:
            raise ValueError("a rate_weight needs a prior")

        def work(part: list[int]) -> Int[Tensor, "b l"]:
            return self._encode_batch([chains[i] for i in part], latent_weight, rate_weight, beam)

        threads = self.steps.device.type == "cpu"
        return in_batches(work, [len(chain) for chain in chains], batch_size, several=threads)

    def _encode_batch(
        self,
        chains: list[Float[Tensor, "l 3 3"]],
        latent_weight: float,
        rate_weight: float,
        beam: int | None,
    ) -> Int[Tensor, "b l"]:
        device, pieces = self.steps.device, self._pieces
        masks = [chain.isfinite().all(-1).all(-1) for chain in chains]
        coords = pad_sequence([fill_missing(c, m, pieces) for c, m in zip(chains, masks)], batch_first=True).to(device)
        if beam is None:
            return self.encode_open(coords).cpu()
        observed = pad_sequence(masks, batch_first=True).to(device)
        length = torch.tensor([len(m) for m in masks], device=device)
        active = torch.arange(coords.shape[1], device=device) < length[:, None]
        return self.encode_closed(coords, active, observed, beam, latent_weight, rate_weight).cpu()

    def encode_open(self, coords: Float[Tensor, "b l 3 3"]) -> Int[Tensor, "b l"]:
        """Nearest code of each true step, whatever errors came before (open loop).

        Between bonded residues no code for breaks is taken: off by a little, it would throw the chain far away.
        """
        bonded = _bonded(coords, torch.ones(coords.shape[:2], dtype=torch.bool, device=coords.device), self.link.limit)
        steps = self._nearest(chain_steps(coords).flatten(-2).float(), self.flat, bonded[:, 1:])
        return torch.cat([self._first(coords)[:, None], steps], 1)

    def _nearest(
        self, x: Float[Tensor, "*b d"], table: Float[Tensor, "k d"], bonded: Bool[Tensor, "*b"]
    ) -> Int[Tensor, "*b"]:
        """Nearest code by its row of `table`; codes for breaks only where not bonded."""
        codes = nearest_code(x, table[: len(self.bonded)])[1].long()
        if len(self.bonded) < len(self) and not bonded.all():
            codes[~bonded] = nearest_code(x[~bonded], table)[1].long()
        return codes

    def encode_closed(
        self,
        coords: Float[Tensor, "b l 3 3"],
        active: Bool[Tensor, "b l"],
        observed: Bool[Tensor, "b l"],
        beam: int,
        latent_weight: float = 0.0,
        rate_weight: float = 0.0,
    ) -> Int[Tensor, "b l"]:
        """Codes that minimise the summed squared error of N, CA, C against the chain rebuilt so far.

        The terms of the true steps and the prior are added to it, see `encode`. The first code places nothing: it says
        how the first residue looks inside.

        Parameters
        ----------
        coords : finite everywhere; residues that were missing hold a bridge
        active : slots that exist (the rest pads the batch)
        observed : slots that were observed; errors in the others weigh little
        beam : hypotheses kept per chain
        latent_weight, rate_weight : see `encode`
        """
        codes = torch.full(active.shape, -1, device=coords.device)
        made = self._made_of_codes(coords, active, observed)
        for row, exact in made.items():
            codes[row, : len(exact)] = exact
        todo = [row for row in range(len(coords)) if row not in made]
        if todo:
            some = coords[todo].double(), active[todo], observed[todo]
            codes[todo] = self._search(*some, beam, latent_weight, rate_weight)
        return codes

    def _search(
        self,
        coords: Float[Tensor, "b l 3 3"],
        active: Bool[Tensor, "b l"],
        observed: Bool[Tensor, "b l"],
        beam: int,
        latent_weight: float,
        rate_weight: float,
    ) -> Int[Tensor, "b l"]:
        weight = torch.where(observed, 1.0, _MISSING_WEIGHT).double()
        pull = goals = None
        if latent_weight:
            goals = torch.nn.functional.pad(chain_steps(coords).flatten(-2).float(), (0, 0, 1, 0))
            pull = (_bonded(coords, observed, self.link.limit) * latent_weight).double()
        start, price = _start(coords, active), self._price(rate_weight)
        if self._compiled is None:
            search = ChainSearch(self._table, coords, weight, goals, pull, price=price)
            codes, _ = beam_search(search, search.start(start), active, beam=beam, start=1)
        else:
            codes = self._compiled(coords, active.sum(1), weight, start, goals, pull, price=price, beam=beam)
        codes[:, 0] = self._first(coords)
        return codes

    @cached_property
    def _pieces(self) -> Pieces:
        return Pieces.of(self.bonded.cpu(), self.link.stride)

    @cached_property
    def _compiled(self) -> CompiledSearch | None:
        """The search for the CPU; None on other devices."""
        if self.steps.device.type != "cpu":
            return None
        from structok.polymer.search_cpu import CompiledSearch  # loads its machine code, which decoding does not need

        return CompiledSearch(*self._book)

    @cached_property
    def _table(self) -> StepTable:
        """For the search on other devices."""
        return StepTable(*self._book)

    def _price(self, rate_weight: float) -> Float[Tensor, "g+1 k"] | None:
        """μ times the bits of each code after a code of each group, Å²; the same tensor as long as μ is the same."""
        if not rate_weight or self.prior is None:
            return None
        kept = self._last_price
        if kept is None or kept[0] != rate_weight:
            # no code costs more than to name it outright, or rare codes would die out
            self._last_price = kept = rate_weight, rate_weight * self.prior.bits.clamp(max=math.log2(len(self)))
        return kept[1]

    def _first(self, coords: Float[Tensor, "b l 3 3"]) -> Int[Tensor, " b"]:
        """The code of the first residue, which places nothing: the residue seen from its own frame."""
        first = coords[:, 0].double()
        return nearest_code(apply(invert(backbone_frames(first)), first).flatten(1).float(), self.inner)[1].long()

    def _made_of_codes(
        self, coords: Float[Tensor, "b l 3 3"], active: Bool[Tensor, "b l"], observed: Bool[Tensor, "b l"]
    ) -> dict[int, Int[Tensor, " n"]]:
        """Codes of the chains that our decoder made, by row: encoding again changes nothing, at any beam and weights.

        Not of chains with gaps: what bridged them was not decoded, and is made anew.
        """
        made = {}
        # few other chains get past their first step
        fits = (nearest_code(chain_steps(coords[:, :2]).flatten(-2).float(), self.flat)[0] < _MADE) | ~active[:, 1:2]
        for row in (fits.all(1) & (observed | ~active).all(1)).nonzero()[:, 0].tolist():
            if not (self._open_fit(coords[row : row + 1, : min(9, int(active[row].sum()))])[1] < _MADE).all():
                continue
            codes, error = self._open_fit(coords[row : row + 1, : int(active[row].sum())])
            if (error < _MADE).all():
                made[row] = codes[0]
        return made

    def _open_fit(self, coords: Float[Tensor, "b l 3 3"]) -> tuple[Int[Tensor, "b l"], Float[Tensor, "b l"]]:
        """Open-loop codes and the squared error of the residues that they rebuild, superposed on the chain."""
        steps = nearest_code(chain_steps(coords).flatten(-2).float(), self.flat)[1].long()
        codes = torch.cat([self._first(coords)[:, None], steps], 1)
        start = torch.eye(4, dtype=coords.dtype, device=coords.device).expand(len(coords), 1, 4, 4)
        frames = scan(torch.cat([start, self.transforms[codes[:, 1:]]], 1))
        rebuilt = apply(frames, self.inner[codes].double().unflatten(-1, (3, 3)))
        posed = superpose(rebuilt.flatten(1, 2), coords.flatten(1, 2)).view_as(coords)
        return codes, (posed - coords).square().sum((-1, -2))


def _bonded(coords: Float[Tensor, "b l 3 3"], observed: Bool[Tensor, "b l"], limit: float) -> Bool[Tensor, "b l"]:
    """Whether a residue and the one before it are observed and bonded: no further apart than the limit, Å."""
    near = (coords[:, 1:, 0] - coords[:, :-1, 2]).norm(dim=-1) <= limit
    return torch.nn.functional.pad(near & observed[:, 1:] & observed[:, :-1], (1, 0))


def _start(coords: Float[Tensor, "b l 3 3"], active: Bool[Tensor, "b l"]) -> Float[Tensor, "b 4 4"]:
    """The first residue's frame, rounded to a grid that moves with the whole chain.

    A frame read from one residue carries the rounding of its coordinates, which a long chain magnifies until
    codes change with the pose. The frame of the centroids of the chain's thirds does not, and a start that is
    off by half a step of the grid (0.008 in direction cosines and Å) costs nothing: the search corrects it.
    """
    grid = 64.0
    third = (torch.arange(coords.shape[1], device=coords.device) * 3) // active.sum(1, keepdim=True)
    ca = torch.where(active[..., None], coords[:, :, 1], 0.0)
    in_third = (third[:, None] == torch.arange(3, device=coords.device)[:, None]) & active[:, None]
    a, b, c = (in_third.double() @ ca / in_third.sum(-1, keepdim=True).clamp(min=1)).unbind(1)
    own, length = backbone_frames(coords[:, 0]), active.sum(1)[:, None, None]
    body = torch.where(length < 3, own, rigid(gram_schmidt(c - a, b - a), a))
    first = invert(body) @ own
    turn = rotation_from_6d((rotation_to_6d(first[:, :3, :3]) * grid).round() / grid)
    near = rigid(turn, (first[:, :3, 3] * grid).round() / grid)
    return body @ near
