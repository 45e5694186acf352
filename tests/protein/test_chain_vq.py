"""chain-vq: accuracy on real data it never saw, invariance, batches, gaps, limits and golden codes."""

import json
from itertools import product

import numpy as np
import pytest
import torch
from e3nn import o3
from hypothesis import given, settings
from hypothesis import strategies as st

import structok
from structok import StructokError, metrics
from structok.errors import InputError
from structok.geometry import apply, backbone_frames
from structok.polymer import chain as polymer_chain
from structok.polymer.bridge import Pieces, fill_missing
from structok.polymer.chain import ChainModel, chain_steps
from structok.zoo import resolve
from train.data import load_backbones

MODELS = ["chain-vq-4096", "chain-vq-256", "chain-vq-64"]
# codes of the first residues of the example, by model and beam; they change only with a retrained checkpoint
GOLDEN = {
    ("chain-vq-4096", 12): [2695, 2244, 657, 636, 2288, 2592, 1554, 370, 1166, 3055, 3886, 1106],
    ("chain-vq-256", 32): [101, 133, 165, 175, 120, 193, 237, 114, 58, 157, 157, 0],
    ("chain-vq-64", 32): [0, 7, 47, 4, 36, 9, 16, 39, 42, 16, 57, 19],
}


@pytest.fixture(scope="module")
def validation(shared):
    """Complete chains and chains with gaps of clusters that share nothing with training; and their CASP14 kin."""
    data = load_backbones(shared / "data/protein/train.npz")
    chosen = np.flatnonzero((data.split == 1) & (data.lengths < 250))
    random = np.random.default_rng(0)
    whole = random.permutation(chosen[data.complete[chosen]])[:24]
    gapped = random.permutation(chosen[~data.complete[chosen]])[:12]
    return [data[i].numpy() for i in whole], [data[i].numpy() for i in gapped]


def mean_rmsd(tokenizer, chains, **options):
    tokens = tokenizer.encode_batch(chains, **options)
    return np.mean([metrics.rmsd(x, y) for x, y in zip(tokenizer.decode_batch(tokens), chains)])


@pytest.mark.parametrize(
    ("name", "rate", "whole", "gaps"),
    [
        (MODELS[0], 0.0, 0.10, 0.3),
        (MODELS[0], 0.015, 0.12, 0.3),
        (MODELS[1], 0.0, 0.25, 0.6),
        (MODELS[2], 0.0, 0.5, 1.5),
    ],
)
def test_unseen_chains_come_back_within_the_promised_error(validation, name, rate, whole, gaps):
    tokenizer = structok.load(name)
    assert mean_rmsd(tokenizer, validation[0], rate_weight=rate) <= whole
    assert mean_rmsd(tokenizer, validation[1], rate_weight=rate) <= gaps


def test_closed_loop_beats_open_loop_and_a_wider_beam_helps(validation, chain_vq):
    chains = validation[0][:8]
    open_loop = mean_rmsd(chain_vq, chains, closed_loop=False)
    greedy, narrow, wide = (mean_rmsd(chain_vq, chains, beam=b) for b in (1, 4, 16))
    assert wide < narrow < greedy < open_loop


@pytest.mark.parametrize(("name", "beam"), GOLDEN)
def test_golden_codes_of_the_example(chain, name, beam):
    golden = GOLDEN[name, beam]
    assert structok.load(name).encode(chain, beam=beam, rate_weight=0.0).codes[: len(golden)].tolist() == golden


def test_codes_do_not_change_under_rotation_and_translation(chain, chain_vq):
    codes = chain_vq.encode(chain).codes
    torch.manual_seed(0)
    for turn in o3.rand_matrix(5).numpy():
        moved = chain.coords @ turn.T + np.array([12.0, -40.0, 3.0], dtype=np.float32)
        assert np.array_equal(chain_vq.encode(moved).codes, codes)
        assert np.array_equal(chain_vq.encode(moved[:2]).codes, chain_vq.encode(chain.coords[:2]).codes)


def test_a_mirror_image_gets_other_codes_and_comes_back_mirrored_or_worse(chain, chain_vq):
    mirrored = chain.coords * np.array([1, 1, -1], dtype=np.float32)
    tokens = chain_vq.encode(mirrored)
    assert (tokens.codes != chain_vq.encode(chain).codes).mean() > 0.9
    assert metrics.rmsd(chain_vq.decode(tokens), chain) > 3


def test_batches_equal_one_by_one(chain, chain_vq):
    chains = [chain.coords[:n] for n in (70, 2, 33, 70, 51)] + [chain]
    broken = chain.coords.copy()
    broken[10:14] = np.nan
    chains.append(broken)
    alone = [chain_vq.encode(c) for c in chains]
    for size in (2, 32):
        assert all(
            np.array_equal(a.codes, b.codes) for a, b in zip(alone, chain_vq.encode_batch(chains, batch_size=size))
        )
    together = chain_vq.decode_batch(alone)
    for tokens, back in zip(alone, together):
        assert np.allclose(chain_vq.decode(tokens).coords, back.coords, atol=1e-4, equal_nan=True)


def test_encoding_a_decoded_chain_changes_nothing(chain, chain_vq):
    tokens = chain_vq.encode(chain)
    again = chain_vq.encode(chain_vq.decode(tokens).coords)
    assert (again.codes == tokens.codes).mean() > 0.95
    assert metrics.rmsd(chain_vq.decode(again), chain_vq.decode(tokens)) < 0.02


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 4095), min_size=2, max_size=60))
def test_any_codes_decode_to_the_steps_they_name(codes):
    tokenizer = structok.load("chain-vq-4096")
    coords = torch.from_numpy(tokenizer.decode(structok.Tokens(np.array(codes))).coords).double()
    assert torch.allclose(chain_steps(coords), tokenizer.model.steps[codes[1:]], atol=1e-3)


def test_missing_residues_keep_their_slots_and_the_global_shape(chain, chain_vq):
    coords = chain.coords.copy()
    coords[25:33] = np.nan
    tokens = chain_vq.encode(coords)
    assert len(tokens) == 70 and (tokens.codes >= 0).all()
    assert tokens.mask.tolist() == [not 25 <= i < 33 for i in range(70)]
    back = chain_vq.decode(tokens)
    assert np.array_equal(back.mask, tokens.mask)
    assert metrics.rmsd(back, coords) < 0.2


def test_a_break_without_missing_slots_is_crossed(chain, chain_vq):
    coords = chain.coords.copy()
    coords[35:] += np.array([14.0, 0.0, 0.0], dtype=np.float32)
    back = chain_vq.decode(chain_vq.encode(coords)).coords
    tail = metrics.rmsd(back[45:], coords[45:])
    assert tail < 0.3 and metrics.rmsd(back, coords) < 1.5


def test_the_tokens_carry_what_decoding_needs_through_text_and_records(chain, chain_vq):
    tokens = chain_vq.encode(chain)
    assert structok.Tokens.from_dict(tokens.to_dict()) == tokens
    back = chain_vq.decode(structok.Tokens.from_text(tokens.to_text()))
    assert metrics.rmsd(back, chain) == pytest.approx(metrics.rmsd(chain_vq.decode(tokens), chain))
    assert chain_vq.decode(tokens).sequence == chain.sequence
    assert chain_vq.decode(tokens).residue_ids == chain.residue_ids


def test_accepts_arrays_atoms_and_paths(chain, chain_vq, example):
    codes = chain_vq.encode(chain).codes
    for x in (chain.coords, chain.to_atom_array(), example, str(example)):
        assert np.array_equal(chain_vq.encode(x).codes, codes)


@pytest.mark.parametrize(
    ("coords", "message"),
    [
        (np.zeros((1, 3, 3)), "at least 2"),
        (np.full((5, 3, 3), np.nan), "at least 2"),
        (np.zeros((5000, 3, 3)), "5000 residues"),
        (np.zeros((5, 4, 3)), "expected"),
        (np.full((5, 3, 3), np.inf), "infinite"),
    ],
)
def test_refuses_what_it_cannot_tokenize(chain_vq, coords, message):
    with pytest.raises(StructokError, match=message):
        chain_vq.encode(coords)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (structok.Tokens(np.array([1, 4096])), "outside 0..4095"),
        (structok.Tokens(np.array([1, -1])), "outside 0..4095"),
        (structok.Tokens(np.array([1, 2]), model="chain-vq-64"), "chain-vq-64"),
        (structok.Tokens(np.array([], dtype=int)), "no codes"),
        (structok.Tokens(np.array([1]), "molecule", selfies="[C]"), "molecule"),
    ],
)
def test_refuses_tokens_that_are_not_its_own(chain_vq, tokens, message):
    with pytest.raises(StructokError, match=message):
        chain_vq.decode(tokens)


def test_a_saved_copy_gives_the_same_codes(chain, chain_vq, tmp_path):
    chain_vq.save(tmp_path / "copy")
    copy = structok.load(tmp_path / "copy")
    assert copy.config == chain_vq.config
    assert np.array_equal(copy.encode(chain).codes, chain_vq.encode(chain).codes)


def test_validation_clusters_were_not_trained_on(shared):
    data = load_backbones(shared / "data/protein/train.npz")
    held_out = set(data.cluster[data.split == 1].tolist())
    for name in MODELS:
        record = json.loads((resolve(name) / "training.json").read_text())
        assert len(record["training_clusters"]) > 1000 and not held_out & set(record["training_clusters"])
        assert set(record["training_chains"]) == {n for n, s in zip(data.names, data.split) if s == 0}


class Tiny:
    """Four real steps, and a chain of five residues."""

    def __init__(self, steps, seed, missing=None, broken=None):
        generator = torch.Generator().manual_seed(seed)
        self.steps = steps[torch.randperm(3000, generator=generator)[:4]]
        self.model = ChainModel(self.steps)
        self.chain = ChainModel(steps).decode(torch.randint(0, 3000, (5,), generator=generator)).float()
        self.linked = [False] + [True] * 4
        if broken is not None:
            self.chain[broken:, :, 0] += 9
            self.linked[broken] = False
        if missing is not None:
            self.chain[missing] = torch.nan
            self.linked[missing] = self.linked[missing + 1] = False

    def best(self, weight):
        """Codes of least cost among all 4⁴ ways to place residues 1 to 4, from the search's own start."""
        seen = self.chain.isfinite().all(-1).all(-1)
        full = fill_missing(self.chain, seen, Pieces.of(self.steps))
        start = polymer_chain._start(full[None], torch.ones(1, 5, dtype=torch.bool))[0]
        steps, transforms = self.steps.double(), backbone_frames(self.steps.double())
        true = chain_steps(self.chain.double())

        def cost(codes):
            frame, total = start, 0.0
            for i, code in enumerate(codes, 1):
                miss = (apply(frame, steps[code]) - full[i]).square().sum()
                total += miss if seen[i] else 0.02 * miss
                if self.linked[i]:
                    total += weight * (true[i - 1] - steps[code]).square().sum()
                frame = frame @ transforms[code]
            return float(total)

        return min(product(range(4), repeat=4), key=cost)


@pytest.mark.parametrize("weight", [0.0, 0.5, 30.0])
@pytest.mark.parametrize("options", [{}, {"missing": 2}, {"broken": 3}])
def test_the_cost_is_the_least_of_all_codes(chain_vq, options, weight):
    answers = set()
    for seed in range(4):
        tiny = Tiny(chain_vq.model.bonded.float(), seed, **options)
        found = tiny.model.encode([tiny.chain], latent_weight=weight, beam=256)[0]
        best = tiny.best(weight)
        assert tuple(found[1:].tolist()) == best
        answers.add(best)
    assert len(answers) > 1


def test_latent_weight_trades_the_rebuilt_chain_for_the_true_steps(validation, chain_vq):
    chains = validation[0][:8]
    opened = chain_vq.encode_batch(chains, closed_loop=False)
    errors, shares = [], []
    for weight in (0.0, 1.0, 16.0):
        tokens = chain_vq.encode_batch(chains, latent_weight=weight, beam=4)
        errors.append(np.mean([metrics.rmsd(x, y) for x, y in zip(chain_vq.decode_batch(tokens), chains)]))
        shares.append(np.mean([(a.codes[1:] == b.codes[1:]).mean() for a, b in zip(tokens, opened)]))
    assert errors == sorted(errors) and shares == sorted(shares) and shares[0] < 0.15 < shares[1] < 0.3 < shares[2]


def test_codes_near_the_true_steps_are_the_same_in_any_batch(chain, chain_vq):
    chains = [chain.coords[:n] for n in (70, 12, 33)]
    alone = [chain_vq.encode(c, latent_weight=0.7, beam=4).codes for c in chains]
    together = chain_vq.encode_batch(chains, latent_weight=0.7, beam=4)
    assert all(np.array_equal(a, b.codes) for a, b in zip(alone, together))


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_refuses_a_latent_weight_out_of_range(chain, chain_vq, weight):
    with pytest.raises(StructokError, match="latent_weight"):
        chain_vq.encode(chain, latent_weight=weight)


def test_other_units_are_refused_and_other_atoms_told(make_chain, caplog):
    tok, chain = structok.load("chain-vq-64"), make_chain(30)
    with pytest.raises(InputError, match=r"N-CA bonds of 0\.15 Å.*in nm"):
        tok.encode(chain.coords / 10)
    tok.encode(chain)
    assert not caplog.records
    tok.encode(chain.coords[:, [1, 0, 2]])
    assert "CA-C bonds of 2.4" in caplog.text and "are these CA and C, in Å?" in caplog.text
