import pytest
import torch
from e3nn import o3

from structok.geometry import apply, rigid
from structok.protein.losses import (
    AdaptiveWeights,
    aligned_mse,
    backbone_direction,
    backbone_distance,
    gradient_norms,
    window_fape,
)

LOSSES = [aligned_mse, backbone_distance, backbone_direction, window_fape]


@pytest.fixture
def chains():
    """Two random chains of 12 slots (float64): a prediction, the truth, and a mask with gaps and padding."""
    torch.manual_seed(0)
    true = torch.randn(2, 12, 3, 3, dtype=torch.float64).cumsum(1) * 2
    predicted = true + 0.3 * torch.randn_like(true)
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[0, 4:6] = False
    mask[1, 9:] = False
    return predicted, true, mask


@pytest.mark.parametrize("loss", LOSSES)
def test_zero_for_the_truth_anywhere_in_space(loss, chains):
    _, true, mask = chains
    motion = rigid(o3.rand_matrix(dtype=torch.float64), torch.randn(3, dtype=torch.float64))
    moved = apply(motion, true.flatten(1, 2)).view_as(true)
    assert loss(moved, true, mask).abs().max() < 1e-3  # window_fape keeps a root of 1e-8
    if loss is not backbone_distance:  # which cannot tell mirror images apart
        assert (loss(-true, true, mask) > 0.01).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_masked_slots_and_padding_count_for_nothing(loss, chains):
    predicted, true, mask = chains
    expected = loss(predicted, true, mask)
    wild = torch.where(mask[..., None, None], predicted, 1e3)
    nan = torch.where(mask[..., None, None], true, torch.nan)
    torch.testing.assert_close(loss(wild, nan, mask), expected)
    torch.testing.assert_close(loss(predicted[1:, :9], true[1:, :9], mask[1:, :9]), expected[1:])


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_finite(loss, chains):
    predicted, true, mask = chains
    for start in (predicted, true, torch.zeros_like(true)):
        x = start.float().requires_grad_()
        loss(x, torch.where(mask[..., None, None], true, torch.nan).float(), mask).sum().backward()
        assert x.grad.isfinite().all() and (x.grad[~mask] == 0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_full_precision_under_autocast(loss, chains):
    predicted, true, mask = chains
    predicted, true = predicted.float(), true.float()
    with torch.autocast("cpu", torch.bfloat16):
        result = loss(predicted, true, mask)
    assert torch.equal(result, loss(predicted, true, mask))


def test_aligned_mse_is_the_squared_rmsd(chains):
    from structok.metrics import rmsd_points

    predicted, true, mask = chains
    atoms = mask.repeat_interleave(3, 1)
    expected = rmsd_points(predicted.flatten(1, 2), true.flatten(1, 2), atoms) ** 2
    torch.testing.assert_close(aligned_mse(predicted, true, mask), expected)


def test_distance_by_hand():
    true = torch.zeros(1, 1, 3, 3)
    true[0, 0, :, 0] = torch.tensor([0.0, 1.0, 3.0])
    predicted = 2 * true
    # distances 1, 2, 3 become 2, 4, 6: squared errors 1, 4, 9, each pair twice, nine pairs with the diagonal
    mask = torch.ones(1, 1, dtype=torch.bool)
    torch.testing.assert_close(backbone_distance(predicted, true, mask), torch.tensor([28 / 9]))
    torch.testing.assert_close(backbone_distance(predicted, true, mask, cap=4.0), torch.tensor([18 / 9]))


def test_direction_by_hand(chains):
    predicted, true, mask = chains

    def vectors(x, m):
        out = []
        for i in (j for j in range(len(m)) if m[j]):
            n, ca, c = x[i]
            into = n - x[i - 1, 2] if i and m[i - 1] else None
            onward = x[i + 1, 0] - c if i + 1 < len(m) and m[i + 1] else None
            out += [ca - n, c - ca, -torch.linalg.cross(ca - n, c - ca)]
            if onward is not None:
                out += [onward, torch.linalg.cross(c - ca, onward)]
            if into is not None:
                out.append(torch.linalg.cross(into, ca - n))
        return torch.stack(out)

    expected = []
    for p, t, m in zip(predicted, true, mask):
        a, b = vectors(p, m), vectors(t, m)
        expected.append((a @ a.T - b @ b.T).square().clamp(max=20).mean())
    torch.testing.assert_close(backbone_direction(predicted, true, mask), torch.stack(expected))


def test_window_fape_looks_no_further_than_its_reach(chains):
    _, true, _ = chains
    mask = torch.ones(2, 12, dtype=torch.bool)
    bent = true.clone()
    motion = rigid(o3.rand_matrix(dtype=torch.float64), torch.randn(3, dtype=torch.float64))
    bent[:, 6:] = apply(motion, true[:, 6:].flatten(1, 2)).view_as(true[:, 6:])
    near, far = window_fape(bent, true, mask, reach=2), window_fape(bent, true, mask, reach=11)
    assert (near < 0.5 * far).all() and (near > 0).all()
    assert (window_fape(bent, true, mask, reach=0) < 1e-3).all()


def test_adaptive_weights():
    weights = AdaptiveWeights({"a": 0.5, "b": 2.0})
    losses = {"a": torch.tensor(1.0), "b": torch.tensor(3.0)}
    assert {k: float(v) for k, v in weights.weighted(losses).items()} == {"a": 0.5, "b": 6.0}
    weights.adjust_({"a": 10.0, "b": 0.01})
    torch.testing.assert_close(weights.factors, torch.tensor([0.98, 1.02]))
    weights.adjust_({"a": 1.0, "b": 1.0})
    torch.testing.assert_close(weights.factors, torch.tensor([0.98, 1.02]))
    for _ in range(1000):
        weights.adjust_({"a": 10.0, "b": 0.0})
    torch.testing.assert_close(weights.factors, torch.tensor([0.01, 100.0]))
    with pytest.raises(ValueError, match="expected the losses"):
        weights.weighted({"a": torch.tensor(1.0)})


def test_gradient_norms():
    p = torch.tensor([3.0, 4.0], requires_grad=True)
    q = torch.zeros(2, requires_grad=True)
    norms = gradient_norms({"square": p.square().sum() / 2, "linear": 2 * p.sum()}, [p, q])
    assert norms == pytest.approx({"square": 5.0, "linear": 8**0.5})
