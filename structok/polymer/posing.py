"""Anchors chosen together, so that the pose they imply is right, and the pose that anchors imply.

A rigid body is posed by superposing its anchored points on their anchors. To first order, that pose is off by a linear
function of the anchors' errors: each pulls at the body in six numbers. Each anchor may be any of the points near its
place; those are taken whose pulls cancel, with a preference for the nearest.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray as Array

from structok.codebook.cpu import compiled
from structok.codebook.nearest import nearest_code
from structok.geometry import apply, kabsch
from structok.polymer.anchors import RADII, AnchorPoints

__all__ = ["choose_anchors", "pose_of"]

_NEAR = 12  # points near each place that may be its anchor, more where there are few anchors
_MANY = 200  # candidates of all anchors together, at least
_STAY = 0.01  # see `choose_anchors`
_ROUNDS = 8  # linear solutions, each corrected by what the last one really came to
_PAIRS = 24  # changes of two anchors at once, at most
_FEW = 12  # anchors up to which poses are computed rather than foretold
_SOFT = 0.01  # Å², added to the inertia of bodies that are nearly straight


def pose_of(body: Float[Array, "n 3"], anchors: Float[Array, "n 3"]) -> Float[Array, "4 4"]:
    """The rigid motion that brings a body's anchored points onto their anchors, Å."""
    return kabsch(torch.from_numpy(body).double(), torch.from_numpy(anchors).double()).numpy()


def choose_anchors(
    body: Float[Array, "l 3"],
    chosen: Int[Array, " n"],
    truth: Float[Array, "l 3"],
    radius: int,
    points: AnchorPoints,
    stay: float = _STAY,
) -> Int[Array, " n"]:
    """Anchors of a rebuilt body which bring it where the true one lies.

    Parameters
    ----------
    body : points of the rebuilt body, in any pose, Å
    chosen : which of them have an anchor
    truth : the same points of the true body in the shared frame, Å
    radius : code of the frame's radius
    stay : what the mean squared distance of the anchors counts beside the squared error of the pose
    """
    size = float(RADII[radius])
    goal = pose_of(body, truth)
    there = body @ goal[:3, :3].T + goal[:3, 3]
    y = there[chosen]
    count = min(max(_NEAR, _MANY // len(chosen)), 48)
    near = nearest_code(torch.from_numpy(truth[chosen] / size).float(), points.points, k=count)[1].numpy()
    places = points.points.double().numpy()[near] * size
    effect, whiten = _effects(y, there, places - y[:, None])
    away = ((places - truth[chosen][:, None]) ** 2).sum(-1)
    cost = stay / len(y) * (away - away[:, :1])
    pick, rows, offset = np.zeros(len(y), np.int64), np.arange(len(y)), np.zeros(6)
    best, kept = np.inf, pick
    for _ in range(_ROUNDS):
        total = offset + effect[rows, pick].sum(0)
        _descend(effect, cost, pick, total, _PAIRS)
        move = pose_of(y, places[rows, pick])
        error = ((there @ move[:3, :3].T + move[:3, 3] - there) ** 2).sum(-1).mean() + cost[rows, pick].sum()
        if error < best:
            best, kept = error, pick.copy()
        turn = move[:3, :3]
        axis = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]]) / 2
        shift = turn @ y.mean(0) + move[:3, 3] - y.mean(0)
        offset = whiten @ np.concatenate([shift, axis]) - effect[rows, pick].sum(0)
    if len(y) <= _FEW:
        kept = _exactly(there, y, places, cost, kept)
    return near[rows, kept]


def _exactly(
    body: Float[Array, "l 3"],
    y: Float[Array, "n 3"],
    places: Float[Array, "n m 3"],
    cost: Float[Array, "n m"],
    pick: Int[Array, " n"],
) -> Int[Array, " n"]:
    """The best change of one anchor as long as one helps, each pose computed: small bodies turn too far for less."""
    n, m = cost.shape
    rows, best, pick = np.arange(n), np.inf, pick.copy()
    for _ in range(4 * n):
        trial = np.broadcast_to(pick, (n, m, n)).copy()
        trial[rows, :, rows] = np.arange(m)
        trial = trial.reshape(n * m, n)
        goal = torch.from_numpy(places[rows, trial])
        move = kabsch(torch.from_numpy(y).expand(n * m, n, 3), goal)
        moved = apply(move, torch.from_numpy(body).expand(n * m, *body.shape)).numpy()
        error = ((moved - body) ** 2).sum(-1).mean(-1) + cost[rows, trial].sum(-1)
        at = int(error.argmin())
        if error[at] >= best - 1e-9:
            break
        best, pick = float(error[at]), trial[at]
    return pick


def _effects(
    y: Float[Array, "n 3"], body: Float[Array, "l 3"], error: Float[Array, "n m 3"]
) -> tuple[Float[Array, "n m 6"], Float[Array, "6 6"]]:
    """How each candidate's error moves the body, in coordinates whose square is the body's mean squared displacement.

    Also what brings (shift at the anchors' centre, rotation vector) into those coordinates.
    """
    centre = y.mean(0)
    arm, out = y - centre, body - centre
    inertia = np.eye(3) * ((arm**2).sum() + _SOFT * len(y)) - arm.T @ arm
    spread = (np.eye(3) * (out**2).sum() - out.T @ out) / len(out)
    metric = np.zeros((6, 6))
    metric[:3, :3], metric[3:, 3:] = np.eye(3), spread
    metric[:3, 3:] = -_cross(out.mean(0))
    metric[3:, :3] = metric[:3, 3:].T
    value, vector = np.linalg.eigh(metric)
    whiten = (vector * np.sqrt(value.clip(min=0))).T
    shift = np.broadcast_to(np.eye(3) / len(y), (len(y), 3, 3))
    turn = np.linalg.inv(inertia) @ _cross(arm)
    pull = whiten @ np.concatenate([shift, turn], 1)
    return np.ascontiguousarray(np.einsum("nij,nmj->nmi", pull, error)), whiten


def _cross(v: Float[Array, "*b 3"]) -> Float[Array, "*b 3 3"]:
    """The matrices of v ×."""
    zero = np.zeros_like(v[..., 0])
    rows = [zero, -v[..., 2], v[..., 1], v[..., 2], zero, -v[..., 0], -v[..., 1], v[..., 0], zero]
    return np.stack(rows, -1).reshape(*v.shape[:-1], 3, 3)


@compiled(fastmath={"contract", "reassoc", "nnan", "nsz"})
def _gain(effect, cost, pick, total, j, k):
    """What the cost changes when anchor j takes candidate k."""
    now = pick[j]
    change = cost[j, k] - cost[j, now]
    for i in range(6):
        a = effect[j, k, i] - effect[j, now, i]
        change += a * (2 * total[i] + a)
    return change


@compiled()
def _take(effect, pick, total, j, k):
    total += effect[j, k] - effect[j, pick[j]]
    pick[j] = k


@compiled()
def _descend(effect, cost, pick, total, pairs):
    """The best change of one anchor as long as one helps, then of two; in place."""
    n, m = cost.shape
    for _ in range(16 * n + pairs):
        best, at, to = -1e-9, -1, -1
        for j in range(n):
            for k in range(m):
                change = _gain(effect, cost, pick, total, j, k)
                if change < best:
                    best, at, to = change, j, k
        if at >= 0:
            _take(effect, pick, total, at, to)
            continue
        if pairs == 0:
            return
        pairs -= 1
        other, other_to = -1, -1
        moved = np.empty(6)
        for j in range(n):
            for k in range(m):
                if k == pick[j]:
                    continue
                first = _gain(effect, cost, pick, total, j, k)
                moved[:] = total + effect[j, k] - effect[j, pick[j]]
                for i in range(j + 1, n):
                    for q in range(m):
                        change = first + _gain(effect, cost, pick, moved, i, q)
                        if change < best:
                            best, at, to, other, other_to = change, j, k, i, q
        if at < 0:
            return
        _take(effect, pick, total, at, to)
        _take(effect, pick, total, other, other_to)
