"""How steady the codes of protein tokenizers are: new pose, jitter, encoding the decoded chain again.

python -m eval.robustness ../shared/data/protein/train.npz
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from e3nn import o3
from jaxtyping import Float

import structok
from train.data import load_backbones

Coords = Float[np.ndarray, "l 3 3"]


def unchanged(tokenizer: Any, chains: list[Coords], change: Callable[[Coords], Coords]) -> dict[str, float]:
    """Share of codes, and of whole chains, that a change of the coordinates leaves as they are."""
    before, after = tokenizer.encode_batch(chains), tokenizer.encode_batch([change(c) for c in chains])
    same = [a.codes == b.codes for a, b in zip(before, after)]
    return {
        "codes": round(float(np.concatenate(same).mean()), 4),
        "chains": round(float(np.mean([s.all() for s in same])), 4),
    }


def main(
    data: Annotated[Path, typer.Argument(help="npz, parquet or folder of backbones")],
    out: Annotated[Path, typer.Option("-o", "--out")] = Path(__file__).parent / "results" / "robustness.json",
    chains: int = 100,
    seed: int = 0,
) -> None:
    """Measure every protein model on complete validation chains."""
    backbones = load_backbones(data)
    random = np.random.default_rng(seed)
    torch.manual_seed(seed)
    pool = np.flatnonzero((backbones.split == 1) & backbones.complete & (backbones.lengths < 500))
    chosen = [backbones[i].numpy() for i in random.permutation(pool)[:chains]]

    def moved(coords: Coords) -> Coords:
        shift = random.uniform(-50, 50, 3)
        return (coords @ o3.rand_matrix().double().numpy().T + shift).astype(np.float32)

    def jittered(scale: float) -> Callable[[Coords], Coords]:
        return lambda coords: (coords + random.normal(scale=scale, size=coords.shape)).astype(np.float32)

    results: dict[str, Any] = {"chains": len(chosen), "models": {}}
    for name in structok.list_models():
        tokenizer = structok.load(name)
        if tokenizer.modality != "protein":
            continue
        changes = {"rotated and moved": moved} | {f"jitter {s} Å": jittered(s) for s in (0.05, 0.1, 0.2)}
        row = {label: unchanged(tokenizer, chosen, change) for label, change in changes.items()}
        tokens = tokenizer.encode_batch(chosen)
        again = tokenizer.encode_batch([back.coords for back in tokenizer.decode_batch(tokens)])
        same = [np.array_equal(a.codes, b.codes) for a, b in zip(tokens, again)]
        row["decoded and encoded again"] = {"chains": round(float(np.mean(same)), 4)}
        results["models"][name] = row
        print(name, row)
    out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
