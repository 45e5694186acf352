"""GCP-VQVAE (Pourmirzaei et al. 2025): GCPNet and transformer encoder, vector quantiser, frame decoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from structok.checkpoint import check_sizes
from structok.codebook.quantizer import VectorQuantizer
from structok.errors import CheckpointError
from structok.nn.transformer import Transformer
from structok.protein.anchored import AnchoredDecoder, Anchors, Decoded
from structok.protein.decoder import Decoder, backbone
from structok.protein.features import ResidueGraph, build_graph
from structok.protein.gcpnet import GCPNet

__all__ = [
    "PRESETS",
    "AnchorConfig",
    "GCPVQVAEConfig",
    "GCPVQVAEModel",
    "GraphConfig",
    "QuantizerConfig",
    "Reconstruction",
    "TransformerConfig",
]


@dataclass(frozen=True)
class GraphConfig:
    """The residue graph and the network on it; the defaults are the published ones.

    Parameters
    ----------
    neighbours : CA neighbours of each residue
    residue_types : whether the encoder sees the sequence
    local_frames, positions, reach : what keeps the graph from looking far along the chain, see `build_graph`
    layers, node_scalars, node_vectors, edge_scalars, edge_vectors, messages, feedforwards, bottleneck : see `GCPNet`
    """

    neighbours: int = 16
    residue_types: bool = True
    local_frames: bool = False
    positions: bool = True
    reach: int | None = None
    layers: int = 6
    node_scalars: int = 128
    node_vectors: int = 16
    edge_scalars: int = 32
    edge_vectors: int = 4
    messages: int = 4
    feedforwards: int = 2
    bottleneck: int = 4

    def __post_init__(self) -> None:
        check_sizes(self)
        edge = 2 * self.node_vectors + self.edge_vectors
        if edge % self.bottleneck or self.node_vectors % self.bottleneck:
            raise CheckpointError(f"bottleneck {self.bottleneck} does not divide {self.node_vectors} and {edge}")


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a `Transformer`; `multiple` is the feed-forward's, `reach` None sees the whole chain (published)."""

    dim: int
    depth: int
    heads: int
    kv_heads: int
    multiple: int = 4
    reach: int | None = None

    def __post_init__(self) -> None:
        check_sizes(self)
        if self.heads % self.kv_heads:
            raise CheckpointError(f"heads {self.heads} is no multiple of kv_heads {self.kv_heads}")


@dataclass(frozen=True)
class AnchorConfig:
    """A decoder that reads anchors, see `AnchoredDecoder`; `points` is the checkpoint that they are quantised to."""

    points: str = "anchors-4096"
    spacing: int = 8
    corrections: int = 1
    depth: int = 3

    def __post_init__(self) -> None:
        check_sizes(self)


@dataclass(frozen=True)
class QuantizerConfig:
    """Dimension of the codes and how they are learned, see `VectorQuantizer`; `unit` gives all latents one length."""

    dim: int = 256
    unit: bool = False
    commitment: float = 0.25
    decay: float = 0.99
    dead_below: float = 2.0
    rotation_trick: bool = True
    orthogonal: float = 0.0

    def __post_init__(self) -> None:
        check_sizes(self)


@dataclass(frozen=True)
class GCPVQVAEConfig:
    """Everything that shapes a GCP-VQVAE; the defaults are the published Large model.

    Parameters
    ----------
    codebook_size : number of codes
    max_length : longest chain in residues, missing ones included
    graph, encoder, quantizer, decoder : its parts
    anchors : what the decoder makes of anchors; None is the published decoder, which reads codes alone
    """

    codebook_size: int = 4096
    max_length: int = 1280
    graph: GraphConfig = field(default_factory=GraphConfig)
    encoder: TransformerConfig = field(default_factory=lambda: TransformerConfig(1024, 12, 12, 3))
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    decoder: TransformerConfig = field(default_factory=lambda: TransformerConfig(1024, 16, 16, 1))
    anchors: AnchorConfig | None = None

    def __post_init__(self) -> None:
        check_sizes(self)
        if self.anchors and not self.decoder.reach:
            raise CheckpointError("a decoder that reads anchors needs a reach")


PRESETS = {
    "large": GCPVQVAEConfig(),
    "lite": GCPVQVAEConfig(
        encoder=TransformerConfig(1024, 8, 8, 2),
        quantizer=QuantizerConfig(128),
        decoder=TransformerConfig(1024, 12, 8, 2),
    ),
    "mini": GCPVQVAEConfig(  # ours, for a CPU: local codes, and a decoder that reads anchors
        max_length=4096,
        graph=GraphConfig(
            neighbours=9,
            residue_types=False,
            local_frames=True,
            positions=False,
            reach=24,
            layers=2,
            node_scalars=64,
            node_vectors=8,
            edge_scalars=16,
            messages=2,
        ),
        encoder=TransformerConfig(128, 2, 2, 1, 3, reach=8),
        quantizer=QuantizerConfig(16, unit=True, commitment=1.0, dead_below=0.02, rotation_trick=False),
        decoder=TransformerConfig(128, 3, 2, 1, 3, reach=16),
        anchors=AnchorConfig(),
    ),
}


class Reconstruction(NamedTuple):
    """What `GCPVQVAEModel` returns in training: coordinates (Å), frames, latents, codes, quantiser loss."""

    coords: Float[Tensor, "b l 3 3"]
    frames: Float[Tensor, "b l 4 4"]
    latents: Float[Tensor, "b l d"]
    codes: Int[Tensor, "b l"]
    quantizer_loss: Float[Tensor, ""]


class GCPVQVAEModel(nn.Module):
    """The network: residue graph -> latents -> codes -> frames -> backbone atoms.

    Batches are padded to their longest chain; `mask` is False at padding and at missing residues, which are
    no nodes of the graph, are attended to by nobody and have code -1.
    """

    def __init__(self, config: GCPVQVAEConfig) -> None:
        super().__init__()
        self.config = config
        graph, encoder, quantizer, decoder = config.graph, config.encoder, config.quantizer, config.decoder
        self.graph_encoder = GCPNet(
            graph.layers,
            (graph.node_scalars, graph.node_vectors),
            (graph.edge_scalars, graph.edge_vectors),
            messages=graph.messages,
            feedforwards=graph.feedforwards,
            bottleneck=graph.bottleneck,
        )
        self.into = nn.Linear(graph.node_scalars, encoder.dim)
        self.encoder = Transformer(*_sizes(encoder), reach=encoder.reach)
        self.to_code = nn.Linear(encoder.dim, quantizer.dim)
        self.quantizer = VectorQuantizer(
            config.codebook_size,
            quantizer.dim,
            decay=quantizer.decay,
            commitment=quantizer.commitment,
            dead_below=quantizer.dead_below,
            rotation_trick=quantizer.rotation_trick,
            orthogonal=quantizer.orthogonal,
        )
        self.decoder: Decoder | AnchoredDecoder
        if anchors := config.anchors:
            self.decoder = AnchoredDecoder(
                quantizer.dim,
                *_sizes(decoder),
                corrections=anchors.corrections,
                correction_depth=anchors.depth,
                reach=decoder.reach or 0,
                spacing=anchors.spacing,
            )
        else:
            self.decoder = Decoder(quantizer.dim, *_sizes(decoder), reach=decoder.reach)

    def graph(
        self, coords: Float[Tensor, "b l 3 3"], mask: Bool[Tensor, "b l"], types: Int[Tensor, "b l"]
    ) -> ResidueGraph:
        """Features as this configuration wants them, see `build_graph`."""
        graph = self.config.graph
        return build_graph(
            coords,
            mask,
            types if graph.residue_types else None,
            neighbours=graph.neighbours,
            local_frames=graph.local_frames,
            positions=graph.positions,
            reach=graph.reach,
        )

    def encode(self, graph: ResidueGraph, mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b l d"]:
        """Latents before quantisation."""
        nodes = self.into(self.graph_encoder(graph))
        padded = nodes.new_zeros(mask.numel(), nodes.shape[1]).index_copy(0, graph.slot, nodes)
        latents = self.to_code(self.encoder(padded.unflatten(0, mask.shape), mask))
        return layer_norm(latents, latents.shape[-1:]) if self.config.quantizer.unit else latents

    def frames(
        self, vectors: Float[Tensor, "b l d"], mask: Bool[Tensor, "b l"], anchors: Anchors | None = None
    ) -> Decoded:
        """Residue frames from code vectors, in the frame of the anchors where there are some."""
        if isinstance(self.decoder, Decoder):
            frames = self.decoder(vectors, mask)
            return Decoded(frames, [frames], frames)
        if anchors is None:
            count = -(-mask.shape[1] // self.decoder.spacing)
            nowhere = torch.zeros(len(mask), count, 3, device=mask.device)
            anchors = Anchors(nowhere, torch.zeros_like(nowhere[..., 0], dtype=torch.bool), nowhere.new_ones(len(mask)))
        return self.decoder(vectors, mask, *anchors)

    def decode(self, codes: Int[Tensor, "b l"], anchors: Anchors | None = None) -> Float[Tensor, "b l 3 3"]:
        """N, CA, C in Å from codes; slots of code -1 mean nothing."""
        return backbone(self.frames(self.quantizer.lookup(codes), codes >= 0, anchors).frames)

    def forward(self, graph: ResidueGraph, mask: Bool[Tensor, "b l"], anchors: Anchors | None = None) -> Reconstruction:
        latents = self.encode(graph, mask)
        quantized = self.quantizer(latents, mask)
        decoded = self.frames(quantized.vectors, mask, anchors)
        return Reconstruction(backbone(decoded.frames), decoded.frames, latents, quantized.codes, quantized.loss)


def _sizes(config: TransformerConfig) -> tuple[int, int, int, int, int]:
    return config.dim, config.depth, config.heads, config.kv_heads, config.multiple
