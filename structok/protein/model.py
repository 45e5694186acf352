"""GCP-VQVAE (Pourmirzaei et al. 2025): GCPNet and transformer encoder, vector quantiser, frame decoder."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from structok.codebook.prior import Prior
from structok.codebook.quantizer import VectorQuantizer
from structok.errors import CheckpointError
from structok.geometry import apply, backbone_frames, invert
from structok.nn.transformer import Transformer
from structok.protein.decoder import Decoder, Head, backbone, frames_from_numbers
from structok.protein.features import Graph, build_graph, lever_points
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
    next_step : the latent starts from `StepFeatures`, and GCPNet and transformer add to it (not the published
        model): fine local geometry need not survive them
    neighbours : CA neighbours of each residue
    gcp_layers, node_scalars, node_vectors, edge_scalars, edge_vectors, gcp_messages, gcp_feedforwards,
    gcp_bottleneck : see `GCPNet`
    encoder_*, decoder_* : see `Transformer` and `Decoder`; `multiple` is the feed-forward's
    closed_loop, beam, latent_weight : how `encode` assigns codes unless asked otherwise; closed loop needs
        the chained head without transformer (decoder_depth 0), see `structok.polymer.chain`
    n_break : how many codes, the last ones, are long steps over chain breaks, which no head makes
    groups, rate_weight : groups of codes that the prior of the rate-constrained closed loop knows (0 without), and
        its weight unless asked otherwise
    commitment, decay, dead_below, rotation_trick, orthogonal : see `VectorQuantizer`; for training only
    """

    codebook_size: int = 4096
    code_dim: int = 256
    max_length: int = 1280
    head: Head = "absolute"
    residue_types: bool = True
    local_frames: bool = False
    next_step: bool = False
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
    n_break: int = 0
    groups: int = 0
    rate_weight: float = 0.0
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
            least = 0 if field.name.endswith("_depth") or field.name in ("groups", "n_break") else 1
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
        if self.next_step and self.code_dim % 2:
            raise CheckpointError(f"next_step needs an even code_dim, not {self.code_dim}")
        if self.n_break and not (self.local_steps and self.n_break < self.codebook_size):
            raise CheckpointError(f"n_break {self.n_break} needs rigid-step codes, and more codes than that")
        if self.rate_weight and not self.groups:
            raise CheckpointError("a rate_weight needs a prior: set groups")
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
    "mini": GCPVQVAEConfig(  # ours: codes are rigid steps, assigned in closed loop
        code_dim=32,
        max_length=4096,
        head="chained",
        residue_types=False,
        local_frames=True,
        next_step=True,
        gcp_layers=3,
        node_scalars=64,
        node_vectors=8,
        edge_scalars=16,
        gcp_messages=2,
        encoder_dim=128,
        encoder_depth=2,
        encoder_heads=2,
        encoder_kv_heads=1,
        decoder_dim=384,
        decoder_depth=0,
        decoder_heads=4,
        decoder_kv_heads=2,
        closed_loop=True,
        dead_below=0.02,
    ),
}


class StepFeatures(nn.Module):
    """Random Fourier features (Rahimi & Recht 2007) of the next residue's pose; nothing in them is learned.

    The pose is 12 numbers: the origin of the next residue's frame in this residue's, and the tips of its axes at
    `LEVER` Å, as far as an error of direction is felt along a chain. Poses closer than `BANDWIDTH` Å lie as far
    apart in the latent space as they do in these numbers, others nearly orthogonal, so the codes that resolve
    them span many dimensions though poses have few.
    """

    BANDWIDTH = 2.0
    frequencies: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(12, dim // 2) / self.BANDWIDTH)

    def forward(self, step: Float[Tensor, "n 13"]) -> Float[Tensor, "n d"]:
        """Features of `Graph.step`, zero where there is no next residue."""
        pose = lever_points(step[:, :12])
        with torch.autocast(step.device.type, enabled=False):  # half precision would blur what codes resolve
            angle = pose @ self.frequencies.to(pose.dtype)
        return torch.cat([angle.cos(), angle.sin()], 1) * step[:, 12:]


def _to_slots(nodes: Float[Tensor, "n c"], graph: Graph, mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b l c"]:
    """Nodes of the graph at their places in the padded batch."""
    return nodes.new_zeros(mask.numel(), nodes.shape[1]).index_copy(0, graph.slot, nodes).unflatten(0, mask.shape)


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

    break_steps: Tensor
    group: Tensor
    bits: Tensor

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
        self.step_features = StepFeatures(c.code_dim) if c.next_step else None
        if c.next_step:
            nn.init.zeros_(self.to_code.weight)
            nn.init.zeros_(self.to_code.bias)
        self.quantizer = VectorQuantizer(
            c.codebook_size,
            c.code_dim,
            decay=c.decay,
            commitment=c.commitment,
            dead_below=c.dead_below,
            rotation_trick=c.rotation_trick,
            orthogonal=c.orthogonal,
        )
        if c.n_break:
            self.register_buffer("break_steps", torch.zeros(c.n_break, 3, 3))
        if c.groups:
            self.register_buffer("group", torch.zeros(c.codebook_size, dtype=torch.long))
            self.register_buffer("bits", torch.zeros(c.groups + 1, c.codebook_size))
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
        latents = self.to_code(self.encoder(_to_slots(self.into(self.graph_encoder(graph)), graph, mask), mask))
        return latents if self.step_features is None else latents + self.encode_steps(graph, mask)

    def encode_steps(self, graph: Graph, mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b l d"]:
        """What `next_step` adds to the latents; needs neither GCPNet nor transformer."""
        assert self.step_features is not None
        return _to_slots(self.step_features(graph.step), graph, mask)

    @property
    def prior(self) -> Prior | None:
        """What each code costs after the code before it."""
        return Prior(self.group, self.bits) if self.config.groups else None

    def steps(self) -> Float[Tensor, "k 3 3"]:
        """N, CA, C of the next residue in this residue's `backbone_frames` for each code (`local_steps`), Å."""
        with torch.no_grad():
            frames = frames_from_numbers(self.decoder.numbers(self.quantizer.codebook[None])[0].double())
        here = backbone_frames(backbone(torch.eye(4, dtype=frames.dtype, device=frames.device)))
        steps = apply(invert(here), backbone(frames))
        return torch.cat([steps[: -self.config.n_break], self.break_steps.double()]) if self.config.n_break else steps

    def decode(self, codes: Int[Tensor, "b l"]) -> Float[Tensor, "b l 3 3"]:
        """N, CA, C in Å from codes; slots of code -1 mean nothing."""
        return backbone(self.decoder(self.quantizer.lookup(codes), codes >= 0))

    def forward(self, graph: Graph, mask: Bool[Tensor, "b l"]) -> Reconstruction:
        latents = self.encode(graph, mask)
        quantized = self.quantizer(latents, mask)
        frames = self.decoder(quantized.vectors, mask)
        return Reconstruction(backbone(frames), frames, latents, quantized.codes, quantized.loss)
