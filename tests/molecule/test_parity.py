"""The released weights, converted, give what the published implementation gives."""

import numpy as np
import pytest
import torch

import structok
from structok.errors import CheckpointError
from structok.molecule.conformer import prepare
from structok.molecule.convert import convert
from structok.molecule.metrics import compare_molecules
from structok.molecule.spherical import describe, reference_atoms

Chem = pytest.importorskip("rdkit.Chem")


def mols_of(expected):
    return [Chem.MolFromMolBlock(e["molblock"], removeHs=False) for e in expected]


def test_descriptors(expected):
    for e, mol in zip(expected, mols_of(expected)):
        conformer = prepare(mol)
        bonds = np.array([(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in conformer.mol.GetBonds()])
        refs = torch.from_numpy(reference_atoms(bonds, len(conformer)))
        g = describe(torch.from_numpy(conformer.coords)[None], refs[None])[0]
        np.testing.assert_allclose(g, e["descriptors"], atol=1e-5)


def test_tokens_and_coordinates(official, expected):
    tokens = official.encode_batch(mols_of(expected), batch_size=7)
    for e, t, back in zip(expected, tokens, official.decode_batch(tokens)):
        assert t.atom_order.tolist() == e["atom_order"]
        assert t.codes.tolist() == e["codes"]
        assert t.to_text(wrap=e["text"].startswith("<|")) == e["text"]
        np.testing.assert_allclose(back.GetConformer().GetPositions(), e["decoded_coords"], atol=1e-3)


def test_rmsd_is_the_published_one(official, expected):
    for e, mol in zip(expected, mols_of(expected)):
        tokens = official.encode(mol)
        assert compare_molecules(mol, official.decode(tokens), tokens)["rmsd"] == pytest.approx(e["rmsd"], abs=2e-4)


def test_closed_loop_is_closer_with_the_same_decoder(official, expected):
    mols = mols_of(expected)
    errors = {}
    for closed in (False, True):
        tokens = official.encode_batch(mols, closed_loop=closed, beam=4)
        errors[closed] = [
            compare_molecules(m, b, t)["rmsd"] for m, b, t in zip(mols, official.decode_batch(tokens), tokens)
        ]
    assert np.mean(errors[True]) < 0.5 * np.mean(errors[False])
    assert max(errors[True]) < 0.3


def test_converted_folder_loads(official, expected, tmp_path):
    official.save(tmp_path / "copy")
    loaded = structok.load(tmp_path / "copy")
    mol = mols_of(expected)[0]
    assert loaded.encode(mol).codes.tolist() == expected[0]["codes"]
    assert not loaded.config.closed_loop


def test_converting_something_else(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(CheckpointError, match="safetensors"):
        convert(tmp_path / "absent.safetensors", tmp_path / "out")
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="unknown tensor 'weight'"):
        convert(tmp_path / "other.safetensors", tmp_path / "out")
    assert not (tmp_path / "out").exists()
