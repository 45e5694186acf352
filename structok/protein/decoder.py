"""From code vectors to residue frames and backbone atoms."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import gelu

from structok.geometry import apply, gram_schmidt, rigid, scan
from structok.nn.transformer import Transformer

__all__ = ["Decoder", "backbone", "chain_frames", "frames_from_numbers"]

# N, CA, C of a residue in its own frame, Å
_TEMPLATE = ((0.5256, 1.3612, 0.0), (0.0, 0.0, 0.0), (-1.5251, 0.0, 0.0))


def backbone(frames: Float[Tensor, "*b 4 4"]) -> Float[Tensor, "*b 3 3"]:
    """N, CA, C of residues of ideal geometry in the given frames, Å."""
    return apply(frames, frames.new_tensor(_TEMPLATE))


def frames_from_numbers(numbers: Float[Tensor, "*b 9"]) -> Float[Tensor, "*b 4 4"]:
    """Rigid frames from t, x, y: origin t in Å, x-axis along -x, y-axis in the plane of x and y."""
    t, x, y = numbers.split(3, -1)
    x, y = (v / (v.norm(dim=-1, keepdim=True) + 1e-5) for v in (x, y))
    return rigid(gram_schmidt(-x, y), t)


def chain_frames(steps: Float[Tensor, "b l 4 4"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b l 4 4"]:
    """Compose the frames of a chain from steps; the first observed residue's frame is the identity.

    `steps[i]` is the frame of the next observed residue relative to residue i's. A run of missing residues
    is thus crossed in one step, that of the residue before it; missing slots repeat the frame before them.
    """
    length = mask.shape[1]
    slot = torch.arange(length, device=mask.device)
    last_seen = torch.where(mask, slot, -1).cummax(1).values
    before = torch.nn.functional.pad(last_seen[:, :-1], (1, 0), value=-1)
    taken = steps.gather(1, before.clamp(min=0)[..., None, None].expand_as(steps))
    identity = torch.eye(4, dtype=steps.dtype, device=steps.device)
    return scan(torch.where((mask & (before >= 0))[..., None, None], taken, identity))


class Decoder(nn.Module):
    """Transformer over code vectors and a head of nine numbers per residue, which are its frame.

    Parameters
    ----------
    code_dim : dimension of the code vectors
    dim, depth, heads, kv_heads, multiple, reach : see `Transformer`
    """

    def __init__(
        self,
        code_dim: int,
        dim: int,
        depth: int,
        heads: int,
        kv_heads: int,
        multiple: int,
        *,
        reach: int | None = None,
    ) -> None:
        super().__init__()
        self.into = nn.Linear(code_dim, dim, bias=False)
        self.transformer = Transformer(dim, depth, heads, kv_heads, multiple, reach=reach)
        self.hidden = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.out = nn.Linear(dim, 9)

    def forward(self, vectors: Float[Tensor, "b l d"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b l 4 4"]:
        """Residue frames; those of masked slots mean nothing."""
        h = self.transformer(self.into(vectors), mask)
        numbers = self.out(self.norm(gelu(self.hidden(h))))
        with torch.autocast(numbers.device.type, enabled=False):  # half precision would bend frames
            return frames_from_numbers(numbers.to(torch.promote_types(numbers.dtype, torch.float32)))
