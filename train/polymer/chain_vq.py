"""Learn a chain-vq codebook: k-means on bonded steps, then refinement under closed-loop assignment.

python -m train.polymer.chain_vq ../shared/data/protein/train.npz -o checkpoints/chain-vq-4096 --codes 4096
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import Progress

from structok.checkpoint import write_checkpoint
from structok.codebook.kmeans import centroids, kmeans, spread_seeds
from structok.geometry import apply, backbone_frames, invert, scan
from structok.polymer.chain import ChainModel, chain_steps
from structok.protein.chain_vq import ChainVQConfig
from train.data import Backbones, load_backbones

console = Console(stderr=True)
LONGEST = 600  # residues; longer chains teach the same steps and slow the batches down
FAR = 0.7  # Å; a residue rebuilt further off than this, after a break, is what break codes are for


def bonded_steps(data: Backbones, chains: np.ndarray, limit: int, random: np.random.Generator) -> torch.Tensor:
    """Up to `limit` steps between bonded, observed residues, as [n, 9] in Å."""
    parts = []
    for i in chains:
        step = chain_steps(data[i].double()).flatten(1).float()
        bonded = ~data.break_before[data.offsets[i] + 1 : data.offsets[i + 1]]
        parts.append(step[torch.from_numpy(bonded) & step.isfinite().all(1)])
    steps = torch.cat(parts)
    return steps[torch.from_numpy(random.permutation(len(steps))[:limit])]


def closed_loop_steps(
    model: ChainModel, chains: list[torch.Tensor], beam: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What each code had to do: the true residue in the frame rebuilt so far [n, 9], the code [n], and
    whether it is the first residues after a break that earlier codes left far off [n]."""
    goals, chosen = [], []
    for coords, codes in zip(chains, model.encode(chains, beam=beam, batch_size=48)):
        codes, coords = codes.long(), coords.double()
        first = coords.isfinite().all(-1).all(-1).nonzero()[0, 0]
        anchor = backbone_frames(coords[first : first + 1])
        frames = scan(torch.cat([anchor, model.transforms[codes[first + 1 :]]]))
        goal = apply(invert(frames[:-1]), coords[first + 1 :]).flatten(1).float()
        seen = goal.isfinite().all(1)
        goals.append(goal[seen])
        chosen.append(codes[first + 1 :][seen])
    goal, code = torch.cat(goals), torch.cat(chosen)
    return goal, code, (goal - model.flat[code]).square().sum(1)


def refine(
    steps: torch.Tensor,
    data: Backbones,
    pool: np.ndarray,
    rounds: int,
    per_round: int,
    beam: int,
    random: np.random.Generator,
    progress: Progress,
) -> torch.Tensor:
    """Lloyd iterations in which codes are assigned in closed loop; unused codes move to badly served steps."""
    task = progress.add_task("closed-loop refinement", total=rounds)
    generator = torch.Generator().manual_seed(int(random.integers(1 << 31)))
    for i in range(rounds):
        chains = [data[j] for j in data.one_per_cluster(pool, random)[:per_round]]
        goal, code, error = closed_loop_steps(ChainModel(steps.view(-1, 3, 3)), chains, beam)
        unused = torch.bincount(code, minlength=len(steps)) == 0
        steps = centroids(goal, code, steps, prior=1.0)
        # the last round only polishes, so that every shipped code has been used as it is
        if i < rounds - 1 and (n := int(unused.sum())):
            steps[unused] = spread_seeds(goal, n, generator, known=steps[~unused])
        progress.update(
            task,
            advance=1,
            description=f"closed loop: RMS step error {float((error.mean() / 3).sqrt()):.4f} Å",
        )
        console.log(f"round {i}: RMS error {float((error.mean() / 3).sqrt()):.4f} Å, {int(unused.sum())} unused codes")
    return steps


def break_windows(data: Backbones, pool: np.ndarray) -> list[torch.Tensor]:
    """Stretches around chain breaks that no missing slot explains."""
    windows = []
    for i in pool:
        coords, flaw = data[i], data.break_before[data.offsets[i] : data.offsets[i + 1]]
        seen = coords.isfinite().all(-1).all(-1).numpy()
        jumps = np.flatnonzero(flaw[1:] & seen[1:] & seen[:-1]) + 1
        windows += [coords[max(0, j - 4) : j + 24] for j in jumps if len(coords) - j > 12]
    return windows


def learn_breaks(
    steps: torch.Tensor, n: int, windows: list[torch.Tensor], beam: int, progress: Progress
) -> torch.Tensor:
    """Codes for chain breaks: long steps to get across, shorter ones to correct the landing, coarse to fine."""
    found = steps.new_empty(0, 9)
    generator = torch.Generator().manual_seed(0)
    for share in progress.track([n // 2, n // 4, n - n // 2 - n // 4], description="break codes"):
        model = ChainModel(torch.cat([steps, found]).view(-1, 3, 3), len(found))
        goal, _, error = closed_loop_steps(model, windows, beam)
        goal = goal[error > 3 * FAR**2]
        found = torch.cat([found, kmeans(goal, share, iterations=20, generator=generator)])
    for _ in range(3):
        model = ChainModel(torch.cat([steps, found]).view(-1, 3, 3), len(found))
        goal, code, error = closed_loop_steps(model, windows, beam)
        found = centroids(goal, code, model.flat)[len(steps) :]
        console.log(f"after breaks: RMS error {float((error.mean() / 3).sqrt()):.3f} Å")
    return found


def main(
    source: Annotated[Path, typer.Argument(help="npz or parquet of backbones, or a folder of structures")],
    out: Annotated[Path, typer.Option("-o", "--out", help="checkpoint folder")],
    codes: int = 4096,
    breaks: Annotated[int, typer.Option(help="codes among them that are kept for chain breaks")] = 192,
    beam: Annotated[int, typer.Option(help="the checkpoint's default beam, used in refinement too")] = 8,
    rounds: Annotated[int, typer.Option(help="closed-loop refinement rounds")] = 12,
    per_round: Annotated[int, typer.Option(help="chains in each round, one per cluster")] = 1500,
    sample: Annotated[int, typer.Option(help="steps for k-means")] = 400_000,
    seed: int = 0,
    force: bool = False,
) -> None:
    """Write `config.json`, `model.safetensors` and `training.json` to the checkpoint folder."""
    if (out / "model.safetensors").exists() and not force:
        raise typer.BadParameter(f"{out} holds a model already; --force replaces it")
    began = time.time()
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    data = load_backbones(source)
    training = np.flatnonzero(data.split == 0)
    whole = training[(data.complete & (data.lengths <= LONGEST))[training]]
    console.log(f"{len(training)} training chains, {len(whole)} of them complete and at most {LONGEST} residues")
    windows = break_windows(data, training[~data.complete[training]]) if breaks else []
    if len(windows) < 4 * breaks:
        raise typer.BadParameter(f"{len(windows)} chain breaks cannot teach {breaks} break codes; lower --breaks")
    with Progress(console=console) as progress:
        bonded = bonded_steps(data, data.one_per_cluster(training, random), sample, random)
        task = progress.add_task("k-means", total=10)
        steps = kmeans(
            bonded,
            codes - breaks,
            iterations=10,
            generator=torch.Generator().manual_seed(seed),
            report=lambda i, error: progress.update(task, completed=i + 1, description=f"k-means: {error:.5f} Å²"),
        )
        steps = refine(steps, data, whole, rounds, per_round, beam, random, progress)
        if breaks:
            steps = torch.cat([steps, learn_breaks(steps, breaks, windows, beam, progress)])
    config = ChainVQConfig(codebook_size=codes, n_break=breaks, beam=beam)
    write_checkpoint(out, "chain-vq", config, {"steps": steps.view(-1, 3, 3).float()})
    record = {
        "command": f"python -m train.polymer.chain_vq {source} -o {out} --codes {codes} --breaks {breaks} --beam {beam}"
        f" --rounds {rounds} --per-round {per_round} --sample {sample} --seed {seed}",
        "seconds": round(time.time() - began),
        "torch": torch.__version__,
        "training_chains": sorted({data.names[i] for i in training}),
        "training_clusters": sorted({int(c) for c in data.cluster[training]}),
    }
    (out / "training.json").write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    typer.run(main)
