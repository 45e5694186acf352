"""What a small language model pays per code (`eval.lm.learnability`): the report's section and README's table."""

from __future__ import annotations

from typing import Any

from eval.report import plots
from eval.report.proteins import LEAD
from eval.report.results import ROOT, load, shipped
from eval.report.table import Columns, Row, Table, average, fill, grid, numbers, shares

__all__ = ["fill_learnability", "learnability", "table"]

Results = dict[str, Any]


def learnability(rows: Results) -> str:
    """HTML; nothing where it never ran."""
    if not rows:
        return ""
    columns: Columns = {
        "tokenizer": lambda r: r["model"],
        "assignment": LEAD["assignment"],
        "per": lambda r: r["unit"],
        "RMSD": average(3, "rmsd"),
        "unigram bits": numbers(2, "unigram_bits"),
        "code bits": average(2, "prediction", "codes", "bits", interval=True),
        "given symbols": average(2, "prediction", "codes given symbols", "bits", interval=True),
        "symbol bits": average(2, "prediction", "symbols", "bits", interval=True),
        "given codes": average(2, "prediction", "symbols given codes", "bits", interval=True),
        "codes right": shares(1, "prediction", "codes", "accuracy"),
        "samples whole": shares(0, "samples", "well_formed"),
        "compactness": numbers(2, "samples", "compactness"),
        "of real ones": numbers(2, "real_geometry", "compactness"),
    }
    settings = next(iter(rows.values()))["training"]
    return (
        '<h2 id="learnability">Learnability: what a small language model pays</h2>'
        f"<p>The same small transformer ({settings['parameters'] / 1e6:.1f} M parameters for {settings['codes']:,} "
        "codes of training) is trained on the codes of each tokenizer, alone and beside the symbols (residue types "
        "or SELFIES), and scored in bits per code on validation clusters. RMSD is that of the same validation crops. "
        "Samples are drawn from the model and decoded.</p>"
        + grid([(plots.learnability(rows), "Error against bits per code that the model needs: low and left is good.")])
        + Table(columns, rows.values()).html()
    )


def _given(row: Row) -> str:
    bits = row["prediction"]["codes given symbols"]["bits"]
    return f"{bits['mean']:.2f} ± {(bits['high'] - bits['low']) / 2:.2f}"


def _symbols(row: Row) -> str:
    alone, known = (row["prediction"][k]["bits"]["mean"] for k in ("symbols", "symbols given codes"))
    return f"{known:.2f} of {alone:.2f}"


def _clashing(row: Row) -> str:
    samples = row["samples"]
    share = samples.get("residues_clashing", samples.get("molecules_clashing"))
    return "" if share is None else f"{share:.1%}"


README: Columns = {
    "tokenizer": lambda r: f"`{r['model']}`",
    "assignment": LEAD["assignment"],
    "RMSD, Å": average(3, "rmsd"),
    "unigram": numbers(2, "unigram_bits"),
    "alone": average(2, "prediction", "codes", "bits"),
    "given the string": _given,
    "code right": shares(1, "prediction", "codes given symbols", "accuracy"),
    "string, given the codes": _symbols,
    "samples clashing": _clashing,
}


def budget(rows: list[Row]) -> str:
    """What the language models had to learn from."""

    def span(key: str) -> str:
        low, high = (f(row["training"][key] for row in rows) for f in (min, max))
        return f"{low:,}" if low == high else f"{low:,} to {high:,}"

    measured = {", ".join(f"{v:,} {k}" for k, v in row["validation"].items()) for row in rows}
    return (
        f"{span('parameters')} parameters, {span('steps')} steps on {span('tokens')} tokens, each seen once; "
        f"measured on {' and '.join(sorted(measured))}"
    )


def table(results: Results) -> str:
    """Markdown: shipped tokenizers, proteins before molecules, and their budgets."""
    rows = [row for row in results.values() if shipped(row["model"])]
    order = sorted(rows, key=lambda r: (r["unit"] != "residue", -r["codebook_size"], r["model"]))
    kinds = {
        "Proteins": [r for r in order if r["unit"] == "residue"],
        "Molecules": [r for r in order if r["unit"] == "atom"],
    }
    return "\n".join([Table(README, order).markdown(), "", *(f"{k}: {budget(r)}." for k, r in kinds.items() if r)])


def fill_learnability() -> None:
    """README's table."""
    if results := load("learnability"):
        fill(ROOT / "README.md", {"learnability": table(results)})
