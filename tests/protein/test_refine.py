import itertools

import pytest
import torch
from e3nn import o3

from structok.protein.refine import refine_codes

CODES, LENGTH = 5, 60


@pytest.fixture
def decode():
    """A decoder that looks both ways: each residue is the sum of what its neighbours' codes say."""
    torch.manual_seed(0)
    book = torch.randn(CODES, 5, 9)

    def run(rows):
        said = torch.nn.functional.pad(book[rows], (0, 0, 0, 0, 2, 2))
        length = rows.shape[1]
        return sum(said[:, k : k + length, k] for k in range(5)).unflatten(-1, (3, 3))

    return run


@pytest.mark.parametrize("superposed", [False, True])
def test_error_falls_and_is_that_of_the_codes(decode, superposed):
    torch.manual_seed(1)
    true = torch.randint(CODES, (LENGTH,))
    target = decode(true[None])[0]
    if superposed:
        target = target @ o3.rand_matrix().T + 5
    start = torch.where(torch.rand(LENGTH) < 0.2, torch.randint(CODES, (LENGTH,)), true)
    mask = torch.ones(LENGTH, dtype=torch.bool)
    options = torch.arange(CODES).expand(LENGTH, -1)
    codes, trace = refine_codes(start, options, decode, target, mask, sweeps=4, superposed=superposed)
    assert all(b <= a for a, b in itertools.pairwise(trace))
    assert trace[-1] < 0.2 * trace[0]
    if not superposed:
        assert trace[-1] == pytest.approx(
            float((decode(codes[None])[0] - target).square().sum() / (3 * LENGTH)), rel=1e-4
        )


def test_perfect_codes_stay(decode):
    true = torch.randint(CODES, (LENGTH,))
    mask = torch.ones(LENGTH, dtype=torch.bool)
    options = torch.arange(CODES).expand(LENGTH, -1)
    codes, trace = refine_codes(true, options, decode, decode(true[None])[0], mask, sweeps=3, superposed=False)
    assert torch.equal(codes, true) and len(trace) == 2


def test_what_was_not_observed_does_not_count(decode):
    true = torch.randint(CODES, (LENGTH,))
    target = decode(true[None])[0]
    mask = torch.arange(LENGTH) % 7 != 3
    target[~mask] = torch.nan
    options = torch.arange(CODES).expand(LENGTH, -1)
    _, trace = refine_codes(true, options, decode, target, mask, sweeps=1, superposed=True)
    assert trace[0] == pytest.approx(0.0, abs=1e-6)
