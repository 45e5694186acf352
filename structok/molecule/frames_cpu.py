"""Frames and superposition of single molecules, compiled for the CPU, in float64."""

from __future__ import annotations

import numpy as np

from structok.codebook.cpu import compiled
from structok.molecule.search import PRIOR
from structok.molecule.spherical import COLLINEAR

__all__ = ["frame", "superposed"]


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


@compiled()
def _diagonalise(a, v):
    """Turn the columns of a and v alike until those of a are at right angles (Hestenes)."""
    for _ in range(30):
        still = True
        for p, q in ((0, 1), (0, 2), (1, 2)):
            alpha = a[0, p] * a[0, p] + a[1, p] * a[1, p] + a[2, p] * a[2, p]
            beta = a[0, q] * a[0, q] + a[1, q] * a[1, q] + a[2, q] * a[2, q]
            gamma = a[0, p] * a[0, q] + a[1, p] * a[1, q] + a[2, p] * a[2, q]
            if gamma * gamma <= 1e-30 * alpha * beta:
                continue
            still = False
            zeta = (beta - alpha) / (2.0 * gamma)
            t = (1.0 if zeta >= 0 else -1.0) / (abs(zeta) + np.sqrt(1.0 + zeta * zeta))
            c = 1.0 / np.sqrt(1.0 + t * t)
            s = c * t
            for i in range(3):
                a[i, p], a[i, q] = c * a[i, p] - s * a[i, q], s * a[i, p] + c * a[i, q]
                v[i, p], v[i, q] = c * v[i, p] - s * v[i, q], s * v[i, p] + c * v[i, q]
        if still:
            break


@compiled()
def superposed(point, true_total, total, product, n, basis, a, moved):
    """A point, moved with the n true positions before it onto the rebuilt ones.

    `basis` starts near the right singular vectors of the covariance, which are left in it. Those of the two largest
    values make the rotation; the third follows, since a rotation mirrors nothing.
    """
    for i in range(3):
        for j in range(3):
            a[i, j] = 0.0
            for k in range(3):
                entry = product[i, k] - true_total[i] * total[k] / n + (PRIOR if i == k else 0.0)
                a[i, j] += entry * basis[k, j]
    _diagonalise(a, basis)
    first = a[0, 0] ** 2 + a[1, 0] ** 2 + a[2, 0] ** 2
    second = a[0, 1] ** 2 + a[1, 1] ** 2 + a[2, 1] ** 2
    third = a[0, 2] ** 2 + a[1, 2] ** 2 + a[2, 2] ** 2
    size = (first, second, third)
    last = 2 if third <= min(first, second) else (0 if first <= second else 1)
    p, q = (last + 1) % 3, (last + 2) % 3
    d = (point[0] - true_total[0] / n, point[1] - true_total[1] / n, point[2] - true_total[2] / n)
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
