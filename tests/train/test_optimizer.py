"""Muon and AdamW as one optimiser."""

import pytest
import torch
from torch import nn

from train.optimizer import MuonAdamW


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 48), nn.ReLU(), nn.Linear(48, 33), nn.Linear(33, 3))


def steps(model, optimizer, count, seed):
    torch.manual_seed(seed)
    for _ in range(count):
        x = torch.randn(64, 40)
        loss = (model(x) - x[:, :3].sin()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def make(model):
    return MuonAdamW(model.parameters(), 1e-2, (0.9, 0.98), 1e-2)


def test_matrices_go_to_muon_and_everything_is_moved_once(model):
    optimizer = make(model)
    moved = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(moved) == len({id(p) for p in moved}) == len(list(model.parameters()))
    assert {tuple(p.shape) for p in optimizer.matrices} == {(48, 40), (33, 48)}


def test_a_step_of_a_matrix_is_nearly_orthogonal(model):
    optimizer = MuonAdamW(model.parameters(), 1e-2, (0.9, 0.98), 0.0)
    before = model[0].weight.detach().clone()
    steps(model, optimizer, 1, 1)
    singular = torch.linalg.svdvals(model[0].weight.detach() - before)
    assert singular.max() < 2.5 * singular.min()  # of a plain gradient step the ratio is in the hundreds


def test_it_learns(model):
    optimizer = make(model)
    first = steps(model, optimizer, 1, 0)
    assert steps(model, optimizer, 200, 1) < first / 3


def test_a_schedule_moves_both(model):
    optimizer = make(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    before = [p.detach().clone() for p in model.parameters()]
    steps(model, optimizer, 2, 0)
    schedule.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


def test_going_on_from_a_saved_state_is_going_on(model, tmp_path):
    optimizer = make(model)
    steps(model, optimizer, 5, 0)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    steps(model, optimizer, 5, 1)
    straight = [p.detach().clone() for p in model.parameters()]
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    model.load_state_dict(saved["model"])
    other = make(model)
    other.load_state_dict(saved["optimizer"])
    steps(model, other, 5, 1)
    assert all(torch.equal(a, b) for a, b in zip(straight, model.parameters()))
