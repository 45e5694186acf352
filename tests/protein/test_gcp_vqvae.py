"""The faithful model against the published one's activations, and what a tokenizer must keep."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from e3nn import o3
from safetensors.torch import load_file
from torch.nn.utils.rnn import pad_sequence

from structok import Backbone, load
from structok.errors import CheckpointError, InputError, StructokError, TokensError
from structok.geometry import apply, kabsch, rigid
from structok.metrics import rmsd
from structok.polymer.chain import chain_steps
from structok.protein.convert import convert
from structok.protein.decoder import backbone, chain_frames, frames_from_numbers
from structok.protein.features import RESIDUES, build_graph
from structok.protein.losses import aligned_mse, backbone_distance, window_fape
from structok.protein.model import PRESETS, GCPVQVAEConfig, GCPVQVAEModel, StepFeatures
from structok.protein.tokenizer import GCPVQVAE
from structok.tokens import Tokens

ROOT = Path(__file__).parents[2]
REFERENCE = Path(os.environ.get("STRUCTOK_SHARED", ROOT.parent / "shared")) / "reference" / "gcp_vqvae"
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="no reference activations here")

TINY = GCPVQVAEConfig(
    codebook_size=128,
    code_dim=8,
    max_length=64,
    neighbours=6,
    gcp_layers=1,
    node_scalars=32,
    node_vectors=4,
    edge_scalars=8,
    edge_vectors=4,
    encoder_dim=32,
    encoder_depth=1,
    encoder_heads=2,
    encoder_kv_heads=1,
    decoder_dim=48,
    decoder_depth=1,
    decoder_heads=2,
    decoder_kv_heads=1,
    dead_below=0.0,
)
HEADS = ["absolute", "chained"]


# t, x, y of steps along a helix and a strand of ideal geometry
STEPS = torch.tensor(
    [
        [-3.572, 0.899, 0.964, -0.402, 0.249, -0.881, 0.913, 0.031, -0.408],
        [-3.572, -0.847, -1.01, -0.315, -0.939, 0.139, 0.946, -0.299, 0.126],
    ]
)


def random_chain(length, seed=0, gaps=()):
    """Stretches of helix and strand, each step a little different."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.rand(length // 6 + 1, generator=generator).round().long().repeat_interleave(6)[:length]
    numbers = STEPS[kind] + 0.15 * torch.randn(length, 9, generator=generator)
    frames = chain_frames(frames_from_numbers(numbers)[None], torch.ones(1, length, dtype=torch.bool))
    coords = backbone(frames)[0].numpy()
    coords[list(gaps)] = np.nan
    letters = np.random.default_rng(seed).choice(list("ACDEFGHIKLMNPQRSTVWYX"), length)
    return Backbone(coords, "".join(letters))


def tiny_model(seed=0, **options):
    """A random model whose codebook lies among its latents."""
    torch.manual_seed(seed)
    model = GCPVQVAEModel(dataclasses.replace(TINY, **options)).eval()
    graph, mask = inputs(model, [random_chain(60, seed=i) for i in range(20, 26)])
    with torch.no_grad():
        model.quantizer.initialise_(model.encode(graph, mask)[mask])
    return model


def inputs(model, chains, dtype=torch.float32):
    from structok.protein.features import residue_types

    coords = pad_sequence([torch.from_numpy(c.coords).to(dtype) for c in chains], True, torch.nan)
    types = pad_sequence([residue_types(c.sequence) for c in chains], True)
    mask = pad_sequence([torch.from_numpy(c.mask) for c in chains], True)
    return model.graph(coords, mask, types), mask


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


# --- parity ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def expected():
    return load_file(REFERENCE / "expected.safetensors")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return load(convert(REFERENCE, tmp_path_factory.mktemp("gcp") / "published"))


@pytest.fixture(scope="module")
def batch(expected):
    """The reference's chains as a padded batch."""
    chain = expected["input.batch"]
    parts = [chain == i for i in range(int(chain.max()) + 1)]
    coords = pad_sequence([expected["input.coords_n_ca_c"][p] for p in parts], True)
    types = pad_sequence([expected["input.residue_type"][p] for p in parts], True)
    return coords, expected["mask"], types


@pytest.fixture(scope="module")
def graph(batch, published):
    return build_graph(*batch, neighbours=published.config.neighbours, origin_padding=True)


def _edge_order(edges):
    return (edges[0] * (int(edges.max()) + 1) + edges[1]).argsort()


@needs_reference
def test_parity_of_features(expected, graph):
    assert relative(graph.node_scalar, expected["feature.node_scalar"]) < 1e-5
    assert relative(graph.node_vector, expected["feature.node_vector"]) < 1e-5
    ours, theirs = _edge_order(graph.edge_index), _edge_order(expected["feature.edge_index"])
    assert torch.equal(graph.edge_index[:, ours], expected["feature.edge_index"][:, theirs])
    assert relative(graph.edge_distance[ours], expected["feature.edge_scalar"][theirs, 0]) < 1e-5
    assert relative(graph.edge_vector[ours], expected["feature.edge_vector"][theirs]) < 1e-5


@needs_reference
@torch.no_grad()
def test_parity_of_activations_codes_and_coordinates(expected, graph, published):
    model, mask = published.model, expected["mask"]
    nodes = model.graph_encoder(graph)
    assert relative(nodes, expected["gcpnet.node_embedding"]) < 1e-4
    blocks = model.encoder(pad_sequence(model.into(nodes).split(mask.sum(1).tolist()), True), mask)
    assert relative(blocks[mask], expected["encoder_blocks"][mask]) < 1e-4
    latents = model.encode(graph, mask)
    assert relative(latents[mask], expected["pre_vq"].mT[mask]) < 1e-4
    quantized = model.quantizer(latents, mask)
    assert torch.equal(quantized.codes, expected["indices"])
    assert relative(quantized.vectors[mask], expected["vq.0"][mask]) < 1e-4
    assert relative(model.decode(quantized.codes)[mask], expected["coords"].unflatten(-1, (3, 3))[mask]) < 1e-4


@needs_reference
def test_parity_through_the_tokenizer(expected, batch, published):
    """The batch's longest chain sees no padding in the published code, so it can be encoded by itself."""
    coords, mask, types = batch
    longest = int(mask.sum(1).argmax())
    sequence = "".join(RESIDUES[i] for i in types[longest][mask[longest]])
    tokens = published.encode(Backbone(coords[longest][mask[longest]], sequence))
    assert np.array_equal(tokens.codes, expected["indices"][longest][mask[longest]])
    for i, codes in enumerate(expected["indices"]):
        rebuilt = published.decode(Tokens(codes[mask[i]].numpy()))
        assert relative(torch.from_numpy(rebuilt.coords), expected["coords"][i, mask[i]].view(-1, 3, 3)) < 1e-4


# --- symmetry -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("local_frames", [False, True])
@torch.no_grad()
def test_codes_are_invariant_and_mirrors_differ(head, local_frames):
    model = tiny_model(head=head, local_frames=local_frames).double()
    chain = random_chain(40, gaps=(0, 11, 12, 39))
    turn = rigid(o3.rand_matrix(dtype=torch.float64), 30 * torch.randn(3, dtype=torch.float64))
    coords, mask = torch.from_numpy(chain.coords)[None].double(), torch.from_numpy(chain.mask)[None]
    moved = apply(turn, coords.flatten(1, 2)).view_as(coords)
    types = torch.zeros_like(mask, dtype=torch.long)
    out = [model(model.graph(x, mask, types), mask) for x in (coords, moved, -coords)]
    assert relative(out[1].latents[mask], out[0].latents[mask]) < 1e-8
    assert torch.equal(out[1].codes, out[0].codes)
    assert (out[2].codes != out[0].codes)[mask].float().mean() > 0.3
    # the rebuilt chain, superposed on what was encoded, turns with it
    atoms = mask.repeat_interleave(3, 1)
    fits = [
        apply(kabsch(o.coords.flatten(1, 2), x.flatten(1, 2), atoms), o.coords.flatten(1, 2))[atoms]
        for o, x in zip(out, (coords, moved))
    ]
    torch.testing.assert_close(apply(turn, fits[0]), fits[1], rtol=1e-7, atol=1e-7)


# --- masks and batches ----------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
def test_batch_equals_one_by_one(head):
    tokenizer = GCPVQVAE(tiny_model(head=head), "tiny")
    chains = [random_chain(n, seed=n, gaps=g) for n, g in [(30, ()), (7, (0,)), (64, (10, 11)), (1, ()), (2, (1,))]]
    together = tokenizer.encode_batch(chains, batch_size=3)
    alone = [tokenizer.encode(c) for c in chains]
    assert together == alone
    rebuilt = tokenizer.decode_batch(together, batch_size=2)
    for chain, tokens, back in zip(chains, together, rebuilt):
        assert np.array_equal(tokens.codes >= 0, chain.mask) and np.array_equal(tokens.mask, chain.mask)
        assert np.array_equal(back.mask, chain.mask) and back.sequence == chain.sequence
        np.testing.assert_allclose(back.coords, tokenizer.decode(tokens).coords, atol=2e-4)


def test_missing_residues_influence_nothing():
    model = tiny_model()
    chain = random_chain(30, gaps=(4, 5, 29))
    mask = torch.from_numpy(chain.mask)[None]
    types = torch.where(mask, torch.zeros_like(mask, dtype=torch.long), 7)
    coords = torch.from_numpy(np.where(chain.mask[:, None, None], chain.coords, 55.0))[None]
    a = model.encode(model.graph(torch.from_numpy(chain.coords)[None], mask, torch.zeros_like(types)), mask)
    b = model.encode(model.graph(coords, mask, types), mask)
    assert torch.equal(a[mask], b[mask])


def test_residue_types_switch():
    chain = random_chain(20)
    other = Backbone(chain.coords, "W" * 20)
    blind, seeing = (GCPVQVAE(tiny_model(residue_types=flag)) for flag in (False, True))
    assert np.array_equal(blind.encode(chain).codes, blind.encode(other).codes)
    assert not np.array_equal(seeing.encode(chain).codes, seeing.encode(other).codes)


def test_chained_steps_cross_gaps_in_one():
    mask = torch.tensor([[False, True, True, False, False, True, True]])
    steps = frames_from_numbers(torch.randn(1, 7, 9, dtype=torch.float64))
    frames = chain_frames(steps, mask)[0]
    torch.testing.assert_close(frames[1], torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(frames[2], steps[0, 1])
    torch.testing.assert_close(frames[5], steps[0, 1] @ steps[0, 2])
    torch.testing.assert_close(frames[6], steps[0, 1] @ steps[0, 2] @ steps[0, 5])


# --- closed loop ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stepper():
    """A model whose codes are rigid steps: an untrained encoder, and a code for each of many steps."""
    torch.manual_seed(0)
    model = GCPVQVAEModel(dataclasses.replace(TINY, head="chained", decoder_depth=0, decoder_dim=9, code_dim=9)).eval()
    with torch.no_grad():
        # the steps are read off the codes: the head's perceptron is replaced by the identity
        model.quantizer.codebook.copy_(STEPS.repeat(64, 1) + 0.15 * torch.randn(128, 9))
        model.decoder.numbers = lambda vectors, mask=None: vectors
    return GCPVQVAE(model, "stepper")


def test_closed_loop_repairs_what_open_loop_cannot(stepper):
    chains = [random_chain(n, seed=n, gaps=g) for n, g in [(40, ()), (30, (9, 10)), (2, ()), (1, ())]]
    tokens = stepper.encode_batch(chains, closed_loop=True, beam=32, batch_size=3)
    assert tokens == [stepper.encode(c, closed_loop=True, beam=32) for c in chains]
    for chain, token in zip(chains, tokens):
        assert (token.codes >= 0).all() and np.array_equal(token.mask, chain.mask)
        assert np.array_equal(stepper.decode(token).mask, chain.mask)
    for chain, token in zip(chains[:2], tokens):  # the second through its gap
        assert rmsd(stepper.decode(token), chain) < 0.5
    assert rmsd(stepper.decode(stepper.encode(chains[0])), chains[0]) > 2


def test_closed_loop_finds_the_codes_of_its_own_chain(stepper):
    codes = np.random.default_rng(0).integers(0, 128, 50).astype(np.int32)
    codes[-1] = codes[-2]  # the last slot places nothing
    chain = stepper.decode(Tokens(codes))
    for weight in (0.0, 1.0):
        assert np.array_equal(stepper.encode(chain, closed_loop=True, latent_weight=weight).codes, codes)


def test_latent_weight_leads_to_open_loop(stepper):
    chain = random_chain(40, seed=3)
    opened = stepper.encode(chain).codes
    shares = [
        np.mean(stepper.encode(chain, closed_loop=True, latent_weight=w).codes == opened) for w in (0.0, 1.0, 1e9)
    ]
    assert shares[0] < shares[1] < shares[2] == 1
    with pytest.raises(InputError, match="at least 0"):
        stepper.encode(chain, closed_loop=True, latent_weight=-1)


def test_codes_place_the_next_residue(stepper):
    codes = np.array([5, 17, 99, 99], dtype=np.int32)
    back = torch.from_numpy(stepper.decode(Tokens(codes)).coords)
    torch.testing.assert_close(chain_steps(back), stepper.model.steps()[codes[:-1]].float(), atol=1e-4, rtol=0)


def test_step_features_resolve_near_poses_alike_and_set_far_ones_apart():
    torch.manual_seed(0)
    features = StepFeatures(64)
    pose = torch.cat([torch.randn(200, 3), torch.eye(3).flatten().expand(200, 9), torch.ones(200, 1)], 1)
    moved = pose.clone()
    moved[:, 0] += 0.1
    near = (features(moved) - features(pose)).norm(dim=1)
    # 32 frequencies of deviation 1 / BANDWIDTH turn 0.1 Å into this on average
    torch.testing.assert_close(near.mean(), torch.tensor(0.1 * 32**0.5 / features.BANDWIDTH), rtol=0.3, atol=0)
    moved[:, 0] += 20
    assert (features(moved) - features(pose)).norm(dim=1).min() > 10 * near.mean()
    pose[0, 12] = 0
    assert (features(pose)[0] == 0).all()


def test_next_step_reaches_the_latents_and_is_invariant():
    torch.manual_seed(0)
    model = GCPVQVAEModel(
        dataclasses.replace(TINY, head="chained", decoder_depth=0, next_step=True, local_frames=True)
    ).double()
    chain = random_chain(20, gaps=(7,))
    x = torch.from_numpy(chain.coords).double()[None]
    mask, types = torch.from_numpy(chain.mask)[None], torch.zeros(1, 20, dtype=torch.long)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    turn = turn * turn.det()
    latents, turned, mirrored = (
        model.encode(model.graph(y, mask, types), mask) for y in (x, x @ turn.T + 5, x * x.new_tensor([1.0, 1.0, -1.0]))
    )
    torch.testing.assert_close(latents[mask], turned[mask])
    assert (latents - mirrored)[mask].norm(dim=1)[:-1].median() > 0.1
    graph = model.graph(x, mask, types)
    alone = model.encode_steps(graph, mask)
    torch.testing.assert_close(alone[mask], latents[mask])  # GCPNet's part starts from nothing
    assert (alone[0, [6, 7, 19]] == 0).all()  # before the gap, in it, and at the end


def test_closed_loop_by_default_needs_local_steps():
    with pytest.raises(CheckpointError, match="decoder_depth 0"):
        dataclasses.replace(TINY, closed_loop=True)
    assert dataclasses.replace(TINY, head="chained", decoder_depth=0, closed_loop=True).local_steps


# --- training -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("options", [{}, {"rotation_trick": False, "orthogonal": 10.0}])
def test_gradients_reach_every_parameter(head, options):
    model = tiny_model(head=head, **options).train()
    chains = [random_chain(24), random_chain(31, seed=1, gaps=(3, 17, 18))]
    graph, mask = inputs(model, chains)
    true = pad_sequence([torch.from_numpy(c.coords) for c in chains], True)
    out = model(graph, mask)
    loss = aligned_mse(out.coords, true, mask) + window_fape(out.coords, true, mask)
    (loss.mean() + out.quantizer_loss).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(("head", "lr", "dims"), [("absolute", 3e-3, (64, 128)), ("chained", 2e-3, (32, 64))])
def test_two_chains_are_learned_by_heart(head, lr, dims):
    """Codes and all: below 0.5 Å within some hundred steps."""
    torch.manual_seed(0)
    encoder, decoder = dims
    sizes = {"codebook_size": 256, "code_dim": 16, "encoder_dim": encoder, "decoder_dim": decoder, "decoder_depth": 2}
    model = GCPVQVAEModel(dataclasses.replace(TINY, head=head, decay=0.9, dead_below=0.1, **sizes))
    chains = [random_chain(20, seed=1), random_chain(24, seed=2)]
    graph, mask = inputs(model, chains)
    true = pad_sequence([torch.from_numpy(c.coords) for c in chains], True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=500, pct_start=0.1)
    for _ in range(500):
        out = model(graph, mask)
        aligned = aligned_mse(out.coords, true, mask)
        if aligned.max() < 0.45**2:
            break
        if head == "chained":
            loss = window_fape(out.coords, true, mask) + 0.005 * aligned
        else:
            loss = 0.1 * (aligned + backbone_distance(out.coords, true, mask))
        optimizer.zero_grad()
        (loss.mean() + out.quantizer_loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    tokenizer = GCPVQVAE(model)
    for chain, back in zip(chains, tokenizer.decode_batch(tokenizer.encode_batch(chains))):
        assert rmsd(back, chain) < 0.5


@pytest.mark.parametrize("head", HEADS)
def test_bfloat16_autocast(head):
    model = tiny_model(head=head)
    graph, mask = inputs(model, [random_chain(24), random_chain(31, seed=1, gaps=(3, 17, 18))])
    exact = model(graph, mask)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model.train()(graph, mask)
    assert rough.coords.dtype == torch.float32
    assert relative(rough.latents[mask].float(), exact.latents[mask]) < 0.05
    rough.coords[mask].square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@torch.no_grad()
def test_compiles():
    model = tiny_model(head="chained")
    compiled = torch.compile(model, backend="eager")
    for lengths in ((24, 31), (20, 40)):
        graph, mask = inputs(model, [random_chain(n, seed=n, gaps=(5,)) for n in lengths])
        a, b = model(graph, mask), compiled(graph, mask)
        assert torch.equal(a.codes, b.codes)
        torch.testing.assert_close(a.coords[mask], b.coords[mask], rtol=1e-4, atol=1e-4)


# --- configurations and checkpoints ---------------------------------------------------------------------


@pytest.mark.parametrize(("preset", "millions"), [("large", 420), ("lite", 286)])
def test_published_sizes(preset, millions):
    with torch.device("meta"):
        model = GCPVQVAEModel(PRESETS[preset])
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.5)


def test_mini_fits_in_twenty_megabytes():
    with torch.device("meta"):
        tensors = GCPVQVAEModel(PRESETS["mini"]).state_dict()
    assert sum(t.numel() * t.element_size() for t in tensors.values()) < 19.98e6


def test_save_and_load(tmp_path):
    tokenizer = GCPVQVAE(tiny_model(), "tiny")
    tokenizer.save(tmp_path / "tiny")
    again = load(tmp_path / "tiny")
    assert again.config == tokenizer.config and again.name == "tiny" and again.modality == "protein"
    assert (again.codebook_size, again.max_length, again.device) == (128, 64, "cpu")
    chain = random_chain(33, gaps=(2,))
    assert again.encode(chain) == tokenizer.encode(chain)
    tokenizer.save(tmp_path / "half", half=True)
    small, large = ((tmp_path / n / "model.safetensors").stat().st_size for n in ("half", "tiny"))
    assert small < 0.55 * large
    assert (load(tmp_path / "half").encode(chain).codes == tokenizer.encode(chain).codes).mean() > 0.8


def test_loading_is_strict(tmp_path):
    import json

    from safetensors.torch import save_file

    folder = tmp_path / "tiny"
    GCPVQVAE(tiny_model()).save(folder)
    config, tensors = (
        json.loads((folder / "config.json").read_text()),
        load_file(folder / "model.safetensors"),
    )

    def fails(match, config=config, tensors=tensors):
        (folder / "config.json").write_text(json.dumps(config))
        save_file(tensors, folder / "model.safetensors")
        with pytest.raises(CheckpointError, match=match):
            load(folder)

    fails("unknown config keys.*'colour'", config={**config, "colour": 1})
    fails(r"missing config keys \['neighbours'\]", config={k: v for k, v in config.items() if k != "neighbours"})
    fails("'encoder_dim' must be int, not 'wide'", config={**config, "encoder_dim": "wide"})
    fails("'neighbours' cannot be 0", config={**config, "neighbours": 0})
    fails("head 'circular'", config={**config, "head": "circular"})
    fails("multiple of encoder_kv_heads", config={**config, "encoder_heads": 3, "encoder_kv_heads": 2})
    fails("'into.weight' is missing", tensors={k: v for k, v in tensors.items() if k != "into.weight"})
    fails("'extra' is unknown", tensors={**tensors, "extra": torch.zeros(1)})
    fails("'into.bias' has shape", tensors={**tensors, "into.bias": torch.zeros(3)})


def test_wrong_input_says_so():
    tokenizer = GCPVQVAE(tiny_model(), "tiny")
    with pytest.raises(InputError, match="65 residues, but tiny takes 64"):
        tokenizer.encode(random_chain(65))
    with pytest.raises(InputError, match="nothing to encode"):
        tokenizer.encode(np.full((4, 3, 3), np.nan))
    with pytest.raises(InputError, match="closed loop is impossible"):
        tokenizer.encode(random_chain(5), closed_loop=True)
    with pytest.raises(TokensError, match="code 128 at slot 1"):
        tokenizer.decode(Tokens(np.array([3, 128])))
    with pytest.raises(TokensError, match="no residue has a code"):
        tokenizer.decode(Tokens(np.array([-1, -1])))
    with pytest.raises(TokensError, match="made by 'other'"):
        tokenizer.decode(Tokens(np.array([1]), model="other"))
    with pytest.raises(StructokError, match="65 codes"):
        tokenizer.decode(Tokens(np.zeros(65, dtype=int)))
