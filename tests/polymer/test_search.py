"""The beam search over chains of steps, compiled and in torch, against a search that measures everything."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import structok
from structok.codebook.search import beam_search
from structok.geometry import backbone_frames
from structok.polymer.chain import ChainModel
from structok.polymer.search import ChainSearch, StepTable
from structok.polymer.search_cpu import CompiledSearch

REGIMES = ["real", "plain", "duplicates", "near-duplicates", "far away", "clusters"]


def problem_in(regime, seed, size, n, groups=3):
    """Codes, true residues, weights, latents, λ and prices; residues follow a path of codes with noise."""
    random = np.random.default_rng(seed)
    steps = random.normal(size=(size, 9)) * 1.5
    if regime == "duplicates":
        steps = steps[random.integers(0, max(1, size // 4), size)]
    if regime == "near-duplicates":
        steps = steps[random.integers(0, max(1, size // 4), size)] + 1e-5 * random.normal(size=(size, 9))
    if regime == "clusters":
        steps = (
            0.1 * steps + 5 * random.normal(size=(max(1, size // 20), 9))[random.integers(0, max(1, size // 20), size)]
        )
    if regime == "real":
        steps = structok.load("chain-vq-4096").model.steps.flatten(1).numpy()[random.permutation(4096)[: 10 * size]]
    size, steps = len(steps), torch.from_numpy(steps).float()
    frames = backbone_frames(steps.double().unflatten(1, (3, 3)))
    model = ChainModel(steps.unflatten(1, (3, 3)))
    true = model.decode(torch.from_numpy(random.integers(0, size, n)))
    true = true + torch.from_numpy(random.normal(size=(n, 3, 3))) * {"far away": 300, "real": 0.1}.get(regime, 0.3)
    told = {
        "weight": torch.from_numpy(random.choice([1.0, 0.02], n)),
        "latents": torch.from_numpy(random.normal(size=(n, 4))).float(),
        "pull": torch.from_numpy(random.choice([0.0, 0.5], n)),
        "price": torch.from_numpy(0.3 * random.random((groups + 1, size))).float(),
    }
    if regime == "duplicates":
        told["pull"], told["price"] = (
            0 * told["pull"],
            0 * told["price"],
        )  # so that nothing but their number tells them apart
    vectors, group = torch.from_numpy(random.normal(size=(size, 4))).float(), torch.arange(size) % groups
    return steps, frames, vectors, group, true, told


def exhaustive(steps, frames, vectors, group, true, told, beam):
    """Every code after every hypothesis, in float64."""
    steps, vectors = steps.double().numpy(), vectors.double().numpy()
    pose, cost, paths, last = np.eye(4)[None], np.zeros(1), np.empty((1, 0), int), np.array([len(told["price"]) - 1])
    for i in range(1, len(true)):
        goal = (true[i].numpy() - pose[:, None, :3, 3]) @ pose[:, :3, :3]
        total = cost[:, None] + float(told["weight"][i]) * np.square(goal.reshape(-1, 1, 9) - steps).sum(-1)
        total += float(told["pull"][i]) * np.square(told["latents"][i].double().numpy() - vectors).sum(-1)
        total += told["price"].double().numpy()[last]
        best = total.ravel().argsort(kind="stable")[:beam]
        parent, code = best // len(steps), best % len(steps)
        pose, cost, last = pose[parent] @ frames.numpy()[code], total.ravel()[best], group.numpy()[code]
        paths = np.column_stack([paths[parent], code])
    return paths[0], cost[0]


def cost_of(path, steps, frames, vectors, group, true, told):
    """What a path costs, so that paths that cost the same may differ."""
    pose, cost, last = np.eye(4), 0.0, len(told["price"]) - 1
    for i, k in enumerate(path, 1):
        goal = (true[i].numpy() - pose[:3, 3]) @ pose[:3, :3]
        cost += float(told["weight"][i]) * np.square(goal.ravel() - steps[k].double().numpy()).sum()
        cost += float(told["pull"][i]) * float((told["latents"][i].double() - vectors[k].double()).square().sum())
        cost += float(told["price"][last, k])
        pose, last = pose @ frames[k].numpy(), int(group[k])
    return cost


def searched(problem, beam, compiled, repeat=1):
    """The path of one chain, searched in a batch with `repeat` shorter ones."""
    steps, frames, vectors, group, true, told = problem
    n = len(true)
    length = torch.tensor([n, *[max(1, n - 2)] * repeat])
    batch = [told[name].expand(len(length), *told[name].shape) for name in ("weight", "latents", "pull")]
    coords, start = true.expand(len(length), -1, -1, -1), torch.eye(4, dtype=torch.float64).expand(len(length), 4, 4)
    weight, latents, pull = batch
    if compiled:
        search = CompiledSearch(steps, frames, vectors, group)
        codes = search(coords, length, weight, start, latents, pull, price=told["price"], beam=beam)
        assert (codes[:, 0] == -1).all() and (codes[1, max(1, n - 2) :] == -1).all()
    else:
        table = StepTable(steps, frames, vectors, group)
        search = ChainSearch(table, coords, weight, latents, pull, price=told["price"])
        active = torch.arange(n) < length[:, None]
        codes, _ = beam_search(search, search.start(start), active, beam=beam, start=1)
    return codes[0, 1:].numpy()


@pytest.mark.parametrize("regime", REGIMES)
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 400), st.integers(1, 7), st.integers(1, 40))
def test_the_compiled_search_is_exhaustive(regime, seed, size, n, beam):
    problem = problem_in(regime, seed, size, 3 * n if regime == "real" else n)
    path, _ = exhaustive(*problem, beam)
    found = searched(problem, beam, compiled=True)
    assert np.array_equal(found, path)


@pytest.mark.parametrize("regime", ["plain", "clusters"])
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 400), st.integers(2, 7), st.integers(1, 40))
def test_the_search_in_torch_is_exhaustive(regime, seed, size, n, beam):
    problem = problem_in(regime, seed, size, n)
    assert np.array_equal(searched(problem, beam, compiled=False), exhaustive(*problem, beam)[0])


def test_a_wide_beam_holds_all_paths():
    problem = problem_in("plain", 0, 5, 5)
    path, cost = exhaustive(*problem, 5**4)
    assert np.array_equal(searched(problem, 5**4, compiled=True), path)
    assert cost_of(path, *problem) == pytest.approx(cost)


@pytest.mark.parametrize("options", [{}, {"latent_weight": 0.7}, {"rate_weight": 0.02}])
def test_tokenizers_do_without_the_compiler(make_chain, monkeypatch, options):
    tokenizer = structok.load("chain-vq-4096" if "rate_weight" in options else "chain-vq-256")
    noise = np.random.default_rng(0).normal(size=(40, 3, 3)).astype(np.float32)
    chains = [structok.Backbone(make_chain(40 - 3 * i, seed=i).coords + 0.1 * noise[: 40 - 3 * i]) for i in range(5)]
    codes = [t.codes for t in tokenizer.encode_batch(chains, **options)]
    monkeypatch.setattr(ChainModel, "_compiled", None)
    assert all(np.array_equal(t.codes, c) for t, c in zip(tokenizer.encode_batch(chains, **options), codes))
    assert len(set(np.concatenate(codes))) > 20


def test_a_package_folder_that_cannot_be_written_to_is_no_hindrance(tmp_path):
    """Machine code is kept beside the source or in a cache folder; where there is neither, it is made anew."""
    source = "import structok.polymer.search_cpu as c; print(c._extend._cache.__class__.__name__)"
    blocked = "from numba.core import caching; caching.CacheImpl._locator_classes = []; "
    done = subprocess.run([sys.executable, "-c", blocked + source], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "NullCache"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "FunctionCache"
