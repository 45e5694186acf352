"""The axes of StructTokenBench on codes whose answer is known."""

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr

from eval.measure.peers import Letters
from eval.measure.probe import Labelled, effectiveness, labels_of, macro_f1
from eval.measure.structtokenbench import correlations, distinctiveness, efficiency, pair_scores
from structok import Backbone, Tokens

SQUARE = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])  # cosines 1, 0, -1


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_score_of_an_alignment_is_that_of_its_matches_and_gaps():
    codes = np.array([0, 1, 2, 3, 1])
    same, shorter, other = pair_scores([(codes, codes), (codes, codes[1:]), (np.array([0]), np.array([1]))], SQUARE)
    assert same.tolist() == [500, 100]
    assert shorter.tolist() == [390, 97.5]  # one gap of -10 over four matches
    assert other.tolist() == [0, 0]  # a match of nothing is better than two gaps
    moved = pair_scores([(codes, codes[::-1])], np.add(SQUARE, [5.0, 7.0]))
    assert (moved == pair_scores([(codes, codes[::-1])], SQUARE)).all()  # vectors are centred


def test_correlations_are_those_of_scipy(random):
    tm = random.random(60)
    score = tm**3 + 0.2 * random.random(60)
    found = correlations(score, tm)
    assert found["pearson"]["mean"] == pytest.approx(pearsonr(score, tm).statistic, abs=1e-4)
    assert found["spearman"]["mean"] == pytest.approx(spearmanr(score, tm).statistic, abs=1e-4)
    low, high = found["spearman"]["interval"]
    assert low < found["spearman"]["mean"] < high


def test_distinctiveness_weighs_codes_by_their_use():
    found = distinctiveness(SQUARE, np.array([0.5, 0.5, 0.0, 0.0]))
    assert found["centred, by use"]["mean absolute"] == 0  # only the right angle between the first two is in use
    assert found["centred, plain"]["mean absolute"] == pytest.approx(1 / 3, abs=1e-4)  # two of six pairs are opposite
    assert found["centred, plain"]["mean"] == pytest.approx(-1 / 3, abs=1e-4)


def test_efficiency_over_the_set_and_over_chains():
    found = efficiency([np.array([0, 0, 0]), np.array([1, 2])], 4)
    assert found["whole set"]["utilisation"] == 0.75
    assert found["mean of chains"]["utilisation"] == 0.375
    assert found["mean of chains"]["perplexity"] == pytest.approx((1 + 2) / 2 / 4)
    assert efficiency([np.arange(4)], 4)["whole set"]["perplexity"] == pytest.approx(1)


def test_macro_f1_of_a_known_table():
    assert macro_f1(np.array([[2, 0], [0, 3]])) == 1
    assert macro_f1(np.array([[2, 2], [0, 0]])) == pytest.approx((2 * 2 / 6 + 0) / 2)


def test_labels_of_an_ideal_helix_and_of_its_burial():
    turn = np.deg2rad(100) * np.arange(30)
    ca = np.stack([2.3 * np.cos(turn), 2.3 * np.sin(turn), 1.5 * np.arange(30)], 1)
    chain = Backbone(
        np.stack([np.subtract(ca, [0, 0, 1.2]), ca, np.add(ca, [0, 0, 1.2])], 1).astype(np.float32), "A" * 30
    )
    found = labels_of(chain)
    assert (found["state"][3:-3] == 0).all()
    distance = np.linalg.norm(ca[:, None] - ca[None], axis=-1)
    assert found["neighbours"].tolist() == ((distance < 10).sum(1) - 1).tolist()
    assert (found["type"] == 0).all()


def test_probe_reads_what_vectors_say_and_no_more(random):
    """Codes that name the state, and codes that name nothing."""

    def chains(n):
        labels = []
        for _ in range(n):
            state = random.integers(0, 3, 80)
            near = 5 * state + random.integers(0, 2, 80)
            labels.append({"state": state, "neighbours": near, "type": random.integers(0, 20, 80)})
        return Labelled([], labels)

    sets = chains(30), chains(10)
    vectors = random.normal(size=(6, 4))
    told = [[Tokens(2 * x["state"] + random.integers(0, 2, 80)) for x in some.labels] for some in sets]
    found = effectiveness(vectors, *told, sets)
    assert found["secondary structure, macro F1"]["mean"] > 0.95
    assert found["burial, Spearman"]["mean"] > 0.85
    assert found["residue type, share right"]["mean"] < 0.12
    silent = [[Tokens(random.integers(0, 6, 80)) for _ in some.labels] for some in sets]
    assert effectiveness(vectors, *silent, sets)["secondary structure, macro F1"]["mean"] < 0.5


def test_letters_have_vectors_and_mask_their_ends(chain):
    pytest.importorskip("mini3di")
    letters = Letters()
    [tokens] = letters.encode_batch([chain])
    assert letters.codebook.shape == (20, 2) and isinstance(letters.codebook, torch.Tensor)
    assert not tokens.mask[0] and not tokens.mask[-1] and tokens.mask[1:-1].all()
