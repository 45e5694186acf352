"""Write the learnability table of README.md from `eval/results/learnability.json`.

    python -m eval.learnability_tables

It stands between `<!-- learnability -->` and `<!-- /learnability -->`; everything between is replaced.
"""

from __future__ import annotations

from typing import Any

from eval.tables import ROOT, fill, grid, load

HEADER = [
    "tokenizer", "assignment", "RMSD, Å", "unigram", "alone", "given the string", "code right",
    "string, given the codes", "samples clashing",
]  # fmt: skip


def line(row: dict[str, Any]) -> list[str]:
    """One tokenizer and assignment."""
    found, samples = row["prediction"], row["samples"]
    known, symbols, seen = found["codes given symbols"], found["symbols"], found["symbols given codes"]
    clash = samples.get("residues_clashing", samples.get("molecules_clashing"))
    return [
        f"`{row['model']}`",
        row["assignment"],
        f"{row['rmsd']['mean']:.3f}",
        f"{row['unigram_bits']:.2f}",
        f"{found['codes']['bits']['mean']:.2f}",
        f"{known['bits']['mean']:.2f} ± {(known['bits']['high'] - known['bits']['low']) / 2:.2f}",
        f"{known['accuracy']:.1%}",
        f"{seen['bits']['mean']:.2f} of {symbols['bits']['mean']:.2f}",
        "" if clash is None else f"{clash:.1%}",
    ]


def budget(rows: list[dict[str, Any]]) -> str:
    """What the language models had to learn from."""
    training = [row["training"] for row in rows]

    def span(key: str) -> str:
        low, high = min(t[key] for t in training), max(t[key] for t in training)
        return f"{low:,}" if low == high else f"{low:,} to {high:,}"

    return (
        f"{span('parameters')} parameters, {span('steps')} steps on {span('tokens')} tokens, each seen once; "
        + "measured on "
        + " and ".join(sorted({", ".join(f"{v:,} {k}" for k, v in row["validation"].items()) for row in rows}))
    )


def table(results: dict[str, Any]) -> str:
    """All rows, proteins before molecules, and their budgets."""
    order = sorted(results.values(), key=lambda r: (r["unit"] != "residue", -r["codebook_size"], r["model"]))
    text = [grid(HEADER, [line(row) for row in order]), ""]
    for unit, name in (("residue", "Proteins"), ("atom", "Molecules")):
        if rows := [row for row in order if row["unit"] == unit]:
            text.append(f"{name}: {budget(rows)}.")
    return "\n".join(text)


def main() -> None:
    """Refresh README.md."""
    if results := load("learnability"):
        fill(ROOT / "README.md", {"learnability": table(results)})


if __name__ == "__main__":
    main()
