"""The part of `TopoDecoder` that hypotheses change, compiled for the CPU: a few rows at a time, without a batch.

Every sum runs over its inputs in order and takes the bias last, in float32 with fused multiply and add, as a matrix
product does: codes and coordinates are those of the network in torch, and a row does not depend on its neighbours.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray as Array
from torch import Tensor, nn

from structok.codebook.cpu import compiled
from structok.molecule.topo import GRID, TopoDecoder

__all__ = [
    "ROWS",
    "TILE",
    "Layer",
    "Network",
    "add_silu",
    "code_position",
    "dense",
    "hidden_rows",
    "positions",
    "spread_of",
]

TILE = 64  # outputs made together
ROWS = 4  # rows made together: a weight that has been read serves all of them
_STEPS = 4  # inputs taken together
_FAR = 1e18  # Å, codes that fill the last tile


class Layer(NamedTuple):
    """A linear layer, cut into tiles of outputs; what is left over of inputs and outputs is zero."""

    weight: Float[Array, "t i s"]
    bias: Float[Array, "t s"]

    @classmethod
    def of(cls, weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"]) -> Layer:
        outputs, inputs = weight.shape
        held = nn.functional.pad(weight, (0, -inputs % _STEPS, 0, -outputs % TILE))
        tiles = held.unflatten(0, (-1, TILE)).transpose(1, 2).contiguous()
        return cls(tiles.numpy(), nn.functional.pad(bias, (0, -outputs % TILE)).unflatten(0, (-1, TILE)).numpy())


class Network(NamedTuple):
    """Layers from the geometry around an atom to the local positions of all codes.

    Parameters
    ----------
    geometry, mix : hidden layers
    table : positions: x of the codes of the first tile, y, z, then the next tile; the fixed codes have no weights
    code_weight, code_bias : the same layer code by code, for single codes; a fourth component is zero
    reach : Å that each code moves at most where the hidden vector moves by one
    """

    geometry: Layer
    mix: Layer
    table: Layer
    code_weight: Float[Array, "k i 4"]
    code_bias: Float[Array, "k 4"]
    reach: Float[Array, " k"]

    @classmethod
    @torch.no_grad()
    def of(cls, decoder: TopoDecoder) -> Network:
        """The layers of a decoder on the CPU."""
        free, width = decoder.table_out.weight.unflatten(0, (-1, 3)), decoder.mix.in_features
        weight = torch.cat([free, free.new_zeros(len(decoder.fixed), 3, width)])
        bias = torch.cat([decoder.table_out.bias.unflatten(0, (-1, 3)), decoder.fixed])
        spare = -len(bias) % TILE
        tiled = nn.functional.pad(weight, (0, 0, 0, 0, 0, spare)).unflatten(0, (-1, TILE)).transpose(1, 2)
        offsets = nn.functional.pad(bias, (0, 0, 0, spare), value=_FAR).unflatten(0, (-1, TILE)).transpose(1, 2)
        return cls(
            Layer.of(decoder.geometry.weight, decoder.geometry.bias),
            Layer.of(decoder.mix.weight, decoder.mix.bias),
            Layer.of(tiled.reshape(-1, width), offsets.reshape(-1)),
            nn.functional.pad(weight.transpose(1, 2), (0, 1)).contiguous().numpy(),
            nn.functional.pad(bias, (0, 1)).numpy(),
            torch.linalg.matrix_norm(weight.double(), 2).numpy(),
        )

    @classmethod
    def none(cls, n_codes: int) -> Network:
        """No layers: tables are given."""
        layer = Layer(np.empty((0, 0, TILE), np.float32), np.empty((0, TILE), np.float32))
        return cls(
            layer, layer, layer, np.empty((0, 0, 4), np.float32), np.empty((0, 4), np.float32), np.zeros(n_codes)
        )


@compiled(fastmath={"contract"})
def dense(x, rows, layer, sums, out):
    """out = x W + b, for `rows` rows rounded up to a multiple of ROWS; x is as wide as the padded inputs.

    `sums` has a row for each ROWS of them.
    """
    weight, bias = layer
    for t in range(len(weight)):
        w = weight[t]
        for r in range(0, rows, ROWS):
            s = sums[r // ROWS]
            s[:] = 0
            for k in range(0, len(w), _STEPS):
                a0, a1, a2, a3 = x[r, k], x[r, k + 1], x[r, k + 2], x[r, k + 3]
                b0, b1, b2, b3 = x[r + 1, k], x[r + 1, k + 1], x[r + 1, k + 2], x[r + 1, k + 3]
                c0, c1, c2, c3 = x[r + 2, k], x[r + 2, k + 1], x[r + 2, k + 2], x[r + 2, k + 3]
                d0, d1, d2, d3 = x[r + 3, k], x[r + 3, k + 1], x[r + 3, k + 2], x[r + 3, k + 3]
                for j in range(TILE):
                    w0, w1, w2, w3 = w[k, j], w[k + 1, j], w[k + 2, j], w[k + 3, j]
                    s[j] = s[j] + a0 * w0 + a1 * w1 + a2 * w2 + a3 * w3
                    s[TILE + j] = s[TILE + j] + b0 * w0 + b1 * w1 + b2 * w2 + b3 * w3
                    s[2 * TILE + j] = s[2 * TILE + j] + c0 * w0 + c1 * w1 + c2 * w2 + c3 * w3
                    s[3 * TILE + j] = s[3 * TILE + j] + d0 * w0 + d1 * w1 + d2 * w2 + d3 * w3
        for r in range(0, rows, ROWS):
            for i in range(ROWS):
                for j in range(TILE):
                    out[r + i, t, j] = sums[r // ROWS, i * TILE + j] + bias[t, j]


@compiled(fastmath={"contract"}, error_model="numpy")
def add_silu(x, rows, out):
    """out += x sigmoid(x).

    The exponential is that of torch to the last bit: range reduction and polynomial of SLEEF (Shibata and Petrogalli
    2020, IEEE TPDS 31, 1316).
    """
    bits, rest = np.empty(TILE, np.int32), np.empty(TILE, np.float32)
    scale = bits.view(np.float32)
    for r in range(rows):
        for t in range(x.shape[1]):
            for j in range(TILE):
                value = min(max(-x[r, t, j], np.float32(-87.0)), np.float32(87.0))
                power = np.rint(value * np.float32(1.4426950408889634))
                value = value - power * np.float32(0.693145751953125)
                rest[j] = value - power * np.float32(1.428606765330187e-06)
                bits[j] = (np.int32(power) + np.int32(127)) << np.int32(23)
            for j in range(TILE):
                value, series = rest[j], np.float32(0.00019852762)
                series = series * value + np.float32(0.0013930436)
                series = series * value + np.float32(0.0083333608)
                series = series * value + np.float32(0.041666485)
                series = series * value + np.float32(0.16666667)
                series = series * value + np.float32(0.5)
                series = np.float32(1.0) + ((value * value) * series + value)
                out[r, t, j] += x[r, t, j] / (np.float32(1.0) + series * scale[j])


@compiled()
def positions(out, position, length):
    """Local position of every code (Å, on the grid), and its length, from the outputs of `Network.table`."""
    for t in range(len(position)):
        for i in range(3):
            for j in range(TILE):
                position[t, i, j] = np.rint(out[3 * t + i, j] * np.float32(GRID)) / GRID
        for j in range(TILE):
            square = position[t, 0, j] ** 2 + position[t, 1, j] ** 2 + position[t, 2, j] ** 2
            length[t, j] = np.sqrt(square)


@compiled(fastmath={"contract"})
def code_position(network, k, z, position):
    """Local position of one code for one hidden vector: the same as in its table."""
    weight, bias = network.code_weight[k], network.code_bias[k]
    x = y = w = np.float32(0.0)
    for i in range(len(weight)):
        x = x + z[i] * weight[i, 0]
        y = y + z[i] * weight[i, 1]
        w = w + z[i] * weight[i, 2]
    position[0] = np.rint((x + bias[0]) * np.float32(GRID)) / GRID
    position[1] = np.rint((y + bias[1]) * np.float32(GRID)) / GRID
    position[2] = np.rint((w + bias[2]) * np.float32(GRID)) / GRID


@compiled()
def hidden_rows(atoms, row, group, step, alive, coords, axes, focal, network, room, which):
    """Hidden vectors of the hypotheses' geometries, equal ones once; `which` names the row of each."""
    x, pre, hidden, sums, of = room
    count, c = 0, atoms.context.shape[2]
    for m in range(group):
        first = count
        if step >= atoms.size[row + m]:
            continue
        refs, context = atoms.refs[row + m, step], atoms.context[row + m, step]
        for h in range(alive[m]):
            f, turn = coords[m, h, focal[m]], axes[m, h]
            for p in range(2 + c):
                atom = refs[1 + p] if p < 2 else context[p - 2]
                for i in range(3):
                    at = i if p == 0 else (1 + i if p == 1 else 3 * p - 3 + i)
                    if p < 2 and i > p:
                        continue
                    value = 0.0
                    if p < 2 or atom > 0:
                        for j in range(3):
                            value += turn[i, j] * (coords[m, h, atom, j] - f[j])
                    x[count, at] = value
            which[m, h] = count
            for other in range(first, count):
                at = 0
                while at < 3 + 3 * c and x[other, at] == x[count, at]:
                    at += 1
                if at == 3 + 3 * c:
                    which[m, h] = other
                    break
            if which[m, h] == count:
                of[count] = row + m
                count += 1
    dense(x, count, network.geometry, sums, pre)
    for r in range(count):
        static = atoms.static[of[r], step]
        for i in range(len(static)):
            pre[r, i // TILE, i % TILE] += static[i]
    hidden[:count] = 0
    add_silu(pre, count, hidden)
    dense(hidden.reshape(len(hidden), -1), count, network.mix, sums, pre)
    add_silu(pre, count, hidden)


@compiled(fastmath={"contract", "reassoc", "nnan", "nsz"})
def spread_of(z, base, reach, bond_weight, spread):
    """A bound on how far, as a square root of cost, codes drawn from z are off the table drawn from `base`.

    It is spread[0] for each Å of a code's reach, and spread[1] for all: both tables are rounded, and the sums behind
    them as well. The position and the length move at most alike.
    """
    square, own, other = 0.0, 0.0, 0.0
    for i in range(len(z)):
        square += np.float64(z[i] - base[i]) ** 2
        own += np.float64(z[i]) ** 2
        other += np.float64(base[i]) ** 2
    scale = np.sqrt(1.0 + bond_weight)
    spread[0] = scale * np.sqrt(square)
    spread[1] = scale * (2.0 / GRID + reach * 2e-7 * len(z) * (np.sqrt(own) + np.sqrt(other)))
