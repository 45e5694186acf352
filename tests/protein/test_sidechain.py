"""Side chains: accuracy on chains they never saw, chemistry kept, invariance, limits, bad input, golden codes."""

import gzip

import numpy as np
import pytest
import torch
from biotite.sequence import ProteinSequence
from biotite.structure.io import pdbx
from e3nn import o3
from hypothesis import given, settings
from hypothesis import strategies as st

import structok
from structok.errors import InputError, TokensError
from structok.protein.sidechain import CODED
from structok.protein.sidechain_atoms import ATOMS, BONDS, LETTERS
from structok.protein.sidechain_clash import clear_oxygens
from structok.protein.sidechain_metrics import chi_angles, clashes, compare_atoms
from train.polymer.data import load_proteins

MODELS = ["sidechain-4096", "sidechain-256"]
# codes of the first residues of the example; they change only with a retrained checkpoint
GOLDEN = {
    "sidechain-4096": [134, 3271, 203, 353, 264, -1, 1192, 455, 504, 159, 862, 1312],
    "sidechain-256": [80, 149, 85, 5, 30, -1, 207, 11, 28, 131, 15, 178],
}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return structok.load(request.param)


@pytest.fixture(scope="module")
def validation(shared, chain_vq):
    """Atoms, sequences and rebuilt backbones of chains of unseen clusters whose side chains can be trusted."""
    chains = load_proteins(shared / "data/protein/allatom.npz", 1)
    chains = [c for c in chains if len(c.sequence) < 300][:16]
    tokens = chain_vq.encode_batch([c.backbone for c in chains])
    backbones = [b.coords for b in chain_vq.decode_batch(tokens)]
    return [c.atoms for c in chains], [c.sequence for c in chains], backbones


@pytest.fixture(scope="module")
def example_atoms(example):
    """The example's atoms in atom14 order, its sequence (selenomethionine as methionine), its backbone rebuilt."""
    with gzip.open(example, "rt") as file:
        array = pdbx.get_structure(pdbx.CIFFile.read(file), model=1)
    residues = sorted(set(array.res_id[array.res_name != "HOH"].tolist()))
    atoms, sequence = np.full((len(residues), 14, 3), np.nan, dtype=np.float32), ""
    for i, number in enumerate(residues):
        part = array[array.res_id == number]
        name = {"MSE": "MET"}.get(part.res_name[0], part.res_name[0])
        letter = ProteinSequence.convert_letter_3to1(name)
        sequence += letter
        for atom, coord in zip(part.atom_name, part.coord):
            atom = "SD" if atom == "SE" else atom
            if atom in ATOMS[letter]:
                atoms[i, ATOMS[letter].index(atom)] = coord
    return atoms, sequence


def test_unseen_side_chains_come_back_within_the_promised_error(model, validation):
    atoms, sequences, backbones = validation
    back = model.decode_batch(model.encode_batch(*validation), sequences, backbones)
    compared = [compare_atoms(a, b, s) for a, b, s in zip(back, atoms, sequences)]
    assert np.mean([c.rmsd for c in compared]) <= {4096: 0.20, 256: 0.30}[model.codebook_size]
    assert all(c.rmsd_alike <= c.rmsd + 1e-9 for c in compared)
    chi = [np.concatenate([chi_angles(a, s) for a, s in zip(x, sequences)])[:, 0] for x in (back, atoms)]
    off = np.degrees(np.abs(np.angle(np.exp(1j * (chi[0] - chi[1])))))
    assert (off[np.isfinite(off)] <= 20).mean() >= {4096: 0.99, 256: 0.96}[model.codebook_size]
    clean = [not clashes(a, s) - clashes(b, s) for a, b, s in zip(back, atoms, sequences)]
    assert np.mean(clean) >= 0.98


@pytest.mark.parametrize("letter", CODED)
def test_every_conformer_has_the_bonds_and_the_handedness_of_its_type(model, ideal, letter):
    residue = ideal(letter)
    whole = np.full((model.codebook_size, 14, 3), np.nan)
    whole[:, :3] = [[-0.53, 1.36, 0.0], [0.0, 0.0, 0.0], [1.525, 0.0, 0.0]]
    whole[:, 4 : len(ATOMS[letter])] = model.conformers[letter].numpy()
    names = ATOMS[letter]
    for a, b in BONDS[letter][3:]:  # after those of the backbone
        i, j = names.index(a), names.index(b)
        length = np.linalg.norm(whole[:, i] - whole[:, j], axis=-1)
        wanted = np.linalg.norm(residue.coord[i] - residue.coord[j])
        assert np.abs(length - np.median(length)).max() < 0.15, (a, b)
        assert np.abs(np.median(length) - wanted) < 0.1, (a, b)  # the dictionary has protonated acids
    hands = {"CA": ("N", "C", "CB")}
    if letter in "IT":
        hands["CB"] = {"I": ("CA", "CG1", "CG2"), "T": ("CA", "OG1", "CG2")}[letter]
    for centre, others in hands.items():
        at = [names.index(x) for x in (centre, *others)]
        assert len(set(np.sign(_volume(whole[:, at])))) == 1
        assert np.sign(_volume(whole[:1, at])) == np.sign(_volume(residue.coord[None, at]))


def _volume(four):
    centre, a, b, c = np.moveaxis(four, 1, 0)
    return (np.cross(a - centre, b - centre) * (c - centre)).sum(-1)


def test_an_oxygen_turns_aside_from_what_it_would_run_into():
    random = np.random.default_rng(0)
    residue = [[-0.53, 1.36, 0.0], [0.0, 0.0, 0.0], [1.525, 0.0, 0.0]]
    for _ in range(20):
        atoms = np.full((3, 14, 3), np.nan, dtype=np.float32)
        atoms[0, :3], atoms[0, 3] = residue, [2.14, 1.066, 0.0]
        away = random.normal(size=3)
        atoms[2, 1] = atoms[0, 3] + away / np.linalg.norm(away) * random.uniform(0.8, 1.9)
        bare = atoms.copy()
        clear_oxygens(atoms)
        bond, angle = (np.linalg.norm(atoms[0, k] - atoms[0, 3]) for k in (2, 1))
        assert bond == pytest.approx(1.23, abs=0.01) and angle == pytest.approx(2.39, abs=0.01)
        assert np.linalg.norm(atoms[0, 3] - atoms[2, 1]) >= np.linalg.norm(bare[0, 3] - atoms[2, 1])
        bare[2] = np.nan
        kept = bare.copy()
        clear_oxygens(bare)
        assert np.array_equal(bare, kept, equal_nan=True)


@pytest.mark.parametrize("letter", CODED)
def test_conformers_come_back_from_their_own_atoms_under_their_own_names(model, letter):
    random = np.random.default_rng(0)
    codes = random.integers(0, model.codebook_size, 4)
    sequence = "G" + letter * 4
    backbone = _backbone(5)
    atoms = model.decode(np.array([-1, *codes]), sequence, backbone)
    again = model.decode(model.encode(atoms, sequence, backbone), sequence, backbone)
    assert np.nanmax(np.abs(again - atoms)) < 0.05  # a code may have a twin


def _backbone(length):
    """An extended chain, residues far enough apart not to touch."""
    residue = np.array([[-0.53, 1.36, 0.0], [0.0, 0.0, 0.0], [1.525, 0.0, 0.0]])
    return (residue + np.arange(length)[:, None, None] * [0.0, 0.0, 25.0]).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(st.text(LETTERS + "X", min_size=1, max_size=12), st.integers(0, 2**32 - 1))
def test_any_codes_decode_to_the_atoms_of_their_residues(letters, seed):
    model = structok.load("sidechain-256")
    random = np.random.default_rng(seed)
    codes = np.array([random.integers(-1, 256) if x in CODED else -1 for x in letters])
    atoms = model.decode(codes, letters, _backbone(len(letters)))
    for x, code, residue in zip(letters, codes, atoms):
        there = 4 if code < 0 else len(ATOMS[x])
        assert np.isfinite(residue[:there]).all() and np.isnan(residue[there:]).all()


def test_codes_do_not_depend_on_the_pose_of_either(model, example_atoms, chain, chain_vq):
    atoms, sequence = example_atoms
    rebuilt = chain_vq.decode(chain_vq.encode(chain)).coords
    codes = model.encode(atoms, sequence, rebuilt)
    torch.manual_seed(0)
    for turn in o3.rand_matrix(4).numpy():
        assert (model.encode(atoms @ turn.T + 30.0, sequence, rebuilt) == codes).mean() > 0.97
        assert (model.encode(atoms, sequence, rebuilt @ turn.T - 20.0) == codes).mean() > 0.97


def test_golden_codes_of_the_example(model, example_atoms, chain):
    atoms, sequence = example_atoms
    golden = GOLDEN[f"sidechain-{model.codebook_size}"]
    assert model.encode(atoms, sequence, chain.coords)[: len(golden)].tolist() == golden


def test_batches_equal_one_by_one(model, validation):
    alone = [model.encode(*chain) for chain in zip(*validation)]
    assert all(np.array_equal(a, b) for a, b in zip(alone, model.encode_batch(*validation)))


def test_a_mirror_image_has_no_codes(model, example_atoms, chain):
    atoms, sequence = example_atoms
    mirror = np.array([1, 1, -1], dtype=np.float32)
    assert (model.encode(atoms * mirror, sequence, chain.coords * mirror) == -1).all()


def test_one_d_amino_acid_is_left_out_and_the_others_are_not(model, example_atoms, chain):
    atoms, sequence = example_atoms
    codes = model.encode(atoms, sequence, chain.coords)
    at = int(np.flatnonzero(codes >= 0)[10])
    turned = atoms.copy()
    n, ca, c = turned[at, :3]
    normal = np.cross(n - ca, c - ca)
    normal /= np.linalg.norm(normal)
    turned[at, 4:] -= 2 * ((turned[at, 4:] - ca) @ normal)[:, None] * normal
    found = model.encode(turned, sequence, chain.coords)
    assert found[at] == -1
    assert (np.delete(found, at) == np.delete(codes, at)).mean() > 0.95


def test_half_a_side_chain_is_coded_from_the_gamma_atoms_on(model, example_atoms, chain):
    atoms, sequence = example_atoms
    at = sequence.index("K")
    half = atoms.copy()
    half[at, 7:] = np.nan  # CE and NZ
    codes = model.encode(half, sequence, chain.coords)
    back = model.decode(codes, sequence, chain.coords)
    assert codes[at] >= 0 and np.isfinite(back[at, 4:9]).all()
    assert np.linalg.norm(back[at, 4:7] - atoms[at, 4:7], axis=-1).max() < 0.5
    half[at, 5:] = np.nan  # CB only
    assert model.encode(half, sequence, chain.coords)[at] == -1


def test_missing_residues_and_unknown_ones_have_no_codes(model, example_atoms, chain):
    atoms, sequence = example_atoms
    broken = atoms.copy()
    broken[5] = np.nan
    codes = model.encode(broken, "X" + sequence[1:], chain.coords)
    assert codes[0] == -1 and codes[5] == -1
    back = model.decode(codes, "X" + sequence[1:], chain.coords)
    assert np.isnan(back[[0, 5], 4:]).all()


def test_wrong_use_is_said_in_one_line(model, example_atoms, chain):
    atoms, sequence = example_atoms
    with pytest.raises(InputError, match="expected"):
        model.encode(atoms[:, :5], sequence, chain.coords)
    with pytest.raises(InputError, match="no residue"):
        model.encode(np.full_like(atoms, np.nan), sequence, chain.coords)
    codes = model.encode(atoms, sequence, chain.coords)
    at = int(np.flatnonzero(codes >= 0)[0])
    codes[at] = model.codebook_size
    with pytest.raises(TokensError, match=f"slot {at}"):
        model.decode(codes, sequence, chain.coords)
    codes[:], codes[sequence.index("G")] = -1, 0
    with pytest.raises(TokensError, match="no side-chain codes"):
        model.decode(codes, sequence, chain.coords)
