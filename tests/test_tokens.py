"""Tokens: the record, its text form and its refusals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from structok import Tokens
from structok.errors import TokensError
from structok.tokens import selfies_atoms

WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
CODES = st.lists(st.integers(-1, 2**31 - 1), max_size=30)
SMILES = ["C", "c1ccccc1O", "CC(=O)Nc1ccc(O)cc1", "C/C=C/[N+](C)(C)C", "C1CC2(C1)CCC2", "CC(C)(C)C(F)(Cl)Br"]


@st.composite
def proteins(draw):
    codes = draw(CODES)
    exact = {"min_size": len(codes), "max_size": len(codes)}
    return Tokens(
        codes,
        "protein",
        draw(WORDS),
        mask=draw(st.none() | st.lists(st.booleans(), **exact)),
        id=draw(WORDS),
        chain=draw(st.none() | WORDS),
        sequence=draw(st.none() | st.text("ACDX", **exact)),
        residue_ids=draw(st.none() | st.lists(st.from_regex(r"-?[0-9]{1,4}[A-Z]?", fullmatch=True), **exact)),
    )


@st.composite
def molecules(draw):
    import selfies

    text = selfies.encoder(draw(st.sampled_from(SMILES)))
    atoms = sum(owns for _, owns in selfies_atoms(text))
    codes = draw(st.lists(st.integers(0, 255), min_size=atoms, max_size=atoms))
    order = draw(st.none() | st.permutations(range(atoms)))
    return Tokens(codes, "molecule", "m", id=draw(WORDS), selfies=text, atom_order=order)


@settings(max_examples=100, deadline=None)
@given(proteins() | molecules())
def test_dict_round_trip(tokens):
    back = Tokens.from_dict(tokens.to_dict())
    assert back == tokens
    assert np.array_equal(back.mask, tokens.mask)
    assert back.codes.dtype == np.int32


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-1, 2**31 - 1), min_size=1, max_size=30), st.booleans())
def test_protein_text_round_trip(codes, wrap):
    text = Tokens(codes).to_text(wrap=wrap)
    assert Tokens.from_text(text).codes.tolist() == codes
    assert text.startswith("<|prot_3d_start|>") == wrap


@settings(max_examples=30, deadline=None)
@given(molecules(), st.booleans())
def test_molecule_text_round_trip(tokens, wrap):
    back = Tokens.from_text(tokens.to_text(wrap=wrap))
    assert (back.codes.tolist(), back.selfies) == (tokens.codes.tolist(), tokens.selfies)


def test_text_is_as_documented():
    assert Tokens([4012, 7]).to_text() == "<|prot_3d_start|><S 4012><S 7><|prot_3d_end|>"
    molecule = Tokens([1, 2, 3], "molecule", selfies="[C][Branch1][C][F][O]")
    assert molecule.to_text(wrap=False) == "[C 1][Branch1 -1][C -1][F 2][O 3]"


@pytest.mark.parametrize("smiles", SMILES)
def test_selfies_tokens_that_own_an_atom_are_the_molecules_atoms(smiles):
    import selfies
    from rdkit import Chem

    text = selfies.encoder(smiles)
    pairs = selfies_atoms(text)
    assert "".join(t for t, _ in pairs) == text
    elements = [a.GetSymbol() for a in Chem.MolFromSmiles(selfies.decoder(text)).GetAtoms()]
    owners = [t for t, owns in pairs if owns]
    assert len(owners) == len(elements)
    assert all(e in t for t, e in zip(owners, elements))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "<|prot_3d_start|><|prot_3d_end|>",
        "<|prot_3d_start|><S 1><S 2>",
        "<S 1><S 2><|prot_3d_end|>",
        "<S 1><S",
        "<S 1> <S 2>",
        "<S 1>x<S 2>",
        "<S -2>",
        "<S 99999999999>",
        "<|mol_3d_start|>[C 1]",
        "[C -1]",
        "[C 1][Branch1 4][C -1][F 2]",
        "[C 1",
        "[C 1]<S 2>",
    ],
)
def test_text_that_is_not_whole_is_refused(text):
    with pytest.raises(TokensError, match="where"):
        Tokens.from_text(text, id="where")


@pytest.mark.parametrize(
    "record",
    [
        [],
        {},
        None,
        {"codes": None},
        {"codes": "123"},
        {"codes": 5},
        {"codes": [1.5]},
        {"codes": [True]},
        {"codes": [[1]]},
        {"codes": ["a"]},
        {"codes": [None]},
        {"codes": [float("nan")]},
        {"codes": [-2]},
        {"codes": [2**31]},
        {"codes": [10**30]},
        {"codes": [1], "missing": [5]},
        {"codes": [1], "missing": [-7]},
        {"codes": [1], "sequence": "AB"},
        {"codes": [1], "residue_ids": []},
        {"codes": [1], "modality": "rna"},
        {"codes": [1], "modality": []},
        {"codes": [1], "modality": "molecule"},
        {"codes": [1], "modality": "molecule", "selfies": "[C][C]"},
        {"codes": [1], "modality": "molecule", "selfies": "C"},
        {"codes": [1], "modality": "molecule", "selfies": 7},
        {"codes": [1], "sequence": 7},
    ],
    ids=repr,
)
def test_malformed_records_are_refused(record):
    with pytest.raises(TokensError) as caught:
        Tokens.from_dict(record)
    assert "\n" not in str(caught.value)


def test_negative_slots_in_missing_are_refused():
    with pytest.raises(TokensError):
        Tokens.from_dict({"codes": [1, 2], "missing": [-1]})


def test_unknown_fields_are_ignored_and_numbers_without_fraction_taken():
    tokens = Tokens.from_dict({"codes": [1.0, 2], "note": "x"})
    assert tokens.codes.tolist() == [1, 2]
