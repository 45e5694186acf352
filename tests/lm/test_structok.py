"""The preset with every stream: nucleic acids, side chains, conformers, anchors."""

import numpy as np
import pytest
from hypothesis import given, settings

from structok import Tokens
from structok.errors import InputError, TokensError
from structok.lm import Vocabulary
from structok.lm.composing import Composer
from structok.tokens import STREAMS
from tests.test_tokens import anchored, molecules, polymers


@pytest.fixture(scope="module")
def words():
    return Vocabulary.preset("structok")


def test_it_has_biomatrix_groups_and_a_group_for_every_declared_stream(words):
    biomatrix = Vocabulary.preset("biomatrix")
    for name, tokens in biomatrix.groups.items():
        assert set(tokens) <= set(words.groups[name])
        assert name == "control" or tokens == words.groups[name]
    sizes = {name: len(tokens) for name, tokens in words.groups.items()}
    assert (sizes["anchors"], sizes["radius"], sizes["sidechains"], sizes["nucleic_structure"]) == (
        4096,
        24,
        4096,
        4096,
    )
    for streams in STREAMS.values():
        for stream in streams:
            assert not stream.letter or stream.token.format(4095) in words
    assert "<|nuc_3d_start|>" in words and "<B A>" in words


@settings(max_examples=100, deadline=None)
@given(polymers() | molecules())
def test_unwrap_inverts_wrap_for_every_stream(tokens):
    words = Vocabulary.preset("structok")
    if not len(tokens):
        return
    wrap = words.wrap_molecule if tokens.modality == "molecule" else words.wrap_structure
    try:
        text = wrap(tokens)
    except TokensError:  # codes beyond 4,096, molecule tokens that are too rare
        return
    back = words.parse(text, spacing=tokens.spacing or 8)
    assert back.ok and back.structures and back.items[0].stop == len(text)
    [found] = back.structures
    assert (found.modality, found.selfies) == (tokens.modality, tokens.selfies)
    for name in ("codes", "sidechains", "conformers"):
        assert np.array_equal(getattr(found, name), getattr(tokens, name))
    assert anchored(found) == anchored(tokens)


WHOLE = Tokens([4, 8, 2], sidechains=[17, 3, 250], anchors=[17, 301], spacing=2, radius=9)


def test_text_is_as_documented(words):
    sides = "<|prot_sc_start|><C 17><C 3><C 250><|prot_sc_end|>"
    inline = "<|prot_3d_start|><R 9><X 17><S 4><S 8><X 301><S 2><|prot_3d_end|>"
    assert words.wrap_structure(WHOLE) == inline + sides
    assert words.wrap_structure(WHOLE, anchors="none") == "<|prot_3d_start|><S 4><S 8><S 2><|prot_3d_end|>" + sides
    assert words.wrap_nucleic("AC") == "<|nuc_na_start|><B A><B C><|nuc_na_end|>"
    assert words.unwrap(words.wrap_nucleic("AC")) == "AC"
    assert words.unwrap(words.wrap_nucleic("ACGUXacgtx")) == "ACGUXacgtx"
    assert Vocabulary.preset("scimind").wrap_nucleic("Acx") == "*|A|**|C|**|N|*"
    assert Vocabulary.preset("biomatrix").wrap_structure(WHOLE) == WHOLE.to_text().split("<|prot_sc")[0]
    with pytest.raises(InputError, match="nuc_3d"):
        Vocabulary.preset("biomatrix").wrap_structure(Tokens([1], "nucleic"))
    assert words.count(inline + sides) == {"control": 4, "structure": 3, "sidechains": 3, "anchors": 2, "radius": 1}


def test_a_code_with_too_many_digits_is_refused(words):
    with pytest.raises(TokensError, match="deep: <S 1000000000> means nothing"):
        words.wrap_structure(Tokens([7, 1_000_000_000], anchors=[0], spacing=2, radius=3, id="deep"))


@pytest.mark.parametrize(
    ("text", "kind", "says", "codes"),
    [
        ("<|prot_3d_start|><X 1><S 1><R 2><|prot_3d_end|>", "anchor", "<R 2> belongs to the beginning", [1]),
        ("<|prot_3d_start|><S 1><X 1><X 2><S 2><|prot_3d_end|>", "anchor", "no slot has two", [1, 2]),
        ("<|prot_3d_start|><X 1><X 2><X 3><S 2><|prot_3d_end|>", "anchor", "3 anchors for 1 codes", [2]),
        ("<|prot_3d_start|><X 9999><S 2><|prot_3d_end|>", "unknown", "<X 9999> is not", None),
        ("<|prot_3d_start|><S 1><C 2><|prot_3d_end|>", "foreign", "not prot_3d: '<C 2>'", [1]),
        ("<|prot_sc_start|><C 2><|prot_sc_end|>", "unpaired", "without its structure", None),
        ("<|prot_3d_start|><S 1><|prot_3d_end|><|prot_sc_start|><C 2><C 3><|prot_sc_end|>", "unpaired", "2 side", None),
        ("<|nuc_3d_start|><N 1><|nuc_3d_end|><|prot_sc_start|><C 2><|prot_sc_end|>", "unpaired", "without its", None),
        ("<|prot_3d_start|><R 1", "cut off", "inside a token: '<R 1'", None),
    ],
)
def test_what_is_wrong_is_said(words, text, kind, says, codes):
    found = words.parse(text)
    assert kind in {p.kind for p in found.problems}
    assert any(says in str(p) for p in found.problems), [str(p) for p in found.problems]
    if codes:
        assert [t.codes.tolist() for t in found.partial] == [codes]


def test_texts_of_dna_and_of_side_chains_hold_every_stream(words):
    strand = Tokens([5, 6, 7], "nucleic", id="n", chain="B", sequence="GCt", conformers=[1, 2, 3])
    texts = {i.view: i.text for i in Composer(words).instances(strand)}
    assert texts["sequence"] == "<|nuc_na_start|><B G><B C><B t><|nuc_na_end|>"
    assert texts["structure"].endswith("<|nuc_cf_start|><F 1><F 2><F 3><|nuc_cf_end|>")
    assert all(part in texts["both"] for part in (texts["sequence"], texts["structure"]))
    [_, structure, _] = Composer(words).instances(Tokens([5, 6], id="p", sequence="AG", sidechains=[9, -1]))
    assert "<|prot_sc_start|><C 9><C -1><|prot_sc_end|>" in structure.text
