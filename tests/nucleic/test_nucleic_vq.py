"""nucleic-vq: accuracy on unseen chains, chemistry kept, invariance, gaps, missing atoms, bad input, golden codes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from biotite.structure import base_pairs, info
from e3nn import o3
from hypothesis import given, settings
from hypothesis import strategies as st

import structok
from structok.errors import InputError, TokensError
from structok.nucleic.atoms import ATOMS, BACKBONE, BASES, FRAME, IN_FRAME, LETTERS, names_of
from structok.nucleic.chain import NucleicChain
from structok.nucleic.choice import _STRETCH, best_path
from structok.nucleic.conformers import Options
from structok.nucleic.metrics import compare_atoms, frame_rmsd, is_north, link_lengths, pseudorotation
from train.polymer.data import load_nucleic

# codes of a made-up chain; they change only with a retrained checkpoint
GOLDEN = {
    "codes": [353, 3517, 92, 2072, 2979, 3219, 2561, 1161, 3980, 219],
    "conformers": [1024, 1635, 2193, 1570, 2159, 403, 84, 187, 1795, 3836],
}


@pytest.fixture(scope="module")
def model():
    return structok.load("nucleic-vq-4096")


@pytest.fixture(scope="module")
def validation(shared):
    """Chains of unseen clusters, RNA and DNA."""
    found = load_nucleic(shared / "data/nucleic/nucleic.npz", 1)
    return [NucleicChain(c.atoms, c.sequence, name=c.name) for c in found if len(c.sequence) < 90][::2]


def make(model, sequence, seed=0, bare=()):
    """A chain of real conformers and steps, drawn at random."""
    random = np.random.default_rng(seed)
    config = model.config
    codes = random.integers(0, config.codebook_size - config.n_break, len(sequence))
    conformers = random.integers(0, config.conformers - config.n_bare, len(sequence))
    conformers[list(bare)] = config.conformers - 1
    return model.decode(structok.Tokens(codes, "nucleic", sequence=sequence, conformers=conformers))


def noisy(chain, size=0.05):
    """Not made of codes any more, so that they have to be searched for."""
    noise = np.random.default_rng(0).normal(scale=size, size=chain.atoms.shape)
    return NucleicChain(chain.atoms + noise, chain.sequence)


@pytest.mark.parametrize("letter", sorted(set(LETTERS) - set("Tu")))
def test_atoms_are_those_of_the_component_dictionary(letter):
    residue = info.residue(letter if letter.isupper() else f"D{letter.upper()}")
    heavy = residue.atom_name[(residue.element != "H") & (residue.atom_name != "OP3")]
    assert set(heavy) == set(ATOMS[letter])
    assert BASES[letter.upper()][0] in ("N9", "N1")


def test_unseen_chains_come_back_within_the_measured_error(model, validation):
    back = model.decode_batch(model.encode_batch(validation))
    assert np.mean([frame_rmsd(a.atoms, b.atoms) for a, b in zip(back, validation)]) <= 0.20
    assert np.mean([compare_atoms(a.atoms, b.atoms).rmsd for a, b in zip(back, validation)]) <= 0.42
    north = [np.concatenate([is_north(pseudorotation(c.atoms)) for c in chains]) for chains in (back, validation)]
    known = np.concatenate([np.isfinite(pseudorotation(c.atoms)) for c in validation])
    assert (north[0] == north[1])[known].mean() >= 0.95
    links = np.concatenate([link_lengths(c.atoms) for c in back])
    assert np.abs(links[np.isfinite(links)] - 1.607).mean() < 0.2


def test_base_pairs_are_kept(model, validation):
    def pairs(chain):
        array = chain.to_atom_array()
        return {tuple(array.res_id[list(pair)].tolist()) for pair in base_pairs(array)}

    kept = total = 0
    for chain in [c for c in validation if c.sequence.isupper() and c.mask.all()][:12]:
        before, after = pairs(chain), pairs(model.decode(model.encode(chain)))
        kept, total = kept + len(before & after), total + len(before | after)
    assert total > 50 and kept / total > 0.95


@settings(max_examples=25, deadline=None)
@given(st.text(LETTERS, min_size=2, max_size=20), st.integers(0, 2**32 - 1))
def test_any_codes_decode_to_the_atoms_of_their_nucleotides(sequence, seed):
    chain = make(structok.load("nucleic-vq-4096"), sequence, seed, bare=[0])
    for i, (letter, atoms) in enumerate(zip(sequence, chain.atoms)):
        there = [name for name, atom in zip(names_of(letter), atoms) if np.isfinite(atom).all()]
        assert there == [n for n in ATOMS[letter] if i or n not in ("P", "OP1", "OP2")]


@pytest.mark.parametrize("letter", LETTERS)
def test_nucleotides_come_back_from_their_own_atoms_under_their_own_names(model, letter):
    chain = noisy(make(model, letter * 6, seed=1))
    back = model.decode(model.encode(chain))
    assert frame_rmsd(back.atoms, chain.atoms) < 0.5
    assert compare_atoms(back.atoms, chain.atoms).rmsd < 1.0
    assert (np.isfinite(back.atoms) == np.isfinite(chain.atoms)).all()


@settings(max_examples=25, deadline=None)
@given(st.text(LETTERS, min_size=2, max_size=20), st.integers(0, 2**32 - 1))
def test_encoding_what_was_decoded_changes_nothing(sequence, seed):
    model, random = structok.load("nucleic-vq-4096"), np.random.default_rng(seed)
    chain = make(model, sequence, seed, bare=[0])
    turn = torch.from_numpy(random.normal(size=(3, 3)))
    moved = chain.atoms @ torch.linalg.qr(turn).Q.numpy() * np.linalg.det(torch.linalg.qr(turn).Q.numpy())
    tokens = model.encode(NucleicChain((moved + 30.0).round(3), sequence))  # as a file has it
    back = model.decode(tokens)
    assert compare_atoms(back.atoms, chain.atoms).rmsd < 0.02
    again = model.encode(back)
    assert np.array_equal(again.codes, tokens.codes) and np.array_equal(again.conformers, tokens.conformers)


def test_chains_come_back_where_their_anchors_say_and_wrong_codes_are_repaired(model, validation):
    chain = max((c for c in validation if c.mask.all()), key=len)
    tokens, plain = model.encode(chain), model.encode(chain, spacing=0)
    assert tokens.spacing == 6 and len(tokens.anchors) == -(-len(chain) // 6) and plain.anchors is None
    assert np.array_equal(tokens.codes, plain.codes) and np.array_equal(tokens.conformers, plain.conformers)
    back = model.decode(tokens)
    assert not back.repairs and compare_atoms(back.atoms, model.decode(plain).atoms).rmsd < 1e-3
    codes = tokens.codes.copy()
    codes[len(chain) // 2] = (codes[len(chain) // 2] + 1000) % 4000
    mended = model.decode(replace(tokens, codes=codes))
    assert mended.repairs.slots and frame_rmsd(mended.atoms, chain.atoms) < 1.0
    assert frame_rmsd(model.decode(replace(plain, codes=codes)).atoms, chain.atoms) > 2.0
    text = structok.Tokens.from_text(tokens.to_text(anchors="inline"), model=tokens.model, spacing=6)
    assert np.array_equal(text.anchors, tokens.anchors)


def test_dna_and_rna_mix_in_one_chain(model):
    chain = make(model, "ACGUacgtGGcc")
    back = model.decode(model.encode(chain))
    sugar = np.isfinite(back.atoms[:, BACKBONE.index("O2'")]).all(1)
    assert sugar.tolist() == [letter.isupper() for letter in chain.sequence]


def test_a_missing_phosphate_comes_back_missing(model):
    chain = make(model, "GGCAUC", bare=[0, 3])
    back = model.decode(model.encode(chain))
    assert np.isnan(back.atoms[:, 0]).all(1).tolist() == [True, False, False, True, False, False]


def test_missing_nucleotides_keep_their_slots_and_both_sides_their_pose(model, validation):
    chain = next(c for c in validation if c.mask.all() and len(c) > 25)
    atoms = chain.atoms.copy()
    atoms[10:13] = np.nan
    tokens = model.encode(NucleicChain(atoms, chain.sequence))
    assert not tokens.mask[10:13].any() and (tokens.codes >= 0).all() and (tokens.conformers[10:13] == -1).all()
    back = model.decode(tokens)
    assert np.isnan(back.atoms[10:13]).all()
    assert frame_rmsd(back.atoms, atoms) < 1.0


def test_a_nucleotide_without_its_base_comes_back_as_its_frame(model):
    chain = make(model, "GGCAUC")
    atoms = chain.atoms.copy()
    atoms[2, len(BACKBONE) :] = np.nan
    tokens = model.encode(NucleicChain(atoms, chain.sequence))
    assert tokens.conformers[2] == -1 and (np.delete(tokens.conformers, 2) >= 0).all()
    back = model.decode(tokens)
    assert np.isfinite(back.atoms[2]).all(1).sum() == len(FRAME)
    unknown = model.encode(NucleicChain(atoms, "GGXAUC"))  # an abasic site: sugar and phosphate are coded
    assert unknown.conformers[2] >= 0
    assert np.isfinite(model.decode(unknown).atoms[2]).all(1).sum() == len(BACKBONE)


def test_codes_do_not_depend_on_the_pose(model, validation):
    chain = validation[0]
    tokens = model.encode(chain)
    torch.manual_seed(0)
    for turn in o3.rand_matrix(4).numpy():
        moved = model.encode(NucleicChain(chain.atoms @ turn.T + 20.0, chain.sequence))
        assert (moved.codes == tokens.codes).mean() > 0.97
        assert (moved.conformers == tokens.conformers).mean() > 0.97


def test_a_mirror_image_comes_back_as_something_else(model, validation):
    chain = validation[0]
    mirrored = NucleicChain(chain.atoms * np.array([1, 1, -1], dtype=np.float32), chain.sequence)
    tokens = model.encode(mirrored)
    assert (tokens.codes != model.encode(chain).codes).mean() > 0.9
    assert compare_atoms(model.decode(tokens).atoms, mirrored.atoms).rmsd > 0.5


def test_batches_equal_one_by_one(model, validation):
    chains = validation[:6]
    together = model.encode_batch(chains)
    assert all(model.encode(c) == t for c, t in zip(chains, together))


def test_text_and_records_bring_the_chain_back(model):
    tokens = model.encode(make(model, "ACGUacgt"))
    again = structok.Tokens.from_dict(tokens.to_dict())
    assert again == tokens
    text = structok.Tokens.from_text(tokens.to_text(), model=tokens.model)
    assert np.array_equal(text.codes, tokens.codes) and np.array_equal(text.conformers, tokens.conformers)


def test_golden_codes(model):
    tokens = model.encode(noisy(make(model, "GGCAUCgatc", seed=5)))
    for name, golden in GOLDEN.items():
        assert getattr(tokens, name).tolist() == golden


def test_wrong_use_is_said_in_one_line(model):
    chain = make(model, "ACGU")
    with pytest.raises(InputError, match="expected"):
        NucleicChain(chain.atoms[:, :5], "ACGU")
    with pytest.raises(InputError, match="unknown letters J"):
        model.encode(NucleicChain(chain.atoms, "ACGJ"))
    lonely = np.full_like(chain.atoms, np.nan)
    lonely[0] = chain.atoms[0]
    with pytest.raises(InputError, match="at least 2"):
        model.encode(NucleicChain(lonely, "ACGU"))
    tokens = model.encode(chain)
    tokens.conformers[1] = model.config.conformers
    with pytest.raises(TokensError, match="at 1 of the conformers"):
        model.decode(tokens)


def test_the_frame_is_where_the_atoms_say(model):
    chain = make(model, "ACGU")
    assert [BACKBONE[i] for i in IN_FRAME] == list(FRAME)
    assert np.array_equal(chain.frames, chain.atoms[:, IN_FRAME])


def test_the_best_path_is_that_of_brute_force():
    random = torch.Generator().manual_seed(0)
    error, ends = torch.rand(4, 3, generator=random), 2 * torch.randn(4, 3, 2, 3, generator=random)
    linked = torch.tensor([False, True, False, True])

    def cost(path):
        total = sum(float(error[i, c]) for i, c in enumerate(path))
        for i in (1, 3):
            length = float((ends[i, path[i], 0] - ends[i - 1, path[i - 1], 1]).norm())
            total += _STRETCH * (length - 1.607) ** 2
        return total

    best = min(np.ndindex(3, 3, 3, 3), key=cost)
    assert best_path(Options(error, torch.zeros(4, 3)), ends, linked).tolist() == list(best)
