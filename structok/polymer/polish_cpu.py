"""Substituted codes chosen again in view of the anchors on both sides, compiled for the CPU."""

from __future__ import annotations

import numpy as np

from structok.codebook.cpu import compiled
from structok.polymer.repair_cpu import SUMS, _compose, _invert, _miss, add, evidence, fit, misfit, move

__all__ = ["features", "polish", "sides", "suspicious"]

_FAST = {"contract", "reassoc", "nnan", "nsz"}
_SHORT = 24  # codes of each slot that are measured exactly


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
def _chain(steps, frames):
    """Frames of the chain, the first one's step being where it starts."""
    frames[0] = steps[0]
    for i in range(1, len(steps)):
        _compose(frames[i - 1], steps[i], frames[i])


@compiled()
def _places(frames, slots, y):
    for a in range(len(slots)):
        y[a] = frames[slots[a], 9:]


@compiled()
def sides(y, x, w, wrong, fade, before, after):
    """Fading sums of the anchors up to each one, and from each one on."""
    n = len(y)
    for a in range(n):
        if a:
            before[a] = fade * before[a - 1]
        else:
            before[a] = 0.0
        if not wrong[a]:
            add(before[a], y[a], x[a], w[a])
    for a in range(n - 1, -1, -1):
        if a < n - 1:
            after[a] = fade * after[a + 1]
        else:
            after[a] = 0.0
        if not wrong[a]:
            add(after[a], y[a], x[a], w[a])


@compiled()
def _join(p, q, frames, own, skip, near, far, codes, feature, taken, limits):
    """The best substitution in slots p + 1 to q: its cost, slot and code, and the price of it.

    `own` are the steps, of which slot `skip` is what the codes say; `near` and `far` are sums of the anchors on
    either side, in the coordinates of `frames`.
    """
    size = feature.shape[1]
    count = q - p + 1
    left, right = np.empty((count, 12)), np.empty((count, 12))
    one, two, pose = np.empty(12), np.empty(SUMS), np.empty(12)
    left[0] = frames[p]
    for i in range(1, count):
        _compose(left[i - 1], own[p + i], left[i])
    right[count - 1] = frames[q]
    for i in range(count - 1, 0, -1):
        _invert(own[p + i], one)
        _compose(right[i], one, right[i - 1])
    score, coefficient = np.empty(size, np.float32), np.empty(16, np.float32)
    a, b, both = np.empty(SUMS), np.empty(SUMS), np.empty(SUMS)
    best, best_slot, best_code = np.inf, -1, -1
    known = (np.float64(np.inf), 0.0)
    for i in range(1, count):
        if taken[p + i]:
            continue
        a[:], b[:] = near, far
        _invert(left[i - 1], one)
        move(a, one)
        _invert(right[i], one)
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
def suspicious(y, x, w, limits):
    """Whether an anchor lies too far off, or a break between two anchors would explain much better what is there."""
    n = len(y)
    before, after, both = np.empty((n, SUMS)), np.empty((n, SUMS)), np.empty(SUMS)
    sides(y, x, w, np.zeros(n, np.bool_), limits.fade, before, after)
    pose = np.zeros(12)
    pose[0] = pose[4] = pose[8] = 1.0
    for a in range(n):
        both[:] = after[a]
        if a:
            both += before[a - 1]
        now = fit(both, pose)
        if _miss(pose, y[a], x[a], w[a]) > limits.cap:
            return True
        if a and now - misfit(before[a - 1]) - misfit(after[a]) > limits.alarm:
            return True
    return False


@compiled()
def polish(own, given, slots, x, w, codes, feature, limits, sweeps, code, steps, wrong):
    """Choose substitutions again, drop those that do not pay, put in those that do; in place.

    Parameters
    ----------
    own : the step of each slot as its code has it
    given : the code of each slot
    code, steps, wrong : what is substituted (-2 nothing, -1 a free step), the steps that follow, the wrong anchors
    """
    n, length = len(slots), len(own)
    frames, y = np.empty((length, 12)), np.empty((n, 3))
    before, after, both = np.empty((n, SUMS)), np.empty((n, SUMS)), np.empty(SUMS)
    pose = np.zeros(12)
    taken, edited = np.zeros(length, np.bool_), np.empty((length, 12))
    gain, gaps = np.zeros(n), np.empty(n, np.int64)
    pose[0] = pose[4] = pose[8] = 1.0
    for _ in range(sweeps):
        changed = False
        _chain(steps, frames)
        _places(frames, slots, y)
        sides(y, x, w, wrong, limits.fade, before, after)
        # the anchors again, each by its neighbours
        for a in range(n):
            both[:] = 0.0
            if a:
                both += before[a - 1]
            if a < n - 1:
                both += after[a + 1]
            if both[0] == 0.0:
                continue
            fit(both, pose)
            wrong[a] = _miss(pose, y[a], x[a], w[a]) > limits.cap
        sides(y, x, w, wrong, limits.fade, before, after)
        # gaps between right anchors, those where most is to be won first
        count, last = 0, -1
        for a in range(n):
            if wrong[a]:
                continue
            if last >= 0:
                both[:] = before[last] + after[a]
                now = misfit(both)
                free = misfit(before[last]) + misfit(after[a])
                held = 0.0
                for s in range(slots[last] + 1, slots[a] + 1):
                    if code[s] > -2:
                        held += limits.substitution if code[s] >= 0 else limits.jump
                gain[a] = now - free + held
                if held > 0 or now - free > limits.substitution - limits.alike:
                    gaps[count] = a
                    count += 1
            last = a
        order = gaps[:count][(-gain[gaps[:count]]).argsort()]
        for a in order:
            last = a - 1
            while wrong[last]:
                last -= 1
            p, q = slots[last], slots[a]
            _chain(steps, frames)
            _places(frames, slots, y)
            sides(y, x, w, wrong, limits.fade, before, after)
            both[:] = before[last] + after[a]
            now = misfit(both)
            here = 0
            for s in range(p + 1, q + 1):
                taken[s] = code[s] > -2
                edited[s] = steps[s]
                here += taken[s]
            done = False
            for s in range(p + 1, q + 1):
                if not taken[s]:
                    continue
                edited[s], taken[s] = own[s], False
                cost, slot, k, price = _join(
                    p, q, frames, edited, s, before[last], after[a], codes, feature, taken, limits
                )
                old = price if code[s] >= 0 else limits.jump
                # the codes as they are, seen from both sides
                bare = _bare(p, q, frames, edited, before[last], after[a])
                if bare < now + old - 1e-6 and bare <= cost + price:
                    code[s], steps[s] = -2, own[s]
                    done = True
                elif cost + price < now + old - 1e-6:
                    code[s], steps[s] = -2, own[s]
                    code[slot], steps[slot] = k, codes[k]
                    done = True
                if done:
                    break
                edited[s], taken[s] = steps[s], True
            if not here:
                cost, slot, k, price = _join(
                    p, q, frames, edited, -1, before[last], after[a], codes, feature, taken, limits
                )
                if cost + price < now:
                    code[slot], steps[slot] = k, codes[k]
                    done = True
            changed |= done
        if not changed:
            break


@compiled()
def _bare(p, q, frames, own, near, far):
    """The cost without a substitution in slots p + 1 to q."""
    end, step = frames[p].copy(), np.empty(12)
    for s in range(p + 1, q + 1):
        _compose(end, own[s], step)
        end[:] = step
    back, motion = np.empty(12), np.empty(12)
    _invert(frames[q], back)
    _compose(end, back, motion)
    both = far.copy()
    move(both, motion)
    both += near
    return misfit(both)
