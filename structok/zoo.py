"""The model zoo: a name, a folder or a hub id becomes a tokenizer. Loading is strict."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

from structok.checkpoint import checkpoints_folder, read_checkpoint
from structok.errors import CheckpointError

__all__ = [
    "default_models",
    "describe_models",
    "list_models",
    "load",
    "modality_of",
    "pick_device",
    "resolve",
    "with_all_atoms",
]

# model_type in config.json -> tokenizer class; imported when first asked for
_TOKENIZERS = {
    "chain-vq": "structok.protein.chain_vq:ChainVQ",
    "gcp-vqvae": "structok.protein.tokenizer:GCPVQVAE",
    "sidechain": "structok.protein.sidechain:SideChains",
    "nucleic-vq": "structok.nucleic.tokenizer:NucleicVQ",
    "molstructok": "structok.molecule.tokenizer:MolStrucTok",
}
# modality -> the model that is used unless one is named
_DEFAULTS = {"protein": "chain-vq-4096", "nucleic": "nucleic-vq-4096", "molecule": "molstructok"}
_SIDE_CHAINS = "sidechain-4096"  # added to a model of backbones when all atoms are asked for


def list_models() -> list[str]:
    """Names of the shipped checkpoints, sorted; `describe_models` says which are tokenizers by themselves."""
    configs = checkpoints_folder().glob("*/config.json")
    return sorted(p.parent.name for p in configs if json.loads(p.read_text())["model_type"] in _TOKENIZERS)


def default_models() -> dict[str, str]:
    """Modality -> the shipped model that is used unless one is named."""
    shipped = list_models()
    return {modality: name for modality, name in _DEFAULTS.items() if name in shipped}


def with_all_atoms(name: str) -> str:
    """The model that codes side chains too: 'chain-vq-4096+sidechain-4096' of 'chain-vq-4096', others as they are."""
    return name if "+" in name or modality_of(name) != "protein" else f"{name}+{_SIDE_CHAINS}"


def modality_of(name: str) -> str:
    """What a model tokenizes: 'protein', 'nucleic' or 'molecule'."""
    folder = resolve(name.partition("+")[0])
    try:
        kind = json.loads((folder / "config.json").read_text())["model_type"]
        return _TOKENIZERS[kind].split(".")[1]
    except (OSError, ValueError, LookupError, TypeError):
        raise CheckpointError(f"{folder}: not a checkpoint folder of a known model_type") from None


def describe_models() -> list[dict[str, Any]]:
    """Name, modality, kind, role, codebook size and the card's title of each shipped checkpoint.

    The role is 'tokenizer', or 'add-on' of what only works behind a '+', as in 'chain-vq-4096+sidechain-4096'.
    """
    rows = []
    for name in list_models():
        folder = checkpoints_folder() / name
        config = json.loads((folder / "config.json").read_text())
        kind = config["model_type"]
        card = folder / "README.md"
        title = card.read_text().splitlines()[0].lstrip("# ") if card.exists() else ""
        rows.append(
            {
                "name": name,
                "modality": _TOKENIZERS[kind].split(".")[1],
                "model_type": kind,
                "role": "add-on" if kind == "sidechain" else "tokenizer",
                "codebook_size": config["codebook_size"],
                "title": title.removeprefix(name).lstrip(": "),
            }
        )
    return rows


def resolve(name_or_folder: str | os.PathLike[str]) -> Path:
    """Folder of a shipped name, of a local folder, or of a hub id (`owner/name`, needs huggingface_hub).

    Raises
    ------
    CheckpointError
        If there is no such checkpoint; the message lists the shipped names.
    """
    name = os.fspath(name_or_folder)
    if name in list_models():
        return checkpoints_folder() / name
    if name and Path(name).is_dir():
        return Path(name)
    if name.count("/") == 1 and not name.startswith((".", "/")) and not Path(name).parent.is_dir():
        return _download(name)
    raise CheckpointError(f"no model {name!r}; shipped: {', '.join(list_models())}; or give a checkpoint folder")


def _download(hub_id: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise CheckpointError(
            f"{hub_id!r} looks like a hub id: pip install huggingface_hub, or give a folder"
        ) from None
    try:
        return Path(snapshot_download(hub_id, allow_patterns=["config.json", "model.safetensors", "README.md"]))
    except Exception as error:  # every network and hub failure ends here
        raise CheckpointError(
            f"cannot fetch {hub_id!r} ({type(error).__name__}); give a local folder instead"
        ) from error


def load(name_or_folder: str | os.PathLike[str], device: str = "cpu") -> Any:
    """Load a tokenizer by shipped name, folder or hub id.

    Parameters
    ----------
    name_or_folder : e.g. 'chain-vq-4096', 'runs/mine', 'owner/name'; 'chain-vq-4096+sidechain-4096' is a model of
        backbones with side chains
    device : 'cpu', 'cuda', 'cuda:1' or 'auto' (CUDA when there is one)
    """
    backbone, plus, sidechains = os.fspath(name_or_folder).rpartition("+")
    if plus and not Path(name_or_folder).is_dir():
        from structok.protein.allatom import AllAtom

        return AllAtom(load(backbone, device), load(sidechains))
    folder = resolve(name_or_folder)
    config, tensors = read_checkpoint(folder)
    kind = config.pop("model_type", None)
    if kind not in _TOKENIZERS:
        raise CheckpointError(f"{folder}: model_type {kind!r} is none of {', '.join(_TOKENIZERS)}")
    module, attribute = _TOKENIZERS[kind].split(":")
    tokenizer = getattr(importlib.import_module(module), attribute)
    return tokenizer.from_checkpoint(folder.name, config, tensors, device=pick_device(device))


def pick_device(device: str) -> str:
    """Resolve 'auto'; a CUDA device that is not there is an error, never a silent fallback."""
    if device == "cpu":
        return device
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise CheckpointError(f"device {device!r}: torch {torch.__version__} sees no CUDA GPU here; use --device cpu")
    try:
        torch.device(device)
    except RuntimeError:
        raise CheckpointError(f"unknown device {device!r}: auto, cpu or cuda") from None
    return device
