import pytest
import torch
from e3nn import o3

from structok.geometry import apply, rigid
from structok.protein.features import NODE_SCALARS, RESIDUES, build_graph, residue_types


@pytest.fixture
def batch():
    """Two random chains (float64) of 20 slots with gaps and padding."""
    torch.manual_seed(0)
    coords = torch.randn(2, 20, 3, 3, dtype=torch.float64)
    coords[:, :, 1:] += 1.5
    coords = coords + 3.8 * torch.randn(2, 20, 1, 3, dtype=torch.float64).cumsum(1)
    mask = torch.ones(2, 20, dtype=torch.bool)
    mask[0, 7:9] = False
    mask[1, 15:] = False
    return coords, mask, torch.randint(0, 20, (2, 20))


def test_shapes_and_one_hot(batch):
    coords, mask, types = batch
    graph = build_graph(coords, mask, types, neighbours=4)
    nodes = int(mask.sum())
    assert graph.node_scalar.shape == (nodes, NODE_SCALARS)
    assert graph.edge_index.shape == (2, 4 * nodes)
    assert torch.equal(graph.node_scalar[:, 16:39].argmax(1), types[mask])
    assert torch.equal(graph.slot, mask.flatten().nonzero()[:, 0])
    assert (build_graph(coords, mask).node_scalar[:, 16:39] == 0).all()


def test_residue_letters():
    assert residue_types("ACY").tolist() == [0, 2, 22]
    assert (residue_types("UOBZ-x") == RESIDUES.index("X")).all()


@pytest.mark.parametrize("local_frames", [False, True])
def test_scalars_stay_and_vectors_turn(batch, local_frames):
    coords, mask, types = batch
    turn = o3.rand_matrix(dtype=torch.float64)
    moved = apply(rigid(turn, 9 * torch.randn(3, dtype=torch.float64)), coords.flatten(1, 2)).view_as(coords)
    before, after = (build_graph(x, mask, types, local_frames=local_frames) for x in (coords, moved))
    for name in ("node_scalar", "edge_index", "edge_distance"):
        torch.testing.assert_close(getattr(after, name), getattr(before, name))
    for name in ("node_vector", "edge_vector", "edge_frame"):
        torch.testing.assert_close(getattr(after, name), getattr(before, name) @ turn.T)


def test_mirror_image_flips_dihedrals(batch):
    coords, mask, types = batch
    before, after = (build_graph(x, mask, types).node_scalar[:, 39:] for x in (coords, -coords))
    torch.testing.assert_close(before[:, 0::2], after[:, 0::2])  # cosines, and kappa
    torch.testing.assert_close(before[:, [1, 5, 7, 9]], -after[:, [1, 5, 7, 9]])


def test_a_chain_does_not_see_its_batch(batch):
    coords, mask, types = batch
    both = build_graph(coords, mask, types, neighbours=5)
    alone = build_graph(coords[1:, :15], mask[1:, :15], types[1:, :15], neighbours=5)
    first = int(mask[0].sum())
    for name in ("node_scalar", "node_vector"):
        torch.testing.assert_close(getattr(both, name)[first:], getattr(alone, name))
    assert torch.equal(both.edge_index[:, 5 * first :] - first, alone.edge_index)
    torch.testing.assert_close(both.edge_frame[5 * first :], alone.edge_frame)


def test_nothing_reaches_over_a_gap(batch):
    coords, mask, types = batch
    changed = coords.clone()
    changed[0, 7:9] = torch.nan
    a, b = (build_graph(x, mask, types) for x in (coords, changed))
    torch.testing.assert_close(a.node_scalar, b.node_scalar)
    torch.testing.assert_close(a.node_vector, b.node_vector)
    angles = a.node_scalar[:, 39:].unflatten(1, (5, 2))
    undefined = torch.tensor([1.0, 0.0], dtype=torch.float64)
    # residue 6 is the last before the gap: no alpha, kappa, psi, omega; residue 9 the first after: no phi
    assert (angles[6, [0, 1, 3, 4]] == undefined).all() and (angles[7, [0, 1, 2]] == undefined).all()
    assert (angles[6, 2] != undefined).all() and (angles[7, 3] != undefined).all()
    assert (a.node_vector[6, 0] == 0).all() and (a.node_vector[7, 1] == 0).all()
    assert (a.node_vector[6, 1] != 0).all() and (a.node_vector[7, 0] != 0).all()


def test_local_frames_do_not_change_when_the_chain_is_cropped(batch):
    coords, mask, _ = batch
    whole = build_graph(coords[:1], mask[:1], neighbours=3, local_frames=True)
    cropped = build_graph(coords[:1, :17], mask[:1, :17], neighbours=3, local_frames=True)
    pairs = {tuple(e): f for e, f in zip(whole.edge_index.T.tolist(), whole.edge_frame)}
    shared = [
        (f, pairs[tuple(e)]) for e, f in zip(cropped.edge_index.T.tolist(), cropped.edge_frame) if tuple(e) in pairs
    ]
    assert len(shared) > 20
    for a, b in shared:
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_tiny_chains(length):
    graph = build_graph(torch.randn(1, length, 3, 3), torch.ones(1, length, dtype=torch.bool))
    assert graph.node_scalar.isfinite().all()
    assert graph.edge_index.shape == (2, length * (length - 1))


def test_reach_keeps_neighbours_along_the_chain(batch):
    coords, mask, types = batch
    graph = build_graph(coords, mask, types, neighbours=6, reach=4)
    slot = graph.slot[graph.edge_index]
    chain, place = slot // 20, slot % 20
    assert (chain[0] == chain[1]).all() and (place[0] != place[1]).all()
    assert ((place[0] - place[1]).abs() <= 4).all()
    everyone = build_graph(coords, mask, types, neighbours=6, reach=40).edge_index
    pairs = [
        set(map(tuple, edges.T.tolist()))
        for edges in (everyone, build_graph(coords, mask, types, neighbours=6).edge_index)
    ]
    assert pairs[0] == pairs[1]


def test_without_positions_a_graph_does_not_know_where_it_starts(batch):
    coords, mask, types = batch
    graph = build_graph(coords, mask, types, positions=False)
    assert (graph.node_scalar[:, :16] == 0).all()
    torch.testing.assert_close(graph.node_scalar[:, 16:], build_graph(coords, mask, types).node_scalar[:, 16:])
