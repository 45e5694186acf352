"""The nearest-code lookup is exact in every regime: against an exhaustive float64 search."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from structok import nearest_code
from structok.codebook.nearest import smallest


def exhaustive(x, codebook, k):
    distance = (x.double()[:, None] - codebook.double()).square().sum(-1)
    values, index = distance.sort(dim=1, stable=True)
    return values[:, :k], index[:, :k]


@st.composite
def problems(draw):
    seed, n, codes, d = (draw(st.integers(*r)) for r in ((0, 10**6), (1, 40), (1, 700), (1, 24)))
    generator = torch.Generator().manual_seed(seed)
    codebook = torch.randn(codes, d, generator=generator)
    regime = draw(st.sampled_from(["plain", "offset", "duplicates", "collapsed", "on codes", "scaled"]))
    x = torch.randn(n, d, generator=generator)
    if regime == "offset":
        codebook, x = codebook + 1e4, x + 1e4
    elif regime == "duplicates":
        codebook = codebook[torch.randint(codes, (codes,), generator=generator)]
    elif regime == "collapsed":
        codebook = 3 + 1e-4 * codebook
    elif regime == "on codes":
        x = codebook[torch.randint(codes, (n,), generator=generator)].clone()
    elif regime == "scaled":
        x = x * 1e3
    return x, codebook, draw(st.integers(1, min(codes, 9)))


@settings(max_examples=120, deadline=None)
@given(problems())
def test_equals_an_exhaustive_float64_search_with_ties_to_the_lowest_index(problem):
    x, codebook, k = problem
    distance, index = nearest_code(x, codebook, k=k)
    expected_distance, expected = exhaustive(x, codebook, k)
    assert torch.equal(index.long().view(len(x), k), expected)
    assert torch.allclose(distance.view(len(x), k).double(), expected_distance, rtol=1e-6, atol=1e-30)


def test_shapes_types_and_half_precision():
    codebook = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    x = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(1))
    distance, index = nearest_code(x, codebook)
    assert distance.shape == index.shape == (3, 4) and index.dtype == torch.int32
    assert nearest_code(x, codebook, k=5)[1].shape == (3, 4, 5)
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        low = x.to(kind)
        assert torch.equal(nearest_code(low, codebook.to(kind))[1].long(), _argmin(low, codebook.to(kind)))
    assert nearest_code(x[:0], codebook)[1].shape == (0, 4)


def _argmin(x, codebook):
    return (x.double()[..., None, :] - codebook.double()).square().sum(-1).argmin(-1)


def test_more_rows_than_one_block_holds():
    generator = torch.Generator().manual_seed(0)
    codebook, x = torch.randn(4096, 9, generator=generator), torch.randn(2500, 9, generator=generator)
    assert torch.equal(nearest_code(x, codebook)[1].long(), exhaustive(x, codebook, 1)[1][:, 0])


@pytest.mark.parametrize(("shape", "k"), [((4, 7), 1), ((4, 8), 0), ((4, 8), 51)])
def test_refuses_what_does_not_fit(shape, k):
    with pytest.raises(ValueError):
        nearest_code(torch.zeros(shape), torch.zeros(50, 8), k=k)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.sampled_from([5, 64, 1000, 4096]))
def test_smallest_finds_the_smallest_entries(seed, m, n):
    score = torch.randn(6, n, generator=torch.Generator().manual_seed(seed))
    m = min(m, n)
    found = score.gather(1, smallest(score, m)).sort(dim=1).values
    assert torch.equal(found, score.sort(dim=1).values[:, :m])
