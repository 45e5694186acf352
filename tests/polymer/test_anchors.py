"""Anchors: frames that move with the chain, points that are the nearest ones."""

import pytest
import torch
from e3nn.o3 import rand_matrix
from hypothesis import given
from hypothesis import strategies as st

from structok.errors import CheckpointError, InputError
from structok.geometry import apply, invert, rigid
from structok.polymer.anchors import RADII, body_frame, load_points, radius_code

MIRROR = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))


@pytest.fixture(scope="module")
def points():
    return load_points()


def walk(n, seed=0):
    """A random walk of steps of 3.8 Å."""
    random = torch.Generator().manual_seed(seed)
    step = torch.randn(n, 3, generator=random, dtype=torch.float64)
    return (3.8 * step / step.norm(dim=1, keepdim=True)).cumsum(0)


def everywhere(x):
    return torch.ones(x.shape[:-1], dtype=torch.bool)


@given(st.integers(6, 300), st.integers(0, 1000))
def test_body_frame_moves_with_the_chain_and_is_proper(n, seed):
    x = walk(n, seed)
    motion = rigid(rand_matrix(dtype=torch.float64), 50 * torch.randn(3, dtype=torch.float64))
    frame = body_frame(x, everywhere(x))
    torch.testing.assert_close(body_frame(apply(motion, x), everywhere(x)), motion @ frame, atol=1e-8, rtol=0)
    assert torch.linalg.det(frame[:3, :3]) == pytest.approx(1)


def test_body_frame_ignores_what_was_not_observed():
    x, mask = walk(60), torch.rand(60, generator=torch.Generator().manual_seed(1)) < 0.7
    holes = torch.where(mask[:, None], x, torch.nan)
    torch.testing.assert_close(body_frame(holes, mask), body_frame(x[mask], everywhere(x[mask])))


def test_axes_of_two_residues_are_the_fallback():
    x, turn = walk(2), rand_matrix(dtype=torch.float64)
    assert torch.equal(body_frame(x, everywhere(x), turn)[:3, :3], turn)
    assert torch.equal(body_frame(x, everywhere(x))[:3, :3], torch.eye(3, dtype=torch.float64))


def test_sketch_does_not_depend_on_the_pose_but_on_the_hand(points):
    x = walk(200)
    _, radius, anchors = points.sketch(x, everywhere(x))
    for _ in range(5):
        moved = x @ rand_matrix(dtype=torch.float64).T + 30 * torch.randn(3, dtype=torch.float64)
        again = points.sketch(moved, everywhere(x))
        assert torch.equal(again.anchors, anchors) and again.radius == radius
    assert (points.sketch(x @ MIRROR, everywhere(x)).anchors != anchors).float().mean() > 0.8


def test_sketch_of_a_padded_batch_is_that_of_each_chain(points):
    chains = [walk(n, n) for n in (9, 40, 77)]
    padded = torch.nn.utils.rnn.pad_sequence(chains, True, torch.nan)
    batch = points.sketch(padded, padded.isfinite().all(-1), spacing=5)
    for i, x in enumerate(chains):
        one = points.sketch(x, everywhere(x), spacing=5)
        n = -(-len(x) // 5)
        assert torch.equal(batch.anchors[i, :n], one.anchors) and (batch.anchors[i, n:] == -1).all()
        assert batch.radius[i] == one.radius
        torch.testing.assert_close(batch.frame[i], one.frame)


def test_anchors_are_the_nearest_points_within_the_ball(points):
    x = walk(120)
    mask = everywhere(x)
    mask[16] = False
    frame, radius, anchors = points.sketch(x, mask)
    local = apply(invert(frame), x)
    reach = local[mask].norm(dim=1).max()
    assert reach <= RADII[radius] and reach > RADII[radius - 1]
    at = points.positions(anchors, radius)
    assert at[2].isnan().all() and anchors[2] == -1
    told = anchors >= 0
    far = torch.cdist(local[::8][told], points.points.double() * RADII[radius]).min(1).values
    torch.testing.assert_close((at[told] - local[::8][told]).norm(dim=1), far, atol=1e-4, rtol=0)
    assert far.square().mean().sqrt() < 0.06 * RADII[radius]


@given(st.floats(0, 5700))
def test_radius_is_the_least_that_holds(reach):
    code = int(radius_code(torch.tensor(reach, dtype=torch.float64)))
    assert reach <= RADII[code] * (1 + 1e-8)
    assert code == 0 or reach > RADII[code - 1] * (1 - 1e-8)


def test_bad_input(points, tmp_path):
    x = 10_000 * walk(5)
    with pytest.raises(InputError, match="5793 Å"):
        points.sketch(x, everywhere(x))
    with pytest.raises(CheckpointError, match="no anchors"):
        load_points("chain-vq-64")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_points("none-such")
