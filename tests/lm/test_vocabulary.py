"""Presets, wrapping, saving, and prose that stays prose."""

import json
import subprocess
import sys

import numpy as np
import pytest

from structok import Tokens
from structok.errors import InputError, TokensError
from structok.lm import Vocabulary
from structok.lm.forms import SMILES_CHARACTERS


def molecule(selfies, *codes):
    return Tokens(np.array(codes), "molecule", id="m", selfies=selfies)


def test_needs_neither_torch_nor_rdkit_nor_biotite():
    code = (
        "import sys, structok.lm; v = structok.lm.Vocabulary.preset('biomatrix'); v.parse(v.wrap_sequence('MAR'))\n"
        "print([m for m in ('torch', 'rdkit', 'biotite', 'transformers', 'tokenizers', 'selfies') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_biomatrix_has_the_published_groups(biomatrix):
    sizes = {name: len(tokens) for name, tokens in biomatrix.groups.items()}
    assert (sizes["control"], sizes["amino_acid"], sizes["structure"]) == (10, 26, 4096)
    assert biomatrix.groups["structure"][:2] == ("<S 0>", "<S 1>")
    assert {"<|mol_smi_start|>", "<|prot_3d_end|>"} <= set(biomatrix.groups["control"])
    assert {"[C]", "[=C]", "[Branch1]"} <= set(biomatrix.groups["selfies"])
    assert "[Branch1 -1]" in biomatrix
    assert len(biomatrix) == len(set(biomatrix.tokens)) == sum(sizes.values())


def test_the_shipped_list_states_where_it_comes_from(biomatrix):
    about = biomatrix.about
    assert about["molecules"] == sum(s["molecules"] for s in about["counted"]) > 20_000
    assert 0.99 <= about["joint_coverage"] < 0.992
    assert all(c["joint_coverage"] > 0.97 for c in about["checked"])
    assert len(biomatrix.groups["molecule"]) < about["joint_seen"]
    assert biomatrix.molecule_codes <= 512


def test_scimind_gives_every_character_a_token(scimind):
    assert {"*|A|*", "<|A|>", "{|C|}"} <= set(scimind.tokens)
    assert scimind.wrap_sequence("MX") == "<|M|><|X|>"
    assert scimind.wrap_nucleic("ACGU") == "*|A|**|C|**|G|**|U|*"
    assert scimind.wrap_smiles("C[C@H](N)C#N") == "".join(f"{{|{c}|}}" for c in "C[C@H](N)C#N")
    with pytest.raises(InputError, match="no tokens for prot_3d"):
        scimind.wrap_structure(Tokens(np.array([1])))


def test_smiles_characters_spell_every_element():
    Chem = pytest.importorskip("rdkit.Chem")
    table = Chem.GetPeriodicTable()
    symbols = {table.GetElementSymbol(z) for z in range(1, 119)}
    assert set("".join(symbols)) <= set(SMILES_CHARACTERS)
    assert set("".join(symbols).upper()) == {c for c in SMILES_CHARACTERS if c.isupper()}


def test_wrapping_is_the_published_text(small):
    assert small.wrap_smiles("CC#CC#N") == "<|mol_smi_start|>CC#CC#N<|mol_smi_end|>"
    assert small.wrap_selfies("[C][=C]") == "<|mol_sfi_start|>[C][=C]<|mol_sfi_end|>"
    assert small.wrap_sequence("MR") == "<|prot_aa_start|><A M><A R><|prot_aa_end|>"
    protein = Tokens(np.array([40, 15]))
    assert small.wrap_structure(protein) == protein.to_text() == "<|prot_3d_start|><S 40><S 15><|prot_3d_end|>"
    m = molecule("[H][C][Branch1][C][O]", 3, 0, 2)
    assert small.wrap_molecule(m) == m.to_text()
    assert small.wrap_selfies(m) == "<|mol_sfi_start|>[H][C][Branch1][C][O]<|mol_sfi_end|>"


def test_unwrap_inverts_wrap_on_1000_proteins_and_molecules(biomatrix, random_proteins, random_molecules):
    for p in random_proteins(1000):
        assert np.array_equal(biomatrix.unwrap(biomatrix.wrap_structure(p)).codes, p.codes)
        assert biomatrix.unwrap(biomatrix.wrap_sequence(p.sequence)) == p.sequence
    for m in random_molecules(biomatrix, 1000):
        back = biomatrix.unwrap(biomatrix.wrap_molecule(m))
        assert (back.codes.tolist(), back.selfies) == (m.codes.tolist(), m.selfies)
        assert biomatrix.unwrap(biomatrix.wrap_selfies(m)) == m.selfies


@pytest.mark.parametrize("text", ["", "prose", "<|mol_smi_start|>CC<|mol_smi_end|> and more", "<|prot_3d_start|><S 1>"])
def test_unwrap_refuses_anything_else(small, text):
    with pytest.raises(TokensError):
        small.unwrap(text)


def test_unknown_tokens_are_named_or_spelled(small):
    rare = molecule("[Xe][C]", 3, 1)
    with pytest.raises(TokensError, match=r"m: \[Xe 3\] at 0 is not in the vocabulary"):
        small.wrap_molecule(rare)
    text = small.wrap_molecule(rare, unknown="spell")
    assert text == rare.to_text()
    assert small.unwrap(text).to_text() == text
    gap = Tokens(np.array([5, -1, 7]), id="gap")
    with pytest.raises(TokensError, match="gap: <S -1> at 1"):
        small.wrap_structure(gap)
    assert small.unwrap(small.wrap_structure(gap, unknown="spell")).mask.tolist() == [True, False, True]
    assert small.unwrap(small.wrap_selfies("[Xe].[13CH3]", unknown="spell")) == "[Xe].[13CH3]"
    with pytest.raises(InputError, match="unknown='drop'"):
        small.wrap_molecule(rare, unknown="drop")


def test_what_no_one_could_read_back_is_not_spelled(small):
    with pytest.raises(TokensError, match="<S 64> at 0 means nothing"):
        small.wrap_structure(Tokens(np.array([64])), unknown="spell")
    with pytest.raises(TokensError, match="<A m> at 0"):
        small.wrap_sequence("m", unknown="spell")
    with pytest.raises(TokensError, match="molecule tokens; wrap_molecule"):
        small.wrap_structure(molecule("[C]", 1))
    with pytest.raises(TokensError, match="no SELFIES"):
        small.wrap_selfies(Tokens(np.array([1]), id="p"))
    with pytest.raises(TokensError, match="not a SMILES"):
        small.wrap_smiles("CC <|mol_smi_end|>")
    with pytest.raises(TokensError, match="nothing to write"):
        small.wrap_sequence("")


def test_descriptions(biomatrix, scimind):
    words = biomatrix.descriptions()
    assert list(words) == biomatrix.tokens
    assert words["<|mol_smi_start|>"] == "Begins a molecule SMILES string"
    assert words["<|prot_3d_end|>"] == "Ends a protein 3D structure"
    assert (words["<A W>"], words["<A U>"], words["<A X>"]) == ("Tryptophan", "Selenocysteine", "any amino acid")
    assert words["[C]"] == "[C]" and words["<S 12>"] == "<S 12>"
    own = scimind.descriptions()
    assert (own["<|W|>"], own["*|G|*"], own["{|#|}"]) == ("Tryptophan", "Guanine", "#")


def test_save_and_load(small, scimind, tmp_path):
    small.save(tmp_path / "vocabulary.json")
    for path in (tmp_path, tmp_path / "vocabulary.json"):
        back = Vocabulary.load(path)
        assert (back.tokens, back.groups, back.about) == (small.tokens, small.groups, small.about)
    scimind.save(tmp_path / "other.json")
    assert Vocabulary.load(tmp_path / "other.json").tokens == scimind.tokens


def broken(change):
    record = {"style": "scimind", "groups": {"nucleotide": ["*|A|*"], "amino_acid": [], "smiles": []}, "about": {}}
    change(record)
    return json.dumps(record)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a vocabulary"),
        ("[1]", "expected the keys"),
        (broken(lambda r: r.pop("about")), "expected the keys"),
        (broken(lambda r: r.update(style="esm")), "style 'esm'"),
        (broken(lambda r: r["groups"].pop("smiles")), "has the groups"),
        (broken(lambda r: r["groups"].update(nucleotide=["*|A|*", "*|A|*"])), "occurs twice"),
        (broken(lambda r: r["groups"].update(nucleotide=["<|A|>"])), "is no token of the group"),
        (broken(lambda r: r["groups"].update(nucleotide=3)), "not a vocabulary"),
        (broken(lambda r: r["groups"].update(nucleotide=[3])), "not a vocabulary"),
    ],
)
def test_broken_files_are_one_line_with_their_name(tmp_path, text, says):
    file = tmp_path / "v.json"
    file.write_text(text)
    with pytest.raises(InputError, match=says) as error:
        Vocabulary.load(file)
    assert str(error.value).startswith(str(file)) and "\n" not in str(error.value)


def test_missing_file_and_preset_are_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.json: cannot be read"):
        Vocabulary.load(tmp_path / "gone.json")
    with pytest.raises(InputError, match="presets: biomatrix, scimind"):
        Vocabulary.preset("esm3")


def test_quoted_prose_holds_no_token_and_reads_the_same(small, scimind):
    prose = "The [C] of <S 12>, [C 1] and <A M>; <|mol_3d_start|> [[C]] <S 99999> [see 3] * [C"
    quoted = small.quote(prose)
    assert not any(token in quoted for token in small.tokens)
    assert quoted.replace("\N{WORD JOINER}", "") == prose
    assert quoted.count("\N{WORD JOINER}") == 6
    assert small.quote(quoted) == quoted
    assert small.quote("nothing to do [3]") == "nothing to do [3]"
    hidden = scimind.quote("<|<|A|> {|C|} *|A|**|C|*")
    assert not any(token in hidden for token in scimind.tokens)
