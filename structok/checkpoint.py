"""Checkpoint folders, read and written strictly: nothing unknown, nothing missing, no pickles.

A checkpoint is a folder with `config.json` (the model's config dataclass and its `model_type`),
`model.safetensors` (its tensors) and `README.md` (its card).
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

from structok.errors import CheckpointError
from structok.files import open_whole

if TYPE_CHECKING:
    import torch

__all__ = [
    "check_sizes",
    "check_tensors",
    "checkpoints_folder",
    "make_config",
    "read_checkpoint",
    "write_checkpoint",
]

T = TypeVar("T")


def checkpoints_folder() -> Path:
    """Where the shipped checkpoints lie: inside the installed package, or beside it in a clone."""
    inside = Path(__file__).parent / "checkpoints"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "checkpoints"


def read_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Read `config.json` and `model.safetensors` of a checkpoint folder."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder}: not a checkpoint folder, {name} is missing")
    try:
        config = json.loads((folder / "config.json").read_text())
        tensors = load_file(folder / "model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: cannot be read ({error})") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{folder}/config.json: expected an object")
    return config, tensors


def write_checkpoint(
    folder: str | os.PathLike[str], model_type: str, config: Any, tensors: dict[str, torch.Tensor]
) -> None:
    """Write `config.json` (dataclass `config` plus `model_type`) and `model.safetensors`."""
    from safetensors.torch import save

    folder = Path(folder)
    body = {"model_type": model_type, **dataclasses.asdict(config)}
    with open_whole(folder / "config.json") as file:
        file.write(json.dumps(body, indent=2).encode() + b"\n")
    with open_whole(folder / "model.safetensors") as file:
        file.write(save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}))


def make_config(cls: type[T], values: Any, where: str) -> T:
    """Build a config dataclass, its nested ones too; unknown and missing keys and wrong types are errors."""
    hints = get_type_hints(cls)
    if not isinstance(values, dict):
        raise CheckpointError(f"{where}: expected an object with the keys {sorted(hints)}, not {values!r}")
    if wrong := set(values) - set(hints):
        raise CheckpointError(f"{where}: unknown config keys {sorted(wrong)}; known: {sorted(hints)}")
    if missing := set(hints) - set(values):
        raise CheckpointError(f"{where}: missing config keys {sorted(missing)}")
    found: dict[str, Any] = {}
    for name, kind in hints.items():
        value = values[name]
        if type(None) in get_args(kind):  # optional
            if value is None:
                found[name] = None
                continue
            [kind] = set(get_args(kind)) - {type(None)}
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            value = make_config(kind, value, f"{where}, {name}")
        elif choices := get_args(kind):  # a Literal
            if value not in choices:
                raise CheckpointError(f"{where}: {name} {value!r} is none of {', '.join(map(str, choices))}")
        elif type(value) is not kind and not (kind is float and type(value) is int):
            raise CheckpointError(f"{where}: config key {name!r} must be {kind.__name__}, not {value!r}")
        found[name] = value
    try:
        return cls(**found)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from None


def check_sizes(config: Any) -> None:
    """Whole numbers of a config dataclass are sizes: at least 1."""
    for name, value in vars(config).items():
        if type(value) is int and value < 1:
            raise CheckpointError(f"config key {name!r} cannot be {value}")


def check_tensors(expected: dict[str, tuple[int, ...]], tensors: dict[str, torch.Tensor], where: str) -> None:
    """Names and shapes of a checkpoint's tensors must be exactly the expected ones."""
    for name in sorted(set(expected) ^ set(tensors)):
        raise CheckpointError(f"{where}: tensor {name!r} is {'missing' if name in expected else 'unknown'}")
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise CheckpointError(f"{where}: tensor {name!r} has shape {tuple(tensors[name].shape)}, expected {shape}")
