"""The search of `repair`, compiled for the CPU; rigid motions and sums of pairs as in `superpose_cpu`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from structok.codebook.cpu import compiled
from structok.polymer.superpose_cpu import SUMS, add, apply, compose, fit, invert, misfit, miss, move

__all__ = ["Limits", "evidence", "extend", "seed"]

_FAST = {"contract", "reassoc", "nnan", "nsz"}
_SAME = 0.7  # Å, by which poses of what follows may differ and still be the same story
_JUMPS = (3, 4, 6)  # anchors that pose a piece on its own


class Limits(NamedTuple):
    """What stories cost, in units of squared standard errors, and how widely to search.

    cap : of an anchor, however far it lies from its residue: it counts as wrong
    substitution : of another code in one slot
    jump : of a piece that is posed by its own anchors, whatever the codes say
    alarm : what a break between two anchors must explain before a chain is looked into at all
    alike : at most so much less does a substitution cost where many codes would do
    doubt : misfit of the next anchors above which other codes are tried
    ahead : anchors to look at
    fade : what an anchor weighs in the pose beside the next one, so that small bends do not add up
    beam : stories kept
    tried : other codes tried for each story and gap
    """

    cap: float = 22.0
    substitution: float = 21.0
    jump: float = 40.0
    alarm: float = 16.0
    alike: float = 12.0
    doubt: float = 25.0
    ahead: int = 5
    fade: float = 0.93
    beam: int = 32
    tried: int = 8


@compiled()
def seed(y, x, w, cap, fade):
    """The stretch of anchors that best agrees with rigid codes: its first and its last."""
    n = len(y)
    best, first, last = -1.0, 0, 0
    sums, trial = np.zeros(SUMS), np.zeros(SUMS)
    for a in range(n):
        sums[:] = 0.0
        cost, held, out = 0.0, 0, 0
        for b in range(a, n):
            trial[:] = fade * sums
            before = misfit(trial)
            add(trial, y[b], x[b], w[b])
            more = misfit(trial) - before
            if more > cap:
                out += 1
                if out > 1:
                    break
                cost += cap
                continue
            sums[:] = trial
            cost, held, out = cost + more, held + 1, 0
            if held >= 3 and held * 6.0 - cost > best:
                best, first, last = held * 6.0 - cost, a, b
    return first, last


@compiled(fastmath=_FAST)
def _scan(y, z, w, table, cap, score):
    """For each code, the capped misfit of anchors z seen from the known side whose residues are y on the other."""
    score[:] = 0.0
    for m in range(len(y)):
        y0, y1, y2 = y[m, 0], y[m, 1], y[m, 2]
        z0, z1, z2, v = z[m, 0], z[m, 1], z[m, 2], w[m]
        for k in range(len(score)):
            a = table[0, k] * y0 + table[1, k] * y1 + table[2, k] * y2 + table[9, k] - z0
            b = table[3, k] * y0 + table[4, k] * y1 + table[5, k] * y2 + table[10, k] - z1
            c = table[6, k] * y0 + table[7, k] * y1 + table[8, k] * y2 + table[11, k] - z2
            score[k] += min(v * (a * a + b * b + c * c), cap)


@compiled()
def evidence(score, known):
    """Adds the codes that do as well as the best to `known`, (least score, how many in effect)."""
    least, many = known
    low = score.min()
    if low < least:
        many *= np.exp((low - least) / 2) if many > 0 else 0.0
        least = low
    for k in range(len(score)):
        if score[k] < least + 12.0:
            many += np.exp((least - score[k]) / 2)
    return least, many


@compiled()
def _promise(pose, sums, y, x, w, j, way, ahead, cap):
    """Misfit of the anchors that follow when the pose may still follow them; wrong ones capped."""
    trial = sums.copy()
    cost, at = -misfit(trial), j
    for _ in range(ahead):
        if at < 0 or at >= len(y):
            break
        if miss(pose, y[at], x[at], w[at]) > cap:
            cost += cap
        else:
            add(trial, y[at], x[at], w[at])
        at += way
    return cost + misfit(trial)


@compiled()
def _known(one, so_far, pose, until, alive, y, at, way):
    """Whether one of the stories that are kept poses what follows as this one does; the beam has no room for both."""
    for h in range(alive):
        if until[h] != so_far:
            continue
        same = True
        for m in range(0, 5, 2):
            a = at + way * m
            if same and 0 <= a < len(y):
                square = 0.0
                for i in range(3):
                    moved = one[9 + i] - pose[h, 9 + i]
                    for j in range(3):
                        moved += (one[3 * i + j] - pose[h, 3 * i + j]) * y[a, j]
                    square += moved * moved
                same = square < _SAME**2
        if same:
            return True
    return False


@compiled()
def extend(way, j, frames, slots, y, x, w, steps, table, sums, limits, out):
    """Stories of the chain from anchor j on, in direction `way` (1 or -1), the best one.

    Parameters
    ----------
    frames : of the chain as its codes have it
    slots, y, x, w : of each anchor its slot, its residue in the chain as the codes have it, its place, its weight
    steps, table : what each code does in this direction, by code in float64 and by component in float32
    sums : of the anchors that are explained already
    out : (slot, code, step, wrong) by anchor; code -1 is a jump by `step`, -2 is nothing
    """
    cap, beam, n, size = limits.cap, limits.beam, len(y), len(steps)
    out_slot, out_code, out_step, out_wrong = out
    room = beam * (1 + limits.tried + 3)
    state, pose, fixed = np.zeros((beam, SUMS)), np.zeros((beam, 12)), np.zeros(beam)
    state[0] = sums
    pose[0, 0] = pose[0, 4] = pose[0, 8] = 1.0
    fit(state[0], pose[0])
    until, c_until = np.zeros(beam, np.int64), np.zeros(room, np.int64)
    alive = 1
    count = n - j if way > 0 else j + 1
    back = np.zeros((count, beam), np.int64)
    b_slot, b_code = np.zeros((count, beam), np.int64), np.full((count, beam), -2)
    b_step, b_wrong = np.zeros((count, beam, 12)), np.zeros((count, beam), np.bool_)
    c_state, c_pose, c_fixed, c_rank = np.zeros((room, SUMS)), np.zeros((room, 12)), np.zeros(room), np.zeros(room)
    c_back, c_slot, c_code = np.zeros(room, np.int64), np.zeros(room, np.int64), np.zeros(room, np.int64)
    c_step, c_wrong = np.zeros((room, 12)), np.zeros(room, np.bool_)
    score = np.empty(size, np.float32)
    ys, zs = np.empty((limits.ahead, 3), np.float32), np.empty((limits.ahead, 3), np.float32)
    ws = np.empty(limits.ahead, np.float32)
    t_score, t_slot, t_code = np.empty(limits.tried), np.empty(limits.tried, np.int64), np.empty(limits.tried, np.int64)
    one, two, three, point = np.empty(12), np.empty(12), np.empty(12), np.empty(3)
    for turn in range(count):
        at = j + way * turn
        here = slots[at - way]
        made = 0
        for h in range(alive):
            left = min(limits.ahead, count - turn)
            amiss = 0.0
            for m in range(left):
                a = at + way * m
                amiss += min(miss(pose[h], y[a], x[a], w[a]), cap)
            # the story goes on
            c_state[made], c_pose[made], c_fixed[made] = state[h], pose[h], fixed[h]
            c_back[made], c_slot[made], c_code[made], c_until[made] = h, -1, -2, until[h]
            made += 1
            if amiss <= limits.doubt * left / limits.ahead:
                continue
            # another code in one of the slots up to the next anchor
            held = 0
            known_codes = (np.float64(np.inf), 0.0)
            low, high = (here + 1, slots[at] + 1) if way > 0 else (slots[at] + 1, here + 1)
            for s in range(low, high):
                known, new = (s - 1, s) if way > 0 else (s, s - 1)
                compose(pose[h], frames[known], one)
                invert(one, two)
                invert(frames[new], three)
                for m in range(left):
                    a = at + way * m
                    apply(two, x[a], point)
                    zs[m] = point
                    apply(three, y[a], point)
                    ys[m] = point
                    ws[m] = w[a]
                _scan(ys[:left], zs[:left], ws[:left], table, np.float32(cap), score)
                known_codes = evidence(score, known_codes)
                for _ in range(3):
                    k = score.argmin()
                    value = score[k]
                    score[k] = np.inf
                    place = min(held, limits.tried - 1)
                    if held == limits.tried and value >= t_score[place]:
                        break
                    while place > 0 and value < t_score[place - 1]:
                        t_score[place], t_slot[place], t_code[place] = (
                            t_score[place - 1],
                            t_slot[place - 1],
                            t_code[place - 1],
                        )
                        place -= 1
                    t_score[place], t_slot[place], t_code[place] = value, s, k
                    held = min(held + 1, limits.tried)
            price = limits.substitution - min(2 * np.log(max(known_codes[1], 1.0)), limits.alike)
            for i in range(held):
                s, k = t_slot[i], t_code[i]
                if t_score[i] + price > amiss + cap:
                    continue
                known, new = (s - 1, s) if way > 0 else (s, s - 1)
                # from the new piece's coordinates to the old one's
                compose(frames[known], steps[k], one)
                invert(frames[new], two)
                compose(one, two, three)
                compose(pose[h], three, c_pose[made])
                invert(three, one)
                c_state[made] = state[h]
                move(c_state[made], one)
                c_fixed[made] = fixed[h] + price
                c_back[made], c_slot[made], c_code[made], c_until[made] = h, s, k, until[h]
                made += 1
            # or the next piece lies where its own anchors say
            for m in _JUMPS:
                if m > count - turn:
                    break
                c_state[made] = 0.0
                for i in range(m):
                    a = at + way * i
                    add(c_state[made], y[a], x[a], w[a])
                c_pose[made] = pose[h]
                cost = fit(c_state[made], c_pose[made])
                if cost > cap * (m - 2) or cost + limits.jump > amiss + 2 * cap:
                    continue
                c_fixed[made] = fixed[h] + limits.jump + cost
                nearest = np.inf
                for s in range(low, high):
                    known, new = (s - 1, s) if way > 0 else (s, s - 1)
                    apply(pose[h], frames[known, 9:], one)
                    apply(c_pose[made], frames[new, 9:], two)
                    far = abs(np.sqrt((one[0] - two[0]) ** 2 + (one[1] - two[1]) ** 2 + (one[2] - two[2]) ** 2) - 3.8)
                    if far < nearest:
                        nearest, c_slot[made] = far, s
                s = c_slot[made]
                known, new = (s - 1, s) if way > 0 else (s, s - 1)
                compose(pose[h], frames[known], one)
                invert(one, two)
                compose(c_pose[made], frames[new], one)
                compose(two, one, c_step[made])
                c_back[made], c_code[made], c_until[made] = h, -1, turn + m
                made += 1
        for c in range(made):
            counted = max(c_until[c] - turn, 0)
            ahead = _promise(c_pose[c], c_state[c], y, x, w, at + way * counted, way, limits.ahead - counted, cap)
            c_rank[c] = c_fixed[c] + ahead
            c_wrong[c] = False
            if counted:
                continue
            c_wrong[c] = miss(c_pose[c], y[at], x[at], w[at]) > cap
            if c_wrong[c]:
                c_fixed[c] += cap
            else:
                c_state[c] *= limits.fade
                c_fixed[c] -= misfit(c_state[c])
                add(c_state[c], y[at], x[at], w[at])
                c_fixed[c] += fit(c_state[c], c_pose[c])
        order = c_rank[:made].argsort(kind="mergesort")
        alive = 0
        for c in order:
            if alive == beam or c_rank[c] > c_rank[order[0]] + 60.0:
                break
            if _known(c_pose[c], c_until[c], pose, until, alive, y, at, way):
                continue
            state[alive], pose[alive], fixed[alive], until[alive] = c_state[c], c_pose[c], c_fixed[c], c_until[c]
            back[turn, alive], b_slot[turn, alive], b_code[turn, alive] = c_back[c], c_slot[c], c_code[c]
            b_step[turn, alive], b_wrong[turn, alive] = c_step[c], c_wrong[c]
            alive += 1
    best, at = np.inf, 0
    for h in range(alive):
        if fixed[h] < best:
            best, at = fixed[h], h
    for turn in range(count - 1, -1, -1):
        a = j + way * turn
        out_slot[a], out_code[a], out_wrong[a] = b_slot[turn, at], b_code[turn, at], b_wrong[turn, at]
        out_step[a] = b_step[turn, at]
        at = back[turn, at]
    return best
