"""A transformer over padded sequences: pre-norm, rotary positions, grouped-query attention, SwiGLU.

The blocks are those of GCP-VQVAE (Pourmirzaei et al. 2025): queries and keys of unit length compared at
temperature 1/10, rotary positions on half of each head, LayerNorm without bias.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import normalize, scaled_dot_product_attention, silu

__all__ = ["Transformer"]

_HEAD = 64  # channels of a head, whatever the width of the model
_ROTARY = 32  # of which turn with the position
_SCALE = 10.0  # of the cosine between query and key


def _rotary(length: int, like: Tensor) -> tuple[Float[Tensor, "n r"], Float[Tensor, "n r"]]:
    """Cosine and sine of the rotary angles, each frequency for two neighbouring channels."""
    frequency = 1e4 ** (-torch.arange(0, _ROTARY, 2, device=like.device).float() / _ROTARY)
    angle = torch.arange(length, device=like.device)[:, None] * frequency
    angle = angle.repeat_interleave(2, -1)
    return angle.cos().to(like.dtype), angle.sin().to(like.dtype)


def _turn(
    x: Float[Tensor, "b h n d"], cos: Float[Tensor, "n r"], sin: Float[Tensor, "n r"]
) -> Float[Tensor, "b h n d"]:
    """Rotate channel pairs (2c, 2c + 1) of the first `_ROTARY` channels."""
    rotary, rest = x[..., :_ROTARY], x[..., _ROTARY:]
    even, odd = rotary[..., 0::2], rotary[..., 1::2]
    return torch.cat([rotary * cos + torch.stack([-odd, even], -1).flatten(-2) * sin, rest], -1)


class Attention(nn.Module):
    """Grouped-query self-attention: consecutive query heads share a key-value head."""

    def __init__(self, dim: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.query = nn.Linear(dim, heads * _HEAD, bias=False)
        self.key = nn.Linear(dim, kv_heads * _HEAD, bias=False)
        self.value = nn.Linear(dim, kv_heads * _HEAD, bias=False)
        self.out = nn.Linear(heads * _HEAD, dim, bias=False)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        rotary: tuple[Float[Tensor, "n r"], Float[Tensor, "n r"]],
        mask: Bool[Tensor, "b 1 1 n"] | None,
    ) -> Float[Tensor, "b n d"]:
        q, k, v = (
            project(x).unflatten(-1, (-1, _HEAD)).transpose(1, 2) for project in (self.query, self.key, self.value)
        )
        q, k = (_turn(normalize(t, dim=-1), *rotary).to(v.dtype) for t in (q, k))
        y = scaled_dot_product_attention(q, k, v, mask, scale=_SCALE, enable_gqa=q.shape[1] != k.shape[1])
        return self.out(y.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """SwiGLU: silu(gate) · value, then back to the model's width."""

    def __init__(self, dim: int, multiple: int) -> None:
        super().__init__()
        self.into = nn.Linear(dim, 2 * multiple * dim)
        self.out = nn.Linear(multiple * dim, dim, bias=False)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        value, gate = self.into(x).chunk(2, -1)
        return self.out(value * silu(gate))


class Block(nn.Module):
    """x + attention(norm x), then x + feed-forward(norm x)."""

    def __init__(self, dim: int, heads: int, kv_heads: int, multiple: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim, bias=False)
        self.attention = Attention(dim, heads, kv_heads)
        self.feedforward_norm = nn.LayerNorm(dim, bias=False)
        self.feedforward = FeedForward(dim, multiple)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        rotary: tuple[Float[Tensor, "n r"], Float[Tensor, "n r"]],
        mask: Bool[Tensor, "b 1 1 n"] | None,
    ) -> Float[Tensor, "b n d"]:
        x = x + self.attention(self.attention_norm(x), rotary, mask)
        return x + self.feedforward(self.feedforward_norm(x))


class Transformer(nn.Module):
    """Blocks between a linear map in and a norm and linear map out.

    Parameters
    ----------
    dim : width
    depth : blocks
    heads, kv_heads : query heads and the key-value heads they share; heads have 64 channels
    multiple : hidden width of the feed-forward in units of `dim`
    reach : how many places away a place may look; None sees all. Within it the output does not depend on what is cut
        off further away, and windows of a sequence train what whole sequences need
    """

    def __init__(
        self, dim: int, depth: int, heads: int, kv_heads: int, multiple: int = 4, *, reach: int | None = None
    ) -> None:
        super().__init__()
        self.reach = reach
        self.into = nn.Linear(dim, dim, bias=False)
        self.blocks = nn.ModuleList(Block(dim, heads, kv_heads, multiple) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"] | None = None) -> Float[Tensor, "b n d"]:
        """`mask` is False at slots that nobody may look at; None sees all and is fastest."""
        x = self.into(x)
        rotary = _rotary(x.shape[1], x)
        visible = None if mask is None else mask[:, None, None]
        if self.reach is not None:
            place = torch.arange(x.shape[1], device=x.device)
            near = (place[:, None] - place).abs() <= self.reach
            # a place that is masked sees itself, since attention to nothing is not a number
            visible = (
                near[None, None]
                if visible is None
                else (visible & near) | torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
            )
        for block in self.blocks:
            x = block(x, rotary, visible)
        return self.out(self.norm(x))
