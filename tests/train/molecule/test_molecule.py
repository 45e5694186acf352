"""The training loops run, resume and export what `structok.load` reads. Short: what they learn is not tested."""

import json

import numpy as np
import pytest

import structok
from structok.write.structures import write_sdf
from tests.molecule.conftest import embed

pytest.importorskip("lightning")
pytest.importorskip("jsonargparse")

from train.molecule.data import MoleculeArrays, Source, draw, fixed_batches
from train.molecule.fit import main

SMILES = ("CCO", "CC(=O)N", "c1ccccc1", "CCCN", "C1CCOC1", "CC#N", "OCC(O)CO", "CNC", "c1ccsc1", "CC(C)C(=O)O")


@pytest.fixture(scope="module")
def sdf(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "small.sdf"
    write_sdf([embed(s) for s in SMILES], path)
    return path


@pytest.mark.parametrize("kind", ["plain", "topo"])
def test_train_resume_export(kind, sdf, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = json.dumps([{"path": str(sdf)}])
    small = ["--training.codebook_size", "32"]
    small += ["--training.dim", "8"] if kind == "plain" else ["--training.hidden", "16", "--training.width", "8"]
    small += ["--training.open_steps", "3"] if kind == "plain" else ["--training.n_fixed", "8"]
    args = [
        *(kind, "--run.name", "tiny", "--run.out", "out", "--data.train", source, "--data.valid", source),
        *("--data.atoms", "60", "--run.valid_every", "2", "--data.valid_molecules", "4", "--run.accelerator", "cpu"),
        *("--data.cache", "cache", "--training.schedule", "6", *small),
    ]
    main([*args, "--run.steps", "4"])
    assert json.loads((tmp_path / "out" / "training.json").read_text())["steps"] == 4
    main([*args, "--run.steps", "6", "--run.resume", "true"])
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["steps"] == 6 and np.isfinite(record["validation"]["rmsd/small"])
    tokenizer = structok.load(tmp_path / "out")
    assert len(tokenizer.encode(embed("CCO"))) == 9
    assert list((tmp_path / "runs" / "tiny").glob("events*"))


def test_arrays_are_read_once_and_hold_each_molecule(sdf, tmp_path):
    arrays = MoleculeArrays.load(Source(str(sdf)), tmp_path)
    [cached] = tmp_path.glob("*.npz")
    before = cached.stat().st_mtime_ns
    again = MoleculeArrays.load(Source(str(sdf)), tmp_path)
    assert cached.stat().st_mtime_ns == before
    assert len(arrays) == len(SMILES) and arrays.sizes.sum() == len(arrays.coords)
    np.testing.assert_array_equal(arrays[3].coords, again[3].coords)
    np.testing.assert_array_equal(MoleculeArrays.load(Source(str(cached)), tmp_path)[5].refs, arrays[5].refs)
    assert sum(len(b) for b in fixed_batches(arrays, 20, 7)) == 7
    assert len(draw(arrays, 40, np.random.default_rng(0))) >= 2


def test_parquet(sdf, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    blocks = [b for b in sdf.read_text().split("$$$$\n") if b]
    parquet.write_table(pyarrow.table({"molblock": blocks}), tmp_path / "mols.parquet")
    arrays = MoleculeArrays.load(Source(str(tmp_path / "mols.parquet"), limit=4), tmp_path)
    np.testing.assert_allclose(arrays[1].coords, MoleculeArrays.load(Source(str(sdf)), tmp_path)[1].coords, atol=1e-4)
    assert len(arrays) == 4
