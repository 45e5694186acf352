"""The axes of StructTokenBench (`eval.measure.structtokenbench`): the report's section and README's table."""

from __future__ import annotations

from typing import Any

from eval.report.proteins import LEAD
from eval.report.results import ROOT, load
from eval.report.table import Columns, Table, average, fill, numbers, shares

__all__ = ["fill_structtokenbench", "section"]

Results = dict[str, Any]
COLUMNS: Columns = {
    **LEAD,
    "codes": numbers(0, "codes"),
    "sensitivity, Pearson": average(2, "sensitivity", "all", "per residue", "pearson", interval=True),
    "Spearman": average(2, "sensitivity", "all", "per residue", "spearman", interval=True),
    "unseen pairs": average(2, "sensitivity", "unseen", "per residue", "spearman", interval=True),
    "raw score, Spearman": average(2, "sensitivity", "all", "raw", "spearman", interval=True),
    "cosines above 0.9, by use": shares(1, "distinctiveness", "centred, by use", "above 0.9"),
    "codes used": shares(1, "efficiency", "whole set", "utilisation"),
    "perplexity / K": numbers(2, "efficiency", "whole set", "perplexity"),
    "a chain": numbers(3, "efficiency", "mean of chains", "perplexity"),
    "secondary structure, F1": average(3, "effectiveness", "secondary structure, macro F1", interval=True),
    "burial, Spearman": average(3, "effectiveness", "burial, Spearman", interval=True),
    "residue type": average(3, "effectiveness", "residue type, share right", interval=True),
}
SHORT = ("tokenizer", "assignment", "Spearman", "unseen pairs", "cosines above 0.9, by use", "codes used",
         "perplexity / K", "secondary structure, F1", "burial, Spearman", "residue type")  # fmt: skip
README = {"sensitivity" if k == "Spearman" else k: COLUMNS[k] for k in SHORT}


def section(found: Results, published: Results) -> str:
    """HTML; nothing where it never ran."""
    if not found:
        return ""
    pairs, chains = found["pairs"], found["chains"]
    kinds = {
        f"{kind} ({row['n']})": average(2, "sensitivity", kind, "per residue", "spearman", interval=True)
        for kind, row in _kinds(found)
    }
    return (
        '<h2 id="structtokenbench">The axes of StructTokenBench</h2>'
        f"<p>Sensitivity: correlation, over {pairs['all']} pairs of conformations, of an alignment score of the two "
        "code sequences (100 × cosine of the codes' vectors, gap -10, divided by the aligned residues) with the mean "
        f"of both TM-scores; {pairs['unseen']} pairs have no relative in training. Raw scores grow with length. "
        "Distinctiveness: share of pairs of codes, weighted by use, whose centred vectors point the same way. "
        "Efficiency: over the whole set; the mean of single chains is the published convention. Effectiveness: a "
        f"probe on frozen vectors of a residue's and its neighbours' codes, fitted on {chains['train']} chains and "
        f"scored on {chains['test']} of other clusters. <i>Position alone</i> knows no code.</p>"
        + Table(COLUMNS, found["rows"].values()).html()
        + "<details><summary>Sensitivity by kind of pair (Spearman, per residue)</summary>"
        + Table({**LEAD, **kinds}, found["rows"].values()).html()
        + f"</details><p>Published, {published['protocol']} ({published['source']}): "
        + ", ".join(f"{name} {figure}" for name, figure in published["models"].items())
        + ".</p>"
    )


def _kinds(found: Results) -> list[tuple[str, Results]]:
    first = next(row["sensitivity"] for row in found["rows"].values() if "sensitivity" in row)
    return [(kind, of["raw"]) for kind, of in first.items() if kind != "all"]


def fill_structtokenbench() -> None:
    """README's table."""
    if found := load("structtokenbench"):
        fill(ROOT / "README.md", {"structtokenbench": Table(README, found["rows"].values()).markdown()})
