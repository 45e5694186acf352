"""The benchmark as one static HTML page: every figure in it comes from the JSON files beside it."""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from eval import RESULTS
from eval.report import lm, molecules, proteins, structtokenbench
from eval.report.results import load, of_modality, rows_of
from eval.report.table import Columns, Table, numbers
from structok.files import write_whole

__all__ = ["write_report"]

Results = dict[str, Any]


def write_report(folder: Path = RESULTS, *, small: bool = False) -> Path:
    """Write FOLDER/report.html (report_small.html) from the results in FOLDER; returns its path."""
    kind = "_small" if small else ""
    benchmark, overlays, sweep = (load(f"{name}{kind}", folder) for name in ("benchmark", "overlay", "sweep"))
    published = load("published")
    protein, molecule = (of_modality(benchmark.get("models", {}), m) for m in ("protein", "molecule"))
    models = {**protein, **molecule}
    peers = {n: p for n, p in benchmark.get("peers", {}).items() if "missing" not in p}
    overlay = _overlay(overlays.get("models", {}), list(models))
    body = [VIEWER] if overlay else []
    if protein:
        body += [
            proteins.accuracy(protein, peers, published),
            proteins.stability(protein, peers),
            proteins.robustness(protein),
            proteins.trade_off(sweep.get("models", {})),
            proteins.rate(protein, peers),
            proteins.codebook(protein, "residue type"),
            structtokenbench.section(load("structtokenbench", folder), published["structtokenbench"]),
        ]
    if molecule:
        body.append(molecules.section(molecule))
    learned = lm.learnability(load("learnability", folder))
    body += [learned, _speed(models), _protocol(models, benchmark.get("peers", {}), published)]
    page = Template(Path(__file__).with_name("page.html").read_text()).substitute(
        body=_head(models, small, "".join(body)) + "\n".join(body),
        overlay=json.dumps(overlay, separators=(",", ":")).replace("</", "<\\/"),
    )
    out = folder / f"report{kind}.html"
    write_whole(out, page.encode())
    return out


def _head(models: Results, small: bool, body: str) -> str:
    """Title, one line per model, and links to the sections of the body."""
    lines = []
    for name, m in models.items():
        found = m["assignments"][m["default"]]
        chosen, figures = next(iter(found["sets"].items()))
        unit = "residue" if m["modality"] == "protein" else "atom"
        rebuilt = figures["rmsd"]
        lines.append(
            f"<li><b>{escape(name)}</b>: {found['rate']['bits']:g} bits per {unit}, mean RMSD {rebuilt['mean']:.3f} Å "
            f"(p95 {rebuilt['p95']:.3f}) on {rebuilt['n']} structures ({escape(chosen)}); "
            f"{found['stability']['jitter']['0.1']['codes']:.0%} of codes unchanged by 0.1 Å of noise.</li>"
        )
    anchors = [a for a in re.findall(r'<h2 id="([\w-]+)"', body) if a != "viewer-title"]
    links = "".join(f'<a href="#{a}">{a.replace("-", " ")}</a>' for a in anchors)
    full = "all held-out chains, and at most 500 molecules of each large split"
    mode = "a small sample: figures are rough, intervals are wide" if small else full
    return (
        "<h1>structok benchmark</h1><p>What a structure tokenizer keeps of a structure, and what a language model "
        f"pays for it. Measured on {mode}.</p><ul>{''.join(lines)}</ul><nav>{links}</nav>"
    )


VIEWER = """<h2 id="viewer-title">Input and reconstruction</h2>
<div id="viewer">
<div class="controls"><label>structure <select></select></label><label>rebuilt by <select></select></label></div>
<canvas tabindex="0" role="img" aria-label="overlay of a structure and its reconstruction; arrow keys turn it"></canvas>
<div class="controls">
<label><input type="checkbox" checked> <span class="key" style="--colour: var(--input)">input</span></label>
<label><input type="checkbox" checked> <span class="key" style="--colour: var(--rebuilt)">rebuilt</span></label>
<output></output><span class="soft">drag to turn, wheel or pinch to zoom</span>
</div></div>"""


def _overlay(models: Results, order: list[str]) -> list[Results]:
    """Structures with the reconstructions of all models, the input once, seen along its thinnest axis."""
    structures: dict[str, Results] = {}
    for model in sorted(models, key=lambda n: order.index(n) if n in order else len(order)):
        for item in models[model]:
            shown = structures.setdefault(item["structure"], {**item, "rebuilt": []})
            shown["rebuilt"] += [{"label": f"{model}, {label}", **r} for label, r in item["rebuilt"].items()]
    for shown in structures.values():
        points = np.array(shown["points"]).reshape(-1, 3)
        middle = points.mean(0)
        axes = np.linalg.svd(points - middle, full_matrices=False)[2]
        axes[2] = np.cross(axes[0], axes[1])  # a rotation, no mirror image
        for traces in (shown, *shown["rebuilt"]):
            turned = (np.array(traces["points"]).reshape(-1, 3) - middle) @ axes.T
            traces["points"] = np.round(turned).astype(int).ravel().tolist()
    return list(structures.values())


def _speed(models: Results) -> str:
    columns: Columns = {
        **proteins.LEAD,
        "unit": lambda r: r["speed"]["unit"],
        "encode": numbers(0, "speed", "encode"),
        "decode": numbers(0, "speed", "decode"),
        "peak MB": numbers(0, "model", "memory", "peak MB"),
        "MB before": numbers(0, "model", "memory", "loaded MB"),
        "threads": numbers(0, "model", "machine", "threads"),
        "load": numbers(1, "model", "machine", "load"),
    }
    return (
        '<h2 id="speed">Speed and memory</h2>'
        "<p>Measured within the benchmark, one process per model, beside whatever else the machine was doing (load: "
        "average number of busy threads when it began). Peak memory is the process's over all assignments. Dedicated "
        "timings: <code>eval/speed/</code>.</p>" + Table(columns, rows_of(models)).html()
    )


def _protocol(models: Results, peers: Results, published: Results) -> str:
    out = ['<h2 id="protocol">Protocol</h2>', "<ul>"]
    out += [f"<li>{line}</li>" for line in PROTOCOL]
    if published:
        out.append(
            f"<li>Published figures: {escape(published['proteins']['source'])}. "
            f"{escape(published['proteins']['protocol'])}.</li>"
        )
        for name, p in published["compression"]["models"].items():
            out.append(f"<li>{escape(name)}, as published: {escape(p['figure'])} ({escape(p['source'])}).</li>")
    out += [
        f"<li>{escape(n)}: not measured, needs {escape(p['missing'])}.</li>" for n, p in peers.items() if "missing" in p
    ]
    out.append("</ul><h3>How each model was run</h3>")
    columns: Columns = {
        "tokenizer": lambda r: r["name"],
        "default": lambda r: r["default"],
        "mode": lambda r: r["settings"]["mode"],
        "structures": lambda r: r["settings"]["source"],
        "seed": numbers(0, "settings", "seed"),
        "machine": lambda r: r["machine"]["machine"],
        "seconds": numbers(0, "seconds"),
    }
    out.append(Table(columns, models.values()).html())
    out.append("<h3>Left out</h3>")
    seen: dict[str, dict[str, str]] = {}
    for row in rows_of(models):
        for chosen, f in row["sets"].items():
            seen.setdefault(chosen, {}).update(f["excluded"])
    for chosen, excluded in seen.items():
        items = "".join(f"<li>{escape(k)}: {escape(v)}</li>" for k, v in excluded.items())
        out.append(f"<details><summary>{escape(chosen)}: {len(excluded)}</summary><ul>{items}</ul></details>")
    return "\n".join(out)


PROTOCOL = (
    "RMSD over N, CA and C of observed residues after Kabsch superposition (no reflection); RMSD CA over CA alone; "
    "TM-score with its superposition optimised, normalised by observed length; lDDT over CA. Molecules: all atoms, "
    "hydrogens included, atom identity known.",
    "Validation chains belong to sequence clusters (40 % identity) that share nothing with training. CASP14 was never "
    "trained or tuned on, but 5 of its 32 targets have a relative of 90 % identity or more among the training chains.",
    "Brackets hold 95 % bootstrap intervals of the mean over structures (1,000 resamples).",
    "Bold rows are the defaults of each checkpoint. Rows in italics are published, not measured here.",
    "Foldcomp's bits are those of the file of an all-glycine chain of the same backbone, so without side chains; its "
    "RMSD is that of the true sequence. Rounded coordinates: nine times the entropy of the step between successive "
    "atoms along an axis.",
)
