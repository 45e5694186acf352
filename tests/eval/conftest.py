"""Structures and a folder of results that all tests of the evaluation share."""

import json
import shutil

import pytest
import typer
from typer.testing import CliRunner

from eval import run
from eval.measure.model import Scope, sweep_model
from eval.measure.peers import measure_peer


@pytest.fixture(scope="session")
def structures(tmp_path_factory, make_chain, example):
    """A folder with three chains, one too short, and the example molecule."""
    folder = tmp_path_factory.mktemp("structures")
    for i, length in enumerate((70, 60, 12)):
        make_chain(length, seed=i).write(folder / f"chain{i}.pdb")
    shutil.copy(example.parent / "ligand.sdf", folder)
    return folder


@pytest.fixture(scope="session")
def results(tmp_path_factory, structures):
    """Results folder of the command line, run on `structures` in this process."""
    out = tmp_path_factory.mktemp("results")
    patch = pytest.MonkeyPatch()
    patch.setattr(run, "apart", lambda work, *arguments: work(*arguments))
    app = typer.Typer()
    app.command()(run.main)
    arguments = ["-m", "chain-vq-256", "-m", "molstructok", "--data", str(structures), "-o", str(out), "--beam", "1"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    scope = Scope(structures, 0, 0, 8, False, beams=(1,), weights=(0.0, 4.0))
    run.merge(out / "sweep_small.json", "models", "chain-vq-256", sweep_model("chain-vq-256", scope))
    run.merge(out / "benchmark_small.json", "peers", "rounded coordinates", measure_peer("rounded coordinates", scope))
    yield out
    patch.undo()


@pytest.fixture(scope="session")
def figures(results):
    return json.loads((results / "benchmark_small.json").read_text())
