"""Write the tables of README.md and of the model cards from `eval/results/*.json`.

    python -m eval.tables

A table stands between `<!-- NAME -->` and `<!-- /NAME -->`; everything between is replaced.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "eval" / "results"
SETS = ("validation, complete", "validation, with gaps", "CASP14")


def load(name: str) -> dict[str, Any]:
    """One results file, empty when it was never made."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def grid(header: list[str], rows: list[list[Any]]) -> str:
    """A markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def figures(result: dict[str, Any], metric: str = "rmsd") -> str:
    """Mean and 95th percentile."""
    return f"{result[metric]['mean']:.3f} ({result[metric]['p95']:.3f})"


def reconstruction() -> str:
    """All protein models, one row each."""
    rows = []
    for name, result in sorted(load("reconstruction").items(), key=lambda item: -item[1]["codes"]):
        cells = [figures(result[s]["closed loop"]) for s in SETS]
        casp = result["CASP14"]["closed loop"]
        rows.append([f"`{name}`", f"{math.log2(result['codes']):g}", *cells, casp["tm_score"]["mean"]])
    header = ["model", "bits/residue", "unseen chains", "unseen chains with gaps", "CASP14", "CASP14 TM"]
    return grid(header, rows)


def card(name: str) -> str:
    """Everything measured about one protein model."""
    result, speed = load("reconstruction")[name], load("throughput")
    rows = []
    for label in SETS:
        for mode, figure in result[label].items():
            rows.append(
                [label, mode, figure["chains"], *(f"{figure['rmsd'][k]:.3f}" for k in ("mean", "median", "p95", "max"))]
                + [f"{figure[m]['mean']:.4f}" for m in ("rmsd_ca", "tm_score", "lddt")]
            )
    head = ["chains", "assignment", "n", "RMSD mean", "median", "p95", "max", "RMSD CA", "TM", "lDDT"]
    text = [grid(head, rows), ""]
    whole = result[SETS[0]]["closed loop"]
    by_length = ", ".join(f"{k}: {v:.3f}" for k, v in whole["rmsd_by_length"].items())
    text.append(f"Mean RMSD by length (complete validation chains, closed loop): {by_length}.")
    use = whole["codebook"]
    text.append(
        f"Codes on those chains: utilisation {use['utilisation']:.1%}, unigram entropy {use['entropy_bits']:.2f} bits, "
        f"perplexity {use['perplexity']:.0f}."
    )
    steady = load("robustness")
    if name in steady.get("models", {}):
        shares = "; ".join(
            f"{what}: " + ", ".join(f"{v:.1%} of {k}" for k, v in share.items())
            for what, share in steady["models"][name].items()
        )
        text.append(f"Unchanged ({steady['chains']} validation chains, float32 coordinates): {shares}.")
    if name in speed.get("models", {}):
        rates = ", ".join(f"{k} {v:,}" for k, v in speed["models"][name].items())
        text.append(f"Speed ({speed['machine']}, {speed['threads']} thread(s)): {rates}.")
    return "\n".join(text)


def fill(path: Path, blocks: dict[str, str]) -> None:
    """Replace the marked blocks of a file."""
    text = path.read_text()
    for name, body in blocks.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text = pattern.sub(lambda m, body=body: f"{m[1]}{body}\n{m[2]}", text)
    path.write_text(text)


def main() -> None:
    """Refresh README.md and the cards of the protein models."""
    if load("reconstruction"):
        fill(ROOT / "README.md", {"reconstruction": reconstruction()})
        for name in load("reconstruction"):
            fill(ROOT / "checkpoints" / name / "README.md", {"results": card(name)})


if __name__ == "__main__":
    main()
