import torch
from e3nn import o3

from structok.geometry import apply, kabsch
from structok.polymer.shaping import shape_anchors


def chain(n=40):
    torch.manual_seed(0)
    x = (4 * torch.randn(n, 3, dtype=torch.float64)).cumsum(0)
    x = 30 * x / x.norm(dim=-1).max()
    points = 30 * torch.rand(4000, 3, dtype=torch.float64) * 2 - 30
    return x, points[torch.cdist(x, points).topk(16, largest=False).indices]


def pose_error(x, chosen, width=9):
    """How far stretches are moved by their superposition on the points, Å."""
    weight, off = torch.exp(-0.5 * ((torch.arange(width).double() - width // 2) / 2) ** 2), []
    for start in range(len(x) - width + 1):
        some = slice(start, start + width)
        move = kabsch(x[some], chosen[some], weight)
        off.append((apply(move, x[some]) - x[some]).norm(dim=-1) @ weight / weight.sum())
    return float(torch.stack(off).mean())


def test_stretches_lie_better_than_on_the_nearest_points():
    x, candidates = chain()
    pick = shape_anchors(x, candidates)
    chosen = candidates[torch.arange(len(x)), pick]
    assert pose_error(x, chosen) < 0.85 * pose_error(x, candidates[:, 0])


def test_choice_turns_with_the_chain():
    x, candidates = chain()
    turn = o3.rand_matrix(dtype=torch.float64)
    assert torch.equal(shape_anchors(x, candidates), shape_anchors(x @ turn.T + 3, candidates @ turn.T + 3))


def test_exact_points_are_taken():
    x, candidates = chain()
    candidates = torch.cat([x[:, None], candidates], 1)
    assert (shape_anchors(x, candidates) == 0).all()


def test_short_rows():
    for n in (0, 1, 2):
        x, candidates = chain()
        assert len(shape_anchors(x[:n], candidates[:n])) == n
