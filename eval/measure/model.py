"""One model, everything: what `eval.run` and its worker processes call."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

import structok
from eval.clock import machine, peak_memory
from eval.measure import axes
from eval.measure.assignments import (
    OPEN,
    assignments_of,
    can_close,
    default_assignment,
    label_of,
    options_of,
)
from eval.measure.molecules import Molecules
from eval.measure.protein import Proteins, fitting
from eval.measure.sets import StructureSet, molecule_sets, protein_sets, steady_chains
from eval.measure.stats import code_rate, rank_frequency, rounded
from structok.errors import StructokError
from structok.metrics import codebook_spread, codebook_use
from structok.molecule.convert import convert
from train.data import shared_folder

__all__ = ["KINDS", "RELEASED", "Scope", "codebook_of", "load_tokenizer", "measure_model", "sweep_model"]

RELEASED = "released weights"  # the published MolStrucTok, converted
KINDS: dict[str, axes.Kind] = {"protein": Proteins(), "molecule": Molecules()}


@dataclass(frozen=True)
class Scope:
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

    @property
    def about(self) -> dict[str, Any]:
        """For the results."""
        return {"mode": "full" if self.full else "small", "seed": self.seed, "source": self.source}

    def sets(self, modality: str) -> list[StructureSet]:
        """Structures of a modality.

        Raises
        ------
        StructokError
            If there are none in the folder, or the modality is measured elsewhere.
        """
        if modality not in KINDS:
            raise StructokError(f"{modality} tokenizers are measured by eval.measure.allatom")
        if modality == "protein":
            found = protein_sets(self.data, self.chains, self.seed)
        else:
            found = molecule_sets(self.data, self.molecules, whole=self.full)
        if not found:
            raise StructokError(f"{self.data}: no {modality} structures")
        return found


def load_tokenizer(model: str, device: str = "cpu") -> Any:
    """A tokenizer by name, folder or hub id; `RELEASED` is the published MolStrucTok."""
    if model != RELEASED:
        return structok.load(model, device)
    weights = shared_folder() / "reference" / "molstructok" / "weights.safetensors"
    tokenizer = convert(weights, Path(tempfile.mkdtemp()) / "molstructok")
    tokenizer.name = RELEASED
    return tokenizer


def codebook_of(tokenizer: Any) -> Float[torch.Tensor, "k d"] | None:
    """The vectors that codes stand for; None where a code has no vector of its own (topology-conditioned)."""
    model = getattr(tokenizer, "model", tokenizer)
    for holder, name in ((model, "codebook"), (getattr(model, "quantizer", None), "codebook"), (model, "flat")):
        vectors = getattr(holder, name, None)
        if isinstance(vectors, torch.Tensor) and vectors.ndim == 2:
            return vectors.detach()
    return None


def measure_model(model: str, scope: Scope) -> dict[str, Any]:
    """All measures of one model under each assignment; peak memory is that of the calling process."""
    tokenizer = load_tokenizer(model, scope.device)
    loaded = peak_memory()
    vectors = codebook_of(tokenizer)
    sets = scope.sets(tokenizer.modality)
    assignments = assignments_of(tokenizer, list(scope.beams), list(scope.weights), list(scope.rates))
    return {
        "name": tokenizer.name,
        "modality": tokenizer.modality,
        "codes": tokenizer.codebook_size,
        "default": label_of(default_assignment(tokenizer)),
        "settings": scope.about,
        "machine": machine(scope.device),
        "codebook": None if vectors is None else rounded(codebook_spread(vectors.cpu())),
        "assignments": {label_of(how): _measure(tokenizer, sets, options_of(how), scope) for how in assignments},
        "memory": {"loaded MB": loaded, "peak MB": peak_memory()},
    }


def _measure(tokenizer: Any, sets: list[StructureSet], options: dict[str, Any], scope: Scope) -> dict[str, Any]:
    """All measures of one assignment; codes, leakage, speed, stability and robustness on the first set."""
    kind, random, size = KINDS[tokenizer.modality], np.random.default_rng(scope.seed), tokenizer.codebook_size
    tokenizer.encode_batch(sets[0].structures[:1], **options)  # warm up before anything is timed
    out: dict[str, Any] = {"options": options, "sets": {}}
    for chosen in sets:
        fits = fitting(chosen, tokenizer.max_length) if tokenizer.modality == "protein" else chosen
        tokens, found = axes.accuracy(kind, tokenizer, fits, options, random)
        out["sets"][chosen.name] = found
        if chosen is sets[0]:
            rows = axes.observed_codes(tokens)
            every = np.concatenate(rows)
            out["rate"] = code_rate(rows, size)
            out["use"] = {**rounded(codebook_use(every, size)), "rank_frequency": rank_frequency(every, size)}
            out["leakage"] = kind.leakage(tokens, fits, size)
            out["speed"] = _speed(found)
    steady = kind.steady(sets[0], scope.steady, tokenizer.max_length)
    out["stability"] = axes.stability(kind, tokenizer, steady, options, random)
    tokens = tokenizer.encode_batch(steady, **options)
    out["robustness"] = axes.robustness(kind, tokenizer, steady, tokens, random)
    return out


def _speed(found: dict[str, Any]) -> dict[str, Any]:
    unit = "molecules" if "molecules" in found else "residues"
    return {"unit": f"{unit}/s", **{k: round(found[unit] / max(s, 1e-9)) for k, s in found["seconds"].items()}}


def sweep_model(model: str, scope: Scope) -> dict[str, Any]:
    """Accuracy, jitter stability and entropies over all beams × λ × μ, and open loop: the trade-off to choose from."""
    tokenizer = load_tokenizer(model, scope.device)
    if tokenizer.modality != "protein" or not can_close(tokenizer):
        raise StructokError(f"{model}: only protein tokenizers that can close the loop are swept")
    steady = steady_chains(scope.sets("protein")[0], scope.steady, tokenizer.max_length)
    grid = assignments_of(tokenizer, list(scope.beams), list(scope.weights), list(scope.rates))
    default, kind = default_assignment(tokenizer), KINDS["protein"]
    nearest = axes.observed_codes(tokenizer.encode_batch(steady.structures, search=OPEN))
    rows = []
    for how in grid:
        random, options = np.random.default_rng(scope.seed), options_of(how)
        tokens, figures = axes.accuracy(kind, tokenizer, steady, options, random)
        codes = axes.observed_codes(tokens)
        steadiness = axes.stability(kind, tokenizer, steady.structures, options, random, brief=True)
        row = {
            "label": label_of(how),
            "options": options,
            "default": how == default,
            **{k: figures[k] for k in ("rmsd", "tm_score", "lddt")},
            **steadiness,
            "equal_to_open": round(float(np.mean(np.concatenate(codes) == np.concatenate(nearest))), 4),
            "rate": code_rate(codes, tokenizer.codebook_size),
            "speed": _speed(figures),
        }
        rows.append(row)
        jitter = row["jitter"]["0.1"]["codes"]
        print(
            json.dumps({"model": tokenizer.name, "label": label_of(how), "rmsd": row["rmsd"]["mean"], "jitter": jitter})
        )
    return {
        "name": tokenizer.name,
        "codes": tokenizer.codebook_size,
        "chains": len(steady.structures),
        "residues": sum(map(len, steady.structures)),
        "settings": scope.about,
        "machine": machine(scope.device),
        "rows": rows,
    }
