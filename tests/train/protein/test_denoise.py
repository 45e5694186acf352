"""GCPNet learns to tell noise, and models start from it."""

import json
from pathlib import Path

import pytest
import torch
from e3nn.o3 import rand_matrix
from safetensors.torch import load_file

from structok import load
from structok.errors import InputError
from tests.train.protein.conftest import arguments_of, random_chain, small_model
from train.protein.denoise import DenoisingTask, load_encoder
from train.protein.fit import main
from train.protein.tasks import Training


def test_denoising_gives_a_model_its_graph_encoder(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = arguments_of(folder, out="gcpnet", steps=2)[1:]
    main(["denoise", *arguments, "--sampling.jitter", "0.3"])
    record = json.loads(Path("gcpnet/training.json").read_text())
    assert 0 < record["validation"]["noise/valid"] < 2
    model = small_model()
    load_encoder(model, "gcpnet")
    saved = load_file("gcpnet/gcpnet.safetensors")
    assert all(torch.equal(v, saved[k]) for k, v in model.graph_encoder.state_dict().items())
    main(["fit", *arguments, "--run.out", "tiny", "--training.gcpnet", "gcpnet", "--training.lr", "0"])
    exported = load("tiny").model.graph_encoder.state_dict()
    assert all(torch.equal(v, saved[k]) for k, v in exported.items())
    other = small_model(layers=2)
    for bad, message in (("gcpnet", "another size"), ("nowhere", "denoise")):
        with pytest.raises(InputError, match=message):
            load_encoder(other, bad)


def test_told_noise_turns_with_the_chain():
    torch.manual_seed(0)
    model = small_model(local_frames=True)
    task = DenoisingTask(model, (16, 4), Training(), noise=1.0)
    mask, types = torch.ones(1, 30, dtype=torch.bool), torch.zeros(1, 30, dtype=torch.long)
    coords, turn = torch.from_numpy(random_chain(30, 1))[None], rand_matrix()
    told = [task.head(*task.encoder.embed(model.graph(x, mask, types)))[1] for x in (coords, coords @ turn.T)]
    assert told[0].abs().max() > 1e-3
    torch.testing.assert_close(told[0] @ turn.T, told[1], atol=1e-4, rtol=1e-3)
