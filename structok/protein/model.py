"""GCP-VQVAE (Pourmirzaei et al. 2025): GCPNet and transformer encoder, vector quantiser, frame decoder."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple, get_args

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from structok.codebook.quantizer import VectorQuantizer
from structok.errors import CheckpointError
from structok.nn.transformer import Transformer
from structok.protein.decoder import Decoder, Head, backbone
from structok.protein.features import Graph, build_graph
from structok.protein.gcpnet import GCPNet

__all__ = ["PRESETS", "GCPVQVAEConfig", "GCPVQVAEModel", "Reconstruction"]


@dataclass(frozen=True)
class GCPVQVAEConfig:
    """Everything that shapes a GCP-VQVAE; the defaults are the published Large model.

    Parameters
    ----------
    codebook_size, code_dim : number of codes and their dimension
    max_length : longest chain in residues, missing ones included
    head : 'absolute' (published) or 'chained', see `Decoder`
    residue_types : whether the encoder sees the sequence
    local_frames : edge frames that ignore the chain's centroid, see `build_graph`
    neighbours : CA neighbours of each residue
    gcp_layers, node_scalars, node_vectors, edge_scalars, edge_vectors, gcp_messages, gcp_feedforwards,
    gcp_bottleneck : see `GCPNet`
    encoder_*, decoder_* : see `Transformer` and `Decoder`; `multiple` is the feed-forward's
    closed_loop, beam, latent_weight : how `encode` assigns codes unless asked otherwise; closed loop needs
        the chained head without transformer (decoder_depth 0), see `structok.protein.closed_loop`
    commitment, decay, dead_below, rotation_trick, orthogonal : see `VectorQuantizer`; for training only
    """

    codebook_size: int = 4096
    code_dim: int = 256
    max_length: int = 1280
    head: Head = "absolute"
    residue_types: bool = True
    local_frames: bool = False
    neighbours: int = 16
    gcp_layers: int = 6
    node_scalars: int = 128
    node_vectors: int = 16
    edge_scalars: int = 32
    edge_vectors: int = 4
    gcp_messages: int = 4
    gcp_feedforwards: int = 2
    gcp_bottleneck: int = 4
    encoder_dim: int = 1024
    encoder_depth: int = 12
    encoder_heads: int = 12
    encoder_kv_heads: int = 3
    encoder_multiple: int = 4
    decoder_dim: int = 1024
    decoder_depth: int = 16
    decoder_heads: int = 16
    decoder_kv_heads: int = 1
    decoder_multiple: int = 4
    closed_loop: bool = False
    beam: int = 8
    latent_weight: float = 0.0
    commitment: float = 0.25
    decay: float = 0.99
    dead_below: float = 2.0
    rotation_trick: bool = True
    orthogonal: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if type(value) is not kind and not (kind is float and whole):
                raise CheckpointError(f"config key {field.name!r} must be {kind.__name__}, not {value!r}")
            least = 0 if field.name.endswith("_depth") else 1
            if kind is int and isinstance(value, int) and value < least:
                raise CheckpointError(f"config key {field.name!r} cannot be {value}")
        if self.head not in get_args(Head):
            raise CheckpointError(f"head {self.head!r} is none of {', '.join(get_args(Head))}")
        for side in ("encoder", "decoder"):
            heads, kv_heads = (getattr(self, f"{side}_{name}") for name in ("heads", "kv_heads"))
            if heads % kv_heads:
                raise CheckpointError(f"{side}_heads {heads} is no multiple of {side}_kv_heads {kv_heads}")
        if self.closed_loop and not self.local_steps:
            raise CheckpointError("closed_loop needs head 'chained' and decoder_depth 0")
        edge = 2 * self.node_vectors + self.edge_vectors
        if edge % self.gcp_bottleneck or self.node_vectors % self.gcp_bottleneck:
            raise CheckpointError(
                f"gcp_bottleneck {self.gcp_bottleneck} does not divide {self.node_vectors} and {edge}"
            )

    @property
    def local_steps(self) -> bool:
        """Whether each code stands for one rigid step, so that it can be assigned in closed loop."""
        return self.head == "chained" and self.decoder_depth == 0


PRESETS = {
    "large": GCPVQVAEConfig(),
    "lite": GCPVQVAEConfig(
        code_dim=128,
        encoder_depth=8,
        encoder_heads=8,
        encoder_kv_heads=2,
        decoder_depth=12,
        decoder_heads=8,
        decoder_kv_heads=2,
    ),
    "mini": GCPVQVAEConfig(
        code_dim=32,
        max_length=1280,
        gcp_layers=3,
        encoder_dim=192,
        encoder_depth=2,
        encoder_heads=4,
        encoder_kv_heads=2,
        decoder_dim=192,
        decoder_depth=4,
        decoder_heads=4,
        decoder_kv_heads=2,
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
        c = config
        self.config = c
        self.graph_encoder = GCPNet(
            c.gcp_layers,
            (c.node_scalars, c.node_vectors),
            (c.edge_scalars, c.edge_vectors),
            messages=c.gcp_messages,
            feedforwards=c.gcp_feedforwards,
            bottleneck=c.gcp_bottleneck,
        )
        self.into = nn.Linear(c.node_scalars, c.encoder_dim)
        self.encoder = Transformer(
            c.encoder_dim, c.encoder_depth, c.encoder_heads, c.encoder_kv_heads, c.encoder_multiple
        )
        self.to_code = nn.Linear(c.encoder_dim, c.code_dim)
        self.quantizer = VectorQuantizer(
            c.codebook_size,
            c.code_dim,
            decay=c.decay,
            commitment=c.commitment,
            dead_below=c.dead_below,
            rotation_trick=c.rotation_trick,
            orthogonal=c.orthogonal,
        )
        self.decoder = Decoder(
            c.code_dim,
            c.decoder_dim,
            c.decoder_depth,
            c.decoder_heads,
            c.decoder_kv_heads,
            c.decoder_multiple,
            c.head,
        )

    def graph(self, coords: Float[Tensor, "b l 3 3"], mask: Bool[Tensor, "b l"], types: Int[Tensor, "b l"]) -> Graph:
        """Features as this configuration wants them, see `build_graph`."""
        return build_graph(
            coords,
            mask,
            types if self.config.residue_types else None,
            neighbours=self.config.neighbours,
            local_frames=self.config.local_frames,
        )

    def encode(self, graph: Graph, mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b l d"]:
        """Latents before quantisation."""
        nodes = self.into(self.graph_encoder(graph))
        slots = nodes.new_zeros(mask.numel(), nodes.shape[1]).index_copy(0, graph.slot, nodes)
        return self.to_code(self.encoder(slots.unflatten(0, mask.shape), mask))

    def decode(self, codes: Int[Tensor, "b l"]) -> Float[Tensor, "b l 3 3"]:
        """N, CA, C in Å from codes; slots of code -1 mean nothing."""
        return backbone(self.decoder(self.quantizer.lookup(codes), codes >= 0))

    def forward(self, graph: Graph, mask: Bool[Tensor, "b l"]) -> Reconstruction:
        latents = self.encode(graph, mask)
        quantized = self.quantizer(latents, mask)
        frames = self.decoder(quantized.vectors, mask)
        return Reconstruction(backbone(frames), frames, latents, quantized.codes, quantized.loss)
