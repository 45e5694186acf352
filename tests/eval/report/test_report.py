"""The page and the tables made from results."""

import json
import re
import shutil
import subprocess

import pytest

from eval.report import cards
from eval.report.page import write_report
from eval.report.results import load
from eval.report.table import Table, average, fill, number, shares


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


def test_tables_are_written_between_their_markers(tmp_path, figures, monkeypatch):
    sets = dict.fromkeys(cards.SETS)
    model = json.loads(json.dumps(figures["models"]["chain-vq-256"]))
    for found in model["assignments"].values():
        [chosen] = found["sets"].values()
        found["sets"] = dict.fromkeys(sets, chosen)
    monkeypatch.setattr(cards, "ranked", lambda modality: {"chain-vq-256": model})
    learned = {"model": "chain-vq-256", "assignment": model["default"], "anchors": "none"}
    learned["prediction"] = {"codes given symbols": {"bits": {"mean": 6.125}}}
    weighted = {**learned, "assignment": f"{model['default']}, μ 0.015"}
    weighted["prediction"] = {"codes given symbols": {"bits": {"mean": 4.5}}}
    found = {"published": load("published"), "learnability": {"b": weighted, "a": learned}}
    monkeypatch.setattr(cards, "load", lambda name: found.get(name, {}))
    page = tmp_path / "README.md"
    page.write_text("above\n<!-- reconstruction -->\nold\n<!-- /reconstruction -->\nbelow\n")
    fill(page, {"reconstruction": cards.reconstruction(), "lookups": "not there"})
    text = page.read_text()
    rmsd = model["assignments"][model["default"]]["sets"]["CASP14"]["rmsd"]
    assert f"| {rmsd['mean']:.3f} ({rmsd['p95']:.3f}) |" in text
    assert "old" not in text
    assert text.startswith("above\n")
    assert text.endswith("<!-- /reconstruction -->\nbelow\n")
    assert "closed loop, beam 1" in cards.card("chain-vq-256")
    ours, opened, *published = cards.axes().splitlines()[2:]
    assert ours.startswith(f"| `chain-vq-256` | {model['default']} | 8 + 2 |") and "| 6.12 |" in ours
    assert "| open loop |" in opened and "6.12" not in opened  # learned in closed loop only
    assert any(line.startswith("| ESM3") and "| published |" in line for line in published)


def test_a_table_says_the_same_in_markdown_and_html():
    columns = {
        "name": lambda r: r["name"],
        "n": lambda r: number(r.get("n"), 0),
        "share": shares(1, "s", interval=True),
        "mean": average(2, "m"),
    }
    share = {"codes": 0.5, "interval": [0.4, 0.6]}
    table = Table(columns, [{"name": "<a>", "n": 1234, "s": share, "m": {"mean": 2.0}, "mark": "best"}, {"name": "b"}])
    lines = table.markdown().splitlines()
    assert lines[0] == "| name | n | share | mean |"
    assert lines[2:] == ["| <a> | 1,234 | 50.0% | 2.00 |", "| b | – | – | – |"]
    page = table.html()
    assert '<tr class="best"><td data-v="&lt;a&gt;">&lt;a&gt;</td><td data-v="1234">1,234</td>' in page
    assert '<td data-v="0.5">50.0% <span class="ci">[40.0%, 60.0%]</span></td>' in page
    assert '<td data-v="">–</td>' in page  # sorts last
