"""Results of `eval.allatom` as tables in the cards of the checkpoints.

python -m eval.allatom_tables
"""

from __future__ import annotations

from typing import Any

from eval.tables import ROOT, fill, load
from eval.tables import grid as table


def number(x: float | None, digits: int = 3) -> str:
    return "" if x is None else f"{x:.{digits}f}"


def percent(x: float | None, digits: int = 1) -> str:
    return "" if x is None else f"{100 * x:.{digits}f} %"


def sidechain_card(name: str, r: dict[str, Any]) -> str:
    """Summary, then each residue type."""
    summary = table(
        ["model", "bits per residue", "RMSD mean", "median", "p95", "N, CA, C", "O", "side chain", "chi1 within 20°"],
        [
            [
                name,
                number(r["bits"], 0),
                *(number(r["rmsd"][k]) for k in ("mean", "median", "p95")),
                *(number(r["rmsd_of"][k]) for k in ("N, CA, C", "O", "side chain")),
                percent(r["chi_kept"][0], 2),
            ]
        ],
    )
    types = table(
        ["type", "residues", "RMSD", "alike names", "chi1", "chi2", "chi3", "chi4", "uncoded"],
        [
            [
                letter,
                f"{t['residues']:,}",
                number(t["rmsd"]),
                number(t["rmsd_alike"]),
                *(percent(x) for x in t["chi_kept"]),
                str(t["uncoded"]),
            ]
            for letter, t in r["types"].items()
            if letter != "G"
        ],
    )
    bonds, planes, speed = r["bond_error"], r["out_of_plane"], r["residues_per_second"]
    return (
        f"{summary}\n\n"
        f"{r['chains']} chains, {r['residues']:,} residues. Chains without a new clash (heavy atoms nearer than 2.0 Å, "
        f"more than two bonds apart, that are not in the input): {percent(r['chains_without_new_clash'])}. Side-chain "
        f"bonds are {bonds['rebuilt']:.3f} Å (RMS) off their usual length, {bonds['input']:.3f} Å in the input; ring "
        f"atoms {planes['rebuilt']:.3f} Å off their plane, {planes['input']:.3f} Å in the input. Changed handedness: "
        + ", ".join(f"{k} {n}" for k, n in r["wrong_hands"].items())
        + f".\n\nRMSD in Å of side-chain heavy atoms, and chi angles within 20°, by residue type:\n\n{types}\n\n"
        f"With the backbone, on a busy machine: {speed['encode']:,.0f} residues/s encoded, "
        f"{speed['decode']:,.0f} decoded."
    )


def nucleic_card(r: dict[str, Any]) -> str:
    """RNA and DNA apart, then by length."""
    rows = []
    for kind in ("all", "RNA", "DNA"):
        x = r[kind]
        rows.append(
            [
                kind,
                str(x["chains"]),
                f"{x['nucleotides']:,}",
                *(number(x["rmsd_frame"][k]) for k in ("mean", "median", "p95")),
                *(number(x["rmsd"][k]) for k in ("mean", "median", "p95")),
                percent(x["base_pairs"]["agree"]),
                percent(x["pucker_kept"]),
                number(x["link"]["rms_off"], 2),
            ]
        )
    head = ["", "chains", "nucleotides", "frame RMSD mean", "median", "p95", "all heavy RMSD mean", "median", "p95"]
    lengths = ", ".join(f"{k}: {v['rmsd']:.3f} ({v['chains']})" for k, v in r["by_length"].items())
    speed = r["nucleotides_per_second"]
    return (
        table([*head, "base pairs", "pucker", "O3'-P off by"], rows)
        + f"\n\nMean RMSD of all heavy atoms by length (chains): {lengths}. {r['uncoded']} observed nucleotides "
        f"have no conformer code. Nucleotides/s on a busy machine: {speed['encode']:,.0f} encoded, "
        f"{speed['decode']:,.0f} decoded."
    )


def peers_table(results: dict[str, Any]) -> str:
    """Beside published figures, whose protocols differ."""
    rows = []
    for name, r in results["proteins"].items():
        rows.append(
            [name, "proteins", f"{r['bits']:.0f} per residue", number(r["rmsd"]["mean"]), "validation clusters"]
        )
    for name, r in results["nucleic"].items():
        for kind in ("RNA", "DNA"):
            rmsd = number(r[kind]["rmsd"]["mean"])
            rows.append([name, kind, f"{r['bits']:.0f} per nucleotide", rmsd, "validation clusters"])
    rows += [[p["model"], p["what"], p["bits"], p["rmsd"], p["differs"]] for p in results["published"]]
    return table(["model", "of", "bits", "RMSD, Å", "measured on"], rows)


def main() -> None:
    """Fill the tables in the cards."""
    results = load("allatom")
    peers = peers_table(results)
    for name, r in results["proteins"].items():
        card = ROOT / "checkpoints" / name.rpartition("+")[2] / "README.md"
        fill(card, {"results": sidechain_card(name, r), "peers": peers})
    for name, r in results["nucleic"].items():
        fill(ROOT / "checkpoints" / name / "README.md", {"results": nucleic_card(r), "peers": peers})


if __name__ == "__main__":
    main()
