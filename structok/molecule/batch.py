"""Ragged per-molecule arrays to padded tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from structok.molecule.graph import Graph
from structok.molecule.topo import TopoBatch
from structok.molecule.topology import Topology

__all__ = ["atom_mask", "pad", "topo_batch"]

_MULTIPLE = 16  # padded lengths are multiples of this, so that a batch of one has rows enough (see `search`)


def _length(sizes: Sequence[int]) -> int:
    return -(-max(sizes) // _MULTIPLE) * _MULTIPLE


def pad(rows: Sequence[np.ndarray], kind: torch.dtype, device: str = "cpu") -> Tensor:
    """Stack arrays of shape (n_i, ...) to (b, n, ...), zeros behind."""
    out = torch.zeros(len(rows), _length([len(r) for r in rows]), *rows[0].shape[1:], dtype=kind)
    held = out.numpy()  # many short rows: numpy copies them faster
    for i, row in enumerate(rows):
        held[i, : len(row)] = row
    return out.to(device)


def atom_mask(sizes: Sequence[int], device: str = "cpu") -> Bool[Tensor, "b n"]:
    """True where a molecule of a padded batch has an atom."""
    return torch.arange(_length(sizes), device=device) < torch.tensor(sizes, device=device)[:, None]


def topo_batch(graphs: Sequence[Graph], topologies: Sequence[Topology], device: str = "cpu") -> TopoBatch:
    """Inputs of the topology-conditioned decoder."""
    n = _length([len(g) for g in graphs])
    bonds = np.concatenate([g.bonds + i * n for i, g in enumerate(graphs)]).T
    kinds = np.concatenate([g.bond_types for g in graphs])

    def padded(name: str) -> Tensor:
        return pad([getattr(t, name) for t in topologies], torch.long, device)

    return TopoBatch(
        atoms=pad([g.atoms for g in graphs], torch.long, device),
        edges=torch.as_tensor(np.concatenate([bonds, bonds[::-1]], axis=1), dtype=torch.long, device=device),
        edge_types=torch.as_tensor(np.concatenate([kinds, kinds]), dtype=torch.long, device=device),
        refs=padded("refs"),
        context=padded("context"),
        context_distance=padded("context_distance"),
        relations=padded("relations"),
    )
