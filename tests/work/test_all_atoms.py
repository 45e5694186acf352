"""`structok quantize --all-atom -o folder/`: shards with side chains of proteins and conformers of nucleotides."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

import structok
from structok.complex import Complex
from structok.files import read_tokens
from structok.nucleic.chain import NucleicChain
from structok.nucleic.metrics import compare_atoms
from structok.read.structures import structure


@pytest.fixture(scope="module")
def strands():
    """DNA and RNA of real conformers, one with a nucleotide that is missing."""
    model, random = structok.load("nucleic-vq-4096"), np.random.default_rng(5)
    found = []
    for sequence in ("GGCAUCGC", "gcatgcaatg", "ACGUAC"):
        codes, conformers = (random.integers(0, 3000, len(sequence)) for _ in range(2))
        tokens = structok.Tokens(codes, "nucleic", sequence=sequence, conformers=conformers)
        found.append(model.decode(tokens))
    found[2].atoms[2], found[2].mask[2] = np.nan, False
    return found


def test_shards_hold_conformers_and_decode_to_all_atoms(tmp_path, monkeypatch, run, inline, strands, example):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    files = [tmp_path / "in" / name for name in ("a.cif", "b.pdb", "c.cif")]
    for file, strand in zip(files, strands):
        Complex([strand], name=file.stem).write(file)
    shutil.copy(example, tmp_path / "in" / "d.cif.gz")
    status, _, err = run("quantize", "in", "--all-atom", "-o", "tokens/", "--shard-size", 2, "--workers", 1)
    assert status == 0 and "4 tokenized" in err and "2 shards" in err, err
    rows = list(read_tokens("tokens"))
    assert [t.modality for t in rows] == ["nucleic"] * 3 + ["protein"]
    assert rows[3].conformers is None and (rows[3].sidechains >= 0).any()
    model = structok.load("nucleic-vq-4096")
    for tokens, file in zip(rows, files):
        [polymer] = structure(file).nucleic
        assert tokens == replace(model.encode(NucleicChain.of(polymer)), id=tokens.id)
    assert rows[2].mask.tolist() == strands[2].mask.tolist() and rows[2].conformers[2] == -1
    assert run("decode", "tokens", "-o", "out/")[0] == 0
    for file, strand in zip(files[:2], strands):  # whole chains that the model made come back as they were
        [back] = structure(next((tmp_path / "out").glob(f"{file.stem}*"))).nucleic
        found = NucleicChain.of(back)
        assert found.sequence == strand.sequence
        assert compare_atoms(found.atoms, strand.atoms).rmsd < 0.02
