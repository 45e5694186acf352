"""What anchors buy and cost: complexes in one frame, chains from damaged tokens, anchors under noise.

    python -m eval.measure.anchors --part kinds --part spacings --chains 60

Chains are validation chains (split 1; settings were chosen on that split) of 50 to 500 residues, one per cluster.
Damage: each code and each anchor is replaced by a random one with the same probability; other kinds in `damage`.
Complexes are those of the shared data, of which many chains have relatives in training: `unseen` counts those without.
Parts may be measured one by one: what the results file holds of the others stays.
"""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from jaxtyping import Float

import structok
from eval import RESULTS
from eval.clock import cpu_seconds
from eval.measure.damage import KINDS, damage
from eval.measure.stats import summary
from structok.errors import StructokError
from structok.geometry import apply, kabsch
from structok.protein.sidechain_atoms import ATOMS
from structok.structure import Backbone
from train.data import load_backbones, shared_folder

__all__ = ["measure_chains", "measure_complexes", "measure_kinds", "measure_ligands", "measure_spacings"]

RATES = (0.001, 0.01, 0.03, 0.05, 0.1, 0.2)
FEW_RATES = (0.01, 0.05)
SPACINGS = (4, 6, 8, 16)
LENGTHS = (50, 100, 200, 300, 501)  # residues, edges of the bins
NOISE = (0.05, 0.1, 0.2, 0.3)


def compare(chains: list[Backbone], rebuilt: list[Backbone], *, by_length: bool = False) -> dict[str, Any]:
    """RMSD over N, CA, C after superposition, TM-score, lDDT; also of chains in bins of `LENGTHS`."""
    metrics: dict[str, Callable[..., float]] = {
        "rmsd": structok.metrics.rmsd, "tm_score": structok.metrics.tm_score, "lddt": structok.metrics.lddt
    }  # fmt: skip
    found = {name: np.array([float(of(a, b)) for a, b in zip(rebuilt, chains)]) for name, of in metrics.items()}
    report: dict[str, Any] = {name: summary(values) for name, values in found.items()}
    if by_length:
        bins = np.digitize([len(c) for c in chains], LENGTHS)
        report["by length"] = {
            f"{low}-{high - 1}": {name: summary(values[bins == n]) for name, values in found.items()}
            for n, (low, high) in enumerate(pairwise(LENGTHS), 1) if (bins == n).any()
        }  # fmt: skip
    return report


def cost(tok: Any, chains: list[Backbone]) -> dict[str, float]:
    """Processor time with and without anchors, best of three."""
    tokens, plain = tok.encode_batch(chains), tok.encode_batch(chains, spacing=0)
    return {
        "encode": cpu_seconds(lambda: tok.encode_batch(chains)),
        "encode without anchors": cpu_seconds(lambda: tok.encode_batch(chains, spacing=0)),
        "decode": cpu_seconds(lambda: tok.decode_batch(tokens)),
        "decode without anchors": cpu_seconds(lambda: tok.decode_batch(plain)),
    }


def measure_chains(
    tok: Any, chains: list[Backbone], rates: Iterable[float] = RATES, noises: Iterable[float] = NOISE, seed: int = 0
) -> dict[str, Any]:
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
    }  # fmt: skip
    for rate in rates:
        some = [damage(t, rate, tok.codebook_size, len(tok.points), random) for t in tokens]
        began = time.process_time()
        back = tok.decode_batch(some)
        took = time.process_time() - began
        lost = [damage(t, rate, tok.codebook_size, len(tok.points), random) for t in plain]
        report[f"{rate:g} wrong"] = {
            "with anchors": compare(chains, back, by_length=True),
            "without": compare(chains, tok.decode_batch(lost), by_length=True),
            "residues per cpu second": residues / took,
        }  # fmt: skip
    report["kept under noise"] = {}
    for noise in noises:
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


def measure_kinds(tok: Any, chains: list[Backbone], seed: int = 0) -> dict[str, Any]:
    """Other ways to go wrong: codes or anchors alone, runs of codes, lost and inserted codes; open-loop codes."""
    random = np.random.default_rng(seed)
    tokens = tok.encode_batch(chains)
    report: dict[str, Any] = {"chains": len(chains)}
    for name, spoil in KINDS.items():
        report[name] = {}
        for rate in FEW_RATES:
            back = tok.decode_batch([spoil(t, rate, tok.codebook_size, len(tok.points), random) for t in tokens])
            report[name][f"{rate:g} wrong"] = compare(chains, back)
    loose = tok.encode_batch(chains, closed_loop=False)
    for name, fix in (("with anchors", True), ("without", False)):
        report.setdefault("open loop", {})[name] = compare(chains, tok.decode_batch(loose, repair=fix))
    return report


def measure_spacings(tok: Any, chains: list[Backbone], seed: int = 0) -> dict[str, Any]:
    """What anchors nearer together buy, and cost in tokens."""
    report: dict[str, Any] = {"chains": len(chains)}
    for spacing in SPACINGS:
        random = np.random.default_rng(seed)
        tokens = tok.encode_batch(chains, spacing=spacing)
        whole, plain = tok.decode_batch(tokens), tok.decode_batch(tokens, repair=False)
        row: dict[str, Any] = {
            "more tokens": sum(len(t.anchors) + 1 for t in tokens) / sum(map(len, chains)),
            "undamaged": compare(chains, whole),
            "chains that repair changes": sum(not np.array_equal(a.coords, b.coords) for a, b in zip(whole, plain)),
            "anchors left out": sum(int((t.anchors < 0).sum()) for t in tokens) / sum(len(t.anchors) for t in tokens),
        }
        for rate in FEW_RATES:
            some = [damage(t, rate, tok.codebook_size, len(tok.points), random) for t in tokens]
            row[f"{rate:g} wrong"] = compare(chains, tok.decode_batch(some))
        report[f"{spacing}"] = row
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
        "rmsd": summary(r for r, _ in found), "rmsd of each chain": summary(chains),
        "rmsd, unseen": summary(r for r, new in found if new) if any(new for _, new in found) else None,
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
    return {"rmsd": summary(found), "free of new clashes with N, CA, C": float(np.mean(free)), "failed": failed}


def measure_clashes(folder: Path, count: int) -> dict[str, Any]:
    """Poses of ligands that overlap a side chain only once both are rebuilt: nearer than 3/4 of the radii's sum."""
    from rdkit.Chem import GetPeriodicTable

    radius = GetPeriodicTable().GetRvdw
    rows = list(csv.DictReader((folder / "index.tsv").open(), delimiter="\t"))[:count]
    free, failed = [], []
    for row in rows:
        try:
            original = structok.read_complex(folder / row["protein_file"], folder / row["ligand_file"], all_atom=True)
            back = structok.decode_complex(structok.encode_complex(original))
        except (StructokError, ValueError) as error:
            failed.append(f"{row['id']}: {error}")
            continue
        overlap = []
        for found in (original, back):
            sides = np.concatenate([c.atoms[:, 4:].reshape(-1, 3) for c in found.polymers]).astype(np.float64)
            names = [n for c in found.polymers for r in c.sequence for n in [*ATOMS.get(r, ())[4:], *[""] * 14][:10]]
            sizes = np.array([radius(n[0]) if n else 0.0 for n in names])
            seen = np.isfinite(sides).all(-1) & (sizes > 0)
            mol = found.ligands[0]
            own = np.array([radius(a.GetAtomicNum()) for a in mol.GetAtoms() if a.GetAtomicNum() > 1])
            apart = np.linalg.norm(_heavy(mol)[:, None] - sides[seen], axis=-1)
            overlap.append((apart < 0.75 * (own[:, None] + sizes[seen])).any())
        free.append(overlap[0] or not overlap[1])
    return {"n": len(free), "free of new clashes with side chains": float(np.mean(free)), "failed": failed}


def _atoms(chains: list[Any]) -> Float[np.ndarray, "n 3"]:
    return np.concatenate([c.coords.reshape(-1, 3) for c in chains]).astype(np.float64)


def _heavy(mol: Any) -> Float[np.ndarray, "n 3"]:
    keep = [a.GetIdx() for a in mol.GetAtoms() if a.GetAtomicNum() > 1]
    return mol.GetConformer().GetPositions()[keep]


def validation(count: int) -> list[Backbone]:
    """Chains of `count` clusters of the validation split."""
    data = load_backbones(shared_folder() / "data" / "protein" / "train.npz")
    right = (data.split == 1) & (data.lengths >= LENGTHS[0]) & (data.lengths < LENGTHS[-1]) & data.complete
    picked = data.one_per_cluster(np.flatnonzero(right), np.random.default_rng(0))[:count]
    return [data.chain(int(i)) for i in picked]


def casp() -> list[Backbone]:
    """Whole chains of CASP14, for the report only."""
    data = load_backbones(shared_folder() / "data" / "protein" / "casp14.npz")
    right = np.flatnonzero((data.lengths >= LENGTHS[0]) & (data.lengths < LENGTHS[-1]) & data.complete)
    return [data.chain(int(i)) for i in right]


def main(
    chains: Annotated[int, typer.Option(help="validation chains")] = 100,
    complexes: Annotated[int, typer.Option(help="of each kind")] = 400,
    part: Annotated[list[str] | None, typer.Option(help="only these")] = None,
    model: Annotated[str, typer.Option("-m", "--model")] = "chain-vq-4096",
    out: Path = RESULTS / "anchors.json",
) -> None:
    """Measure and write."""
    tok, folder = structok.load(model), shared_folder() / "data" / "complexes"
    tok.decode_batch(tok.encode_batch(validation(2)))  # compiled before it is timed
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "chains": lambda: measure_chains(tok, validation(chains)),
        "cpu seconds": lambda: cost(tok, validation(chains)),
        "casp14": lambda: measure_chains(tok, casp(), FEW_RATES, ()),
        "kinds": lambda: measure_kinds(tok, validation(chains)),
        "spacings": lambda: measure_spacings(tok, validation(chains)),
        "multichain": lambda: measure_complexes(folder / "multichain", complexes),
        "protein_ligand": lambda: measure_ligands(folder / "protein_ligand", complexes),
        "side chains": lambda: measure_clashes(folder / "protein_ligand", complexes),
    }
    for name in part or parts:
        if name not in parts:
            raise SystemExit(f"{name}: no part; {', '.join(parts)}")
        found = parts[name]()
        report = {"model": model} | (json.loads(out.read_text()) if out.exists() else {}) | {name: found}
        out.write_text(json.dumps(report, indent=1) + "\n")
        print(name, found.get("rmsd"), file=sys.stderr, flush=True)


if __name__ == "__main__":
    typer.run(main)
