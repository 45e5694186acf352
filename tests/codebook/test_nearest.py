"""The nearest-code lookup is exact in every regime: against an exhaustive float64 search."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from structok import nearest_code
from structok.codebook import nearest, nearest_cpu
from structok.codebook.nearest import smallest


def exhaustive(x, codebook, k):
    distance = (x.double()[:, None] - codebook.double()).square().sum(-1)
    values, index = distance.sort(dim=1, stable=True)
    return values[:, :k], index[:, :k]


REGIMES = ["plain", "offset", "duplicates", "collapsed", "one code", "on codes", "scaled", "tiny", "huge"]


def problem_in(regime, seed, n, codes, d):
    generator = torch.Generator().manual_seed(seed)
    codebook = torch.randn(codes, d, generator=generator)
    x = torch.randn(n, d, generator=generator)
    if regime == "offset":
        codebook, x = codebook + 1e4, x + 1e4
    elif regime == "duplicates":
        codebook = codebook[torch.randint(codes, (codes,), generator=generator)]
    elif regime == "collapsed":
        codebook = 3 + 1e-4 * codebook
    elif regime == "one code":
        codebook = codebook[:1].repeat(codes, 1)
    elif regime == "on codes":
        x = codebook[torch.randint(codes, (n,), generator=generator)].clone()
    elif regime == "scaled":
        x = x * 1e3
    elif regime == "tiny":
        codebook, x = codebook * 1e-21, x * 1e-21
    elif regime == "huge":
        codebook, x = codebook * 1e18, x * 1e18
    return x, codebook


@st.composite
def problems(draw):
    seed, n, codes, d = (draw(st.integers(*r)) for r in ((0, 10**6), (1, 40), (1, 700), (1, 24)))
    x, codebook = problem_in(draw(st.sampled_from(REGIMES)), seed, n, codes, d)
    return x, codebook, draw(st.integers(1, min(codes, 9)))


@pytest.mark.parametrize("way", ["small", "compiled", "torch"])
@settings(max_examples=120, deadline=None)
@given(problems())
def test_equals_an_exhaustive_float64_search_with_ties_to_the_lowest_index(way, problem):
    """Small problems are measured in full; the ways of large ones must hold for them too."""
    x, codebook, k = problem
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest_cpu, "_WIDE", 256)
        if way != "small":
            patch.setattr(nearest, "_SMALL", 0)
            patch.setattr(nearest, "_BLOCK", 128 * 16)  # blocks of 16 vectors, for several threads
        if way == "torch":
            patch.setattr(nearest, "_compiled", lambda x, k: None)
        check(x, codebook, k)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_compiled_way_takes_all_float_types_and_strides_and_leaves_its_input_alone(monkeypatch, kind):
    monkeypatch.setattr(nearest, "_SMALL", 0)
    x, codebook = (t.to(kind) for t in problem_in("plain", 0, 50, 300, 12))
    before = x.clone()
    check(x, codebook, 1)
    check(x[::2, 1:7], codebook[:, 1:7], 1)
    check(x, codebook.float(), 1)
    assert torch.equal(x, before)


def test_missing_values_cost_no_row_its_answer(monkeypatch):
    monkeypatch.setattr(nearest, "_SMALL", 0)
    x, codebook = problem_in("plain", 0, 50, 300, 12)
    x[::3, 2], x[1, 0] = torch.nan, torch.inf
    distance, index = nearest_code(x, codebook)
    keep = x.isfinite().all(1)
    assert torch.equal(index[keep].long(), exhaustive(x[keep], codebook, 1)[1][:, 0])
    assert distance[::3].isnan().all() and (index[~keep] == 0).all() and distance[1] == torch.inf


@pytest.mark.parametrize("d", [1, 9, 40])
@pytest.mark.parametrize("codes", [1, 5, 300])
def test_rows_of_infinity_name_a_code(monkeypatch, codes, d):
    monkeypatch.setattr(nearest, "_SMALL", 0)
    codebook = -problem_in("plain", 0, 1, codes, d)[1].abs()
    for value in (torch.inf, -torch.inf, torch.nan, 3e38, -3e38):
        distance, index = nearest_code(torch.full((3, d), value), codebook)
        assert ((index >= 0) & (index < codes)).all() and not distance.isfinite().any()


def check(x, codebook, k):
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


def test_codebooks_wider_than_one_range_and_not_a_multiple_of_it():
    x, codebook = problem_in("plain", 0, 30, 9001, 6)
    assert torch.equal(nearest_code(x, codebook)[1].long(), exhaustive(x, codebook, 1)[1][:, 0])


def test_equal_codes_in_different_ranges_go_to_the_lowest_index():
    x, codebook = problem_in("plain", 1, 40, 4500, 6)
    codebook = torch.cat([codebook, codebook.flip(0)])
    assert torch.equal(nearest_code(x, codebook)[1].long(), exhaustive(x, codebook, 1)[1][:, 0])


@pytest.mark.parametrize("setting", ["highest", "high", "medium"])
@pytest.mark.parametrize("autocast", [False, True])
def test_reduced_precision_of_matrix_products_changes_nothing(setting, autocast):
    x, codebook = problem_in("plain", 2, 200, 2048, 32)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(setting)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            index = nearest_code(x, codebook)[1]
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(index.long(), exhaustive(x, codebook, 1)[1][:, 0])


@pytest.mark.parametrize("k", [1, 3])
def test_rows_that_are_not_finite(k):
    x, codebook = problem_in("plain", 3, 200, 600, 8)
    x[::4, 2], x[1::4, 5] = torch.nan, torch.inf
    distance, index = (t.view(200, k) for t in nearest_code(x, codebook, k=k))
    assert distance[::4].isnan().all() and (distance[1::4] == torch.inf).all()
    assert (index[::4] == torch.arange(k)).all() and (index[1::4] == torch.arange(k)).all()
    assert torch.equal(index[2::4].long(), exhaustive(x[2::4], codebook, k)[1])


def test_gradients_do_not_pass_and_do_no_harm():
    x = torch.randn(300, 8, requires_grad=True)
    codebook = torch.randn(500, 8, requires_grad=True)
    distance, index = nearest_code(x, codebook)
    assert not distance.requires_grad
    (x - codebook[index.long()]).square().sum().backward()
    assert x.grad is not None and codebook.grad is not None


def test_is_one_node_of_a_compiled_graph():
    graphs = []

    def keep(graph, example):
        graphs.append(graph)
        return graph

    x, codebook = problem_in("plain", 4, 60, 700, 8)
    compiled = torch.compile(lambda x: nearest_code(x.view(6, 10, 8), codebook, k=2), backend=keep, fullgraph=True)
    index = compiled(x.requires_grad_())[1]
    assert index.shape == (6, 10, 2)
    assert torch.equal(index.view(60, 2).long(), exhaustive(x, codebook, 2)[1])
    [graph] = graphs
    called = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    assert called.count(torch.ops.structok.nearest_code.default) == 1
    assert not any("addmm" in str(target) for target in called)


def test_the_operator_is_sound():
    x, codebook = problem_in("plain", 5, 20, 300, 8)
    torch.library.opcheck(torch.ops.structok.nearest_code.default, (x, codebook, 1))
