"""Conformers of nucleotides: phosphate, sugar and the pose of the base, in the nucleotide's rebuilt frame.

The atoms of the frame are among them, so that a conformer makes good some of what the steps are off; the next step
starts from the rebuilt frame all the same. A base is rigid, so that a conformer says where it sits, not where its atoms
are: three points stand for it, and all bases share one codebook for RNA and one for DNA. Like side chains, a conformer
is chosen by where the true atoms lie in the frame that the decoder will have; among those that serve about as well,
`choice` picks those that fit their neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from structok.codebook.nearest import nearest_code
from structok.geometry import apply, kabsch
from structok.nucleic.atoms import BACKBONE, BASES, IN_FRAME, PHOSPHATE

__all__ = ["POINTS", "SUGAR_OXYGENS", "Bases", "Conformers", "Options", "observed_points", "weights"]

POINTS = len(BACKBONE) + 3  # slots of the backbone, then the base's points
P, O3, O2 = (BACKBONE.index(name) for name in ("P", "O3'", "O2'"))
SUGAR_OXYGENS = ("O4'", "O3'", "O2'")
FRAME_WEIGHT = 16.0  # what an atom of the frame counts beside others; without it, three of twenty hardly would
_FEWEST = 3  # atoms of a base, or of a sugar, without which their pose is not known
_GLYCOSIDIC = 2.0  # Å, from C1' to N; what hangs on another atom (pseudouridine) is not one of the bases

# in a base's own frame: the glycosidic N, a point beyond it on the way from C1', one beside it in the plane
_ANCHORS = torch.tensor([[0.0, 0.0, 0.0], [2.5, 0.0, 0.0], [0.0, 2.5, 0.0]], dtype=torch.float64)


class Bases:
    """Rigid bases.

    Parameters
    ----------
    templates : atoms of each base from the glycosidic N on, in its own frame: N at the origin, C1' at negative x, the
        ring in the xy-plane; Å
    """

    def __init__(self, templates: Mapping[str, Float[Tensor, "n 3"]]) -> None:
        self.templates = {letter: templates[letter].double() for letter in BASES}

    def points(self, atoms: Float[Tensor, "l 23 3"], sequence: str) -> Float[Tensor, "l 3 3"]:
        """The three points of each base, by the atoms that are there; NaN with fewer than three, or no bond to C1'."""
        out = atoms.new_full((len(atoms), 3, 3), torch.nan)
        for letter, template in self.templates.items():
            rows = rows_of(sequence, letter)
            base = atoms[rows, len(BACKBONE) : len(BACKBONE) + len(template)].double()
            seen = base.isfinite().all(-1)
            bond = (base[:, 0] - atoms[rows, BACKBONE.index("C1'")].double()).norm(dim=-1)
            enough = (bond < _GLYCOSIDIC) & (seen.sum(1) >= _FEWEST)
            rows, base, seen = rows[enough], base[enough], seen[enough]
            if len(rows):
                pose = kabsch(template.expand(len(rows), -1, -1), base, seen)
                out[rows] = apply(pose, _ANCHORS.expand(len(rows), 3, 3)).to(out.dtype)
        return out

    def place(self, points: Float[Tensor, "l 3 3"], sequence: str, out: Float[Tensor, "l 23 3"]) -> None:
        """Write the atoms of the bases that sit at `points` into `out`; those with NaN are left out."""
        known = points.isfinite().all(-1).all(-1)
        for letter, template in self.templates.items():
            rows = rows_of(sequence, letter)
            rows = rows[known[rows]]
            if len(rows):
                pose = kabsch(_ANCHORS.expand(len(rows), 3, 3), points[rows].double())
                atoms = apply(pose, template.expand(len(rows), -1, -1))
                out[rows, len(BACKBONE) : len(BACKBONE) + len(template)] = atoms.to(out.dtype)

    def atom(self, points: Float[np.ndarray, "*c 3 3"], letter: str, slot: int) -> Float[np.ndarray, "*c 3"]:
        """Where an atom of a base that sits at `points` lies."""
        x, y, _ = (self.templates[letter.upper()][slot - len(BACKBONE)] / 2.5).tolist()
        origin = points[..., 0, :]
        return origin + x * (points[..., 1, :] - origin) + y * (points[..., 2, :] - origin)


class Options(NamedTuple):
    """For each nucleotide some conformers, nearest first: squared error of its atoms in Å², code (-1 = none)."""

    error: Float[Tensor, "l c"]
    code: Int[Tensor, "l c"]


class Conformers:
    """The codebook of one kind of sugar; its last `n_bare` codes are nucleotides without a phosphate.

    Parameters
    ----------
    points : in the nucleotide's frame, Å; P, OP1 and OP2 of bare codes, and O2' of DNA, are NaN
    n_bare : codes without phosphate
    """

    def __init__(self, points: Float[Tensor, "k p 3"], n_bare: int) -> None:
        self.points = points.float()
        whole = len(points) - n_bare
        self._books = {False: slice(0, whole), True: slice(whole, len(points))}

    def nearest(self, x: Float[Tensor, "l p 3"], weight: Float[Tensor, "l p"], count: int) -> Options:
        """The conformers nearest to nucleotides, by their points with weight; those without P get bare ones."""
        error = torch.full((len(x), count), torch.inf)
        code = torch.full((len(x), count), -1)
        patterns, of = weight.unique(dim=0, return_inverse=True)
        for p, kept in enumerate(patterns):
            rows, there = (of == p).nonzero()[:, 0], kept > 0
            book = self._books[not bool(there[list(PHOSPHATE)].any())]
            scale = kept[there, None].sqrt()
            e = (self.points[book][:, there] * scale).flatten(1).contiguous()
            k = min(count, len(e))
            distance, index = nearest_code((x[rows][:, there] * scale).flatten(1), e, k)
            error[rows, :k], code[rows, :k] = distance.view(-1, k), index.view(-1, k).long() + book.start
        return Options(error, code)


def observed_points(points: Float[Tensor, "l p 3"], sequence: str) -> Bool[Tensor, " l"]:
    """Nucleotides of which enough is there to be coded: half the sugar, and the base if its letter says which."""
    seen = points.isfinite().all(-1)
    kind = torch.frombuffer(bytearray(sequence.upper(), "latin-1"), dtype=torch.uint8)
    sugar = [i for i in range(len(BACKBONE)) if i not in (*PHOSPHATE, *IN_FRAME)]
    return (seen[:, sugar].sum(1) >= _FEWEST) & (seen[:, len(BACKBONE) :].all(1) | (kind == ord("X")))


def weights(points: Float[Tensor, "l p 3"], sequence: str) -> Float[Tensor, "l p"]:
    """How many atoms each point stands for, 0 where it is missing; O2' of DNA does not count."""
    weight = points.isfinite().all(-1).float()
    weight[:, IN_FRAME] *= FRAME_WEIGHT
    for letter, names in BASES.items():
        weight[rows_of(sequence, letter), len(BACKBONE) :] *= len(names) / 3
    small = [i for i, letter in enumerate(sequence) if letter.islower()]
    weight[small, O2] = 0
    return weight


def rows_of(sequence: str, letter: str) -> Int[Tensor, " m"]:
    """Slots of a base, in DNA or RNA."""
    kind = torch.frombuffer(bytearray(sequence.upper(), "latin-1"), dtype=torch.uint8)
    return (kind == ord(letter)).nonzero()[:, 0]
