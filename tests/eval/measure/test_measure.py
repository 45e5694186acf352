"""Sets, peers, assignments and corruption."""

import numpy as np
import pytest

import structok
from eval.measure import axes
from eval.measure.assignments import OPEN, assignments_of, label_of
from eval.measure.model import Scope, measure_model
from eval.measure.peers import measure_peer
from eval.measure.protein import Proteins
from eval.measure.sets import molecule_sets, protein_sets
from structok.tokenizer import Search

NO_CODE = -1


def test_short_chains_are_left_out_by_name(structures):
    [found] = protein_sets(structures, 0, 0)
    assert [len(c) for c in found.structures] == [70, 60]
    assert found.excluded == {"chain2_A": "12 observed residues, fewer than 25"}
    [molecules] = molecule_sets(structures, 0, whole=False)
    assert len(molecules.structures) == 1


def test_the_grid_needs_more_bits_where_it_is_finer(figures):
    [found] = figures["peers"]["rounded coordinates"]["sets"].values()
    curve = found["curve"]
    assert [c["bits"] for c in curve] == sorted((c["bits"] for c in curve), reverse=True)
    for point in curve[:3]:  # rounding errors are uniform in a cell: sqrt(3 / 12) of its edge
        assert point["rmsd"]["mean"] == pytest.approx(point["grid"] / 2, rel=0.1)


def test_foldcomp_and_3di_are_measured_where_they_are_installed(structures):
    pytest.importorskip("mini3di")
    found = measure_peer("3Di letters (mini3di)", Scope(structures, 0, 0, 8, False))
    jitter = [v["codes"] for v in found["stability"]["jitter"].values()]
    assert 1 > jitter[0] > jitter[2] > 0.2
    pytest.importorskip("foldcomp")
    found = measure_peer("foldcomp", Scope(structures, 0, 0, 8, False))
    [chosen] = found["sets"].values()
    assert chosen["rmsd"]["mean"] < 0.5
    assert 64 < chosen["bits"] < chosen["bits_with_side_chains"]


def test_corruption_hits_the_asked_share_and_never_a_missing_code():
    random = np.random.default_rng(0)
    tokens = structok.Tokens(np.r_[np.full(20000, 5), [NO_CODE] * 100])
    broken = axes.corrupt(tokens, 0.05, {"codes": 8}, random)
    changed = broken.codes != tokens.codes
    assert changed[:20000].mean() == pytest.approx(0.05, abs=0.006)
    assert not changed[20000:].any()
    assert set(broken.codes[:20000]) == set(range(8))
    assert (axes.corrupt(tokens, 1.0, {"codes": 8}, random).codes[:20000] != 5).all()


def test_corruption_hits_anchors_as_well():
    tokens = structok.Tokens(np.zeros(60, int), anchors=np.where(np.arange(10) % 2, -1, 3), spacing=6, radius=2)
    broken = axes.corrupt(tokens, 1.0, {"codes": 64, "anchors": 4096}, np.random.default_rng(0))
    assert (broken.anchors[1::2] == -1).all() and (broken.anchors[::2] != 3).all() and (broken.codes != 0).all()


def test_assignments_name_what_they_do(chain_vq):
    assert label_of(OPEN) == "open loop"
    assert label_of(Search(True, 8, 0.0)) == "closed loop, beam 8"
    assert label_of(Search(True, 8, 0.5)) == "closed loop, beam 8, λ 0.5"
    found = assignments_of(chain_vq, [1, chain_vq.config.beam], [])
    assert [a.beam for a in found] == [chain_vq.config.beam, None, 1]  # the default is not measured twice


def test_measuring_a_folder_without_proteins_says_so(tmp_path):
    with pytest.raises(structok.StructokError, match="no protein structures"):
        measure_model("chain-vq-64", Scope(tmp_path, 0, 0, 4, False))


def test_a_chain_shorter_than_the_cut_is_not_compared(chain_vq, make_chain):
    """40 residues less 50 are none, not 30."""
    chains = [make_chain(n, seed=n) for n in (40, 80)]
    before = chain_vq.encode_batch(chains, closed_loop=False)
    found = Proteins().cropped(chain_vq, chains, before, {"closed_loop": False}, np.random.default_rng(0), False)
    assert [found[f"crop {end}"]["50"]["structures"] for end in ("start", "end")] == [1, 1]
    assert found["crop end"]["5"]["structures"] == 2
