"""What official GCP-VQVAE checkpoints hold: files, options, sizes, and how their tensors are named."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["DECODER", "DERIVED", "GCPNET", "NAMES", "OPTIONS", "SIZES", "TENSORS", "VQVAE"]

VQVAE, GCPNET, DECODER = "config_vqvae.yaml", "config_gcpnet_encoder.yaml", "config_geometric_decoder.yaml"
TENSORS = ("checkpoints/best_valid.pth", "weights.safetensors")

# options that would change the computation, and the only value that is implemented
TRANSFORMER_OPTIONS = {
    "rotary_pos_emb": True,
    "qk_norm": True,
    "pre_norm": True,
    "residual_attn": False,
    "num_memory_tokens": 0,
    "causal": False,
}
OPTIONS: dict[str, dict[str, Any]] = {
    VQVAE: {
        "model.decoder_output_scaling_factor": 1,
        "model.use_ndlinear": False,
        "model.encoder.name": "gcpnet",
        "model.vqvae.vector_quantization.enabled": True,
        "model.vqvae.vector_quantization.ti_tok.enabled": False,
        "model.vqvae.decoder.name": "geometric_decoder",
        **{f"model.vqvae.encoder.{name}": value for name, value in TRANSFORMER_OPTIONS.items()},
    },
    DECODER: {"pos_scale_factor": 1, **TRANSFORMER_OPTIONS},
    GCPNET: {
        "features.kwargs.representation": "CA",
        "features.kwargs.scalar_node_features": [
            "amino_acid_one_hot",
            "sequence_positional_encoding",
            "alpha",
            "kappa",
            "dihedrals",
        ],
        "features.kwargs.vector_node_features": ["orientation"],
        "features.kwargs.scalar_edge_features": ["edge_distance"],
        "features.kwargs.vector_edge_features": ["edge_vectors"],
        "num_positional_embeddings": 16,
        "encoder.kwargs.r_max": 10,
        "encoder.kwargs.num_rbf": 8,
        "encoder.kwargs.module_cfg.norm_pos_diff": True,
        "encoder.kwargs.module_cfg.scalar_gate": 0,
        "encoder.kwargs.module_cfg.vector_gate": True,
        "encoder.kwargs.module_cfg.scalar_nonlinearity": "silu",
        "encoder.kwargs.module_cfg.vector_nonlinearity": "silu",
        "encoder.kwargs.module_cfg.nonlinearities": ["silu", "silu"],
        "encoder.kwargs.module_cfg.r_max": 10,
        "encoder.kwargs.module_cfg.num_rbf": 8,
        "encoder.kwargs.module_cfg.predict_node_positions": False,
        "encoder.kwargs.module_cfg.enable_e3_equivariance": False,
        "encoder.kwargs.module_cfg.pool": "sum",
        "encoder.kwargs.model_cfg.h_input_dim": 49,
        "encoder.kwargs.model_cfg.chi_input_dim": 2,
        "encoder.kwargs.model_cfg.e_input_dim": 9,
        "encoder.kwargs.model_cfg.xi_input_dim": 1,
        "encoder.kwargs.layer_cfg.pre_norm": False,
        "encoder.kwargs.layer_cfg.use_gcp_norm": True,
        "encoder.kwargs.layer_cfg.use_scalar_message_attention": True,
        "encoder.kwargs.layer_cfg.mp_cfg.edge_encoder": False,
        "encoder.kwargs.layer_cfg.mp_cfg.edge_gate": False,
        "encoder.kwargs.layer_cfg.mp_cfg.message_residual": 0,
        "encoder.kwargs.layer_cfg.mp_cfg.message_ff_multiplier": 1,
        "encoder.kwargs.layer_cfg.mp_cfg.self_message": True,
    },
}

# our size -> where the three files state it; every place must say the same
SIZES: dict[str, tuple[str, list[str]]] = {
    "codebook_size": (VQVAE, ["model.vqvae.vector_quantization.codebook_size"]),
    "quantizer.dim": (VQVAE, ["model.vqvae.vector_quantization.dim"]),
    "max_length": (VQVAE, ["model.max_length"]),
    "quantizer.commitment": (VQVAE, ["model.vqvae.vector_quantization.commitment_weight"]),
    "quantizer.decay": (VQVAE, ["model.vqvae.vector_quantization.decay"]),
    "quantizer.dead_below": (VQVAE, ["model.vqvae.vector_quantization.threshold_ema_dead_code"]),
    "quantizer.rotation_trick": (VQVAE, ["model.vqvae.vector_quantization.rotation_trick"]),
    "quantizer.orthogonal": (VQVAE, ["model.vqvae.vector_quantization.orthogonal_reg_weight"]),
    "encoder.dim": (VQVAE, ["model.vqvae.encoder.dimension"]),
    "encoder.depth": (VQVAE, ["model.vqvae.encoder.depth"]),
    "encoder.heads": (VQVAE, ["model.vqvae.encoder.heads"]),
    "encoder.kv_heads": (VQVAE, ["model.vqvae.encoder.attn_kv_heads"]),
    "encoder.multiple": (VQVAE, ["model.vqvae.encoder.ff_mult"]),
    "decoder.dim": (DECODER, ["dimension"]),
    "decoder.depth": (DECODER, ["depth"]),
    "decoder.heads": (DECODER, ["heads"]),
    "decoder.kv_heads": (DECODER, ["attn_kv_heads"]),
    "decoder.multiple": (DECODER, ["ff_mult"]),
    "graph.layers": (GCPNET, ["encoder.kwargs.num_layers", "encoder.kwargs.model_cfg.num_layers"]),
    "graph.node_scalars": (
        GCPNET,
        ["encoder.kwargs.emb_dim", "encoder.kwargs.node_s_emb_dim", "encoder.kwargs.model_cfg.h_hidden_dim"],
    ),
    "graph.node_vectors": (GCPNET, ["encoder.kwargs.node_v_emb_dim", "encoder.kwargs.model_cfg.chi_hidden_dim"]),
    "graph.edge_scalars": (GCPNET, ["encoder.kwargs.edge_s_emb_dim", "encoder.kwargs.model_cfg.e_hidden_dim"]),
    "graph.edge_vectors": (GCPNET, ["encoder.kwargs.edge_v_emb_dim", "encoder.kwargs.model_cfg.xi_hidden_dim"]),
    "graph.messages": (GCPNET, ["encoder.kwargs.layer_cfg.mp_cfg.num_message_layers"]),
    "graph.feedforwards": (GCPNET, ["encoder.kwargs.layer_cfg.num_feedforward_layers"]),
    "graph.bottleneck": (
        GCPNET,
        ["encoder.kwargs.module_cfg.bottleneck", "encoder.kwargs.module_cfg.default_bottleneck"],
    ),
}

# our tensor names -> the official ones, by substitutions from top to bottom
NAMES: tuple[tuple[str, str], ...] = (
    (r"^encoder\.", r"vqvae.encoder_blocks."),
    (r"^decoder\.transformer\.", r"vqvae.decoder.decoder_stack."),
    (r"^graph_encoder\.", r"encoder."),
    (r"^into\.", r"vqvae.encoder_tail.0."),
    (r"^to_code\.", r"vqvae.encoder_head.0."),
    (r"^decoder\.into\.", r"vqvae.decoder.projector_in."),
    (r"^decoder\.hidden\.", r"vqvae.decoder.affine_output_projection.ffn1."),
    (r"^decoder\.norm\.", r"vqvae.decoder.affine_output_projection.norm."),
    (r"^decoder\.out\.", r"vqvae.decoder.affine_output_projection.proj."),
    (r"^quantizer\.codebook$", r"vqvae.vector_quantizer._codebook.embed"),
    (r"^quantizer\.cluster_size$", r"vqvae.vector_quantizer._codebook.cluster_size"),
    (r"^quantizer\.initialised$", r"vqvae.vector_quantizer._codebook.initted"),
    # transformers: attention and feed-forward are layers of their own there, even and odd
    (r"(_blocks|_stack)\.into\.", r"\1.project_in."),
    (r"(_blocks|_stack)\.out\.", r"\1.project_out."),
    (r"(_blocks|_stack)\.norm\.weight", r"\1.attn_layers.final_norm.gamma"),
    (r"\.blocks\.(\d+)\.attention", r".attn_layers.layers.\1:0"),
    (r"\.blocks\.(\d+)\.feedforward", r".attn_layers.layers.\1:1"),
    (r"(:\d)_norm\.weight", r"\1.0.0.gamma"),
    (r":0\.(query|key|value|out)\.", r":0.1.to_\1."),
    (r":1\.into\.", r":1.1.ff.0.proj."),
    (r":1\.out\.", r":1.1.ff.2."),
    (r"\.to_query\.", r".to_q."),
    (r"\.to_key\.", r".to_k."),
    (r"\.to_value\.", r".to_v."),
    # GCPNet
    (r"\.(node|edge)_norm\.scalar\.", r".gcp_embedding.\1_normalization.scalar_norm."),
    (r"\.(node|edge)_embedding\.", r".gcp_embedding.\1_embedding."),
    (r"\.interactions\.", r".interaction_layers."),
    (r"(layers\.\d+)\.norm\.scalar\.", r"\1.gcp_norm.0.scalar_norm."),
    (r"(layers\.\d+)\.message\.", r"\1.interaction.message_fusion."),
    (r"(layers\.\d+)\.attention\.", r"\1.interaction.scalar_message_attention.0."),
    (r"(layers\.\d+)\.feedforward\.", r"\1.feedforward_network."),
    (r"\.read_norm\.scalar\.", r".invariant_node_projection.0.scalar_norm."),
    (r"\.read_out\.", r".invariant_node_projection.1."),
    (r"\.scalar\.", r".scalar_out."),
    (r"\.down\.", r".vector_down."),
    (r"\.to_frame\.", r".vector_down_frames."),
    (r"\.up\.", r".vector_up."),
    (r"\.gate\.", r".vector_out_scale."),
)
# official tensors that follow from the others or from the configuration
DERIVED = re.compile(r"\.rotary_pos_emb\.inv_freq$|\._codebook\.embed_avg$")
