"""Write the tables of the molecule model cards from `eval/results/benchmark.json` (and `molecule_speed.json`).

    python -m eval.molecule_tables

A table stands between `<!-- results -->` and `<!-- /results -->`; everything between is replaced. `molecule.json`
holds models that were measured once and are not shipped.
"""

from __future__ import annotations

from typing import Any

from eval.tables import ROOT, fill, grid, load, measured

MODES = {"open loop": "open loop", "closed loop, beam 1": "greedy", "closed loop, beam 8": "beam 8"}
BEST = "closed loop, beam 8"


def by_set(model: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Figures of a model by set, then by assignment."""
    sets: dict[str, dict[str, Any]] = {}
    for label, found in model["assignments"].items():
        for subset, figures in found["sets"].items():
            sets.setdefault(subset, {})[label] = figures
    return sets


def row(label: str, mode: str, found: dict[str, Any]) -> list[Any]:
    """One line of a card."""
    r = found["rmsd"]
    return [
        label, mode, found["molecules"], *(f"{r[k]:.3f}" for k in ("mean", "median", "p95", "max")),
        f"{found['rmsd_heavy']['mean']:.3f}", f"{found['bond_mae']['mean']:.4f}", f"{found['angle_mae']['mean']:.2f}",
        "" if found["chirality_kept"] is None else f"{found['chirality_kept']:.2%}", f"{found['valid']:.2%}",
    ]  # fmt: skip


def card(name: str, model: dict[str, Any], speed: dict[str, Any]) -> str:
    """Everything measured about one model."""
    head = ["molecules", "assignment", "n", "RMSD mean", "median", "p95", "max", "heavy atoms",
            "bond MAE", "angle MAE °", "chirality kept", "valid"]  # fmt: skip
    sets = by_set(model)
    rows = [row(subset, MODES[mode], modes[mode]) for subset, modes in sets.items() for mode in MODES if mode in modes]
    text = [grid(head, rows), ""]
    best = {s: m[BEST] for s, m in sets.items()}
    scaffolds = ", ".join(
        f"{s} {b['unseen_scaffold']['rmsd']:.3f} ({b['unseen_scaffold']['molecules']})"
        for s, b in best.items()
        if b["unseen_scaffold"]["molecules"] > 20
    )
    text.append(f"Mean RMSD on Murcko scaffolds that no training molecule has (molecules), beam 8: {scaffolds}.\n")
    sizes = ", ".join(f"{k}: {v['mean']:.3f} ({v['n']})" for k, v in best["CCD test"]["rmsd_by_atoms"].items())
    text.append(f"By number of atoms (CCD test, beam 8): {sizes}.\n")
    use = model["assignments"][BEST]["use"]
    text.append(
        f"Codes on the CCD test set, beam 8: utilisation {use['utilisation']:.1%}, unigram entropy "
        f"{use['entropy_bits']:.2f} bits, perplexity {use['perplexity']:.0f}.\n"
    )
    steady = []
    for mode, label in MODES.items():
        found = model["assignments"].get(mode)
        if found is None:
            continue
        shares = [f"{x['codes']:.1%}" for x in found["stability"]["jitter"].values()]
        again, broken = found["stability"]["encoded again"], found["robustness"]["0.01"]
        steady.append([label, *shares, f"{again['codes']:.1%}", f"{broken['rmsd']['mean']:.2f}"])
    noise = [f"noise {k} Å" for k in model["assignments"][BEST]["stability"]["jitter"]]
    count = model["assignments"][BEST]["stability"]["molecules"]
    text.append(f"Codes unchanged by a change of the molecule ({count} of the CCD test set):\n")
    text.append(grid(["assignment", *noise, "encoded again", "RMSD, 1 % of codes wrong"], steady))
    rates = [
        f"{data.removesuffix('.npz')} {label.removeprefix(name + ', ')}: {found['encode']:.0f} encoded, "
        f"{found['decode']:.0f} decoded"
        for data, timed in speed.items()
        if isinstance(timed, dict)
        for label, found in timed.items()
        if label.startswith(name + ",")
    ]
    if rates:
        text.append(f"\nMolecules per second and core, all steps included: {'; '.join(rates)}.")
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
    models, speed = measured("molecule"), load("molecule_speed")
    if not models:
        return
    results = {name: by_set(model) for name, model in models.items()}
    every = {"released weights": results.pop("released weights", {}), **results, **load("molecule")}
    fill(ROOT / "README.md", {"molecules": overview(every)})
    for name, model in models.items():
        path = ROOT / "checkpoints" / name / "README.md"
        if path.exists():
            fill(path, {"results": card(name, model, speed), "ablation": ablation(every)})
    (ROOT / "eval" / "results" / "molecule.md").write_text(
        "Mean all-atom RMSD (Å) / mean absolute bond-length error (Å), without relaxation.\n\n" + ablation(every) + "\n"
    )


if __name__ == "__main__":
    main()
