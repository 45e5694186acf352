"""Output of language models: what is whole is found, what is wrong is said exactly, nothing raises."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

PROTEIN = "<|prot_3d_start|><S 1><S 2><S 3><|prot_3d_end|>"
MOLECULE = "<|mol_3d_start|>[H 3][C 0][Branch1 -1][C -1][O 2]<|mol_3d_end|>"


def only(found, kind):
    [problem] = found.problems
    assert problem.kind == kind
    return problem


def test_all_that_is_whole_is_found_in_order(small):
    text = (
        f"Its fold is {PROTEIN} and the ligand {MOLECULE}.\n<|mol_smi_start|>C[H]<|mol_smi_end|>"
        "<|mol_sfi_start|>[C].[=C]<|mol_sfi_end|><|prot_aa_start|><A M> <A X><|prot_aa_end|><|im_end|>"
    )
    found = small.parse(text, model="chain-vq-64", id="answer")
    assert found.ok and all(i.whole for i in found.items)
    assert [i.kind for i in found.items] == ["prot_3d", "mol_3d", "mol_smi", "mol_sfi", "prot_aa"]
    assert [i.value for i in found.items[2:]] == ["C[H]", "[C].[=C]", "MX"]
    protein, molecule = found.structures
    assert (protein.codes.tolist(), protein.model, protein.id) == ([1, 2, 3], "chain-vq-64", "answer")
    assert (molecule.selfies, molecule.codes.tolist()) == ("[H][C][Branch1][C][O]", [3, 0, 2])
    for item in found.items[:2]:
        assert text[item.start : item.stop] == (PROTEIN if item.kind == "prot_3d" else MOLECULE)


@pytest.mark.parametrize(
    ("text", "kind", "position", "says", "partial"),
    [
        ("<|prot_3d_start|><S 1><S 2>", "cut off", 27, "ends before <|prot_3d_end|>", [1, 2]),
        ("<|prot_3d_start|><S 1><S 2", "cut off", 22, "inside a token: '<S 2'", [1]),
        ("<|prot_3d_start|><S 1><|prot_3d_e", "cut off", 22, "'<|prot_3d_e'", [1]),
        ("<|prot_3d_start|>", "cut off", 17, "ends before", None),
        ("<|prot_3d_start|><S 1><S 64><S 2><|prot_3d_end|>", "unknown", 22, "<S 64> is not in the vocabulary", [1]),
        ("<|prot_3d_start|><S 1>[C 1]<S 2><|prot_3d_end|>", "foreign", 22, "not prot_3d: '[C 1]'", [1]),
        ("<|prot_3d_start|><S 1><|im_end|><|prot_3d_end|>", "foreign", 22, "'<|im_end|>'", [1]),
        ("<|prot_3d_start|><|prot_3d_end|>", "empty", 17, "nothing between", None),
        ("<S 1><S 2> in prose", "loose", 0, "<S 1> outside", None),
        ("prose <|prot_3d_end|>", "unopened", 6, "without its <|prot_3d_start|>", None),
        ("prose <|prot_3d_sta", "cut off", 6, "inside a control token", None),
        ("<|mol_3d_start|>[C 0][C 999]<|mol_3d_end|>", "unknown", 21, "[C 999]", [0]),
        ("<|mol_3d_start|>[C 0][C -1][C 1]<|mol_3d_end|>", "code", 21, "[C -1] needs a code", [0]),
        ("<|mol_3d_start|>[C 0][Branch1 -1][C 1]<|mol_3d_end|>", "code", 33, "owns no atom here", [0]),
        ("<|mol_3d_start|>[C 0][Foo 1]<|mol_3d_end|>", "unknown", 21, "[Foo 1]", [0]),
        ("<|mol_3d_start|>[C 0][C]<|mol_3d_end|>", "foreign", 21, "not mol_3d: '[C]'", [0]),
        (f"<|mol_3d_start|>[C 0][C {'1' * 5000}]<|mol_3d_end|>", "foreign", 21, "[C 111", [0]),
        ("<|mol_3d_start|>[C 0][=C", "cut off", 21, "'[=C'", [0]),
    ],
)
def test_one_fault_is_named_where_it_is(small, text, kind, position, says, partial):
    found = small.parse(text)
    problem = only(found, kind)
    assert problem.position == position
    assert says in str(problem) and "\n" not in str(problem)
    assert found.structures == []
    assert [p.codes.tolist() for p in found.partial] == ([partial] if partial is not None else [])


def test_what_follows_a_fault_is_still_read(small):
    found = small.parse(f"<|prot_3d_start|><S 1><|mol_3d_start|>[C 0]?[C 1] [Foo 1]<|mol_3d_end|>{PROTEIN}")
    assert [p.kind for p in found.problems] == ["unclosed", "foreign", "unknown"]
    assert [t.codes.tolist() for t in found.structures] == [[1, 2, 3]]
    assert [t.codes.tolist() for t in found.partial] == [[1], [0]]
    endless = small.parse("<|prot_3d_start|><S 1> The protein is small.")
    assert [p.kind for p in endless.problems] == ["foreign", "cut off"]


def test_smiles_that_are_cut_or_followed_by_words(small):
    cut = small.parse("<|mol_smi_start|>CC(=O)<|mol_smi_e")
    assert only(cut, "cut off") and cut.items[0].value == "CC(=O)" and not cut.items[0].whole
    wordy = small.parse("<|mol_smi_start|>CC is ethane<|mol_smi_end|>")
    assert only(wordy, "foreign").position == 20 and wordy.items[0].value == "CC"


def test_prose_is_no_fault(small):
    assert small.parse("A [C] atom, [Smith 2020], table <3> and <Sir 5> <|im_end|> [H] x < y") == small.parse("")


def test_scimind_stretches(scimind):
    text = f"The peptide {scimind.wrap_sequence('MAR')} binds {scimind.wrap_smiles('C=O')}{scimind.wrap_nucleic('AC')}"
    found = scimind.parse(text)
    assert found.ok and [(i.kind, i.value) for i in found.items] == [
        ("protein", "MAR"),
        ("smiles", "C=O"),
        ("nucleic", "AC"),
    ]
    assert scimind.unwrap(scimind.wrap_smiles("C(=O)[O-]")) == "C(=O)[O-]"
    wrong = scimind.parse("<|M|><|1|><|A|> {|C|}{|=")
    assert [p.kind for p in wrong.problems] == ["unknown", "cut off"]
    assert [(i.value, i.whole) for i in wrong.items] == [("M", False), ("C", False)]


PIECES = ["<|prot_3d_start|>", "<|prot_3d_end|>", "<|mol_3d_start|>", "<|mol_3d_end|>", "<|mol_smi_start|>", "<S 1>"]
PIECES += [
    "<S 99>",
    "<S -1>",
    "<S ",
    "[C 1]",
    "[Branch1 -1]",
    "[C -1]",
    "[C]",
    "[=C 5",
    "<|",
    "words ",
    "<A M>",
    ".",
    "[",
]
PIECES += ["<|mol_sfi_start|>", "<|mol_sfi_end|>", "<|M|>", "{|C|}", "*|A|*", "<|é|>", "{|", "<|mol_smi_end|>"]


@given(st.lists(st.sampled_from(PIECES), max_size=12), st.booleans())
@settings(max_examples=300, deadline=None)
def test_never_raises_and_whole_means_whole(small, scimind, pieces, bare):
    vocabulary = scimind if bare else small
    text = "".join(pieces)
    found = vocabulary.parse(text)
    for item in found.items:
        part = text[item.start : item.stop]
        if item.whole:
            again = vocabulary.parse(part)
            assert again.ok and [i.kind for i in again.items] == [item.kind]
    for tokens in found.structures + found.partial:
        wrap = vocabulary.wrap_structure if tokens.modality == "protein" else vocabulary.wrap_molecule
        assert np.array_equal(vocabulary.unwrap(wrap(tokens, unknown="spell")).codes, tokens.codes)
    assert all(0 <= p.position <= len(text) for p in found.problems)
    assert not found.ok or all(i.whole for i in found.items)
