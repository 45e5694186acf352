"""Damaged files: every residue and molecule that an independent reader sees is there, or its loss is said."""

import random
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("gemmi")
from rdkit import rdBase

from tests.read.fuzz import KINDS, damage

good = cache(lambda kind: KINDS[kind][0]())


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 1 << 32))
def test_damage_loses_nothing_without_a_word(kind, seed):
    with rdBase.BlockLogs():
        assert KINDS[kind][1](damage(good(kind), random.Random(seed))) == ""


@pytest.mark.parametrize("kind", KINDS)
def test_the_check_notices_what_is_lost(kind, monkeypatch):
    """With a reader that forgets a part of the file, the check must fail."""
    import tests.read.fuzz as fuzz

    if kind == "sdf":
        read = fuzz.read_molecules
        monkeypatch.setattr(fuzz, "read_molecules", lambda source: list(read(source))[:-1])
    else:
        read = fuzz.parse_structures

        def forgetful(content, *arguments, **options):
            [found] = read(content, *arguments, **options)
            del found.polymers[1:]
            return [found]

        monkeypatch.setattr(fuzz, "parse_structures", forgetful)
    assert "lost without a word" in KINDS[kind][1](good(kind))
