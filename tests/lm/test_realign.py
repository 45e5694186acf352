"""Texts that lost or gained a code: what follows the next anchor is back at its slots."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import structok
from structok.errors import TokensError
from structok.lm import Vocabulary
from structok.lm.realign import realign


@given(st.integers(1, 9), st.integers(1, 60), st.integers(1, 9), st.data())
def test_whole_texts_stay(spacing, length, guess, data):
    places = [p for p in range(0, length, spacing) if data.draw(st.booleans())]
    assert realign(range(length), places, spacing) is None
    every = list(range(0, length, spacing))
    if len(every) > 2:
        assert realign(range(length), every, guess) is None


@given(st.integers(3, 9), st.integers(0, 100), st.sampled_from([-1, 1]))
def test_one_code_is_made_up_for(spacing, seed, change):
    random = np.random.default_rng(seed)
    codes = list(range(8 * spacing))
    at = int(random.integers(spacing * 6)) + 1
    places = list(range(0, len(codes), spacing))
    damaged = [*codes[:at], 999, *codes[at:]] if change > 0 else codes[:at] + codes[at + 1 :]
    found = realign(damaged, [p + change * (p > at or (change > 0 and p == at)) for p in places], spacing)
    assert found.slots == places and len(found.codes) == len(codes) and found.spacing == spacing
    assert [n for _, n in found.changes] == [-change]
    first = (at - (change > 0)) // spacing * spacing  # of the stretch that took the change
    assert all(found.codes[i] == codes[i] for i in range(len(codes)) if not first <= i < first + spacing)
    assert found.lost == [i for i, c in enumerate(found.codes) if c == -1] and len(found.lost) == (change < 0)


@pytest.fixture(scope="module")
def tok():
    return structok.load("chain-vq-4096")


@pytest.fixture(scope="module")
def words():
    return Vocabulary.preset("structok")


@pytest.fixture
def text(tok, chain, words):
    tokens = tok.encode(chain)
    assert tokens.spacing == 6 and len(tokens) > 60
    return tokens, words.wrap_structure(tokens)


def nth(text, n):
    """Where the n-th code of a text stands."""
    match = list(re.finditer(r"<S \d+>", text))[n]
    return match.start(), match.end()


@pytest.mark.parametrize("slot", [20, 33])
def test_a_lost_code_moves_nothing_else(tok, chain, words, text, slot):
    tokens, whole = text
    start, stop = nth(whole, slot)
    parsed = words.parse(whole[:start] + whole[stop:], model=tok.name)
    [problem], [back] = parsed.problems, parsed.structures
    assert problem.kind == "realigned" and "1 code(s) missing before <X" in str(problem) and not parsed.ok
    assert len(back) == len(tokens) and (back.codes < 0).sum() == 1 and back.mask.all()
    assert np.array_equal(back.anchors, tokens.anchors)
    built = tok.decode(back)
    [lost] = np.flatnonzero(back.codes < 0)
    assert abs(lost - slot) < 6 and lost in built.repairs.slots
    assert built.repairs.old[built.repairs.slots.index(lost)] == -1
    assert structok.metrics.rmsd(built, chain) < 2.5


def test_a_code_too_many_moves_nothing_else(tok, chain, words, text):
    tokens, whole = text
    start, _ = nth(whole, 33)
    parsed = words.parse(whole[:start] + "<S 7>" + whole[start:], model=tok.name)
    [problem], [back] = parsed.problems, parsed.structures
    assert "1 code(s) too many before <X" in str(problem)
    assert len(back) == len(tokens) and np.array_equal(back.anchors, tokens.anchors)
    assert structok.metrics.rmsd(tok.decode(back), chain) < 2.5


def test_the_strict_reader_says_who_can(text):
    _, whole = text
    start, stop = nth(whole, 33)
    with pytest.raises(TokensError, match=r"lost or gained between anchors 6 apart; Vocabulary\.parse"):
        structok.Tokens.from_text(whole[:start] + whole[stop:])


def test_lost_codes_need_anchors(tok, text):
    tokens, _ = text
    codes = tokens.codes.copy()
    codes[9] = -1
    with pytest.raises(TokensError, match="code -1 at 9"):
        tok.decode(structok.Tokens(codes, mask=tokens.mask))
