"""Pretrain GCPNet: from a backbone with noise on its atoms, tell where they were (as published models start)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from structok.errors import InputError
from structok.protein.gcpnet import GCP
from train.protein.data import Batch
from train.protein.tasks import Training, cosine

__all__ = ["DenoisingTask", "load_encoder"]


class DenoisingTask(L.LightningModule):
    """Displacements of N, CA and C as vectors of each residue, so that they turn with the chain.

    Parameters
    ----------
    model : has `graph(coords, mask, types)` and a `graph_encoder`, a GCPNet of `node` (scalars, vectors)
    noise : standard deviation of the noise that batches bring (`Sampling.jitter`), Å
    """

    def __init__(self, model: Any, node: tuple[int, int], settings: Training, noise: float) -> None:
        super().__init__()
        if noise <= 0:
            raise InputError("denoising needs noise: set sampling.jitter, in Å")
        self.settings, self.noise = settings, noise
        self.graph = model.graph
        self.encoder = model.graph_encoder
        self.head = GCP(*node, node[0], 3)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)

    def left(self, batch: Batch, coords: Float[Tensor, "b l 3 3"]) -> Float[Tensor, ""]:
        """Share of the noise's variance that is not told."""
        graph = self.graph(coords, batch.mask, batch.types)
        wanted = (batch.target - coords).flatten(0, 1)[graph.slot]
        return (self.head(*self.encoder.embed(graph))[1] - wanted / self.noise).square().mean()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.left(batch, batch.coords)
        self.log("loss/noise", loss, batch_size=len(batch.mask), prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        generator = torch.Generator().manual_seed(batch_idx)
        noise = torch.randn(batch.coords.shape, generator=generator).to(self.device) * self.noise
        self.log("noise/valid", self.left(batch, batch.coords + noise), batch_size=len(batch.mask), sync_dist=True)

    def configure_optimizers(self) -> Any:
        return cosine(self.parameters(), self.settings, self.trainer.max_steps)

    def export(self, folder: Path) -> bool:
        """Write the encoder's weights to `gcpnet.safetensors`."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.encoder.state_dict(), folder / "gcpnet.safetensors")
        return True


def load_encoder(model: Any, folder: str) -> None:
    """Start a model's GCPNet from a folder that denoising has written.

    Raises
    ------
    InputError
        If there is none, or it is of another size.
    """
    path = Path(folder) / "gcpnet.safetensors"
    if not path.exists():
        raise InputError(f"{path}: no such file; make it with python -m train.protein denoise")
    try:
        model.graph_encoder.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise InputError(f"{path}: of another size than this model's GCPNet ({str(error).split(':')[0]})") from None
