"""An official GCP-VQVAE checkpoint folder (three YAML files and a pickle) becomes one of ours."""

from __future__ import annotations

import os
import pickle
import re
import tempfile
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from structok.checkpoint import check_tensors, make_config, write_checkpoint
from structok.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

    from structok.protein.model import GCPVQVAEConfig

__all__ = ["convert", "official_config", "official_tensors"]

_VQVAE, _GCPNET, _DECODER = "config_vqvae.yaml", "config_gcpnet_encoder.yaml", "config_geometric_decoder.yaml"
_TENSORS = ("checkpoints/best_valid.pth", "weights.safetensors")

# options that would change the computation, and the only value that is implemented
_TRANSFORMER_OPTIONS = {
    "rotary_pos_emb": True,
    "qk_norm": True,
    "pre_norm": True,
    "residual_attn": False,
    "num_memory_tokens": 0,
    "causal": False,
}
_OPTIONS: dict[str, dict[str, Any]] = {
    _VQVAE: {
        "model.decoder_output_scaling_factor": 1,
        "model.use_ndlinear": False,
        "model.encoder.name": "gcpnet",
        "model.vqvae.vector_quantization.enabled": True,
        "model.vqvae.vector_quantization.ti_tok.enabled": False,
        "model.vqvae.decoder.name": "geometric_decoder",
        **{f"model.vqvae.encoder.{name}": value for name, value in _TRANSFORMER_OPTIONS.items()},
    },
    _DECODER: {"pos_scale_factor": 1, **_TRANSFORMER_OPTIONS},
    _GCPNET: {
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
_SIZES: dict[str, tuple[str, list[str]]] = {
    "codebook_size": (_VQVAE, ["model.vqvae.vector_quantization.codebook_size"]),
    "quantizer.dim": (_VQVAE, ["model.vqvae.vector_quantization.dim"]),
    "max_length": (_VQVAE, ["model.max_length"]),
    "quantizer.commitment": (_VQVAE, ["model.vqvae.vector_quantization.commitment_weight"]),
    "quantizer.decay": (_VQVAE, ["model.vqvae.vector_quantization.decay"]),
    "quantizer.dead_below": (_VQVAE, ["model.vqvae.vector_quantization.threshold_ema_dead_code"]),
    "quantizer.rotation_trick": (_VQVAE, ["model.vqvae.vector_quantization.rotation_trick"]),
    "quantizer.orthogonal": (_VQVAE, ["model.vqvae.vector_quantization.orthogonal_reg_weight"]),
    "encoder.dim": (_VQVAE, ["model.vqvae.encoder.dimension"]),
    "encoder.depth": (_VQVAE, ["model.vqvae.encoder.depth"]),
    "encoder.heads": (_VQVAE, ["model.vqvae.encoder.heads"]),
    "encoder.kv_heads": (_VQVAE, ["model.vqvae.encoder.attn_kv_heads"]),
    "encoder.multiple": (_VQVAE, ["model.vqvae.encoder.ff_mult"]),
    "decoder.dim": (_DECODER, ["dimension"]),
    "decoder.depth": (_DECODER, ["depth"]),
    "decoder.heads": (_DECODER, ["heads"]),
    "decoder.kv_heads": (_DECODER, ["attn_kv_heads"]),
    "decoder.multiple": (_DECODER, ["ff_mult"]),
    "graph.layers": (_GCPNET, ["encoder.kwargs.num_layers", "encoder.kwargs.model_cfg.num_layers"]),
    "graph.node_scalars": (
        _GCPNET,
        ["encoder.kwargs.emb_dim", "encoder.kwargs.node_s_emb_dim", "encoder.kwargs.model_cfg.h_hidden_dim"],
    ),
    "graph.node_vectors": (_GCPNET, ["encoder.kwargs.node_v_emb_dim", "encoder.kwargs.model_cfg.chi_hidden_dim"]),
    "graph.edge_scalars": (_GCPNET, ["encoder.kwargs.edge_s_emb_dim", "encoder.kwargs.model_cfg.e_hidden_dim"]),
    "graph.edge_vectors": (_GCPNET, ["encoder.kwargs.edge_v_emb_dim", "encoder.kwargs.model_cfg.xi_hidden_dim"]),
    "graph.messages": (_GCPNET, ["encoder.kwargs.layer_cfg.mp_cfg.num_message_layers"]),
    "graph.feedforwards": (_GCPNET, ["encoder.kwargs.layer_cfg.num_feedforward_layers"]),
    "graph.bottleneck": (
        _GCPNET,
        ["encoder.kwargs.module_cfg.bottleneck", "encoder.kwargs.module_cfg.default_bottleneck"],
    ),
}

# our tensor names -> the official ones, by substitutions from top to bottom
_NAMES: tuple[tuple[str, str], ...] = (
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
_DERIVED = re.compile(r"\.rotary_pos_emb\.inv_freq$|\._codebook\.embed_avg$")


def convert(source: str | os.PathLike[str], out: str | os.PathLike[str], *, force: bool = False) -> Path:
    """Turn an official GCP-VQVAE checkpoint folder into a structok checkpoint folder.

    Parameters
    ----------
    source : folder with `config_vqvae.yaml`, `config_gcpnet_encoder.yaml`, `config_geometric_decoder.yaml`
        and `checkpoints/best_valid.pth` (read without unpickling objects) or `weights.safetensors`
    out : folder to write
    force : write even if `out` holds something; only files of the same names are replaced

    Raises
    ------
    CheckpointError
        If a file is missing or unreadable, an option is not implemented, or a tensor is unknown, missing or
        of another shape.
    """
    source, out = Path(source), Path(out)
    if not source.is_dir():
        raise CheckpointError(f"{source}: not a folder; give the one that holds {_VQVAE}")
    if out.exists() and not (out.is_dir() and (force or not any(out.iterdir()))):
        raise CheckpointError(f"{out}: exists already; choose another folder or use --force")
    config = official_config(source)
    tensors = official_tensors(source, config)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        write_checkpoint(folder, "gcp-vqvae", config, tensors)
        (Path(folder) / "README.md").write_text(_card(source, config))
        out.mkdir(exist_ok=True)
        for file in Path(folder).iterdir():
            os.replace(file, out / file.name)
    return out


def official_config(source: Path) -> GCPVQVAEConfig:
    """Our configuration from the three YAML files; options we do not implement are errors."""
    from structok.protein.model import GCPVQVAEConfig

    trees = {name: _read_yaml(source / name) for name in (_VQVAE, _GCPNET, _DECODER)}
    for name, options in _OPTIONS.items():
        for path, wanted in options.items():
            if (found := _get(trees[name], path, wanted)) != wanted:
                raise CheckpointError(f"{source / name}: {path} = {found!r} is not implemented, only {wanted!r}")
    published = GCPVQVAEConfig()
    values: dict[str, Any] = {}
    for size, (name, paths) in _SIZES.items():
        found = {path: value for path in paths if (value := _get(trees[name], path)) is not None}
        if not found and size.endswith("kv_heads"):  # left out: every head has its own
            found = {paths[0]: values[size.replace("kv_", "")]}
        if not found:
            raise CheckpointError(f"{source / name}: {paths[0]} is missing")
        value = next(iter(found.values()))
        if any(other != value for other in found.values()):
            raise CheckpointError(f"{source / name}: {' and '.join(f'{k} = {v}' for k, v in found.items())} disagree")
        kind = type(attrgetter(size)(published))
        if not isinstance(value, (int, float)) or value != kind(value):
            raise CheckpointError(f"{source / name}: {paths[0]} = {value!r} is no {kind.__name__}")
        values[size] = kind(value)
    edges = _get(trees[_GCPNET], "features.kwargs.edge_types", [])
    match = re.fullmatch(r"knn_(\d+)", str(edges[0])) if len(edges) == 1 else None
    if match is None:
        raise CheckpointError(f"{source / _GCPNET}: edge_types {edges!r} is not implemented, only one knn_<k>")
    tree = asdict(published)
    for size, value in {**values, "graph.neighbours": int(match[1])}.items():
        *part, name = size.split(".")
        (tree[part[0]] if part else tree)[name] = value
    return make_config(GCPVQVAEConfig, tree, str(source))


def official_tensors(source: Path, config: GCPVQVAEConfig) -> dict[str, Tensor]:
    """Our tensors from the official ones, in float32; every official tensor must be used or derivable."""
    import torch
    from einops import rearrange

    from structok.protein.model import GCPVQVAEModel

    file, official = _read_tensors(source)
    with torch.device("meta"):
        wanted = GCPVQVAEModel(config).state_dict()
    ours: dict[str, Tensor] = {}
    used = set()
    for name in wanted:
        key = _official_name(name)
        if key not in official:
            raise CheckpointError(f"{file}: tensor {key!r} is missing")
        used.add(key)
        tensor = official[key]
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        if key.endswith("gamma"):
            tensor = tensor + 1  # stored as an offset from one
        elif key.startswith("vqvae.vector_quantizer") and tensor.ndim:
            tensor = tensor[0]  # one codebook head
        elif key.startswith(("vqvae.encoder_tail", "vqvae.encoder_head")) and tensor.ndim == 3:
            tensor = tensor[..., 0]  # a convolution of width 1
        # there, query head h looks at key-value head h mod groups; here, neighbours share one
        groups = (config.decoder if name.startswith("decoder") else config.encoder).kv_heads
        if name.endswith("attention.query.weight"):
            tensor = rearrange(tensor, "(r g c) d -> (g r c) d", g=groups, c=64)
        elif name.endswith("attention.out.weight"):
            tensor = rearrange(tensor, "d (r g c) -> d (g r c)", g=groups, c=64)
        ours[name] = tensor
    for key in official.keys() - used:
        if not _DERIVED.search(key):
            raise CheckpointError(
                f"{file}: tensor {key!r} is unknown; is this a GCP-VQVAE of the stated configuration?"
            )
    check_tensors({name: tuple(tensor.shape) for name, tensor in wanted.items()}, ours, str(file))
    if not ours["quantizer.initialised"]:
        raise CheckpointError(f"{file}: its codebook was never initialised; take a trained checkpoint")
    return ours


def _official_name(name: str) -> str:
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return re.sub(r"(\d+):(\d)", lambda m: str(2 * int(m[1]) + int(m[2])), name)


def _read_tensors(source: Path) -> tuple[Path, dict[str, Tensor]]:
    """The official state dict without the prefixes of wrappers; only tensors are read from a pickle."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = next((source / name for name in _TENSORS if (source / name).is_file()), None)
    if file is None:
        raise CheckpointError(f"{source}: no weights; expected {' or '.join(_TENSORS)}")
    try:
        content = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(f"{file}: holds more than tensors, or is no checkpoint; not unpickled") from None
    except (OSError, RuntimeError, EOFError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{file}: cannot be read ({str(error).splitlines()[0]})") from None
    if file.suffix != ".safetensors":
        content = content.get("model_state_dict") if isinstance(content, dict) else None
        if not isinstance(content, dict) or not all(isinstance(v, torch.Tensor) for v in content.values()):
            raise CheckpointError(f"{file}: no tensors under 'model_state_dict'")
    out = {}
    for key, tensor in content.items():
        key = ".".join(part for part in key.split(".") if part != "_orig_mod").removeprefix("module.")
        out[re.sub(r"^encoder\.encoder\.", "encoder.", key)] = tensor
    return file, out


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError:
        raise CheckpointError("converting an official checkpoint needs PyYAML: pip install pyyaml") from None
    try:
        tree = yaml.safe_load(file.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{file}: missing; an official checkpoint folder has it beside its weights") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{file}: cannot be read ({' '.join(str(error).split())})") from None
    if not isinstance(tree, dict):
        raise CheckpointError(f"{file}: expected a mapping")
    return tree


def _get(tree: Any, path: str, default: Any = None) -> Any:
    """Value at a dotted path; strings that spell a boolean are one."""
    for key in path.split("."):
        if not isinstance(tree, dict) or key not in tree:
            return default
        tree = tree[key]
    return {"true": True, "false": False}.get(tree.lower(), tree) if isinstance(tree, str) else tree


def _card(source: Path, config: GCPVQVAEConfig) -> str:
    return f"""# GCP-VQVAE, converted

Weights of an official GCP-VQVAE checkpoint (folder `{source.resolve().name}`; Pourmirzaei et al., bioRxiv
2025.10.01.679833), converted by `structok convert gcp-vqvae`. Their licence and training data are those of
the original.

- {config.codebook_size} codes of {config.quantizer.dim} dimensions, one per residue
- chains up to {config.max_length} residues
- open loop, absolute frames; codes depend on the sequence
"""
