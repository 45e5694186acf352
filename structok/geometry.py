"""Rigid frames and superposition, in torch, batched and differentiable.

Conventions: coordinates in Å, right-handed; a rigid transform is a 4 × 4 matrix `[[R, t], [0, 1]]` that acts
on column vectors, so that `compose(a, b)` applies b first and a frame maps local to global coordinates.
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = [
    "BOND_LIMIT",
    "CA_STEP",
    "apply",
    "backbone_frames",
    "dihedral",
    "gram_schmidt",
    "invert",
    "kabsch",
    "knn",
    "place_oxygen",
    "rigid",
    "rotation_from_6d",
    "rotation_to_6d",
    "scan",
    "superpose",
]

BOND_LIMIT = 2.5  # C-N distance above which two residues are not bonded, Å
CA_STEP = 3.8  # CA-CA distance of bonded residues, Å

# C-O bond length and CA-C-O angle of a trans peptide (Engh & Huber 1991), Å and radians
_CO_LENGTH, _CACO_ANGLE = 1.231, 2.108


def rigid(rotation: Float[Tensor, "*b 3 3"], translation: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 4 4"]:
    """Homogeneous 4 × 4 matrix of a rotation and a translation."""
    top = torch.cat([rotation, translation[..., None]], -1)
    bottom = top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*top.shape[:-2], 1, 4)
    return torch.cat([top, bottom], -2)


def invert(transform: Float[Tensor, "*b 4 4"]) -> Float[Tensor, "*b 4 4"]:
    """Inverse of a rigid transform: (Rᵀ, -Rᵀ t)."""
    rotation = transform[..., :3, :3].mT
    return rigid(rotation, -(rotation @ transform[..., :3, 3:])[..., 0])


def apply(transform: Float[Tensor, "*b 4 4"], points: Float[Tensor, "*b n 3"]) -> Float[Tensor, "*b n 3"]:
    """Map points from local to global coordinates."""
    return points @ transform[..., :3, :3].mT + transform[..., None, :3, 3]


def gram_schmidt(
    first: Float[Tensor, "*b 3"], second: Float[Tensor, "*b 3"], eps: float = 1e-8
) -> Float[Tensor, "*b 3 3"]:
    """Rotation whose x-axis points along `first` and whose xy-plane holds `second` (columns are the axes)."""
    x = first / first.norm(dim=-1, keepdim=True).clamp(min=eps)
    y = second - (x * second).sum(-1, keepdim=True) * x
    y = y / y.norm(dim=-1, keepdim=True).clamp(min=eps)
    return torch.stack([x, y, torch.linalg.cross(x, y)], -1)


def rotation_from_6d(x: Float[Tensor, "*b 6"]) -> Float[Tensor, "*b 3 3"]:
    """Rotation from six numbers: its first two columns, orthonormalised (Zhou et al. 2019)."""
    return gram_schmidt(x[..., :3], x[..., 3:])


def rotation_to_6d(rotation: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 6"]:
    """First two columns of a rotation; inverse of `rotation_from_6d`."""
    return torch.cat([rotation[..., 0], rotation[..., 1]], -1)


def backbone_frames(coords: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 4 4"]:
    """Residue frames of N, CA, C: origin CA, x-axis towards C, N in the xy-plane with y > 0."""
    n, ca, c = coords.unbind(-2)
    return rigid(gram_schmidt(c - ca, n - ca), ca)


def scan(transforms: Float[Tensor, "*b n 4 4"]) -> Float[Tensor, "*b n 4 4"]:
    """Running products T₀, T₀T₁, T₀T₁T₂, ... along the chain as a parallel prefix scan.

    Work O(n), depth O(log n) (Blelloch 1990): neighbours are multiplied in pairs, the half-length chain is
    scanned, and the odd places are filled in. Differentiable. A masked step is an identity matrix.
    """
    n = transforms.shape[-3]
    if n == 1:
        return transforms
    even, odd = transforms[..., 0::2, :, :], transforms[..., 1::2, :, :]
    ends = scan(even[..., : odd.shape[-3], :, :] @ odd)  # products up to and with places 1, 3, 5, ...
    inner = ends[..., : even.shape[-3] - 1, :, :] @ even[..., 1:, :, :]
    starts = torch.cat([even[..., :1, :, :], inner], -3)
    both = torch.stack([starts[..., : odd.shape[-3], :, :], ends], -3)
    out = rearrange(both, "... n two i j -> ... (n two) i j")
    return out if n % 2 == 0 else torch.cat([out, starts[..., -1:, :, :]], -3)


def kabsch(
    mobile: Float[Tensor, "*b n 3"],
    target: Float[Tensor, "*b n 3"],
    weight: Float[Tensor, "*b n"] | Bool[Tensor, "*b n"] | None = None,
) -> Float[Tensor, "*b 4 4"]:
    """Proper rigid transform (no reflection) that minimises the weighted squared distance (Kabsch 1978).

    Computed in float64 and returned in the input's type. Points of weight 0 may hold anything, NaN too.
    """
    kind = mobile.dtype
    mobile, target = mobile.double(), target.double()
    if weight is None:
        weight = mobile.new_ones(mobile.shape[:-1])
    weight = weight.to(mobile.dtype)[..., None]
    mobile, target = (torch.where(weight > 0, p, 0.0) for p in (mobile, target))
    total = weight.sum(-2, keepdim=True).clamp(min=1e-12)
    centre_m, centre_t = ((p * weight).sum(-2, keepdim=True) / total for p in (mobile, target))
    covariance = ((mobile - centre_m) * weight).mT @ (target - centre_t)
    u, _, vt = torch.linalg.svd(covariance)
    flip = torch.ones_like(covariance[..., 0])
    flip[..., 2] = torch.det(u @ vt).sign()
    rotation = vt.mT @ (flip[..., None] * u.mT)
    translation = centre_t[..., 0, :] - (rotation @ centre_m.mT)[..., 0]
    return rigid(rotation, translation).to(kind)


def superpose(
    mobile: Float[Tensor, "*b n 3"],
    target: Float[Tensor, "*b n 3"],
    weight: Float[Tensor, "*b n"] | Bool[Tensor, "*b n"] | None = None,
) -> Float[Tensor, "*b n 3"]:
    """`mobile` moved onto `target` by `kabsch`."""
    return apply(kabsch(mobile, target, weight), mobile)


def dihedral(
    a: Float[Tensor, "*b 3"], b: Float[Tensor, "*b 3"], c: Float[Tensor, "*b 3"], d: Float[Tensor, "*b 3"]
) -> Float[Tensor, "*b"]:
    """Dihedral angle in radians, IUPAC sign: positive when d turns clockwise, seen along b -> c."""
    axis = c - b
    normal_1, normal_2 = torch.linalg.cross(b - a, axis), torch.linalg.cross(axis, d - c)
    length = axis.norm(dim=-1).clamp(min=1e-8)
    sine = (torch.linalg.cross(normal_1, normal_2) * axis).sum(-1) / length
    return torch.atan2(sine, (normal_1 * normal_2).sum(-1))


def knn(points: Float[Tensor, "n 3"], k: int, batch: Int[Tensor, " n"] | None = None) -> Int[Tensor, "2 edges"]:
    """Edges (neighbour, centre) of the `k` nearest other points of each point, within its structure.

    Structures with k points or fewer give all pairs. Edges are sorted by centre, then by distance.
    """
    if batch is None:
        batch = torch.zeros(len(points), dtype=torch.long, device=points.device)
    blocks = []
    for structure in batch.unique(sorted=True):
        where = (batch == structure).nonzero()[:, 0]
        m = min(k, len(where) - 1)
        if m < 1:
            continue
        distance = torch.cdist(points[where], points[where], compute_mode="donot_use_mm_for_euclid_dist")
        distance.fill_diagonal_(torch.inf)
        near = distance.topk(m, largest=False).indices
        blocks.append(torch.stack([where[near].reshape(-1), where.repeat_interleave(m)]))
    return torch.cat(blocks, 1) if blocks else batch.new_zeros(2, 0)


def place_oxygen(coords: Float[Tensor, "l 3 3"], bonded: Bool[Tensor, " l"]) -> Float[Tensor, "l 3"]:
    """Carbonyl O of each residue by ideal geometry: in the plane of CA, C and the next N, trans to it.

    `bonded` says that the next residue follows in the chain; elsewhere (the C-terminus, or before a gap) the
    O is put trans to the residue's own N.
    """
    n, ca, c = coords.unbind(-2)
    following = torch.where(bonded[:, None], n.roll(-1, 0), n)
    toward = torch.nn.functional.normalize(ca - c, dim=-1)
    side = following - c
    side = torch.nn.functional.normalize(side - (side * toward).sum(-1, keepdim=True) * toward, dim=-1)
    angle = coords.new_tensor(_CACO_ANGLE)
    return c + _CO_LENGTH * (torch.cos(angle) * toward - torch.sin(angle) * side)
