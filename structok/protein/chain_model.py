"""Rigid-step codebooks: the next residue's N, CA, C in the current residue's frame, and their search."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from structok.batching import by_length
from structok.codebook.nearest import nearest_code, smallest
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
)
from structok.protein.bridge import fill_missing

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
    """

    def __init__(self, steps: Float[Tensor, "k 3 3"], n_break: int = 0) -> None:
        self.steps = steps.detach().double()
        self.bonded = self.steps[: len(steps) - n_break]
        self.transforms = backbone_frames(self.steps)
        self.flat = rearrange(steps.detach().float(), "k a x -> k (a x)").contiguous()
        self.half_norm = self.flat.square().sum(1) / 2
        # the residue in its own frame: what a code says when there is no residue before it
        self.inner = apply(invert(self.transforms), self.steps).flatten(1).float()

    def __len__(self) -> int:
        return len(self.steps)

    def decode(self, codes: Int[Tensor, "*b l"]) -> Float[Tensor, "*b l 3 3"]:
        """Rebuild N, CA, C in Å; residue 0 follows a virtual residue whose frame is the identity."""
        frames = scan(self.transforms[codes])
        origin = torch.eye(4, dtype=frames.dtype, device=frames.device).expand(*frames.shape[:-3], 1, 4, 4)
        return apply(torch.cat([origin, frames[..., :-1, :, :]], -3), self.steps[codes])

    def encode(
        self, chains: Sequence[Float[Tensor, "l 3 3"]], *, beam: int | None, batch_size: int = 32
    ) -> list[Int[Tensor, " l"]]:
        """Codes of many chains (NaN = missing), the same for any batch size; `beam=None` is open loop.

        Chains of similar length share a batch, batches share the CPU's threads (`torch.get_num_threads`). Each
        chain needs at least one observed residue.
        """
        codes: list[Tensor] = [torch.empty(0, dtype=torch.long)] * len(chains)
        parts = by_length([len(chain) for chain in chains], batch_size)[::-1]  # the longest first, to balance threads

        def work(part: list[int]) -> None:
            for i, row in zip(part, self._encode_batch([chains[i] for i in part], beam)):
                codes[i] = row[: len(chains[i])]

        threads = torch.get_num_threads() if self.steps.device.type == "cpu" else 1
        # the search's operations are short: a thread each for several batches beats several threads for each
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for _ in pool.map(work, parts):
                pass
        return codes

    def _encode_batch(self, chains: list[Float[Tensor, "l 3 3"]], beam: int | None) -> Int[Tensor, "b l"]:
        device, bonded = self.steps.device, self.bonded.cpu()
        masks = [chain.isfinite().all(-1).all(-1) for chain in chains]
        coords = pad_sequence([fill_missing(c, m, bonded) for c, m in zip(chains, masks)], batch_first=True).to(device)
        if beam is None:
            return self.encode_open(coords).cpu()
        observed = pad_sequence(masks, batch_first=True).to(device)
        length = torch.tensor([len(m) for m in masks], device=device)
        active = torch.arange(coords.shape[1], device=device) < length[:, None]
        return self.encode_closed(coords, active, observed, beam).cpu()

    def encode_open(self, coords: Float[Tensor, "b l 3 3"]) -> Int[Tensor, "b l"]:
        """Nearest code of each true step, whatever errors came before (open loop)."""
        first = nearest_code(self._inner(coords), self.inner)[1][:, None]
        rest = nearest_code(chain_steps(coords).flatten(-2).float(), self.flat)[1]
        return torch.cat([first, rest], 1).long()

    def encode_closed(
        self,
        coords: Float[Tensor, "b l 3 3"],
        active: Bool[Tensor, "b l"],
        observed: Bool[Tensor, "b l"],
        beam: int,
    ) -> Int[Tensor, "b l"]:
        """Codes that minimise the summed squared error of N, CA, C against the chain rebuilt so far.

        Parameters
        ----------
        coords : finite everywhere; residues that were missing hold a bridge
        active : slots that exist (the rest pads the batch)
        observed : slots that were observed; errors in the others weigh little
        beam : hypotheses kept per chain
        """
        weight = torch.where(observed, 1.0, _MISSING_WEIGHT).double()
        coords = coords.double()
        start = _start(coords, active)
        search = _ChainSearch(self, coords, weight, beam)
        codes, _ = beam_search(search, (start[..., :3, :3], start[..., :3, 3]), active, beam=beam, start=1)
        codes[:, 0] = nearest_code(self._inner(coords), self.inner)[1].long()
        for row, exact in self._made_of_codes(coords, active, observed).items():
            codes[row, : len(exact)] = exact
        return codes

    def _made_of_codes(
        self, coords: Float[Tensor, "b l 3 3"], active: Bool[Tensor, "b l"], observed: Bool[Tensor, "b l"]
    ) -> dict[int, Int[Tensor, " n"]]:
        """Codes of the chains that a decoder of ours made, by row: encoding them again changes nothing."""
        probe = slice(0, 9)  # no other chain gets past its first residues
        fits = (self._open_fit(coords[:, probe])[1] < _MADE) | ~active[:, probe]
        made = {}
        for row in (fits.all(1) & (observed | ~active).all(1)).nonzero()[:, 0].tolist():
            codes, error = self._open_fit(coords[row : row + 1, : int(active[row].sum())])
            if (error < _MADE).all():
                made[row] = codes[0]
        return made

    def _open_fit(self, coords: Float[Tensor, "b l 3 3"]) -> tuple[Int[Tensor, "b l"], Float[Tensor, "b l"]]:
        """Open-loop codes and the squared error of the residues that they rebuild from the first frame."""
        codes = self.encode_open(coords)
        frames = scan(torch.cat([backbone_frames(coords[:, :1]), self.transforms[codes[:, 1:]]], 1))
        rebuilt = apply(frames, self.inner[codes].double().unflatten(-1, (3, 3)))
        return codes, (rebuilt - coords).square().sum((-1, -2))

    def _inner(self, coords: Float[Tensor, "b l 3 3"]) -> Float[Tensor, "b 9"]:
        first = coords[:, 0].double()
        return apply(invert(backbone_frames(first)), first).flatten(1).float()


def _start(coords: Float[Tensor, "b l 3 3"], active: Bool[Tensor, "b l"]) -> Float[Tensor, "b 1 4 4"]:
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
    return (body @ near)[:, None]


class _ChainSearch:
    """Expansion of partial chains; the state is the rotation and origin of the last rebuilt residue."""

    def __init__(
        self, model: ChainModel, coords: Float[Tensor, "b l 3 3"], weight: Float[Tensor, "b l"], beam: int
    ) -> None:
        self.model, self.coords, self.weight = model, coords, weight
        self.keep = min(beam, len(model))  # a beam can hold no more extensions of one hypothesis
        self.rotation = model.transforms[:, :3, :3].contiguous()
        self.origin = model.transforms[:, :3, 3].contiguous()

    def candidates(
        self, state: tuple[Tensor, Tensor], step: int
    ) -> tuple[Float[Tensor, "b h m"], Int[Tensor, "b h m"]]:
        rotation, origin = state
        b, h = rotation.shape[:2]
        # elementwise rather than batched products: the result must not depend on the batch size
        offset = self.coords[:, None, step] - origin[:, :, None]
        goal = (offset[..., :, None] * rotation[:, :, None]).sum(-2).reshape(b * h, 9).float()
        score = torch.addmm(self.model.half_norm, goal, self.model.flat.T, alpha=-1.0)
        code = smallest(score, self.keep).sort(dim=1).values
        error = (goal[:, None] - self.model.flat[code]).square().sum(-1)
        cost = error.view(b, h, -1).double() * self.weight[:, step, None, None]
        return cost, code.view(b, h, -1)

    def advance(
        self, state: tuple[Tensor, Tensor], step: int, parent: Int[Tensor, "b h2"], code: Int[Tensor, "b h2"]
    ) -> tuple[Tensor, Tensor]:
        batch = torch.arange(len(parent), device=parent.device)[:, None]
        rotation, origin = state[0][batch, parent], state[1][batch, parent]
        moved = (rotation * self.origin[code][..., None, :]).sum(-1)
        turned = (rotation[..., :, :, None] * self.rotation[code][..., None, :, :]).sum(-2)
        return turned, origin + moved
