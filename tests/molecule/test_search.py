"""The compiled search takes the codes of the search in torch, and both those of measuring everything."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import structok
from structok.molecule.batch import atom_mask, pad
from structok.molecule.conformer import prepare
from structok.molecule.frames_cpu import ROOM, frame, superposed
from structok.molecule.search import Growth, closed_loop, in_torch
from structok.molecule.spherical import frames, orient
from structok.molecule.topo import GRID, local_frames, with_virtual
from structok.molecule.topo_cpu import ROWS, TILE, Network, add_silu, code_position, dense, positions
from tests.molecule.conftest import embed

LINEAR = ("C#C", "C#CC#C", "[C-]#[O+]", "O=C=O", "[H][H]", "C=C=C=C")
SHIPPED = [name for name in structok.list_models() if name.startswith("molstructok")]


@pytest.fixture(scope="module")
def conformers(drugs):
    return [prepare(m) for m in (*drugs, *map(embed, LINEAR))]


def problem(tokenizer, conformers):
    placement = tokenizer.placement([c.mol for c in conformers])
    sizes = [len(c) for c in conformers]
    return placement, orient(pad([c.coords for c in conformers], torch.float64)), atom_mask(sizes)


def cost_of(placement, target, codes):
    """What the codes of one molecule cost, so that codes that cost the same may differ."""
    growth = Growth(placement, target, 1)
    state, only, cost = growth.start(target.shape[1]), torch.zeros(1, 1, dtype=torch.long), 0.0
    for step, code in enumerate(codes[1:].tolist(), start=1):
        growth.candidates(state, step)  # `advance` follows with the same state
        after = growth.advance(state, step, only, torch.tensor([[code]]))
        goal = growth._superposed(state, step)[0, 0]
        at = after.coords[0, 0, step + placement.n_virtual]
        focal = growth._at.origin[0, 0]
        cost += float((at - goal).square().sum())
        cost += placement.bond_weight * float(((at - focal).norm() - growth.length[0, step]).square())
        state = after
    return cost


@pytest.mark.parametrize("beam", [1, 8, 70])
def test_as_in_torch(tokenizer, conformers, beam):
    placement, target, mask = problem(tokenizer, conformers)
    codes, costs = in_torch(placement, target, mask, beam)
    found = closed_loop(placement, target, mask, beam=beam)
    assert (found[~mask] == -1).all() and (found[mask] >= 0).all()
    for i, (a, b) in enumerate(zip(codes, found)):
        if not torch.equal(a, b):
            alone = tokenizer.placement([conformers[i].mol])
            n = len(conformers[i])
            target_of = orient(pad([conformers[i].coords], torch.float64))
            assert cost_of(alone, target_of, b[:n]) == pytest.approx(float(costs[i]), abs=1e-9)


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("beam", [1, 8])
def test_shipped_as_in_torch(name, beam, conformers):
    placement, target, mask = problem(structok.load(name), conformers)
    assert torch.equal(closed_loop(placement, target, mask, beam=beam), in_torch(placement, target, mask, beam)[0])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["any", "line", "nearly", "far"]))
def test_frames(seed, regime):
    random = np.random.default_rng(seed)
    f, c1, c2 = random.normal(size=(3, 3)) * (1000 if regime == "far" else 1)
    if regime in ("line", "nearly"):
        c2 = f + 2 * (c1 - f) + (1e-4 * random.normal(size=3) if regime == "nearly" else 0)
    axes = np.empty((3, 3))
    frame(f, c1, c2, axes)
    assert axes == pytest.approx(frames(*map(torch.from_numpy, (f, c1, c2))).numpy(), abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 30), st.sampled_from(["any", "mirror", "plane", "line", "same"]))
def test_superposition(seed, n, regime):
    """Against the singular value decomposition of the covariance with its prior."""
    random = np.random.default_rng(seed)
    true = random.normal(size=(n + 1, 3)) * ([1, 1, 0] if regime == "plane" else [1, 0, 0] if regime == "line" else 1)
    rebuilt = true if regime == "same" else true * ([1, 1, -1] if regime == "mirror" else 1)
    rebuilt = rebuilt + (0 if regime == "same" else 0.1 * random.normal(size=(n + 1, 3)))
    x, y = true[:n], rebuilt[:n]
    u, _, vt = np.linalg.svd((x - x.mean(0)).T @ (y - y.mean(0)) + 1e-6 * np.eye(3))
    u[:, 2] *= np.sign(np.linalg.det(u @ vt))
    expected = (true[n] - x.mean(0)) @ u @ vt + y.mean(0)
    near = np.linalg.qr(random.normal(size=(3, 3)))[0]  # any start is good enough
    bases = np.stack([np.eye(3), near] * 5)
    total, product, moved = np.tile(y.sum(0), (10, 1)), np.tile(x.T @ y, (10, 1, 1)), np.empty((10, 3))
    superposed(true[n], x.sum(0), total, product, n, 10, bases, np.empty(ROOM), moved)
    assert moved == pytest.approx(np.tile(expected, (10, 1)), abs=1e-7)
    assert bases.transpose(0, 2, 1) @ bases == pytest.approx(np.tile(np.eye(3), (10, 1, 1)), abs=1e-12)


@torch.no_grad()
def test_the_network_is_that_of_torch():
    tokenizer = structok.load("molstructok-topo")
    decoder, rows = tokenizer.model, 2 * ROWS
    torch.manual_seed(0)
    static, geometry = torch.randn(rows, 128), torch.randn(rows, decoder.geometry.in_features)
    table = (decoder.table(static.repeat(16, 1), geometry.repeat(16, 1))[:rows] * GRID).round() / GRID
    network, sums = Network.of(decoder), np.empty((rows // ROWS, ROWS * TILE), np.float32)
    x = np.pad(geometry.numpy(), ((0, 0), (0, network.geometry.weight.shape[1] - geometry.shape[1])))
    pre, hidden = np.empty((2, rows, 2, TILE), np.float32)
    dense(x, rows, network.geometry, sums, pre)
    pre += static.numpy().reshape(pre.shape)
    hidden[:] = 0
    add_silu(pre, rows, hidden)
    dense(hidden.reshape(rows, -1), rows, network.mix, sums, pre)
    add_silu(pre, rows, hidden)
    out = np.empty((rows, 24, TILE), np.float32)
    dense(hidden.reshape(rows, -1), rows, network.table, sums, out)
    position, length, one = np.empty((8, 3, TILE)), np.empty((8, TILE)), np.empty(3)
    for r in range(rows):
        positions(out[r], position, length)
        found = position.transpose(0, 2, 1).reshape(-1, 3)
        # sums in another order may end on the other side of a rounding
        assert np.abs(found - table[r].numpy()).max() <= 1.001 / GRID
        assert (found == table[r].numpy()).mean() > 0.99
        for k in (0, 63, 64, 479, 480, 511):
            code_position(network, k, hidden[r].ravel(), one)
            assert np.array_equal(one, found[k])
    assert np.linalg.norm(position, axis=1) == pytest.approx(length)


@torch.no_grad()
def test_no_code_moves_further_than_its_reach(conformers):
    tokenizer = structok.load("molstructok-topo")
    decoder = tokenizer.model
    placement, target, _ = problem(tokenizer, conformers)
    *_, geometry = local_frames(with_virtual(target), placement.batch.refs, placement.batch.context)
    a, b = (geometry.float() + 0.1 * torch.randn_like(geometry.float()) for _ in range(2))
    hidden = []
    for g in (a, b):
        z = torch.nn.functional.silu(placement.static + decoder.geometry(g))
        hidden.append(z + torch.nn.functional.silu(decoder.mix(z)))
    moved = (decoder.table(placement.static, a) - decoder.table(placement.static, b)).norm(dim=-1)
    reach = torch.from_numpy(Network.of(decoder).reach)
    assert (moved <= reach * (hidden[0] - hidden[1]).norm(dim=-1, keepdim=True) + 1e-3).all()


def test_rebuilding_as_in_torch(conformers, monkeypatch):
    tokenizer = structok.load("molstructok-topo")
    placement, target, mask = problem(tokenizer, conformers)
    codes = closed_loop(placement, target, mask, beam=1)
    found = placement.rebuild(codes)
    monkeypatch.setattr("structok.molecule.placement.is_compiled", lambda x: False)
    expected = placement.rebuild(codes)
    assert (found[~mask] == 0).all() and (found[:, 0] == 0).all()
    # an atom may be off by a step of the grid, and what follows it by a little more
    torch.testing.assert_close(found[mask], expected[mask], atol=5e-3, rtol=0)
    assert ((found - expected).abs()[mask] < 1e-9).double().mean() > 0.9
