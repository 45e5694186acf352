"""Speed and memory of protein encoding and decoding on this machine, beside a plain search over all codes.

python -m eval.speed.throughput ../shared/data/protein/train.npz

Our encoder and the plain one take turns; "times plain" is the median of the rounds' ratios, so that a machine that
is busy for a while does not favour either. Rates are of the best round.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

import structok
from eval import RESULTS
from eval.clock import best_of, machine, peak_memory
from structok.codebook.search import beam_search
from structok.geometry import backbone_frames
from structok.polymer.chain import ChainModel
from train.data import load_backbones


class PlainSearch:
    """What a first version in torch does: distances to all codes, and the best of beam × codes, at every step."""

    def __init__(self, model: ChainModel, coords: Tensor) -> None:
        self.model, self.coords = model, coords.double()
        self.rotation, self.origin = model.transforms[:, :3, :3], model.transforms[:, :3, 3]

    def candidates(self, state: tuple[Tensor, Tensor], step: int) -> tuple[Tensor, Tensor]:
        rotation, origin = state
        goal = (self.coords[:, None, step] - origin[:, :, None]) @ rotation
        flat = goal.flatten(2).float()
        cost = torch.cdist(flat, self.model.flat.expand(len(flat), -1, -1)).square().double()
        return cost, torch.arange(len(self.model)).expand(cost.shape)

    def advance(self, state: tuple[Tensor, Tensor], step: int, parent: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        rows = torch.arange(len(parent))[:, None]
        rotation, origin = state[0][rows, parent], state[1][rows, parent]
        moved = origin + (rotation @ self.origin[code][..., None])[..., 0]
        return rotation @ self.rotation[code], moved


def plain_encode(model: ChainModel, chains: Sequence[Tensor], beam: int, batch_size: int) -> list[Tensor]:
    """Closed-loop codes of complete chains by `PlainSearch`; slot 0 as the model has it."""
    order = sorted(range(len(chains)), key=lambda i: len(chains[i]))
    codes: list[Tensor] = [torch.empty(0)] * len(chains)
    for at in range(0, len(order), batch_size):
        part = order[at : at + batch_size]
        coords = torch.nn.utils.rnn.pad_sequence([chains[i] for i in part], batch_first=True)
        active = torch.arange(coords.shape[1]) < torch.tensor([len(chains[i]) for i in part])[:, None]
        start = backbone_frames(coords[:, :1].double())
        state = (start[..., :3, :3], start[..., :3, 3])
        found, _ = beam_search(PlainSearch(model, coords), state, active, beam=beam, start=1)
        found[:, 0] = model.encode_open(coords[:, :1].expand(-1, 2, -1, -1))[:, 0]
        for i, row in zip(part, found):
            codes[i] = row[: len(chains[i])]
    return codes


def against_plain(chains: list[Any], beam: int, repeats: int) -> dict[str, Any]:
    """Our encoder and the plain one, same model, chains and beam, in turn."""
    tokenizer = structok.load("chain-vq-4096")
    coords, n = [torch.from_numpy(c.coords) for c in chains], sum(map(len, chains))
    times, peak = [], 0
    for _ in range(repeats):
        fast, codes = best_of(1, lambda: tokenizer.model.encode(coords, beam=beam, batch_size=32))
        peak = peak or peak_memory()  # before the plain search takes its own
        slow, plain = best_of(1, lambda: plain_encode(tokenizer.model, coords, beam, 48))
        times.append((fast, slow))
    ours, theirs = np.array(times).T

    def mean_rmsd(found: list[Tensor]) -> float:
        rebuilt = [tokenizer.model.decode(c.long()).numpy() for c in found]
        return float(np.mean([structok.metrics.rmsd(b, c) for b, c in zip(rebuilt, chains)]))

    return {
        "beam": beam,
        "rounds": repeats,
        "ours, residues/s": round(n / ours.min()),
        "plain, residues/s": round(n / theirs.min()),
        "times plain, median of rounds": round(float(np.median(theirs / ours)), 2),
        "times plain, each round": np.round(theirs / ours, 2).tolist(),
        "mean RMSD, ours": round(mean_rmsd(codes), 5),
        "mean RMSD, plain": round(mean_rmsd(plain), 5),
        "peak memory of the process up to here, MB": peak,
    }


def main(
    data: Annotated[Path, typer.Argument(help="npz, parquet or folder of backbones")],
    out: Annotated[Path, typer.Option("-o", "--out")] = RESULTS / "throughput.json",
    chains: int = 256,
    repeats: int = 5,
) -> None:
    """Measure every protein model and the plain search, on the CPU."""
    backbones = load_backbones(data)
    pool = np.flatnonzero((backbones.split == 1) & backbones.complete & (backbones.lengths < 600))
    chosen = [backbones.chain(i) for i in np.random.default_rng(0).permutation(pool)[:chains]]
    residues = sum(map(len, chosen))
    results: dict[str, Any] = {
        **machine(),
        "chains": len(chosen),
        "residues": residues,
        "models": {},
    }
    for name in structok.list_models():
        tokenizer = structok.load(name)
        if tokenizer.modality != "protein":
            continue
        row: dict[str, float] = {}
        few = chosen[:12]
        for label, some, size in (("one by one", few, 1), ("batch 32", chosen, 32)):
            n = sum(map(len, some))
            seconds, tokens = best_of(repeats, lambda: tokenizer.encode_batch(some, batch_size=size))  # noqa: B023
            row[f"encode, {label}, residues/s"] = round(n / seconds)
        seconds, _ = best_of(repeats, lambda: tokenizer.decode_batch(tokens))  # noqa: B023
        row["decode, residues/s"] = round(residues / seconds)
        row["peak memory of the process, MB"] = peak_memory()
        results["models"][name] = {"beam": tokenizer.config.beam, **row}
        print(name, results["models"][name])
    results["closed loop against a plain search"] = against_plain(chosen, 8, repeats)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
