"""The Markov prior over codes: proper probabilities, learned from sequences."""

import math

import torch

from structok.codebook.prior import learn_prior


def sequences(n, seed=0):
    """Codes 0..7 in two groups; a group is mostly followed by the other one's first code."""
    generator = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(n):
        codes = [0]
        while len(codes) < 100:
            likely = 4 if codes[-1] < 4 else 0
            free = int(torch.randint(8, (), generator=generator))
            codes.append(likely if torch.rand((), generator=generator) < 0.8 else free)
        out.append(torch.tensor(codes))
    return out


GROUP = torch.arange(8) // 4


def test_rows_are_probabilities_even_of_codes_never_seen():
    prior = learn_prior([torch.tensor([0, 1, 0, 1])], GROUP)
    torch.testing.assert_close(torch.exp2(-prior.bits).sum(1), torch.ones(3))
    assert prior.bits.isfinite().all() and prior.bits[0, 7] > prior.bits[0, 1]


def test_transitions_are_found_and_price_unseen_sequences_well():
    prior = learn_prior(sequences(200), GROUP)
    likely, other = 0.8 + 0.2 / 8, 0.2 / 8
    truth = -likely * math.log2(likely) - 7 * other * math.log2(other)
    assert abs(prior.cross_entropy(sequences(50, seed=1)) - truth) < 0.05
    assert prior.bits[0].argmin() == 4 and prior.bits[1].argmin() == 0
