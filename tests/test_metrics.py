"""RMSD, TM-score and lDDT against biotite and against closed forms."""

import biotite.structure as struc
import numpy as np
import pytest
import torch

import structok
from structok import metrics
from structok.geometry import superpose


@pytest.fixture(scope="module")
def pair(chain):
    """The example chain and a noisy copy of it, moved."""
    random = np.random.default_rng(0)
    other = chain.coords + random.normal(scale=0.8, size=chain.coords.shape)
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    return chain, structok.Backbone(other @ turn.T + 30, chain.sequence)


def test_rmsd_agrees_with_biotite(pair):
    a, b = (s.to_atom_array() for s in pair)
    fitted, _ = struc.superimpose(a, b)
    assert metrics.rmsd(*pair) == pytest.approx(float(struc.rmsd(a, fitted)), rel=1e-4)
    a, b = (s[s.atom_name == "CA"] for s in (a, b))
    fitted, _ = struc.superimpose(a, b)
    assert metrics.rmsd_ca(*pair) == pytest.approx(float(struc.rmsd(a, fitted)), rel=1e-4)


def test_rmsd_of_moved_copies_is_zero_and_of_mirror_images_is_not(chain):
    assert metrics.rmsd(chain, chain.coords + 7) == pytest.approx(0, abs=1e-4)
    assert metrics.rmsd(chain, chain.coords * [1, 1, -1]) > 3


def test_metrics_use_only_residues_observed_in_both(pair):
    a, b = pair
    left, right = a.coords.copy(), b.coords.copy()
    left[3:6], right[10] = np.nan, np.nan
    keep = np.setdiff1d(np.arange(len(a)), [3, 4, 5, 10])
    assert metrics.rmsd(left, right) == pytest.approx(metrics.rmsd(a.coords[keep], b.coords[keep]))
    assert metrics.tm_score(left, right) == pytest.approx(metrics.tm_score(a.coords[keep], b.coords[keep]))


def test_batched_rmsd_equals_one_by_one():
    a, b = torch.randn(2, 4, 9, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.rand(4, 9, generator=torch.Generator().manual_seed(1)) < 0.7
    single = [metrics.rmsd_points(x[m], y[m]) for x, y, m in zip(a, b, mask)]
    assert torch.allclose(metrics.rmsd_points(a, b, mask), torch.stack(single))


@pytest.mark.parametrize("atoms", ["ca", "backbone"])
def test_lddt_agrees_with_biotite(pair, atoms):
    reference, subject = (s.to_atom_array() for s in pair)
    if atoms == "ca":
        reference, subject = (s[s.atom_name == "CA"] for s in (reference, subject))
    expected = struc.lddt(reference, subject, aggregation="all")
    assert metrics.lddt(pair[1], pair[0], atoms) == pytest.approx(float(expected), abs=2e-3)


def test_tm_score_agrees_with_biotite_for_its_superposition(pair):
    """biotite scores a given superposition; ours searches, so it can only be better."""
    reference, subject = (s.to_atom_array()[1::3] for s in pair)
    fitted, _ = struc.superimpose(reference, subject)
    index = np.arange(len(reference))
    given = struc.tm_score(reference, fitted, index, index)
    assert given - 1e-4 <= metrics.tm_score(pair[1], pair[0]) < given + 0.05


def test_tm_score_finds_the_domain_that_fits(chain):
    """Half of the chain is rigid, the other half swings away: the half that fits decides."""
    points = torch.from_numpy(chain.coords[:, 1]).double()
    n = len(points)
    bent = points.clone()
    bent[n // 2 :] = bent[n // 2 :] @ torch.tensor([[1.0, 0, 0], [0, -1, 0], [0, 0, -1]], dtype=torch.float64) + 60
    score = float(metrics.tm_points(bent, points))
    d0 = 1.24 * (n - 15) ** (1 / 3) - 1.8
    whole = (superpose(bent, points) - points).square().sum(-1)
    assert 0.49 < score < 0.6
    assert float((1 / (1 + whole / d0**2)).mean()) < 0.35


def test_tm_score_agrees_with_tmalign_scoring(pair):
    tmtools = pytest.importorskip("tmtools")
    assert hasattr(tmtools, "tm_align")
    a, b = (s.coords[:, 1].astype(float) for s in pair)
    result = tmtools.tm_align(b, a, pair[1].sequence, pair[0].sequence)
    assert metrics.tm_score(pair[1], pair[0]) == pytest.approx(result.tm_norm_chain2, abs=0.01)


def test_metrics_refuse_what_cannot_be_compared(chain):
    with pytest.raises(ValueError, match="same length"):
        metrics.rmsd(chain.coords[:5], chain.coords)
    with pytest.raises(ValueError, match="fewer than two"):
        metrics.rmsd(np.full((4, 3, 3), np.nan), np.zeros((4, 3, 3)))


def test_codebook_figures_on_known_cases():
    use = metrics.codebook_use([0, 0, 1, 1, 2, 2, 3, 3], 8)
    assert use == {"utilisation": 0.5, "entropy_bits": 2.0, "perplexity": 4.0}
    flat = torch.zeros(200, 6)
    flat[:, :2] = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    assert metrics.codebook_spread(flat)["effective_dimension"] == pytest.approx(2, abs=0.1)
    assert metrics.codebook_spread(flat.repeat(2, 1))["near_duplicates"] == 1
