"""The protein training loop on a handful of chains: batches, a few steps, resuming, the exported tokenizer."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("jsonargparse")

from structok import Backbone, load
from structok.errors import InputError
from structok.protein.decoder import backbone, chain_frames, frames_from_numbers
from structok.protein.model import GCPVQVAEConfig, GCPVQVAEModel, GraphConfig, QuantizerConfig, TransformerConfig
from train.data import load_backbones
from train.protein.data import Batches, Sampling, chain_of, collate, fixed_batches
from train.protein.fit import compile_parts, main
from train.protein.tasks import ProteinTask, Training

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
    other = next(iter(Batches(data, sampling, seed=3, rank=1)))
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


SMALL = {
    "codebook_size": 64,
    "graph": {"layers": 1, "node_scalars": 16, "node_vectors": 4, "edge_scalars": 8, "edge_vectors": 4},
    "encoder": {"dim": 32, "depth": 1, "heads": 1, "kv_heads": 1},
    "quantizer": {"dim": 8, "dead_below": 0.1},
    "decoder": {"dim": 32, "depth": 1, "heads": 1, "kv_heads": 1},
}


def _arguments(folder, **run):
    config = {
        "run": {"name": "tiny", "out": "tiny", "valid_every": 2, "accelerator": "cpu", "loggers": ["csv"], **run},
        "model": SMALL,
        "data": {"path": str(folder / "chains.npz")},
        "sampling": {"crop": 40, "residues": 160},
        "training": {"weights": {"fape": 1.0, "mse": 0.002, "distance": 0.01, "direction": 0.05}, "adapt_every": 2},
    }
    Path("config.yaml").write_text(json.dumps(config))
    return ["fit", "--config", "config.yaml"]


def test_fit_and_resume(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [*_arguments(folder), "--training.continuous", "2"]
    main([*arguments, "--run.steps", "4"])
    state = torch.load("runs/tiny/last.ckpt", weights_only=True)
    assert state["global_step"] == 4 and state["state_dict"]["model.quantizer.initialised"]
    main([*arguments, "--run.steps", "6", "--run.resume", "true"])
    assert torch.load("runs/tiny/last.ckpt", weights_only=True)["global_step"] == 6
    assert json.loads((tmp_path / "tiny" / "training.json").read_text())["steps"] == 6
    tokenizer = load(tmp_path / "tiny")
    tokens = tokenizer.encode(Backbone(_coords(30, 5)))
    assert len(tokens) == 30 and (tokens.codes >= 0).all()
    assert list((tmp_path / "runs" / "tiny" / "samples").glob("*_step*.pdb"))


def test_the_average_of_the_weights_is_exported(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = _arguments(folder, valid_every=100, steps=4)
    main([*arguments, "--training.average", "0.5", "--training.lr", "0.01", "--training.warmup", "1"])
    state = torch.load("runs/tiny/last.ckpt", weights_only=True)["state_dict"]
    exported = load(tmp_path / "tiny").model.state_dict()
    averaged = {k.removeprefix("average.module."): v for k, v in state.items() if k.startswith("average.module.")}
    assert exported.keys() == averaged.keys()
    assert all(torch.equal(exported[k], v) for k, v in averaged.items())
    assert not torch.equal(exported["into.weight"], state["model.into.weight"])


def test_accumulation_counts_steps_and_saves_between_them(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [*_arguments(folder), "--run.accumulate", "3", "--run.save_minutes", "0"]
    main([*arguments, "--run.steps", "2"])
    assert _batches_used() == 6
    main([*arguments, "--run.steps", "3", "--run.resume", "true"])
    assert _batches_used() == 9


def _batches_used():
    callbacks = torch.load("runs/tiny/last.ckpt", weights_only=True)["callbacks"]
    return callbacks["_Position"]["processes"][0]["batches"]


def test_time_runs_out(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main([*_arguments(folder), "--run.steps", "100000", "--run.max_time", "00:00:00:02"])
    assert 0 < torch.load("runs/tiny/last.ckpt", weights_only=True)["global_step"] < 100000


def test_an_unknown_or_missing_logger_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match="pip install wandb"):
        main([*_arguments(folder, loggers=["wandb"]), "--run.steps", "1"])


def test_compiled_models_keep_the_names_of_their_weights(monkeypatch):
    parts = {
        "graph": GraphConfig,
        "encoder": TransformerConfig,
        "quantizer": QuantizerConfig,
        "decoder": TransformerConfig,
    }
    config = GCPVQVAEConfig(64, **{name: kind(**SMALL[name]) for name, kind in parts.items()})
    task = ProteinTask(GCPVQVAEModel(config), Training(average=0.9))
    names = set(task.state_dict())
    compile_parts(task.model, backend="eager")
    assert set(task.state_dict()) == names
    mask = torch.ones(1, 30, dtype=torch.bool)
    coords = torch.from_numpy(_coords(30, 1))[None]
    made = task.model(task.model.graph(coords, mask, torch.zeros(1, 30, dtype=torch.long)), mask)
    assert made.coords.shape == (1, 30, 3, 3)
