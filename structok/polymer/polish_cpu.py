"""Substituted codes chosen again in view of the anchors on both sides, compiled for the CPU."""

from __future__ import annotations

import numpy as np

from structok.codebook.cpu import compiled
from structok.polymer.join_cpu import bare, cut, join, pair
from structok.polymer.superpose_cpu import SUMS, add, compose, fit, misfit, miss

__all__ = ["polish", "sides", "suspicious"]


@compiled()
def _chain(steps, frames):
    """Frames of the chain, the first one's step being where it starts."""
    frames[0] = steps[0]
    for i in range(1, len(steps)):
        compose(frames[i - 1], steps[i], frames[i])


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
        if miss(pose, y[a], x[a], w[a]) > limits.cap:
            return True
        if a and now - misfit(before[a - 1]) - misfit(after[a]) > limits.alarm:
            return True
    return False


@compiled()
def polish(own, slots, x, w, codes, feature, limits, sweeps, stride, code, steps, wrong):
    """Choose substitutions again, drop those that do not pay, put in those that do; in place.

    Parameters
    ----------
    own : the step of each slot as its code has it
    stride : of a bond, Å
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
            wrong[a] = miss(pose, y[a], x[a], w[a]) > limits.cap
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
            done, worth = False, now
            for s in range(p + 1, q + 1):
                if not taken[s]:
                    continue
                edited[s], taken[s] = own[s], False
                cost, slot, k, price = join(p, q, frames, edited, before[last], after[a], codes, feature, taken, limits)
                worth = now + (price if code[s] >= 0 else limits.jump)
                # the codes as they are, seen from both sides
                plain = bare(p, q, frames, edited, before[last], after[a])
                if plain < worth - 1e-6 and plain <= cost + price:
                    code[s], steps[s], worth = -2, own[s], plain
                    done = True
                elif cost + price < worth - 1e-6:
                    code[s], steps[s] = -2, own[s]
                    code[slot], steps[slot], worth = k, codes[k], cost + price
                    done = True
                elif code[s] == -1:
                    slot = cut(p, q, frames, edited, before[last], after[a], stride, taken, steps[s])
                    if slot != s:
                        code[slot], steps[slot] = -1, steps[s]
                        code[s], steps[s] = -2, own[s]
                if done:
                    break
                edited[s], taken[s] = steps[s], True
            if not here:
                cost, slot, k, price = join(p, q, frames, edited, before[last], after[a], codes, feature, taken, limits)
                if cost + price < now:
                    code[slot], steps[slot], worth = k, codes[k], cost + price
                    done = True
            # two wrong codes, where one does not explain what the anchors on either side say
            free = misfit(before[last]) + misfit(after[a])
            if here < 2 and worth - free > 2 * (limits.substitution - limits.alike):
                cost, slot, k, other, m, price = pair(p, q, frames, own, before[last], after[a], codes, feature, limits)
                if cost + price < worth - 1e-6:
                    code[p + 1 : q + 1], steps[p + 1 : q + 1] = -2, own[p + 1 : q + 1]
                    code[slot], steps[slot] = k, codes[k]
                    code[other], steps[other] = m, codes[m]
                    done = True
            changed |= done
        if not changed:
            break
