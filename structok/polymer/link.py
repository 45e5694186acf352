"""How neighbours of a chain hang together."""

from __future__ import annotations

from typing import NamedTuple

from structok.geometry import BOND_LIMIT, CA_STEP

__all__ = ["PEPTIDE", "Link"]


class Link(NamedTuple):
    """What tells that two residues follow each other, and how far apart they then are.

    Parameters
    ----------
    limit : distance from the last frame atom of a residue to the first of the next above which they are not bonded, Å
    stride : usual distance of the origins of bonded neighbours, Å
    """

    limit: float
    stride: float


PEPTIDE = Link(limit=BOND_LIMIT, stride=CA_STEP)  # C to N, CA to CA
