"""Anchors chosen together pose what they belong to."""

import numpy as np
import pytest
import torch
from e3nn.o3 import rand_matrix

from structok.polymer.anchors import RADII, load_points
from structok.polymer.posing import choose_anchors, pose_of


@pytest.fixture(scope="module")
def points():
    return load_points()


def walk(n, seed):
    step = np.random.default_rng(seed).normal(size=(n, 3))
    return np.cumsum(3.8 * step / np.linalg.norm(step, axis=1, keepdims=True), axis=0)


def posed(body, chosen, anchors, radius, points):
    goal = points.positions(torch.from_numpy(anchors), torch.tensor(radius)).numpy()
    move = pose_of(body[chosen], goal)
    return body @ move[:3, :3].T + move[:3, 3]


@pytest.mark.parametrize("n, every, limit", [(200, 6, 0.25), (60, 6, 0.45), (14, 2, 0.6)])
def test_chosen_anchors_pose_better_than_the_nearest(points, n, every, limit):
    gained = []
    for seed in range(4):
        truth = walk(n, seed)
        truth = truth - truth.mean(0) + np.array([5.0, -3.0, 8.0])
        radius = int(torch.searchsorted(RADII, torch.tensor(np.linalg.norm(truth, axis=1).max())))
        turn = rand_matrix(dtype=torch.float64).numpy()
        body = truth @ turn.T + 40.0
        chosen = np.arange(0, n, every)
        anchors = choose_anchors(body, chosen, truth, radius, points)
        near = points.nearest(torch.from_numpy(truth[chosen]), torch.tensor(radius)).numpy()
        errors = [
            np.sqrt(((posed(body, chosen, a, radius, points) - truth) ** 2).sum(1).mean()) for a in (anchors, near)
        ]
        assert errors[0] <= errors[1]
        gained.append(errors[0])
    assert np.mean(gained) < limit


def test_choice_does_not_depend_on_the_bodys_pose(points):
    truth = walk(80, 1)
    truth -= truth.mean(0)
    radius = int(torch.searchsorted(RADII, torch.tensor(np.linalg.norm(truth, axis=1).max())))
    chosen = np.arange(0, 80, 6)
    first = choose_anchors(truth, chosen, truth, radius, points)
    turn = rand_matrix(dtype=torch.float64).numpy()
    assert (choose_anchors(truth @ turn.T + 7, chosen, truth, radius, points) == first).all()


def test_one_anchor_only_shifts(points):
    truth = np.array([[1.0, 2.0, 3.0], [2.0, 2.0, 3.0]])
    anchors = choose_anchors(truth + 5, np.array([0]), truth, 6, points)
    assert anchors.shape == (1,)
    assert np.isfinite(posed(truth + 5, np.array([0]), anchors, 6, points)).all()
