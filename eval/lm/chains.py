"""What sampled chains look like beside real ones: bonds, torsions, clashes, compactness, secondary structure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from biotite.structure import annotate_sse, dihedral
from jaxtyping import Float

from eval.lm.heldout import figure
from eval.measure.probe import STATES
from structok.structure import Backbone

__all__ = ["chain_figures", "distances", "nearest_tm"]

CA_BOND = (3.6, 4.0)  # Å between consecutive CA of a trans peptide
CN_BOND = (1.18, 1.48)  # Å, 1.33 ± 0.15
CA_CLASH = 3.0  # Å; CA of residues three or more apart never come this close
CONTACT = 8.0  # Å between CA
BONDS = {"N-CA": (0, 0, 1), "CA-C": (0, 1, 2), "C-N": (1, 2, 0)}  # steps to the next residue, atom, atom
WIDTH = {"bond": 0.02, "torsion": 20.0}  # Å, degrees

Coords = Float[np.ndarray, "l 3 3"]


def _torsions(coords: Coords) -> Float[np.ndarray, "l-2 2"]:
    """Phi and psi of the inner residues, degrees."""
    n, ca, c = coords[:, 0], coords[:, 1], coords[:, 2]
    phi = dihedral(c[:-2], n[1:-1], ca[1:-1], c[1:-1])
    psi = dihedral(n[1:-1], ca[1:-1], c[1:-1], n[2:])
    return np.degrees(np.stack([phi, psi], -1))


def _one(chain: Backbone) -> dict[str, float]:
    """Figures of a complete chain."""
    coords = chain.coords.astype(np.float64)
    ca, length = coords[:, 1], len(coords)
    step = np.linalg.norm(np.diff(ca, axis=0), axis=1)
    bond = np.linalg.norm(coords[1:, 0] - coords[:-1, 2], axis=1)
    distance = np.linalg.norm(ca[:, None] - ca[None], axis=-1)
    apart = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
    contact = np.argwhere((distance < CONTACT) & (apart > 2))
    states = annotate_sse(chain.to_atom_array())
    share = {name: float((states == letter).mean()) for name, letter in zip(("helix", "strand"), STATES)}
    return {
        "finite": float(np.isfinite(coords).all()),
        "residues_clashing": float((np.where(apart >= 3, distance, np.inf).min(1) < CA_CLASH).mean()),
        "without_clash": float((distance[apart >= 3] >= CA_CLASH).all()),
        "ca_distance_3.6_to_4.0": float(((step > CA_BOND[0]) & (step < CA_BOND[1])).mean()),
        "breaks": float(((bond < CN_BOND[0]) | (bond > CN_BOND[1])).mean()),
        "compactness": float(np.sqrt(((ca - ca.mean(0)) ** 2).sum(1).mean()) / (2.2 * length**0.38)),
        "contact_order": float(np.abs(np.diff(contact, axis=1)).mean() / length) if len(contact) else 0.0,
        "contacts_per_residue": len(contact) / length,
        **share,
    }


def chain_figures(seeds: Sequence[Sequence[Backbone]]) -> dict[str, Any]:
    """Means over chains sampled under several seeds, with intervals. The seeds' chains have the same lengths.

    `breaks` is the share of C-N bonds outside 1.33 ± 0.15 Å; `compactness` the radius of gyration over 2.2 L^0.38 Å,
    that of a globular protein; `contact_order` the mean separation of contacts (CA within 8 Å) over the length.
    """
    rows = [[_one(chain) for chain in chains] for chains in seeds]
    return {key: figure(np.array([[r[key] for r in row] for row in rows])) for key in rows[0][0]}


def distances(made: Sequence[Backbone], real: Sequence[Backbone]) -> dict[str, float]:
    """Total variation, 0 to 1, between two sets of chains: of each bond's length, and of phi and psi together."""

    def apart(a: np.ndarray, b: np.ndarray) -> float:
        return round(float(np.abs(a / a.sum() - b / b.sum()).sum() / 2), 4)

    found = {}
    for name, (ahead, first, second) in BONDS.items():
        edges = np.r_[-np.inf, np.arange(1.0, 2.0, WIDTH["bond"]), np.inf]
        counts = []
        for chains in (made, real):
            ends = [(c.coords[: len(c) - ahead, first], c.coords[ahead:, second]) for c in chains]
            lengths = np.concatenate([np.linalg.norm(x - y, axis=-1) for x, y in ends])
            counts.append(np.histogram(lengths, edges)[0].astype(float))
        found[f"bond {name}"] = apart(*counts)
    edges = np.arange(-180.0, 180.1, WIDTH["torsion"])
    maps = []
    for chains in (made, real):
        angles = np.concatenate([_torsions(c.coords.astype(np.float64)) for c in chains])
        maps.append(np.histogramdd(angles[np.isfinite(angles).all(1)], [edges, edges])[0])
    return found | {"phi, psi": apart(*maps)}


def nearest_tm(chains: Sequence[Backbone], known: Sequence[Backbone] | None = None) -> list[float]:
    """Best TM-score of each chain to known ones (TM-align, by its length); without those, the ones of its pairs."""
    from tmtools import tm_align  # a peer, not needed at run time

    letters = [chain.sequence or "A" * len(chain) for chain in chains]
    alpha = [chain.coords[:, 1].astype(np.float64) for chain in chains]
    if known is None:
        pairs = [
            tm_align(alpha[i], alpha[j], letters[i], letters[j]).tm_norm_chain1
            for i in range(len(chains))
            for j in range(i)
        ]
        return [float(v) for v in pairs]
    others = [(k.coords[:, 1].astype(np.float64), k.sequence or "A" * len(k)) for k in known]
    return [max(float(tm_align(x, y, s, t).tm_norm_chain1) for y, t in others) for x, s in zip(alpha, letters)]
