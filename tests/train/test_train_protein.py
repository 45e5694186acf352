"""The protein training loop on a handful of chains: batches, a few steps, resuming, the exported tokenizer."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("jsonargparse")

from structok import Backbone, load
from structok.protein.decoder import backbone, chain_frames, frames_from_numbers
from train.data import load_backbones
from train.protein import main
from train.protein_data import Batches, Sampling, chain_of, collate, fixed_batches

HELIX = torch.tensor([-3.572, 0.899, 0.964, -0.402, 0.249, -0.881, 0.913, 0.031, -0.408])


def _coords(length, seed):
    generator = torch.Generator().manual_seed(seed)
    numbers = HELIX + 0.1 * torch.randn(1, length, 9, generator=generator)
    return backbone(chain_frames(frames_from_numbers(numbers), torch.ones(1, length, dtype=torch.bool)))[0].numpy()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty chains as a user's npz."""
    folder = tmp_path_factory.mktemp("chains")
    lengths = [30 + 3 * (i % 12) for i in range(40)]
    xyz = np.concatenate([np.round(100 * _coords(n, i)) for i, n in enumerate(lengths)]).astype(np.int16)
    xyz[5:8] = np.iinfo(np.int16).min
    np.savez(folder / "chains.npz", xyz=xyz, offsets=np.cumsum([0, *lengths]))
    return folder


def test_unexplained_breaks_get_a_missing_slot(folder):
    data = load_backbones(folder / "chains.npz")
    data.break_before[20] = True
    chain = chain_of(data, 0)
    assert len(chain.coords) == len(chain.types) == data.lengths[0] + 1
    missing = (~chain.coords.isfinite().all((1, 2))).nonzero()[:, 0].tolist()
    assert missing == [5, 6, 7, 20]


def test_batches_depend_on_their_number_only_and_keep_the_budget(folder):
    data = load_backbones(folder / "chains.npz")
    sampling = Sampling(crop=48, residues=200, lose_chance=0.5, jitter=0.1)
    long = iter(Batches(data, sampling, seed=3))
    run = [next(long) for _ in range(6)]
    late = next(iter(Batches(data, sampling, seed=3, first=5)))
    assert torch.equal(late.mask, run[5].mask) and torch.equal(late.types, run[5].types)
    torch.testing.assert_close(late.coords, run[5].coords, equal_nan=True)
    other = next(iter(Batches(data, sampling, seed=3, process=1)))
    assert other.names != run[0].names
    for batch in run:
        assert batch.mask.numel() <= 200 and batch.mask.shape[1] <= 48
        assert batch.target[batch.mask].isfinite().all() and batch.mask.any(1).all()
        assert 0.05 < (batch.coords - batch.target)[batch.mask].std() < 0.15
    assert any((b.target.isfinite().all((2, 3)) & ~b.mask).any() for b in run)  # lost on purpose


def test_validation_chains_are_whole_and_not_trained_on(folder):
    data = load_backbones(folder / "chains.npz")
    batches = fixed_batches(data, 10, 60, 500, 25)
    names = {n for b in batches for n in b.names}
    assert names and names == {data.names[i] for i in np.flatnonzero(data.split == 1) if data.lengths[i] <= 60}
    trained = Batches(data, Sampling(shortest=25))
    assert not names & {data.names[i] for cluster in trained.clusters for i in cluster}


def test_collate_pads_with_missing(folder):
    data = load_backbones(folder / "chains.npz")
    batch = collate([chain_of(data, i) for i in (0, 1, 2)])
    assert batch.mask.shape == (3, 36) and batch.mask.sum(1).tolist() == [27, 33, 36]


def test_fit_and_resume(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = {
        "codebook_size": 64, "code_dim": 8, "gcp_layers": 1, "node_scalars": 16, "node_vectors": 4,
        "edge_scalars": 8, "edge_vectors": 4, "encoder_dim": 32, "encoder_depth": 1, "encoder_heads": 1,
        "encoder_kv_heads": 1, "decoder_dim": 32, "dead_below": 0.1,
    }  # fmt: skip
    config = {
        "run": {
            "name": "tiny", "out": "tiny", "data": str(folder / "chains.npz"), "valid_every": 2, "accelerator": "cpu",
        },
        "model": small,
        "sampling": {"crop": 40, "residues": 160},
        "training": {"weights": {"fape": 1.0, "mse": 0.002, "distance": 0.01, "direction": 0.05}, "adapt_every": 2},
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    arguments = ["fit", "--config", "config.yaml", "--training.continuous", "2", "--training.local", "1"]
    main([*arguments, "--training.steps", "4"])
    state = torch.load("runs/tiny/last.ckpt", weights_only=True)
    assert state["global_step"] == 4 and state["state_dict"]["model.quantizer.initialised"]
    main([*arguments, "--training.steps", "6", "--run.resume", "true"])
    assert torch.load("runs/tiny/last.ckpt", weights_only=True)["global_step"] == 6
    assert json.loads((tmp_path / "tiny" / "training.json").read_text())["steps"] == 6
    tokenizer = load(tmp_path / "tiny")
    tokens = tokenizer.encode(Backbone(_coords(30, 5)))
    assert len(tokens) == 30 and (tokens.codes >= 0).all()
    assert list((tmp_path / "runs" / "tiny" / "samples").glob("*_step*.pdb"))
