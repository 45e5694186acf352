"""What anchors buy and cost: complexes in one frame, chains from damaged tokens, anchors under noise.

    python -m eval.measure.anchors --chains 60 --complexes 60

Chains are validation chains (split 1; settings were chosen on that split) of 50 to 500 residues, one per cluster.
Damage: each code and each anchor is replaced by a random one with the same probability. Complexes are those of the
shared data, of which many chains have relatives in training: `unseen` counts those without.
"""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from jaxtyping import Float

import structok
from eval import RESULTS
from eval.clock import cpu_seconds
from structok.errors import StructokError
from structok.geometry import apply, kabsch
from structok.structure import Backbone
from structok.tokens import Tokens
from train.data import load_backbones, shared_folder

__all__ = ["damage", "measure_chains", "measure_complexes", "measure_ligands"]

RATES = (0.001, 0.01, 0.03, 0.05, 0.1, 0.2)
NOISE = (0.05, 0.1, 0.2, 0.3)


def damage(tokens: Tokens, rate: float, codes: int, points: int, random: np.random.Generator) -> Tokens:
    """Random codes and anchors in place of some; anchors that are none stay so."""
    wrong = np.where(random.random(len(tokens)) < rate, random.integers(codes, size=len(tokens)), tokens.codes)
    if tokens.anchors is None:
        return replace(tokens, codes=wrong)
    hit = (random.random(len(tokens.anchors)) < rate) & (tokens.anchors >= 0)
    return replace(tokens, codes=wrong, anchors=np.where(hit, random.integers(points, size=len(hit)), tokens.anchors))


def spread(values: Iterable[float]) -> dict[str, float]:
    """Mean, median, 95th percentile."""
    found = np.array(list(values))
    return {"n": len(found), "mean": float(found.mean()), "median": float(np.median(found)),
            "p95": float(np.percentile(found, 95))}  # fmt: skip


def compare(chains: list[Backbone], rebuilt: list[Backbone]) -> dict[str, Any]:
    """RMSD over N, CA, C after superposition, TM-score, lDDT."""
    metrics: dict[str, Callable[..., float]] = {
        "rmsd": structok.metrics.rmsd, "tm_score": structok.metrics.tm_score, "lddt": structok.metrics.lddt
    }  # fmt: skip
    return {name: spread(float(of(a, b)) for a, b in zip(rebuilt, chains)) for name, of in metrics.items()}


def cost(tok: Any, chains: list[Backbone]) -> dict[str, float]:
    """Processor time with and without anchors, best of three."""
    tokens, plain = tok.encode_batch(chains), tok.encode_batch(chains, spacing=0)
    return {
        "encode": cpu_seconds(lambda: tok.encode_batch(chains)),
        "encode without anchors": cpu_seconds(lambda: tok.encode_batch(chains, spacing=0)),
        "decode": cpu_seconds(lambda: tok.decode_batch(tokens)),
        "decode without anchors": cpu_seconds(lambda: tok.decode_batch(plain)),
    }


def measure_chains(tok: Any, chains: list[Backbone], seed: int = 0) -> dict[str, Any]:
    """Damage with and without anchors, noise, what repair changes of undamaged tokens, and time."""
    random = np.random.default_rng(seed)
    tokens, plain = tok.encode_batch(chains), tok.encode_batch(chains, spacing=0)
    whole, alone = tok.decode_batch(tokens), tok.decode_batch(plain)
    as_they_are = tok.decode_batch(tokens, repair=False)
    residues = sum(map(len, chains))
    report: dict[str, Any] = {
        "spacing": tokens[0].spacing,
        "chains": len(chains),
        "residues": residues,
        "more tokens": sum(len(t.anchors) + 1 for t in tokens) / residues,
        "undamaged": compare(chains, whole),
        "undamaged, without anchors": compare(chains, alone),
        "chains that repair changes": sum(not np.array_equal(a.coords, b.coords, equal_nan=True)
                                          for a, b in zip(whole, as_they_are)),
        "anchors left out": sum(int((t.anchors < 0).sum()) for t in tokens) / sum(len(t.anchors) for t in tokens),
        "cpu seconds": cost(tok, chains),
    }  # fmt: skip
    for rate in RATES:
        some = [damage(t, rate, tok.codebook_size, len(tok.points), random) for t in tokens]
        began = time.process_time()
        back = tok.decode_batch(some)
        took = time.process_time() - began
        lost = [damage(t, rate, tok.codebook_size, len(tok.points), random) for t in plain]
        report[f"{rate:g} wrong"] = {
            "with anchors": compare(chains, back), "without": compare(chains, tok.decode_batch(lost)),
            "residues per cpu second": residues / took,
        }  # fmt: skip
        print(rate, report[f"{rate:g} wrong"]["with anchors"]["rmsd"], file=sys.stderr, flush=True)
    report["kept under noise"] = {}
    for noise in NOISE:
        moved = [Backbone(c.coords + noise * random.standard_normal(c.coords.shape), c.sequence) for c in chains]
        again = tok.encode_batch(moved)
        same = [
            (a.anchors == b.anchors)[(a.anchors >= 0) & (b.anchors >= 0)]
            for a, b in zip(tokens, again)
            if a.radius == b.radius
        ]
        codes = np.concatenate([a.codes == b.codes for a, b in zip(tokens, again)])
        report["kept under noise"][f"{noise:g}"] = {
            "anchors": float(np.concatenate(same).mean()), "codes": float(codes.mean()),
            "radius": float(np.mean([a.radius == b.radius for a, b in zip(tokens, again)])),
        }  # fmt: skip
    return report


def measure_complexes(folder: Path, count: int) -> dict[str, Any]:
    """RMSD of whole assemblies, everything superposed at once, N, CA, C."""
    rows = list(csv.DictReader((folder / "index.tsv").open(), delimiter="\t"))[:count]
    found, chains, failed = [], [], []
    for row in rows:
        try:
            original = structok.read_complex(folder / row["file"])
            back = structok.decode_complex(structok.encode_complex(original))
        except StructokError as error:
            failed.append(f"{row['id']}: {error}")
            continue
        x, y = (_atoms(c.polymers) for c in (original, back))
        seen = np.isfinite(x).all(-1) & np.isfinite(y).all(-1)
        move = kabsch(torch.from_numpy(y[seen]), torch.from_numpy(x[seen]))
        off = apply(move, torch.from_numpy(y[seen])).numpy() - x[seen]
        found.append((float(np.sqrt((off**2).sum(-1).mean())), row["seq_match_split"] in ("none", "split1")))
        chains += [float(structok.metrics.rmsd(a, b)) for a, b in zip(back.polymers, original.polymers)]
    return {
        "rmsd": spread(r for r, _ in found), "rmsd of each chain": spread(chains),
        "rmsd, unseen": spread(r for r, new in found if new) if any(new for _, new in found) else None,
        "failed": failed,
    }  # fmt: skip


def measure_ligands(folder: Path, count: int) -> dict[str, Any]:
    """Heavy atoms of ligands after superposing the protein only, and new clashes with N, CA, C."""
    rows = list(csv.DictReader((folder / "index.tsv").open(), delimiter="\t"))[:count]
    found, free, failed = [], [], []
    for row in rows:
        try:
            original = structok.read_complex(folder / row["protein_file"], folder / row["ligand_file"])
            back = structok.decode_complex(structok.encode_complex(original))
            [mol], [again] = original.ligands, back.ligands
        except (StructokError, ValueError) as error:
            failed.append(f"{row['id']}: {error}")
            continue
        x, y = (_atoms(c.polymers) for c in (original, back))
        seen = np.isfinite(x).all(-1) & np.isfinite(y).all(-1)
        move = kabsch(torch.from_numpy(y[seen]), torch.from_numpy(x[seen])).double()
        heavy, placed = _heavy(mol), apply(move, torch.from_numpy(_heavy(again))).numpy()
        order = again.GetSubstructMatches(mol, uniquify=False, maxMatches=2000) if len(heavy) == len(placed) else ()
        index = [a.GetIdx() for a in mol.GetAtoms() if a.GetAtomicNum() > 1]
        lookup = {a.GetIdx(): n for n, a in enumerate(a for a in again.GetAtoms() if a.GetAtomicNum() > 1)}
        options = [placed[[lookup[match[i]] for i in index]] for match in order]
        if not options:
            failed.append(f"{row['id']}: not the same molecule")
            continue
        found.append(min(float(np.sqrt(((o - heavy) ** 2).sum(-1).mean())) for o in options))
        near = [float(np.linalg.norm(p[:, None] - q[None], axis=-1).min())
                for p, q in ((heavy, x[seen]), (placed, apply(move, torch.from_numpy(y[seen])).numpy()))]  # fmt: skip
        free.append(near[1] >= 2.0 or near[0] < 2.0)
    return {"rmsd": spread(found), "free of new clashes with N, CA, C": float(np.mean(free)), "failed": failed}


def _atoms(chains: list[Any]) -> Float[np.ndarray, "n 3"]:
    return np.concatenate([c.coords.reshape(-1, 3) for c in chains]).astype(np.float64)


def _heavy(mol: Any) -> Float[np.ndarray, "n 3"]:
    keep = [a.GetIdx() for a in mol.GetAtoms() if a.GetAtomicNum() > 1]
    return mol.GetConformer().GetPositions()[keep]


def main(
    chains: Annotated[int, typer.Option(help="validation chains")] = 60,
    complexes: Annotated[int, typer.Option(help="of each kind")] = 60,
    model: Annotated[str, typer.Option("-m", "--model")] = "chain-vq-4096",
    out: Path = RESULTS / "anchors.json",
) -> None:
    """Measure and write."""
    shared = shared_folder() / "data"
    data = load_backbones(shared / "protein" / "train.npz")
    right = (data.split == 1) & (data.lengths >= 50) & (data.lengths <= 500) & data.complete
    picked = data.one_per_cluster(np.flatnonzero(right), np.random.default_rng(0))[:chains]
    tok = structok.load(model)
    some = [Backbone(data[int(i)].numpy(), name=data.names[int(i)]) for i in picked]
    tok.decode_batch(tok.encode_batch(some[:2]))  # compiled before it is timed
    report: dict[str, Any] = {"model": model, "chains": measure_chains(tok, some)}
    for name, part in (("multichain", measure_complexes), ("protein_ligand", measure_ligands)):
        report[name] = part(shared / "complexes" / name, complexes)
        print(name, report[name]["rmsd"], file=sys.stderr, flush=True)
        out.write_text(json.dumps(report, indent=1) + "\n")
    out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
