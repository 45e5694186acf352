import pytest
import torch
from e3nn import o3

from structok.geometry import apply, rigid
from structok.protein.features import build_graph
from structok.protein.gcpnet import GCP, GCPNet


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def _chain(length: int = 24):
    steps = torch.nn.functional.normalize(torch.randn(1, length, 1, 3, dtype=torch.float64), dim=-1)
    return 3.8 * steps.cumsum(1) + torch.randn(1, length, 3, 3, dtype=torch.float64)


def _embed(net, coords, **options):
    return net(build_graph(coords, torch.ones(coords.shape[:2], dtype=torch.bool), **options))


@pytest.mark.parametrize("local_frames", [False, True])
def test_invariant_to_motions_but_not_to_mirrors(local_frames):
    net, coords = GCPNet(2).double(), _chain()
    expected = _embed(net, coords, local_frames=local_frames)
    motion = rigid(o3.rand_matrix(dtype=torch.float64), 20 * torch.randn(3, dtype=torch.float64))
    moved = apply(motion, coords.flatten(1, 2)).view_as(coords)
    torch.testing.assert_close(_embed(net, moved, local_frames=local_frames), expected, rtol=1e-9, atol=1e-9)
    mirrored = _embed(net, -coords, local_frames=local_frames)
    assert ((mirrored - expected).abs().amax(1) > 1e-3).all()


def test_perceptron_is_equivariant():
    gcp = GCP(5, 8, 7, 4, bottleneck=4).double()
    s, v, frame = (torch.randn(*shape, dtype=torch.float64) for shape in ((3, 5), (3, 8, 3), (3, 3, 3)))
    turn = o3.rand_matrix(dtype=torch.float64)
    (s1, v1), (s2, v2) = gcp(s, v, frame), gcp(s, v @ turn.T, frame @ turn.T)
    torch.testing.assert_close(s1, s2)
    torch.testing.assert_close(v1 @ turn.T, v2)


@pytest.mark.parametrize(
    "options", [{}, {"messages": 2, "feedforwards": 3, "bottleneck": 2, "node": (48, 8), "edge": (16, 2)}]
)
def test_gradients_reach_every_parameter(options):
    net = GCPNet(2, **options)
    _embed(net, _chain().float()).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in net.parameters())


def test_a_lone_residue_has_an_embedding():
    assert _embed(GCPNet(1), torch.randn(1, 1, 3, 3)).isfinite().all()
