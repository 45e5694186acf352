"""Training a decoder that reads anchors: what examples bring, what the losses see, and a short run."""

import itertools
import json
from pathlib import Path

import numpy as np
import torch
from e3nn.o3 import rand_matrix

from structok import Backbone, load
from structok.geometry import backbone_frames, invert, rigid
from structok.protein.decoder import backbone
from tests.train.protein.conftest import SMALL, arguments_of, random_chain
from train.protein.anchored import absolute_error, bond_error, local_error
from train.protein.data import Chains, Sampling, fixed_batches
from train.protein.fit import main
from train.protein.sketch import Sketcher

HERE = backbone_frames(backbone(torch.eye(4)))


def frames_and_target(length=40):
    target = torch.from_numpy(random_chain(length, 3))[None]
    return backbone_frames(target) @ invert(HERE), target, torch.ones(1, length, dtype=torch.bool)


def test_losses_vanish_for_the_chain_itself_and_see_what_they_should():
    frames, target, mask = frames_and_target()
    noisy = frames.clone()
    noisy[:, :, :3, 3] += 0.5 * torch.randn(1, 40, 3, generator=torch.Generator().manual_seed(0))
    for error, floor in ((local_error, 0.1), (absolute_error, 0.04), (bond_error, 0.25)):
        assert error(frames, target, mask) < floor < 0.3 < error(noisy, target, mask)
    moved = rigid(rand_matrix(), torch.tensor([5.0, 0.0, 0.0])) @ frames
    torch.testing.assert_close(local_error(moved, target, mask), local_error(frames, target, mask), atol=1e-4, rtol=0)
    assert absolute_error(moved, target, mask) > 2
    half = mask.clone()
    half[:, 20:] = False
    wrong = torch.where(half[..., None, None], frames, noisy)
    target = torch.where(half[..., None, None], target, torch.nan)
    assert all(f(wrong, target, half) < 0.25 for f in (local_error, absolute_error, bond_error))


def test_sketches_are_near_the_chain_in_any_frame():
    coords = torch.from_numpy(random_chain(90, 1)) + 100.0
    coords[16:18] = torch.nan
    rng = np.random.default_rng(0)
    found = []
    for _ in range(3):
        moved, anchors, radius = Sketcher()(coords, rng)
        seen = moved.isfinite().all((1, 2))
        assert moved[seen, 1].mean(0).abs().max() < 1e-3 and moved[seen, 1].norm(dim=-1).max() <= radius
        assert anchors.shape == (12, 3) and anchors.isnan().all(1).nonzero().flatten().tolist() == [2]
        off = (anchors - moved[::8, 1]).norm(dim=-1)
        assert 0 < off[off.isfinite()].mean() < 0.12 * radius
        found.append(anchors)
    assert not torch.allclose(found[0], found[1], equal_nan=True)


def test_windows_keep_their_anchors(folder):
    sampling = Sampling(crop=30, residues=200)
    for batch in itertools.islice(Chains(folder / "shards", sampling, sketcher=Sketcher()), 10):
        positions, known, radius = batch.anchors
        assert known.shape == (len(batch.mask), -(-batch.mask.shape[1] // 8))
        there = batch.target[:, ::8, 1].isfinite().all(-1)
        assert torch.equal(known, there)
        off = (positions - batch.target[:, ::8, 1]).norm(dim=-1)
        assert (off < 0.3 * radius[:, None])[known].all()
    [whole] = fixed_batches(folder / "shards", 5, 60, Sampling(), Sketcher())
    assert torch.equal(whole.anchors.known, whole.target[:, ::8, 1].isfinite().all(-1))


def test_fit_with_anchors(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = arguments_of(folder, steps=4)
    config = json.loads(Path("config.yaml").read_text())
    reach = {"reach": 8}
    config["model"] = SMALL | {
        "encoder": SMALL["encoder"] | reach,
        "decoder": SMALL["decoder"] | reach,
        "anchors": {"corrections": 2, "depth": 1},
    }
    Path("config.yaml").write_text(json.dumps(config))
    main([*arguments, "--training.continuous=2", "--training.average=0.5", "--training.lr=0.001"])
    record = json.loads((tmp_path / "tiny" / "training.json").read_text())
    assert record["steps"] == 4 and record["validation"]["rmsd/valid"] > 0
    for name in ("absolute", "local", "chained", "bonds", "quantizer", "consistency"):
        assert np.isfinite(record["validation"][f"loss/{name}"])
    tokenizer = load(tmp_path / "tiny")
    tokens = tokenizer.encode(Backbone(random_chain(30, 5)))
    assert len(tokens) == 30 and np.isfinite(tokenizer.decode(tokens).coords).all()
