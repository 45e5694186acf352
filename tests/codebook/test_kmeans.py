"""k-means finds planted clusters, never gets worse, and repeats itself for a seed."""

import pytest
import torch

from structok.codebook.kmeans import centroids, kmeans, spread_seeds


@pytest.fixture
def blobs():
    generator = torch.Generator().manual_seed(0)
    centres = 20 * torch.randn(12, 5, generator=generator)
    sizes = torch.arange(12) ** 2 + 20  # very unequal
    return centres, centres.repeat_interleave(sizes, 0) + 0.1 * torch.randn(int(sizes.sum()), 5, generator=generator)


def test_finds_planted_clusters(blobs):
    centres, points = blobs
    codes = kmeans(points, 12, generator=torch.Generator().manual_seed(1))
    assert torch.cdist(centres, codes).min(1).values.max() < 0.15


def test_error_never_rises_and_the_seed_decides(blobs):
    errors = []
    first = kmeans(blobs[1], 6, generator=torch.Generator().manual_seed(3), report=lambda _, e: errors.append(e))
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0]
    assert torch.equal(first, kmeans(blobs[1], 6, generator=torch.Generator().manual_seed(3)))


def test_seeds_avoid_what_is_known(blobs):
    centres, points = blobs
    seeds = spread_seeds(points, 2, torch.Generator().manual_seed(0), known=centres[:10])
    assert set(torch.cdist(seeds, centres).argmin(1).tolist()) == {10, 11}


def test_centroids_keep_codes_that_nothing_chose():
    codes = torch.tensor([[0.0], [10.0], [20.0]])
    moved = centroids(torch.tensor([[1.0], [3.0], [12.0]]), torch.tensor([0, 0, 1]), codes)
    assert moved.tolist() == [[2.0], [12.0], [20.0]]


def test_refuses_fewer_vectors_than_codes():
    with pytest.raises(ValueError, match="3 vectors"):
        kmeans(torch.zeros(3, 2), 4)
