"""What small language models pay for tokens, forgive, and write (`eval.lm`): the report's section, README's tables."""

from __future__ import annotations

from typing import Any

import matplotlib

from eval import RESULTS
from eval.report import plots
from eval.report.proteins import LEAD
from eval.report.results import ROOT, load, shipped
from eval.report.table import NONE, Cell, Columns, Row, Table, average, dig, fill, grid, numbers, shares

__all__ = ["fill_learnability", "generation_table", "learnability", "molecule_table", "table", "tolerance_table"]

Results = dict[str, Any]
FORMS = ("none", "inline", "first")


def within(digits: int, *keys: str, percent: bool = False) -> Any:
    """A column of means with half the width of their 95 % intervals."""

    def show(row: Row) -> Cell:
        found = dig(row, *keys)
        if not found:
            return NONE
        scale, unit = (100, " %") if percent else (1, "")
        if found.get("low") == found.get("high"):
            return Cell(f"{scale * found['mean']:.{digits}f}{unit}", f"{found['mean']}")
        half = scale * (found["high"] - found["low"]) / 2
        return Cell(f"{scale * found['mean']:.{digits}f} ± {half:.{digits}f}{unit}", f"{found['mean']}")

    return show


def learnability(rows: Results) -> str:
    """HTML; nothing where it never ran."""
    if not rows:
        return ""
    columns: Columns = {
        "tokenizer": lambda r: r["model"],
        "assignment": LEAD["assignment"],
        "anchors": lambda r: r.get("anchors", "none"),
        "per": lambda r: r["unit"],
        "RMSD": average(3, "rmsd"),
        "unigram bits": numbers(2, "unigram_bits"),
        "code bits": average(2, "prediction", "codes", "bits", interval=True),
        "given symbols": average(2, "prediction", "codes given symbols", "bits", interval=True),
        "anchor bits": average(2, "prediction", "anchors", "bits", interval=True),
        "bits per unit": average(2, "prediction", "structure", "per_unit", interval=True),
        "per unit, given symbols": average(2, "prediction", "structure given symbols", "per_unit", interval=True),
        "codes right": shares(1, "prediction", "codes", "accuracy"),
    }
    settings = next(iter(rows.values()))["training"]
    bare = {
        name: row for name, row in rows.items() if row.get("anchors", "none") == "none" and "codes" in row["prediction"]
    }
    return (
        '<h2 id="learnability">Learnability: what a small language model pays</h2>'
        f"<p>The same small transformer ({settings['parameters'] / 1e6:.1f} M parameters, {settings['tokens']:,} "
        "tokens of training) is trained on the codes of each tokenizer, alone and behind the symbols (residue types or "
        "SELFIES), and scored in bits per code on validation clusters. RMSD is that of the same validation crops.</p>"
        + grid([(plots.learnability(bare), "Error against bits per code that the model needs: low and left is good.")])
        + Table(columns, rows.values()).html()
    )


README: Columns = {
    "tokenizer": lambda r: f"`{r['model']}`",
    "assignment": LEAD["assignment"],
    "anchors": lambda r: r["anchors"] if r["unit"] == "residue" else NONE,
    "RMSD, Å": average(3, "rmsd"),
    "unigram": numbers(2, "unigram_bits"),
    "a code": within(2, "prediction", "codes", "bits"),
    "an anchor": within(2, "prediction", "anchors", "bits"),
    "a token": within(2, "prediction", "structure", "bits"),
    "a residue or atom": within(2, "prediction", "structure", "per_unit"),
    "more than without anchors": within(2, "more than without anchors", "structure"),
    "more for codes alone": within(2, "more than without anchors", "codes"),
    "a residue or atom, given the string": within(2, "prediction", "structure given symbols", "per_unit"),
    "code right": shares(1, "prediction", "codes given symbols", "accuracy"),
}


def ordered(rows: list[Row]) -> list[Row]:
    """Large codebooks first; anchors none, inline, first."""
    return sorted(rows, key=lambda r: (-r["codebook_size"], r["model"], r["assignment"], FORMS.index(r["anchors"])))


def budget(rows: list[Row]) -> str:
    """What the language models had to learn from."""

    def span(values: list[int]) -> str:
        low, high = min(values), max(values)
        return f"{low:,}" if low == high else f"{low:,} to {high:,}"

    trained = {key: span([row["training"][key] for row in rows]) for key in ("parameters", "steps", "tokens")}
    return (
        f"{trained['parameters']} parameters, {trained['steps']} steps on {trained['tokens']} tokens, "
        f"seeds: {span([row['seeds'] for row in rows])}"
    )


def table(results: Results) -> str:
    """Markdown: shipped tokenizers, proteins before molecules, and their budgets."""
    rows = [row for row in results.values() if shipped(row["model"])]
    kinds = {
        "Proteins": ordered([r for r in rows if r["unit"] == "residue"]),
        "Molecules": ordered([r for r in rows if r["unit"] == "atom"]),
    }
    lines = [row for part in kinds.values() for row in part]
    says = [f"{k}: {budget(r)}, measured on {_measured(r[0])}." for k, r in kinds.items() if r]
    return "\n".join([Table(README, lines).markdown(), "", *says])


def _measured(row: Row) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in row["validation"].items())


def tolerance_table(results: Results) -> str:
    """Markdown: a line per tokenizer, form and what the model's samples replace."""

    def cell(rate: str) -> Any:
        def show(row: Row) -> str:
            found = row[row["case"]][rate]
            half = (found["rmsd"]["high"] - found["rmsd"]["low"]) / 2
            tm, lddt = (found[name]["mean"] for name in ("tm_score", "lddt"))
            return f"{found['rmsd']['mean']:.2f} ± {half:.2f} / {tm:.2f} / {lddt:.2f}"

        return show

    found = ordered([row for row in results.values() if shipped(row["model"])])
    rates = list(found[0]["codes"])
    columns: Columns = {
        "tokenizer": lambda r: f"`{r['model']}`",
        "anchors": lambda r: r["anchors"],
        "the model's own": lambda r: r["case"],
        **{f"{float(rate):.0%} of them".replace("%", " %"): cell(rate) for rate in rates},
    }
    rows = [row | {"case": case} for row in found for case in ("codes", "codes and anchors") if case in row]
    return "\n".join(
        [
            Table(columns, rows).markdown(),
            "",
            "RMSD over N, CA, C in Å ± half the 95 % interval / TM / lDDT; "
            f"{found[0]['crops']} validation crops of 50 to 200 residues; {budget(found)}.",
        ]
    )


def generation_table(results: Results) -> str:
    """Markdown: sampled chains beside real ones."""
    columns: Columns = {
        "chains": lambda r: r["name"],
        "residues clashing": within(1, "residues_clashing", percent=True),
        "chain breaks": within(1, "breaks", percent=True),
        "phi, psi": within(2, "distance to real", "phi, psi"),
        "C-N": within(2, "distance to real", "bond C-N"),
        "radius": within(2, "compactness"),
        "helix": within(0, "helix", percent=True),
        "strand": within(0, "strand", percent=True),
        "contact order": within(2, "contact_order"),
        "nearest in training": within(2, "nearest training chain, TM"),
        "to each other": within(2, "among themselves, TM"),
        "TM to the true chain": within(2, "TM to the true chain"),
    }
    made = ordered([r for r in results.values() if r["unit"] == "chain" and shipped(r["model"])])
    rows: list[Row] = [{"name": "real chains", **made[0]["real"]}]
    for kind in ("unconditional", "given the sequence"):
        rows += [{"name": f"`{r['model']}`, anchors {r['anchors']}, {kind}", **r[kind]} for r in made]
    return "\n".join(
        [
            Table(columns, rows).markdown(),
            "",
            f"{made[0]['crops']} samples of each model, of the lengths of real validation crops; {budget(made)}; "
            "intervals resample seeds and chains. Clashes: CA within 3 Å; breaks: C-N bonds outside 1.33 ± 0.15 Å; "
            "phi, psi and C-N: total variation from real chains, 0 to 1 (of real ones: between halves, so this much is "
            "noise); radius of gyration over that of a globule; secondary structure by P-SEA; the last columns are "
            f"TM-scores, the best to {made[0]['training_chains']} training crops for {made[0]['aligned']} samples.",
        ]
    )


def molecule_table(results: Results) -> str:
    """Markdown: sampled molecules beside real ones; nothing where there are none."""
    columns: Columns = {
        "molecules": lambda r: r["name"],
        **{name: within(1, name, percent=True) for name in ("valid", "unique", "new")},
        "with a clash": within(1, "clashing", percent=True),
        "strain, kcal/mol per heavy atom, median (mean)": lambda r: (
            f"{r['strain']['median']:.2f} ({r['strain']['mean']:,.2f})" if "strain" in r else NONE
        ),
        "bonds": within(2, "bonds"),
        "angles": within(2, "angles"),
    }
    made = ordered([r for r in results.values() if r["unit"] == "molecule" and shipped(r["model"])])
    rows = [r | r.get("sampled molecules", {}) | {"name": f"`{r['model']}`"} for r in made]
    says = (
        "Valid: every token of the sampled SELFIES has its place in the molecule, which decodes; new: not among 20,000 "
        "training molecules; strain: MMFF94 above the nearest minimum; bonds, angles: total variation from QM9, 0 to 1."
    )
    if not made:
        return ""
    says = f"{made[0]['sampled']} samples of each model; {budget(made)}. {says}"
    return f"{Table(columns, [*rows, {'name': 'QM9, validation', **made[0]['real']}]).markdown()}\n\n{says}"


def tolerance_figure(results: Results) -> None:
    """`eval/results/tolerance.svg`."""
    figure = plots.tolerance(ordered([row for row in results.values() if shipped(row["model"])]))
    figure.tight_layout()
    matplotlib.rcParams.update({"svg.hashsalt": "tolerance", "svg.fonttype": "path"})
    figure.savefig(RESULTS / "tolerance.svg", facecolor="white", metadata={"Date": None})


def fill_learnability() -> None:
    """README's tables, and the figure of tolerance."""
    blocks = {}
    if results := load("learnability"):
        blocks["learnability"] = table(results)
    if results := load("tolerance"):
        blocks["tolerance"] = tolerance_table(results)
        tolerance_figure(results)
    if results := load("generation"):
        blocks["generation"] = generation_table(results)
        if molecules := molecule_table(results):
            blocks["generated-molecules"] = molecules
    fill(ROOT / "README.md", blocks)
