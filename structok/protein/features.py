"""Features of GCP-VQVAE: a chain becomes a graph of residues joined to their nearest neighbours.

Scalars do not change under rotation and translation, vectors rotate with the structure. Everything is
computed from N, CA, C of observed residues; a feature that needs a residue that is missing, or that lies
beyond the chain's end, is an angle of 0 or a zero vector.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize, one_hot, pad

from structok.geometry import dihedral, knn

__all__ = [
    "NODE_SCALARS",
    "RESIDUES",
    "ResidueGraph",
    "build_graph",
    "residue_types",
]

RESIDUES = "ABCDEFGHIJKLMNPQRSTVWXYZ"  # one-letter codes without O and U, as the published weights index them
_POSITION, _TYPES, _ANGLES = 16, len(RESIDUES) - 1, 10
NODE_SCALARS = _POSITION + _TYPES + _ANGLES


@dataclass(frozen=True)
class ResidueGraph:
    """Residue graphs of a batch of chains, nodes of all chains in one flat list.

    Parameters
    ----------
    node_scalar : position (16), residue type (23), cos and sin of alpha, kappa, phi, psi, omega (10)
    node_vector : unit vectors CA(i) -> CA(i+1) and CA(i) -> CA(i-1)
    edge_index : (neighbour, centre); messages are summed onto the neighbour, as published
    edge_distance : CA distance in Å
    edge_vector : unit vector from the centre's CA to the neighbour's
    edge_frame : three rows to project vectors on
    slot : place of each node in the padded batch, chain * length + residue
    """

    node_scalar: Float[Tensor, "n scalars"]
    node_vector: Float[Tensor, "n 2 3"]
    edge_index: Int[Tensor, "2 e"]
    edge_distance: Float[Tensor, " e"]
    edge_vector: Float[Tensor, "e 1 3"]
    edge_frame: Float[Tensor, "e 3 3"]
    slot: Int[Tensor, " n"]


def residue_types(sequence: str) -> Int[Tensor, " l"]:
    """Index of each letter in `RESIDUES`; anything unusual (U, O, B, Z, '-') counts as X."""
    unknown = RESIDUES.index("X")
    table = {letter: i for i, letter in enumerate(RESIDUES) if letter not in "BZ"}
    return torch.tensor([table.get(letter, unknown) for letter in sequence.upper()], dtype=torch.long)


def build_graph(
    coords: Float[Tensor, "b l 3 3"],
    mask: Bool[Tensor, "b l"],
    types: Int[Tensor, "b l"] | None = None,
    *,
    neighbours: int = 16,
    local_frames: bool = False,
    positions: bool = True,
    reach: int | None = None,
    origin_padding: bool = False,
) -> ResidueGraph:
    """ResidueGraph of the observed residues of a padded batch.

    Parameters
    ----------
    coords : N, CA, C in Å; anything (NaN too) where `mask` is False
    mask : True where the residue is observed
    types : index into `RESIDUES`; None leaves the residue type out (all zero)
    neighbours : CA neighbours of each residue, k
    local_frames : build edge frames on the centre's own backbone rather than on the chain's centroid, so
        that they do not change when the chain is cropped (not the published model)
    positions : whether nodes know their place in the chain; without, codes do not change when a chain is cropped
    reach : only residues of at most so many slots away are neighbours; None is the published graph
    origin_padding : reproduce the published batch computation, which fills padding with zeros and lets alpha,
        kappa and psi of a chain's last two residues see them as residues at the origin. Published chains
        of the batch's (or the configured) full length are free of it. For parity tests only.
    """
    chain, position = mask.nonzero(as_tuple=True)
    x = coords[chain, position]
    ca = x[:, 1]
    scalars = [_sinusoids(position, x.dtype) if positions else x.new_zeros(len(x), _POSITION)]
    if types is None:
        scalars.append(x.new_zeros(len(x), _TYPES))
    else:
        scalars.append(one_hot(types[chain, position], len(RESIDUES))[:, :_TYPES].to(x.dtype))
    scalars.append(_angles(coords, mask, origin_padding)[chain, position])

    follows = (chain[1:] == chain[:-1]) & (position[1:] == position[:-1] + 1)
    step = normalize(ca[1:] - ca[:-1], dim=-1) * follows[:, None]
    vectors = torch.stack([pad(step, (0, 0, 0, 1)), pad(-step, (0, 0, 1, 0))], 1)

    edges = knn(ca, neighbours, chain) if reach is None else _nearby(coords[..., 1, :], mask, neighbours, reach)
    row, col = edges
    difference = ca[row] - ca[col]
    frames = _local_frames(x, row, col) if local_frames else _centroid_frames(ca, chain, len(mask), row, col)
    return ResidueGraph(
        torch.cat(scalars, 1),
        vectors,
        edges,
        difference.norm(dim=-1),
        normalize(difference, dim=-1)[:, None],
        frames,
        chain * mask.shape[1] + position,
    )


def _nearby(ca: Float[Tensor, "b l 3"], mask: Bool[Tensor, "b l"], k: int, reach: int) -> Int[Tensor, "2 edges"]:
    """Edges (neighbour, centre) to the `k` nearest observed residues at most `reach` slots away."""
    b, length = mask.shape
    shifts = torch.cat([torch.arange(-reach, 0), torch.arange(1, reach + 1)]).to(ca.device)
    place = torch.arange(length, device=ca.device)[:, None] + shifts
    inside = (place >= 0) & (place < length)
    place = place.clamp(0, length - 1)
    known = mask[:, place] & inside & mask[:, :, None]
    x = torch.where(mask[..., None], ca, 0.0)
    distance = torch.where(known, (x[:, place] - x[:, :, None]).norm(dim=-1), torch.inf)
    near, pick = distance.topk(min(k, len(shifts)), largest=False)
    chain, centre, which = near.isfinite().nonzero(as_tuple=True)
    neighbour = place[centre, pick[chain, centre, which]]
    node = (mask.flatten().cumsum(0) - 1).view(b, length)
    return torch.stack([node[chain, neighbour], node[chain, centre]])


def _sinusoids(position: Int[Tensor, " n"], kind: torch.dtype) -> Float[Tensor, "n 16"]:
    """Sines then cosines of the residue index at frequencies from 1 down to 1e-4."""
    half = _POSITION // 2
    frequency = torch.logspace(0, 1, half, 1e-4, device=position.device)
    angle = position[:, None].float() * frequency
    return torch.cat([angle.sin(), angle.cos()], 1).to(kind)


def _angles(
    coords: Float[Tensor, "b l 3 3"], mask: Bool[Tensor, "b l"], origin_padding: bool
) -> Float[Tensor, "b l 10"]:
    """Cosine and sine of alpha, kappa, phi, psi, omega; angles that need a missing residue are 0."""
    length = mask.shape[1]
    x = pad(torch.where(mask[..., None, None], coords, 0.0), (0, 0, 0, 0, 2, 2))
    known = pad(torch.ones_like(mask) if origin_padding else mask, (2, 2))

    def at(atom: int, shift: int = 0) -> Tensor:
        return x[:, 2 + shift : 2 + shift + length, atom]

    def has(*shifts: int) -> Tensor:
        return torch.stack([known[:, 2 + k : 2 + k + length] for k in shifts]).all(0)

    n, ca, c = 0, 1, 2
    bend_in, bend_out = normalize(at(ca) - at(ca, -2), dim=-1), normalize(at(ca, 2) - at(ca), dim=-1)
    kappa = torch.acos((bend_in * bend_out).sum(-1).clamp(-1 + 1e-7, 1 - 1e-7))
    angles = torch.stack(
        [
            torch.where(has(-1, 0, 1, 2), dihedral(at(ca, -1), at(ca), at(ca, 1), at(ca, 2)), 0.0),
            torch.where(has(-2, -1, 0, 1, 2), kappa, 0.0),
            torch.where(has(-1, 0), dihedral(at(c, -1), at(n), at(ca), at(c)), 0.0),
            torch.where(has(0, 1), dihedral(at(n), at(ca), at(c), at(n, 1)), 0.0),
            torch.where(has(0, 1), dihedral(at(ca), at(c), at(n, 1), at(ca, 1)), 0.0),
        ],
        -1,
    )
    return torch.stack([angles.cos(), angles.sin()], -1).flatten(-2)


def _centroid_frames(
    ca: Float[Tensor, "n 3"],
    chain: Int[Tensor, " n"],
    chains: int,
    row: Int[Tensor, " e"],
    col: Int[Tensor, " e"],
) -> Float[Tensor, "e 3 3"]:
    """Published edge frames: rows a (along the edge), b (across both position vectors) and a × b.

    Positions are taken from the chain's centroid; lengths are damped (v / (|v| + 1)), not normalised.
    """
    count = torch.bincount(chain, minlength=chains).clamp(min=1)[:, None]
    centroid = ca.new_zeros(chains, 3).index_add(0, chain, ca) / count
    p = ca - centroid[chain]
    along, across = p[row] - p[col], torch.linalg.cross(p[row], p[col])
    a, b = (v / (v.norm(dim=-1, keepdim=True) + 1) for v in (along, across))
    return torch.stack([a, b, torch.linalg.cross(a, b)], 1)


def _local_frames(x: Float[Tensor, "n 3 3"], row: Int[Tensor, " e"], col: Int[Tensor, " e"]) -> Float[Tensor, "e 3 3"]:
    """Edge frames from the edge and the direction in which the centre's side chain leaves."""
    n, ca, c = x.unbind(1)
    outward = -(normalize(n - ca, dim=-1) + normalize(c - ca, dim=-1))
    a = normalize(ca[row] - ca[col], dim=-1)
    b = normalize(torch.linalg.cross(a, outward[col]), dim=-1)
    return torch.stack([a, b, torch.linalg.cross(a, b)], 1)
