"""Spreads, shares, entropies and leakage on data whose answer is known."""

import numpy as np
import pytest

from eval.measure.stats import by_bins, code_rate, leakage, rank_frequency, share, spread


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_spread_ignores_what_was_not_measured_and_brackets_the_mean(random):
    values = random.normal(3, 1, 400)
    found = spread([*values, None, float("nan")], random)
    assert found["n"] == 400
    assert found["mean"] == pytest.approx(values.mean(), abs=1e-4)
    low, high = found["interval"]
    assert low < found["mean"] < high
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.15)  # twice 1.96 standard errors
    assert found["p5"] < found["median"] < found["p95"] < found["max"]
    assert spread([None], random) == {"n": 0}


def test_share_counts_codes_and_whole_structures(random):
    found = share([np.array([True, True]), np.array([True, False, False, False])], random)
    assert found["codes"] == pytest.approx(0.5)
    assert found["whole"] == pytest.approx(0.5)
    assert found["interval"][0] <= 0.5 <= found["interval"][1]
    assert share([], random) == {"structures": 0}


def test_by_bins_takes_the_upper_edge_in():
    found = by_bins([10, 20, 21, 90], [1.0, 2.0, 3.0, 4.0], (0, 20, 50, 80, 100))
    assert {k: v["n"] for k, v in found.items()} == {"1-20": 2, "21-50": 1, "81-100": 1}
    assert found["1-20"]["mean"] == pytest.approx(1.5)


def test_rate_of_independent_codes_lies_between_its_bounds(random):
    found = code_rate([random.integers(0, 16, 2000) for _ in range(10)], 16)
    assert found["bits"] == 4
    assert found["unigram_bits"] == pytest.approx(4, abs=0.01)
    assert found["unigram_bits"] <= found["unigram_bits_corrected"] <= 4
    assert found["bigram_bits_low"] < 4.001
    assert found["bigram_bits_low"] < found["bigram_bits_high"] < 4.1
    assert found["bigram_bits_high"] - found["bigram_bits_low"] < 0.15


def test_rate_of_a_cycle_is_nothing_once_the_code_before_is_known():
    found = code_rate([np.tile(np.arange(8), 300)] * 2, 8)
    assert found["unigram_bits"] == pytest.approx(3)
    assert found["bigram_bits_low"] == pytest.approx(0, abs=1e-3)
    assert found["bigram_bits_high"] < 0.05


def test_rare_pairs_bias_the_plug_in_estimate_and_the_held_out_one_the_other_way(random):
    found = code_rate([random.integers(0, 512, 300) for _ in range(4)], 512)
    assert found["bigram_bits_low"] < 3  # 9 bits in truth
    assert found["bigram_bits_high"] > 8.9


def test_a_single_structure_has_no_held_out_bound(random):
    assert "bigram_bits_high" not in code_rate([random.integers(0, 4, 100)], 4)


def test_leakage_of_codes_that_name_the_class_and_of_codes_that_do_not(random):
    classes = [random.integers(0, 4, 500) for _ in range(10)]
    telling = leakage([c * 3 + random.integers(0, 3, 500) for c in classes], classes, range(10), 12)
    assert telling["accuracy"] == 1
    assert telling["bits"] > 1.8
    silent = leakage([random.integers(0, 12, 500) for _ in classes], classes, range(10), 12)
    assert abs(silent["accuracy"] - 0.25) < 0.04
    assert silent["bits"] < 0.01


def test_leakage_needs_two_groups_and_skips_unknown_classes(random):
    codes, classes = [np.array([0, 1, 0])] * 2, [np.array([0, -1, 0]), np.array([-1, 1, 0])]
    assert leakage(codes, classes, [7, 7], 2) is None
    assert leakage(codes, classes, [7, 8], 2)["slots"] == 4


def test_rank_frequency_falls_from_the_most_used_code():
    found = rank_frequency(np.array([2] * 6 + [0] * 3 + [1]), 4)
    assert found == [[1, 0.6], [2, 0.3], [3, 0.1], [4, 0.0]]
