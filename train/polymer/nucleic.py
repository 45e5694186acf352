"""Learn steps and conformers of nucleotides.

python -m train.polymer.nucleic ../shared/data/nucleic/nucleic.npz -o checkpoints/nucleic-vq-4096
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import typer
from jaxtyping import Float
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from structok.codebook.kmeans import centroids, kmeans, spread_seeds
from structok.codebook.nearest import nearest_code
from structok.geometry import apply, backbone_frames, gram_schmidt, invert, rigid
from structok.nucleic.atoms import BACKBONE, BASES, IN_FRAME, PHOSPHATE
from structok.nucleic.conformers import FRAME_WEIGHT, O2, POINTS, Bases
from structok.nucleic.tokenizer import BOND, LINK, NucleicVQ, NucleicVQConfig
from structok.polymer.anchors import Anchoring
from structok.polymer.chain import ChainModel, chain_steps
from structok.polymer.local import onto_rebuilt
from train.polymer.chain_vq import closed_loop_steps, learn_breaks
from train.polymer.data import NucleicExample, load_nucleic
from train.polymer.ideal import in_many_frames, learn_conformers, stiff_pairs, usual_errors

console = Console(stderr=True)
KEPT = 4  # rounds whose steps are remembered: seen from differently rebuilt chains, few steps become many
USUAL = 1.0, 30.0  # Å and degrees by which rebuilt frames may be off
ODD = 0.5  # Å from the usual base; such bases have a wrong geometry and teach nothing


class Seen(NamedTuple):
    """Points of nucleotides of one kind of sugar (`conformers.POINTS`), in the rebuilt frames and in their own, Å."""

    local: Float[Tensor, "m p 3"]
    own: Float[Tensor, "m p 3"]


def frames_of(chain: NucleicExample) -> Float[Tensor, "l 3 3"]:
    """C4', C3', C1'; a nucleotide that lacks one of them is missing as a whole."""
    frames = torch.from_numpy(chain.atoms[:, IN_FRAME])
    return torch.where(frames.isfinite().all(-1).all(-1)[:, None, None], frames, torch.nan)


def stretches(chains: Sequence[NucleicExample], shortest: int = 3) -> list[Float[Tensor, "l 3 3"]]:
    """Frames of unbroken stretches."""
    found = []
    for chain in chains:
        frames, atoms = frames_of(chain), torch.from_numpy(chain.atoms)
        bonded = (atoms[1:, 0] - atoms[:-1, 8]).norm(dim=-1) <= BOND
        cut = (~bonded | ~frames[1:].isfinite().all(-1).all(-1)).nonzero()[:, 0] + 1
        parts = frames.tensor_split(cut)
        found += [p for p in parts if len(p) >= shortest and bool(p.isfinite().all())]
    return found


def learn_steps(
    parts: Sequence[Float[Tensor, "l 3 3"]], codes: int, rounds: int, beam: int, random: torch.Generator
) -> Float[Tensor, "k 9"]:
    """k-means on the true steps, then on these and the steps that closed-loop assignment asked for."""
    true = torch.cat([chain_steps(p.double()).flatten(1).float() for p in parts])
    steps = kmeans(true[torch.randperm(len(true), generator=random)], codes, iterations=6, generator=random)
    pool: list[Tensor] = []
    for i in range(rounds):
        goal, code, error = closed_loop_steps(ChainModel(steps.view(-1, 3, 3), link=LINK), list(parts), beam)
        pool = [*pool, goal][-KEPT:]
        x = torch.cat([true, *pool])
        index = nearest_code(x, steps)[1].long()
        index[-len(code) :] = code
        unused = torch.bincount(code, minlength=codes) == 0
        steps = centroids(x, index, steps, prior=1.0)
        if i < rounds - 1 and (n := int(unused.sum())):
            some = x[torch.randperm(len(x), generator=random)[: len(true)]]
            steps[unused] = spread_seeds(some, n, random, known=steps[~unused])
        rms = float((error.mean() / 3).sqrt())
        console.log(f"round {i}: RMS error of steps {rms:.3f} Å, {int(unused.sum())} unused codes")
    return steps


def break_windows(chains: Sequence[NucleicExample]) -> list[Float[Tensor, "l 3 3"]]:
    """Stretches around missing nucleotides, without their slots: what break codes have to cross."""
    windows = []
    for chain in chains:
        frames = frames_of(chain)
        seen = frames.isfinite().all(-1).all(-1)
        coords, slot = frames[seen], seen.nonzero()[:, 0]
        jumps = (slot.diff() > 1).nonzero()[:, 0] + 1
        windows += [coords[max(0, j - 4) : j + 16] for j in jumps.tolist() if len(coords) - j > 4]
    return windows


def base_templates(chains: Sequence[NucleicExample]) -> dict[str, Float[Tensor, "n 3"]]:
    """The usual atoms of each base, flat, in the frame that `Bases` wants."""
    atoms = torch.from_numpy(np.concatenate([c.atoms for c in chains])).double()
    letters = np.frombuffer("".join(c.sequence for c in chains).upper().encode(), np.uint8)
    first, sugar = len(BACKBONE), BACKBONE.index("C1'")
    found = {}
    for letter, names in BASES.items():
        x = atoms[torch.from_numpy(letters == ord(letter))][:, : first + len(names)]
        x = x[x[:, [sugar, *range(first, x.shape[1])]].isfinite().all(-1).all(-1)]
        side = first + names.index("C4" if "N9" in names else "C2")
        axes = gram_schmidt(x[:, first] - x[:, sugar], x[:, side] - x[:, first])
        local = apply(invert(rigid(axes, x[:, first])), x[:, first:])
        middle = local.median(0).values
        usual = (local - middle).norm(dim=-1).amax(1) < ODD
        template = local[usual].mean(0)
        template[:, 2] = 0.0
        found[letter] = template.float()
        off = float((local[usual] - template).square().sum(-1).mean().sqrt())
        console.log(f"{letter}: {int(usual.sum())} of {len(x)} bases, {off:.3f} Å from the template")
    return found


def gather(
    chains: Sequence[NucleicExample], model: ChainModel, bases: Bases, beam: int
) -> tuple[dict[str, Seen], Float[Tensor, "m 4 4"]]:
    """Complete nucleotides by kind of sugar, and the errors of rebuilt frames (the true frame, in the rebuilt one)."""
    kept = [c for c in chains if int(frames_of(c).isfinite().all(-1).all(-1).sum()) >= 2]
    codes = model.encode([frames_of(c) for c in kept], beam=beam)
    local = []
    for chain, row in zip(kept, codes):
        atoms = torch.from_numpy(chain.atoms)
        points = torch.cat([frames_of(chain), atoms[:, : len(BACKBONE)], bases.points(atoms, chain.sequence)], 1)
        local.append(onto_rebuilt(points, model.decode(row)).double())
    x = torch.cat(local)
    dna = torch.tensor([letter.islower() for c in kept for letter in c.sequence])
    frames = backbone_frames(x[:, :3])
    usual, x = usual_errors(frames, *USUAL), x[:, 3:]
    own = apply(invert(frames), x)
    found = {}
    for kind, rows in (("rna", ~dna), ("dna", dna)):
        needed = [i for i in range(POINTS) if kind == "rna" or i != O2]
        whole = rows & x[:, needed].isfinite().all(-1).all(-1) & usual
        found[kind] = Seen(x[whole].float(), own[whole].float())
    return found, frames[usual]


def learn_book(
    kind: str, seen: Seen, errors: Tensor, codes: int, bare: int, sample: int, rounds: int, random: torch.Generator
) -> Float[Tensor, "k p 3"]:
    """Conformers of one kind of sugar: with a phosphate, then without."""
    x = in_many_frames(seen.local, seen.own, errors, sample, random)
    parts = []
    for size, left_out in ((codes - bare, ()), (bare, PHOSPHATE)):
        kept = [i for i in range(POINTS) if i not in left_out and not (kind == "dna" and i == O2)]
        weight = torch.ones(POINTS)
        weight[list(IN_FRAME)] = FRAME_WEIGHT
        weight[len(BACKBONE) :] = 3.0  # bases have 8 to 11 atoms
        stiff = stiff_pairs(seen.own[:, kept], frame=0)
        book, error = learn_conformers(x[:, kept], weight[kept], size, torch.empty(0, 3), stiff, rounds, random)
        whole = torch.full((size, POINTS, 3), torch.nan)
        whole[:, kept] = book
        parts.append(whole)
        console.log(f"{kind}: {len(seen.own)} nucleotides, {size} codes, {len(stiff.mean)} stiff pairs, {error:.3f} Å")
    return torch.cat(parts)


def main(
    source: Annotated[Path, typer.Argument(help="npz of nucleic chains with all heavy atoms")],
    out: Annotated[Path, typer.Option("-o", "--out", help="checkpoint folder")],
    codes: Annotated[int, typer.Option(help="steps")] = 4096,
    breaks: Annotated[int, typer.Option(help="steps that are kept for chain breaks")] = 32,
    conformers: Annotated[int, typer.Option(help="of RNA, and of DNA")] = 4096,
    bare: Annotated[int, typer.Option(help="conformers without a phosphate")] = 256,
    beam: Annotated[int, typer.Option(help="the checkpoint's default")] = 256,
    training_beam: int = 16,
    rounds: Annotated[int, typer.Option(help="of closed-loop refinement")] = 4,
    sample: Annotated[int, typer.Option(help="nucleotides of each kind for k-means")] = 80_000,
    seed: int = 0,
    force: bool = False,
) -> None:
    """Write `config.json`, `model.safetensors` and `training.json` to the checkpoint folder."""
    if (out / "model.safetensors").exists() and not force:
        raise typer.BadParameter(f"{out} holds a model already; --force replaces it")
    began = time.time()
    random = torch.Generator().manual_seed(seed)
    chains = load_nucleic(source, 0)
    parts = stretches(chains)
    console.log(f"{len(chains)} chains, {sum(map(len, parts))} nucleotides in {len(parts)} stretches")
    steps = learn_steps(parts, codes - breaks, rounds, training_beam, random)
    with Progress(console=console) as progress:
        steps = torch.cat([steps, learn_breaks(steps, breaks, break_windows(chains), training_beam, progress)])
    templates = base_templates(chains)
    model = ChainModel(steps.view(-1, 3, 3), breaks, link=LINK)
    seen, errors = gather(chains, model, Bases(templates), beam)
    books = {kind: learn_book(kind, seen[kind], errors, conformers, bare, sample, 2, random) for kind in seen}
    config = NucleicVQConfig(codes, conformers, breaks, bare, beam, anchors=Anchoring())
    NucleicVQ(config, steps.view(-1, 3, 3), books, templates).save(out)
    record = {
        "command": f"python -m train.polymer.nucleic {source} -o {out} --codes {codes} --breaks {breaks}"
        f" --conformers {conformers} --bare {bare} --beam {beam} --training-beam {training_beam} --rounds {rounds}"
        f" --sample {sample} --seed {seed}",
        "seconds": round(time.time() - began),
        "torch": torch.__version__,
        "training_chains": sorted({c.name for c in chains}),
        "training_clusters": sorted({c.cluster for c in chains}),
    }
    (out / "training.json").write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    typer.run(main)
