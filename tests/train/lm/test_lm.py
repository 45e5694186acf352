"""The learnability language model: its crops and documents, what it learns, how it samples, and a row end to end."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

import structok
from eval.lm.learnability import figure, main, predict, unigram_bits, update
from eval.lm.samples import protein_geometry, sample_codes
from eval.report.lm import table
from structok import Tokens
from structok.errors import InputError
from train.data import Backbones
from train.lm.data import Pair, PairVocabulary, batches, chain_crops, pair_of
from train.lm.fit import Row, Settings, attention_bias, fit, loss_of, make_model, sample

TINY = Settings(hidden=32, layers=1, heads=2, inner=64, batch=256, rate=1e-2)
WORDS = PairVocabulary(("A", "B", "C", "D"), 8)


def chains(n=24):
    """Chains of 40 to 380 residues, two a cluster, every sixth cluster for validation; some with breaks and gaps."""
    random = np.random.default_rng(0)
    tokenizer = structok.load("chain-vq-64")
    lengths = [40 + 20 * (i % 18) for i in range(n)]
    codes = [random.integers(0, tokenizer.codebook_size - tokenizer.config.n_break, length) for length in lengths]
    coords = np.concatenate([c.coords for c in tokenizer.decode_batch([Tokens(c) for c in codes])])
    offsets = np.cumsum([0, *lengths])
    flaw = np.zeros(len(coords), dtype=bool)
    flaw[offsets[:-1]] = True
    flaw[offsets[3] + 50] = True
    coords[offsets[4] + 60 : offsets[4] + 63] = np.nan
    sequence = random.choice(np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", dtype=np.uint8), len(coords))
    cluster = np.arange(n) // 2
    split = (cluster % 6 == 5).astype(int)
    return Backbones(coords, offsets, [f"c{i}" for i in range(n)], flaw, cluster, split, sequence)


@pytest.fixture(scope="module")
def data():
    return chains()


def planted(count, seed):
    """Codes that say their symbol and one bit more; the symbols are uniform."""
    random = np.random.default_rng(seed)
    symbols = [random.integers(0, 4, 20) for _ in range(count)]
    return [Pair(["ABCD"[i] for i in s], 2 * s + random.integers(0, 2, 20)) for s in symbols]


@pytest.fixture(scope="module")
def learned():
    return fit(planted(600, 0), WORDS, TINY)


def test_crops_are_whole_stretches_of_chains(data):
    crops = chain_crops(data, 0, 4000, seed=1)
    for crop in crops:
        name, start = crop.name.split(":")
        a = data.offsets[int(name[1:])] + int(start)
        np.testing.assert_array_equal(crop.coords, data.coords[a : a + len(crop)])
        assert crop.sequence == bytes(data.sequence[a : a + len(crop)].tolist()).decode()
        assert not data.break_before[a + 1 : a + len(crop)].any() and np.isfinite(crop.coords).all()
        assert 32 <= len(crop) <= 256 and data.split[int(name[1:])] == 0
    assert {len(c) for c in crops} >= {256}
    total = np.cumsum([len(c) for c in crops])
    assert total[-2] < 4000 <= total[-1]


def test_crops_take_clusters_in_turn_and_do_not_depend_on_the_budget(data):
    crops = chain_crops(data, 0, 4000, seed=1)
    first = [int(c.name[1:].split(":")[0]) // 2 for c in crops[:10]]
    assert len(set(first)) == 10
    less = chain_crops(data, 0, 1500, seed=1)
    assert [c.name for c in less] == [c.name for c in crops[: len(less)]]
    assert [c.name for c in chain_crops(data, 0, 1500, seed=2)] != [c.name for c in less]
    assert len(chain_crops(data, 1, 0, seed=0)) == 2  # one for each validation cluster


def test_documents_align_both_streams():
    document = WORDS.document(Pair(["B", "?", "D"], np.array([7, -1, 0])), codes_first=False)
    code = WORDS.first_code
    assert document.ids.tolist() == [1, 7, 5, 9, 2, 3, code + 7, code + 8, code, 4]
    assert document.positions.tolist() == [0, 1, 2, 3, 4] * 2
    assert document.second.tolist() == [False] * 6 + [True] * 3 + [False]
    assert document.is_code.nonzero()[0].tolist() == [6, 8]
    other = WORDS.document(Pair(["B", "?", "D"], np.array([7, -1, 0])), codes_first=True)
    assert other.ids.tolist() == [*document.ids[5:], *document.ids[:5]]
    assert other.is_code.nonzero()[0].tolist() == [1, 3]
    assert len(WORDS) == document.ids.max() + 1


def test_streams_of_tokens():
    protein = pair_of(Tokens(np.array([4, 5]), sequence="AX"))
    assert protein.symbols == ["A", "X"] and protein.codes.tolist() == [4, 5]
    molecule = pair_of(Tokens(np.array([9, 8, 7]), "molecule", selfies="[C][Branch1][C][O][N]"))
    assert molecule.symbols == ["[C]", "[Branch1]", "[C]", "[O]", "[N]"]
    assert molecule.codes.tolist() == [9, -1, -1, 8, 7]


def test_batches_hold_each_document_once_and_keep_the_budget(data):
    documents = [WORDS.document(p, False) for p in planted(3, 0)] * 100
    documents += [WORDS.document(Pair(["A"] * n, np.zeros(n, dtype=int)), True) for n in range(2, 120)]
    made = batches(documents, 500)
    assert sorted(map(id, documents)) == sorted(id(d) for part in made for d in part)
    assert all(len(part) == 1 or len(part) * max(len(d.ids) for d in part) <= 500 for part in made)


def test_the_second_stream_sees_the_first():
    model = make_model(WORDS, TINY).eval()
    pair = planted(1, 5)[0]
    document = WORDS.document(pair, codes_first=False)
    loss, _ = loss_of(model, [document])
    changed = WORDS.document(Pair(["A" if s != "A" else "B" for s in pair.symbols], pair.codes), codes_first=False)
    other, _ = loss_of(model, [changed])
    assert (loss - other)[0, 22:].abs().min() > 1e-6


def test_attention_prefers_the_residue_that_comes_next():
    document = WORDS.document(Pair(["A", "B", "C"], np.array([1, 2, 3])), codes_first=False)
    bias = attention_bias(torch.from_numpy(document.positions)[None], 2)[0]
    assert bias.shape == (2, 10, 10) and (bias.isinf() == torch.ones(10, 10, dtype=torch.bool).triu(1)).all()
    # the code of residue 1 (token 6) comes before that of residue 2, whose symbol is token 2
    assert bias[0, 6].argmax() == 2 and bias[0, 6, 2] == 0
    assert bias[0, 6, 1] == -2 and bias[1, 6, 1] == -0.5 and bias[0, 6, 6] == -2
    torch.testing.assert_close(attention_bias(torch.from_numpy(document.positions)[None], 2, 3)[0], bias[:, 7:])


def test_it_learns_what_is_there_and_no_more(learned):
    found = predict(learned, WORDS, planted(100, 1))
    assert 2.9 < found["codes"]["bits"]["mean"] < 3.3
    assert 0.9 < found["codes given symbols"]["bits"]["mean"] < 1.5
    assert 1.9 < found["symbols"]["bits"]["mean"] < 2.2
    assert found["symbols given codes"]["bits"]["mean"] < 0.5
    assert found["symbols given codes"]["accuracy"] > 0.9 and 0.35 < found["codes given symbols"]["accuracy"] < 0.65
    assert all(f["tokens"] == 2000 and f["bits"]["low"] < f["bits"]["mean"] < f["bits"]["high"] for f in found.values())


def test_training_is_repeatable():
    losses = []
    for _ in range(2):
        seen = []
        fit(planted(40, 0), WORDS, TINY, lambda step, steps, bits, seen=seen: seen.append(bits))
        losses.append(seen)
    assert losses[0] == losses[1] and losses[0][-1] < losses[0][0]


def test_sampling_with_a_cache_equals_sampling_without(learned):
    document = WORDS.document(planted(1, 7)[0], codes_first=False)
    known = 23
    prefix = torch.from_numpy(document.ids[None, :known]).expand(3, -1)
    positions = torch.from_numpy(document.positions[:known])
    made = sample(learned, prefix, positions, 12, seed=4)
    generator = torch.Generator().manual_seed(4)
    ids, at = prefix, positions
    for step in range(12):
        with torch.no_grad():
            bias = attention_bias(at.expand_as(ids), 2)
            logits = learned(input_ids=ids, position_ids=at.expand_as(ids), attention_mask=bias).logits
        drawn = torch.multinomial(logits[:, -1].softmax(-1), 1, generator=generator)
        ids, at = torch.cat([ids, drawn], 1), torch.cat([at, torch.tensor([step + 1])])
    assert torch.equal(made, ids[:, known:])
    assert len(set(map(tuple, made.tolist()))) == 3


def test_sampled_codes_follow_the_symbols(learned):
    pair = planted(1, 9)[0]
    codes = sample_codes(learned, WORDS, pair, seed=0)
    assert np.mean(["ABCD"[c // 2] == s for c, s in zip(codes, pair.symbols) if c >= 0]) > 0.8


def test_unigrams_and_intervals():
    assert unigram_bits(np.array([0, 1, 2, 3]), [9, 9, 9, 9]) == 2.0
    assert unigram_bits(np.array([0, 0]), [6, 0]) == round(-np.log2(7 / 8), 4)
    narrow = figure(np.full(50, 30.0), np.full(50, 10.0))
    assert narrow == {"mean": 3.0, "low": 3.0, "high": 3.0}
    wide = figure(np.arange(50.0), np.full(50, 10.0))
    assert wide["low"] < wide["mean"] == 2.45 < wide["high"]


def test_geometry_of_real_and_broken_chains(chain):
    whole = protein_geometry([chain.coords])
    assert (
        whole["ca_distance_3.6_to_4.0"] > 0.98
        and whole["cn_bond_1.18_to_1.48"] == 1
        and whole["residues_clashing"] == 0
    )
    assert 0.8 < whole["compactness"] < 1.6
    folded = np.concatenate([chain.coords, chain.coords])
    assert protein_geometry([folded])["residues_clashing"] == 1
    assert protein_geometry([2 * chain.coords])["cn_bond_1.18_to_1.48"] == 0


def test_rows_are_named():
    assert Row.parse("chain-vq-64:open") == Row("chain-vq-64", False)
    row = Row.parse("runs/mine:closed:0.5")
    assert (row.name, row.assignment) == ("mine-closed-0.5", "closed loop, beam 8, λ 0.5")
    row = Row.parse("chain-vq-64:closed:0:0.01")
    assert row.weights == {"latent_weight": 0, "rate_weight": 0.01} and row.assignment.endswith("λ 0, μ 0.01")
    assert Row.parse("chain-vq-64:closed").assignment == "closed loop, beam 8"
    for bad in ("chain-vq-64", "chain-vq-64:open:1", "chain-vq-64:closed:x", "chain-vq-64:closed:1:2:3"):
        with pytest.raises(InputError, match=bad):
            Row.parse(bad)


def test_results_are_replaced_row_by_row(tmp_path):
    for name, value in (("a", 1), ("b", 2), ("a", 3)):
        update(tmp_path / "r" / "x.json", name, {"v": value})
    assert json.loads((tmp_path / "r" / "x.json").read_text()) == {"a": {"v": 3}, "b": {"v": 2}}


def test_a_row_end_to_end(data, tmp_path):
    (tmp_path / "protein").mkdir()
    xyz = np.where(np.isfinite(data.coords), 100 * data.coords, np.iinfo(np.int16).min).round().astype(np.int16)
    np.savez(
        tmp_path / "protein" / "train.npz", xyz=xyz, offsets=data.offsets, break_before=data.break_before,
        cluster40=data.cluster, split=data.split, seq=data.sequence, name=np.array(data.names),
    )  # fmt: skip
    out = tmp_path / "results.json"
    options = {"data": tmp_path, "out": out, "runs": tmp_path / "runs", "residues": 800, "molecules": 0, "samples": 3}
    main(["chain-vq-64:open"], **options)
    trained = (tmp_path / "runs" / "chain-vq-64-open" / "model.safetensors").stat().st_mtime_ns
    main(["chain-vq-64:open"], **options)
    assert (tmp_path / "runs" / "chain-vq-64-open" / "model.safetensors").stat().st_mtime_ns == trained
    [row] = json.loads(out.read_text()).values()
    assert row["validation"]["crops"] == 2 and row["codes_per_unit"] == 1 and row["samples"]["sampled"] == 3
    assert row["prediction"]["codes"]["tokens"] == row["validation"]["residues"]
    assert row["training"]["codes"] >= 800 and 5 < row["unigram_bits"] < 7
    text = table(json.loads(out.read_text()))
    assert "| `chain-vq-64` | open loop |" in text and f"{row['prediction']['codes']['bits']['mean']:.2f}" in text
