import pytest
import torch

from structok.nn.transformer import Transformer


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(("dim", "heads", "kv_heads"), [(64, 4, 2), (96, 2, 2), (128, 6, 1)])
def test_padding_does_not_matter(dim, heads, kv_heads):
    net = Transformer(dim, 2, heads, kv_heads)
    x = torch.randn(1, 9, dim)
    alone = net(x)
    padded = torch.cat([x, torch.randn(1, 4, dim)], 1)
    mask = (torch.arange(13) < 9)[None]
    torch.testing.assert_close(net(padded, mask)[:, :9], alone, rtol=1e-4, atol=1e-5)


def test_positions_are_relative():
    net = Transformer(64, 2, 4, 2).double()
    x = torch.randn(1, 7, 64, dtype=torch.float64)
    shifted = torch.cat([torch.zeros(1, 5, 64, dtype=torch.float64), x], 1)
    mask = (torch.arange(12) >= 5)[None]
    torch.testing.assert_close(net(shifted, mask)[:, 5:], net(x), rtol=1e-6, atol=1e-6)
    assert not torch.allclose(net(x.flip(1)).flip(1), net(x), atol=1e-3)


def test_every_slot_sees_every_other():
    net = Transformer(64, 1, 2, 1)
    x = torch.randn(1, 6, 64, requires_grad=True)
    net(x)[0, 2].sum().backward()
    assert (x.grad[0].abs().sum(1) > 0).all()


def test_gradients_reach_every_parameter():
    net = Transformer(64, 2, 4, 2)
    net(torch.randn(2, 6, 64)).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in net.parameters())


def test_reach_makes_windows_enough():
    net = Transformer(64, 2, 2, 1, reach=3).double()
    x = torch.randn(1, 30, 64, dtype=torch.float64)
    # two blocks of reach 3 look 6 places away
    torch.testing.assert_close(net(x[:, 5:25])[:, 6:-6], net(x)[:, 11:19])
    assert not torch.allclose(net(x[:, 5:25])[:, 0], net(x)[:, 5])


def test_reach_with_masked_slots_gives_numbers():
    net = Transformer(64, 2, 2, 1, reach=1)
    mask = torch.tensor([[True, True, True, False, False, False, True]])
    x = torch.randn(1, 7, 64, requires_grad=True)
    y = net(x, mask)
    y[mask].sum().backward()
    assert y.isfinite().all() and x.grad.isfinite().all()
