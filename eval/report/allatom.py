"""All heavy atoms (`eval.measure.allatom`): the tables of the cards of side-chain and nucleic checkpoints."""

from __future__ import annotations

from typing import Any

from eval.report.results import ROOT, load
from eval.report.table import Columns, Row, Table, fill, number, numbers, percent, shares

__all__ = ["fill_allatom"]

Results = dict[str, Any]


def _chi(i: int, digits: int = 1) -> Any:
    """A column of the chi angles kept; a type that has none has a dash."""
    return lambda r: percent(r["chi_kept"][i] if i < len(r["chi_kept"]) else None, digits)


def sidechain_card(name: str, r: Results) -> str:
    """Summary, then each residue type."""
    summary: Columns = {
        "model": lambda r: r["label"],
        "bits per residue": numbers(0, "bits"),
        "RMSD mean": numbers(3, "rmsd", "mean"),
        "median": numbers(3, "rmsd", "median"),
        "p95": numbers(3, "rmsd", "p95"),
        **{part: numbers(3, "rmsd_of", part) for part in ("N, CA, C", "O", "side chain")},
        "chi1 within 20°": _chi(0, 2),
    }
    types: Columns = {
        "type": lambda r: r["letter"],
        "residues": numbers(0, "residues"),
        "RMSD": numbers(3, "rmsd"),
        "alike names": numbers(3, "rmsd_alike"),
        **{f"chi{i + 1}": _chi(i) for i in range(4)},
        "uncoded": lambda r: r["uncoded"],
    }
    rows = ({"letter": letter, **row} for letter, row in r["types"].items() if letter != "G")
    bonds, planes, speed = r["bond_error"], r["out_of_plane"], r["residues_per_core_second"]
    return (
        f"{Table(summary, [{'label': name, **r}, {'label': 'the same, `rate_weight=0`', **r['exact']}]).markdown()}\n\n"
        f"{r['chains']} chains, {r['residues']:,} residues. Chains without a new clash (heavy atoms nearer than 2.0 Å, "
        f"more than two bonds apart, that are not in the input): {r['chains_without_new_clash']:.1%}, with "
        f"`rate_weight=0` {r['exact']['chains_without_new_clash']:.1%}. Side-chain "
        f"bonds are {bonds['rebuilt']:.3f} Å (RMS) off their usual length, {bonds['input']:.3f} Å in the input; ring "
        f"atoms {planes['rebuilt']:.3f} Å off their plane, {planes['input']:.3f} Å in the input. Changed handedness: "
        + ", ".join(f"{k} {n}" for k, n in r["wrong_hands"].items())
        + f".\n\nRMSD in Å of side-chain heavy atoms, and chi angles within 20°, by residue type:\n\n"
        f"{Table(types, rows).markdown()}\n\n"
        f"With the backbone, in a second of one core: {speed['encode']:,.0f} residues encoded (with `rate_weight=0` "
        f"{r['exact']['residues_per_core_second']['encode']:,.0f}), {speed['decode']:,.0f} decoded."
    )


def nucleic_card(r: Results) -> str:
    """RNA and DNA apart, then by length."""
    columns: Columns = {
        "": lambda r: r["kind"],
        "chains": lambda r: r["chains"],
        "nucleotides": numbers(0, "nucleotides"),
        "frame RMSD mean": numbers(3, "rmsd_frame", "mean"),
        "frame median": numbers(3, "rmsd_frame", "median"),
        "frame p95": numbers(3, "rmsd_frame", "p95"),
        "all heavy RMSD mean": numbers(3, "rmsd", "mean"),
        "median": numbers(3, "rmsd", "median"),
        "p95": numbers(3, "rmsd", "p95"),
        "base pairs": shares(1, "base_pairs", "agree"),
        "pucker": shares(1, "pucker_kept"),
        "O3'-P off by": numbers(2, "link", "rms_off"),
    }
    lengths = ", ".join(f"{k}: {v['rmsd']:.3f} ({v['chains']})" for k, v in r["by_length"].items())
    speed, damaged = r["nucleotides_per_core_second"], r["damaged"]
    wrong = ", ".join(
        f"{float(rate):.0%} {v['anchors']:.2f} Å (without anchors {v['alone']:.1f})"
        for rate, v in damaged.items() if rate.startswith("0.")
    )  # fmt: skip
    return (
        Table(columns, ({"kind": kind, **r[kind]} for kind in ("all", "RNA", "DNA"))).markdown()
        + f"\n\nMean RMSD of all heavy atoms by length (chains): {lengths}. {r['uncoded']} observed nucleotides "
        f"have no conformer code. In a second of one core {speed['encode']:,.0f} nucleotides are encoded, "
        f"{speed['decode']:,.0f} decoded. Of {damaged['chains']} chains of 20 nucleotides or more, the frame RMSD "
        f"is {damaged['undamaged']:.2f} Å as they are ({damaged['repaired_undamaged']} of them repaired); where some "
        f"codes and anchors are random, repaired by the anchors, {wrong}."
    )


def peers(found: Results) -> str:
    """Beside published figures, whose protocols differ."""
    ours = "validation clusters"
    rows: list[Row] = [
        {"model": name, "what": "proteins", "bits": f"{r['bits']:.0f} per residue", "rmsd": r["rmsd"]["mean"]}
        for name, r in found["proteins"].items()
    ]
    rows += [
        {"model": name, "what": kind, "bits": f"{r['bits']:.0f} per nucleotide", "rmsd": r[kind]["rmsd"]["mean"]}
        for name, r in found["nucleic"].items()
        for kind in ("RNA", "DNA")
    ]
    columns: Columns = {
        "model": lambda r: r["model"],
        "of": lambda r: r["what"],
        "bits": lambda r: r["bits"],
        "RMSD, Å": lambda r: r["rmsd"] if isinstance(r["rmsd"], str) else number(r["rmsd"]),
        "measured on": lambda r: r.get("differs", ours),
    }
    return Table(columns, [*rows, *found["published"]]).markdown()


def fill_allatom() -> None:
    """The cards, and the README's table."""
    found = load("allatom")
    if not found:
        return
    fill(ROOT / "README.md", {"allatom": peers(found)})
    for name, r in found["proteins"].items():
        card = ROOT / "checkpoints" / name.rpartition("+")[2] / "README.md"
        fill(card, {"results": sidechain_card(name, r), "peers": peers(found)})
    for name, r in found["nucleic"].items():
        fill(ROOT / "checkpoints" / name / "README.md", {"results": nucleic_card(r), "peers": peers(found)})
