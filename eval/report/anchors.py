"""README's tables of anchors, from `eval.measure.anchors`; nothing where it has not run."""

from __future__ import annotations

from typing import Any

from eval.report.results import ROOT, load
from eval.report.table import Columns, Table, average, fill, numbers, shares

__all__ = ["anchors", "fill_anchors"]


SHOWN = (("RMSD, Å", "rmsd", 2), ("TM", "tm_score", 3), ("lDDT", "lddt", 2))


def anchors(found: dict[str, Any]) -> str:
    """Damage with and without anchors, other damage, lengths, spacings, then complexes, noise and cost in words."""
    parts = [_rates(found["chains"]), _words(found)]
    for name, show in (("kinds", _kinds), ("chains", _lengths), ("spacings", _spacings)):
        if name in found:
            parts.append(show(found[name]))
    parts.append(_complexes(found))
    return "\n\n".join([*parts, _molecules(found["molecules"])] if "molecules" in found else parts)


def _percent(key: str) -> str:
    return f"{float(key.split()[0]):.1%}"


def _rates(chains: dict[str, Any]) -> str:
    columns: Columns = {
        "codes and anchors wrong": lambda r: r["rate"],
        **{
            f"{name}, {how}": average(digits, how, key)
            for how in ("with anchors", "without")
            for name, key, digits in SHOWN
        },
        "repaired, residues/s": numbers(0, "residues per cpu second"),
    }
    rows = [{"rate": _percent(key), **value} for key, value in chains.items() if key.endswith(" wrong")]
    undamaged = {"with anchors": chains["undamaged"], "without": chains["undamaged, without anchors"]}
    return Table(columns, [{"rate": "none", **undamaged}, *rows]).markdown()


def _kinds(kinds: dict[str, Any]) -> str:
    rates = ("0.01 wrong", "0.05 wrong")
    columns: Columns = {"with anchors": lambda r: r["kind"]}
    columns |= {
        f"{name}, {_percent(rate)}": average(digits, rate, key) for rate in rates for name, key, digits in SHOWN
    }
    rows = [{"kind": kind, **value} for kind, value in kinds.items() if isinstance(value, dict) and rates[0] in value]
    table = Table(columns, rows).markdown()
    loose, bare = (kinds["open loop"][how]["rmsd"]["mean"] for how in ("with anchors", "without"))
    return (
        f"Other damage ({kinds['chains']} of the chains; the rate is of codes, of anchors where they are hit). Codes "
        f"that a text lost or gained: the parser goes on at the next anchor. Undamaged codes of an open loop: "
        f"{loose:.2f} Å, {bare:.2f} Å without repair.\n\n{table}"
    )


def _lengths(chains: dict[str, Any]) -> str:
    rates = ("0.01 wrong", "0.05 wrong")
    bins = chains[rates[0]]["with anchors"].get("by length", {})
    columns: Columns = {"residues": lambda r: r["bin"], "chains": lambda r: f"{r['n']}"}
    columns |= {
        f"{name}, {_percent(rate)}, {how}": average(digits, rate, how, key)
        for rate in rates
        for how in ("with anchors", "without")
        for name, key, digits in SHOWN[:2]
    }
    rows = [
        {"bin": name, "n": value["rmsd"]["n"]}
        | {rate: {how: chains[rate][how]["by length"][name] for how in ("with anchors", "without")} for rate in rates}
        for name, value in bins.items()
    ]
    return Table(columns, rows).markdown()


def _spacings(spacings: dict[str, Any]) -> str:
    columns: Columns = {
        "residues from anchor to anchor": lambda r: r["spacing"],
        "more tokens": shares(0, "more tokens"),
        "RMSD, Å, undamaged": average(2, "undamaged", "rmsd"),
        "chains that repair changes": lambda r: f"{r['chains that repair changes']}",
        **{
            f"{name}, {_percent(rate)} wrong": average(digits, rate, key)
            for rate in ("0.01 wrong", "0.05 wrong")
            for name, key, digits in SHOWN[:2]
        },
    }
    rows = [{"spacing": key, **value} for key, value in spacings.items() if isinstance(value, dict)]
    return Table(columns, rows).markdown()


def _words(found: dict[str, Any]) -> str:
    chains, cost = found["chains"], found["cpu seconds"]
    kept = ", ".join(f"{v['anchors']:.0%} at {k} Å" for k, v in chains["kept under noise"].items())
    radius = min(v["radius"] for v in chains["kept under noise"].values())
    text = (
        f"{chains['chains']} validation chains of 50 to 500 residues (repair tuned on them), "
        f"an anchor every {chains['spacing']} of them, "
        f"{chains['more tokens']:.0%} more tokens; repair changed {chains['chains that repair changes']} of the "
        "undamaged chains. "
        f"Encoding takes {cost['encode'] / cost['encode without anchors']:.2f} times as long as without anchors, "
        f"decoding {cost['decode'] / cost['decode without anchors']:.1f} times. Anchors kept under noise: {kept}, "
        f"where the radius stays the same (at least {radius:.0%} of chains)."
    )
    if casp := found.get("casp14"):
        hit = ", ".join(
            f"{_percent(rate)} wrong {x['rmsd']['mean']:.2f} Å and TM {x['tm_score']['mean']:.3f}"
            for rate in ("0.01 wrong", "0.05 wrong")
            for x in [casp[rate]["with anchors"]]
        )
        text += (
            f" CASP14, {casp['chains']} whole chains: undamaged {casp['undamaged']['rmsd']['mean']:.2f} Å, "
            f"{casp['chains that repair changes']} changed by repair, {hit}."
        )
    return text


def _complexes(found: dict[str, Any]) -> str:
    many, ligands, sides = found["multichain"]["rmsd"], found["protein_ligand"]["rmsd"], found.get("side chains")
    return (
        f"Whole assemblies of several chains, everything superposed at once: {many['mean']:.3f} Å over N, CA, C "
        f"(95th percentile {many['p95']:.3f}, {many['n']} assemblies). Ligands after superposing the protein only: "
        f"{ligands['mean']:.3f} Å over heavy atoms ({ligands['p95']:.3f}, {ligands['n']}); "
        f"{found['protein_ligand']['free of new clashes with N, CA, C']:.1%} without new clashes with a backbone"
        + (f", {sides['free of new clashes with side chains']:.1%} of {sides['n']} with a side chain" if sides else "")
        + ". Most of these entries have relatives among the training chains."
    )


def _molecules(molecules: dict[str, Any]) -> str:
    off, right = molecules["heavy atoms, Å"], molecules["right code found"]
    whole, wrong, own, shared = (
        off[key]["mean"] for key in ("undamaged", "one code wrong", "own frame", "frame of a complex")
    )
    return (
        f"Codes of molecules are taken at their word. An atom is placed by its neighbours' frames, so one wrong code "
        f"costs {wrong:.2f} Å over heavy atoms ({whole:.2f} without, {off['undamaged']['n']} ligands), not the rest of "
        f"the molecule. Were its slot known, eight anchors would name the right code in {right['own frame']:.0%} of "
        f"cases in a frame of its own, in {right['frame of a complex']:.0%} in that of a complex, and leave {own:.2f} "
        f"and {shared:.2f} Å. It is not: finding it means trying every code at every atom."
    )


def fill_anchors() -> None:
    """Fill the README and the cards where there are results."""
    if found := load("anchors"):
        fill(ROOT / "README.md", {"anchors": anchors(found)})
        damaged = f"{_rates(found['chains'])}\n\n{_words(found)}"
        fill(ROOT / "checkpoints" / found["model"] / "README.md", {"anchors": damaged})
        if "spacings" in found:
            card = ROOT / "checkpoints" / "anchors-4096" / "README.md"
            fill(card, {"spacings": _spacings(found["spacings"])})
