"""Two stretches of a chain, each posed by its own anchors, joined by other codes between them; compiled for the CPU."""

from __future__ import annotations

import numpy as np

from structok.codebook.cpu import compiled
from structok.polymer.repair_cpu import evidence
from structok.polymer.superpose_cpu import SUMS, apply, compose, fit, invert, misfit, move

__all__ = ["bare", "cut", "features", "join", "pair"]

_FAST = {"contract", "reassoc", "nnan", "nsz"}
_SHORT = 24  # codes of each slot that are measured exactly
_TURNS = 3  # how often each of two substitutions is chosen again in view of the other


def features(steps):
    """What `_linear` needs of each code: rotation, translation, its square, the translation turned back."""
    turn, shift = steps[:, :9].reshape(-1, 3, 3), steps[:, 9:]
    square, back = (shift**2).sum(1, keepdims=True), np.einsum("kab,ka->kb", turn, shift)
    return np.ascontiguousarray(np.concatenate([steps, square, back], 1).T.astype(np.float32))


@compiled(fastmath=_FAST)
def _linear(right, pose, feature, coefficient, score):
    """Up to a constant, the misfit of the far anchors for each code when the near side's pose is given."""
    w = right[0]
    for b in range(3):
        coefficient[13 + b] = 2 * right[1 + b]
        turned = 0.0
        for a in range(3):
            turned += pose[3 * a + b] * (right[4 + a] - w * pose[9 + a])
        coefficient[9 + b] = -2 * turned
        for a in range(3):
            value = 0.0
            for i in range(3):
                value += (right[7 + 3 * b + i] - right[1 + b] * pose[9 + i]) * pose[3 * i + a]
            coefficient[3 * a + b] = -2 * value
    coefficient[12] = w
    score[:] = 0.0
    for i in range(16):
        c = coefficient[i]
        for k in range(len(score)):
            score[k] += c * feature[i, k]
    # Σ w (|y|² + |x - t|²), which no code changes
    far = right[16] + w * (pose[9] ** 2 + pose[10] ** 2 + pose[11] ** 2)
    return far - 2 * (pose[9] * right[4] + pose[10] * right[5] + pose[11] * right[6])


@compiled()
def _ends(p, q, frames, own):
    """Frames of slots p to q, as they follow from p, and as they lead to q."""
    count = q - p + 1
    left, right, back = np.empty((count, 12)), np.empty((count, 12)), np.empty(12)
    left[0] = frames[p]
    for i in range(1, count):
        compose(left[i - 1], own[p + i], left[i])
    right[count - 1] = frames[q]
    for i in range(count - 1, 0, -1):
        invert(own[p + i], back)
        compose(right[i], back, right[i - 1])
    return left, right


@compiled()
def join(p, q, frames, own, near, far, codes, feature, taken, limits):
    """The best substitution in slots p + 1 to q that are not `taken`: its cost, slot and code, and the price of it.

    `own` are the steps; `near` and `far` are sums of the anchors on either side, in the coordinates of `frames`.
    """
    size = feature.shape[1]
    count = q - p + 1
    left, right = _ends(p, q, frames, own)
    one, two, pose = np.empty(12), np.empty(SUMS), np.empty(12)
    score, coefficient = np.empty(size, np.float32), np.empty(16, np.float32)
    a, b, both = np.empty(SUMS), np.empty(SUMS), np.empty(SUMS)
    best, best_slot, best_code = np.inf, -1, -1
    known = (np.float64(np.inf), 0.0)
    for i in range(1, count):
        if taken[p + i]:
            continue
        a[:], b[:] = near, far
        invert(left[i - 1], one)
        move(a, one)
        invert(right[i], one)
        move(b, one)
        pose[:] = 0.0
        pose[0] = pose[4] = pose[8] = 1.0
        fit(a, pose)
        here, here_code = np.inf, -1
        for turn in range(2):
            base = _linear(b, pose, feature, coefficient, score)
            if turn:
                score += np.float32(base)
                known = evidence(score, known)
            for _ in range(_SHORT):
                k = score.argmin()
                score[k] = np.inf
                both[:] = b
                move(both, codes[k])
                both += a
                cost = misfit(both)
                if cost < here:
                    here, here_code = cost, k
                    two[:] = both
            fit(two, pose)
        if here < best:
            best, best_slot, best_code = here, p + i, here_code
    return best, best_slot, best_code, limits.substitution - min(2 * np.log(max(known[1], 1.0)), limits.alike)


@compiled()
def pair(p, q, frames, own, near, far, codes, feature, limits):
    """Two substitutions in slots p + 1 to q, by turns: cost, both slots and codes, and their price.

    `own` are the steps as the codes have them. The first is the best one alone, so a better pair may be missed.
    """
    edited, taken = own.copy(), np.zeros(len(own), np.bool_)
    cost, first, first_code, price = join(p, q, frames, edited, near, far, codes, feature, taken, limits)
    edited[first], taken[first] = codes[first_code], True
    cost, second, second_code, other = join(p, q, frames, edited, near, far, codes, feature, taken, limits)
    for _ in range(_TURNS):
        edited[second], taken[second] = codes[second_code], True
        edited[first], taken[first] = own[first], False
        again = join(p, q, frames, edited, near, far, codes, feature, taken, limits)
        if again[0] > cost - 1e-3:
            break
        # the one that stays becomes the first
        cost, first, first_code, price, second, second_code, other = (
            again[0], second, second_code, other, again[1], again[2], again[3],
        )  # fmt: skip
    return cost, first, first_code, second, second_code, price + other


@compiled()
def bare(p, q, frames, own, near, far):
    """The cost without a substitution in slots p + 1 to q."""
    left, _ = _ends(p, q, frames, own)
    back, motion = np.empty(12), np.empty(12)
    invert(frames[q], back)
    compose(left[q - p], back, motion)
    both = far.copy()
    move(both, motion)
    both += near
    return misfit(both)


@compiled()
def cut(p, q, frames, own, near, far, stride, taken, step):
    """Where in slots p + 1 to q the two sides come nearest to a bond of `stride` Å; the free step there into `step`."""
    left, right = _ends(p, q, frames, own)
    here, there = np.zeros(12), np.zeros(12)
    here[0] = here[4] = here[8] = there[0] = there[4] = there[8] = 1.0
    fit(near, here)
    fit(far, there)
    one, two, a, b = np.empty(12), np.empty(12), np.empty(3), np.empty(3)
    best, slot = np.inf, -1
    for i in range(1, q - p + 1):
        if taken[p + i]:
            continue
        apply(here, left[i - 1, 9:], a)
        apply(there, right[i, 9:], b)
        off = abs(np.sqrt((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 + (a[2] - b[2]) ** 2) - stride)
        if off < best:
            best, slot = off, i
            compose(here, left[i - 1], one)
            invert(one, two)
            compose(there, right[i], one)
            compose(two, one, step)
    return p + slot
