"""The protein training loop on a handful of chains: batches, a few steps, resuming, the exported tokenizer."""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("jsonargparse")
pytest.importorskip("pyarrow")

import lightning as L

from structok import Backbone, load
from structok.data.dataset import Row
from structok.errors import InputError
from structok.protein.decoder import backbone, chain_frames, frames_from_numbers
from structok.protein.model import GCPVQVAEConfig, GCPVQVAEModel
from train.data import load_backbones
from train.protein.data import Chains, Sampling, collate, fixed_batches, with_gaps
from train.protein.fit import compile_parts, main
from train.protein.tasks import ProteinTask, Training

HELIX = torch.tensor([-3.572, 0.899, 0.964, -0.402, 0.249, -0.881, 0.913, 0.031, -0.408])


def _coords(length, seed):
    generator = torch.Generator().manual_seed(seed)
    numbers = HELIX + 0.1 * torch.randn(1, length, 9, generator=generator)
    return backbone(chain_frames(frames_from_numbers(numbers), torch.ones(1, length, dtype=torch.bool)))[0].numpy()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty chains as a user's npz, and as the shards made of it."""
    folder = tmp_path_factory.mktemp("chains")
    lengths = [30 + 3 * (i % 12) for i in range(40)]
    coords = [_coords(n, i) for i, n in enumerate(lengths)]
    coords[0][20:] += 30.0  # a break between residues 19 and 20
    xyz = np.concatenate([np.round(100 * x) for x in coords]).astype(np.int16)
    xyz[5:8] = np.iinfo(np.int16).min
    np.savez(folder / "chains.npz", xyz=xyz, offsets=np.cumsum([0, *lengths]))
    main(["pack", "--source", str(folder / "chains.npz"), "--out", str(folder / "shards")])
    return folder


def test_packed_arrays_are_a_data_set(folder):
    data = load_backbones(folder / "chains.npz")
    packed = load_backbones(folder / "shards")
    order = [data.names.index(n) for n in packed.names]
    assert sorted(order) == list(range(40)) and (data.split[order] == packed.split).all()
    for i, j in enumerate(order):
        torch.testing.assert_close(packed[i], data[j], equal_nan=True)
    with pytest.raises(InputError, match="exists"):
        main(["pack", "--source", str(folder / "chains.npz"), "--out", str(folder / "shards")])


def test_unexplained_breaks_get_a_missing_slot(folder):
    [row] = [r for r in _rows(folder) if r.id == "0"]
    chain = with_gaps(row)
    assert len(chain.coords) == len(chain.types) == 31
    missing = (~chain.coords.isfinite().all((1, 2))).nonzero()[:, 0].tolist()
    assert missing == [5, 6, 7, 20]


def _rows(folder):
    data = load_backbones(folder / "chains.npz")
    return [Row(n, "X" * len(data[i]), data[i].reshape(-1, 9).numpy()) for i, n in enumerate(data.names)]


def test_batches_keep_the_budget_and_are_damaged_on_purpose(folder):
    sampling = Sampling(crop=48, residues=200, lose_chance=0.5, jitter=0.1)
    run = list(itertools.islice(Chains(folder / "shards", sampling, seed=3), 40))
    again = list(itertools.islice(Chains(folder / "shards", sampling, seed=3), 40))
    for batch, same in zip(run, again):
        torch.testing.assert_close(batch.coords, same.coords, equal_nan=True)
        assert batch.mask.numel() <= 200 and batch.mask.shape[1] <= 48
        assert batch.target[batch.mask].isfinite().all() and batch.mask.any(1).all()
        assert 0.05 < (batch.coords - batch.target)[batch.mask].std() < 0.15
    assert any((b.target.isfinite().all((2, 3)) & ~b.mask).any() for b in run)  # lost on purpose
    assert {b.origin[2].epoch for b in run} > {0, 1}
    other = next(iter(Chains(folder / "shards", sampling, seed=4)))
    assert other.names != run[0].names


def test_examples_grow_with_the_steps(folder):
    sampling = Sampling(crop=30, longer={4: 40, 8: 60}, residues=100, buffer=10)
    assert [sampling.crop_at(s) for s in (0, 3, 4, 7, 8, 100)] == [30, 30, 40, 40, 60, 60]
    longest = [b.mask.shape[1] for b in itertools.islice(Chains(folder / "shards", sampling, accumulate=5), 80)]
    assert max(longest[:20]) == 30 and max(longest[25:40]) == 40 and max(longest[50:]) == 60


def test_chains_with_little_in_them_are_left_out(folder):
    names = set()
    for batch in itertools.islice(Chains(folder / "shards", Sampling(shortest=28, residues=100)), 60):
        names |= set(batch.names)
    assert "0" not in names and len(names) == 37  # "0" lacks three of its thirty residues; two are for validation


def test_validation_chains_are_whole_and_not_trained_on(folder):
    data = load_backbones(folder / "chains.npz")
    batches = fixed_batches(folder / "shards", 10, 60, Sampling(residues=500))
    names = {n for b in batches for n in b.names}
    assert names and names == {data.names[i] for i in np.flatnonzero(data.split == 1) if data.lengths[i] <= 60}
    trained = itertools.islice(Chains(folder / "shards", Sampling(residues=200)), 30)
    assert not names & {n for b in trained for n in b.names}


def test_collate_pads_with_missing(folder):
    batch = collate([with_gaps(row) for row in _rows(folder)[:3]])
    assert batch.mask.shape == (3, 36) and batch.mask.sum(1).tolist() == [27, 33, 36]


SMALL = {
    "codebook_size": 64, "code_dim": 8, "gcp_layers": 1, "node_scalars": 16, "node_vectors": 4, "edge_scalars": 8,
    "edge_vectors": 4, "encoder_dim": 32, "encoder_depth": 1, "encoder_heads": 1, "encoder_kv_heads": 1,
    "decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 1, "decoder_kv_heads": 1, "dead_below": 0.1,
    "head": "absolute", "next_step": False, "closed_loop": False,
}  # fmt: skip


def _arguments(folder, **run):
    config = {
        "run": {"name": "tiny", "out": "tiny", "valid_every": 2, "accelerator": "cpu", "loggers": ["csv"], **run},
        "model": SMALL,
        "data": {"path": str(folder / "shards")},
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
    return callbacks["_Position"]["processes"][0]["turn"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_is_the_run_that_never_stopped(folder, tmp_path, monkeypatch, workers):
    monkeypatch.chdir(tmp_path)
    arguments = [*_arguments(folder), "--data.workers", str(workers), "--training.average", "0.9", "--run.steps", "7"]
    arguments += ["--run.valid_every", "100"]
    main(arguments)
    whole = torch.load("runs/tiny/last.ckpt", weights_only=True)
    fit = L.Trainer.fit
    monkeypatch.setattr(L.Trainer, "fit", lambda trainer, *a, **k: fit(_stopped(trainer, 3), *a, **k))
    main(arguments)
    assert torch.load("runs/tiny/last.ckpt", weights_only=True)["global_step"] == 3
    monkeypatch.setattr(L.Trainer, "fit", fit)
    main([*arguments, "--run.resume", "true"])
    resumed = torch.load("runs/tiny/last.ckpt", weights_only=True)
    assert resumed["callbacks"]["_Position"] == whole["callbacks"]["_Position"]
    for name, value in whole["state_dict"].items():
        torch.testing.assert_close(resumed["state_dict"][name], value, msg=name)


def _stopped(trainer, step):
    """A trainer that is interrupted after some steps of its schedule."""

    class Stop(L.Callback):
        def on_train_batch_end(self, trainer, *rest):
            trainer.should_stop = trainer.global_step >= step

    trainer.callbacks.insert(0, Stop())
    return trainer


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
    config = GCPVQVAEConfig(**SMALL)
    task = ProteinTask(GCPVQVAEModel(config), Training(average=0.9))
    names = set(task.state_dict())
    compile_parts(task.model, backend="eager")
    assert set(task.state_dict()) == names
    mask = torch.ones(1, 30, dtype=torch.bool)
    coords = torch.from_numpy(_coords(30, 1))[None]
    made = task.model(task.model.graph(coords, mask, torch.zeros(1, 30, dtype=torch.long)), mask)
    assert made.coords.shape == (1, 30, 3, 3)
