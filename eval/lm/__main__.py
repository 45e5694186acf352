"""What tokens cost a small language model to learn, what its mistakes cost, and what it writes: README's tables.

    python -m eval.lm                                        everything, an hour of one core
    python -m eval.lm chain-vq-4096 runs/mine:open --anchors none,inline --seeds 1

A row is MODEL, MODEL:open, or MODEL:closed[:LATENT_WEIGHT[:RATE_WEIGHT]]. Its language models are trained where RUNS
has none yet (`train.lm`), and measured by `learnability`, `generation` and `tolerance`. Every result is written at once
to OUT/learnability.json and so on, and what is there with the same budget is not done again: stop it, start it again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from eval import RESULTS
from eval.clock import machine
from eval.lm import generation, learnability, tolerance
from eval.lm.heldout import Held, trained, update
from structok.errors import InputError
from structok.tokens import AnchorText
from train.data import shared_folder
from train.lm.fit import Row, train_rows
from train.lm.network import Settings

console = Console(stderr=True)
MEASURES = {"learnability": learnability, "generation": generation, "tolerance": tolerance}
FORMS = "none,inline,first"
CHAINS = ["chain-vq-4096", "gcp-vqvae", "chain-vq-64"]
MOLECULES = ["molstructok", "molstructok-topo"]
SEARCHES = [
    f"chain-vq-{row}" for row in ("256", "4096:open", "64:open", "256:open", "4096:closed:0:0", "4096:closed:4:0")
]
PLAN = [  # what README shows, the most telling first
    ("learnability", CHAINS, FORMS),
    ("generation", CHAINS, FORMS),
    ("learnability", MOLECULES, "none"),
    ("generation", MOLECULES, "none"),
    ("tolerance", CHAINS[::-1], FORMS),
    ("learnability", SEARCHES, "none"),
]


def chosen(text: str, known: Collection[str]) -> list[Any]:
    """Some of the known names, from a text such as 'none,inline'."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found or set(found) - set(known):
        raise InputError(f"{text}: give some of {', '.join(known)}, with commas between")
    return found


def main(
    rows: Annotated[
        list[str], typer.Argument(help="MODEL, MODEL:open or MODEL:closed[:LATENT_WEIGHT[:RATE_WEIGHT]]")
    ] = [],  # noqa: B006
    anchors: Annotated[str, typer.Option(help="of these rows: none, inline, first, with commas between")] = FORMS,
    measures: Annotated[str, typer.Option(help="only these")] = ",".join(MEASURES),
    seeds: Annotated[int, typer.Option(help="language models of each")] = 3,
    tokens: Annotated[int, typer.Option(help="of training")] = Settings.tokens,
    residues: Annotated[int, typer.Option(help="of training crops")] = Settings.residues,
    crops: Annotated[int, typer.Option(help="validation crops that tolerance and generation are measured on")] = 24,
    data: Annotated[Path | None, typer.Option(help="folder with protein/train.npz and molecule/qm9.npz")] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="folder of the results")] = RESULTS,
    runs: Annotated[Path, typer.Option(help="where the language models are kept")] = Path("runs/lm"),
) -> None:
    """Train and measure rows, by default those of README; the entries of other rows stay in the files."""
    folder, settings = data or shared_folder() / "data", Settings(tokens=tokens, residues=residues)
    names, known = chosen(measures, MEASURES), FORMS.split(",")
    plan = [step for step in PLAN if step[0] in names] if not rows else [(name, rows, anchors) for name in names]
    for name, row, form in [(n, Row.parse(r), f) for n, own, forms in plan for r in own for f in chosen(forms, known)]:
        began, file, place = time.process_time(), out / f"{name}.json", f"{row.name}-{form}"
        budget: dict[str, Any] = {"seeds": seeds, "tokens": tokens, "crops": 0 if name == "learnability" else crops}
        there = json.loads(file.read_text()).get(place, {}) if file.exists() else {}
        known_residues = there.get("training", {}).get("settings", {}).get("residues")
        if all(there.get(key) == value for key, value in budget.items()) and known_residues == residues:
            continue
        held = Held.of(row, folder)
        protein = held.tokenizer.modality == "protein"
        if not protein and (form != "none" or name == "tolerance"):
            continue  # molecules have no anchors, and are not repaired
        needed: list[AnchorText] = ["none", form] if form != "none" else ["none"]  # cost is measured beside none
        train_rows(row, needed, range(seeds), folder, runs, settings)
        found = {f: trained(runs, row, f, seeds) for f in needed}
        about = {
            "model": Path(row.model).name,
            "assignment": held.assignment,
            "anchors": form,
            "codebook_size": held.tokenizer.codebook_size,
            "training": found[form].training,
        }
        held = held.first(crops) if protein and name != "learnability" else held
        update(file, place, budget | about | MEASURES[name].measure(held, found, form, folder) | {"machine": machine()})
        console.log(f"{name}, {place}: {time.process_time() - began:.0f} s")


if __name__ == "__main__":
    typer.run(main)
