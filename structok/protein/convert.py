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
from structok.protein.published import DECODER, DERIVED, GCPNET, NAMES, OPTIONS, SIZES, TENSORS, VQVAE

if TYPE_CHECKING:
    from torch import Tensor

    from structok.protein.model import GCPVQVAEConfig

__all__ = ["convert", "official_config", "official_tensors"]


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
        raise CheckpointError(f"{source}: not a folder; give the one that holds {VQVAE}")
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

    trees = {name: _read_yaml(source / name) for name in (VQVAE, GCPNET, DECODER)}
    for name, options in OPTIONS.items():
        for path, wanted in options.items():
            if (found := _get(trees[name], path, wanted)) != wanted:
                raise CheckpointError(f"{source / name}: {path} = {found!r} is not implemented, only {wanted!r}")
    published = GCPVQVAEConfig()
    values: dict[str, Any] = {}
    for size, (name, paths) in SIZES.items():
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
    edges = _get(trees[GCPNET], "features.kwargs.edge_types", [])
    match = re.fullmatch(r"knn_(\d+)", str(edges[0])) if len(edges) == 1 else None
    if match is None:
        raise CheckpointError(f"{source / GCPNET}: edge_types {edges!r} is not implemented, only one knn_<k>")
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
        if not DERIVED.search(key):
            raise CheckpointError(
                f"{file}: tensor {key!r} is unknown; is this a GCP-VQVAE of the stated configuration?"
            )
    check_tensors({name: tuple(tensor.shape) for name, tensor in wanted.items()}, ours, str(file))
    if not ours["quantizer.initialised"]:
        raise CheckpointError(f"{file}: its codebook was never initialised; take a trained checkpoint")
    return ours


def _official_name(name: str) -> str:
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    return re.sub(r"(\d+):(\d)", lambda m: str(2 * int(m[1]) + int(m[2])), name)


def _read_tensors(source: Path) -> tuple[Path, dict[str, Tensor]]:
    """The official state dict without the prefixes of wrappers; only tensors are read from a pickle."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = next((source / name for name in TENSORS if (source / name).is_file()), None)
    if file is None:
        raise CheckpointError(f"{source}: no weights; expected {' or '.join(TENSORS)}")
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
