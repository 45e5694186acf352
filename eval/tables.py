"""Write the tables of README.md and of the model cards from `eval/results/*.json`.

    python -m eval.tables

A table stands between `<!-- NAME -->` and `<!-- /NAME -->`; everything between is replaced.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "eval" / "results"
COMPLETE, GAPS, CASP = "validation, complete", "validation, with gaps", "CASP14"
SETS = (COMPLETE, GAPS, CASP)


def load(name: str) -> dict[str, Any]:
    """One results file, empty when it was never made."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def measured(modality: str) -> dict[str, Any]:
    """Benchmark results of all models of a modality that were measured in full mode."""
    return {n: m for n, m in load("benchmark").get("models", {}).items() if m["modality"] == modality}


def proteins() -> list[tuple[str, Any]]:
    """Those of the protein models, most codes first."""
    return sorted(measured("protein").items(), key=lambda item: -item[1]["codes"])


def grid(header: list[str], rows: list[list[Any]]) -> str:
    """A markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def figures(result: dict[str, Any], metric: str = "rmsd") -> str:
    """Mean and 95th percentile."""
    return f"{result[metric]['mean']:.3f} ({result[metric]['p95']:.3f})"


def reconstruction() -> str:
    """Protein models by default assignment, most codes first."""
    rows = []
    for name, model in proteins():
        found = model["assignments"][model["default"]]
        cells = [figures(found["sets"][s]) for s in SETS]
        rows.append(
            [f"`{name}`", f"{found['rate']['bits']:g}", *cells, f"{found['sets'][CASP]['tm_score']['mean']:.4f}"]
        )
    header = ["model", "bits/residue", "unseen chains", "unseen chains with gaps", "CASP14", "CASP14 TM"]
    return grid(header, rows)


def benchmark() -> str:
    """What a language model pays: accuracy, stability and robustness, default assignment and open loop."""
    rows = []
    for name, model in proteins():
        for label in dict.fromkeys([model["default"], "open loop"]):
            found = model["assignments"][label]
            stable, broken = found["stability"], found["robustness"]["0.01"]
            rows.append(
                [
                    f"`{name}`",
                    label,
                    f"{found['sets'][COMPLETE]['rmsd']['mean']:.3f}",
                    f"{stable['jitter']['0.1']['codes']:.0%}",
                    f"{stable['crop start']['20']['codes']:.0%}",
                    f"{broken['rmsd']['mean']:.1f} / {broken['tm_score']['mean']:.2f} / {broken['lddt']['mean']:.2f}",
                    f"{found['rate']['unigram_bits_corrected']:.2f}",
                ]
            )
    letters = load("benchmark").get("peers", {}).get("3Di letters (mini3di)", {})
    if "stability" in letters:
        stable = letters["stability"]
        shares = [f"{s['codes']:.0%}" for s in (stable["jitter"]["0.1"], stable["crop start"]["20"])]
        rows.append(["3Di letters", "reference", "no decoder", *shares, "", f"{letters['rate']['unigram_bits']:.2f}"])
    header = ["model", "assignment", "RMSD, Å", "codes kept, 0.1 Å noise", "codes kept, 20 residues cut off",
              "RMSD / TM / lDDT, 1 % of codes wrong", "unigram bits"]  # fmt: skip
    return grid(header, rows)


def comparison() -> str:
    """Ours on CASP14 beside published figures: RMSD over CA and TM-score."""
    rows = []
    for name, model in proteins():
        for label, found in model["assignments"].items():
            if "," in label.removeprefix(model["default"]) and label != model["default"]:
                continue  # further beams stand in the card
            figure = found["sets"][CASP]
            cells = [f"{figure['rmsd_ca']['mean']:.3f} / {figure['tm_score']['mean']:.3f}", "", "", ""]
            rows.append([f"`{name}`, {label}", f"{found['rate']['bits']:g}", *cells, "measured here, all 32 targets"])
    published = load("published")["proteins"]["models"]
    targets = ("CASP14", "CASP15", "CAMEO24", "new PDB entries")
    for name, model in published.items():
        sets = (model["sets"].get(t) for t in targets)
        cells = [f"{x['rmsd']:.3f} / {x['tm_score']:.3f}" if x else "" for x in sets]
        rows.append([name, model["bits"], *cells, "published"])
    return grid(["tokenizer", "bits", *targets, ""], rows)


def card(name: str) -> str:
    """Everything measured about one protein model."""
    model, speed = measured("protein")[name], load("throughput")
    rows = []
    for label in SETS:
        for mode, found in model["assignments"].items():
            figure = found["sets"][label]
            rows.append(
                [label, mode, figure["chains"], *(f"{figure['rmsd'][k]:.3f}" for k in ("mean", "median", "p95", "max"))]
                + [f"{figure[m]['mean']:.4f}" for m in ("rmsd_ca", "tm_score", "lddt")]
            )
    head = ["chains", "assignment", "n", "RMSD mean", "median", "p95", "max", "RMSD CA", "TM", "lDDT"]
    default = model["assignments"][model["default"]]
    by_length = default["sets"][COMPLETE]["rmsd_by_length"]
    use = default["use"]
    text = [
        grid(head, rows),
        "",
        "Mean RMSD by length, complete validation chains, default: " + means(by_length),
        "In open loop: " + means(model["assignments"]["open loop"]["sets"][COMPLETE]["rmsd_by_length"]),
        f"Codes on those chains: utilisation {use['utilisation']:.1%}, unigram entropy {use['entropy_bits']:.2f} bits, "
        f"perplexity {use['perplexity']:.0f}.",
        f"The codebook: effective dimension {model['codebook']['effective_dimension']:.1f}, "
        f"near-duplicates {model['codebook']['near_duplicates']:.1%} (`structok.metrics.codebook_spread`).",
        "",
        steadiness(model),
    ]
    if name in speed.get("models", {}):
        rates = ", ".join(f"{k} {v:,}" for k, v in speed["models"][name].items())
        text.append(f"\nSpeed ({speed['machine']}, {speed['threads']} thread(s)): {rates}.")
    if name == "gcp-vqvae" and load("training"):
        text.append("\n" + training())
    return "\n".join(text)


def training() -> str:
    """What a training step of GCP-VQVAE costs."""
    found = load("training")
    limits = found["GFLOP/s of a 2048³ product"]
    rows = []
    for step in found["steps"]:
        seconds, kind = sum(step["seconds"].values()), step["precision"].split()[0]
        slowest = sorted(step["seconds"].items(), key=lambda item: -item[1])[:3]
        rows.append(
            [
                step["model"],
                f"{step['parameters'] / 1e6:.1f} M",
                step["precision"],
                f"{step['residues/s']:,}",
                f"{step['peak memory of the process, MB']:,} MB",
                ", ".join(f"{part} {s / seconds:.0%}" for part, s in slowest),
                f"{step['GFLOP/s'] / limits[kind]:.0%}",
            ]
        )
    head = ["model", "parameters", "precision", "residues/s", "peak memory", "where the time goes"]
    machine = found["machine"]
    where = f"{machine['device']}, {machine['threads']} thread(s), torch {machine['torch']}"
    return f"Training speed ({where}):\n\n" + grid([*head, "share of a matrix product's speed"], rows)


def speed() -> str:
    """Encoding and decoding of each protein model, and how much faster than a plain search that is."""
    found = load("throughput")
    rows = [
        [
            f"`{name}`",
            row["beam"],
            f"{row['encode, batch 32, residues/s']:,}",
            f"{row['encode, one by one, residues/s']:,}",
            f"{row['decode, residues/s']:,}",
        ]
        for name, _ in proteins()
        if (row := found["models"].get(name))
    ]
    head = ["model", "beam", "encode, residues/s", "one chain at a time", "decode, residues/s"]
    plain = found["closed loop against a plain search"]
    return (
        f"{grid(head, rows)}\n\nOn {found['threads']} CPU cores. A search of all codes in plain torch, `chain-vq-4096`"
        f" with beam {plain['beam']}, encodes {plain['plain, residues/s']:,} residues/s in the same run, ours"
        f" {plain['ours, residues/s']:,}, as accurately."
    )


def lookups() -> str:
    """Nearest-code lookup beside the bare matrix product and the best peer of the same run."""
    found = load("lookup")
    rows = [
        [
            f"{row['n']:,}",
            f"{row['k']:,}",
            row["d"],
            f"{row['seconds']['structok'] * 1e3:,.0f} ms",
            f"{row['over_bare_product']:.2f}",
            f"{row['speed_over_best_peer']:.2f}",
        ]
        for row in found["lookups"]
    ]
    head = ["vectors", "codes", "components", "time", "time / bare matrix product", "speed / best peer"]
    peers = ", ".join(name for name in found["lookups"][0]["speed_over_peers"])
    return f"{grid(head, rows)}\n\n{found['device']}, {found['threads']} thread; peers: {peers}."


def gpus() -> str:
    """Lookups, encoding and training on each GPU that was measured, see `eval.gpu`."""
    reports = [load(path.stem) for path in sorted(RESULTS.glob("gpu-*.json"))]
    return "\n\n".join(gpu(report) for report in reports)


def gpu(report: dict[str, Any]) -> str:
    """One GPU's figures; a dash where a contestant could not do it."""
    names = list(dict.fromkeys(n for row in report["lookups"] for n in row.get("seconds", {})))
    rows = [
        [
            f"{row['n']:,} × {row['k']:,} × {row['d']}" + (f", {row['batches']} times" if row["batches"] > 1 else ""),
            *(f"{row['seconds'][n] * 1e3:.2f} ms" if n in row["seconds"] else "-" for n in names),
            f"{row['share_of_bfloat16_peak']:.0%}",
        ]
        for row in report["lookups"]
        if "seconds" in row
    ]
    wrong = {name: sum(row[f"wrong, {name}"] for row in report["correctness"]) for name in ("k = 1", "k = 8", "addmm")}
    text = [
        grid(["vectors × codes × components", *names, "share of the bfloat16 product's rate"], rows),
        f"{report['device']}, torch {report['torch']}. Against float64, in {len(report['correctness'])} problems made "
        f"to mislead: {wrong['k = 1'] + wrong['k = 8']} wrong rows, {wrong['addmm']} by addmm in float32.",
    ]
    encoded = [
        f"{row['residues_per_second']:,.0f} residues/s on the {row['where'].upper().replace('CUDA', 'GPU')} "
        f"(beam {row['beam']}, {row['chains']} chains)"
        for row in report["encoding"]
        if "residues_per_second" in row
    ]
    trained = [
        f"`{row['preset']}` {row['residues_per_second']:,.0f}"
        + (" in bfloat16" if row["bfloat16"] else " in float32")
        + (", compiled" if row["compiled"] else "")
        for row in report["training"]
        if "residues_per_second" in row
    ]
    text.append(f"`chain-vq-4096`, closed loop: {'; '.join(encoded)}. Training, residues/s: {'; '.join(trained)}.")
    return "\n\n".join(text)


def means(by_length: dict[str, Any]) -> str:
    """Mean of each length bin."""
    return ", ".join(f"{k}: {v['mean']:.3f}" for k, v in by_length.items()) + "."


def steadiness(model: dict[str, Any]) -> str:
    """Codes that survive a change, and what wrong codes cost, one row per assignment."""
    first = model["assignments"][model["default"]]["stability"]
    head = [
        "assignment",
        *(f"noise {k} Å" for k in first["jitter"]),
        *(f"{k} residues cut off" for k in first["crop start"]),
    ]
    head += ["encoded again", "new pose", "RMSD / TM / lDDT, 1 % of codes wrong"]
    rows = []
    for label, found in model["assignments"].items():
        s, broken = found["stability"], found["robustness"]["0.01"]
        shares = [*s["jitter"].values(), *s["crop start"].values(), s["encoded again"], s["new pose"]]
        wrong = " / ".join(f"{broken[k]['mean']:.2f}" for k in ("rmsd", "tm_score", "lddt"))
        rows.append([label, *(f"{x['codes']:.1%}" if "codes" in x else "" for x in shares), wrong])
    return f"Codes unchanged by a change of the structure ({first['chains']} validation chains):\n\n" + grid(head, rows)


def fill(path: Path, blocks: dict[str, str]) -> None:
    """Replace the marked blocks of a file."""
    text = path.read_text()
    for name, body in blocks.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text = pattern.sub(lambda m, body=body: f"{m[1]}{body}\n{m[2]}", text)
    path.write_text(text)


def main() -> None:
    """Refresh README.md and the cards of the protein models."""
    if measured("protein"):
        blocks = {"reconstruction": reconstruction(), "benchmark": benchmark(), "speed": speed(), "lookups": lookups()}
        if list(RESULTS.glob("gpu-*.json")):
            blocks["gpu"] = gpus()
        fill(ROOT / "README.md", blocks)
        for name in measured("protein"):
            path = ROOT / "checkpoints" / name / "README.md"
            if path.exists():
                fill(path, {"results": card(name), "comparison": comparison()})


if __name__ == "__main__":
    main()
