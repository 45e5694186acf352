"""The report's section on molecules."""

from __future__ import annotations

from html import escape
from typing import Any

from eval import plots
from eval.html import figure, grid, mean, number, percent, table
from eval.sections import best_rows, codebook, kept, rate_cells, rows_of

__all__ = ["molecules"]

Results = dict[str, Any]


def molecules(models: Results) -> str:
    out = ['<h2 id="molecules">Molecules</h2>',
           "<p>Without force-field relaxation. <i>released weights</i> is MolStrucTok as published by its authors, "
           "converted and measured here; open loop is how it is published.</p>"]  # fmt: skip
    sets = list(dict.fromkeys(s for *_, f in rows_of(models) for s in f["sets"]))
    out.append(
        grid(
            figure(plots.by_size(models, sets[0], "rmsd_by_atoms", "atoms"), f"RMSD by size: {escape(sets[0])}."),
            figure(plots.jitter(models, None), "Codes unchanged by coordinate noise."),
            figure(plots.corruption(models, "rmsd", "RMSD, Å"), "All-atom RMSD after corruption."),
            figure(plots.corruption(models, "lddt", "lDDT"), "lDDT over atoms after corruption."),
        )
    )
    for chosen in sets:
        rows = []
        for n, a, _, found in rows_of(models):
            f = found["sets"].get(chosen)
            if f is None:
                continue
            r = f["rmsd"]
            rows.append(
                [n, a, number(r["n"], 0), mean(r), number(r["median"]), number(r["p95"]),
                 mean(f["rmsd_heavy"], interval=False), mean(f["bond_mae"], 4, False), mean(f["angle_mae"], 2, False),
                 percent(f["chirality_kept"], 1), percent(f["valid"], 1)]
            )  # fmt: skip
        head = ["tokenizer", "assignment", "n", "RMSD mean", "median", "p95", "heavy atoms", "bonds, Å", "angles, °",
                "chirality kept", "valid"]  # fmt: skip
        out += [f"<h3>{escape(chosen)}</h3>", table(head, rows, best_rows(rows_of(models)))]
    rows = []
    for n, a, _, f in rows_of(models):
        s = f["stability"]
        cells = [kept(s["jitter"], k) for k in s["jitter"]]
        broken = [mean(v["rmsd"], 2, False) for v in f["robustness"].values()]
        rows.append([n, a, *cells, percent(s["encoded again"]["codes"], 1), *broken])
    first = rows_of(models)[0][3]
    head = ["tokenizer", "assignment", *(f"noise {k} Å" for k in first["stability"]["jitter"]), "encoded again"]
    head += [f"RMSD, {100 * float(k):g} % replaced" for k in first["robustness"]]
    out += ["<h3>Stability and robustness</h3>", table(head, rows, best_rows(rows_of(models)))]
    rows = [[n, a, *rate_cells(f)] for n, a, _, f in rows_of(models)]
    head = ["tokenizer", "assignment", "log2 K", "tokens", "unigram", "corrected", "bigram ≥", "bigram ≤"]
    out += ["<h3>Bits per token</h3>", table(head, rows, best_rows(rows_of(models)))]
    return "\n".join([*out, codebook(models, "element", "molecule-codebook")])
