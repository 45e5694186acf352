"""Molecules: the report's section, and the tables of README and the cards."""

from __future__ import annotations

from html import escape
from typing import Any

from eval.report import plots
from eval.report.proteins import LEAD, RATE, codebook
from eval.report.results import ROOT, load, rows_of, sets_of, shipped
from eval.report.table import Columns, Row, Table, average, fill, grid, numbers, shares

__all__ = ["fill_molecules", "section"]

Results = dict[str, Any]
MODES = {"open loop": "open loop", "closed loop, beam 1": "greedy", "closed loop, beam 8": "beam 8"}
BEST = "closed loop, beam 8"
RELEASED = "released weights"


def section(models: Results) -> str:
    """HTML."""
    rows, sets = rows_of(models), sets_of(models)
    out = ['<h2 id="molecules">Molecules</h2>',
           "<p>Without force-field relaxation. <i>released weights</i> is MolStrucTok as published by its authors, "
           "converted and measured here; open loop is how it is published.</p>"]  # fmt: skip
    out.append(
        grid(
            [
                (plots.by_size(models, sets[0], "rmsd_by_atoms", "atoms"), f"RMSD by size: {escape(sets[0])}."),
                (plots.jitter(models, None), "Codes unchanged by coordinate noise."),
                (plots.corruption(models, "rmsd", "RMSD, Å"), "All-atom RMSD after corruption."),
                (plots.corruption(models, "lddt", "lDDT"), "lDDT over atoms after corruption."),
            ]
        )
    )
    columns: Columns = {
        **LEAD,
        "n": numbers(0, "rmsd", "n"),
        "RMSD mean": average(3, "rmsd", interval=True),
        "median": numbers(3, "rmsd", "median"),
        "p95": numbers(3, "rmsd", "p95"),
        "heavy atoms": average(3, "rmsd_heavy"),
        "bonds, Å": average(4, "bond_mae"),
        "angles, °": average(2, "angle_mae"),
        "chirality kept": shares(1, "chirality_kept"),
        "valid": shares(1, "valid"),
    }
    for chosen in sets:
        out += [f"<h3>{escape(chosen)}</h3>", Table(columns, rows_of(models, chosen)).html()]
    columns = {
        **LEAD,
        **{f"noise {k} Å": shares(0, "stability", "jitter", k, interval=True) for k in rows[0]["stability"]["jitter"]},
        "encoded again": shares(1, "stability", "encoded again"),
        **{f"RMSD, {100 * float(k):g} % replaced": average(2, "robustness", k, "rmsd") for k in rows[0]["robustness"]},
    }
    out += ["<h3>Stability and robustness</h3>", Table(columns, rows).html()]
    out += ["<h3>Bits per token</h3>", Table({**LEAD, **RATE}, rows).html()]
    return "\n".join([*out, codebook(models, "element", "molecule-codebook")])


def card(name: str, model: Results, speed: Results) -> str:
    """Everything measured about one model."""
    columns: Columns = {
        "molecules": lambda r: r["set"],
        "assignment": lambda r: MODES[r["assignment"]],
        "n": lambda r: r["molecules"],
        "RMSD mean": average(3, "rmsd"),
        **{k: numbers(3, "rmsd", k) for k in ("median", "p95", "max")},
        "heavy atoms": average(3, "rmsd_heavy"),
        "bond MAE": average(4, "bond_mae"),
        "angle MAE °": average(2, "angle_mae"),
        "chirality kept": shares(2, "chirality_kept"),
        "valid": shares(2, "valid"),
    }
    modes = sorted((r for r in rows_of({name: model}) if r["assignment"] in MODES), key=_by_mode)
    best = modes[-1]
    sets = best["sets"]
    rows = [r | {"set": s} | r["sets"][s] for s in sets for r in modes if s in r["sets"]]
    scaffolds = ", ".join(
        f"{s} {f['unseen_scaffold']['rmsd']:.3f} ({f['unseen_scaffold']['molecules']})"
        for s, f in sets.items()
        if f["unseen_scaffold"]["molecules"] > 20
    )
    sizes = ", ".join(f"{k}: {v['mean']:.3f} ({v['n']})" for k, v in sets["CCD test"]["rmsd_by_atoms"].items())
    use, stable = best["use"], best["stability"]
    steady: Columns = {
        "assignment": columns["assignment"],
        **{f"noise {k} Å": shares(1, "stability", "jitter", k) for k in stable["jitter"]},
        "encoded again": shares(1, "stability", "encoded again"),
        "RMSD, 1 % of codes wrong": average(2, "robustness", "0.01", "rmsd"),
    }
    rates = [
        f"{data.removesuffix('.npz')} {label.removeprefix(name + ', ')}: {found['encode']:.0f} encoded, "
        f"{found['decode']:.0f} decoded"
        for data, timed in speed.items()
        if isinstance(timed, dict)
        for label, found in timed.items()
        if label.startswith(name + ",")
    ]
    timing = "\nMolecules per second and core, all steps included: {}."
    return "\n".join(
        [
            Table(columns, rows).markdown(),
            f"\nMean RMSD on Murcko scaffolds that no training molecule has (molecules), beam 8: {scaffolds}.\n",
            f"By number of atoms (CCD test, beam 8): {sizes}.\n",
            f"Codes on the CCD test set, beam 8: utilisation {use['utilisation']:.1%}, unigram entropy "
            f"{use['entropy_bits']:.2f} bits, perplexity {use['perplexity']:.0f}.\n",
            f"Codes unchanged by a change of the molecule ({stable['molecules']} of the CCD test set):\n",
            Table(steady, modes).markdown(),
            *([timing.format("; ".join(rates)), _time(name, speed)] if rates else []),
        ]
    )


def _time(name: str, speed: Results) -> str:
    """Where the time goes, from a file's text to codes and back (`eval.speed.molecules`)."""
    found = {data.removesuffix(".npz"): r for data, r in speed.items() if isinstance(r, dict)}
    steps = {data: r[f"{name}, closed loop, beam 8"]["microseconds"] for data, r in found.items()}
    columns: Columns = {"step": lambda r: r["step"], **{f"{data}, µs": numbers(0, data) for data in steps}}
    rows = [{"step": s, **{data: times[s] for data, times in steps.items()}} for s in next(iter(steps.values()))]
    return f"\nWhere the time of a molecule goes, beam 8, one core:\n\n{Table(columns, rows).markdown()}"


def _by_mode(row: Row) -> int:
    return list(MODES).index(row["assignment"])


def ablation(rows: list[Row]) -> str:
    """All decoders, open and closed loop, mean RMSD and bond error."""
    subsets = ["QM9 validation", "QM9 test", "CCD validation", "CCD test", "FEP ligands"]
    columns: Columns = {
        "tokenizer": lambda r: f"`{r['tokenizer']}`",
        "assignment": lambda r: MODES[r["assignment"]],
        **{
            s: lambda r, s=s: f"{r['sets'][s]['rmsd']['mean']:.3f} / {r['sets'][s]['bond_mae']['mean']:.3f}"
            for s in subsets
        },
    }
    complete = [r for r in rows if r["assignment"] in MODES and set(subsets) <= set(r["sets"])]
    order = list(dict.fromkeys(r["tokenizer"] for r in rows))
    return Table(columns, sorted(complete, key=lambda r: (order.index(r["tokenizer"]), _by_mode(r)))).markdown()


def overview(rows: list[Row]) -> str:
    """The published tokenizer as published and in closed loop, and ours; mean and 95th percentile of the RMSD."""
    subsets = ["QM9 test", "CCD test", "FEP ligands"]

    def shown(r: Row) -> bool:
        ours = shipped(r["tokenizer"]) or r["tokenizer"] == RELEASED
        mode = r["assignment"] == BEST or (r["assignment"], r["tokenizer"]) == ("open loop", RELEASED)
        return ours and mode and set(subsets) <= set(r["sets"])

    columns: Columns = {
        "tokenizer": lambda r: f"`{r['tokenizer']}`",
        "assignment": lambda r: r["assignment"],
        **{s: lambda r, s=s: "{mean:.3f} ({p95:.3f})".format(**r["sets"][s]["rmsd"]) for s in subsets},
        "bond MAE, FEP": average(3, "sets", "FEP ligands", "bond_mae"),
    }
    chosen = sorted(filter(shown, rows), key=lambda r: r["assignment"] != "open loop")
    return Table(columns, chosen).markdown()


def fill_molecules() -> None:
    """Tables of README and the cards; `molecule.json` holds models that were measured once and are not shipped."""
    models, speed = load("benchmark").get("models", {}), load("molecule_speed")
    models = {n: m for n, m in models.items() if m["modality"] == "molecule"}
    if not models:
        return
    rows = sorted(rows_of(models), key=lambda r: r["tokenizer"] != RELEASED)
    for name, sets in load("molecule").items():
        modes = {mode for found in sets.values() for mode in found}
        rows += [
            {"tokenizer": name, "assignment": mode, "sets": {s: f[mode] for s, f in sets.items() if mode in f}}
            for mode in modes
        ]
    fill(ROOT / "README.md", {"molecules": overview(rows)})
    for name, model in models.items():
        blocks = {"results": card(name, model, speed), "ablation": ablation(rows)}
        fill(ROOT / "checkpoints" / name / "README.md", blocks)
