"""Frames, the prefix scan and superposition: algebra by hypothesis, numbers against biotite and e3nn."""

import biotite.structure as struc
import numpy as np
import pytest
import torch
from e3nn import o3
from hypothesis import given, settings
from hypothesis import strategies as st

from structok import geometry as g

settings.register_profile("quick", max_examples=30, deadline=None)
settings.load_profile("quick")
seeds = st.integers(0, 2**31 - 1)


def random_rigid(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    rotation = o3.rand_matrix(*shape, dtype=dtype)
    return g.rigid(rotation, torch.randn(*shape, 3, generator=generator, dtype=dtype) * 4)


def residues(*shape, seed=0, dtype=torch.float64):
    """Random non-degenerate N, CA, C."""
    generator = torch.Generator().manual_seed(seed)
    template = torch.tensor([[-0.52, 1.36, 0.0], [0.0, 0.0, 0.0], [1.53, 0.0, 0.0]], dtype=dtype)
    noise = 0.1 * torch.randn(*shape, 3, 3, generator=generator, dtype=dtype)
    return g.apply(random_rigid(*shape, seed=seed, dtype=dtype), template + noise)


@given(seeds)
def test_gram_schmidt_gives_a_proper_rotation_in_the_right_plane(seed):
    a, b = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rotation = g.gram_schmidt(a, b)
    assert torch.allclose(rotation.mT @ rotation, torch.eye(3, dtype=torch.float64).expand(5, 3, 3), atol=1e-10)
    assert torch.allclose(torch.det(rotation), torch.ones(5, dtype=torch.float64))
    local = rotation.mT @ torch.stack([a, b], -1)
    assert torch.allclose(local[:, 1:, 0], torch.zeros(5, 2, dtype=torch.float64), atol=1e-10)
    assert (local[:, 0, 0] > 0).all()
    assert torch.allclose(local[:, 2, 1], torch.zeros(5, dtype=torch.float64), atol=1e-10)
    assert (local[:, 1, 1] > 0).all()


@given(seeds)
def test_rotation_6d_round_trip(seed):
    rotation = random_rigid(4, seed=seed)[:, :3, :3]
    assert torch.allclose(g.rotation_from_6d(g.rotation_to_6d(rotation)), rotation, atol=1e-5)


@given(seeds)
def test_inverse_undoes_a_transform(seed):
    transform = random_rigid(6, seed=seed)
    points = torch.randn(6, 7, 3, dtype=torch.float64)
    assert torch.allclose(g.apply(g.invert(transform), g.apply(transform, points)), points, atol=1e-10)


@given(seeds)
def test_backbone_frames_move_with_the_residue(seed):
    coords, move = residues(5, seed=seed), random_rigid(1, seed=seed + 1)
    moved = g.backbone_frames(g.apply(move, coords.flatten(0, 1)[None])[0].view(5, 3, 3))
    assert torch.allclose(moved, move @ g.backbone_frames(coords), atol=1e-9)


def test_backbone_frames_tell_mirror_images_apart():
    chain = residues(3)
    local = g.apply(g.invert(g.backbone_frames(chain[:-1])), chain[1:])
    mirrored = chain * torch.tensor([1.0, 1.0, -1.0])
    assert not torch.allclose(local, g.apply(g.invert(g.backbone_frames(mirrored[:-1])), mirrored[1:]), atol=0.1)


@given(seeds, st.integers(1, 70))
def test_scan_equals_the_running_product(seed, n):
    steps = random_rigid(2, n, seed=seed)
    expected, running = [], torch.eye(4, dtype=torch.float64).expand(2, 4, 4)
    for i in range(n):
        running = running @ steps[:, i]
        expected.append(running)
    assert torch.allclose(g.scan(steps), torch.stack(expected, 1), atol=1e-8)


@given(st.integers(1, 33))
def test_scan_passes_over_masked_steps(n):
    steps = random_rigid(n, seed=n)
    keep = torch.rand(n, generator=torch.Generator().manual_seed(n)) < 0.5
    masked = torch.where(keep[:, None, None], steps, torch.eye(4, dtype=torch.float64))
    through = g.scan(masked)[keep]
    assert torch.allclose(through, g.scan(steps[keep]) if keep.any() else through, atol=1e-8)


def test_scan_has_correct_gradients():
    steps = random_rigid(7, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(g.scan, (steps,))


@given(seeds)
def test_kabsch_recovers_a_known_motion(seed):
    points = torch.randn(3, 12, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    motion = random_rigid(3, seed=seed)
    assert torch.allclose(g.kabsch(points, g.apply(motion, points)), motion, atol=1e-8)


@given(seeds)
def test_kabsch_agrees_with_biotite(seed):
    random = np.random.default_rng(seed)
    mobile, target = random.normal(size=(2, 20, 3)).astype(np.float32)
    fitted, _ = struc.superimpose(target, mobile)
    ours = g.superpose(torch.from_numpy(mobile), torch.from_numpy(target))
    assert np.allclose(ours.numpy(), fitted, atol=1e-4)


def test_kabsch_never_reflects_and_ignores_masked_points():
    points = torch.randn(10, 3, dtype=torch.float64)
    transform = g.kabsch(points, points * torch.tensor([1.0, 1.0, -1.0]))
    assert torch.det(transform[:3, :3]) == pytest.approx(1)
    spoiled = points.clone()
    spoiled[4] = torch.nan
    mask = torch.arange(10) != 4
    motion = random_rigid(1, seed=5)[0]
    assert torch.allclose(g.kabsch(spoiled, g.apply(motion, points), mask), motion, atol=1e-8)


@given(seeds)
def test_dihedral_agrees_with_biotite(seed):
    points = np.random.default_rng(seed).normal(size=(4, 6, 3))
    ours = g.dihedral(*torch.from_numpy(points))
    difference = np.angle(np.exp(1j * (ours.numpy() - struc.dihedral(*points))))
    assert np.abs(difference).max() < 1e-4


def test_knn_finds_the_nearest_within_each_structure():
    points = torch.randn(30, 3, generator=torch.Generator().manual_seed(1))
    batch = torch.arange(30) // 18
    edges = g.knn(points, 5, batch)
    assert edges.shape == (2, 150) and (batch[edges[0]] == batch[edges[1]]).all()
    for centre in (0, 17, 29):
        others = [i for i in range(30) if batch[i] == batch[centre] and i != centre]
        nearest = sorted(others, key=lambda i: float((points[i] - points[centre]).norm()))[:5]
        assert edges[0, edges[1] == centre].tolist() == nearest
