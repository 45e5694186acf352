"""What all tokenizers share: batches put back in order, and search settings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import structok
from structok.batching import by_length, in_batches
from structok.errors import InputError
from structok.tokenizer import Search


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 7), st.none() | st.integers(1, 90), st.booleans())
def test_batches_come_back_in_order_and_cut_to_length(lengths, size, most, several):
    seen = []

    def work(part):
        seen.append(part)
        longest = max(lengths[i] for i in part)
        return [[i] * longest for i in part]

    assert in_batches(work, lengths, size, most=most, several=several) == [[i] * n for i, n in enumerate(lengths)]
    assert sorted(i for part in seen for i in part) == list(range(len(lengths)))
    for part in seen:
        assert len(part) <= size
        assert most is None or len(part) == 1 or len(part) * max(lengths[i] for i in part) <= most


def test_a_batch_holds_something():
    with pytest.raises(InputError, match="at least 1"):
        by_length([1], 0)


def test_settings_are_the_checkpoints_unless_asked_otherwise():
    chain, mol = structok.load("chain-vq-4096"), structok.load("molstructok")
    assert chain.settings(Search()) == chain.defaults == Search(True, 32, 0.0, 0.015)
    assert chain.settings(Search(beam=3)).beam == 3
    assert chain.settings(Search(closed_loop=False, beam=3)) == Search(closed_loop=False)
    assert mol.settings(Search(beam=2)) == Search(True, 2)
    with pytest.raises(InputError, match=r"molstructok knows no rate_weight; .* closed loop by beam"):
        mol.settings(Search(rate_weight=0.1))
    with pytest.raises(InputError, match="beam must be at least 1"):
        chain.settings(Search(beam=0))
    with pytest.raises(InputError, match="latent_weight must be at least 0 and finite"):
        chain.settings(Search(latent_weight=float("inf")))
    with pytest.raises(TypeError):
        chain.encode("x.pdb", width=3)


def test_streams_are_declared():
    streams = structok.load("chain-vq-256").streams
    assert [(s.name, s.size) for s in streams] == [("codes", 256), ("anchors", 4096)]
