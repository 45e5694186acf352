"""The benchmark: accuracy, stability, robustness, rate, codebook use, leakage and speed, side by side.

    python -m eval.run                                    every shipped model and peer, small mode, minutes
    python -m eval.run --full                             all held-out structures, all splits
    python -m eval.run -m chain-vq-4096,runs/mine         some models; the rest of the results file stays
    python -m eval.run -m foldcomp                        a peer (names in `eval.measure.peers`)
    python -m eval.run --data my_structures/              on your own files
    python -m eval.run --sweep -m chain-vq-4096           accuracy against stability over beam, λ and μ

Peers and plots need `pip install '.[bench]'`. Results are merged by model into OUT/benchmark.json (full mode) or
OUT/benchmark_small.json, and the report (`eval.report`) is written beside them. Each model runs in a process of its
own, so that its memory is its own.
"""

from __future__ import annotations

import json
import os
import re
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from eval import RESULTS
from eval.clock import apart
from eval.measure.model import KINDS, RELEASED, Scope, measure_model, sweep_model
from eval.measure.overlay import overlay_of
from eval.measure.peers import PEERS, measure_peer
from eval.report.page import write_report
from structok.errors import StructokError
from structok.files import write_whole
from structok.zoo import describe_models
from train.data import shared_folder

console = Console(stderr=True)
NUMBERS = "numbers separated by commas"


def merge(path: Path, section: str, key: str, value: Any) -> None:
    """Put one result into a results file, keeping what others wrote there meanwhile."""
    content = json.loads(path.read_text()) if path.exists() else {}
    content.setdefault(section, {})[key] = value
    text = json.dumps(content, indent=1, ensure_ascii=False)
    text = re.sub(r"\[[^\[\]{}\"]*\]", lambda numbers: re.sub(r"\s+", " ", numbers[0]), text)  # a list, a line
    write_whole(path, (text + "\n").encode())


def _kept(path: Path, found: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of an earlier sweep on the same structures that the new one has not measured again."""
    before = json.loads(path.read_text())["models"].get(found["name"], {}) if path.exists() else {}
    if any(before.get(k) != found[k] for k in ("chains", "residues", "settings")):
        return []
    new = {row["label"] for row in found["rows"]}
    return [row | {"default": False} for row in before["rows"] if row["label"] not in new]


def _peer(name: str, scope: Scope) -> dict[str, Any]:
    try:
        return dict(apart(measure_peer, name, scope))
    except BrokenProcessPool:
        return {"missing": f"{PEERS[name][0]}, which crashed"}


def _numbers(text: str, kind: type) -> tuple[Any, ...]:
    try:
        return tuple(kind(x) for x in text.split(",") if x.strip())
    except ValueError:
        raise typer.BadParameter(f"{text!r}: {NUMBERS}") from None


def default_models() -> list[str]:
    """Every shipped model of backbones or molecules, and the released MolStrucTok where it lies beside the clone."""
    released = (shared_folder() / "reference" / "molstructok" / "weights.safetensors").exists()
    shipped = (m for m in describe_models() if m["modality"] in KINDS and m["model_type"] != "sidechain")
    return [*(m["name"] for m in shipped), *([RELEASED] if released else [])]


def main(
    models: Annotated[
        list[str],
        typer.Option("-m", "--models", "--model", help="names, folders or peers, separated by commas or repeated"),
    ] = [],  # noqa: B006
    data: Annotated[Path | None, typer.Option(help="your own structures: a folder, .npz or .parquet")] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="folder of the results")] = RESULTS,
    full: Annotated[bool, typer.Option("--full", help="all held-out structures instead of samples")] = False,
    sweep: Annotated[bool, typer.Option("--sweep", help="accuracy against stability over beam, λ and μ")] = False,
    beam: Annotated[str, typer.Option(help=f"further beams: {NUMBERS}")] = "",
    latent_weight: Annotated[str, typer.Option(help=f"further λ of the closed loop: {NUMBERS}")] = "",
    rate_weight: Annotated[str, typer.Option(help=f"further μ (rate) of models with a prior: {NUMBERS}")] = "",
    chains: Annotated[int | None, typer.Option(help="chains per set, 0 = all")] = None,
    molecules: Annotated[int | None, typer.Option(help="molecules per set, 0 = all")] = None,
    steady: Annotated[int | None, typer.Option(help="structures for stability and robustness")] = None,
    seed: int = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto")] = "cpu",
    report: Annotated[bool, typer.Option(help="write the HTML report at the end")] = True,
) -> None:
    """Measure tokenizers and write JSON and a report."""
    if data is not None and not data.exists():
        raise typer.BadParameter(f"{data}: no such file or folder")
    beams, weights = _numbers(beam, int), _numbers(latent_weight, float)
    if sweep:
        beams, weights = beams or (1, 8, 32), weights or (0.0, 1.0, 4.0, 16.0)
    elif full:
        beams = beams or (1,)  # greedy, which the cards show as well

    def pick(asked: int | None, small: int, large: int) -> int:
        return asked if asked is not None else (large if full else small)

    scope = Scope(
        data,
        chains=pick(chains, 24, 0),
        molecules=pick(molecules, 40, 500),
        steady=pick(steady, 8, 64),
        full=full,
        seed=seed,
        beams=beams,
        weights=weights,
        rates=_numbers(rate_weight, float),
        device=device,
    )
    chosen = [name.strip() for names in models for name in names.split(",") if name.strip()]
    out.mkdir(parents=True, exist_ok=True)
    kind = "" if full else "_small"
    file = out / f"benchmark{kind}.json"
    failed = []
    for model in chosen or [*default_models(), *([] if sweep else PEERS)]:
        start = time.perf_counter()
        try:
            if model in PEERS:
                merge(file, "peers", model, _peer(model, scope))
            elif sweep:
                swept, found = out / f"sweep{kind}.json", apart(sweep_model, model, scope)
                merge(swept, "models", found["name"], found | {"rows": [*found["rows"], *_kept(swept, found)]})
            else:
                found = apart(measure_model, model, scope)
                found["seconds"] = round(time.perf_counter() - start, 1)
                merge(file, "models", found["name"], found)
                merge(out / f"overlay{kind}.json", "models", found["name"], apart(overlay_of, model, data))
        except StructokError as error:
            if sweep and not chosen:
                continue  # a model that cannot be swept was not asked for by name
            console.print(f"[red]{model}: {error}")
            failed.append(model)
            continue
        console.print(f"{model}: {time.perf_counter() - start:.0f} s", highlight=False)
    if report and file.exists():
        console.print(f"report: {write_report(out, small=not full)}", highlight=False)
    raise typer.Exit(1 if failed else 0)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    typer.run(main)
