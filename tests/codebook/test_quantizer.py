import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from structok.codebook.quantizer import VectorQuantizer, orthogonality, rotate_to, straight_through


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_codes_are_nearest_and_vectors_are_codes():
    quantizer = VectorQuantizer(32, 4, kmeans_iterations=0).eval()
    x = torch.randn(2, 5, 4)
    out = quantizer(x)
    assert torch.equal(out.codes, torch.cdist(x, quantizer.codebook).argmin(-1))
    torch.testing.assert_close(out.vectors, quantizer.codebook[out.codes])
    torch.testing.assert_close(out.loss, 0.25 * (x - quantizer.codebook[out.codes]).square().mean())


def test_masked_slots_count_for_nothing():
    quantizer = VectorQuantizer(16, 4, kmeans_iterations=0, dead_below=0)
    x, mask = torch.randn(2, 6, 4), torch.tensor([[1, 1, 0, 1, 0, 0], [1, 1, 1, 1, 1, 1]]).bool()
    other = torch.where(mask[..., None], x, torch.full_like(x, 50.0))
    state = {k: v.clone() for k, v in quantizer.state_dict().items()}
    first = quantizer(x, mask)
    learned = quantizer.codebook.clone()
    quantizer.load_state_dict(state)
    second = quantizer(other, mask)
    for a, b in zip(first, second):
        assert torch.equal(a, b)
    assert torch.equal(learned, quantizer.codebook)
    assert (first.codes[~mask] == -1).all() and (first.vectors[~mask] == 0).all()
    assert torch.equal(quantizer.lookup(first.codes)[~mask], torch.zeros(3, 4))


def test_moving_averages_equal_the_textbook_pair():
    quantizer = VectorQuantizer(8, 3, decay=0.9, kmeans_iterations=0, dead_below=0)
    quantizer.cluster_size.fill_(1.0)
    size, total = quantizer.cluster_size.clone(), quantizer.codebook.clone()
    for _ in range(20):
        x = torch.randn(50, 3)
        onehot = torch.nn.functional.one_hot(quantizer.nearest(x), 8).float()
        size = 0.9 * size + 0.1 * onehot.sum(0)
        total = 0.9 * total + 0.1 * onehot.T @ x
        quantizer(x)
        torch.testing.assert_close(quantizer.codebook, total / size[:, None], rtol=1e-4, atol=1e-5)


def test_first_batch_initialises_by_kmeans():
    centres = 10 * torch.randn(8, 4)
    quantizer = VectorQuantizer(8, 4)
    x = centres.repeat(64, 1) + 0.01 * torch.randn(512, 4)
    quantizer(x)
    assert quantizer.initialised
    assert (quantizer.codebook[quantizer.nearest(x)] - x).norm(dim=1).max() < 0.1


def test_fewer_vectors_than_codes_still_initialise():
    quantizer = VectorQuantizer(64, 4)
    assert quantizer(torch.randn(10, 4)).codes.shape == (10,)


def test_dead_codes_are_put_on_vectors_of_the_batch():
    quantizer = VectorQuantizer(16, 2, kmeans_iterations=0, dead_below=0.5)
    with torch.no_grad():
        quantizer.codebook.fill_(100.0)
        quantizer.codebook[:4] = torch.randn(4, 2)
    quantizer.cluster_size[:4] = 10
    x = torch.randn(40, 2)
    quantizer(x)
    assert torch.cdist(quantizer.codebook[4:], x).min(1).values.max() == 0
    assert len(quantizer.codebook[4:].unique(dim=0)) == 12
    assert (quantizer.cluster_size >= 0.5).all()


def test_gradients_pass_straight_or_rotated():
    x, e = torch.randn(7, 5, dtype=torch.float64, requires_grad=True), torch.randn(7, 5, dtype=torch.float64)
    weight = torch.randn(7, 5, dtype=torch.float64)
    (straight_through(x, e) * weight).sum().backward()
    torch.testing.assert_close(x.grad, weight)
    x.grad = None
    out = rotate_to(x, e)
    torch.testing.assert_close(out, e)
    (out * weight).sum().backward()
    # a rotation keeps the angle between gradient and vector, and scales by |e| / |x|
    scale = e.norm(dim=1) / x.norm(dim=1)
    torch.testing.assert_close(x.grad.norm(dim=1), scale * weight.norm(dim=1))
    cosine = torch.nn.functional.cosine_similarity
    torch.testing.assert_close(cosine(x.grad, x.detach()), cosine(weight, e))


@pytest.mark.parametrize("trick", [False, True])
def test_loss_pulls_latents_towards_codes(trick):
    quantizer = VectorQuantizer(4, 3, kmeans_iterations=0, rotation_trick=trick, dead_below=0)
    x = torch.randn(6, 3, requires_grad=True)
    code = quantizer.codebook[quantizer.nearest(x)].clone()
    quantizer(x).loss.backward()
    torch.testing.assert_close(x.grad, 0.25 * 2 * (x.detach() - code) / x.numel())


def test_orthogonal_regularisation_spreads_the_codes():
    assert orthogonality(torch.eye(5)).abs() < 1e-6
    quantizer = VectorQuantizer(8, 16, kmeans_iterations=0, orthogonal=1.0, commitment=0.0, dead_below=0)
    with torch.no_grad():
        quantizer.codebook.add_(1.0)
    optimizer = torch.optim.SGD([quantizer.codebook], lr=20.0)
    x = quantizer.codebook.detach().clone()
    before = orthogonality(quantizer.codebook)
    for _ in range(30):
        optimizer.zero_grad()
        quantizer(x).loss.backward()
        optimizer.step()
    assert orthogonality(quantizer.codebook) < 0.5 * before


def test_evaluation_changes_nothing():
    quantizer = VectorQuantizer(8, 4).eval()
    state = {k: v.clone() for k, v in quantizer.state_dict().items()}
    quantizer(torch.randn(20, 4))
    assert all(torch.equal(v, quantizer.state_dict()[k]) for k, v in state.items())


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 8), st.integers(1, 30))
def test_any_shape_trains(size, dim, rows):
    quantizer = VectorQuantizer(size, dim)
    x = torch.randn(rows, dim, requires_grad=True)
    for _ in range(2):
        out = quantizer(x)
        (out.vectors.square().sum() + out.loss).backward()
    assert x.grad.isfinite().all() and quantizer.codebook.isfinite().all()
    assert (out.codes >= 0).all() and (out.codes < size).all()


def test_training_reduces_quantisation_error_under_autocast():
    quantizer = VectorQuantizer(64, 8, dead_below=0.5)
    x = torch.randn(2048, 8)
    first = quantizer(x).loss
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(50):
            last = quantizer(x.bfloat16())
    assert last.loss < first and last.vectors.dtype == torch.float32
    assert len(last.codes.unique()) == 64
