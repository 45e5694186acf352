"""Decoding with `TopoDecoder`, compiled for the CPU: of each atom's table only the code's own row is made."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from structok.codebook.cpu import compiled
from structok.molecule.frames_cpu import frame
from structok.molecule.search_cpu import Atoms, in_parts
from structok.molecule.topo_cpu import ROWS, TILE, Network, code_position, hidden_rows

__all__ = ["rebuild"]

_GROUP = 32  # molecules rebuilt together


def rebuild(atoms: Atoms, codes: Int[Tensor, "b n"], network: Network) -> Float[Tensor, "b n 3"]:
    """Coordinates (Å) that the codes decode to, atom 0 at the origin; zero in padding. Targets are not looked at."""
    coords = torch.zeros(*codes.shape, 3, dtype=torch.float64)
    given, out = codes.contiguous().numpy(), coords.numpy()
    in_parts(atoms, lambda some, rows: _rebuild(some, given[rows], network, out[rows]))
    return coords


@compiled()
def _rebuild(atoms, codes, network, out):
    ahead = len(atoms.virtual)
    coords = np.zeros((_GROUP, 1, ahead + codes.shape[1], 3))
    axes, focal, alive = np.empty((_GROUP, 1, 3, 3)), np.empty(_GROUP, np.int64), np.ones(_GROUP, np.int64)
    inputs = np.zeros((_GROUP + ROWS, network.geometry.weight.shape[1]), np.float32)
    pre = np.empty((len(inputs), len(network.mix.bias), TILE), np.float32)
    hidden = np.empty(pre.shape, np.float32)
    vectors, place = hidden.reshape(len(hidden), -1), np.empty(3)
    which, owner = np.empty((_GROUP, 1), np.int64), np.empty(_GROUP, np.int64)
    sums = np.empty((len(inputs) // ROWS + 1, ROWS * TILE), np.float32)
    room = inputs, pre, hidden, sums, owner
    for first in range(0, len(codes), _GROUP):
        group = min(_GROUP, len(codes) - first)
        coords[:, 0, :ahead] = atoms.virtual
        for step in range(1, atoms.size[first : first + group].max()):
            for m in range(group):
                if step < atoms.size[first + m]:
                    f, c1, c2 = atoms.refs[first + m, step]
                    focal[m] = f
                    frame(coords[m, 0, f], coords[m, 0, c1], coords[m, 0, c2], axes[m, 0])
            hidden_rows(atoms, first, group, step, alive, coords, axes, focal, network, room, which)
            for m in range(group):
                if step < atoms.size[first + m]:
                    code_position(network, codes[first + m, step], vectors[which[m, 0]], place)
                    for i in range(3):
                        value = coords[m, 0, focal[m], i]
                        for j in range(3):
                            value += axes[m, 0, j, i] * place[j]
                        coords[m, 0, ahead + step, i] = value
        for m in range(group):
            size = atoms.size[first + m]
            out[first + m, :size] = coords[m, 0, ahead : ahead + size]
            coords[m, 0, ahead] = 0.0
