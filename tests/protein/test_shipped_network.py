"""The shipped gcp-vqvae on the example chain: bounds, not digits, since rounding differs between machines."""

from dataclasses import replace

import numpy as np
import pytest
from e3nn import o3

import structok
from structok.metrics import rmsd


@pytest.fixture(scope="module")
def tok():
    return structok.load("gcp-vqvae")


@pytest.fixture(scope="module")
def tokens(tok, chain):
    return tok.encode(chain)


def moved(chain, way):
    return structok.Backbone((chain.coords @ way.T).astype(np.float32), chain.sequence)


def test_the_chain_comes_back(tok, chain, tokens):
    back = tok.decode(tokens)
    assert rmsd(back, chain) < 1.2
    steps = np.linalg.norm(np.diff(back.coords[:, 1], axis=0), axis=-1)
    assert (np.abs(steps - 3.8) < 0.3).mean() > 0.95


def test_codes_alone_come_back(tok, chain, tokens):
    assert rmsd(tok.decode(tokens.without_anchors()), chain) < 6.0  # 12.6 Å is the chain's radius of gyration


def test_wrong_codes_and_anchors_cost_what_is_near_them(tok, chain, tokens):
    codes, anchors = tokens.codes.copy(), tokens.anchors.copy()
    codes[30], anchors[6] = (codes[30] + 1) % 4096, (anchors[6] + 1) % 4096
    before, after = tok.decode(tokens).coords, tok.decode(replace(tokens, codes=codes, anchors=anchors)).coords
    apart = np.linalg.norm(before - after, axis=-1)[:, 1]
    assert apart[:10].max() < 0.5


def test_an_anchor_on_the_other_side_is_left_out(tok, chain, tokens):
    points = tok._points.points
    anchors = tokens.anchors.copy()
    anchors[4] = int((points @ points[anchors[4]]).argmin())
    back, alone = tok.decode_batch([replace(tokens, anchors=anchors), tokens])
    assert back.repairs.rejected == (4,) and not alone.repairs
    assert rmsd(back, chain) < rmsd(alone, chain) + 0.5


def test_codes_are_of_the_shape_alone(tok, chain, tokens):
    turn = o3.rand_matrix().double().numpy()
    assert (tok.encode(moved(chain, turn)).codes == tokens.codes).mean() > 0.95
    assert (tok.encode(moved(chain, -turn)).codes == tokens.codes).mean() < 0.3


def test_codes_are_local(tok, chain, tokens):
    short = tok.encode(structok.Backbone(chain.coords[20:], chain.sequence[20:]))
    assert (short.codes[10:] == tokens.codes[30:]).mean() > 0.95  # those next to the cut may change


def test_refined_codes_rebuild_it_no_worse(tok, chain, tokens):
    part = structok.Backbone(chain.coords[:32], chain.sequence[:32])
    plain, refined = tok.encode(part), tok.encode(part, refine=1)
    errors = [
        np.sqrt(np.square(aligned(tok.decode(t), tok.sketch(part).frame) - part.coords).sum(-1).mean())
        for t in (plain, refined)
    ]
    assert errors[1] <= errors[0] + 1e-4


def aligned(back, frame):
    """Coordinates out of the anchors' frame."""
    return back.coords @ frame[:3, :3].numpy().T + frame[:3, 3].numpy()
