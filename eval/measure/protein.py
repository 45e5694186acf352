"""What is special about proteins in `eval.measure.axes`. All RMSD in Å."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from e3nn import o3
from jaxtyping import Float

from eval.measure.axes import Kind, Random, Report, agreement
from eval.measure.sets import StructureSet, steady_chains
from eval.measure.stats import leakage, share
from structok import metrics
from structok.structure import Backbone
from structok.tokens import Tokens

__all__ = ["CROPS", "ENOUGH", "LETTERS", "Proteins", "fitting"]

CROPS = (5, 20, 50)  # residues taken from an end
LETTERS = "ACDEFGHIKLMNPQRSTVWY"
ENOUGH = 25  # residues that a cropped chain must keep


def fitting(chosen: StructureSet, longest: int) -> StructureSet:
    """Without the chains that a tokenizer refuses."""
    fits = [len(c) <= longest for c in chosen.structures]
    why = {
        c.name: f"{len(c)} residues, longer than max_length {longest}" for c in chosen.structures if len(c) > longest
    }
    chains, groups = ([x for x, fit in zip(some, fits) if fit] for some in (chosen.structures, chosen.groups))
    return StructureSet(chosen.name, chains, groups, chosen.excluded | why)


class Proteins(Kind):
    """Chains of N, CA, C."""

    name, unit, size = "chains", "residues", "length"
    metrics = ("rmsd", "rmsd_ca", "tm_score", "lddt")
    bins = (0, 64, 128, 256, 512, 4096)
    draws = 2

    def steady(self, chosen: StructureSet, count: int, longest: int) -> list[Backbone]:
        return steady_chains(chosen, count, longest).structures

    def compare(self, true: Backbone, back: Backbone, tokens: Tokens) -> Report:
        return {"residues": len(true), **{k: getattr(metrics, k)(back, true) for k in self.metrics}}

    def errors(self, true: Backbone, back: Backbone, tokens: Tokens) -> dict[str, float]:
        return {k: getattr(metrics, k)(back, true) for k in ("rmsd", "tm_score", "lddt")}

    def places(self, structure: Backbone) -> Float[np.ndarray, "l 3 3"]:
        return structure.coords

    def moved(self, structure: Backbone, coords: Float[np.ndarray, "l 3 3"], rows: slice = slice(None)) -> Backbone:
        return Backbone(coords[rows].astype(np.float32), structure.sequence[rows], name=structure.name)

    def leakage(self, tokens: Sequence[Tokens], chosen: StructureSet, size: int) -> Report | None:
        index = {letter: i for i, letter in enumerate(LETTERS)}
        kept = [t.mask & (t.codes >= 0) for t in tokens]
        types = [np.array([index.get(x, -1) for x in t.sequence or ""])[k] for t, k in zip(tokens, kept)]
        known = any((t >= 0).any() for t in types)
        return leakage([t.codes[k] for t, k in zip(tokens, kept)], types, chosen.groups, size) if known else None

    def cropped(self, tokenizer: Any, structures: Sequence[Backbone], before: Sequence[Tokens], options: dict[str, Any],
                random: Random, brief: bool) -> Report:  # fmt: skip
        """Compares the codes of residues that stay, in chains that keep at least 25; brief: 20 off the start."""

        def kept(n: int, end: str) -> Report:
            parts = []
            for chain, tokens in zip(structures, before):
                rows = slice(n, None) if end == "start" else slice(None, max(len(chain) - n, 0))
                if chain.mask[rows].sum() >= ENOUGH:
                    parts.append((tokens, rows, self.moved(chain, chain.coords, rows)))
            again = tokenizer.encode_batch([short for *_, short in parts], **options)
            return share([agreement(tokens, new, rows) for (tokens, rows, _), new in zip(parts, again)], random)

        cuts, ends = (CROPS[1:2], ("start",)) if brief else (CROPS, ("start", "end"))
        return {f"crop {end}": {str(n): kept(n, end) for n in cuts} for end in ends}

    def posed(self, after: Callable[[Callable[[Any], Any]], Report], random: Random) -> Report:
        """A random rotation and a shift of up to 50 Å (float32)."""
        torch.manual_seed(int(random.integers(1 << 31)))

        def turned(chain: Backbone) -> Backbone:
            turn = o3.rand_matrix().double().numpy()
            return self.moved(chain, chain.coords @ turn.T + random.uniform(-50, 50, 3))

        return {"new pose": after(turned)}
