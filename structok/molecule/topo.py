"""The topology-conditioned decoder: one table of local positions per atom, drawn from the graph around it.

A code alone must serve every atom of chemistry. Here the graph (known from the SELFIES) and the positions
rebuilt so far choose the table: a small message-passing network describes each atom once, a small MLP
adds the rebuilt geometry around the focal atom and puts out the positions of all codes at once. A few
codes keep the same position everywhere, so that an atom unlike any seen in training can still be reached.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from structok.molecule.graph import ATOM_FEATURES, BOND_TYPES
from structok.molecule.spherical import frames
from structok.molecule.topology import CONTEXT, RELATIONS, VIRTUAL

__all__ = ["GRID", "ROWS", "TopoBatch", "TopoDecoder", "code_cost", "local_frames", "with_virtual"]

GRID = 1024.0  # positions per Å: tables per atom are rounded, so that no code hangs on a product's last bits
ROWS = 16  # a matrix product of fewer rows may take another path through the library and round differently
_GEOMETRY = 3 + 3 * CONTEXT  # |c1|, c2 in the plane, context atoms


@dataclass(frozen=True)
class TopoBatch:
    """Padded graphs of a batch; atom indices are shifted by two, 0 and 1 are the virtual atoms.

    `edges` holds both directions of each bond as rows (from, to) of the flattened `atoms`; padding atoms
    have element class 0.
    """

    atoms: Int[Tensor, "b n f"]
    edges: Int[Tensor, "2 e"]
    edge_types: Int[Tensor, " e"]
    refs: Int[Tensor, "b n 3"]
    context: Int[Tensor, "b n c"]
    context_distance: Int[Tensor, "b n c"]
    relations: Int[Tensor, "b n r"]


def with_virtual(coords: Float[Tensor, "*b n 3"]) -> Float[Tensor, "*b n2 3"]:
    """Put the two virtual atoms in front."""
    virtual = coords.new_tensor(VIRTUAL).expand(*coords.shape[:-2], 2, 3)
    return torch.cat([virtual, coords], dim=-2)


def local_frames(
    coords: Float[Tensor, "*b n2 3"], refs: Int[Tensor, "*b k 3"], context: Int[Tensor, "*b k c"]
) -> tuple[Float[Tensor, "*b k 3"], Float[Tensor, "*b k 3 3"], Float[Tensor, "*b k g"]]:
    """Origin and axes of each atom's frame, and the geometry the decoder sees in it.

    `coords` has the virtual atoms in front; absent context atoms (index 0) are put at the origin.
    """
    k, c = context.shape[-2:]
    index = torch.cat([refs, context], dim=-1).flatten(-2)
    points = coords.gather(-2, index[..., None].expand(*index.shape, 3)).unflatten(-2, (k, 3 + c))
    f = points[..., 0, :]
    axes = frames(f, points[..., 1, :], points[..., 2, :])
    local = torch.einsum("...ij,...pj->...pi", axes, points[..., 1:, :] - f[..., None, :])
    around = local[..., 2:, :] * (context > 0)[..., None]
    return f, axes, torch.cat([local[..., 0, :1], local[..., 1, :2], around.flatten(-2)], dim=-1)


class TopoDecoder(nn.Module):
    """Positions of all codes for each atom, given its graph environment and the geometry rebuilt so far.

    Parameters
    ----------
    n_codes : codes in all
    n_fixed : how many of them (the last ones) have the same position for every atom
    width : channels of the message-passing network
    hidden : channels of the MLP
    rounds : message-passing rounds
    """

    def __init__(self, n_codes: int = 512, n_fixed: int = 32, width: int = 64, hidden: int = 128, rounds: int = 3):
        super().__init__()
        self.n_free = n_codes - n_fixed
        self.atom_features = nn.ModuleList(nn.Embedding(n, width) for n in ATOM_FEATURES.values())
        self.bond_types = nn.Embedding(BOND_TYPES, width)
        self.messages = nn.ModuleList(nn.Linear(width, width) for _ in range(rounds))
        self.updates = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width)) for _ in range(rounds)
        )
        self.virtual = nn.Parameter(torch.randn(2, width))
        self.roles = nn.ModuleList(nn.Linear(width, hidden, bias=False) for _ in range(4 + CONTEXT))
        self.relations = nn.ModuleList(nn.Embedding(n, hidden) for n in RELATIONS.values())
        self.context_distance = nn.Embedding(8 * CONTEXT, hidden)
        self.geometry = nn.Linear(_GEOMETRY, hidden)
        self.mix = nn.Linear(hidden, hidden)
        self.table_out = nn.Linear(hidden, 3 * self.n_free)
        self.fixed: Tensor
        self.register_buffer("fixed", torch.zeros(n_fixed, 3))

    def embed(
        self, atoms: Int[Tensor, "a f"], edges: Int[Tensor, "2 e"], kinds: Int[Tensor, " e"]
    ) -> Float[Tensor, "a w"]:
        """Atom embeddings from the graph alone."""
        h = torch.stack([e(atoms[:, k]) for k, e in enumerate(self.atom_features)]).sum(0)
        source, target = edges
        bonds = self.bond_types(kinds)
        for message, update in zip(self.messages, self.updates):
            sent = nn.functional.silu(message(h)[source] + bonds)
            received = torch.zeros_like(h).index_add(0, target, sent)
            h = h + update(torch.cat([h, received], dim=1))
        return h

    def static(self, batch: TopoBatch) -> Float[Tensor, "b n h"]:
        """What the graph says of each atom and its references: the part that no hypothesis changes; 0 in padding."""
        b, n, _ = batch.atoms.shape
        there = batch.atoms[..., 0].flatten() > 0
        count = -(-int(there.sum()) // ROWS) * ROWS
        rows = (~there).to(torch.uint8).argsort(stable=True)[:count]  # padding, only to fill up
        place = torch.zeros_like(there, dtype=torch.long).index_copy(0, rows, torch.arange(count, device=rows.device))
        h = self.embed(batch.atoms.flatten(0, 1)[rows], place[batch.edges], batch.edge_types)
        index = torch.cat([batch.refs, batch.context], dim=-1).flatten(0, 1)[rows]
        inside = place[(rows[:, None] // n * n + index - 2).clamp(min=0)]
        others = torch.cat([self.virtual, h])[torch.where(index < 2, index, inside + 2)]
        known = torch.cat([torch.ones_like(index[:, :3]), index[:, 3:]], dim=1) > 0
        out = self.roles[0](h)
        for k in range(3 + CONTEXT):
            out = out + self.roles[1 + k](others[:, k]) * known[:, k, None]
        relations = batch.relations.flatten(0, 1)[rows]
        for k, embedding in enumerate(self.relations):
            out = out + embedding(relations[:, k])
        slots = batch.context_distance.flatten(0, 1)[rows] + 8 * torch.arange(CONTEXT, device=h.device)
        out = out + self.context_distance(slots).sum(1)
        return out.new_zeros(b * n, out.shape[1]).index_copy(0, rows, out).unflatten(0, (b, n))

    def table(self, static: Float[Tensor, "*b h"], geometry: Float[Tensor, "*b g"]) -> Float[Tensor, "*b k 3"]:
        """Local positions of all codes (Å)."""
        z = nn.functional.silu(static + self.geometry(geometry))
        z = z + nn.functional.silu(self.mix(z))
        free = self.table_out(z).unflatten(-1, (self.n_free, 3))
        return torch.cat([free, self.fixed.expand(*free.shape[:-2], *self.fixed.shape)], dim=-2)


def code_cost(
    table: Float[Tensor, "*#b k 3"], target: Float[Tensor, "*b 3"], length: Float[Tensor, "*b"], bond_weight: float
) -> Float[Tensor, "*b k"]:
    """Squared distance to the target plus `bond_weight` times the squared error of the distance to f (Å²).

    |p - y|² is expanded, so that one product serves all codes; `table` is one for all atoms or one each.
    """
    squared = table.square().sum(-1)
    product = target @ table.mT if table.ndim == 2 else (table @ target[..., None])[..., 0]
    distance = squared - 2 * product + target.square().sum(-1, keepdim=True)
    if not bond_weight:
        return distance
    return distance + bond_weight * (squared.sqrt() - length[..., None]).square()
