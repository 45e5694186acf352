"""Rigid motions and superpositions, compiled for the CPU.

Rigid motions are rows of twelve numbers: the rotation row by row, then the translation. Superpositions need only
sums over pairs of points, rows of seventeen numbers (`add`), which a rigid motion of one side updates.
"""

from __future__ import annotations

import numpy as np

from structok.codebook.cpu import compiled

__all__ = ["SUMS", "add", "apply", "compose", "fit", "gather", "invert", "misfit", "miss", "move"]

SUMS = 17  # weight, Σ w y, Σ w x, Σ w y xᵀ, Σ w (|y|² + |x|²)


@compiled()
def compose(a, b, out):
    """out = a b."""
    for i in range(3):
        for j in range(3):
            out[3 * i + j] = a[3 * i] * b[j] + a[3 * i + 1] * b[3 + j] + a[3 * i + 2] * b[6 + j]
        out[9 + i] = a[9 + i] + a[3 * i] * b[9] + a[3 * i + 1] * b[10] + a[3 * i + 2] * b[11]


@compiled()
def invert(a, out):
    for i in range(3):
        for j in range(3):
            out[3 * i + j] = a[3 * j + i]
    for i in range(3):
        out[9 + i] = -(out[3 * i] * a[9] + out[3 * i + 1] * a[10] + out[3 * i + 2] * a[11])


@compiled()
def apply(a, x, out):
    for i in range(3):
        out[i] = a[9 + i] + a[3 * i] * x[0] + a[3 * i + 1] * x[1] + a[3 * i + 2] * x[2]


@compiled()
def miss(pose, y, x, w):
    """Squared distance, in squared standard errors, of an anchor x from its residue y."""
    square = 0.0
    for i in range(3):
        square += (pose[9 + i] + pose[3 * i] * y[0] + pose[3 * i + 1] * y[1] + pose[3 * i + 2] * y[2] - x[i]) ** 2
    return w * square


@compiled()
def add(sums, y, x, w):
    """Count a pair of points in."""
    sums[0] += w
    for i in range(3):
        sums[1 + i] += w * y[i]
        sums[4 + i] += w * x[i]
        for j in range(3):
            sums[7 + 3 * i + j] += w * y[i] * x[j]
        sums[16] += w * (y[i] * y[i] + x[i] * x[i])


@compiled()
def gather(y, x, w):
    """Sums of all pairs."""
    sums = np.zeros(SUMS)
    for a in range(len(y)):
        add(sums, y[a], x[a], w[a])
    return sums


@compiled()
def move(sums, a):
    """Move all points y by a."""
    old = sums[:17].copy()
    for i in range(3):
        turned = a[3 * i] * old[1] + a[3 * i + 1] * old[2] + a[3 * i + 2] * old[3]
        sums[1 + i] = turned + old[0] * a[9 + i]
        for j in range(3):
            sums[7 + 3 * i + j] = (
                a[3 * i] * old[7 + j] + a[3 * i + 1] * old[10 + j] + a[3 * i + 2] * old[13 + j] + a[9 + i] * old[4 + j]
            )
        sums[16] += 2 * a[9 + i] * turned + old[0] * a[9 + i] ** 2


@compiled(fastmath={"contract"})
def _centred(sums, s):
    """Centred Σ w y xᵀ into s; returns centred Σ w (|y|² + |x|²)."""
    inverse = 1 / sums[0]
    spread = sums[16]
    for i in range(3):
        spread -= (sums[1 + i] ** 2 + sums[4 + i] ** 2) * inverse
        for j in range(3):
            s[3 * i + j] = sums[7 + 3 * i + j] - sums[1 + i] * sums[4 + j] * inverse
    return spread


@compiled(fastmath={"contract"})
def _top(s, spread):
    """Largest eigenvalue of Horn's quaternion matrix by Newton's method from above (Theobald 2005)."""
    xx, xy, xz, yx, yy, yz, zx, zy, zz = s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8]
    c2 = -2 * (xx * xx + xy * xy + xz * xz + yx * yx + yy * yy + yz * yz + zx * zx + zy * zy + zz * zz)
    c1 = -8 * (xx * (yy * zz - yz * zy) - xy * (yx * zz - yz * zx) + xz * (yx * zy - yy * zx))
    a, b, c, d = xx + yy + zz, xx - yy - zz, yy - xx - zz, zz - xx - yy
    e, f, g, h, i, j = yz - zy, zx - xz, xy - yx, xy + yx, zx + xz, yz + zy
    # determinant of [[a e f g], [e b h i], [f h c j], [g i j d]] by pairs of rows
    c0 = (
        (a * b - e * e) * (c * d - j * j)
        - (a * h - e * f) * (h * d - j * i)
        + (a * i - e * g) * (h * j - c * i)
        + (e * h - b * f) * (f * d - j * g)
        - (e * i - b * g) * (f * j - c * g)
        + (f * i - h * g) * (f * i - h * g)
    )
    top = spread / 2
    for _ in range(40):
        square = top * top
        slope = (4 * square + 2 * c2) * top + c1
        if slope == 0.0:
            break
        step = ((square + c2) * square + c1 * top + c0) / slope
        top -= step
        if abs(step) < 1e-12 * abs(top):
            break
    return top


@compiled()
def misfit(sums):
    """The summed squared distance that is left when the points y are brought nearest to the points x."""
    if sums[0] <= 0:
        return 0.0
    s = np.empty(9)
    spread = _centred(sums, s)
    return max(spread - 2 * _top(s, spread), 0.0)


@compiled()
def fit(sums, pose):
    """As `misfit`, and the pose; where the points do not tell, `pose` keeps its rotation."""
    w = sums[0]
    if w <= 0:
        return 0.0
    s = np.empty(9)
    spread = _centred(sums, s)
    top = _top(s, spread)
    k = np.empty((4, 4))
    k[0, 0], k[1, 1] = s[0] + s[4] + s[8] - top, s[0] - s[4] - s[8] - top
    k[2, 2], k[3, 3] = s[4] - s[0] - s[8] - top, s[8] - s[0] - s[4] - top
    k[0, 1] = k[1, 0] = s[5] - s[7]
    k[0, 2] = k[2, 0] = s[6] - s[2]
    k[0, 3] = k[3, 0] = s[1] - s[3]
    k[1, 2] = k[2, 1] = s[1] + s[3]
    k[1, 3] = k[3, 1] = s[6] + s[2]
    k[2, 3] = k[3, 2] = s[5] + s[7]
    best, q, v = 0.0, np.zeros(4), np.empty(4)
    for row in range(4):  # the eigenvector is any row of cofactors, the longest is the most exact
        norm = 0.0
        for col in range(4):
            v[col] = _cofactor(k, row, col)
            norm += v[col] ** 2
        if norm > best:
            best = norm
            q[:] = v
    if best > 1e-14 * spread**6:
        q /= np.sqrt(best)
        a, b, c, d = q[0], q[1], q[2], q[3]
        pose[0], pose[1], pose[2] = a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)
        pose[3], pose[4], pose[5] = 2 * (b * c + a * d), a * a - b * b + c * c - d * d, 2 * (c * d - a * b)
        pose[6], pose[7], pose[8] = 2 * (b * d - a * c), 2 * (c * d + a * b), a * a - b * b - c * c + d * d
    for i in range(3):
        turned = pose[3 * i] * sums[1] + pose[3 * i + 1] * sums[2] + pose[3 * i + 2] * sums[3]
        pose[9 + i] = (sums[4 + i] - turned) / w
    return max(spread - 2 * top, 0.0)


@compiled()
def _cofactor(k, row, col):
    a, b, c = (row + 1) & 3, (row + 2) & 3, (row + 3) & 3
    d, e, f = (col + 1) & 3, (col + 2) & 3, (col + 3) & 3
    det = (
        k[a, d] * (k[b, e] * k[c, f] - k[b, f] * k[c, e])
        - k[a, e] * (k[b, d] * k[c, f] - k[b, f] * k[c, d])
        + k[a, f] * (k[b, d] * k[c, e] - k[b, e] * k[c, d])
    )
    return det if (row + col) & 1 == 0 else -det
