"""The small language models: crops and documents, what they learn, how they sample, and a row end to end."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

import structok
from eval.lm import tolerance
from eval.lm.__main__ import chosen, main
from eval.lm.chains import chain_figures, distances
from eval.lm.heldout import Held, figure, update
from eval.lm.learnability import beside, predict, scores, unigram_bits
from eval.lm.molecules import molecule_figures, sample_molecules, strain
from eval.report.lm import generation_table, molecule_table, table, tolerance_table
from structok import Tokens
from structok.errors import InputError
from train.data import Backbones
from train.lm.data import batches, chain_crops
from train.lm.fit import Row, documents_of, fit, load_model, train_rows
from train.lm.network import Settings, TokenModel, attention_bias, meanings_of, padded, sample
from train.lm.words import Kind, Pair, PairVocabulary, pair_of

TINY = Settings(hidden=32, layers=1, heads=2, inner=64, batch=256, rate=1e-2, tokens=25_000)
WORDS = PairVocabulary(("A", "B", "C", "D"), 8, anchors=6, radii=3)


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
    """Codes that say their symbol and one bit more; the symbols are uniform, and anchors say the code of their slot."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        symbols = random.integers(0, 4, 20)
        codes = 2 * symbols + random.integers(0, 2, 20)
        anchors = np.full(20, -1)
        anchors[::4] = codes[::4] // 2
        found.append(Pair(["ABCD"[i] for i in symbols], codes, anchors, 1))
    return found


def learn(form):
    documents = documents_of(planted(600, 0), WORDS, TINY, form)
    model = TokenModel(WORDS, TINY, {})
    model.start(documents)
    return fit(batches(documents, TINY.steps), model, TINY)


@pytest.fixture(scope="module")
def learned():
    return {form: learn(form) for form in ("none", "inline", "first")}


def test_crops_are_whole_stretches_of_chains(data):
    crops = chain_crops(data, 0, 4000, seed=1)
    for crop in crops:
        name, start = crop.name.split(":")
        a = data.offsets[int(name[1:])] + int(start)
        np.testing.assert_array_equal(crop.coords, data.coords[a : a + len(crop)])
        assert crop.sequence == bytes(data.sequence[a : a + len(crop)].tolist()).decode()
        assert not data.break_before[a + 1 : a + len(crop)].any() and np.isfinite(crop.coords).all()
        assert 50 < len(crop) <= 200 and data.split[int(name[1:])] == 0
    assert {len(c) for c in crops} >= {200}
    total = np.cumsum([len(c) for c in crops])
    assert total[-2] < 4000 <= total[-1]


def test_crops_take_clusters_in_turn_and_do_not_depend_on_the_budget(data):
    crops = chain_crops(data, 0, 4000, seed=1)
    first = [int(c.name[1:].split(":")[0]) // 2 for c in crops[:8]]
    assert len(set(first)) == 8
    less = chain_crops(data, 0, 1500, seed=1)
    assert [c.name for c in less] == [c.name for c in crops[: len(less)]]
    assert [c.name for c in chain_crops(data, 0, 1500, seed=2)] != [c.name for c in less]
    assert len(chain_crops(data, 1, 0, seed=0)) == 2  # one for each validation cluster


PAIR = Pair(["B", "?", "D"], np.array([7, 3, 0]), np.array([5, -1, 2]), 1)
CODE, ANCHOR, RADIUS = (WORDS.block(kind).start for kind in (Kind.CODE, Kind.ANCHOR, Kind.RADIUS))


def test_documents_have_anchors_where_the_text_has_them():
    bare = WORDS.document(PAIR)
    assert bare.ids.tolist() == [2, CODE + 7, CODE + 3, CODE] and bare.positions.tolist() == [0, 1, 2, 3]
    given = WORDS.document(PAIR, given=True)
    assert given.ids.tolist() == [1, 6, 4, 8, 3, *bare.ids]
    assert given.positions.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert given.kinds.tolist() == [-1, 0, 0, 0, 0, -1, 1, 1, 1]
    inline = WORDS.document(PAIR, "inline")
    assert inline.ids.tolist() == [2, RADIUS + 1, ANCHOR + 5, CODE + 7, CODE + 3, ANCHOR + 2, CODE]
    assert inline.positions.tolist() == [0, 0, 1, 1, 2, 3, 3] and inline.ahead.tolist() == [0, 1, 1, 2, 3, 3, 4]
    first = WORDS.document(PAIR, "first")
    assert first.ids.tolist() == [2, RADIUS + 1, ANCHOR + 5, ANCHOR + 2, CODE + 7, CODE + 3, CODE]
    assert first.positions.tolist() == [0, 0, 1, 3, 1, 2, 3]
    assert len(WORDS) == RADIUS + 3


def test_records_come_back_from_ids():
    tokens = Tokens(np.arange(6), sequence="AAAAAA", anchors=[4, -1, 5], spacing=2, radius=2)
    for form in ("inline", "first"):
        document = WORDS.document(pair_of(tokens), form, given=True)
        assert WORDS.tokens(tokens, document, document.ids) == tokens
        other = WORDS.tokens(tokens, document, np.where(document.ids == ANCHOR + 5, ANCHOR, document.ids))
        assert other.anchors.tolist() == [4, -1, 0] and other.codes.tolist() == tokens.codes.tolist()
    bare = WORDS.tokens(tokens, document := WORDS.document(pair_of(tokens)), document.ids)
    assert bare.anchors is None and bare.codes.tolist() == tokens.codes.tolist()


def test_streams_of_tokens():
    protein = pair_of(Tokens(np.array([4, 5]), sequence="AX"))
    assert protein.symbols == ["A", "X"] and protein.codes.tolist() == [4, 5] and protein.anchors is None
    molecule = pair_of(Tokens(np.array([9, 8, 7]), "molecule", selfies="[C][Branch1][C][O][N]"))
    assert molecule.symbols == ["[C]", "[Branch1]", "[C]", "[O]", "[N]"]
    assert molecule.codes.tolist() == [9, -1, -1, 8, 7]
    document = WORDS.document(molecule, given=True)
    assert document.positions[document.kinds == Kind.CODE].tolist() == [1, 4, 5]


def test_batches_hold_each_document_once_in_as_many_steps():
    documents = [WORDS.document(p) for p in planted(3, 0)] * 100
    documents += [WORDS.document(Pair(["A"] * n, np.zeros(n, dtype=int))) for n in range(2, 120)]
    made = batches(documents, 25)
    assert sorted(map(id, documents)) == sorted(id(d) for part in made for d in part)
    sizes = [sum(map(len, part)) for part in made]
    assert len(made) == 25 and max(sizes) - min(sizes) < 240
    assert all(max(map(len, part)) - min(map(len, part)) < 40 for part in made)


def test_every_form_has_the_same_tokens_and_parameters(learned):
    totals = {f: sum(map(len, documents_of(planted(600, 0), WORDS, TINY, f))) for f in learned}
    assert max(totals.values()) - min(totals.values()) < 60
    assert len({sum(p.numel() for p in m.parameters()) for m in learned.values()}) == 1


def test_codes_see_the_string_and_only_what_comes_before():
    model = TokenModel(WORDS, TINY, {}).eval()
    pair = planted(1, 5)[0]
    document = WORDS.document(pair, "inline", given=True)
    changed = Pair(["A" if s != "A" else "B" for s in pair.symbols], pair.codes, pair.anchors, pair.radius)
    loss, other = (model([d])[0] for d in (document, WORDS.document(changed, "inline", given=True)))
    assert (loss - other)[0, 22:].abs().min() > 1e-7
    later = document.ids.copy()
    later[30] = WORDS.block(Kind.CODE).start + (later[30] - WORDS.block(Kind.CODE).start + 1) % 8
    again = model([type(document)(later, document.positions, document.kinds)])[0]
    torch.testing.assert_close(again[0, :29], loss[0, :29])


def test_attention_prefers_the_residue_that_comes_next():
    document = WORDS.document(Pair(["A", "B", "C"], np.array([1, 2, 3])), given=True)
    _, positions, ahead, _ = padded([document])
    bias = attention_bias(positions, ahead, 2)[0]
    assert bias.shape == (2, 9, 9) and (bias.isinf() == torch.ones(9, 9, dtype=torch.bool).triu(1)).all()
    # the code of residue 1 (token 6) comes before that of residue 2, whose symbol is token 2
    assert bias[0, 6].argmax() == 2 and bias[0, 6, 2] == 0
    assert bias[0, 6, 1] == -2 and bias[1, 6, 1] == -0.5 and bias[0, 6, 6] == -2
    torch.testing.assert_close(attention_bias(positions, ahead[:, -3:], 2)[0], bias[:, 6:])


def test_what_tokens_stand_for_makes_near_ones_alike():
    meanings = meanings_of(structok.load("chain-vq-64"))
    words = PairVocabulary(("A",), 64)
    model = TokenModel(words, TINY, meanings)
    for kind, count in ((Kind.CODE, 64), (Kind.ANCHOR, 4096)):
        start, vectors = words.block(kind).start, meanings[kind]
        rows = model.embed(torch.arange(start, start + count)[None])[0].detach()
        near = torch.cdist(vectors, vectors)[0].argsort()
        alike = torch.nn.functional.cosine_similarity(rows[:1], rows)
        assert alike[near[1]] > 0.2 and alike[near[1]] > alike[near[count // 2 :]].mean() + 0.2
        hidden = torch.randn(3, TINY.hidden)
        torch.testing.assert_close(model.logits(hidden, kind), hidden @ rows.T + model.bias[words.block(kind)])


def test_they_learn_what_is_there_and_no_more(learned):
    found = predict(scores([learned["none"]] * 2, planted(100, 1), "none"))
    assert 2.9 < found["codes"]["bits"]["mean"] < 3.3
    assert 0.9 < found["codes given symbols"]["bits"]["mean"] < 1.6
    assert 1.9 < found["symbols"]["bits"]["mean"] < 2.3
    assert 0.35 < found["codes given symbols"]["accuracy"] < 0.65
    assert found["codes"]["tokens"] == 2000 and found["codes"]["bits"]["seeds"][0] == found["codes"]["bits"]["seeds"][1]
    assert found["structure"] == found["codes"] and "anchors" not in found


def test_bits_of_anchors_are_counted_by_residue(learned):
    paid = {form: scores([model], planted(60, 1), form) for form, model in learned.items()}
    for form in ("inline", "first"):
        found = predict(paid[form])
        assert found["anchors"]["tokens"] == 60 * 6  # five anchors and the radius, that is always the same
        total = found["codes"]["per_unit"]["mean"] + found["anchors"]["per_unit"]["mean"]
        assert found["structure"]["per_unit"]["mean"] == pytest.approx(total, abs=1e-3)
        more = beside(paid[form], paid["none"])
        bare = predict(paid["none"])["structure"]["per_unit"]["mean"]
        assert more["structure"]["mean"] == pytest.approx(total - bare, abs=1e-3)
        assert more["structure"]["low"] < more["structure"]["mean"] < more["structure"]["high"]
        assert "anchors" not in more
    # a code whose anchor stands before it costs one bit, not three
    assert beside(paid["inline"], paid["none"])["codes"]["high"] < 0


def test_training_is_repeatable():
    losses = []
    for _ in range(2):
        seen = []
        small = Settings(**{**vars(TINY), "tokens": 2000})
        plan = batches(documents_of(planted(40, 0), WORDS, small, "first"), small.steps)
        fit(plan, TokenModel(WORDS, small, {}), small, lambda step, steps, bits, seen=seen: seen.append(bits))
        losses.append(seen)
    assert losses[0] == losses[1] and losses[0][-1] < losses[0][0]


@pytest.mark.parametrize("form", ["inline", "first"])
def test_sampling_with_a_cache_equals_sampling_without(learned, form):
    model = learned[form]
    documents = [WORDS.document(p, form, given) for p, given in zip(planted(3, 7), (True, False, True))]
    fixed = [np.isin(d.kinds, (-1, Kind.SYMBOL)) for d in documents]
    made = sample(model, documents, fixed, seed=4)
    for ids, document, keep in zip(made, documents, fixed):
        assert (ids[keep] == document.ids[keep]).all() and len(ids) == len(document)
        for kind in Kind:
            own = ids[document.kinds == kind]
            assert ((own >= WORDS.block(kind).start) & (own < WORDS.block(kind).stop)).all()
    # the first token that differs in the order of drawing is that of the first step
    generator = torch.Generator().manual_seed(4)
    ids, positions, ahead, kinds = padded(documents)
    keep = torch.from_numpy(np.stack([np.pad(f, (0, ids.shape[1] - len(f)), constant_values=True) for f in fixed]))
    for t in range(1, ids.shape[1]):
        with torch.no_grad():
            hidden = model.hidden(ids[:, :t], positions[:, :t], ahead[:, :t])[:, -1]
        for kind in Kind:
            at = (kinds[:, t] == kind) & ~keep[:, t]
            if at.any():
                chance = model.logits(hidden[at], kind).softmax(-1)
                ids[at, t] = torch.multinomial(chance, 1, generator=generator)[:, 0] + WORDS.block(kind).start
    assert all((row[: len(m)].numpy() == m).all() for row, m in zip(ids, made))


def test_samples_follow_what_they_know(learned):
    pairs = planted(8, 9)
    documents = [WORDS.document(p, given=True) for p in pairs]
    drawn = learned["none"].draws(documents, seed=0)
    right = []
    for pair, document, ids in zip(pairs, documents, drawn):
        codes = ids[document.kinds == Kind.CODE] - CODE
        right += ["ABCD"[c // 2] == s for c, s in zip(codes, pair.symbols)]
        assert (ids[document.kinds == -1] == document.ids[document.kinds == -1]).all()
    assert np.mean(right) > 0.8


def test_some_tokens_give_way_to_samples():
    document = WORDS.document(planted(1, 0)[0], "inline")
    drawn = document.ids + 100
    none = tolerance.replaced(document, drawn, [Kind.CODE], 0.0, 1)
    assert (none == document.ids).all()
    codes = tolerance.replaced(document, drawn, [Kind.CODE], 1.0, 1)
    assert ((codes >= 100) == (document.kinds == Kind.CODE)).all()
    half = tolerance.replaced(document, drawn, [Kind.CODE], 0.5, 1)
    assert 0 < (half >= 100).sum() < 20
    # the same codes give way in every form
    first = WORDS.document(planted(1, 0)[0], "first")
    other = tolerance.replaced(first, first.ids + 100, [Kind.CODE, Kind.ANCHOR], 0.5, 1)
    assert ((other >= 100)[first.kinds == Kind.CODE] == (half >= 100)[document.kinds == Kind.CODE]).all()


def test_unigrams_and_intervals():
    assert unigram_bits(np.array([0, 1, 2, 3]), [9, 9, 9, 9]) == 2.0
    assert unigram_bits(np.array([0, 0]), [6, 0]) == round(-np.log2(7 / 8), 4)
    narrow = figure(np.full((1, 50), 30.0), np.full(50, 10.0))
    assert narrow == {"mean": 3.0, "low": 3.0, "high": 3.0}
    wide = figure(np.arange(50.0)[None], np.full(50, 10.0))
    assert wide["low"] < wide["mean"] == 2.45 < wide["high"]
    seeds = figure(np.array([[1.0] * 9, [2.0] * 9, [3.0] * 9]))
    assert seeds == {"mean": 2.0, "low": 1.0, "high": 3.0, "seeds": [1.0, 2.0, 3.0]}
    # what counts only under one seed
    some = figure(np.array([[4.0, 0.0], [2.0, 6.0]]), np.array([[1.0, 0.0], [1.0, 1.0]]))
    assert some["mean"] == 4 and some["seeds"] == [4, 4]


def test_figures_of_real_and_broken_chains(chain):
    whole = chain_figures([[chain]])
    assert whole["breaks"]["mean"] == 0 and whole["residues_clashing"]["mean"] == 0
    assert whole["ca_distance_3.6_to_4.0"]["mean"] > 0.98 and 0.8 < whole["compactness"]["mean"] < 1.6
    assert whole["helix"]["mean"] > 0.3 and whole["without_clash"]["mean"] == 1
    wide = structok.Backbone(2 * chain.coords, chain.sequence)
    both = chain_figures([[chain], [wide]])
    assert both["breaks"]["mean"] == 0.5 and both["breaks"]["seeds"] == [0, 1]
    folded = structok.Backbone(np.concatenate([chain.coords] * 2), chain.sequence * 2)
    assert chain_figures([[folded]])["residues_clashing"]["mean"] == 1
    assert set(distances([chain], [chain]).values()) == {0.0}
    assert distances([wide], [chain])["bond C-N"] == 1.0 and distances([wide], [chain])["phi, psi"] < 0.01


def test_rows_are_named():
    assert Row.parse("chain-vq-64:open") == Row("chain-vq-64", False)
    assert Row.parse("chain-vq-64").options == {} and Row.parse("chain-vq-64").name == "chain-vq-64"
    assert Row.parse("runs/mine:closed:0.5").name == "mine-closed-0.5"
    row = Row.parse("chain-vq-64:closed:0:0.01")
    assert row.options == {"closed_loop": True, "latent_weight": 0, "rate_weight": 0.01}
    for bad in ("chain-vq-64:", "chain-vq-64:open:1", "chain-vq-64:closed:x", "chain-vq-64:closed:1:2:3"):
        if bad != "chain-vq-64:":
            with pytest.raises(InputError, match=bad):
                Row.parse(bad)
    assert chosen("none, first", ["none", "inline", "first"]) == ["none", "first"]
    with pytest.raises(InputError, match="behind"):
        chosen("behind", ["none"])


def test_results_are_replaced_row_by_row(tmp_path):
    for name, value in (("a", 1), ("b", 2), ("a", 3)):
        update(tmp_path / "r" / "x.json", name, {"v": value})
    assert json.loads((tmp_path / "r" / "x.json").read_text()) == {"a": {"v": 3}, "b": {"v": 2}}


def test_rows_end_to_end(data, tmp_path, monkeypatch):
    pytest.importorskip("tmtools")
    monkeypatch.setattr("eval.lm.generation.KNOWN", 2)
    (tmp_path / "protein").mkdir()
    xyz = np.where(np.isfinite(data.coords), 100 * data.coords, np.iinfo(np.int16).min).round().astype(np.int16)
    np.savez(
        tmp_path / "protein" / "train.npz", xyz=xyz, offsets=data.offsets, break_before=data.break_before,
        cluster40=data.cluster, split=data.split, seq=data.sequence, name=np.array(data.names),
    )  # fmt: skip
    options = {"rows": ["chain-vq-64"], "data": tmp_path, "runs": tmp_path / "runs", "anchors": "none,inline"}
    options |= {
        "seeds": 2,
        "tokens": 2500,
        "residues": 800,
        "crops": 2,
        "out": tmp_path,
        "measures": "learnability,generation,tolerance",
    }
    main(**options)
    files = [tmp_path / f"{name}.json" for name in ("learnability", "tolerance", "generation")]
    written = [file.stat().st_mtime_ns for file in (*files, *(tmp_path / "runs").rglob("*"))]
    main(**options)  # all of it is there
    assert [file.stat().st_mtime_ns for file in (*files, *(tmp_path / "runs").rglob("*"))] == written
    learned, tolerated, made = (json.loads(file.read_text()) for file in files)
    assert all(list(found) == ["chain-vq-64-none", "chain-vq-64-inline"] for found in (learned, tolerated, made))
    for row in learned.values():
        assert row["validation"]["crops"] == 2 and row["seeds"] == 2 and row["training"]["tokens"] >= 2500
        assert row["prediction"]["codes"]["tokens"] == row["validation"]["residues"]
        assert row["prediction"]["codes"]["bits"]["mean"] > 0 and 5 < row["unigram_bits"] < 7
    text = table(learned)
    assert "| `chain-vq-64` | closed loop, beam 64 | inline |" in text and "seeds: 2" in text
    assert f"{row['prediction']['structure']['per_unit']['mean']:.2f}" in text

    assert list(tolerated["chain-vq-64-none"]["codes"]) == ["0.01", "0.05", "0.2", "1"]
    assert len(tolerated["chain-vq-64-inline"]["codes and anchors"]["1"]["rmsd"]["seeds"]) == 2
    text = tolerance_table(tolerated)
    assert "100 % of them" in text and "| `chain-vq-64` | inline | codes and anchors |" in text

    found = made["chain-vq-64-inline"]["given the sequence"]
    assert found["finite"]["mean"] == 1 and len(found["distance to real"]["phi, psi"]["seeds"]) == 2
    assert len(found["among themselves, TM"]["seeds"]) == 2 and "| real chains |" in generation_table(made)

    # language models of another budget do not pass for those that are asked for
    train_rows(Row("chain-vq-64"), ["none"], [0], tmp_path, tmp_path / "runs", Settings(tokens=300, residues=800))
    assert 300 <= load_model(tmp_path / "runs" / "chain-vq-64-none-0")[1]["tokens"] < 600


def test_molecules_are_sampled_and_judged(example, monkeypatch):
    tokenizer = structok.load("molstructok")
    tokens = tokenizer.encode(example.parent / "ligand.sdf")
    pairs = [pair_of(tokens)]
    symbols = tuple(sorted({s for p in pairs for s in p.symbols}))
    words = PairVocabulary(symbols, tokenizer.codebook_size, anchors=0, radii=0)
    small = Settings(**{**vars(TINY), "tokens": 3000, "given": 1.0})
    documents = documents_of(pairs, words, small, "none")
    model = TokenModel(words, small, {})
    model.start(documents)
    fit(batches(documents, small.steps), model, small)
    assert len(sample_molecules(model, tokenizer, 6, seed=0)) == 6
    mol = tokenizer.decode(tokens)
    assert (strain(mol) or 0) >= 0
    samples = iter([[mol, None, mol, mol], [None, mol, None, None]])
    monkeypatch.setattr("eval.lm.molecules.sample_molecules", lambda *_: next(samples))
    monkeypatch.setattr("eval.lm.molecules.known_molecules", lambda _: set())
    found = molecule_figures([model] * 2, Held(tokenizer, [mol] * 2, [tokens] * 2, ""), example)
    assert (
        found["valid"]["seeds"] == [0.75, 0.25]
        and found["unique"]["seeds"] == [0.3333, 1]
        and found["new"]["mean"] == 1
    )
    assert found["sampled molecules"]["clashing"]["mean"] in (0, 1) and found["sampled molecules"]["bonds"]["mean"] == 0
    row = {"model": "molstructok", "assignment": "", "codebook_size": 512, "anchors": "none", "unit": "molecule"}
    budget = {"seeds": 2, "training": {"parameters": 1, "steps": 2, "tokens": 3}}
    assert "| `molstructok` | 50.0 ± " in molecule_table({"a": row | budget | found})
