"""README's figure of anchors: a complex with and without them, a chain of damaged tokens repaired.

python -m eval.report.anchors_figure
"""

from __future__ import annotations

import gzip
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import torch
from biotite.structure.io import pdbx
from jaxtyping import Float

import structok
from eval import RESULTS
from eval.measure.damage import damage
from eval.report.figures import ribbon
from eval.report.results import ROOT
from structok.complex import Complex
from structok.geometry import kabsch
from structok.structure import Backbone

_FILE = ROOT / "structok/examples/1a8o.cif.gz"
_COLOURS = "#1f77b4", "#ff7f0e"
_RATE, _SEED = 0.05, 3


def dimer() -> list[Backbone]:
    """1A8O as it is in solution: the chain and its copy by the crystal's symmetry."""
    with gzip.open(_FILE, "rt") as file:
        block = pdbx.CIFFile.read(file).block["pdbx_struct_oper_list"]
    [chain] = structok.read_structure(_FILE)
    chains = []
    for n, name in enumerate("AB"):
        turn = np.array([[block[f"matrix[{i}][{j}]"].as_array(float)[n] for j in (1, 2, 3)] for i in (1, 2, 3)])
        shift = np.array([block[f"vector[{i}]"].as_array(float)[n] for i in (1, 2, 3)])
        chains.append(Backbone(chain.coords @ turn.T + shift, chain.sequence, name, name="1a8o"))
    return chains


def draw() -> None:
    """Five pictures beside each other."""
    tok = structok.load("chain-vq-4096")
    chains = dimer()
    tokens = structok.encode_complex(Complex(chains, name="1a8o"))
    whole = structok.decode_complex(tokens).polymers
    apart = [tok.decode(replace(t.without_anchors(), frame="")) for t in tokens]
    own = tok.encode(chains[0])
    wrong = damage(own, _RATE, tok.codebook_size, len(tok.points), np.random.default_rng(_SEED))
    lost = tok.decode(wrong.without_anchors())
    back = tok.decode(wrong)
    count = int((wrong.codes != own.codes).sum()), int((wrong.anchors != own.anchors).sum())
    figure, axes = plt.subplots(1, 5, figsize=(13, 3.1), width_ratios=[1, 0.8, 1, 1.1, 0.8])
    together = [np.concatenate([c.coords[:, 1] for c in some]) for some in (chains, whole, apart)]
    error = float(structok.metrics.rmsd(*(np.concatenate([c.coords for c in some]) for some in (whole, chains))))
    panels = [
        (axes[0], chains, together[0], "1A8O, a dimer"),
        (axes[1], apart, together[2], "its codes alone: one on the other"),
        (axes[2], whole, together[1], f"codes and anchors: {error:.2f} Å"),
    ]
    for axis, some, points, title in panels:
        # all in the view of the original, where they can be superposed
        base = torch.from_numpy(points if some is apart else together[0]).double()
        view = torch.linalg.svd(base - base.mean(0), full_matrices=False).Vh.numpy()
        move = np.eye(4) if some is apart else kabsch(torch.from_numpy(points).double(), base).numpy()
        for chain, colour, width in zip(some, _COLOURS, (7, 2.5) if some is apart else (4, 4)):
            trace = (chain.coords[:, 1] @ move[:3, :3].T + move[:3, 3] - base.mean(0).numpy()) @ view.T
            ribbon(axis, trace, [colour] * len(trace), width)
        axis.set_title(title, fontsize=10)
    said = f"{count[0]} of {len(own)} codes, {count[1]} of {len(own.anchors)} anchors wrong"
    for axis, found, title in ((axes[3], lost, f"{said}:\ncodes alone"), (axes[4], back, "the same, repaired")):
        trace, grey = (seen(c.coords[:, 1], chains[0].coords[:, 1]) for c in (found, chains[0]))
        ribbon(axis, grey, ["#cccccc"] * len(grey), width=5)
        ribbon(axis, trace, plt.get_cmap("viridis")(np.linspace(0, 1, len(trace))), width=2)
        off = float(structok.metrics.rmsd(found, chains[0]))
        axis.set_title(f"{title}: {off:.1f} Å", fontsize=10)
    figure.tight_layout()
    figure.savefig(RESULTS / "anchors.png", dpi=110)


def seen(points: Float[np.ndarray, "l 3"], original: Float[np.ndarray, "l 3"]) -> Float[np.ndarray, "l 3"]:
    """Superposed on the original, in the view that shows most of it."""
    base = torch.from_numpy(original).double()
    view = torch.linalg.svd(base - base.mean(0), full_matrices=False).Vh.numpy()
    move = kabsch(torch.from_numpy(points).double(), base).numpy()
    return (points @ move[:3, :3].T + move[:3, 3] - base.mean(0).numpy()) @ view.T


if __name__ == "__main__":
    draw()
