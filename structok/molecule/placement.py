"""How a tree of atom frames grows by one atom: where each code would put an atom on what is rebuilt so far.

A `Placement` draws on one table of local positions for all atoms, or on a table per atom. Searching picks codes against
a target; decoding walks the same path with the codes given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from structok.codebook.nearest import nearest_code
from structok.molecule.model import MolStrucTokModel
from structok.molecule.spherical import FIRST_ATOM, describe, frames, rebuild, spherical_to_local
from structok.molecule.topo import GRID, ROWS, TopoBatch, TopoDecoder, code_cost, local_frames, with_virtual
from structok.molecule.topology import VIRTUAL

if TYPE_CHECKING:
    from structok.molecule.search_cpu import Atoms
    from structok.molecule.topo_cpu import Network

__all__ = [
    "Coords",
    "Local",
    "Placement",
    "TablePlacement",
    "TopoPlacement",
    "is_compiled",
    "position",
    "position_tables",
]

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
    refs : as of `reference_atoms`, padded
    bond_weight : weight of the squared bond-length error in the closed loop
    """

    n_virtual = 0

    @torch.no_grad()
    def __init__(
        self,
        model: MolStrucTokModel,
        table: Float[Tensor, "k 4"],
        refs: Int[Tensor, "b n 3"],
        bond_weight: float = 0.0,
    ):
        self.model, self.refs, self.bond_weight = model, refs, bond_weight
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
        rows = mask if mask.sum() >= ROWS else torch.ones_like(mask)
        codes = torch.zeros_like(mask, dtype=torch.long)
        latent = self.model.latent(describe(target, self.refs)[rows])
        codes[rows] = nearest_code(latent, self.model.codebook)[1].long()
        return codes

    def rebuild(self, codes: Int[Tensor, "b n"]) -> Float[Tensor, "b n 3"]:
        return rebuild(self.descriptors[codes.clamp(min=0)], self.refs)


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
        rows = torch.arange(max(ROWS, b * h), device=static.device) % (b * h)
        table = self.decoder.table(static[rows], geometry.float().reshape(b * h, -1)[rows])[: b * h]
        return Local(origin[:, :, 0], axes[:, :, 0], (table.reshape(b, h, -1, 3) * GRID).round() / GRID)

    def bond_lengths(self, target: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n"]:
        focal = with_virtual(target).gather(1, self.batch.refs[..., :1].expand(-1, -1, 3))
        return (target - focal).norm(dim=-1)

    def search_cpu(self, target: Float[Tensor, "b n 3"], size: Int[Tensor, " b"], beam: int) -> Int[Tensor, "b n"]:
        from structok.molecule.search_cpu import search

        atoms = self._arrays(target, self.bond_lengths(target), size)
        return search(atoms, self._layers(), bond_weight=self.bond_weight, beam=beam)

    def _arrays(self, target: Float[Tensor, "b n 3"], length: Float[Tensor, "b n"], size: Int[Tensor, " b"]) -> Atoms:
        from structok.molecule.search_cpu import Atoms

        virtual = torch.tensor(VIRTUAL, dtype=torch.float64)
        return Atoms(target, length, size, self.batch.refs, self.batch.context, self.static, virtual)

    def _layers(self) -> Network:
        from structok.molecule.topo_cpu import Network

        return self.network or Network.of(self.decoder)

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
        if is_compiled(codes):
            from structok.molecule.rebuild_cpu import rebuild as compiled

            none = torch.empty(len(codes), 0, 3, dtype=torch.float64)
            atoms = self._arrays(none, none.sum(-1), (self.batch.atoms[..., 0] > 0).sum(1))
            return compiled(atoms, codes.clamp(min=0), self._layers())
        coords = self.start(n)
        only = torch.zeros(len(codes), 1, dtype=torch.long, device=codes.device)
        for step in range(1, n):
            at = self.local(coords, step)
            coords[:, :, step + self.n_virtual] = position(at, only, codes[:, step, None].clamp(min=0))
        return coords[:, 0, self.n_virtual :]


def is_compiled(x: Tensor) -> bool:
    """Whether machine code does the work: on the CPU."""
    return x.device.type == "cpu"


def position(at: Local, parent: Int[Tensor, "b h2"], code: Int[Tensor, "b h2"]) -> Float[Tensor, "b h2 3"]:
    """Where `code` puts the atom, seen from hypothesis `parent`."""
    rows = torch.arange(len(parent), device=code.device)[:, None]
    local = (at.table[code] if at.table.ndim == 2 else at.table[rows, parent, code]).double()
    return at.origin[rows, parent] + torch.einsum("bhij,bhi->bhj", at.axes[rows, parent], local)
