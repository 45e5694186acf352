"""The benchmark from structures to report, on the shipped examples and a few chains of real steps."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import structok
from eval import protein, run, tables
from eval.assignments import OPEN, Assignment, assignments_of
from eval.measure import Settings, measure_model, sweep_model
from eval.peers import measure_peer
from eval.report import write_report
from eval.sets import molecule_sets, protein_sets

NO_CODE = -1


@pytest.fixture(scope="module")
def structures(tmp_path_factory, make_chain, example):
    """A folder with three chains, one too short, and the example molecule."""
    folder = tmp_path_factory.mktemp("structures")
    for i, length in enumerate((70, 60, 12)):
        make_chain(length, seed=i).write(folder / f"chain{i}.pdb")
    shutil.copy(example.parent / "ligand.sdf", folder)
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory, structures):
    """Results folder of the command line, run on `structures` in this process."""
    out = tmp_path_factory.mktemp("results")
    patch = pytest.MonkeyPatch()
    patch.setattr(run, "_apart", lambda work, *arguments: work(*arguments))
    app = typer.Typer()
    app.command()(run.main)
    arguments = ["-m", "chain-vq-256", "-m", "molstructok", "--data", str(structures), "-o", str(out), "--beam", "1"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    settings = Settings(structures, 0, 0, 8, False, beams=(1,), weights=(0.0, 4.0))
    run.merge(out / "sweep_small.json", "models", "chain-vq-256", sweep_model("chain-vq-256", settings))
    run.merge(
        out / "benchmark_small.json", "peers", "rounded coordinates", measure_peer("rounded coordinates", settings)
    )
    yield out
    patch.undo()


@pytest.fixture(scope="module")
def benchmark(results):
    return json.loads((results / "benchmark_small.json").read_text())


def test_short_chains_are_left_out_by_name(structures):
    [found] = protein_sets(structures, 0, 0)
    assert [len(c) for c in found.chains] == [70, 60]
    assert found.excluded == {"chain2_A": "12 observed residues, fewer than 25"}
    [molecules] = molecule_sets(structures, 0, whole=False)
    assert len(molecules.molecules) == 1


def test_default_and_open_loop_are_measured_with_every_axis(benchmark):
    model = benchmark["models"]["chain-vq-256"]
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


def test_molecules_have_bonds_chirality_and_a_stability(benchmark):
    found = benchmark["models"]["molstructok"]["assignments"]["closed loop, beam 8"]
    [chosen] = found["sets"].values()
    assert chosen["rmsd"]["mean"] < 0.2
    assert chosen["chirality_kept"] in (None, 1.0)
    assert chosen["valid"] == 1
    assert 0 < found["stability"]["jitter"]["0.05"]["codes"] < 1
    assert found["leakage"] is None  # one molecule has nobody to be held out


def test_the_grid_needs_more_bits_where_it_is_finer(benchmark):
    [found] = benchmark["peers"]["rounded coordinates"]["sets"].values()
    curve = found["curve"]
    assert [c["bits"] for c in curve] == sorted((c["bits"] for c in curve), reverse=True)
    for point in curve[:3]:  # rounding errors are uniform in a cell: sqrt(3 / 12) of its edge
        assert point["rmsd"]["mean"] == pytest.approx(point["grid"] / 2, rel=0.1)


def test_foldcomp_and_3di_are_measured_where_they_are_installed(structures):
    pytest.importorskip("mini3di")
    found = measure_peer("3Di letters (mini3di)", Settings(structures, 0, 0, 8, False))
    jitter = [v["codes"] for v in found["stability"]["jitter"].values()]
    assert 1 > jitter[0] > jitter[2] > 0.2
    pytest.importorskip("foldcomp")
    found = measure_peer("foldcomp", Settings(structures, 0, 0, 8, False))
    [chosen] = found["sets"].values()
    assert chosen["rmsd"]["mean"] < 0.5
    assert 64 < chosen["bits"] < chosen["bits_with_side_chains"]


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
    patch.setattr(run, "_apart", lambda work, *arguments: work(*arguments))
    out = ["--data", str(structures), "-o", str(tmp_path), "--no-report"]
    done = CliRunner().invoke(app, ["-m", "no-such-model", *out])
    patch.undo()
    assert done.exit_code == 1
    assert not (tmp_path / "benchmark_small.json").exists()
    assert CliRunner().invoke(app, ["--data", str(tmp_path / "nothing")]).exit_code == 2
    assert CliRunner().invoke(app, ["--beam", "two", *out]).exit_code == 2


def test_corruption_hits_the_asked_share_and_never_a_missing_code():
    random = np.random.default_rng(0)
    tokens = structok.Tokens(np.r_[np.full(20000, 5), [NO_CODE] * 100])
    broken = protein.corrupt(tokens, 0.05, 8, random)
    changed = broken.codes != tokens.codes
    assert changed[:20000].mean() == pytest.approx(0.05, abs=0.006)
    assert not changed[20000:].any()
    assert set(broken.codes[:20000]) == set(range(8))
    assert (protein.corrupt(tokens, 1.0, 8, random).codes[:20000] != 5).all()


def test_assignments_name_what_they_do(chain_vq):
    assert OPEN.label == "open loop"
    assert Assignment(True, 8, 0.0).label == "closed loop, beam 8"
    assert Assignment(True, 8, 0.5).label == "closed loop, beam 8, λ 0.5"
    found = assignments_of(chain_vq, [1, chain_vq.config.beam], [])
    assert [a.beam for a in found] == [chain_vq.config.beam, None, 1]  # the default is not measured twice


def test_sweep_marks_the_default_and_gains_by_the_beam(results):
    rows = json.loads((results / "sweep_small.json").read_text())["models"]["chain-vq-256"]["rows"]
    by_label = {r["label"]: r for r in rows}
    assert [r["label"] for r in rows if r["default"]] == ["closed loop, beam 64"]
    assert by_label["closed loop, beam 64"]["rmsd"]["mean"] <= by_label["closed loop, beam 1"]["rmsd"]["mean"]
    assert by_label["open loop"]["equal_to_open"] == 1
    assert by_label["open loop"]["crop start"]["20"]["codes"] > 0.9  # only the first residue's code can change


def test_report_holds_every_model_and_stays_small(results):
    page = write_report(results, small=True)
    text = page.read_text()
    assert page.stat().st_size < 2_000_000
    for name in ("chain-vq-256", "molstructok", "rounded coordinates, 0.5 Å", "Foldcomp, as published"):
        assert name in text
    assert "$" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)  # no placeholder is left
    assert "http" not in text.replace("http://www.w3.org/", "")  # nothing is fetched from anywhere


def test_the_page_works_in_a_browser(results, tmp_path):
    browser = next((b for b in map(shutil.which, ("chromium", "google-chrome", "chrome")) if b), None)
    if browser is None:
        pytest.skip("no Chromium or Chrome is installed")
    page = tmp_path / "report.html"
    probe = """<script>
const table = [...document.querySelectorAll("table")].find(t => t.rows[0].cells[2]?.textContent === "bits");
table.rows[0].cells[2].querySelector("button").click();
table.rows[0].cells[2].querySelector("button").click();
document.body.dataset.sorted = [...table.tBodies[0].rows].map(r => r.cells[2].dataset.v).join();
const canvas = document.querySelector("canvas");
const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
document.body.dataset.painted = pixels.reduce((n, v, i) => n + (i % 4 === 3 && v > 0), 0);
const before = canvas.toDataURL();
canvas.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft" }));
document.body.dataset.turned = canvas.toDataURL() !== before;
document.body.dataset.wide = document.documentElement.scrollWidth > innerWidth;
</script>"""
    page.write_text(write_report(results, small=True).read_text().replace("</body>", probe + "</body>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             f"--user-data-dir={tmp_path / 'profile'}", "--window-size=390,800", "--dump-dom"]  # fmt: skip
    done = subprocess.run([browser, *flags, page.as_uri()], capture_output=True, text=True, timeout=120)
    found = dict(re.findall(r'data-(ready|drawn|sorted|painted|turned|wide)="([^"]*)"', done.stdout))
    assert found["ready"] == "true"
    assert int(found["drawn"]) > 50
    assert int(found["painted"]) > 500
    assert found["turned"] == "true"
    assert found["wide"] == "false"  # a phone need not scroll sideways
    order = [float(v) for v in found["sorted"].split(",") if v]
    assert order == sorted(order, reverse=True)
    assert len(order) > 3


def test_tables_are_written_between_their_markers(tmp_path, benchmark, monkeypatch):
    sets = dict.fromkeys(tables.SETS)
    model = json.loads(json.dumps(benchmark["models"]["chain-vq-256"]))
    for found in model["assignments"].values():
        [figures] = found["sets"].values()
        found["sets"] = dict.fromkeys(sets, figures)
    monkeypatch.setattr(tables, "load", lambda name: {"models": {"chain-vq-256": model}} if name == "benchmark" else {})
    page = tmp_path / "README.md"
    page.write_text("above\n<!-- reconstruction -->\nold\n<!-- /reconstruction -->\nbelow\n")
    tables.fill(page, {"reconstruction": tables.reconstruction(), "benchmark": tables.benchmark()})
    text = page.read_text()
    rmsd = model["assignments"][model["default"]]["sets"]["CASP14"]["rmsd"]
    assert f"| {rmsd['mean']:.3f} ({rmsd['p95']:.3f}) |" in text
    assert "old" not in text
    assert text.startswith("above\n")
    assert text.endswith("<!-- /reconstruction -->\nbelow\n")
    assert "closed loop, beam 1" in tables.card("chain-vq-256")


def test_measuring_a_folder_without_proteins_says_so(tmp_path):
    with pytest.raises(structok.StructokError, match="no protein structures"):
        measure_model("chain-vq-64", Settings(tmp_path, 0, 0, 4, False))
