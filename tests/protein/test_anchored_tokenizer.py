import dataclasses

import numpy as np
import pytest
import torch
from e3nn import o3

import structok
from structok.errors import TokensError
from structok.protein.model import (
    AnchorConfig,
    GCPVQVAEConfig,
    GCPVQVAEModel,
    GraphConfig,
    QuantizerConfig,
    TransformerConfig,
)
from structok.protein.tokenizer import GCPVQVAE


@pytest.fixture(scope="module")
def tok():
    torch.manual_seed(0)
    config = GCPVQVAEConfig(
        codebook_size=64,
        max_length=256,
        graph=GraphConfig(6, False, True, False, 12, 1, 32, 4, 8, 4, 1),
        encoder=TransformerConfig(64, 1, 1, 1, 1, 4),
        quantizer=QuantizerConfig(8, True),
        decoder=TransformerConfig(64, 1, 1, 1, 1, 4),
        anchors=AnchorConfig(),
    )
    return GCPVQVAE(GCPVQVAEModel(config), "tiny")


@pytest.fixture
def chain(make_chain):
    return make_chain(61)


def moved(chain, mirror=False):
    turn = o3.rand_matrix().numpy() * (-1 if mirror else 1)
    return structok.Backbone(chain.coords @ turn.T + 7, chain.sequence)


def test_tokens_carry_anchors_and_come_back_as_text(tok, chain):
    tokens = tok.encode(chain)
    assert tokens.spacing == 8 and len(tokens.anchors) == 8 and tokens.radius is not None
    assert (tokens.anchors >= 0).all() and (tokens.anchors < 4096).all()
    for form in ("inline", "first"):
        back = structok.Tokens.from_text(tokens.to_text(anchors=form))
        assert np.array_equal(back.anchors, tokens.anchors) and back.radius == tokens.radius


def test_tokens_do_not_turn_and_tell_mirror_images(tok, chain):
    tokens, turned, mirrored = (tok.encode(x) for x in (chain, moved(chain), moved(chain, mirror=True)))
    assert (tokens.codes == turned.codes).mean() > 0.95
    assert (tokens.anchors == turned.anchors).mean() > 0.8
    assert (tokens.anchors == mirrored.anchors).mean() < 0.5


def test_chain_lies_in_the_anchors_frame(tok, chain):
    tokens = tok.encode(chain)
    back = tok.decode(tokens)
    points = tok._points.positions(torch.from_numpy(tokens.anchors).long(), torch.tensor(tokens.radius)).numpy()
    # nothing is learned: the steps of a helix, superposed on the anchors around each residue
    assert np.linalg.norm(back.coords[::8, 1] - points, axis=-1).mean() < 15
    alone = tok.decode(dataclasses.replace(tokens, anchors=None, radius=None, spacing=0))
    assert structok.metrics.rmsd(alone, back) > 0.1


def test_batch_equals_one_by_one_with_and_without_anchors(tok, make_chain):
    chains = [make_chain(n) for n in (20, 33, 61)]
    tokens = tok.encode_batch(chains)
    tokens[1] = dataclasses.replace(tokens[1], anchors=None, radius=None, spacing=0)
    for one, many in zip([tok.decode(t) for t in tokens], tok.decode_batch(tokens)):
        np.testing.assert_allclose(one.coords, many.coords, atol=2e-3)


def test_missing_residues_stay_missing(tok, chain):
    coords = chain.coords.copy()
    coords[16:19] = np.nan
    tokens = tok.encode(structok.Backbone(coords))
    assert tokens.anchors[2] == -1 and (tokens.codes[16:19] == -1).all()
    assert np.array_equal(tok.decode(tokens).mask, tokens.mask)


def test_refine_does_not_make_it_worse(tok, chain):
    plain, better = tok.encode(chain), tok.encode(chain, refine=1)
    assert structok.metrics.rmsd(tok.decode(better), chain) <= structok.metrics.rmsd(tok.decode(plain), chain) + 1e-3
    assert (plain.codes != better.codes).any()


def test_network_runs(tok, chain, monkeypatch):
    ran = []
    for name in ("graph_encoder", "encoder", "decoder"):
        getattr(tok.model, name).register_forward_hook(lambda *_, name=name: ran.append(name))
    tokens = tok.encode(chain)
    assert ran == ["graph_encoder", "encoder"]
    tok.decode(tokens.without_anchors())
    assert ran[2:] == ["decoder"]
    back = tok.decode(tokens)  # untrained, it is far from some of its anchors, and runs again without these
    assert back.repairs and ran[3:] == ["decoder", "decoder"]


def test_anchors_of_another_spacing_are_refused(tok, chain):
    tokens = tok.encode(chain)
    wrong = dataclasses.replace(tokens, anchors=np.zeros(16, np.int32), spacing=4)
    with pytest.raises(TokensError, match="every 4 residues"):
        tok.decode(wrong)
    beyond = dataclasses.replace(tokens, anchors=np.full(8, 4096, np.int32))
    with pytest.raises(TokensError, match="4096"):
        tok.decode(beyond)


def test_checkpoint_keeps_it(tok, chain, tmp_path):
    tok.save(tmp_path / "tiny")
    again = structok.load(str(tmp_path / "tiny"))
    assert np.array_equal(again.encode(chain).codes, tok.encode(chain).codes)
    assert [s.name for s in again.streams] == ["codes", "anchors"]
