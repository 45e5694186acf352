"""Chains for the training loops, a tiny network, and the arguments of a short run."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("jsonargparse")
pytest.importorskip("pyarrow")

from structok.protein.decoder import backbone, chain_frames, frames_from_numbers
from structok.protein.model import GCPVQVAEConfig, GCPVQVAEModel, GraphConfig, QuantizerConfig, TransformerConfig
from train.protein.fit import main

HELIX = torch.tensor([-3.572, 0.899, 0.964, -0.402, 0.249, -0.881, 0.913, 0.031, -0.408])


def random_chain(length, seed):
    generator = torch.Generator().manual_seed(seed)
    numbers = HELIX + 0.1 * torch.randn(1, length, 9, generator=generator)
    return backbone(chain_frames(frames_from_numbers(numbers), torch.ones(1, length, dtype=torch.bool)))[0].numpy()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty chains as a user's npz, and as the shards made of it."""
    folder = tmp_path_factory.mktemp("chains")
    lengths = [30 + 3 * (i % 12) for i in range(40)]
    coords = [random_chain(n, i) for i, n in enumerate(lengths)]
    coords[0][20:] += 30.0  # a break between residues 19 and 20
    xyz = np.concatenate([np.round(100 * x) for x in coords]).astype(np.int16)
    xyz[5:8] = np.iinfo(np.int16).min
    np.savez(folder / "chains.npz", xyz=xyz, offsets=np.cumsum([0, *lengths]))
    main(["pack", "--source", str(folder / "chains.npz"), "--out", str(folder / "shards")])
    return folder


SMALL = {
    "codebook_size": 64,
    "graph": {"layers": 1, "node_scalars": 16, "node_vectors": 4, "edge_scalars": 8, "edge_vectors": 4},
    "encoder": {"dim": 32, "depth": 1, "heads": 1, "kv_heads": 1},
    "quantizer": {"dim": 8, "dead_below": 0.1},
    "decoder": {"dim": 32, "depth": 1, "heads": 1, "kv_heads": 1},
}


def arguments_of(folder, **run):
    config = {
        "run": {"name": "tiny", "out": "tiny", "valid_every": 2, "accelerator": "cpu", "loggers": ["csv"], **run},
        "model": SMALL,
        "data": {"path": str(folder / "shards")},
        "sampling": {"crop": 40, "residues": 160},
        "training": {"weights": {"fape": 1.0, "mse": 0.002, "distance": 0.01, "direction": 0.05}, "adapt_every": 2},
    }
    Path("config.yaml").write_text(json.dumps(config))
    return ["fit", "--config", "config.yaml"]


def small_model(**graph):
    """The network that `arguments_of` trains."""
    sizes = SMALL["graph"] | graph
    parts = TransformerConfig(**SMALL["encoder"]), QuantizerConfig(**SMALL["quantizer"])
    return GCPVQVAEModel(GCPVQVAEConfig(64, 1280, GraphConfig(**sizes), *parts, TransformerConfig(**SMALL["decoder"])))
