"""Closed-loop assignment for molecules: how a tree of atom frames grows by one atom per hypothesis.

A `Placement` says where each code would put an atom on what is rebuilt so far: from one table of local
positions for all atoms, or from a table per atom. A beam search picks codes against a target: `search_cpu` on
a CPU, that of `structok.codebook.search` elsewhere; decoding walks the same path with the codes given.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from structok.codebook.nearest import nearest_code
from structok.codebook.search import beam_search
from structok.molecule.model import MolStrucTokModel
from structok.molecule.spherical import FIRST_ATOM, describe, frames, rebuild, spherical_to_local
from structok.molecule.topo import GRID, TopoBatch, TopoDecoder, code_cost, local_frames, with_virtual
from structok.molecule.topology import VIRTUAL

if TYPE_CHECKING:
    from structok.molecule.topo_cpu import Network

__all__ = ["PRIOR", "Growth", "Placement", "TablePlacement", "TopoPlacement", "closed_loop", "position_tables"]

PRIOR = 1e-6  # Å²; keeps the superposition at the starting pose where the atoms placed so far leave it free
_SPARE = 8  # codes beyond the beam that are measured again: scores are rounded
_ROWS = 16  # a matrix product of fewer rows may take another path through the library and round differently

Coords = Float[Tensor, "b h n 3"]


class Local(NamedTuple):
    """Frame of one atom in each hypothesis, and where each code puts the atom in it."""

    origin: Float[Tensor, "b h 3"]
    axes: Float[Tensor, "b h 3 3"]
    table: Float[Tensor, "k 3"] | Float[Tensor, "b h k 3"]


class Placement(Protocol):
    """How codes become positions, for a batch of molecules."""

    n_virtual: int  # atoms in front of the first one in a state
    bond_weight: float  # of the squared bond-length error beside the squared distance
    first_code: int  # of atom 0, which no code moves

    def start(self, n: int) -> Coords:
        """State of one hypothesis per molecule with atom 0 placed and room for `n` atoms."""
        ...

    def local(self, coords: Coords, step: int) -> Local:
        """Frame and table of atom `step` (1 or later)."""
        ...

    def bond_lengths(self, target: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n"]:
        """True distance of each atom to its focal atom."""
        ...

    def search_cpu(self, target: Float[Tensor, "b n 3"], size: Int[Tensor, " b"], beam: int) -> Int[Tensor, "b n"]:
        """`closed_loop` compiled for the CPU, without the first code."""
        ...

    def open_loop(self, target: Float[Tensor, "b n 3"], mask: Bool[Tensor, "b n"]) -> Int[Tensor, "b n"]:
        """Code of each atom by itself, on true references; anything in padding."""
        ...

    def rebuild(self, codes: Int[Tensor, "b n"]) -> Float[Tensor, "b n 3"]:
        """Coordinates (Å, float64) that the codes decode to; atom 0 at the origin whatever its code."""
        ...


def position_tables(table: Float[Tensor, "k 4"]) -> Float[Tensor, "3 k 3"]:
    """Local position of every code for atom 1 (on the x-axis), for atom 2 (in the plane), for all later atoms."""
    d, phi = table[:, 0], table[:, 2]
    zero = torch.zeros_like(d)
    first = torch.stack([d, zero, zero], dim=1)
    second = torch.stack([d * phi.cos(), d * phi.sin(), zero], dim=1)
    return torch.stack([first, second, spherical_to_local(table)])


class TablePlacement:
    """One table for all atoms, references as published.

    Parameters
    ----------
    model : its encoder and codebook give the open-loop codes
    table : `model.table()`
    refs, level : as of `reference_atoms` and `levels`, padded; only `rebuild` needs levels
    bond_weight : weight of the squared bond-length error in the closed loop
    """

    n_virtual = 0

    @torch.no_grad()
    def __init__(
        self,
        model: MolStrucTokModel,
        table: Float[Tensor, "k 4"],
        refs: Int[Tensor, "b n 3"],
        level: Int[Tensor, "b n"] | None,
        bond_weight: float = 0.0,
    ):
        self.model, self.refs, self.level, self.bond_weight = model, refs, level, bond_weight
        first = model.latent(refs.new_tensor([FIRST_ATOM], dtype=torch.float64))
        self.first_code = int(nearest_code(first, model.codebook)[1])
        self.descriptors = table.double()
        self.tables = position_tables(self.descriptors)

    def start(self, n: int) -> Coords:
        return torch.zeros(len(self.refs), 1, n, 3, dtype=torch.float64, device=self.refs.device)

    def local(self, coords: Coords, step: int) -> Local:
        b, h = coords.shape[:2]
        table = self.tables[min(step, 3) - 1]
        if step < 3:
            axes = torch.eye(3, dtype=coords.dtype, device=coords.device).expand(b, h, 3, 3)
            return Local(coords[:, :, 0], axes, table)
        index = self.refs[:, step, None, :, None].expand(b, h, 3, 3)
        f, c1, c2 = coords.gather(2, index).unbind(2)
        return Local(f, frames(f, c1, c2), table)

    def bond_lengths(self, target: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n"]:
        return (target - target.gather(1, self.refs[..., :1].expand(-1, -1, 3))).norm(dim=-1)

    def search_cpu(self, target: Float[Tensor, "b n 3"], size: Int[Tensor, " b"], beam: int) -> Int[Tensor, "b n"]:
        from structok.molecule.search_cpu import Atoms, search

        none = target.new_empty(*target.shape[:2], 0)
        lengths = self.bond_lengths(target)
        atoms = Atoms(target, lengths, size, self.refs, none.long(), none.float(), target.new_empty(0, 3))
        return search(atoms, self.tables, bond_weight=self.bond_weight, beam=beam)

    @torch.no_grad()
    def open_loop(self, target: Float[Tensor, "b n 3"], mask: Bool[Tensor, "b n"]) -> Int[Tensor, "b n"]:
        rows = mask if mask.sum() >= _ROWS else torch.ones_like(mask)
        codes = torch.zeros_like(mask, dtype=torch.long)
        latent = self.model.latent(describe(target, self.refs)[rows])
        codes[rows] = nearest_code(latent, self.model.codebook)[1].long()
        return codes

    def rebuild(self, codes: Int[Tensor, "b n"]) -> Float[Tensor, "b n 3"]:
        assert self.level is not None, "a placement made for encoding only"
        return rebuild(self.descriptors[codes.clamp(min=0)], self.refs, self.level)


class TopoPlacement:
    """A table per atom from `TopoDecoder`, with its own references and two virtual atoms in front.

    `network` is the decoder as the compiled search needs it, made anew where it is not given.
    """

    n_virtual = 2

    first_code = 0  # nothing is known or said of atom 0

    @torch.no_grad()
    def __init__(self, decoder: TopoDecoder, batch: TopoBatch, bond_weight: float, network: Network | None = None):
        self.decoder, self.batch, self.bond_weight, self.network = decoder, batch, bond_weight, network
        self.static = decoder.static(batch)

    def start(self, n: int) -> Coords:
        b = len(self.batch.refs)
        return with_virtual(torch.zeros(b, 1, n, 3, dtype=torch.float64, device=self.static.device))

    def local(self, coords: Coords, step: int) -> Local:
        b, h = coords.shape[:2]
        refs = self.batch.refs[:, step, None, None].expand(b, h, 1, 3)
        context = self.batch.context[:, step, None, None].expand(b, h, 1, -1)
        origin, axes, geometry = local_frames(coords, refs, context)
        static = self.static[:, step, None].expand(b, h, -1).reshape(b * h, -1)
        rows = torch.arange(max(_ROWS, b * h), device=static.device) % (b * h)
        table = self.decoder.table(static[rows], geometry.float().reshape(b * h, -1)[rows])[: b * h]
        return Local(origin[:, :, 0], axes[:, :, 0], (table.reshape(b, h, -1, 3) * GRID).round() / GRID)

    def bond_lengths(self, target: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n"]:
        focal = with_virtual(target).gather(1, self.batch.refs[..., :1].expand(-1, -1, 3))
        return (target - focal).norm(dim=-1)

    def search_cpu(self, target: Float[Tensor, "b n 3"], size: Int[Tensor, " b"], beam: int) -> Int[Tensor, "b n"]:
        from structok.molecule.search_cpu import Atoms, search
        from structok.molecule.topo_cpu import Network

        network = self.network or Network.of(self.decoder)
        refs, context, lengths = self.batch.refs, self.batch.context, self.bond_lengths(target)
        atoms = Atoms(target, lengths, size, refs, context, self.static, target.new_tensor(VIRTUAL))
        return search(atoms, network, bond_weight=self.bond_weight, beam=beam)

    @torch.no_grad()
    def open_loop(self, target: Float[Tensor, "b n 3"], mask: Bool[Tensor, "b n"]) -> Int[Tensor, "b n"]:
        origin, axes, geometry = local_frames(with_virtual(target), self.batch.refs, self.batch.context)
        y = torch.einsum("bnij,bnj->bni", axes, target - origin)
        table = (self.decoder.table(self.static, geometry.float()) * GRID).round() / GRID
        cost = code_cost(table, y.float(), self.bond_lengths(target).float(), self.bond_weight)
        codes = cost.argmin(-1)
        codes[:, 0] = self.first_code
        return codes

    @torch.no_grad()
    def rebuild(self, codes: Int[Tensor, "b n"]) -> Float[Tensor, "b n 3"]:
        n = codes.shape[1]
        coords = self.start(n)
        only = torch.zeros(len(codes), 1, dtype=torch.long, device=codes.device)
        for step in range(1, n):
            at = self.local(coords, step)
            coords[:, :, step + self.n_virtual] = _position(at, only, codes[:, step, None].clamp(min=0))
        return coords[:, 0, self.n_virtual :]


def _position(at: Local, parent: Int[Tensor, "b h2"], code: Int[Tensor, "b h2"]) -> Float[Tensor, "b h2 3"]:
    """Where `code` puts the atom, seen from hypothesis `parent`."""
    rows = torch.arange(len(parent), device=code.device)[:, None]
    local = (at.table[code] if at.table.ndim == 2 else at.table[rows, parent, code]).double()
    return at.origin[rows, parent] + torch.einsum("bhij,bhi->bhj", at.axes[rows, parent], local)


class _State(NamedTuple):
    """Hypotheses, with the sums from which the truth is superposed on what each has rebuilt."""

    coords: Coords
    total: Float[Tensor, "b h 3"]  # sum of rebuilt positions
    product: Float[Tensor, "b h 3 3"]  # sum of (true ⊗ rebuilt)


class Growth:
    """Expansion of a `Placement` towards a target, in torch: for other devices than a CPU, or without a compiler.

    The error of an atom is measured after superposing the true positions of the atoms placed so far on
    their rebuilt ones (Kabsch), anew for each hypothesis and step: no pose has to be held on to.
    """

    def __init__(self, placement: Placement, target: Float[Tensor, "b n 3"], beam: int):
        self.placement, self.target, self.beam = placement, target, beam
        self.length = placement.bond_lengths(target)
        self.target_total = target.cumsum(1)

    def start(self, n: int) -> _State:
        coords = self.placement.start(n)
        zero = coords.new_zeros(len(coords), 1, 3)
        return _State(coords, zero, zero[..., None].expand(-1, -1, 3, 3))

    def _superposed(self, state: _State, step: int) -> Float[Tensor, "b h 3"]:
        """True position of atom `step`, moved with the atoms before it onto their rebuilt positions."""
        target = self.target[:, None, step]
        if step < 3:
            return target.expand_as(state.total)
        true_centre = self.target_total[:, None, step - 1] / step
        centre = state.total / step
        covariance = state.product - step * true_centre[..., None] * centre[..., None, :]
        u, _, vt = torch.linalg.svd(covariance + PRIOR * torch.eye(3, dtype=centre.dtype, device=centre.device))
        flip = torch.ones_like(centre)
        flip[..., 2] = torch.det(u @ vt).sign()
        return torch.einsum("bhi,bhij->bhj", target - true_centre, (u * flip[..., None, :]) @ vt) + centre

    def candidates(self, state: _State, step: int) -> tuple[Float[Tensor, "b h m"], Int[Tensor, "b h m"]]:
        self._at = self.placement.local(state.coords, step)  # `advance` follows with the same state
        origin, axes, table = self._at
        y = torch.einsum("bhij,bhj->bhi", axes, self._superposed(state, step) - origin)
        length = self.length[:, step, None].expand(y.shape[:-1])
        score = code_cost(table.float(), y.float(), length.float(), self.placement.bond_weight)
        code = score.topk(min(self.beam + _SPARE, score.shape[2]), dim=2, largest=False).indices.sort(dim=2).values
        index = code[..., None].expand(*code.shape, 3)
        picked = table[code] if table.ndim == 2 else table.gather(2, index).double()
        # measured again without the expanded square, whose rounding must not rank close codes
        cost = (picked - y[:, :, None]).square().sum(-1)
        if self.placement.bond_weight:
            cost = cost + self.placement.bond_weight * (picked.norm(dim=-1) - length[..., None]).square()
        cost, order = cost.sort(dim=2, stable=True)
        return cost[..., : self.beam], code.gather(2, order[..., : self.beam])

    def advance(self, state: _State, step: int, parent: Int[Tensor, "b h2"], code: Int[Tensor, "b h2"]) -> _State:
        rows = torch.arange(len(parent), device=code.device)[:, None]
        position = _position(self._at, parent, code)
        coords = state.coords[rows, parent]
        coords[:, :, step + self.placement.n_virtual] = position
        product = self.target[:, None, step, :, None] * position[..., None, :]
        return _State(coords, state.total[rows, parent] + position, state.product[rows, parent] + product)


@torch.no_grad()
def closed_loop(
    placement: Placement, target: Float[Tensor, "b n 3"], mask: Bool[Tensor, "b n"], *, beam: int
) -> Int[Tensor, "b n"]:
    """Codes whose reconstruction is close to `target`, -1 in padding.

    Parameters
    ----------
    placement : of these molecules
    target : true coordinates (Å, float64), posed by `orient`
    mask : True where there is an atom
    beam : hypotheses kept; 1 is greedy
    """
    if target.device.type == "cpu" and find_spec("numba"):
        codes = placement.search_cpu(target, mask.sum(1), beam)
    else:
        growth = Growth(placement, target, beam)
        codes, _ = beam_search(growth, growth.start(target.shape[1]), mask, beam=beam, start=1)
    codes[:, 0] = placement.first_code
    return codes
