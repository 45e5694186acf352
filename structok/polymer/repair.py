"""Decoding with repair: the most probable story behind codes and anchors that disagree.

Codes say how each residue follows the one before, exactly but for the wrong ones, behind which everything is
displaced. Anchors say where residues are, coarsely but for the wrong ones. The story that explains them minimises, in
units of squared standard errors, Σ min(d², cap) over the anchors + what the substituted codes cost.

The search grows a story from the stretch of anchors that agrees best with its codes, to the right and then to the
left, in a beam: at each anchor a story goes on as the codes say, or takes another code in one of the slots up to it
(the misfit of the next anchors is measured for all codes), or leaves it to the anchors where the next piece lies.
Then each substitution is chosen again in view of the anchors on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray as Array

from structok.codebook.nearest import nearest_code
from structok.geometry import apply, invert, scan
from structok.polymer.anchors import RADII, AnchorPoints
from structok.polymer.chain import ChainModel
from structok.polymer.join_cpu import features
from structok.polymer.polish_cpu import polish, suspicious
from structok.polymer.repair_cpu import Limits, extend, seed
from structok.polymer.search import pose_rows
from structok.polymer.superpose_cpu import SUMS, add, fit, gather

__all__ = ["Limits", "Repairer", "Repairs", "limits_for"]

_BLUR = 0.468  # error of an anchor, of the mean distance from its point to the eight next ones (validation)
_CHOSEN = 1.4  # how much larger the errors of anchors are that were chosen together
_REACH = 40  # residues that a search looks ahead
_MEMORY = 110.0  # residues after which an anchor weighs 1 / e
_SWEEPS = 3
_RISE, _LOOSE = 3.4, 2.5  # Å from residue to residue in a strand, and by which anchors may be off
_HERE = np.eye(4)[:3].T.ravel()
_TIE, _FREE = 0.1, 1e-3  # what anchors beyond a substituted, beyond a free step count in a piece's pose


def limits_for(spacing: int) -> Limits:
    """How to search where an anchor stands every `spacing` slots."""
    return Limits(ahead=max(4, round(_REACH / spacing)), fade=float(np.exp(-spacing / _MEMORY)))


@dataclass(frozen=True)
class Repairs:
    """What a decoder did not take at its word.

    Parameters
    ----------
    slots, old, new : slots whose code is replaced, what it was (-1 if a text has lost it) and what is taken instead;
        -1 for a free step, where the anchors alone say how the chain goes on
    rejected : anchors that were left out
    """

    slots: tuple[int, ...] = ()
    old: tuple[int, ...] = ()
    new: tuple[int, ...] = ()
    rejected: tuple[int, ...] = field(default=())

    def __bool__(self) -> bool:
        return bool(self.slots or self.rejected)


class Repairer:
    """Poses chains of codes by their anchors, and repairs what is damaged.

    Parameters
    ----------
    model : of the codes
    points : of the anchors
    """

    def __init__(self, model: ChainModel, points: AnchorPoints) -> None:
        self.model, self.points = model, points
        self._transforms = model.transforms.cpu().numpy()

    def __call__(
        self,
        codes: Int[Array, " l"],
        anchors: Int[Array, " n"],
        spacing: int,
        radius: int,
        *,
        coords: Float[torch.Tensor, "l 3 3"] | None = None,
        shared: bool = False,
        repair: bool = True,
        limits: Limits | None = None,
    ) -> tuple[Float[Array, "l 3 3"], Repairs]:
        """N, CA, C in the anchors' frame, Å, and what was repaired; without damage the chain of the codes.

        Parameters
        ----------
        anchors : anchor j belongs to slot `j * spacing`; -1 is none
        radius : code of the frame's radius
        coords : the chain of the codes, in any pose, if it is known already
        shared : the frame is shared with other chains, so that the anchors were chosen together (`posing`)
        repair : False poses the chain by its anchors and does nothing else
        """
        limits = limits_for(spacing) if limits is None else limits
        codes = codes.astype(np.int64)
        told = np.flatnonzero(anchors >= 0)
        slots, size = told * spacing, float(RADII[radius])
        coords = self.model.decode(torch.from_numpy(codes)).cpu() if coords is None else coords.double()
        body = coords.numpy()
        if not len(told):
            return body, Repairs()
        x = self._places[0][anchors[told]] * size
        blur = _BLUR * (_CHOSEN if shared else 1.0)
        w = 3 / (blur * self._places[1][anchors[told]] * size) ** 2
        if not (repair and len(told) > 2 and suspicious(body[slots, 1], x, w, limits)):
            return _posed(body, slots, x), Repairs()
        code, steps, wrong = self._story(codes, slots, x, w, limits)
        _set_free(code, slots, self._rows(steps)[slots, 9:], x, wrong)
        changed = np.flatnonzero(code > -2)
        if len(changed):
            body = self._decode(np.where(code >= 0, code, codes), steps).numpy()
        repairs = Repairs(*(tuple(map(int, v)) for v in (changed, codes[changed], code[changed], told[wrong])))
        tie = np.where(code >= 0, _TIE, np.where(code == -1, _FREE, 1.0))
        right = ~wrong if wrong.sum() < len(wrong) - 2 else np.full(len(wrong), True)
        return _posed(body, slots[right], x[right], tie), repairs

    @cached_property
    def _places(self) -> tuple[Float[Array, "k 3"], Float[Array, " k"]]:
        """The points, and how far the next eight are on average, both in units of the radius."""
        points = self.points.points
        near = nearest_code(points, points, 9)[0][:, 1:].double().clamp(min=0).sqrt().mean(1)
        return points.double().numpy(), near.numpy()

    @cached_property
    def _tables(self) -> tuple[Array, Array, Array, Array, Array]:
        """What codes do along the chain and against it, by code and by component, and what `polish` needs of them."""
        there, back = (pose_rows(t).cpu().numpy() for t in (self.model.transforms, invert(self.model.transforms)))
        columns = (np.ascontiguousarray(t.T, dtype=np.float32) for t in (there, back))
        return there, back, *columns, features(there)  # type: ignore[return-value]

    @staticmethod
    def _rows(steps: Float[Array, "l 4 4"]) -> Float[Array, "l 12"]:
        """Frames that the steps lead to."""
        return np.ascontiguousarray(pose_rows(scan(torch.from_numpy(steps))).numpy())

    def _decode(self, codes: Int[Array, " l"], steps: Float[Array, "l 4 4"]) -> Float[torch.Tensor, "l 3 3"]:
        """The chain of steps some of which are free; the residues look inside as their codes say."""
        frames = scan(torch.from_numpy(steps))
        inner = apply(invert(self.model.transforms.cpu()), self.model.steps.cpu())
        return apply(frames, inner[torch.from_numpy(codes)])

    def _story(
        self,
        codes: Int[Array, " l"],
        slots: Int[Array, " n"],
        x: Float[Array, "n 3"],
        w: Float[Array, " n"],
        limits: Limits,
    ) -> tuple[Int[Array, " l"], Float[Array, "l 4 4"], Bool[Array, " n"]]:
        """What is substituted (-2 nothing, -1 a free step), the steps that follow, and the wrong anchors."""
        there, back, table, back_table, feature = self._tables
        code, own = np.full(len(codes), -2), self._transforms[codes]
        steps, rows = own.copy(), self._rows(own)
        n, y = len(slots), np.ascontiguousarray(rows[slots, 9:])
        wrong = np.zeros(n, bool)
        first, last = seed(y, x, w, limits.cap, limits.fade)
        out = np.full(n, -1), np.full(n, -2), np.zeros((n, 12)), wrong
        sums, pose = np.zeros(SUMS), _HERE.copy()
        for a in range(first, last + 1):
            trial = sums * limits.fade
            before = fit(trial, pose)
            add(trial, y[a], x[a], w[a])
            wrong[a] = fit(trial, pose) - before > limits.cap
            sums = sums if wrong[a] else trial
        if last + 1 < n:
            extend(1, last + 1, rows, slots, y, x, w, there, table, sums, limits, out)
            self._take(out, range(last + 1, n), code, steps, inverse=False)
        if first > 0:
            # what is repaired so far is one rigid body, seen from the frame where the seed begins
            frames = self._rows(steps)
            move = _matrix(rows[slots[first]]) @ np.linalg.inv(_matrix(frames[slots[first]]))
            sums = np.zeros(SUMS)
            for a in range(n - 1, first - 1, -1):
                sums *= limits.fade
                if not wrong[a]:
                    add(sums, move[:3, :3] @ frames[slots[a], 9:] + move[:3, 3], x[a], w[a])
            extend(-1, first - 1, rows, slots, y, x, w, back, back_table, sums, limits, out)
            self._take(out, range(first), code, steps, inverse=True)
        flat = _flat(steps)
        polish(_flat(own), slots, x, w, there, feature, limits, _SWEEPS, self.model.link.stride, code, flat, wrong)
        return code, np.stack([_matrix(row) for row in flat]), wrong

    def _take(self, out: tuple[Array, ...], anchors: range, code: Array, steps: Array, *, inverse: bool) -> None:
        """Copy the story's substitutions between these anchors."""
        for a in anchors:
            slot, new = int(out[0][a]), int(out[1][a])
            if new > -2:
                free = _matrix(out[2][a])
                code[slot] = new
                steps[slot] = self._transforms[new] if new >= 0 else (np.linalg.inv(free) if inverse else free)


def _set_free(
    code: Int[Array, " l"],
    slots: Int[Array, " n"],
    y: Float[Array, "n 3"],
    x: Float[Array, "n 3"],
    wrong: Bool[Array, " n"],
) -> None:
    """Stretches whose anchors all seem wrong: rather is the story, so they shall lie where the anchors say; in place.

    Those stay wrong that no chain can reach from the ones around them. Between the others steps are free, but where the
    codes, which place them at `y`, put them as far apart as they are.
    """

    def reach(a: int, b: int) -> bool:
        return bool(np.linalg.norm(x[a] - x[b]) <= _RISE * abs(slots[a] - slots[b]) + _LOOSE)

    def agree(a: int, b: int) -> bool:
        off = np.linalg.norm(y[a] - y[b]) - np.linalg.norm(x[a] - x[b])
        return bool(abs(off) < _LOOSE and (code[slots[a] + 1 : slots[b] + 1] == -2).all())

    edges = np.flatnonzero(np.diff(np.concatenate([[False], wrong, [False]]).astype(int)))
    for start, end in edges.reshape(-1, 2):
        kept: list[int] = []
        for a in range(start, end):
            before = kept[-1] if kept else start - 1
            if (before < 0 or reach(before, a)) and (end == len(slots) or reach(a, end)):
                kept.append(a)
        if len(kept) < 2 or (len(kept) == 2 and not agree(*kept)):
            continue
        wrong[kept] = False
        for a, b in pairwise([start - 1, *kept, end]):
            if a >= 0 and b < len(slots) and not (start <= a and b < end and agree(a, b)):
                at = (slots[a] + slots[b] + 1) // 2
                code[at] = code[at] if (code[slots[a] + 1 : slots[b] + 1] == -1).any() else -1


def _matrix(row: Float[Array, " 12"]) -> Float[Array, "4 4"]:
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = row[:9].reshape(3, 3), row[9:]
    return out


def _flat(steps: Float[Array, "l 4 4"]) -> Float[Array, "l 12"]:
    return np.ascontiguousarray(pose_rows(torch.from_numpy(steps)).numpy())


def _posed(
    coords: Float[Array, "l 3 3"],
    slots: Int[Array, " n"],
    x: Float[Array, "n 3"],
    tie: Float[Array, " l"] | None = None,
) -> Float[Array, "l 3 3"]:
    """The chain where its anchors say, piece by piece.

    `tie` is what an anchor on the other side of a slot's step counts: 1 but where the step is substituted, so that
    what is not exact there does not add up along the chain.
    """
    places = coords[slots, 1]
    cuts = [] if tie is None else np.flatnonzero(tie < 1).tolist()
    if tie is None or not cuts:
        return _fitted(coords, places, x, np.ones(len(slots)))
    reach = np.cumsum(np.log(np.maximum(tie, 1e-9)))
    pieces = []
    for start, end in zip([0, *cuts], [*cuts, len(coords)]):
        body, goal, count = places, x, np.exp(-abs(reach[slots] - reach[start]))
        if count[count < 1].max(initial=0.0) <= 2 * _FREE and 0 < (count == 1).sum() < 3:
            # too few anchors to turn it: its ends lie about between them
            ends = np.array([e for e in (start, end - 1) if slots[0] < e < slots[-1]], int)
            between = np.stack([np.interp(ends, slots, x[:, k]) for k in range(3)], -1)
            body, goal = np.concatenate([body, coords[ends, 1]]), np.concatenate([goal, between])
            count = np.concatenate([np.where(count == 1, 1.0, _FREE**2), np.full(len(ends), _TIE)])
        pieces.append(_fitted(coords[start:end], body, goal, count))
    return np.concatenate(pieces)


def _fitted(
    coords: Float[Array, "l 3 3"], body: Float[Array, "n 3"], goal: Float[Array, "n 3"], weight: Float[Array, " n"]
) -> Float[Array, "l 3 3"]:
    """Moved as brings `body` onto `goal`."""
    pose = _HERE.copy()
    fit(gather(body, goal, weight), pose)
    return coords @ pose[:9].reshape(3, 3).T + pose[9:]
