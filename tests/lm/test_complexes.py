"""Corpus texts with anchors in three places, and of whole complexes: the parser reads them back where they lie."""

import json
from dataclasses import replace

import numpy as np
import pytest
from rdkit import Chem

import structok
from structok.complex import Complex
from structok.errors import InputError
from structok.files import TokenWriter
from structok.frame import decode_complex, encode_complex
from structok.lm import Vocabulary
from structok.lm.composing import Composer
from structok.structure import Backbone


@pytest.fixture(scope="module")
def words():
    return Vocabulary.preset("structok")


@pytest.fixture(scope="module")
def entities(example):
    """A chain, its shifted copy and a ligand beside them, in one frame."""
    [chain] = structok.read_structure(example)
    ligand = next(iter(Chem.SDMolSupplier(str(example.parent / "ligand.sdf"), removeHs=False)))
    ligand.GetConformer().SetPositions(ligand.GetConformer().GetPositions() + np.nanmean(chain.coords[:, 1], 0) + 12)
    other = Backbone(chain.coords + 25, chain.sequence, "B", name=chain.name)
    return encode_complex(Complex([chain, other], [ligand], "two"))


def same(found, tokens):
    told = [t.anchors[t.anchors >= 0].tolist() for t in (found, tokens)]
    return found.codes.tolist() == tokens.codes.tolist() and told[0] == told[1] and found.radius == tokens.radius


def test_anchors_stand_where_they_are_asked_for(words, entities):
    texts = {}
    for where in ("none", "inline", "first"):
        for tokens in entities:
            made = {i.view: i.text for i in Composer(words, anchors=where).instances(tokens)}
            texts[where, tokens.chain] = made["structure"]
            found = words.parse(made["structure"], spacing=6)
            assert found.ok and made["structure"] in made["both"]
            [back] = found.structures
            if where == "none":
                assert back.anchors is None and back.codes.tolist() == tokens.codes.tolist()
            else:
                assert same(back, tokens)
    inline, first = texts["inline", "A"], texts["first", "A"]
    assert inline.index("<S") < inline.rindex("<X") and first.rindex("<X") < first.index("<S")
    assert sorted(inline.split("<")) == sorted(first.split("<"))
    assert Composer(words).instances(entities[0])[1].text == inline  # the default
    with pytest.raises(InputError, match="structok has"):
        Composer(Vocabulary.preset("biomatrix"), anchors="first")


@pytest.mark.parametrize("where", ["inline", "first"])
def test_complexes_come_back_in_their_places(words, entities, where):
    for seed in range(4):
        views = {i.view: i for i in Composer(words, seed=seed, anchors=where).complex(entities)}
        assert list(views) == ["complex", "docking"] and views["complex"].id == "two"
        for instance in views.values():
            found = words.parse(instance.text, frame="two", spacing=6)
            assert found.ok and len(found.structures) == 3 and len(found.items) == 6
            back = decode_complex(found.structures)
            for polymer, tokens in zip(back.polymers, entities):
                [truth] = decode_complex([tokens]).polymers
                np.testing.assert_allclose(polymer.coords, truth.coords, atol=1e-3)
            [truth] = decode_complex([entities[2]]).ligands
            np.testing.assert_allclose(
                back.ligands[0].GetConformer().GetPositions(), truth.GetConformer().GetPositions(), atol=1e-3
            )
        kinds = [t.modality for t in words.parse(views["docking"].text, spacing=6).structures]
        assert kinds == ["protein", "protein", "molecule"]


def test_the_first_entity_leads_and_the_others_come_in_any_order(words, entities):
    orders = set()
    for seed in range(12):
        text = Composer(words, seed=seed).complex(entities)[0].text
        found = words.parse(text, spacing=6).structures
        assert same(found[0], entities[0])
        orders.add(tuple(t.modality for t in found))
        assert text == Composer(words, seed=seed).complex(entities)[0].text
    assert orders == {("protein", "protein", "molecule"), ("protein", "molecule", "protein")}


def test_what_makes_no_complex(words, entities):
    assert Composer(words, anchors="none").complex(entities) == []
    assert Composer(Vocabulary.preset("biomatrix")).complex(entities) == []
    assert Composer(words).complex(entities[:1]) == []
    bare = [replace(t, anchors=None, spacing=0, radius=None) for t in entities]
    assert Composer(words).complex(bare) == []
    assert [i.view for i in Composer(words).complex(entities[:2])] == ["complex"]
    ligand, chain = entities[2], entities[0]
    assert [i.view for i in Composer(words).complex([ligand, chain])] == ["complex"]  # the ligand's own frame


def test_command(words, entities, tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    alone = replace(entities[0], frame="", id="alone")
    with open("t.jsonl", "wb") as file:
        writer = TokenWriter(file, "jsonl")
        for tokens in [alone, *entities, alone]:
            writer.write(tokens)
        writer.close()
    (tmp_path / "notes.csv").write_text(f"id,note\n{entities[0].id},Bound\n")
    done = run(
        "corpus", "t.jsonl", "-o", "c.jsonl", "--vocabulary", "structok", "--anchors", "first",
        "--annotations", "notes.csv", "--keep", "1",
    )  # fmt: skip
    assert done.status == 0
    rows = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    views = [row["view"] for row in rows]
    assert views == ["sequence", "structure", "both"] * 3 + ["string", "structure", "both", "complex", "docking"] + [
        "sequence", "structure", "both",
    ]  # fmt: skip
    assert all(row["text"].startswith("Note: Bound\n") for row in rows if row["view"] in ("complex", "docking"))
    assert all(words.parse(row["text"], spacing=6).ok for row in rows)
    stats = json.loads((tmp_path / "c.jsonl.stats.json").read_text())
    assert stats["records"]["complex"] == 1 and stats["views"]["docking"] == 1
    assert stats["settings"]["anchors"] == "first" and stats["tokens"]["anchors"] > 0
    everything = "\n".join(row["text"] for row in rows)
    assert stats["tokens"]["anchors"] == everything.count("<X ")
    assert run("corpus", "t.jsonl", "-o", "d.jsonl", "--anchors", "first").status == 1  # biomatrix has none
    assert run("corpus", "t.jsonl", "-o", "d.jsonl", "--anchors", "behind").status == 2
