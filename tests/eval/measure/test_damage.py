"""Damage hits what it says, at its rate, and keeps every slot in its place."""

import numpy as np
import pytest

from eval.measure.damage import KINDS, damage
from structok import Tokens


@pytest.fixture
def tokens():
    random = np.random.default_rng(0)
    return Tokens(random.integers(4096, size=600), anchors=random.integers(4096, size=100), spacing=6, radius=9)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind(tokens, kind):
    hit = KINDS[kind](tokens, 0.05, 4096, 4096, np.random.default_rng(1))
    codes, anchors = hit.codes != tokens.codes, hit.anchors != tokens.anchors
    assert len(hit) == len(tokens) and hit.mask.all() and hit.spacing == 6
    assert codes.any() == (kind != "anchors only") and anchors.any() == (kind == "anchors only")
    if kind in ("codes only", "codes, in runs of 4"):
        assert 0.02 < codes.mean() < 0.09
    if kind == "codes deleted":  # one -1 for each, and at most a gap around it is out of place
        assert 0.02 < (hit.codes < 0).mean() < 0.09 and codes.mean() < 0.3
    if kind == "codes inserted":
        assert 0 <= (hit.codes < 0).sum() <= 6 and codes.mean() < 0.3


def test_both_at_the_same_rate(tokens):
    hit = damage(tokens, 0.1, 4096, 4096, np.random.default_rng(2))
    assert 0.05 < (hit.codes != tokens.codes).mean() < 0.15
    assert 0.02 < (hit.anchors != tokens.anchors).mean() < 0.2
    none = damage(tokens, 0.0, 4096, 4096, np.random.default_rng(2))
    assert none == tokens
