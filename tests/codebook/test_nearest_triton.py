"""The fused kernel, run by Triton's interpreter on CPU tensors (compiled where there is a GPU), is exact too."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")

from hypothesis import given, settings
from hypothesis import strategies as st

from structok.codebook import nearest, nearest_triton
from tests.codebook.test_nearest import REGIMES, exhaustive, problem_in

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TILE = (32, 64)


@pytest.fixture(autouse=True)
def through_the_kernel(monkeypatch):
    """Every lookup of this module takes the kernel's way, small ones too."""
    kernel = SimpleNamespace(
        leaders=partial(nearest_triton.leaders, tile=TILE), product_error=nearest_triton.product_error
    )
    monkeypatch.setattr(nearest, "_kernel", lambda x, codebook, k: kernel)
    monkeypatch.setattr(nearest, "_SMALL", 0)


def check(x, codebook, k):
    distance, index = nearest.nearest_code(x.to(DEVICE), codebook.to(DEVICE), k=k)
    expected_distance, expected = exhaustive(x, codebook, k)
    assert torch.equal(index.cpu().long().view(len(x), k), expected)
    assert torch.allclose(distance.cpu().view(len(x), k).double(), expected_distance, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("regime", REGIMES)
@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 300), st.integers(1, 24), st.integers(1, 8))
def test_equals_an_exhaustive_float64_search(regime, seed, n, codes, d, k):
    check(*problem_in(regime, seed, n, codes, d), min(k, codes))


@pytest.mark.parametrize("codes", [63, 64, 65, 129])
@pytest.mark.parametrize("d", [3, 16, 17, 64, 65, 128, 200, 512])
def test_sizes_that_tiles_do_not_divide(codes, d):
    check(*problem_in("plain", codes, 33, codes, d), 1)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_all_float_types(kind):
    x, codebook = problem_in("plain", 0, 40, 200, 9)
    check(x.to(kind), codebook.to(kind), 1)


@pytest.mark.parametrize("d", [9, 128, 512])
def test_scores_are_within_the_stated_bound(d):
    x, codebook = problem_in("plain", d, 64, 256, d)
    score, index, floor = (
        t.cpu()
        for t in nearest_triton.leaders(
            x.to(DEVICE), codebook.to(DEVICE), codebook.square().sum(1).to(DEVICE) / 2, 1, tile=TILE
        )
    )
    true = codebook.double().square().sum(1) / 2 - x.double() @ codebook.double().T
    size = x.norm(dim=1)[:, None] * codebook.norm(dim=1).max() + codebook.square().sum(1).max()
    bound = nearest_triton.product_error(d) * size
    assert ((score - true.gather(1, index)).abs() <= bound).all()
    others = true.scatter(1, index, torch.inf).amin(1)
    assert (floor <= others + bound[:, 0]).all()


def test_most_rows_are_proven_without_a_full_search(monkeypatch):
    x, codebook = problem_in("plain", 0, 256, 512, 64)
    searched = []
    resolve = nearest._resolve
    monkeypatch.setattr(nearest, "_resolve", lambda x, *rest: searched.append(len(x)) or resolve(x, *rest))
    check(x, codebook, 1)
    assert sum(searched) <= 2


def test_masked_rows_disturb_nothing():
    x, codebook = problem_in("plain", 0, 50, 100, 9)
    x[::3] = torch.nan
    distance, index = nearest.nearest_code(x.to(DEVICE), codebook.to(DEVICE))
    keep = ~x.isnan().any(1)
    assert torch.equal(index.cpu()[keep].long(), exhaustive(x[keep], codebook, 1)[1][:, 0])
    assert distance.cpu()[~keep].isnan().all() and (index.cpu()[~keep] == 0).all()


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
def test_tunes_on_a_gpu():
    x, codebook = problem_in("plain", 0, 1000, 4096, 128)
    score, index, _ = nearest_triton.leaders(x.cuda(), codebook.cuda(), codebook.square().sum(1).cuda() / 2, 1)
    best = index.gather(1, score.argmin(1, keepdim=True))
    assert (best.cpu() == exhaustive(x, codebook, 1)[1]).float().mean() > 0.99


def test_compiles_for_gpus_that_are_not_here():
    """For A100, RTX 30 and H100 class machines: tensor cores are used, and at least one tile fits without a spill."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.codebook.tiles"]
    done = subprocess.run(command, check=True, capture_output=True, env=environment, cwd=Path(__file__).parents[2])
    tiles = json.loads(done.stdout)
    assert all(tile["tensor_core_instructions"] > 0 for tile in tiles)
    for capability in (80, 86, 90):
        assert any(t["fits"] and not t["spilled_bytes"] for t in tiles if t["capability"] == capability)
