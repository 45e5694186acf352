"""Atoms as the decoder's frames see them."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from structok.geometry import apply, backbone_frames, invert, kabsch

__all__ = ["onto_rebuilt"]


def onto_rebuilt(atoms: Float[Tensor, "l n 3"], rebuilt: Float[Tensor, "l 3 3"]) -> Float[Tensor, "l n 3"]:
    """True atoms, those of the frame first, superposed on the rebuilt chain, in the frames of its residues, Å.

    Computed in float64, so that codes do not depend on the pose of either.
    """
    atoms, rebuilt = atoms.double(), rebuilt.double()
    seen = (atoms[:, :3].isfinite() & rebuilt.isfinite()).all(-1).all(-1)
    weight = seen[:, None].expand(-1, 3).flatten()
    moved = apply(kabsch(atoms[:, :3].flatten(0, 1), rebuilt.flatten(0, 1), weight), atoms)
    return apply(invert(backbone_frames(rebuilt)), moved).float()
