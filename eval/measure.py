"""One model, everything: what `eval.run` and its worker processes call."""

from __future__ import annotations

import json
import os
import platform
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

import structok
from eval import molecules, protein
from eval.assignments import OPEN, Assignment, assignments_of, can_close, closed, default_assignment
from eval.sets import MoleculeSet, ProteinSet, molecule_sets, protein_sets
from eval.stats import code_rate, rank_frequency, rounded
from structok.errors import StructokError
from structok.metrics import codebook_spread, codebook_use
from train.data import shared_folder

__all__ = ["RELEASED", "Settings", "load_tokenizer", "machine", "measure_model", "steady_chains", "sweep_model"]

RELEASED = "released weights"  # the published MolStrucTok, converted


@dataclass(frozen=True)
class Settings:
    """How much to measure, and on what.

    Parameters
    ----------
    data : file or folder of structures; None = the project's data, else the shipped examples
    chains, molecules : structures per set, 0 = all
    steady : structures for stability and robustness
    full : every set, instead of the small mode's
    beams, weights, rates : further beams, λ and μ of the closed loop
    device : where models run
    """

    data: Path | None
    chains: int
    molecules: int
    steady: int
    full: bool
    seed: int = 0
    beams: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()
    rates: tuple[float, ...] = ()
    device: str = "cpu"

    @property
    def source(self) -> str:
        """Where the structures came from, in words."""
        if self.data is not None:
            return f"structures of {self.data.name}"
        return "the project's held-out data" if shared_folder().is_dir() else "the examples that ship with the package"


def machine(device: str = "cpu") -> dict[str, Any]:
    """Where the figures were made."""
    return {
        "processor": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, models on {device}",
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
    }


def load_tokenizer(model: str, device: str = "cpu") -> Any:
    """A tokenizer by name, folder or hub id; `RELEASED` is the published MolStrucTok."""
    if model != RELEASED:
        return structok.load(model, device)
    tokenizer = molecules.converted(shared_folder() / "reference" / "molstructok" / "weights.safetensors")
    tokenizer.name = RELEASED
    return tokenizer


def steady_chains(chosen: ProteinSet, count: int, longest: int) -> ProteinSet:
    """At most `count` chains for the measures that encode many times: one of a cluster, not the longest."""
    first = {g: i for i, g in reversed(list(enumerate(chosen.groups))) if len(chosen.chains[i]) <= min(longest, 500)}
    picked = sorted(first.values())
    picked = [picked[i] for i in np.unique(np.linspace(0, len(picked) - 1, min(count, len(picked))).astype(int))]
    return ProteinSet(chosen.name, [chosen.chains[i] for i in picked], [chosen.groups[i] for i in picked])


def _codebook(tokenizer: Any) -> Float[torch.Tensor, "k d"] | None:
    """The vectors that codes stand for; None where a code has no vector of its own (topology-conditioned)."""
    model = tokenizer.model
    for holder, name in ((model, "codebook"), (getattr(model, "quantizer", None), "codebook"), (model, "flat")):
        vectors = getattr(holder, name, None)
        if isinstance(vectors, torch.Tensor) and vectors.ndim == 2:
            return vectors.detach()
    return None


def measure_model(model: str, settings: Settings) -> dict[str, Any]:
    """All measures of one model under each assignment; peak memory is that of the calling process."""
    tokenizer = load_tokenizer(model, settings.device)
    loaded = _peak()
    vectors = _codebook(tokenizer)
    assignments = assignments_of(tokenizer, list(settings.beams), list(settings.weights), list(settings.rates))
    result: dict[str, Any] = {
        "name": tokenizer.name,
        "modality": tokenizer.modality,
        "codes": tokenizer.codebook_size,
        "default": default_assignment(tokenizer).label,
        "settings": {"mode": "full" if settings.full else "small", "seed": settings.seed, "source": settings.source},
        "machine": machine(settings.device),
        "codebook": None if vectors is None else rounded(codebook_spread(vectors.cpu())),
        "assignments": {},
    }
    work = _protein if tokenizer.modality == "protein" else _molecule
    sets = (
        protein_sets(settings.data, settings.chains, settings.seed)
        if tokenizer.modality == "protein"
        else molecule_sets(settings.data, settings.molecules, whole=settings.full)
    )
    if not sets:
        raise StructokError(f"{settings.data}: no {tokenizer.modality} structures for {tokenizer.name}")
    for assignment in assignments:
        result["assignments"][assignment.label] = work(tokenizer, sets, assignment, settings)
    result["memory"] = {"loaded MB": loaded, "peak MB": _peak()}
    return result


def _peak() -> int:
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def _speed(unit: str, count: int, seconds: dict[str, float]) -> dict[str, Any]:
    return {
        "unit": unit,
        "encode": round(count / max(seconds["encode"], 1e-9)),
        "decode": round(count / max(seconds["decode"], 1e-9)),
    }


def _codes(tokens: Sequence[Any], size: int) -> dict[str, Any]:
    rows = protein.observed_codes(tokens)
    every = np.concatenate(rows)
    return {
        "rate": code_rate(rows, size),
        "use": {**rounded(codebook_use(every, size)), "rank_frequency": rank_frequency(every, size)},
    }


def _protein(tokenizer: Any, sets: list[ProteinSet], how: Assignment, settings: Settings) -> dict[str, Any]:
    random = np.random.default_rng(settings.seed)
    tokenizer.encode_batch(sets[0].chains[:1], **how.options)  # warm up before anything is timed
    out: dict[str, Any] = {"options": how.options, "sets": {}}
    for chosen in sets:
        tokens, out["sets"][chosen.name] = protein.accuracy(tokenizer, chosen, how.options, random)
        if chosen is sets[0]:
            groups = [g for c, g in zip(chosen.chains, chosen.groups) if len(c) <= tokenizer.max_length]
            out |= _codes(tokens, tokenizer.codebook_size)
            out["leakage"] = protein.residue_leakage(tokens, groups, tokenizer.codebook_size)
            figures = out["sets"][chosen.name]
            out["speed"] = _speed("residues/s", figures["residues"], figures["seconds"])
    steady = steady_chains(sets[0], settings.steady, tokenizer.max_length)
    out["stability"] = protein.stability(tokenizer, steady.chains, how.options, random)
    tokens = tokenizer.encode_batch(steady.chains, **how.options)
    out["robustness"] = protein.robustness(tokenizer, steady.chains, tokens, random)
    return out


def _molecule(tokenizer: Any, sets: list[MoleculeSet], how: Assignment, settings: Settings) -> dict[str, Any]:
    random = np.random.default_rng(settings.seed)
    tokenizer.encode_batch(sets[0].molecules[:1], **how.options)
    out: dict[str, Any] = {"options": how.options, "sets": {}}
    for chosen in sets:
        tokens, out["sets"][chosen.name] = molecules.accuracy(tokenizer, chosen, how.options, random)
        if chosen is sets[0]:
            out |= _codes(tokens, tokenizer.codebook_size)
            out["leakage"] = molecules.element_leakage(chosen.molecules, tokens, tokenizer.codebook_size)
            out["speed"] = _speed("molecules/s", len(tokens), out["sets"][chosen.name]["seconds"])
            steady, kept = chosen.molecules[: settings.steady], tokens[: settings.steady]
    out["stability"] = molecules.stability(tokenizer, steady, how.options, random)
    out["robustness"] = molecules.robustness(tokenizer, steady, kept, random)
    return out


def sweep_model(model: str, settings: Settings) -> dict[str, Any]:
    """Accuracy, jitter stability and entropies over all beams × λ × μ, and open loop: the trade-off to choose from."""
    tokenizer = load_tokenizer(model, settings.device)
    if tokenizer.modality != "protein" or not can_close(tokenizer):
        raise StructokError(f"{model}: only protein tokenizers that can close the loop are swept")
    sets = protein_sets(settings.data, settings.chains, settings.seed)
    if not sets:
        raise StructokError(f"{settings.data}: no protein structures for {model}")
    steady = steady_chains(sets[0], settings.steady, tokenizer.max_length)
    grid = [
        closed(tokenizer, beam, weight, rate)
        for beam in settings.beams
        for weight in settings.weights or (None,)
        for rate in settings.rates or (None,)
    ]
    grid = list(dict.fromkeys([default_assignment(tokenizer), OPEN, *grid]))
    nearest = protein.observed_codes(tokenizer.encode_batch(steady.chains, **OPEN.options))
    rows = []
    for how in grid:
        random = np.random.default_rng(settings.seed)
        tokens, figures = protein.accuracy(tokenizer, steady, how.options, random)
        codes = protein.observed_codes(tokens)
        equal = float(np.mean(np.concatenate(codes) == np.concatenate(nearest)))
        row = {
            "label": how.label,
            "options": how.options,
            "default": how == default_assignment(tokenizer),
            **{k: figures[k] for k in ("rmsd", "tm_score", "lddt")},
            **protein.stability(tokenizer, steady.chains, how.options, random, brief=True),
            "equal_to_open": round(equal, 4),
            "rate": code_rate(codes, tokenizer.codebook_size),
            "speed": _speed("residues/s", figures["residues"], figures["seconds"]),
        }
        rows.append(row)
        jitter = row["jitter"]["0.1"]["codes"]
        print(json.dumps({"model": tokenizer.name, "label": how.label, "rmsd": row["rmsd"]["mean"], "jitter": jitter}))
    return {
        "name": tokenizer.name,
        "codes": tokenizer.codebook_size,
        "chains": len(steady.chains),
        "residues": sum(map(len, steady.chains)),
        "settings": {"mode": "full" if settings.full else "small", "seed": settings.seed, "source": settings.source},
        "machine": machine(settings.device),
        "rows": rows,
    }
