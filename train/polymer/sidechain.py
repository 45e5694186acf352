"""Learn codebooks of side-chain conformers as they are seen from rebuilt backbones.

python -m train.polymer.sidechain ../shared/data/protein/allatom.npz -o checkpoints --codes 4096 --codes 256
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
from torch import Tensor

import structok
from structok.geometry import apply, backbone_frames, invert
from structok.polymer.local import onto_rebuilt
from structok.protein.sidechain import CODED, SideChainConfig, SideChains
from structok.protein.sidechain_atoms import ATOMS, BONDS
from train.polymer.data import ProteinChain, load_proteins
from train.polymer.ideal import idealise, in_many_frames, learn_conformers, stiff_pairs, usual_errors

console = Console(stderr=True)
BRANCHED = "IT"  # types whose CB has a handedness
USUAL = 0.5, 20.0  # Å and degrees by which rebuilt frames may be off
MISFIT = 1.0  # Å from the type's usual distance between bonded atoms; such residues teach nothing


class Seen(NamedTuple):
    """Residues of one type, N, CA, C and the side chain: in the rebuilt frames (`local`) and in their own, Å."""

    local: Float[Tensor, "m n 3"]
    own: Float[Tensor, "m n 3"]


def rebuild(chains: Sequence[ProteinChain], model: str) -> list[Float[Tensor, "l 3 3"]]:
    """Backbones of the chains as `model` gives them back unless asked otherwise, missing slots filled by bridges."""
    tokenizer = structok.load(model)
    backbones = [torch.from_numpy(c.backbone) for c in chains]
    codes = tokenizer.model.encode(backbones, beam=tokenizer.config.beam, rate_weight=tokenizer.config.rate_weight)
    return [tokenizer.model.decode(row) for row in codes]


def gather(chains: Sequence[ProteinChain], rebuilt: Sequence[Tensor]) -> tuple[dict[str, Seen], Float[Tensor, "m 4 4"]]:
    """Complete residues by type, and the errors of rebuilt frames (true frame, seen from the rebuilt one)."""
    atoms = [torch.from_numpy(c.atoms).double() for c in chains]
    local = torch.cat([onto_rebuilt(x, y).double() for x, y in zip(atoms, rebuilt)])
    letters = np.frombuffer("".join(c.sequence for c in chains).encode(), np.uint8)
    frames = backbone_frames(local[:, :3])
    own, usual = apply(invert(frames), local), usual_errors(frames, *USUAL)
    found = {}
    for letter in CODED:
        n = len(ATOMS[letter])
        kept = [i for i in range(n) if i != 3]  # without O
        rows = torch.from_numpy(letters == ord(letter)) & local[:, :n].isfinite().all(-1).all(-1) & usual
        found[letter] = _plausible(Seen(local[rows][:, kept].float(), own[rows][:, kept].float()), letter)
    return found, frames[usual]


def _plausible(seen: Seen, letter: str) -> Seen:
    """Without residues that are broken or of the other hand."""
    names = [name for name in ATOMS[letter] if name != "O"]
    pairs = torch.tensor([[names.index(a), names.index(b)] for a, b in BONDS[letter] if "O" not in (a, b)])
    length = (seen.own[:, pairs[:, 0]] - seen.own[:, pairs[:, 1]]).norm(dim=-1)
    good = ((length - length.median(0).values).abs() < MISFIT).all(1)
    for hand in _hands(seen.own, letter):
        good &= hand / hand.median() > 0.5  # neither turned over nor flat
    return Seen(seen.local[good], seen.own[good])


def _hands(own: Float[Tensor, "m n 3"], letter: str) -> list[Float[Tensor, " m"]]:
    """Volumes spanned by three neighbours of CA, and of CB where it has a handedness, Å³."""
    found = []
    for centre, *others in ((1, 0, 2, 3), (3, 1, 4, 5))[: 1 + (letter in BRANCHED)]:
        x, y, z = (own[:, k] - own[:, centre] for k in others)
        found.append((torch.linalg.cross(x, y) * z).sum(-1))
    return found


def learn(
    letter: str, seen: Seen, errors: Float[Tensor, "m 4 4"], codes: int, sample: int, rounds: int, seed: int
) -> Float[Tensor, "k n 3"]:
    """Conformers of one type."""
    random = torch.Generator().manual_seed(seed)
    stiff = stiff_pairs(seen.own)
    x = in_many_frames(seen.local[:, 3:], seen.own[:, 3:], errors, max(sample, 4 * codes), random)
    frame = seen.own[:, :3].median(0).values
    book, error = learn_conformers(x, torch.ones(x.shape[1]), codes, frame, stiff, rounds, random)
    for hand in _hands(torch.cat([frame.expand(codes, 3, 3), book], 1), letter):
        # the mean of two rotamers may have neither's handedness: a residue that was seen takes its place
        wrong = hand * hand.median() <= 0
        book[wrong] = idealise(x[: int(wrong.sum())], frame, stiff)
    console.log(f"{letter}: {len(seen.own)} residues, {len(stiff.mean)} stiff pairs, {error:.3f} Å per atom")
    return book


def main(
    source: Annotated[Path, typer.Argument(help="npz of chains with all heavy atoms")],
    out: Annotated[Path, typer.Option("-o", "--out", help="folder for the checkpoints sidechain-<codes>")],
    codes: Annotated[list[int], typer.Option(help="conformers of each type; again for another checkpoint")],
    backbone: Annotated[str, typer.Option(help="model on whose rebuilt backbones they hang")] = "chain-vq-4096",
    sample: Annotated[int, typer.Option(help="residues of each type for k-means")] = 40_000,
    rounds: Annotated[int, typer.Option(help="of idealising and assigning")] = 2,
    seed: int = 0,
    force: bool = False,
) -> None:
    """Write `config.json`, `model.safetensors` and `training.json` to each checkpoint folder."""
    folders = {size: out / f"sidechain-{size}" for size in codes}
    if not force and (there := [f for f in folders.values() if (f / "model.safetensors").exists()]):
        raise typer.BadParameter(f"{there[0]} holds a model already; --force replaces it")
    began = time.time()
    training = load_proteins(source, 0)
    seen, errors = gather(training, rebuild(training, backbone))
    console.log(f"{len(training)} chains, {len(errors)} residues, {time.time() - began:.0f} s")
    for size, folder in folders.items():
        books = {x: learn(x, seen[x], errors, size, sample, rounds, seed) for x in CODED}
        SideChains(SideChainConfig(size), books).save(folder)
        record = {
            "command": f"python -m train.polymer.sidechain {source} -o {out}"
            + "".join(f" --codes {n}" for n in codes)
            + f" --backbone {backbone} --sample {sample} --rounds {rounds} --seed {seed}",
            "seconds": round(time.time() - began),
            "torch": torch.__version__,
            "training_chains": sorted({c.name for c in training}),
            "training_clusters": sorted({c.cluster for c in training}),
        }
        (folder / "training.json").write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    typer.run(main)
