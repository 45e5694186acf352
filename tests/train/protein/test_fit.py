"""The protein training loop on a handful of chains: resuming, averaging, two processes, the exported tokenizer."""

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser

from structok import Backbone, load
from structok.errors import InputError
from structok.protein.model import PRESETS, GCPVQVAEConfig
from tests.train.protein.conftest import SMALL, arguments_of, random_chain, small_model
from train.protein.data import Chains
from train.protein.fit import compile_parts, main
from train.protein.tasks import ProteinTask, Training

CONFIGS = Path(__file__).parents[3] / "train" / "configs"


def test_fit_and_resume(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [*arguments_of(folder), "--training.continuous", "2"]
    main([*arguments, "--run.steps", "4"])
    state = torch.load("runs/tiny/last.ckpt", weights_only=True)
    assert state["global_step"] == 4 and state["state_dict"]["model.quantizer.initialised"]
    main([*arguments, "--run.steps", "6", "--run.resume", "true"])
    assert torch.load("runs/tiny/last.ckpt", weights_only=True)["global_step"] == 6
    record = json.loads((tmp_path / "tiny" / "training.json").read_text())
    assert record["steps"] == 6
    assert [row["step"] for row in record["curve"]] == [2, 4, 6]  # of both starts
    assert all(row["rmsd/valid"] > 0 for row in record["curve"])
    tokenizer = load(tmp_path / "tiny")
    tokens = tokenizer.encode(Backbone(random_chain(30, 5)))
    assert len(tokens) == 30 and (tokens.codes >= 0).all()
    assert list((tmp_path / "runs" / "tiny" / "samples").glob("*_step*.pdb"))


def test_the_average_of_the_weights_is_exported(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = arguments_of(folder, valid_every=100, steps=4)
    main([*arguments, "--training.average", "0.5", "--training.lr", "0.01", "--training.warmup", "1"])
    state = torch.load("runs/tiny/last.ckpt", weights_only=True)["state_dict"]
    exported = load(tmp_path / "tiny").model.state_dict()
    averaged = {k.removeprefix("average.module."): v for k, v in state.items() if k.startswith("average.module.")}
    assert exported.keys() == averaged.keys()
    assert all(torch.equal(exported[k], v) for k, v in averaged.items())
    assert not torch.equal(exported["into.weight"], state["model.into.weight"])


def test_accumulation_counts_steps_and_saves_between_them(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [*arguments_of(folder), "--run.accumulate", "3", "--run.save_minutes", "0"]
    main([*arguments, "--run.steps", "2"])
    assert _batches_used() == 6
    main([*arguments, "--run.steps", "3", "--run.resume", "true"])
    assert _batches_used() == 9


def _batches_used():
    callbacks = torch.load("runs/tiny/last.ckpt", weights_only=True)["callbacks"]
    return callbacks["_Position"]["processes"][0]["stream"]["turn"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_is_the_run_that_never_stopped(folder, tmp_path, monkeypatch, workers):
    monkeypatch.chdir(tmp_path)
    arguments = [*arguments_of(folder), "--data.workers", str(workers), "--training.average", "0.9", "--run.steps", "7"]
    arguments += ["--data.valid_chains", "0"]  # stopping validates, and so may find a better one
    main(arguments)
    whole = torch.load("runs/tiny/last.ckpt", weights_only=True)
    fit = L.Trainer.fit
    monkeypatch.setattr(L.Trainer, "fit", lambda trainer, *a, **k: fit(_stopped(trainer, 3), *a, **k))
    main(arguments)
    assert torch.load("runs/tiny/last.ckpt", weights_only=True)["global_step"] == 3
    monkeypatch.setattr(L.Trainer, "fit", fit)
    main([*arguments, "--run.resume", "true"])
    resumed = torch.load("runs/tiny/last.ckpt", weights_only=True)
    [a], [b] = (s["callbacks"]["_Position"]["processes"] for s in (resumed, whole))
    assert a["stream"] == b["stream"] and all(map(torch.equal, a["random"], b["random"]))
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
    main([*arguments_of(folder), "--run.steps", "100000", "--run.max_time", "00:00:00:02"])
    assert 0 < torch.load("runs/tiny/last.ckpt", weights_only=True)["global_step"] < 100000


def test_an_unknown_or_missing_logger_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match="pip install wandb"):
        main([*arguments_of(folder, loggers=["wandb"]), "--run.steps", "1"])


def test_compiled_models_keep_the_names_of_their_weights():
    model = small_model()
    names = set(ProteinTask(model, Training(average=0.9)).state_dict())
    compile_parts(model)
    assert set(ProteinTask(model, Training(average=0.9)).state_dict()) == names
    assert model.decoder._compiled_call_impl is not None


@pytest.mark.parametrize("size", ["plain", "lite", "large"])
def test_the_recipes_run(size, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny = {"encoder": SMALL["encoder"], "decoder": SMALL["decoder"], "codebook_size": 16}
    sizes = {"layers": 1, "node_scalars": 16, "node_vectors": 4, "messages": 1}
    options = [f"--model.{k}={json.dumps(v)}" for k, v in tiny.items()]
    options += [f"--model.graph.{k}={v}" for k, v in sizes.items()]
    options += ["--run.accelerator=cpu", "--run.precision=32-true", "--run.steps=3", "--sampling.residues=100"]
    options += ["--training.continuous=1", "--data.workers=0"]
    if size != "plain":
        options += ["--sampling.crop=30", "--sampling.longer={2: 60}"]
    config = CONFIGS / f"gcp_vqvae_{size}.yaml"
    main(["fit", f"--config={config}", f"--data.path={folder / 'shards'}", *options])
    name = f"gcp-vqvae-{size}"
    assert torch.load(f"runs/{name}/last.ckpt", weights_only=True)["global_step"] == 3
    assert load(f"runs/{name}").config.encoder.dim == 32


@pytest.mark.parametrize("size", ["mini", "lite", "large"])
def test_the_recipes_are_of_the_sizes_that_they_name(size):
    parser = ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(GCPVQVAEConfig, "model")
    config = yaml.safe_load((CONFIGS / f"gcp_vqvae_{size}.yaml".replace("_mini", "")).read_text())
    model = parser.instantiate(parser.parse_object({"model": config["model"]})).model
    assert replace(model, quantizer=PRESETS[size].quantizer) == PRESETS[size]
    assert model.quantizer.dim == PRESETS[size].quantizer.dim


def test_two_processes_learn_what_one_learns_from_twice_the_batch(tmp_path, monkeypatch):
    """Without a codebook, whose k-means would see other latents; chains of equal length, so that all weigh the same."""
    monkeypatch.chdir(tmp_path)
    xyz = np.concatenate([np.round(100 * random_chain(30, i)) for i in range(20)]).astype(np.int16)
    np.savez("equal.npz", xyz=xyz, offsets=np.arange(21) * 30)
    main(["pack", "--source", "equal.npz", "--out", "shards"])
    arguments = arguments_of(tmp_path, steps=3, valid_every=100)
    arguments += [
        "--training.continuous=9",
        "--sampling.residues=60",
        "--sampling.lose_chance=0",
        "--data.valid_chains=0",
    ]
    command = [sys.executable, "-m", "train.protein", *arguments, "--run.devices=2", "--run.strategy=ddp"]
    root = Path(__file__).parents[3]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(root)}, timeout=600)
    two = torch.load("runs/tiny/last.ckpt", weights_only=True)
    assert [s["stream"]["turn"] for s in two["callbacks"]["_Position"]["processes"]] == [3, 3]

    class Both(Chains):
        def __iter__(self):
            ranks = [copy.copy(self), copy.copy(self)]
            for rank, stream in enumerate(ranks):
                stream.rank, stream.world_size = rank, 2
            for a, b in zip(*map(Chains.__iter__, ranks)):
                joined = {k: torch.cat([getattr(a, k), getattr(b, k)]) for k in ("coords", "target", "mask", "types")}
                assert not set(a.names) & set(b.names)
                yield replace(a, names=a.names + b.names, **joined)

    monkeypatch.setattr("train.protein.data.Chains", Both)
    main(arguments)
    one = torch.load("runs/tiny/last.ckpt", weights_only=True)["state_dict"]
    for name, value in two["state_dict"].items():
        torch.testing.assert_close(value, one[name], atol=2e-5, rtol=1e-3, msg=name)
