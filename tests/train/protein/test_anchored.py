"""The decoder that reads anchors is trained by the same loop."""

import numpy as np
import torch

import structok
from structok.polymer.anchors import load_points
from structok.protein.losses import bond_error, position_error, relative_error
from tests.train.protein.conftest import arguments_of, random_chain
from train.protein.anchored import make_anchors
from train.protein.fit import main

ANCHORED = [
    "--model.graph.reach", "12", "--model.decoder.reach", "4", "--model.quantizer.unit", "true",
    "--model.anchors.corrections", "1", "--model.anchors.depth", "1",
    "--training.weights", "{}", "--training.adaptive", "false",
]  # fmt: skip


def test_fit_writes_a_tokenizer_that_reads_anchors(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main([*arguments_of(folder), *ANCHORED, "--training.continuous", "2", "--run.steps", "5"])
    tokenizer = structok.load(str(tmp_path / "tiny"))
    tokens = tokenizer.encode(structok.Backbone(random_chain(40, 5)))
    assert len(tokens.anchors) == 5 and tokens.radius is not None
    assert np.isfinite(tokenizer.decode(tokens).coords).all()


def test_made_up_anchors_lie_near_their_residues():
    torch.manual_seed(0)
    x = torch.from_numpy(np.stack([random_chain(64, seed) for seed in (1, 2)])).float()
    mask = torch.ones(2, 64, dtype=torch.bool)
    mask[1, 40:] = False
    made = make_anchors(x, mask, 8, load_points())
    assert torch.equal(made.known, mask[:, ::8])
    off = (made.positions - x[:, ::8, 1]).norm(dim=-1)[made.known]
    spacing = made.radius.max() * (4 / 3 * torch.pi / 4096) ** (1 / 3)
    assert off.max() < 4 * spacing


def test_losses_are_zero_for_the_truth_and_see_what_they_should():
    x = torch.from_numpy(random_chain(30, 1)).float()[None]
    mask = torch.ones(1, 30, dtype=torch.bool)
    for loss in (relative_error, position_error, bond_error):
        assert loss(x, x, mask) < 0.02
    moved = x + torch.tensor([1.0, 2.0, 3.0])
    assert relative_error(moved, x, mask) < 0.02 and bond_error(moved, x, mask) < 0.02
    assert position_error(moved, x, mask) > 3
    mirrored = x * torch.tensor([-1.0, 1.0, 1.0])
    assert relative_error(mirrored, x, mask) > 0.5 and bond_error(mirrored, x, mask) < 0.02
