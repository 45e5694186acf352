"""Counting molecule tokens, and the command that writes vocabularies."""

import json
from collections import Counter

import numpy as np
import pytest

from structok import Tokens
from structok.errors import InputError
from structok.lm import MoleculeCounts, Vocabulary, covering
from tests.lm.test_vocabulary import molecule


def test_counts_are_those_of_the_text(biomatrix, random_molecules):
    molecules = random_molecules(biomatrix, 50)
    counts = MoleculeCounts().update(iter(molecules))
    text = "".join(m.to_text(wrap=False) for m in molecules)
    assert counts.joint == Counter(f"[{t}]" for t in text[1:-1].split("]["))
    assert counts.selfies == Counter(f"[{t}]" for m in molecules for t in m.selfies[1:-1].split("]["))
    assert counts.molecules == 50
    with pytest.raises(InputError, match="protein tokens"):
        counts.add(Tokens(np.array([1])))


def test_fragments_and_plain_selfies():
    counts = MoleculeCounts()
    counts.add_selfies("[C][Branch1].[C]")
    assert counts.selfies == {"[C]": 2, "[Branch1]": 1} and not counts.joint


def test_covering_is_the_shortest_list_whatever_the_order():
    counts = Counter({"[b]": 5, "[a]": 5, "[c]": 89, "[d]": 1})
    assert covering(counts, 0.89) == ["[c]"]
    assert covering(counts, 0.9) == ["[c]", "[a]"]
    assert covering(counts, 0.99) == ["[c]", "[a]", "[b]"]
    assert (
        covering(counts, 1.0) == covering(Counter(dict(reversed(counts.items()))), 1.0) == ["[c]", "[a]", "[b]", "[d]"]
    )
    assert covering(Counter(), 0.99) == []
    for share in (0, 1.1, float("nan")):
        with pytest.raises(InputError, match="coverage"):
            covering(counts, share)


@pytest.fixture
def run(run, monkeypatch, tmp_path):
    """The shared one in a folder of its own, for a command that says nothing on stdout: status and err."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        status, out, err = run(*arguments)
        assert out == ""
        return status, err

    return call


def test_vocab_writes_a_preset_and_nothing_twice(run, tmp_path, scimind):
    status, err = run("vocab", "--preset", "scimind", "-o", "new/folder")
    assert status == 0 and f"{len(scimind)} tokens" in err
    assert Vocabulary.load("new/folder").tokens == scimind.tokens
    assert (tmp_path / "new/folder/tokens.txt").read_text().splitlines() == scimind.tokens
    status, err = run("vocab", "--preset", "biomatrix", "-o", "new/folder")
    assert status == 2 and "--force" in err
    assert Vocabulary.load("new/folder").tokens == scimind.tokens
    assert run("vocab", "--preset", "biomatrix", "-o", "new/folder", "--force")[0] == 0
    assert Vocabulary.load("new/folder") == Vocabulary.preset("biomatrix")
    assert run("vocab", "--preset", "esm3", "-o", "other")[0] == 2


def test_vocab_counts_a_token_file_and_skips_what_is_broken(run, tmp_path):
    good = [molecule("[C][O]", 1, 2), molecule("[C][N]", 1, 3)]
    lines = [json.dumps(t.to_dict()) for t in (*good, Tokens(np.array([1]), id="protein"))]
    (tmp_path / "tokens.jsonl").write_text("\n".join([*lines, '{"codes": [1', ""]))
    status, err = run("vocab", "--preset", "biomatrix", "--molecules", "tokens.jsonl", "--coverage", 1, "-o", "mine")
    assert status == 1 and "2 done, 2 failed" in err and "line 4" in err and "protein" in err
    mine = Vocabulary.load("mine")
    assert mine.groups["molecule"] == ("[C 1]", "[N 3]", "[O 2]")
    assert mine.groups["selfies"] == ("[C]", "[N]", "[O]")
    assert (mine.about["molecules"], mine.about["joint_coverage"]) == (2, 1.0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--molecules", "gone.jsonl"), "gone.jsonl: no such file"),
        (("--molecules", "proteins.jsonl"), "proteins.jsonl: no molecule tokens"),
        (("--molecules", "molecules.jsonl", "--coverage", "0"), "coverage 0"),
    ],
)
def test_vocab_says_what_is_wrong(run, tmp_path, options, says):
    (tmp_path / "proteins.jsonl").write_text(json.dumps(Tokens(np.array([1]), id="p").to_dict()) + "\n")
    (tmp_path / "molecules.jsonl").write_text(json.dumps(molecule("[C]", 1).to_dict()) + "\n")
    status, err = run("vocab", "--preset", "biomatrix", "-o", "folder", *options)
    assert status == 1 and says in err
    assert not (tmp_path / "folder").exists()
