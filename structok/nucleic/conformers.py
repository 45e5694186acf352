"""Conformers of nucleotides: phosphate, sugar and the pose of the base, in the nucleotide's frame.

A base is rigid, so that a conformer says where it sits, not where its atoms are: three points stand for it (`anchors`),
and all bases share one codebook for RNA and one for DNA. Like side chains, a conformer is chosen by where the true
atoms lie in the frame that the decoder will have.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from structok.codebook.nearest import nearest_code
from structok.geometry import apply, kabsch
from structok.nucleic.atoms import BACKBONE, BASES, FRAME, PHOSPHATE

__all__ = ["ANCHORS", "HANGING", "Bases", "Conformers"]

IN_FRAME = tuple(BACKBONE.index(name) for name in FRAME)
HANGING = tuple(i for i in range(len(BACKBONE)) if i not in IN_FRAME)  # slots of the backbone that the code places
POINTS = len(HANGING) + 3
_O2 = HANGING.index(BACKBONE.index("O2'"))
_P = slice(HANGING.index(PHOSPHATE[0]), HANGING.index(PHOSPHATE[-1]) + 1)
_LEAST = 3  # atoms of a base, besides which its pose is not known
_CANDIDATES = 24  # conformers of each nucleotide between which its links to the neighbours decide
LINK = 1.607  # Å, O3'-P (Gelbin et al. 1996)

# in a base's own frame: the glycosidic N, a point beyond it on the way from C1', one beside it in the plane
ANCHORS = torch.tensor([[0.0, 0.0, 0.0], [2.5, 0.0, 0.0], [0.0, 2.5, 0.0]])


class Bases:
    """Rigid bases: atoms of each in its own frame (N at the origin, C1' at negative x, y in the plane), Å."""

    def __init__(self, templates: Mapping[str, Float[Tensor, "n 3"]]) -> None:
        self.templates = {letter: templates[letter].double() for letter in BASES}

    def anchors(self, atoms: Float[Tensor, "l 23 3"], sequence: str) -> Float[Tensor, "l 3 3"]:
        """Where the base of each nucleotide sits, by the atoms that it has; NaN with fewer than three of them."""
        out = atoms.new_full((len(atoms), 3, 3), torch.nan)
        for letter, template in self.templates.items():
            rows = _rows(sequence, letter)
            base = atoms[rows, len(BACKBONE) : len(BACKBONE) + len(template)].double()
            seen = base.isfinite().all(-1)
            enough = seen[:, 0] & (seen.sum(1) >= _LEAST)
            rows, base, seen = rows[enough], base[enough], seen[enough]
            pose = kabsch(template.expand(len(rows), -1, -1), base, seen)
            out[rows] = apply(pose, ANCHORS.double().expand(len(rows), 3, 3)).to(out.dtype)
        return out

    def place(self, anchors: Float[Tensor, "l 3 3"], sequence: str, out: Float[Tensor, "l 23 3"]) -> None:
        """Write the atoms of the bases that sit at `anchors` into `out`."""
        for letter, template in self.templates.items():
            rows = _rows(sequence, letter)
            pose = kabsch(ANCHORS.double().expand(len(rows), 3, 3), anchors[rows].double())
            atoms = apply(pose, template.expand(len(rows), -1, -1))
            out[rows, len(BACKBONE) : len(BACKBONE) + len(template)] = atoms.to(out.dtype)


class Conformers:
    """One codebook for one kind of sugar; its last `n_bare` codes are nucleotides without a phosphate.

    Parameters
    ----------
    points : atoms of the backbone that are not in the frame (`HANGING`), then the base's anchors, Å
    n_bare : codes without phosphate, whose P, OP1 and OP2 are NaN
    dna : without O2'
    """

    def __init__(self, points: Float[Tensor, "k p 3"], n_bare: int, *, dna: bool) -> None:
        self.points, self.n_bare, self.dna = points.float(), n_bare, dna
        whole = len(points) - n_bare
        self.books = (slice(0, whole), slice(whole, len(points)))  # with phosphate, without

    def candidates(
        self, x: Float[Tensor, "l p 3"], weight: Float[Tensor, "l p"], count: int = _CANDIDATES
    ) -> tuple[Float[Tensor, "l c"], Int[Tensor, "l c"]]:
        """Weighted squared errors and numbers of the nearest conformers, by the points that are there."""
        error = torch.full((len(x), count), torch.inf)
        code = torch.zeros((len(x), count), dtype=torch.long)
        patterns, of = _patterns(x, weight)
        for p, kept in enumerate(patterns):
            rows = (of == p).nonzero()[:, 0]
            bare = not (kept[_P] > 0).any()
            book = self.books[bare]
            scale = kept.sqrt()[kept > 0, None]
            e = (self.points[book][:, kept > 0] * scale).flatten(1).contiguous()
            some = (x[rows][:, kept > 0] * scale).flatten(1)
            k = min(count, len(e))
            distance, index = nearest_code(some, e, k)
            error[rows, :k], code[rows, :k] = distance.view(-1, k), index.view(-1, k).long() + book.start
        return error, code


def _patterns(
    x: Float[Tensor, "l p 3"], weight: Float[Tensor, "l p"]
) -> tuple[Float[Tensor, "m p"], Int[Tensor, " l"]]:
    """Distinct rows of weights, 0 where a point is missing."""
    return torch.where(x.isfinite().all(-1), weight, 0.0).unique(dim=0, return_inverse=True)  # type: ignore[return-value]


def _rows(sequence: str, letter: str) -> Int[Tensor, " m"]:
    kind = torch.frombuffer(bytearray(sequence.upper(), "latin-1"), dtype=torch.uint8)
    return (kind == ord(letter)).nonzero()[:, 0]
