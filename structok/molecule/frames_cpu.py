"""Frames and superposition of single molecules, compiled for the CPU, in float64."""

from __future__ import annotations

import numpy as np

from structok.codebook.cpu import compiled
from structok.molecule.search import PRIOR
from structok.molecule.spherical import COLLINEAR

__all__ = ["ROOM", "frame", "superposed"]

_LANES = 8  # hypotheses taken together
_HALF = 9 * _LANES
ROOM = 2 * _HALF


@compiled()
def frame(f, c1, c2, axes):
    """`spherical.frames` at f."""
    x, y, z = c1[0] - f[0], c1[1] - f[1], c1[2] - f[2]
    size = max(np.sqrt(x * x + y * y + z * z), 1e-12)
    x, y, z = x / size, y / size, z / size
    a, b, c = c2[0] - f[0], c2[1] - f[1], c2[2] - f[2]
    along, limit = a * x + b * y + c * z, COLLINEAR * np.sqrt(a * a + b * b + c * c)
    a, b, c = a - along * x, b - along * y, c - along * z
    if np.sqrt(a * a + b * b + c * c) <= limit:
        upright = abs(y) < 0.9
        along = y if upright else z
        a, b, c = -along * x, (1.0 if upright else 0.0) - along * y, (0.0 if upright else 1.0) - along * z
    size = max(np.sqrt(a * a + b * b + c * c), 1e-12)
    a, b, c = a / size, b / size, c / size
    axes[0, 0], axes[0, 1], axes[0, 2] = x, y, z
    axes[1, 0], axes[1, 1], axes[1, 2] = a, b, c
    axes[2, 0], axes[2, 1], axes[2, 2] = y * c - z * b, z * a - x * c, x * b - y * a


@compiled(error_model="numpy", inline="always")
def _turn(x, p, q):
    """Turn columns p and q of matrices alike until those of the upper half are at right angles; how many turned.

    Matrices are 6 × 3 and lie beside each other: entry (i, j) of all at _LANES * (3 * i + j).
    """
    turned = np.int32(0)
    for m in range(_LANES):
        p0, p1, p2 = p * _LANES + m, (3 + p) * _LANES + m, (6 + p) * _LANES + m
        q0, q1, q2 = q * _LANES + m, (3 + q) * _LANES + m, (6 + q) * _LANES + m
        alpha = x[p0] * x[p0] + x[p1] * x[p1] + x[p2] * x[p2]
        beta = x[q0] * x[q0] + x[q1] * x[q1] + x[q2] * x[q2]
        gamma = x[p0] * x[q0] + x[p1] * x[q1] + x[p2] * x[q2]
        still = gamma * gamma <= 1e-30 * alpha * beta
        zeta = (beta - alpha) / (2.0 * gamma)
        t = (1.0 if zeta >= 0 else -1.0) / (abs(zeta) + np.sqrt(1.0 + zeta * zeta))
        t = 0.0 if still else t
        c = 1.0 / np.sqrt(1.0 + t * t)
        s = c * t
        x[p0], x[q0] = c * x[p0] - s * x[q0], s * x[p0] + c * x[q0]
        x[p1], x[q1] = c * x[p1] - s * x[q1], s * x[p1] + c * x[q1]
        x[p2], x[q2] = c * x[p2] - s * x[q2], s * x[p2] + c * x[q2]
        p0, p1, p2, q0, q1, q2 = p0 + _HALF, p1 + _HALF, p2 + _HALF, q0 + _HALF, q1 + _HALF, q2 + _HALF
        x[p0], x[q0] = c * x[p0] - s * x[q0], s * x[p0] + c * x[q0]
        x[p1], x[q1] = c * x[p1] - s * x[q1], s * x[p1] + c * x[q1]
        x[p2], x[q2] = c * x[p2] - s * x[q2], s * x[p2] + c * x[q2]
        turned += np.int32(not still)
    return turned


@compiled(error_model="numpy")
def _diagonalise(x):
    """Turn the columns of matrices until those of their upper halves are at right angles (Hestenes)."""
    for _ in range(30):
        if _turn(x, 0, 1) + _turn(x, 0, 2) + _turn(x, 1, 2) == 0:
            break


@compiled()
def superposed(point, true_total, total, product, n, count, basis, room, moved):
    """A point, moved with the n true positions before it onto the rebuilt ones of each of `count` hypotheses.

    `basis` starts near the right singular vectors of the covariance, which are left in it. Those of the two largest
    values make the rotation; the third follows, since a rotation mirrors nothing.
    """
    x, views = room, room.reshape(2, 3, 3, _LANES)
    a, v = views[0], views[1]
    d = (point[0] - true_total[0] / n, point[1] - true_total[1] / n, point[2] - true_total[2] / n)
    for start in range(0, count, _LANES):
        several = min(_LANES, count - start)
        x[:] = 0.0
        for m in range(several):
            h = start + m
            v[:, :, m] = basis[h]
            for i in range(3):
                for j in range(3):
                    for k in range(3):
                        entry = product[h, i, k] - true_total[i] * total[h, k] / n + (PRIOR if i == k else 0.0)
                        a[i, j, m] += entry * basis[h, k, j]
        _diagonalise(x)
        for m in range(several):
            h = start + m
            basis[h] = v[:, :, m]
            _move(d, a[:, :, m], basis[h], total[h], n, moved[h])


@compiled()
def _move(d, a, basis, total, n, moved):
    first = a[0, 0] ** 2 + a[1, 0] ** 2 + a[2, 0] ** 2
    second = a[0, 1] ** 2 + a[1, 1] ** 2 + a[2, 1] ** 2
    third = a[0, 2] ** 2 + a[1, 2] ** 2 + a[2, 2] ** 2
    size = (first, second, third)
    last = 2 if third <= min(first, second) else (0 if first <= second else 1)
    p, q = (last + 1) % 3, (last + 2) % 3
    one, two = 1.0 / max(np.sqrt(size[p]), 1e-300), 1.0 / max(np.sqrt(size[q]), 1e-300)
    u = (a[0, p] * one, a[1, p] * one, a[2, p] * one)
    w = (a[0, q] * two, a[1, q] * two, a[2, q] * two)
    cross = (u[1] * w[2] - u[2] * w[1], u[2] * w[0] - u[0] * w[2], u[0] * w[1] - u[1] * w[0])
    along = d[0] * u[0] + d[1] * u[1] + d[2] * u[2]
    across = d[0] * w[0] + d[1] * w[1] + d[2] * w[2]
    above = d[0] * cross[0] + d[1] * cross[1] + d[2] * cross[2]
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        normal = basis[j, p] * basis[k, q] - basis[k, p] * basis[j, q]
        moved[i] = along * basis[i, p] + across * basis[i, q] + above * normal + total[i] / n
