"""From the released MolStrucTok weights to a zoo checkpoint."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

from structok.errors import CheckpointError
from structok.molecule.model import MolStrucTokConfig
from structok.molecule.tokenizer import MolStrucTok

__all__ = ["convert"]

_RENAMED = {
    "encoder.": "encoder.",
    "multi_head_decoder.gen_len_branch.": "decoder.length.",
    "multi_head_decoder.gen_ang_branch.": "decoder.angle.",
    "multi_head_decoder.gen_tor_branch.": "decoder.torsion.",
    "multi_head_decoder.sign_branch.": "decoder.sign.",
}
# The file's older shared decoder and the running sums of training: not used at inference.
_DROPPED = ("decoder.", "mu.", "sign_head.", "quantizer.ema_")


def convert(source: str | os.PathLike[str], folder: str | os.PathLike[str], *, force: bool = False) -> MolStrucTok:
    """Convert the released weights (safetensors) and write them as a checkpoint folder.

    The result assigns codes open loop by default, as upstream does, and gives its tokens and coordinates;
    `closed_loop=True` works on it as well.

    Raises
    ------
    CheckpointError
        If the file cannot be read, does not hold the released model's tensors and nothing else, or the
        folder holds a model already and `force` is not given.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(source)
    if (Path(folder) / "model.safetensors").exists() and not force:
        raise CheckpointError(f"{folder}: holds a model already; force replaces it")
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a safetensors file that can be read ({error})") from None
    converted = {}
    for name, value in tensors.items():
        prefix = next((p for p in _RENAMED if name.startswith(p)), None)
        if prefix is not None:
            converted[_RENAMED[prefix] + name.removeprefix(prefix)] = value
        elif name == "quantizer.embedding.weight":
            converted["codebook"] = value
        elif not name.startswith(_DROPPED):
            raise CheckpointError(f"{path}: unknown tensor {name!r}; expected the released MolStrucTok weights")
    if "codebook" not in converted or converted["codebook"].ndim != 2:
        raise CheckpointError(f"{path}: no quantizer.embedding.weight; expected the released MolStrucTok weights")
    size, dim = converted["codebook"].shape
    config = MolStrucTokConfig(decoder="branch", codebook_size=size, dim=dim)
    tokenizer = MolStrucTok.from_checkpoint(str(path), asdict(config), converted)
    tokenizer.name = Path(folder).name
    tokenizer.save(folder)
    return tokenizer
