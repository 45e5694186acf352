"""The zoo: what ships, strict loading, save and load."""

import json
import shutil

import numpy as np
import pytest

import structok
from structok.errors import CheckpointError, InputError
from structok.tokenizer import Tokenizer
from structok.work.stream import Zoo
from structok.zoo import describe_models, pick_device, resolve


@pytest.fixture
def copy(tmp_path):
    """A private copy of a shipped checkpoint, to be broken."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(resolve("chain-vq-64") / name, folder / name)
    return folder


def test_chain_models_ship_and_are_described():
    names = structok.list_models()
    assert {"chain-vq-4096", "chain-vq-256", "chain-vq-64"} <= set(names)
    assert names == sorted(names)
    rows = {row["name"]: row for row in describe_models()}
    assert list(rows) == names
    assert (rows["chain-vq-256"]["codebook_size"], rows["chain-vq-256"]["modality"]) == (256, "protein")


def test_what_is_no_tokenizer_by_itself_says_so():
    for row in describe_models():
        tokenizer = isinstance(structok.load(row["name"]), Tokenizer)
        assert row["role"] == ("tokenizer" if tokenizer else "add-on")
    with pytest.raises(InputError, match=r"chain-vq-4096\+sidechain-256"):
        Zoo("sidechain-256", "cpu").get("protein")


def test_saved_model_gives_the_same_codes(tmp_path, chain):
    tokenizer = structok.load("chain-vq-64")
    tokenizer.save(tmp_path / "chain-vq-64")
    again = structok.load(tmp_path / "chain-vq-64")
    assert again.config == tokenizer.config
    assert np.array_equal(again.encode(chain, beam=2).codes, tokenizer.encode(chain, beam=2).codes)


@pytest.mark.parametrize("name", ["nope", "./no/folder", "/no/such/folder"])
def test_unknown_model_lists_what_ships(name):
    with pytest.raises(CheckpointError, match="chain-vq-4096"):
        structok.load(name)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"\x00garbage{"], ids=["gone", "empty", "garbage"])
def test_broken_checkpoint_is_refused_by_folder(copy, name, content):
    (copy / name).unlink()
    if content is not None:
        (copy / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=str(copy)):
        structok.load(copy)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"surprise": 1}, "surprise"),
        ({"codebook_size": None}, "codebook_size"),
        ({"codebook_size": 65}, "steps"),
        ({"model_type": "gpt"}, "gpt"),
        ({"model_type": None}, "model_type"),
    ],
)
def test_config_that_does_not_fit_is_refused(copy, change, named):
    config = json.loads((copy / "config.json").read_text()) | change
    config = {k: v for k, v in config.items() if v is not None}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=named):
        structok.load(copy)


def test_unknown_tensor_is_refused(copy):
    from safetensors.torch import load_file, save_file

    tensors = load_file(copy / "model.safetensors")
    save_file(tensors | {"more": tensors["steps"].clone()}, copy / "model.safetensors")
    with pytest.raises(CheckpointError, match="more"):
        structok.load(copy)


def test_devices():
    import torch

    assert pick_device("cpu") == "cpu"
    assert pick_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(CheckpointError, match="tpu9"):
        pick_device("tpu9")
    if not torch.cuda.is_available():
        with pytest.raises(CheckpointError, match="CUDA"):
            pick_device("cuda")
