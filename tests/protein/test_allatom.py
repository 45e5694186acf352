"""Proteins and nucleic acids with all atoms, from files to tokens and back."""

import json

import numpy as np
import pytest
from biotite.structure import get_residue_count
from biotite.structure.io import load_structure

import structok
from structok.errors import CheckpointError, InputError, TokensError
from structok.protein.allatom import AtomChain
from structok.protein.sidechain_metrics import compare_atoms

NAME = "chain-vq-4096+sidechain-4096"


@pytest.fixture(scope="module")
def model():
    return structok.load(NAME)


@pytest.fixture(scope="module")
def atoms(example):
    [backbone] = structok.read_structure(example, atoms="all")
    return AtomChain.of(backbone.entity)


def test_a_path_a_chain_and_its_entity_give_the_same_tokens(model, example, atoms):
    tokens = model.encode(atoms)
    assert model.encode(example) == tokens
    [backbone] = structok.read_structure(example, atoms="all")
    assert model.encode(backbone) == tokens
    assert {"codes", "sidechains"} <= {s.name for s in model.streams} and tokens.model == NAME
    back = model.decode(tokens)
    assert compare_atoms(back.atoms, atoms.atoms, atoms.sequence).rmsd < 0.25
    assert structok.metrics.rmsd(back, structok.load("chain-vq-4096").decode(model.backbone.encode(atoms))) < 1e-3


def test_text_brings_both_streams_back(model, atoms):
    tokens = model.encode(atoms)
    text = tokens.to_text()
    assert text.count("<S ") == text.count("<C ") == len(tokens)
    assert np.array_equal(structok.Tokens.from_text(text).sidechains, tokens.sidechains)


def test_the_command_line_codes_and_rebuilds_all_atoms(run, example, atoms, tmp_path):
    tokens, back = tmp_path / "t.jsonl", tmp_path / "back.cif"
    assert run("quantize", example, "--all-atom", "-o", tokens).status == 0
    assert json.loads(tokens.read_text())["model"] == NAME
    assert run("decode", tokens, "-o", back).status == 0
    array = load_structure(back)
    assert len(array) == np.isfinite(atoms.atoms).all(-1).sum() and get_residue_count(array) == len(atoms)
    assert {"NZ", "CD1", "OH"} <= set(array.atom_name)
    done = run("evaluate", example, "-m", NAME, "--json")
    row = json.loads(done.out)["structures"][0]
    assert row["rmsd_all"] < 0.25 and row["bits_per_token"] == 24 and row["uncoded"] == 0


def test_dna_and_protein_of_one_file_come_back_in_one(run, shared, tmp_path):
    tokens, back = tmp_path / "t.jsonl", tmp_path / "back"
    source = shared / "data/nucleic/raw/1d66.pdb"
    assert run("quantize", source, "--all-atom", "-o", tokens).status == 0
    kinds = [json.loads(line)["modality"] for line in tokens.read_text().splitlines()]
    assert kinds.count("nucleic") == 2 and kinds.count("protein") == 2
    assert run("decode", tokens, "-o", back, "-f", "cif").status == 0
    array = load_structure(back / "1d66.cif")
    assert {"DA", "DC", "DG", "DT", "LYS"} <= set(array.res_name)
    only = run("quantize", source, "-m", "nucleic-vq-4096")
    assert [json.loads(line)["modality"] for line in only.out.splitlines()] == ["nucleic"] * 2


def test_modified_nucleotides_and_missing_ones_are_said(run, shared):
    done = run("quantize", shared / "data/nucleic/raw/1ehz.cif", "--all-atom")
    record = json.loads(done.out)
    assert len(record["codes"]) == 76 and "heavy atoms that the residue's parent lacks" in done.err
    assert record["conformers"].count(-1) == 2 and "2 residues with missing or odd atoms" in done.err  # pseudouridines
    gaps = json.loads(run("quantize", shared / "data/nucleic/raw/4qln.cif.gz", "--all-atom").out.splitlines()[0])
    assert gaps["modality"] == "nucleic"


def test_wrong_use_is_said_in_one_line(model, chain, chain_vq, atoms):
    with pytest.raises(InputError, match="all atoms"):
        model.encode(chain)
    with pytest.raises(CheckpointError, match="side chains"):
        structok.load("sidechain-256+chain-vq-64")
    with pytest.raises(CheckpointError, match="two checkpoints"):
        model.save("nowhere")
    tokens = chain_vq.encode(chain)
    with pytest.raises(TokensError, match="made by"):
        model.decode(tokens)
    with pytest.raises(TokensError, match="no side-chain codes"):
        model.decode(structok.Tokens(tokens.codes, sequence=tokens.sequence))
