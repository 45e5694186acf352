"""Files of molecules: streamed, forgiving record by record, clear about what is wrong."""

import gzip
import io
from pathlib import Path

import pytest

from structok.errors import InputError
from structok.read.molecules import read_molecules
from structok.write.structures import write_sdf

Chem = pytest.importorskip("rdkit.Chem")

LIGAND = Path(__file__).parents[2] / "structok" / "examples" / "ligand.sdf"

MOL2 = """@<TRIPOS>MOLECULE
methanol
 6 5 1 0 0
SMALL
NO_CHARGES

@<TRIPOS>ATOM
 1 C1 -0.377  0.004  0.010 C.3 1 LIG 0.0
 2 O1  0.916  0.541 -0.093 O.3 1 LIG 0.0
 3 H1 -0.901  0.510  0.838 H 1 LIG 0.0
 4 H2 -0.312 -1.082  0.170 H 1 LIG 0.0
 5 H3 -0.920  0.203 -0.926 H 1 LIG 0.0
 6 H4  1.594 -0.176  0.001 H 1 LIG 0.0
@<TRIPOS>BOND
 1 1 2 1
 2 1 3 1
 3 1 4 1
 4 1 5 1
 5 2 6 1
"""


@pytest.fixture
def sdf(drugs, tmp_path):
    path = tmp_path / "drugs.sdf"
    write_sdf(drugs, path)
    return path


def smiles(mol):
    return Chem.MolToSmiles(Chem.RemoveHs(mol))


def test_many_molecules(sdf, drugs):
    read = dict(read_molecules(sdf))
    assert [smiles(m) for m in read.values()] == [smiles(m) for m in drugs]
    assert list(read) == [m.GetProp("_Name") for m in drugs]
    assert all(a.GetNumAtoms() == b.GetNumAtoms() for a, b in zip(read.values(), drugs))


def test_gzip_and_stdin(sdf, tmp_path):
    packed = tmp_path / "drugs.sdf.gz"
    packed.write_bytes(gzip.compress(sdf.read_bytes()))
    plain, zipped = list(read_molecules(sdf)), list(read_molecules(packed))
    piped = list(read_molecules(io.BytesIO(sdf.read_bytes())))
    assert [n for n, _ in plain] == [n for n, _ in zipped] == [n for n, _ in piped]


def test_reading_is_lazy(sdf):
    class Counted(io.BytesIO):
        lines = 0

        def __next__(self):
            Counted.lines += 1
            return super().__next__()

    stream = read_molecules(Counted(sdf.read_bytes()))
    next(stream)
    assert Counted.lines < sdf.read_text().count("\n") / 2


def test_broken_record_is_reported_and_skipped(drugs, tmp_path):
    block = Chem.MolToMolBlock(drugs[2])
    pentavalent = Chem.MolToMolBlock(Chem.MolFromSmiles("C")).replace("C   0", "C   0")
    bad = Chem.RWMol()
    bad.AddAtom(Chem.Atom(6))
    for _ in range(5):
        bad.AddBond(0, bad.AddAtom(Chem.Atom(9)), Chem.BondType.SINGLE)
    pentavalent = Chem.MolToMolBlock(bad, kekulize=False)
    path = tmp_path / "mixed.sdf"
    path.write_text(f"{block}$$$$\nnonsense\n\n\n  x y z\n$$$$\n{pentavalent}$$$$\n{block}$$$$\n")
    results = [r for _, r in read_molecules(path)]
    assert [isinstance(r, InputError) for r in results] == [False, True, True, False]
    assert "mixed.sdf, record 2" in str(results[1]) and "SDF" in str(results[1])
    assert "mixed.sdf, record 3" in str(results[2]) and "valence" in str(results[2]).lower()
    assert all("\n" not in str(r) for r in results[1:3])


def test_mol2_and_mol(tmp_path, drugs):
    path = tmp_path / "two.mol2"
    path.write_text(MOL2 + MOL2.replace("methanol", "again"))
    read = list(read_molecules(path))
    assert [n for n, _ in read] == ["methanol", "again"]
    assert all(smiles(m) == "CO" and m.GetNumAtoms() == 6 for _, m in read)
    mol = tmp_path / "one.mol"
    mol.write_text(Chem.MolToMolBlock(drugs[0]))
    [(_, m)] = read_molecules(mol)
    assert smiles(m) == smiles(drugs[0])


def test_hydrogens_on_request(tmp_path, drugs):
    path = tmp_path / "heavy.sdf"
    write_sdf([Chem.RemoveHs(drugs[0])], path)
    [(_, without)], [(_, added)] = read_molecules(path), read_molecules(path, add_hs=True)
    assert without.GetNumAtoms() == 13
    assert added.GetNumAtoms() == drugs[0].GetNumAtoms()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.sdf", None, "No such file"),
        ("molecule.xyz", "3\n", "unknown kind"),
        ("noext", "3\n", "unknown kind"),
        ("empty.sdf", "", "no molecule"),
    ],
)
def test_refused_files(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message):
        list(read_molecules(path))


def test_example_ligand():
    [(name, mol)] = read_molecules(LIGAND)
    assert name == "imatinib" and mol.GetNumAtoms() == 68 and mol.GetConformer().Is3D()
