"""Molecules, foldcomp, inputs that are odd, and processes that die."""

import gzip
import io
import os
import shutil
import struct
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from biotite.structure.io import pdb, pdbx
from rdkit import Chem
from rdkit.Chem import AllChem

from structok import StructokError
from structok.cli import main
from structok.data.build import build
from structok.data.options import BuildOptions
from structok.data.shards import read_structures
from structok.read.sources import find_units
from train.molecule.data import MoleculeArrays, Source

MOLECULES = BuildOptions(modality="molecule", min_length=1, max_length=60)
SMILES = ["CCO", "c1ccccc1O", "C[C@H](N)C(=O)O", "c1ccccc1CC", "CC(=O)[O-]", "C1CCCCC1", "N#Cc1ccccc1", "OCC"]


def embedded(smiles, seed):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=seed) == 0
    return mol


@pytest.fixture(scope="module")
def sdf(tmp_path_factory):
    """Eight molecules (the last is the first again), a 2D drawing, a salt, and a broken record."""
    folder = tmp_path_factory.mktemp("mol é")
    blocks = []
    for i, smiles in enumerate(SMILES):
        mol = embedded(smiles, i + 1)
        mol.SetProp("_Name", f"mol {i}")
        blocks.append(Chem.MolToMolBlock(mol))
    flat = Chem.AddHs(Chem.MolFromSmiles("CCCC"))
    AllChem.Compute2DCoords(flat)
    salt = embedded("CC(=O)[O-].[Na+]", 3)
    blocks += [Chem.MolToMolBlock(flat), Chem.MolToMolBlock(salt), "broken\n  x\n\nno counts line\n"]
    (folder / "a b.sdf.gz").write_bytes(gzip.compress("".join(b + "$$$$\n" for b in blocks).encode()))
    return folder


@pytest.mark.parametrize("coords", ["float32", "int16"])
def test_molecules(sdf, tmp_path, rows_of, coords):
    card = build([str(sdf)], tmp_path / "out", replace(MOLECULES, coords=coords))
    assert card["counts"] == {"read": 11, "failed": 3, "found": 8, "aside": 0, "kept": 7}
    reasons = (tmp_path / "out" / "failures.jsonl").read_text().splitlines()
    assert ["2D" in reasons[0], "fragments" in reasons[1], "record 11" in reasons[2]] == [True] * 3
    mols = {m.GetProp("_Name"): m for m in read_structures(tmp_path / "out", "molecule")}
    assert sorted(mols) == [f"mol {i}" for i in range(7)]
    for i, smiles in enumerate(SMILES[:7]):
        back, before = mols[f"mol {i}"], embedded(smiles, i + 1)
        assert Chem.MolToSmiles(Chem.RemoveHs(back)) == Chem.CanonSmiles(smiles)
        error = AllChem.GetBestRMS(Chem.RemoveHs(back), Chem.RemoveHs(before))
        assert error < (1e-3 if coords == "float32" else 1e-2)
    rows = {row["id"]: row for row in rows_of(tmp_path / "out")}
    assert rows["mol 1"]["cluster"] == rows["mol 3"]["cluster"]  # benzene's scaffold
    assert rows["mol 1"]["cluster"] != rows["mol 5"]["cluster"]
    assert rows["mol 0"]["atomic_numbers"].count(1) == 6
    assert len(rows["mol 0"]["coords"]) == 3 * rows["mol 0"]["length"] == 27


def test_molecule_training_reads_the_folder(sdf, tmp_path):
    build([str(sdf)], tmp_path / "out", replace(MOLECULES, validation=0.4))
    train = MoleculeArrays.load(Source(str(tmp_path / "out"), split=0), tmp_path / "cache")
    valid = MoleculeArrays.load(Source(str(tmp_path / "out"), split=1), tmp_path / "cache")
    assert (len(train.atom_end), len(valid.atom_end)) == tuple(
        sum(1 for _ in read_structures(tmp_path / "out", "molecule", s)) for s in ("train", "validation")
    )
    assert len(train.atom_end) + len(valid.atom_end) == 7


def test_the_other_modality_is_left_aside(sdf, tmp_path, helix):
    for path in sdf.iterdir():
        shutil.copy(path, tmp_path)
    helix(30, 0).write(tmp_path / "x.pdb")
    card = build([str(tmp_path)], tmp_path / "out", BuildOptions())
    assert (card["counts"]["kept"], card["counts"]["aside"]) == (1, 11)


def test_foldcomp(tmp_path, example, chain):
    foldcomp = pytest.importorskip("foldcomp")
    atoms = pdbx.get_structure(pdbx.CIFFile.read(io.StringIO(gzip.decompress(example.read_bytes()).decode())), model=1)
    atoms = atoms[~np.isin(atoms.res_name, ["HOH"])]
    selenium = atoms.element == "SE"
    atoms.atom_name[selenium], atoms.element[selenium] = "SD", "S"
    atoms.res_name[atoms.res_name == "MSE"] = "MET"
    atoms.hetero[:] = False
    atoms.set_annotation("b_factor", np.full(len(atoms), 81.5))
    file, text = pdb.PDBFile(), io.StringIO()
    file.set_structure(atoms)
    file.write(text)
    entry = foldcomp.compress("AF-X.pdb", text.getvalue())
    (tmp_path / "single.fcz").write_bytes(entry)
    (tmp_path / "db").write_bytes(entry * 2)
    (tmp_path / "db.index").write_text(f"0\t0\t{len(entry)}\n1\t{len(entry)}\t{len(entry)}\n")
    (tmp_path / "db.lookup").write_text("0\tAF-X\t0\n1\tAF-Y\t1\n")
    (tmp_path / "db.dbtype").write_bytes(struct.pack("<i", 0))
    build([str(tmp_path / "db"), str(tmp_path / "single.fcz")], tmp_path / "out", BuildOptions(dedup=False))
    found = list(read_structures(tmp_path / "out", "protein"))
    assert len(found) == 3
    for back in found:
        assert back.sequence == chain.sequence
        assert np.sqrt(np.mean((back.coords - chain.coords) ** 2)) < 0.2  # foldcomp is lossy


def test_order_of_units_depends_on_names_alone(tmp_path, helix):
    for name in ("b/2.pdb", "a/1.pdb", "b/1.cif", "c.bcif", "B/0.pdb"):
        helix(10, 0).write(tmp_path / name)
    found = [u.source.removeprefix(f"{tmp_path}/") for u in find_units([str(tmp_path)])]
    assert found == ["B/0.pdb", "a/1.pdb", "b/1.cif", "b/2.pdb", "c.bcif"]
    assert [u.name for u in find_units([f"{tmp_path}/b/*"])] == ["1", "2"]


def test_names_that_are_no_utf8_and_empty_folders(tmp_path, helix, rows_of):
    helix(30, 0).write(tmp_path / "x.pdb")
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(tmp_path / "x.pdb", os.fsencode(folder) + b"/\xff\xfe.pdb")
    (tmp_path / "empty").mkdir()
    card = build([str(folder), str(tmp_path / "empty")], tmp_path / "out", BuildOptions())
    assert [row["id"] for row in rows_of(tmp_path / "out")] == ["\ufffd\ufffd_A"]
    assert card["counts"]["failed"] == 1
    assert "no structures" in (tmp_path / "out" / "failures.jsonl").read_text()


# a program whose second task ends its process once, and whose third always does
_DEADLY = """
import os
from dataclasses import dataclass
from pathlib import Path
from structok.work.engines import Local, finish

@dataclass(frozen=True)
class Deadly:
    number: int
    items: tuple

    def probes(self):
        return (Deadly(i, (item,)) for i, item in enumerate(self.items))

    def without(self, dead):
        return Deadly(self.number, tuple("bad" if i in dead else item for i, item in enumerate(self.items)))

class Worker:
    def run(self, task):
        for item in task.items:
            if item == "kill" or (item == "once" and not Path("killed").exists()):
                Path("killed").touch()
                os._exit(9)
            Path(item + ".done").touch()

if __name__ == "__main__":
    items = (("a", "b"), ("c", "once"), ("d", "kill", "e"), ("f",), ("g",))
    crew = Local(Worker, 2)
    print(sum(1 for _ in finish(crew, [Deadly(i, some) for i, some in enumerate(items)])))
    crew.close()
"""


def test_a_task_that_kills_its_process_stops_nothing(tmp_path):
    (tmp_path / "run.py").write_text(_DEADLY)
    done = subprocess.run([sys.executable, "run.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == "5", done.stderr
    assert {p.stem for p in tmp_path.glob("*.done")} == {"a", "b", "c", "once", "d", "bad", "e", "f", "g"}


def test_command_line(tmp_path, helix, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["structok", "data", "build", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    monkeypatch.chdir(tmp_path)
    helix(30, 0).write(tmp_path / "in" / "a b.pdb")
    (tmp_path / "in" / "bad.pdb").write_text("nothing")
    code, out, err = run("in", "-o", "out")
    assert (code, out) == (1, "")
    assert "structok: error: in/bad.pdb: not a pdb file" in err
    assert "out/failures.jsonl" in err
    assert (tmp_path / "out" / "README.md").read_text().startswith("# Protein backbones")
    (tmp_path / "in" / "bad.pdb").unlink()
    assert run("in", "-o", "out") == (1, "", "structok: error: out: exists; --force builds it anew\n")
    assert run("in", "-o", "out", "--force")[0] == 0
    assert run("nowhere", "-o", "out2")[2] == "structok: error: nowhere: no such file or folder\n"
    assert run("in", "-o", "out", "--max-missing", "7", "--force")[2].startswith("structok: error: max_missing")


def test_wrong_options_are_refused():
    with pytest.raises(StructokError, match="max_missing"):
        BuildOptions(max_missing=20)
    with pytest.raises(StructokError, match="min_length"):
        BuildOptions(min_length=30, max_length=20)
