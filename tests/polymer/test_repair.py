"""Repair: nothing without damage, planted errors found, wrong anchors left out."""

import numpy as np
import pytest
import torch
from e3nn.o3 import rand_matrix
from hypothesis import given, settings
from hypothesis import strategies as st

import structok
from structok.geometry import kabsch
from structok.polymer.anchors import RADII
from structok.polymer.repair import Limits, Repairer
from structok.polymer.superpose_cpu import SUMS, add, fit, gather, misfit, move


@pytest.fixture(scope="module")
def tok():
    return structok.load("chain-vq-4096")


@pytest.fixture(scope="module")
def tokens(tok):
    """A made-up protein of 150 residues: helices and turns of the codes that are most used."""
    random = np.random.default_rng(3)
    steps = tok.model.steps.numpy()
    common = np.flatnonzero((np.linalg.norm(steps[:, 1], axis=1) - 3.8).__abs__() < 0.1)
    codes = np.concatenate([np.full(9, c) for c in random.choice(common, 17)])[:150]
    chain = structok.Backbone(tok.model.decode(torch.from_numpy(codes)).numpy(), name="made")
    return tok.encode(chain)


@settings(deadline=None)  # compiled on the first call
@given(st.integers(3, 12), st.integers(0, 1000), st.booleans())
def test_fit_is_kabsch(n, seed, mirror):
    random = np.random.default_rng(seed)
    y = 10 * random.normal(size=(n, 3))
    x = y @ rand_matrix(dtype=torch.float64).numpy().T + 5 + random.normal(size=y.shape)
    x[:, 2] *= -1 if mirror else 1
    w = 0.1 + random.random(n)
    pose = np.eye(4)[:3].T.ravel()
    left = fit(gather(y, x, w), pose)
    best = kabsch(*(torch.from_numpy(a) for a in (y, x, w))).numpy()
    square = (w * ((y @ best[:3, :3].T + best[:3, 3] - x) ** 2).sum(1)).sum()
    assert left == pytest.approx(square, rel=1e-5, abs=1e-6)
    assert misfit(gather(y, x, w)) == pytest.approx(left)
    found = (w * ((y @ pose[:9].reshape(3, 3).T + pose[9:] - x) ** 2).sum(1)).sum()
    assert found == pytest.approx(square, rel=1e-5, abs=1e-6)


def test_sums_move_with_their_points():
    random = np.random.default_rng(0)
    y, x = random.normal(size=(5, 3)), random.normal(size=(5, 3))
    turn = rand_matrix(dtype=torch.float64).numpy()
    sums, there = gather(y, x, np.ones(5)), np.zeros(SUMS)
    for a, b in zip(y @ turn.T + 3, x):
        add(there, a, b, 1.0)
    move(sums, np.concatenate([turn.ravel(), [3.0] * 3]))
    np.testing.assert_allclose(sums, there, atol=1e-12)


def test_nothing_is_repaired_without_damage(tok, tokens, chain):
    for t in (tokens, *(tok.encode(chain, spacing=n) for n in (2, 4, 6, 8, 16))):
        back, plain = tok.decode(t), tok.decode(t, repair=False)
        assert not back.repairs and np.array_equal(back.coords, plain.coords, equal_nan=True)
        bare = tok.decode(structok.Tokens(t.codes, "protein", t.model))
        assert structok.metrics.rmsd(back.coords, bare.coords) < 1e-4


def changed(tokens, **fields):
    return structok.Tokens.from_dict(tokens.to_dict() | {k: v.tolist() for k, v in fields.items()})


@pytest.mark.parametrize("slot", [30, 75, 120])
def test_a_wrong_code_is_found(tok, tokens, slot):
    codes = tokens.codes.copy()
    turned = (tok.model.transforms[:, :3, :3] - tok.model.transforms[codes[slot], :3, :3]).square().sum((1, 2))
    codes[slot] = int(turned[: len(turned) - 128].argmax())
    damaged = changed(tokens, codes=codes)
    truth, back = tok.decode(tokens), tok.decode(damaged)
    assert structok.metrics.rmsd(tok.decode(damaged, repair=False), truth) > 4
    assert structok.metrics.rmsd(back, truth) < 1.5
    assert min(abs(s - slot) for s in back.repairs.slots) <= tokens.spacing
    at = back.repairs.slots.index(min(back.repairs.slots, key=lambda s: abs(s - slot)))
    assert back.repairs.old[at] == codes[back.repairs.slots[at]]


def test_a_wrong_anchor_is_left_out(tok, tokens):
    anchors = tokens.anchors.copy()
    where = tok.points.positions(torch.from_numpy(anchors).long(), torch.tensor(tokens.radius))
    anchors[9] = int((tok.points.points * RADII[tokens.radius] - where[9]).norm(dim=1).argmax())
    back = tok.decode(changed(tokens, anchors=anchors))
    assert back.repairs.rejected == (9,) and not back.repairs.slots
    assert np.abs(back.coords - tok.decode(tokens).coords).max() < 1.0


def test_repaired_chains_stay_whole(tok, tokens):
    codes = tokens.codes.copy()
    codes[75] = (codes[75] + 2000) % 3968
    back = tok.decode(changed(tokens, codes=codes))
    if all(c >= 0 for c in back.repairs.new):
        gap = np.linalg.norm(back.coords[1:, 0] - back.coords[:-1, 2], axis=-1)
        assert gap.max() < 4


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 0.4))
def test_any_damage_decodes_to_something_finite(tok, tokens, seed, share):
    random = np.random.default_rng(seed)
    codes, anchors = tokens.codes.copy(), tokens.anchors.copy()
    for row, size in ((codes, 4096), (anchors, 4096)):
        hit = random.random(len(row)) < share
        row[hit] = random.integers(0, size, hit.sum())
    back = tok.decode(changed(tokens, codes=codes, anchors=anchors))
    assert np.isfinite(back.coords).all()
    again = tok.decode(changed(tokens, codes=codes, anchors=anchors))
    assert np.array_equal(back.coords, again.coords)


def test_two_wrong_codes_beside_each_other(tok, tokens):
    codes = tokens.codes.copy()
    codes[[74, 76]] = 1234, 3210
    damaged = changed(tokens, codes=codes)
    truth, back = tok.decode(tokens), tok.decode(damaged)
    assert structok.metrics.rmsd(tok.decode(damaged, repair=False), truth) > 4
    assert structok.metrics.rmsd(back, truth) < 2
    off = np.linalg.norm(back.coords[:, 1] - truth.coords[:, 1], axis=-1)
    assert off.max() < 10  # what lies between does not swing out


def test_anchors_pin_the_codes_of_an_open_loop(tok, chain):
    loose = tok.encode(chain, closed_loop=False)
    assert (loose.anchors >= 0).all()
    free, held = tok.decode(loose, repair=False), tok.decode(loose)
    assert structok.metrics.rmsd(held, chain) < min(2.0, structok.metrics.rmsd(free, chain))


def test_few_anchors_are_no_evidence(tok, tokens):
    anchors = np.full_like(tokens.anchors, -1)
    none = tok.decode(changed(tokens, anchors=anchors))
    assert np.isfinite(none.coords).all() and not none.repairs
    anchors[3] = tokens.anchors[3]
    one = tok.decode(changed(tokens, anchors=anchors))
    where = tok.points.positions(torch.from_numpy(anchors[3:4]).long(), torch.tensor(tokens.radius))[0]
    np.testing.assert_allclose(one.coords[3 * tokens.spacing, 1], where, atol=1e-3)


def test_bad_tokens_are_refused(tok, tokens):
    with pytest.raises(structok.StructokError, match="anchors"):
        tok.decode(changed(tokens, anchors=np.full_like(tokens.anchors, 4096)))
    with pytest.raises(structok.StructokError, match="radius 24"):
        tok.decode(structok.Tokens.from_dict(tokens.to_dict() | {"radius": 24}))
    with pytest.raises(structok.StructokError, match="spacing"):
        tok.encode(tok.decode(tokens), spacing=-1)


def test_limits_can_be_set(tok, tokens):
    repairer = Repairer(tok.model, tok.points)
    args = tokens.codes, tokens.anchors, tokens.spacing, tokens.radius
    _, repairs = repairer(*args, limits=Limits(cap=0.01))
    assert repairs  # so tight that good anchors contradict the codes
    assert not repairer(*args)[1]
