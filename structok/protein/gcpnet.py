"""GCPNet: an SE(3)-invariant graph encoder that tells mirror images apart (Morehead & Cheng 2024).

Every node and edge carries scalars s and vectors V (last axis x, y, z). A geometry-complete perceptron
(`GCP`) mixes them: vectors speak to scalars through their lengths and through their projections on a
right-handed frame of the edge, scalars gate vectors.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear, silu
from torch_geometric.utils import scatter

from structok.protein.features import NODE_SCALARS, ResidueGraph

__all__ = ["GCP", "GCPNet"]

_EPS = 1e-8
_FRAMED = 3  # vectors that each GCP projects on the frame
_RADIAL, _CUTOFF = 8, 10.0  # Gaussians of the edge length, and the centre of the last one in Å


class GCP(nn.Module):
    """Geometry-complete perceptron: (s, V) -> (s', V').

    With z = V W_down, lengths |z| and the 9 projections q of three further vectors on the frame,
    s' = act(W [s, |z|, q]) and V' = (z W_up) · sigmoid(W_gate s').

    Parameters
    ----------
    scalars_in, vectors_in, scalars_out, vectors_out : channels; `vectors_out=0` gives no vectors
    bottleneck : z has vectors_in / bottleneck channels; with 1, the larger of in and out
    activate : act is silu, else the identity
    deep : a two-layer perceptron instead of W
    """

    def __init__(
        self,
        scalars_in: int,
        vectors_in: int,
        scalars_out: int,
        vectors_out: int,
        *,
        bottleneck: int = 1,
        activate: bool = True,
        deep: bool = False,
    ) -> None:
        super().__init__()
        hidden = vectors_in // bottleneck if bottleneck > 1 else max(vectors_in, vectors_out)
        first = nn.Linear(scalars_in + hidden + 3 * _FRAMED, scalars_out)
        self.scalar = nn.Sequential(first, nn.SiLU(), nn.Linear(scalars_out, scalars_out)) if deep else first
        self.down = nn.Linear(vectors_in, hidden, bias=False)
        self.to_frame = nn.Linear(vectors_in, _FRAMED, bias=False)
        self.up = nn.Linear(hidden, vectors_out, bias=False) if vectors_out else None
        self.gate = nn.Linear(scalars_out, vectors_out) if vectors_out else None
        self.activate = activate

    def forward(
        self, s: Float[Tensor, "m s_in"], v: Float[Tensor, "m v_in 3"], frame: Float[Tensor, "m 3 3"]
    ) -> tuple[Float[Tensor, "m s_out"], Float[Tensor, "m v_out 3"]]:
        z = self.down(v.mT)
        invariants = self._invariants(z, self.to_frame(v.mT), frame)
        return self._finish(self.scalar(torch.cat([s, invariants], 1)), z)

    def between(
        self,
        node: tuple[Float[Tensor, "n s"], Float[Tensor, "n v 3"]],
        edge: tuple[Float[Tensor, "e se"], Float[Tensor, "e ve 3"]],
        ends: Int[Tensor, "2 e"],
        frame: Float[Tensor, "e 3 3"],
    ) -> tuple[Float[Tensor, "e s_out"], Float[Tensor, "e v_out 3"]]:
        """`forward` on [node at ends[0], edge, node at ends[1]] of each edge, without building that.

        What is linear in the nodes is computed once per node, not once per edge.
        """
        assert isinstance(self.scalar, nn.Linear)

        def join(weight: Tensor, x: Tensor, between: Tensor) -> Tensor:
            first, middle, second = weight.split([x.shape[-1], between.shape[-1], x.shape[-1]], 1)
            return linear(x, first)[ends[0]] + linear(between, middle) + linear(x, second)[ends[1]]

        vectors = node[1].mT, edge[1].mT
        z = join(self.down.weight, *vectors)
        invariants = self._invariants(z, join(self.to_frame.weight, *vectors), frame)
        size = 2 * node[0].shape[1] + edge[0].shape[1]
        out = join(self.scalar.weight[:, :size], node[0], edge[0])
        return self._finish(out + linear(invariants, self.scalar.weight[:, size:], self.scalar.bias), z)

    def _invariants(
        self, z: Float[Tensor, "m 3 h"], framed: Float[Tensor, "m 3 3"], frame: Float[Tensor, "m 3 3"]
    ) -> Float[Tensor, "m h+9"]:
        """Lengths of z, and projections on the frame."""
        return torch.cat([z.square().sum(1).clamp(min=_EPS).sqrt(), (frame @ framed).mT.flatten(1)], 1)

    def _finish(
        self, out: Float[Tensor, "m s_out"], z: Float[Tensor, "m 3 h"]
    ) -> tuple[Float[Tensor, "m s_out"], Float[Tensor, "m v_out 3"]]:
        out = silu(out) if self.activate else out
        if self.up is None or self.gate is None:
            return out, z.mT[:, :0]
        return out, (self.up(z) * self.gate(out).sigmoid()[:, None]).mT


class Norm(nn.Module):
    """LayerNorm of the scalars; vectors are divided by their root mean square length."""

    def __init__(self, scalars: int) -> None:
        super().__init__()
        self.scalar = nn.LayerNorm(scalars)

    def forward(
        self, s: Float[Tensor, "m s"], v: Float[Tensor, "m v 3"]
    ) -> tuple[Float[Tensor, "m s"], Float[Tensor, "m v 3"]]:
        mean_square = v.square().sum(-1, keepdim=True).clamp(min=_EPS).mean(1, keepdim=True)
        return self.scalar(s), v / mean_square.sqrt()


class Interaction(nn.Module):
    """One round of messages along the edges and a feed-forward update of the nodes."""

    def __init__(
        self,
        node: tuple[int, int],
        edge: tuple[int, int],
        *,
        messages: int,
        feedforwards: int,
        bottleneck: int,
    ) -> None:
        super().__init__()
        s, v = node
        inputs = [(2 * s + edge[0], 2 * v + edge[1])] + [node] * (messages - 1)
        self.message = nn.ModuleList(GCP(*i, *node, bottleneck=bottleneck) for i in inputs)
        self.attention = nn.Linear(s, 1)
        wide = (4 * s, 2 * v)
        sizes = [(2 * s, 2 * v)] + [wide] * (feedforwards - 1) + [node]
        last = feedforwards - 1
        self.feedforward = nn.ModuleList(
            GCP(*sizes[i], *sizes[i + 1], bottleneck=bottleneck, activate=i < last, deep=i == last)
            for i in range(feedforwards)
        )
        self.norm = Norm(s)

    def forward(
        self,
        node: tuple[Float[Tensor, "n s"], Float[Tensor, "n v 3"]],
        edge: tuple[Float[Tensor, "e se"], Float[Tensor, "e ve 3"]],
        graph: ResidueGraph,
        node_frame: Float[Tensor, "n 3 3"],
    ) -> tuple[Float[Tensor, "n s"], Float[Tensor, "n v 3"]]:
        first = self.message[0]
        assert isinstance(first, GCP)
        s, v = first.between(node, edge, graph.edge_index, graph.edge_frame)
        for gcp in self.message[1:]:
            ds, dv = gcp(s, v, graph.edge_frame)
            s, v = s + ds, v + dv
        s = s * self.attention(s).sigmoid()
        message = (scatter(x, graph.edge_index[0], 0, len(node[0]), reduce="sum") for x in (s, v))
        s, v = (torch.cat([m, x], 1) for m, x in zip(message, node))
        for gcp in self.feedforward:
            s, v = gcp(s, v, node_frame)
        return self.norm(node[0] + s, node[1] + v)


class GCPNet(nn.Module):
    """Stack of interactions and an invariant read-out.

    Parameters
    ----------
    layers : interactions
    node, edge : (scalars, vectors) of nodes and edges inside the network
    messages, feedforwards : GCPs per message and per node update
    bottleneck : vector compression inside interactions
    """

    def __init__(
        self,
        layers: int = 6,
        node: tuple[int, int] = (128, 16),
        edge: tuple[int, int] = (32, 4),
        *,
        messages: int = 4,
        feedforwards: int = 2,
        bottleneck: int = 4,
    ) -> None:
        super().__init__()
        self.node_norm, self.edge_norm = Norm(NODE_SCALARS), Norm(_RADIAL + 1)
        self.node_embedding = GCP(NODE_SCALARS, 2, *node, activate=False)
        self.edge_embedding = GCP(_RADIAL + 1, 1, *edge)
        self.interactions = nn.ModuleList(
            Interaction(node, edge, messages=messages, feedforwards=feedforwards, bottleneck=bottleneck)
            for _ in range(layers)
        )
        self.read_norm = Norm(node[0])
        self.read_out = GCP(*node, node[0], 0)

    def forward(self, graph: ResidueGraph) -> Float[Tensor, "n scalars"]:
        """SE(3)-invariant embedding of every node."""
        return self.read_out(*self.embed(graph))[0]

    def embed(
        self, graph: ResidueGraph
    ) -> tuple[Float[Tensor, "n scalars"], Float[Tensor, "n vectors 3"], Float[Tensor, "n 3 3"]]:
        """Scalars, vectors and frame of every node; vectors and frame turn with the structure."""
        row, nodes = graph.edge_index[0], len(graph.node_scalar)
        # projections of node vectors are averaged over the node's edges; they are linear in the frame,
        # so the mean frame serves
        node_frame = scatter(graph.edge_frame, row, 0, nodes, reduce="mean")
        edge = self.edge_embedding(*self.edge_norm(_edge_scalars(graph), graph.edge_vector), graph.edge_frame)
        node = self.node_embedding(*self.node_norm(graph.node_scalar, graph.node_vector), node_frame)
        for interaction in self.interactions:
            node = interaction(node, edge, graph, node_frame)
        return *self.read_norm(*node), node_frame


def _edge_scalars(graph: ResidueGraph) -> Float[Tensor, "e 9"]:
    """Edge length in Å and its Gaussian radial basis."""
    length = graph.edge_distance[:, None]
    centres = torch.linspace(0, _CUTOFF, _RADIAL, device=length.device, dtype=length.dtype)
    width = _CUTOFF / _RADIAL
    return torch.cat([length, torch.exp(-(((length - centres) / width) ** 2))], 1)
