"""The beam search on a problem small enough to enumerate: a wide beam is exhaustive."""

from itertools import product

import pytest
import torch

from structok.codebook.search import beam_search


class Sum:
    """Codes are step lengths; the cost is the squared distance of the running sum from a target path."""

    def __init__(self, targets, steps):
        self.targets, self.steps = targets, steps

    def candidates(self, state, step):
        reached = state[..., None] + self.steps
        codes = torch.arange(len(self.steps)).expand(reached.shape)
        return (reached - self.targets[:, step, None, None]) ** 2, codes

    def advance(self, state, step, parent, code):
        return state.gather(1, parent) + self.steps[code]


@pytest.fixture
def problem():
    targets = torch.randn(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).cumsum(1)
    return Sum(targets, torch.tensor([-1.3, -0.4, 0.5, 1.1], dtype=torch.float64))


def cost(problem, row, codes):
    return float(((problem.steps[list(codes)].cumsum(0) - problem.targets[row, : len(codes)]) ** 2).sum())


def test_a_wide_beam_is_exhaustive(problem):
    start = torch.zeros(5, 1, dtype=torch.float64)
    codes, found = beam_search(problem, start, torch.ones(5, 6, dtype=torch.bool), beam=4**6)
    for row in range(5):
        best = min(product(range(4), repeat=6), key=lambda c: cost(problem, row, c))
        assert tuple(codes[row].tolist()) == best
        assert float(found[row]) == pytest.approx(cost(problem, row, best))


def test_a_wider_beam_helps_and_beam_one_is_greedy(problem):
    start, active = torch.zeros(5, 1, dtype=torch.float64), torch.ones(5, 6, dtype=torch.bool)
    greedy, greedy_cost = beam_search(problem, start, active, beam=1)
    at = torch.zeros(5, dtype=torch.float64)
    for step in range(6):
        expected = (at[:, None] + problem.steps - problem.targets[:, step, None]).abs().argmin(1)
        assert torch.equal(greedy[:, step], expected)
        at = at + problem.steps[expected]
    _, wide_cost = beam_search(problem, start, active, beam=64)
    assert (wide_cost <= greedy_cost + 1e-12).all() and (wide_cost < greedy_cost).any()


def test_shorter_structures_are_the_same_alone_and_in_a_batch(problem):
    lengths = [6, 3, 1, 5, 2]
    active = torch.arange(6) < torch.tensor(lengths)[:, None]
    together, _ = beam_search(problem, torch.zeros(5, 1, dtype=torch.float64), active, beam=3)
    for row, n in enumerate(lengths):
        alone = Sum(problem.targets[row : row + 1, :n], problem.steps)
        codes, _ = beam_search(alone, torch.zeros(1, 1, dtype=torch.float64), active[row : row + 1, :n], beam=3)
        assert torch.equal(together[row, :n], codes[0]) and (together[row, n:] == -1).all()
