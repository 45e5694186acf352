"""The page on language models: its code runs on the shipped files, its numbers are those of the shipped list."""

import re
import shutil

import numpy as np

import structok
from structok import metrics
from structok.lm import Vocabulary
from tests.conftest import ROOT

PAGE = (ROOT / "structok" / "lm" / "README.md").read_text()


def test_the_thirty_lines_run(tmp_path, monkeypatch, make_tokenizer, make_model, capsys):
    [code] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 36
    monkeypatch.chdir(tmp_path)
    for name in ("1a8o.cif.gz", "ligand.sdf"):
        shutil.copy(ROOT / "structok" / "examples" / name, name)
    # a small random Qwen3 of that name, so that nothing is fetched
    tokenizer = make_tokenizer()
    base = tmp_path / "Qwen" / "Qwen3-0.6B-Base"
    tokenizer.save_pretrained(base)
    make_model(len(tokenizer)).save_pretrained(base)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["found"].ok, names["found"].problems
    assert np.array_equal(names["found"].structures[0].codes, names["protein"].codes)
    [back] = structok.read_structure("answer.pdb")
    [chain] = structok.read_structure("1a8o.cif.gz")
    assert metrics.rmsd(back, chain) < 0.2
    assert (tmp_path / "my-model" / "model.safetensors").exists()
    assert len(names["AutoTokenizer"].from_pretrained("my-model")) == len(names["tokenizer"])


def test_its_numbers_are_those_of_the_shipped_list(biomatrix, scimind):
    about = biomatrix.about
    text = " ".join(PAGE.split())
    for said in (
        f"**biomatrix** ({len(biomatrix):,} tokens)",
        f"**structok** ({len(Vocabulary.preset('structok')):,} tokens)",
        f"{len(biomatrix.groups['selfies']):,} SELFIES tokens",
        f"{len(biomatrix.groups['molecule']):,} joint molecule tokens",
        f"over {about['molecules']:,} molecules",
        f"{about['joint_occurrences']:,} occurrences, of {about['joint_seen']:,} different ones",
        f"**scimind** ({len(scimind):,} tokens)",
    ):
        assert said in text
    for check in about["checked"]:
        row = f"| {check['joint_coverage']:.2%} | {check['molecules_wholly_covered']:.1%} |".replace("%", " %")
        assert row in PAGE
