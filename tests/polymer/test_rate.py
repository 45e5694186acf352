"""The rate-constrained search: its optimum by brute force, what it trades, and checkpoints with a prior."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from structok import Backbone, load
from structok.codebook.prior import Prior, learn_prior
from structok.errors import CheckpointError, InputError
from structok.geometry import apply
from structok.metrics import rmsd
from structok.polymer.chain import ChainModel, _start
from structok.protein.chain_vq import ChainVQ, ChainVQConfig


@pytest.fixture(scope="module")
def small():
    return load("chain-vq-64")


def prior_of(size, groups=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    group = torch.arange(size) % groups
    bits = -(6 * torch.rand(groups + 1, size, generator=generator)).softmax(1).log2()
    return Prior(group, bits)


def chains(tokenizer, count, length=60, noise=0.1, seed=0):
    """Chains of codes of very different frequency, with noise on the coordinates."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, tokenizer.codebook_size - 3)
    codes = torch.from_numpy(rng.choice(len(share), (count, length), p=share / share.sum()))
    coords = tokenizer.model.decode(codes).numpy()
    return [Backbone((x + noise * rng.normal(size=x.shape)).astype(np.float32)) for x in coords]


@pytest.mark.parametrize("weight", [0.0, 0.3, 3.0])
def test_a_wide_beam_finds_the_optimum(small, weight):
    steps, n = small.model.steps[[3, 17, 30, 41]], 5
    prior = prior_of(4)
    model = ChainModel(steps, prior=prior)
    coords = torch.from_numpy(chains(small, 1, n)[0].coords)
    active = torch.ones(1, n, dtype=torch.bool)
    best, found = torch.inf, ()
    for codes in itertools.product(range(4), repeat=n - 1):
        frame, cost, after = _start(coords.double()[None], active)[0], 0.0, 3
        for code, true in zip(codes, coords[1:].double()):
            cost += float((apply(frame, steps[code].double()) - true).square().sum())
            cost += weight * min(float(prior.bits[after, code]), 2.0)  # four codes: naming one takes two bits
            frame, after = frame @ model.transforms[code], int(prior.group[code])
        if cost < best:
            best, found = cost, codes
    codes = model.encode([coords], beam=256, rate_weight=weight)[0]
    assert tuple(codes[1:].tolist()) == found


def test_weight_buys_predictable_codes_with_accuracy_and_batches_change_nothing(small):
    some = chains(small, 6, noise=0.05)
    group = torch.arange(64) // 16
    plain = small.encode_batch(some)
    prior = learn_prior([torch.from_numpy(t.codes) for t in plain], group)
    config = dataclasses.replace(small.config, groups=4)
    tokenizer = ChainVQ(config, small.model.steps.float(), prior)
    errors, bits = [], []
    for weight in (0.0, 0.5, 5.0):
        tokens = tokenizer.encode_batch(some, rate_weight=weight)
        assert [t.codes.tolist() for t in tokens] == [
            tokenizer.encode(c, rate_weight=weight).codes.tolist() for c in some
        ]
        errors.append(np.mean([rmsd(tokenizer.decode(t), c) for t, c in zip(tokens, some)]))
        bits.append(prior.cross_entropy([torch.from_numpy(t.codes) for t in tokens]))
    assert errors[0] < errors[1] < errors[2] and bits[0] > bits[1] > bits[2]


def test_the_compiled_search_changes_no_code(monkeypatch):
    """A large codebook with a random prior: tiles are passed over for their prices too."""
    prior = prior_of(4096, groups=16)
    some = [torch.from_numpy(c.coords) for c in chains(load("chain-vq-256"), 8, length=40)]
    model = ChainModel(load("chain-vq-4096").model.steps, 128, prior=prior)
    assert model._compiled
    quick = model.encode(some, beam=8, rate_weight=0.02)
    monkeypatch.setattr(ChainModel, "_compiled", None)
    assert all(torch.equal(a, b) for a, b in zip(quick, model.encode(some, beam=8, rate_weight=0.02)))


def test_checkpoints_keep_the_prior(small, tmp_path):
    config = dataclasses.replace(small.config, groups=3, rate_weight=0.2)
    tokenizer = ChainVQ(config, small.model.steps.float(), prior_of(64))
    tokenizer.save(tmp_path / "chain")
    again = load(tmp_path / "chain")
    some = chains(small, 3)
    assert again.config == config
    assert [t.codes.tolist() for t in again.encode_batch(some)] == [
        t.codes.tolist() for t in tokenizer.encode_batch(some)
    ]


def test_weights_without_a_prior_are_refused(small):
    chain = chains(small, 1)[0]
    with pytest.raises(InputError, match="no prior"):
        small.encode(chain, rate_weight=0.1)
    with pytest.raises(InputError, match="finite"):
        small.encode(chain, rate_weight=-1.0)
    with pytest.raises(CheckpointError, match="groups"):
        ChainVQConfig(64, rate_weight=0.1)


def test_break_codes_of_the_shipped_model_cross_breaks():
    """Two stretches far apart, without missing slots between them."""
    tokenizer = load("chain-vq-4096")
    parts = [c.coords for c in chains(load("chain-vq-256"), 2, length=40, noise=0.0)]
    broken = Backbone(np.concatenate([parts[0], parts[1] - parts[1][0, 1] + parts[0][-1, 1] + 12.0]))
    tokens = tokenizer.encode(broken)
    assert (tokens.codes >= tokenizer.codebook_size - tokenizer.config.n_break).any()
    assert rmsd(tokenizer.decode(tokens), broken) < 2  # random chains come back to about 1 Å, breaks or not
