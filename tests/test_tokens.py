"""Tokens: the record, its text form and its refusals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from structok import Tokens
from structok.errors import TokensError
from structok.tokens import declare, selfies_atoms

WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
CODES = st.lists(st.integers(-1, 2**31 - 1), max_size=30)
SMILES = ["C", "c1ccccc1O", "CC(=O)Nc1ccc(O)cc1", "C/C=C/[N+](C)(C)C", "C1CC2(C1)CCC2", "CC(C)(C)C(F)(Cl)Br"]


@st.composite
def anchors(draw, length, spacings):
    """Nothing, or the fields of anchors for so many slots."""
    if draw(st.booleans()):
        return {}
    spacing = draw(spacings)
    count = -(-length // spacing)
    points = draw(st.lists(st.integers(-1, 4095), min_size=count, max_size=count))
    return {"anchors": points, "spacing": spacing, "radius": draw(st.none() | st.integers(0, 23)), "frame": draw(WORDS)}


@st.composite
def polymers(draw):
    codes = draw(CODES)
    exact = {"min_size": len(codes), "max_size": len(codes)}
    modality, beside = draw(st.sampled_from([("protein", "sidechains"), ("nucleic", "conformers")]))
    return Tokens(
        codes,
        modality,
        draw(WORDS),
        **{beside: draw(st.none() | st.lists(st.integers(-1, 4095), **exact))},
        **draw(anchors(len(codes), st.integers(1, 12))),
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
    placed = draw(anchors(atoms, st.just(1)))
    return Tokens(codes, "molecule", "m", id=draw(WORDS), selfies=text, atom_order=order, **placed)


@settings(max_examples=100, deadline=None)
@given(polymers() | molecules())
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


@settings(max_examples=150, deadline=None)
@given(polymers() | molecules(), st.booleans(), st.sampled_from(["none", "inline", "first"]))
def test_every_stream_survives_in_text(tokens, wrap, anchors):
    if not len(tokens):
        return
    text = tokens.to_text(wrap=wrap, anchors=anchors)
    back = Tokens.from_text(text, spacing=tokens.spacing or 8)
    for name in ("modality", "selfies"):
        assert getattr(back, name) == getattr(tokens, name)
    for name in ("codes", "sidechains", "conformers"):
        assert np.array_equal(getattr(back, name), getattr(tokens, name))
    if anchors == "none":
        assert back.anchors is None
        return
    assert anchored(back) == anchored(tokens)
    assert back.radius == (None if tokens.anchors is None else tokens.radius)
    assert back.to_text(wrap=wrap, anchors=anchors) == text


def anchored(tokens):
    """Points by slot."""
    return {i * tokens.spacing: x for i, x in enumerate(() if tokens.anchors is None else tokens.anchors) if x >= 0}


def test_inline_anchors_tell_their_spacing():
    """One every four slots, read where one every eight is usual."""
    tokens = Tokens(range(11), anchors=[5, 6, 7], spacing=4)
    back = Tokens.from_text(tokens.to_text(anchors="inline"))
    assert (back.anchors.tolist(), back.spacing) == ([5, 6, 7], 4)


def test_text_is_as_documented():
    assert Tokens([4012, 7]).to_text() == "<|prot_3d_start|><S 4012><S 7><|prot_3d_end|>"
    molecule = Tokens([1, 2, 3], "molecule", selfies="[C][Branch1][C][F][O]")
    assert molecule.to_text(wrap=False) == "[C 1][Branch1 -1][C -1][F 2][O 3]"
    whole = Tokens([4, 8, 2], sidechains=[17, -1, 250], anchors=[17, 301], spacing=2, radius=9)
    sides = "<|prot_sc_start|><C 17><C -1><C 250><|prot_sc_end|>"
    assert whole.to_text() == f"<|prot_3d_start|><S 4><S 8><S 2><|prot_3d_end|>{sides}"
    inline = "<|prot_3d_start|><R 9><X 17><S 4><S 8><X 301><S 2><|prot_3d_end|>"
    assert whole.to_text(anchors="inline") == inline + sides
    first = "<|prot_3d_start|><R 9><X 17><X 301><S 4><S 8><S 2><|prot_3d_end|>"
    assert whole.to_text(anchors="first") == first + sides
    nucleic = Tokens([12], "nucleic", conformers=[3])
    assert nucleic.to_text() == "<|nuc_3d_start|><N 12><|nuc_3d_end|><|nuc_cf_start|><F 3><|nuc_cf_end|>"
    posed = Tokens([1, 2, 3], "molecule", selfies="[C][Branch1][C][F][O]", anchors=[-1, 7, -1], spacing=1, radius=4)
    assert posed.to_text(wrap=False, anchors="inline") == "<R 4>[C 1][Branch1 -1][C -1]<X 7>[F 2][O 3]"


def test_a_checkpoint_declares_its_streams():
    codes, sides = declare("protein", codes=4096, sidechains=256)
    assert (codes.token, codes.size, sides.token, sides.size) == ("<S {}>", 4096, "<C {}>", 256)
    with pytest.raises(KeyError):
        declare("molecule", sidechains=256)


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
        "<S 1><N 2>",
        "<R 1>",
        "<X 1>",
        "<S 1><X 1>",
        "<X 1><S 1><R 2>",
        "<R 1><R 2><S 1>",
        "<S 1><X 1><X 2><S 1>",
        "<X 1><X 2><X 3><S 1><S 1>",
        "<S 1><S 2><C 1>",
        "<|prot_3d_start|><S 1><C 1><|prot_3d_end|>",
        "<|prot_3d_start|><S 1><|prot_3d_end|><|nuc_cf_start|><F 1><|nuc_cf_end|>",
        "<|prot_sc_start|><C 1><|prot_sc_end|>",
        "<|prot_3d_start|><S 1><|prot_3d_end|><|prot_3d_start|><S 1><|prot_3d_end|>",
        "<|prot_xx_start|><S 1><|prot_xx_end|>",
        "<X 1>[Branch1 -1][C 1]",
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
        {"codes": [1], "sidechains": [1, 2]},
        {"codes": [1], "sidechains": 3},
        {"codes": [1], "conformers": [1]},
        {"codes": [1], "modality": "nucleic", "sidechains": [1]},
        {"codes": [1, 2, 3], "anchors": [1], "spacing": 2},
        {"codes": [1], "anchors": [1]},
        {"codes": [1], "spacing": 8},
        {"codes": [1], "anchors": [1], "spacing": -8},
        {"codes": [1], "anchors": [1], "spacing": "8"},
        {"codes": [1], "radius": -1},
        {"codes": [1], "radius": 1.5},
        {"codes": [1], "frame": 7},
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
