import pytest
import torch
from e3nn import o3

from structok.geometry import apply, invert, rigid
from structok.protein.anchored import AnchoredDecoder, superpose_locally, turn

LENGTH, SPACING = 50, 8


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    net = AnchoredDecoder(6, 64, 1, 1, 1, 2, corrections=2, correction_depth=1, reach=4, spacing=SPACING).double()
    for correction in net.corrections:  # as if they had learned something
        torch.nn.init.normal_(correction.out.weight, std=0.05)
    return net


@pytest.fixture
def chain():
    """Code vectors, mask, anchors, which are known, radius of two chains."""
    torch.manual_seed(1)
    mask = torch.ones(2, LENGTH, dtype=torch.bool)
    mask[0, 20:23] = False
    mask[1, 41:] = False
    anchors = (3 * torch.randn(2, -(-LENGTH // SPACING), 3, dtype=torch.float64)).cumsum(1)
    known = mask[:, ::SPACING].clone()
    return torch.randn(2, LENGTH, 6, dtype=torch.float64), mask, anchors, known, torch.tensor([20.0, 30.0])


def motion():
    return rigid(o3.rand_matrix(dtype=torch.float64), 20 * torch.randn(3, dtype=torch.float64))


def test_frames_turn_with_the_anchors(decoder, chain):
    vectors, mask, anchors, known, radius = chain
    move = motion()
    before = decoder(vectors, mask, anchors, known, radius).frames
    after = decoder(vectors, mask, apply(move, anchors), known, radius).frames
    torch.testing.assert_close(after[mask], (move @ before)[mask], rtol=1e-6, atol=1e-6)


def test_mirrored_anchors_give_no_mirrored_chain(decoder, chain):
    vectors, mask, anchors, known, radius = chain
    flip = torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
    before = decoder(vectors, mask, anchors, known, radius).frames
    after = decoder(vectors, mask, anchors * flip, known, radius).frames
    torch.testing.assert_close(torch.linalg.det(after[mask][:, :3, :3]), torch.ones(int(mask.sum())).double())
    assert (after[mask][:, :3, 3] * flip - before[mask][:, :3, 3]).norm(dim=-1).mean() > 0.5


def test_padding_and_missing_residues_do_not_matter(decoder, chain):
    vectors, mask, anchors, known, radius = chain
    alone = decoder(vectors[1:, :41], mask[1:, :41], anchors[1:, :6], known[1:, :6], radius[1:]).frames
    noise = torch.where(mask[..., None], vectors, 5.0)
    torch.testing.assert_close(decoder(noise, mask, anchors, known, radius).frames[1:, :41], alone)


def test_unknown_anchors_are_not_read(decoder, chain):
    vectors, mask, anchors, known, radius = chain
    none = torch.zeros_like(known)
    one, other = (decoder(vectors, mask, a, none, radius) for a in (anchors, anchors + 7))
    torch.testing.assert_close(one.frames, other.frames)
    torch.testing.assert_close(one.chained, decoder(vectors, mask, anchors, known, radius).chained)


def test_exact_anchors_pose_an_exact_chain(chain):
    _, mask, _, known, _ = chain
    torch.manual_seed(2)
    frames = rigid(o3.rand_matrix(LENGTH).double(), (3 * torch.randn(LENGTH, 3).double()).cumsum(0)).expand(2, -1, 4, 4)
    move = motion()
    anchors = apply(move, frames[:, ::SPACING, :3, 3])
    found = superpose_locally(frames, mask, anchors, known, SPACING)
    torch.testing.assert_close(found, move.expand_as(found), rtol=1e-6, atol=1e-6)


def test_one_wrong_anchor_moves_the_chain_little(chain):
    _, mask, _, known, _ = chain
    torch.manual_seed(3)
    frames = rigid(o3.rand_matrix(LENGTH).double(), (3 * torch.randn(LENGTH, 3).double()).cumsum(0)).expand(2, -1, 4, 4)
    anchors = frames[:, ::SPACING, :3, 3].clone()
    anchors[:, 3] += 30.0
    found = superpose_locally(frames, mask, anchors, known, SPACING) @ frames
    assert (found - frames)[..., :3, 3].norm(dim=-1)[mask].median() < 1.0


def test_both_sides_of_a_gap_lie_on_their_own_anchors():
    torch.manual_seed(4)
    length, gap = 120, 60
    true = rigid(o3.rand_matrix(length).double(), (3 * torch.randn(length, 3).double()).cumsum(0))[None]
    mask = torch.ones(1, length, dtype=torch.bool)
    mask[0, gap] = False
    chain = torch.cat([true[:, :gap], motion() @ true[:, gap:]], 1)  # nothing says where the chain goes on
    anchors = true[:, ::SPACING, :3, 3]
    known = mask[:, ::SPACING]
    found = superpose_locally(chain, mask, anchors, known, SPACING) @ chain
    assert (found - true)[..., :3, 3].norm(dim=-1)[mask].max() < 0.5
    blind = superpose_locally(chain, torch.ones_like(mask), anchors, known, SPACING) @ chain
    assert (blind - true)[..., :3, 3].norm(dim=-1)[mask].max() > 2.0


def test_no_anchors_no_motion(chain):
    _, mask, anchors, known, _ = chain
    frames = motion().expand(2, LENGTH, 4, 4)
    still = superpose_locally(frames, mask, anchors, torch.zeros_like(known), SPACING)
    assert torch.equal(still, torch.eye(4).double().expand_as(still))


def test_turn_is_a_rotation():
    q = torch.randn(9, 3).double()
    r = turn(q)
    torch.testing.assert_close(r @ r.mT, torch.eye(3).double().expand_as(r))
    torch.testing.assert_close(torch.linalg.det(r), torch.ones(9).double())
    torch.testing.assert_close(invert(rigid(r, q))[:, :3, :3], turn(-q))
