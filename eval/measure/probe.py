"""What frozen code vectors tell about each residue: the effectiveness axis, on labels that coordinates alone give.

Binding sites, conservation, ATLAS flexibility and crystallographic B factors are not in our data. The labels are
secondary structure (three states by P-SEA on CA, `biotite.structure.annotate_sse`), burial (CA atoms within 10 Å), and
the residue type, which is a leak rather than a merit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from biotite.structure import annotate_sse
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from eval.measure.protein import LETTERS
from eval.measure.stats import spread
from structok.structure import Backbone
from structok.tokens import Tokens
from train.data import Backbones

__all__ = ["Labelled", "effectiveness", "labelled", "labels_of"]

WINDOW = 2  # residues on either side whose vectors are read
NEAR = 10.0  # Å
STATES = ("a", "b", "c")  # helix, strand, coil of P-SEA
WAVES = 8  # of the position
HIDDEN, STEPS, BATCH, RATE = 128, 800, 512, 4e-3


@dataclass(frozen=True)
class Labelled:
    """Chains with labels per residue: state (0 to 2), neighbours (CA within 10 Å), type (-1 = none of the twenty)."""

    chains: list[Backbone]
    labels: list[dict[str, np.ndarray]]


def labels_of(chain: Backbone) -> dict[str, np.ndarray]:
    """Labels of a complete chain."""
    tree = cKDTree(chain.coords[:, 1])
    states = annotate_sse(chain.to_atom_array())
    return {
        "state": np.array([STATES.index(s) if s in STATES else 2 for s in states.tolist()]),
        "neighbours": np.array([len(found) - 1 for found in tree.query_ball_point(chain.coords[:, 1], NEAR)]),
        "type": np.array([LETTERS.find(letter) for letter in chain.sequence]),
    }


def labelled(data: Backbones, split: int, count: int, longest: int = 400) -> Labelled:
    """At most `count` complete chains of a split, one of each cluster."""
    pool = np.flatnonzero((data.split == split) & data.complete & (data.lengths >= 40) & (data.lengths <= longest))
    chains = [data.chain(int(i)) for i in data.one_per_cluster(pool, np.random.default_rng(0))[:count]]
    return Labelled(chains, [labels_of(chain) for chain in chains])


def inputs(vectors: Float[np.ndarray, "k d"], tokens: Tokens) -> Float[np.ndarray, "l f"]:
    """Vectors of the code and its neighbours in sequence (zero beyond the ends), and waves of the position."""
    scale = vectors.std() or 1.0
    own = np.where((tokens.codes >= 0)[:, None], (vectors - vectors.mean(0))[tokens.codes] / scale, 0)
    padded = np.pad(own, ((WINDOW, WINDOW), (0, 0)))
    around = [padded[k : k + len(own)] for k in range(2 * WINDOW + 1)]
    angle = np.arange(len(own))[:, None] / 1000 ** (np.arange(WAVES) / WAVES)
    return np.concatenate([*around, np.sin(angle), np.cos(angle)], 1).astype(np.float32)


class Probe(nn.Module):
    """Layer norm and one hidden layer: three states, burial (standardised), twenty types."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, len(STATES) + 1 + len(LETTERS))
        )

    def forward(
        self, x: Float[Tensor, "n f"]
    ) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"], Float[Tensor, "n 20"]]:
        state, burial, kind = self.layers(x).split((len(STATES), 1, len(LETTERS)), -1)
        return state, burial[:, 0], kind


def fit(x: Float[Tensor, "n f"], labels: dict[str, Tensor]) -> Probe:
    """Train on residues drawn at random: cross entropies and squared error, added up."""
    torch.manual_seed(0)
    probe, (mean, deviation) = Probe(x.shape[1]), (labels["neighbours"].mean(), labels["neighbours"].std())
    optimizer = torch.optim.AdamW(probe.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    for _ in range(STEPS):
        rows = torch.randint(len(x), (BATCH,))
        state, burial, kind = probe(x[rows])
        loss = F.cross_entropy(state, labels["state"][rows])
        loss = loss + F.cross_entropy(kind, labels["type"][rows], ignore_index=-1)
        loss = loss + F.mse_loss(burial, (labels["neighbours"][rows] - mean) / deviation)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return probe.eval()


def macro_f1(confusion: Int[np.ndarray, "... c c"]) -> Float[np.ndarray, "..."]:
    """Mean over classes of 2 TP / (2 TP + FP + FN); confusion[true, found]."""
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    return (2 * right / np.maximum(confusion.sum(-1) + confusion.sum(-2), 1)).mean(-1)


def effectiveness(
    vectors: Float[np.ndarray, "k d"], train: Sequence[Tokens], test: Sequence[Tokens], sets: tuple[Labelled, Labelled]
) -> dict[str, Any]:
    """Fit the probe on chains of training clusters, score it on validation clusters.

    Returns
    -------
    result : macro F1 of the states over all residues with its interval over resampled chains, Spearman of burial and
        share of types right as means over chains
    """
    rows = [inputs(vectors, t) for t in train]
    together = {k: torch.from_numpy(np.concatenate([x[k] for x in sets[0].labels])) for k in sets[0].labels[0]}
    together["neighbours"] = together["neighbours"].float()
    probe = fit(torch.from_numpy(np.concatenate(rows)), together)
    confusion, burial, types = [], [], []
    for tokens, true in zip(test, sets[1].labels):
        with torch.no_grad():
            state, near, kind = probe(torch.from_numpy(inputs(vectors, tokens)))
        found = np.zeros((len(STATES), len(STATES)), dtype=int)
        np.add.at(found, (true["state"], state.argmax(1).numpy()), 1)
        confusion.append(found)
        burial.append(float(spearmanr(near.numpy(), true["neighbours"]).statistic))
        known = true["type"] >= 0
        types.append(float((kind.argmax(1).numpy() == true["type"])[known].mean()) if known.any() else None)
    random, stacked = np.random.default_rng(0), np.stack(confusion)
    draws = macro_f1(stacked[random.integers(len(stacked), size=(1000, len(stacked)))].sum(1))
    interval = [round(float(q), 4) for q in np.percentile(draws, [2.5, 97.5])]
    return {
        "secondary structure, macro F1": {"mean": round(float(macro_f1(stacked.sum(0))), 4), "interval": interval},
        "burial, Spearman": spread(burial, random),
        "residue type, share right": spread(types, random),
    }
