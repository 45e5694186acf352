"""The figures of README.md: a protein, its tokens and its rebuilt twin; error against rate.

python -m eval.report.figures
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes

import structok
from eval import RESULTS
from eval.report import plots
from eval.report.results import ROOT, load, ranked
from structok.geometry import superpose


def overview() -> None:
    """Input, tokens, reconstruction, and both on top of each other."""
    [chain] = structok.read_structure(ROOT / "structok/examples/1a8o.cif.gz")
    tokenizer = structok.load("chain-vq-4096")
    tokens = tokenizer.encode(chain)
    back = tokenizer.decode(tokens)
    original, rebuilt = (torch.from_numpy(c.coords[:, 1]).double() for c in (chain, back))
    rebuilt = superpose(rebuilt, original)
    view = torch.linalg.svd(original - original.mean(0), full_matrices=False).Vh
    traces = [((points - original.mean(0)) @ view.T).numpy() for points in (original, rebuilt)]
    figure, (left, middle, right, both) = plt.subplots(1, 4, figsize=(12, 3.2), width_ratios=[1, 0.75, 1, 1])
    rainbow = plt.get_cmap("viridis")(np.linspace(0, 1, len(chain) - 1))
    ribbon(left, traces[0], rainbow)
    left.set_title(f"1A8O, chain A: {len(chain)} residues")
    pieces = [f"<S {c}>" for c in tokens.codes[:30]]
    lines = [" ".join(pieces[k : k + 3]) for k in range(0, len(pieces), 3)]
    middle.text(0.5, 0.5, "\n".join([*lines, "..."]), ha="center", va="center", family="monospace", fontsize=8)
    middle.set_title(f"{len(tokens)} tokens, {math.log2(tokenizer.codebook_size):g} bits each")
    middle.axis("off")
    ribbon(right, traces[1], rainbow)
    right.set_title("decoded from the tokens")
    ribbon(both, traces[0], ["#1f77b4"] * len(rainbow), width=5)
    ribbon(both, traces[1], ["#ff7f0e"] * len(rainbow), width=1.5)
    both.set_title(f"both: {structok.metrics.rmsd(back, chain):.3f} Å RMSD")
    figure.tight_layout()
    figure.savefig(RESULTS / "overview.png", dpi=130)


def ribbon(axis: Axes, trace: np.ndarray, colours: Sequence[Any], width: float = 4) -> None:
    """A CA trace seen along its shortest axis, near parts drawn over far ones."""
    segments = np.stack([trace[:-1], trace[1:]], 1)
    order = np.argsort(segments[:, :, 2].mean(1))
    for i in order:
        x, y = segments[i, :, 0], segments[i, :, 1]
        axis.plot(x, y, color="white", linewidth=width + 1.5, solid_capstyle="butt")
        axis.plot(x, y, color=colours[i], linewidth=width, solid_capstyle="round")
    axis.set_aspect("equal")
    axis.axis("off")


def ladder() -> None:
    """CASP14 error against bits per residue: ours, peers and published."""
    figure = plots.rate_distortion(
        ranked("protein"), load("benchmark").get("peers", {}), load("published"), "CASP14", 6
    )
    figure.tight_layout()
    matplotlib.rcParams.update({"svg.hashsalt": "rate_distortion", "svg.fonttype": "path"})
    figure.savefig(RESULTS / "rate_distortion.svg", facecolor="white", metadata={"Date": None})


if __name__ == "__main__":
    overview()
    ladder()
