"""Write the tables of the molecule model cards from `eval/results/molecule*.json`.

    python -m eval.molecule_tables

A table stands between `<!-- results -->` and `<!-- /results -->`; everything between is replaced.
"""

from __future__ import annotations

from typing import Any

from eval.tables import ROOT, fill, grid, load

MODES = {"open loop": "open loop", "closed loop, beam 1": "greedy", "closed loop, beam 8": "beam 8"}


def row(label: str, mode: str, found: dict[str, Any]) -> list[Any]:
    """One line of a card."""
    r = found["rmsd"]
    return [
        label, mode, found["molecules"], *(f"{r[k]:.3f}" for k in ("mean", "median", "p95", "max")),
        f"{found['rmsd_heavy']['mean']:.3f}", f"{found['bond_mae']['mean']:.4f}", f"{found['angle_mae']['mean']:.2f}",
        "" if found["chirality_kept"] is None else f"{found['chirality_kept']:.2%}", f"{found['valid']:.2%}",
    ]  # fmt: skip


def card(name: str, results: dict[str, Any], speed: dict[str, Any]) -> str:
    """Everything measured about one model."""
    head = ["molecules", "assignment", "n", "RMSD mean", "median", "p95", "max", "heavy atoms",
            "bond MAE", "angle MAE °", "chirality kept", "valid"]  # fmt: skip
    rows = [
        row(subset, MODES[mode], found)
        for subset, modes in results[name].items()
        for mode, found in modes.items()
        if mode in MODES
    ]
    text = [grid(head, rows), ""]
    best = {s: m["closed loop, beam 8"] for s, m in results[name].items()}
    scaffolds = ", ".join(
        f"{s} {b['unseen_scaffold']['rmsd']:.3f} ({b['unseen_scaffold']['molecules']})"
        for s, b in best.items()
        if b["unseen_scaffold"]["molecules"] > 20
    )
    text.append(f"Mean RMSD on Murcko scaffolds that no training molecule has (molecules), beam 8: {scaffolds}.\n")
    test = best["CCD test"]
    sizes = ", ".join(f"{k}: {v['rmsd']:.3f} ({v['molecules']})" for k, v in test["rmsd_by_atoms"].items())
    text.append(f"By number of atoms (CCD test, beam 8): {sizes}.\n")
    codes = test["codes"]
    text.append(
        f"Codes on the CCD test set, beam 8: utilisation {codes['utilisation']:.1%}, unigram entropy "
        f"{codes['entropy_bits']:.2f} bits, perplexity {codes['perplexity']:.0f}."
    )
    rates = [
        f"{data.removesuffix('.npz')} {label.removeprefix(name + ', ')}: {found['encode']:.0f} encoded, "
        f"{found['decode']:.0f} decoded"
        for data, timed in speed.items()
        if isinstance(timed, dict)
        for label, found in timed.items()
        if label.startswith(name + ",")
    ]
    if rates:
        text.append(f"\nMolecules per second, two cores, batch of 1,000, all steps included: {'; '.join(rates)}.")
    return "\n".join(text)


def ablation(results: dict[str, Any]) -> str:
    """All decoders, open and closed loop, mean RMSD and bond error."""
    subsets = ["QM9 validation", "QM9 test", "CCD validation", "CCD test", "FEP ligands"]

    def cell(found: dict[str, Any]) -> str:
        return f"{found['rmsd']['mean']:.3f} / {found['bond_mae']['mean']:.3f}"

    rows = [
        [f"`{name}`", label, *(cell(r[s][mode]) for s in subsets)]
        for name, r in results.items()
        for mode, label in MODES.items()
        if all(mode in r.get(s, {}) for s in subsets)
    ]
    return grid(["tokenizer", "assignment", *subsets], rows)


def overview(results: dict[str, Any]) -> str:
    """The published tokenizer as published and in closed loop, and ours; mean and 95th percentile of the RMSD."""
    subsets = ["QM9 test", "CCD test", "FEP ligands"]
    shown = [n for n in results if n == "released weights" or (ROOT / "checkpoints" / n).is_dir()]
    lines = [("released weights", "open loop"), *((name, "closed loop, beam 8") for name in shown)]
    rows = []
    for name, mode in lines:
        if all(mode in results[name].get(s, {}) for s in subsets):
            found = [results[name][s][mode] for s in subsets]
            cells = [f"{f['rmsd']['mean']:.3f} ({f['rmsd']['p95']:.3f})" for f in found]
            rows.append([f"`{name}`", mode, *cells, f"{found[-1]['bond_mae']['mean']:.3f}"])
    return grid(["tokenizer", "assignment", *subsets, "bond MAE, FEP"], rows)


def main() -> None:
    """Refresh README.md, the cards, and the ablation table in eval/results/molecule.md."""
    results, speed = load("molecule"), load("molecule_speed")
    fill(ROOT / "README.md", {"molecules": overview(results)})
    for name in results:
        path = ROOT / "checkpoints" / name / "README.md"
        if path.exists():
            fill(path, {"results": card(name, results, speed), "ablation": ablation(results)})
    (ROOT / "eval" / "results" / "molecule.md").write_text(
        "Mean all-atom RMSD (Å) / mean absolute bond-length error (Å), without relaxation.\n\n"
        + ablation(results)
        + "\n"
    )


if __name__ == "__main__":
    main()
