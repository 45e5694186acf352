"""Molecules that break tokenizers: handled exactly, or refused in one line that names the way out."""

import numpy as np
import pytest

from structok.errors import InputError
from structok.molecule.conformer import molecule_of, prepare
from structok.molecule.graph import graph_of
from structok.molecule.metrics import compare_molecules
from structok.tokens import Tokens
from tests.molecule.conftest import DRUGS, embed

Chem = pytest.importorskip("rdkit.Chem")
AllChem = pytest.importorskip("rdkit.Chem.AllChem")

HANDLED = {
    "helium": "[He]",
    "sodium ion": "[Na+]",
    "hydrogen": "[H][H]",
    "oxygen, diradical": "[O][O]",
    "carbon monoxide": "[C-]#[O+]",
    "water": "O",
    "hydrogen cyanide, linear": "C#N",
    "acetylene, linear": "C#C",
    "butadiyne, linear": "C#CC#C",
    "alkyne chain": "CC#CC#CC",
    "allene": "C=C=C",
    "cumulene": "C=C=C=C",
    "methyl radical": "[CH3]",
    "carbene": "[CH2]",
    "nitroxide radical": "CC1(C)CCCC(C)(C)N1[O]",
    "zwitterion": "[NH3+]CC(=O)[O-]",
    "deuterium": "[2H]C([2H])([2H])O",
    "nitro": "C[N+](=O)[O-]",
    "azide": "CN=[N+]=[N-]",
    "hexafluoride": "FS(F)(F)(F)(F)F",
    "boronic acid": "OB(O)c1ccccc1",
    "selenide": "C[Se]C",
    "cubane": "C12C3C4C1C5C2C3C45",
    "spiro sulfoximine": "CS(=N)(=O)C1CC12CC2",
}


def conformer_of(smiles):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    if mol.GetNumAtoms() == 1:
        mol.AddConformer(Chem.Conformer(1))
        return mol
    return embed(smiles)


@pytest.mark.parametrize("name", HANDLED)
def test_handled(tokenizer, name):
    mol = conformer_of(HANDLED[name])
    for closed in (False, True):
        tokens = tokenizer.encode(mol, closed_loop=closed)
        assert len(tokens) == mol.GetNumAtoms()
        back = tokenizer.decode(Tokens.from_text(tokens.to_text()))
        assert np.isfinite(back.GetConformer().GetPositions()).all()
        for atom in back.GetAtoms():
            original = mol.GetAtomWithIdx(int(tokens.atom_order[atom.GetIdx()]))
            assert atom.GetAtomicNum() == original.GetAtomicNum()
            assert atom.GetFormalCharge() == original.GetFormalCharge()
            assert atom.GetNumRadicalElectrons() == original.GetNumRadicalElectrons()
        assert compare_molecules(mol, back, tokens)["rmsd"] < 10


@pytest.mark.parametrize("smiles", [*HANDLED.values(), *DRUGS])
def test_what_is_prepared_is_what_decodes(smiles):
    """The graph that a model sees is the same before and behind the SELFIES, which is not always read back."""
    conformer = prepare(conformer_of(smiles))
    before, after = graph_of(conformer.mol), graph_of(molecule_of(conformer.selfies))
    for name in ("atoms", "bonds", "bond_types"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
    radicals = (
        [a.GetNumRadicalElectrons() for a in m.GetAtoms()] for m in (conformer.mol, molecule_of(conformer.selfies))
    )
    assert next(radicals) == next(radicals)


@pytest.fixture(scope="module")
def long_chain():
    return embed("C" * 80)


def test_242_atoms(tokenizer, long_chain):
    tokens = tokenizer.encode(long_chain)
    assert len(tokens) == len(tokens.codes) == 242
    assert tokenizer.decode(tokens).GetNumAtoms() == 242


def flat(smiles, says=False):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.Compute2DCoords(mol)
    mol.GetConformer().Set3D(says)
    return mol


def scaled(mol, factor):
    mol.GetConformer().SetPositions(factor * mol.GetConformer().GetPositions())
    return mol


def moved(mol, atom, position):
    mol.GetConformer().SetAtomPosition(atom, position)
    return mol


def pentavalent():
    mol = Chem.RWMol()
    mol.AddAtom(Chem.Atom(6))
    for _ in range(5):
        mol.AddBond(0, mol.AddAtom(Chem.Atom(9)), Chem.BondType.SINGLE)
    conformer = Chem.Conformer(6)
    conformer.SetPositions(1.35 * np.concatenate([np.zeros((1, 3)), np.eye(3), -np.eye(3)[:2]]))
    mol.AddConformer(conformer)
    return mol.GetMol()


REFUSED = {
    "salt": (lambda: embed("CC(=O)[O-].[Na+]"), r"2 fragments \(CC\(=O\)\[O-\], \[Na\+\]\).*one by one"),
    "metal complex": (lambda: embed("[NH3]->[Pt](<-[NH3])(Cl)Cl"), "N0-Pt1 is dative"),
    "hypervalent iodine": (lambda: embed("CC(=O)OI(OC(C)=O)c1ccccc1"), "SELFIES cannot write"),
    "no conformer": (lambda: Chem.AddHs(Chem.MolFromSmiles("CCO")), "no conformer; embed"),
    "2D drawing": (lambda: flat("CCO"), "flat"),
    "implicit hydrogens": (lambda: Chem.RemoveHs(embed("CCO")), "atom 0 .C. has implicit hydrogens.*add"),
    "dummy atom": (lambda: embed("[*]CC"), "atom 0 is a dummy"),
    "not a number": (lambda: moved(embed("CCO"), 2, (float("nan"), 0, 0)), "atom 2 has no finite"),
    "collapsed": (lambda: moved(moved(embed("CCO"), 0, (0, 0, 0)), 2, (0, 0, 0)), "atoms 0 and 2 lie on the same"),
    "nanometres": (lambda: scaled(embed("CCO"), 0.1), r"bonds have 0\.10 of their usual lengths; .* Å"),
    "bohr": (lambda: scaled(embed("CCO"), 1.89), "bonds have 1.9. of their usual"),
    "an atom without a place": (lambda: moved(embed("CCO"), 5, (0, 0, 0)), "atoms 0 and 5 are bonded .* broken"),
    "drawing that says 3D": (lambda: flat("CCO", says=True), "flat"),
    "no atoms": (Chem.Mol, "no atoms"),
    "five bonds to carbon": (lambda: pentavalent(), "RDKit rejects the molecule .*[Vv]alence"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    make, message = REFUSED[name]
    mol = make()
    mol.SetProp("_Name", name)
    with pytest.raises(InputError, match=message) as caught:
        prepare(mol)
    assert str(caught.value).startswith(name) and "\n" not in str(caught.value)


def test_unsanitised_is_as_good(drugs):
    raw = Chem.MolFromMolBlock(Chem.MolToMolBlock(drugs[0]), sanitize=False, removeHs=False)
    assert prepare(raw).selfies == prepare(drugs[0]).selfies


def test_too_many_atoms(drugs):
    with pytest.raises(InputError, match="more than the 10"):
        prepare(drugs[0], max_length=10)


def test_a_refused_molecule_names_itself(tokenizer):
    mol = embed("CC(=O)[O-].[Na+]", "sodium acetate")
    with pytest.raises(InputError, match=r"^sodium acetate: 2 fragments"):
        tokenizer.encode(mol)


def test_what_tokens_do_not_hold_is_told(tokenizer, caplog):
    mol = conformer_of(HANDLED["deuterium"])
    mol.GetAtomWithIdx(0).SetAtomMapNum(7)
    with caplog.at_level("INFO", logger="structok"):
        tokenizer.encode(mol)
    assert "3 isotopes not kept" in caplog.text and "1 atom map number not kept" in caplog.text
