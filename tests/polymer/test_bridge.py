"""Bridges over missing residues start and land where they should, without jumps."""

import numpy as np
import pytest
import torch

from structok.polymer.bridge import Pieces, fill_missing
from structok.polymer.chain import chain_steps


@pytest.fixture(scope="module")
def steps(chain_vq):
    return chain_vq.model.bonded


def gapped(chain, start, stop):
    coords = torch.from_numpy(chain.coords.copy())
    coords[start:stop] = torch.nan
    return coords, coords.isfinite().all(-1).all(-1)


@pytest.mark.parametrize("length", [1, 2, 3, 6, 15])
def test_a_gap_is_bridged_without_jumps(chain, steps, length):
    coords, mask = gapped(chain, 30, 30 + length)
    filled = fill_missing(coords, mask, Pieces.of(steps))
    assert torch.equal(filled[mask].float(), coords[mask])
    assert filled.isfinite().all()
    spacing = (filled[1:, 1] - filled[:-1, 1]).norm(dim=-1)[29 : 31 + length]
    assert spacing.min() > 2 and spacing.max() < 5.5
    error = torch.cdist(chain_steps(filled).flatten(1)[29 : 30 + length], steps.flatten(1)).min(1).values
    assert error.max() < 2.5


def test_a_bridge_does_not_depend_on_where_the_chain_lies(chain, steps):
    coords, mask = gapped(chain, 20, 27)
    turn = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]], dtype=torch.float64)
    moved = fill_missing(coords.double() @ turn.T + 25, mask, Pieces.of(steps))
    assert torch.allclose(moved, fill_missing(coords.double(), mask, Pieces.of(steps)) @ turn.T + 25, atol=1e-4)


def test_missing_ends_are_extended(chain, steps):
    coords, mask = gapped(chain, 0, 4)
    coords[-3:], mask[-3:] = torch.nan, False
    filled = fill_missing(coords, mask, Pieces.of(steps))
    spacing = (filled[1:, 1] - filled[:-1, 1]).norm(dim=-1)
    assert (spacing[:5] - 3.8).abs().max() < 0.4 and (spacing[-4:] - 3.8).abs().max() < 0.4


def test_a_gap_too_wide_leaves_one_long_step(chain, steps):
    coords, mask = gapped(chain, 40, 42)
    coords[42:] += 60
    filled = fill_missing(coords, mask, Pieces.of(steps))
    spacing = (filled[1:, 1] - filled[:-1, 1]).norm(dim=-1)[39:44].numpy()
    assert (np.sort(spacing)[:-1] < 4.5).all() and spacing[0] == spacing.max() > 30
