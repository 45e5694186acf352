"""The benchmark's command on the shipped examples and a few chains of real steps."""

import json

import pytest
import typer
from typer.testing import CliRunner

from eval import run


def test_default_and_open_loop_are_measured_with_every_axis(figures):
    model = figures["models"]["chain-vq-256"]
    assert list(model["assignments"]) == [model["default"], "open loop", "closed loop, beam 1"]
    best, opened = (model["assignments"][k] for k in (model["default"], "open loop"))
    [chosen] = best["sets"].values()
    assert chosen["chains"] == 2
    assert chosen["residues"] == 130
    assert "chain2_A" in chosen["excluded"]
    assert chosen["rmsd"]["mean"] < 0.5
    assert best["rate"]["bits"] == 8
    assert best["rate"]["tokens"] == 130
    assert best["stability"]["encoded again"]["codes"] == 1
    assert opened["stability"]["crop end"]["20"]["codes"] == 1  # an open-loop code looks at its own step only
    assert opened["stability"]["jitter"]["0.05"]["codes"] < 1
    errors = [v["rmsd"]["mean"] for v in best["robustness"].values()]
    assert errors[2] > 2 * chosen["rmsd"]["mean"]
    assert model["codebook"]["effective_dimension"] > 1
    assert model["memory"]["peak MB"] >= model["memory"]["loaded MB"] > 100


def test_molecules_have_bonds_chirality_and_a_stability(figures):
    found = figures["models"]["molstructok"]["assignments"]["closed loop, beam 8"]
    [chosen] = found["sets"].values()
    assert chosen["rmsd"]["mean"] < 0.2
    assert chosen["chirality_kept"] in (None, 1.0)
    assert chosen["valid"] == 1
    assert 0 < found["stability"]["jitter"]["0.05"]["codes"] < 1
    assert found["leakage"] is None  # one molecule has nobody to be held out


def test_sweep_marks_the_default_and_gains_by_the_beam(results):
    rows = json.loads((results / "sweep_small.json").read_text())["models"]["chain-vq-256"]["rows"]
    by_label = {r["label"]: r for r in rows}
    assert [r["label"] for r in rows if r["default"]] == ["closed loop, beam 64"]
    assert by_label["closed loop, beam 64"]["rmsd"]["mean"] <= by_label["closed loop, beam 1"]["rmsd"]["mean"]
    assert by_label["open loop"]["equal_to_open"] == 1
    assert by_label["open loop"]["crop start"]["20"]["codes"] > 0.9  # only the first residue's code can change


def test_merging_keeps_other_models(tmp_path):
    file = tmp_path / "x.json"
    run.merge(file, "models", "a", {"rows": [1, 2]})
    run.merge(file, "models", "b", {"rows": []})
    run.merge(file, "models", "a", {"rows": [3]})
    assert json.loads(file.read_text()) == {"models": {"a": {"rows": [3]}, "b": {"rows": []}}}


def test_a_model_that_does_not_exist_fails_by_name(tmp_path, structures):
    app = typer.Typer()
    app.command()(run.main)
    patch = pytest.MonkeyPatch()
    patch.setattr(run, "apart", lambda work, *arguments: work(*arguments))
    out = ["--data", str(structures), "-o", str(tmp_path), "--no-report"]
    done = CliRunner().invoke(app, ["-m", "no-such-model", *out])
    patch.undo()
    assert done.exit_code == 1
    assert not (tmp_path / "benchmark_small.json").exists()
    assert CliRunner().invoke(app, ["--data", str(tmp_path / "nothing")]).exit_code == 2
    assert CliRunner().invoke(app, ["--beam", "two", *out]).exit_code == 2


def test_what_is_measured_unless_asked_otherwise_codes_backbones_or_molecules():
    names = run.default_models()
    assert {"chain-vq-4096", "molstructok"} <= set(names)
    assert not [n for n in names if n.startswith(("sidechain", "nucleic"))]
