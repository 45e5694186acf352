"""Spherical descriptors of a molecule, and the exact way back. Torch alone, batched over molecules.

An atom is described in the frame of three earlier atoms: its focal atom f and two references c1, c2
(Gao et al. 2024, arXiv 2412.01564). The frame's x-axis points from f to c1, y to c2 (made orthogonal),
z = x × y; the descriptor is d (Å), theta = angle from z, |phi| = azimuth from x, and the sign of phi.
The first three atoms fix the molecule's pose: atom 0 at the origin, atom 1 on the x-axis, atom 2 in the
xy-plane. All geometry is in float64.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = [
    "COLLINEAR",
    "FIRST_ATOM",
    "describe",
    "frames",
    "levels",
    "normalise",
    "orient",
    "rebuild",
    "reference_atoms",
    "spherical_to_local",
    "to_local",
]

# Constants that the published tokenizer gives to atom 0: d, theta, |phi|, sign. Atoms 1 and 2 borrow
# from them what they have no geometry for.
FIRST_ATOM = (1.2608129506349746, 1.593612854073428, 2.1366727766526967, 0.0)

COLLINEAR = 1e-6  # sine of the angle c1-f-c2 below which c2 gives no direction


def reference_atoms(bonds: Int[np.ndarray, "m 2"], n: int) -> Int[np.ndarray, "n 3"]:
    """References (f, c1, c2) of each atom in token order.

    f is the latest earlier neighbour. Atoms 0 to 2 have no three earlier atoms: their rows name the
    atoms that the rebuilding rules give them (0, 1, 2 where there is none).

    Raises
    ------
    ValueError
        If an atom after the first has no earlier neighbour: the molecule has several fragments.
    """
    focal = np.full(n, -1, dtype=np.int64)
    low, high = bonds.min(1, initial=n), bonds.max(1, initial=-1)
    np.maximum.at(focal, high, low)
    if (focal[1:] < 0).any():
        raise ValueError(f"atom {1 + int(np.argmin(focal[1:]))} is bonded to no earlier atom")
    up = np.concatenate([focal, (0, 0, 0)])
    up[:3] = (1, 0, 1)  # the focal atom that atoms 0, 1, 2 count as having, when they are focal themselves
    c1 = up[focal]
    c2 = up[c1]
    c2[focal == 0] = 2
    c2[focal == 1] = 2
    refs = np.stack([focal, c1, c2], axis=1)
    refs[:3] = np.minimum(np.arange(3), n - 1)
    return refs


def levels(refs: Int[np.ndarray, "n k"], first: int = 3) -> Int[np.ndarray, " n"]:
    """Depth of each atom in the rebuilding order: one more than its deepest reference; 0 below `first`.

    Atoms of one level need nothing of each other and are rebuilt at once.
    """
    level = [0] * len(refs)
    for i, row in enumerate(refs[first:].tolist(), start=first):
        level[i] = 1 + max([level[j] for j in row])
    return np.array(level, dtype=np.int64)


def frames(f: Float[Tensor, "*b 3"], c1: Float[Tensor, "*b 3"], c2: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3 3"]:
    """Orthonormal rows x, y, z of the frame at f; collinear references get a fixed perpendicular as y."""
    x = _unit(c1 - f)
    towards = c2 - f
    y = towards - (towards * x).sum(-1, keepdim=True) * x
    flat = y.norm(dim=-1, keepdim=True) <= COLLINEAR * towards.norm(dim=-1, keepdim=True)
    # a linear molecule lies along (1, 0, 0) when rebuilt: the choice must not hang on rounding there
    axis = torch.where(x[..., 1:2].abs() < 0.9, x.new_tensor([0.0, 1.0, 0.0]), x.new_tensor([0.0, 0.0, 1.0]))
    y = _unit(torch.where(flat, axis - (axis * x).sum(-1, keepdim=True) * x, y))
    return torch.stack([x, y, torch.linalg.cross(x, y)], dim=-2)


def _unit(v: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3"]:
    return v / v.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def _gather(coords: Float[Tensor, "*b n 3"], index: Int[Tensor, "*b k"]) -> Float[Tensor, "*b k 3"]:
    return coords.gather(-2, index[..., None].expand(*index.shape, 3))


def to_local(
    coords: Float[Tensor, "b n 3"], refs: Int[Tensor, "b n 3"], target: Float[Tensor, "b n 3"] | None = None
) -> Float[Tensor, "b n 3"]:
    """Position of each atom (of `target`, by default `coords`) in the frame of its references in `coords`."""
    f, c1, c2 = (_gather(coords, refs[..., k]) for k in range(3))
    return torch.einsum("bnij,bnj->bni", frames(f, c1, c2), (coords if target is None else target) - f)


def orient(coords: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 3"]:
    """Move each molecule rigidly to the pose of rebuilding: atom 0 at 0, atom 1 on +x, atom 2 with y >= 0, z = 0."""
    coords = coords.double()
    origin = coords[:, :1]
    n = coords.shape[1]
    if n == 1:
        return coords - origin
    axes = frames(origin[:, 0], coords[:, 1], coords[:, min(2, n - 1)])
    return torch.einsum("bij,bnj->bni", axes, coords - origin)


def describe(coords: Float[Tensor, "b n 3"], refs: Int[Tensor, "b n 3"]) -> Float[Tensor, "b n 4"]:
    """Descriptors d (Å), theta, |phi| (radians), sign of phi, of each atom; float64."""
    coords = orient(coords)
    local = to_local(coords, refs)
    x, y, z = local.unbind(-1)
    phi = torch.atan2(y, x)
    g = torch.stack([local.norm(dim=-1), torch.atan2(torch.hypot(x, y), z), phi.abs(), phi.sign()], dim=-1)
    n = coords.shape[1]
    g[:, :3] = coords.new_tensor(FIRST_ATOM)
    if n > 1:
        g[:, 1, 0] = coords[:, 1].norm(dim=-1)
    if n > 2:
        g[:, 2, 0] = coords[:, 2].norm(dim=-1)
        g[:, 2, 2] = torch.atan2(coords[:, 2, 1], coords[:, 2, 0]).abs()
    return g


def normalise(g: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 4"]:
    """Network input: log(d + 1), theta / pi, |phi| / pi, sign."""
    return torch.stack([(g[..., 0] + 1).log(), g[..., 1] / torch.pi, g[..., 2] / torch.pi, g[..., 3]], dim=-1)


def spherical_to_local(g: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 3"]:
    """Cartesian position in the local frame of a descriptor (d, theta, |phi|, sign)."""
    d, theta, phi = g[..., 0], g[..., 1], g[..., 2] * g[..., 3]
    return d[..., None] * torch.stack([theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()], dim=-1)


def rebuild(g: Float[Tensor, "b n 4"], refs: Int[Tensor, "b n 3"]) -> Float[Tensor, "b n 3"]:
    """Coordinates (float64, Å) from descriptors, level by level: the exact inverse of `describe`.

    Parameters
    ----------
    g : descriptors d, theta, |phi|, sign
    refs : references, as of `reference_atoms`, zero in padding
    """
    g = g.double()
    n = g.shape[1]
    local = spherical_to_local(g)
    coords = torch.zeros_like(local)
    if n > 1:
        coords[:, 1, 0] = g[:, 1, 0]
    if n > 2:
        coords[:, 2, 0] = g[:, 2, 0] * g[:, 2, 2].cos()
        coords[:, 2, 1] = g[:, 2, 0] * g[:, 2, 2].sin()
    coords = coords.reshape(-1, 3)
    offset = torch.arange(g.shape[0], device=g.device)[:, None, None] * n
    level = torch.from_numpy(np.stack([levels(r) for r in refs.cpu().numpy()])).to(g.device) * refs.any(-1)
    flat_refs, flat_level, flat_local = (refs + offset).reshape(-1, 3), level.reshape(-1), local.reshape(-1, 3)
    order = flat_level.argsort(stable=True)
    counts = torch.bincount(flat_level).tolist()
    for rows in order.split(counts)[1:]:
        f, c1, c2 = coords[flat_refs[rows]].unbind(1)
        coords[rows] = f + torch.einsum("aij,ai->aj", frames(f, c1, c2), flat_local[rows])
    return coords.reshape(g.shape[0], n, 3)
