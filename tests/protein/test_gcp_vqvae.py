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
from structok.checkpoint import make_config
from structok.errors import CheckpointError, InputError, StructokError, TokensError
from structok.geometry import apply, kabsch, rigid, scan
from structok.metrics import rmsd
from structok.protein.convert import convert
from structok.protein.decoder import backbone, chain_frames, frames_from_numbers
from structok.protein.features import RESIDUES, build_graph
from structok.protein.losses import aligned_mse, backbone_distance, window_fape
from structok.protein.model import (
    PRESETS,
    GCPVQVAEConfig,
    GCPVQVAEModel,
    GraphConfig,
    QuantizerConfig,
    TransformerConfig,
)
from structok.protein.tokenizer import GCPVQVAE
from structok.tokens import Tokens

ROOT = Path(__file__).parents[2]
REFERENCE = Path(os.environ.get("STRUCTOK_SHARED", ROOT.parent / "shared")) / "reference" / "gcp_vqvae"
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="no reference activations here")

TINY = GCPVQVAEConfig(
    codebook_size=128,
    max_length=64,
    graph=GraphConfig(6, layers=1, node_scalars=32, node_vectors=4, edge_scalars=8, edge_vectors=4),
    encoder=TransformerConfig(32, 1, 2, 1),
    quantizer=QuantizerConfig(8, dead_below=0.0),
    decoder=TransformerConfig(48, 1, 2, 1),
)


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
    coords = backbone(scan(frames_from_numbers(numbers))).numpy()
    coords[list(gaps)] = np.nan
    letters = np.random.default_rng(seed).choice(list("ACDEFGHIKLMNPQRSTVWYX"), length)
    return Backbone(coords, "".join(letters))


def changed(config=TINY, **parts):
    """The configuration with other values in its parts: `changed(graph={"layers": 2})`."""
    tree = dataclasses.asdict(config)
    for name, value in parts.items():
        tree[name] = tree[name] | value if isinstance(value, dict) else value
    return make_config(GCPVQVAEConfig, tree, "test")


def tiny_model(seed=0, **parts):
    """A random model whose codebook lies among its latents."""
    torch.manual_seed(seed)
    model = GCPVQVAEModel(changed(**parts)).eval()
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
    return build_graph(*batch, neighbours=published.config.graph.neighbours, origin_padding=True)


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


@pytest.mark.parametrize("local_frames", [False, True])
@torch.no_grad()
def test_codes_are_invariant_and_mirrors_differ(local_frames):
    model = tiny_model(graph={"local_frames": local_frames}).double()
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


def test_batch_equals_one_by_one():
    tokenizer = GCPVQVAE(tiny_model(), "tiny")
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
    blind, seeing = (GCPVQVAE(tiny_model(graph={"residue_types": flag})) for flag in (False, True))
    assert np.array_equal(blind.encode(chain).codes, blind.encode(other).codes)
    assert not np.array_equal(seeing.encode(chain).codes, seeing.encode(other).codes)


def test_steps_cross_gaps_in_one():
    mask = torch.tensor([[False, True, True, False, False, True, True]])
    steps = frames_from_numbers(torch.randn(1, 7, 9, dtype=torch.float64))
    frames = chain_frames(steps, mask)[0]
    torch.testing.assert_close(frames[1], torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(frames[2], steps[0, 1])
    torch.testing.assert_close(frames[5], steps[0, 1] @ steps[0, 2])
    torch.testing.assert_close(frames[6], steps[0, 1] @ steps[0, 2] @ steps[0, 5])


# --- training -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"rotation_trick": False, "orthogonal": 10.0}])
def test_gradients_reach_every_parameter(options):
    model = tiny_model(quantizer=options).train()
    chains = [random_chain(24), random_chain(31, seed=1, gaps=(3, 17, 18))]
    graph, mask = inputs(model, chains)
    true = pad_sequence([torch.from_numpy(c.coords) for c in chains], True)
    out = model(graph, mask)
    loss = aligned_mse(out.coords, true, mask) + window_fape(out.coords, true, mask)
    (loss.mean() + out.quantizer_loss).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_two_chains_are_learned_by_heart():
    """Codes and all: below 0.5 Å within some hundred steps."""
    torch.manual_seed(0)
    sizes = {"encoder": {"dim": 64}, "decoder": {"dim": 128, "depth": 2}}
    quantizer = {"dim": 16, "decay": 0.9, "dead_below": 0.1}
    model, lr = GCPVQVAEModel(changed(codebook_size=256, quantizer=quantizer, **sizes)), 3e-3
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
        loss = 0.1 * (aligned + backbone_distance(out.coords, true, mask))
        optimizer.zero_grad()
        (loss.mean() + out.quantizer_loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    tokenizer = GCPVQVAE(model)
    for chain, back in zip(chains, tokenizer.decode_batch(tokenizer.encode_batch(chains))):
        assert rmsd(back, chain) < 0.5


def test_bfloat16_autocast():
    model = tiny_model()
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
    model = tiny_model()
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
    fails(r"missing config keys \['graph'\]", config={k: v for k, v in config.items() if k != "graph"})
    for part, change, match in [
        ("encoder", {"width": 3}, "tiny, encoder: unknown config keys.*'width'"),
        ("encoder", {"dim": "wide"}, "'dim' must be int, not 'wide'"),
        ("graph", {"neighbours": 0}, "'neighbours' cannot be 0"),
        ("graph", {"residue_types": 1}, "'residue_types' must be bool, not 1"),
        ("graph", {"bottleneck": 3}, "bottleneck 3 does not divide"),
        ("encoder", {"heads": 3, "kv_heads": 2}, "multiple of kv_heads"),
    ]:
        fails(match, config={**config, part: config[part] | change})
    fails("'into.weight' is missing", tensors={k: v for k, v in tensors.items() if k != "into.weight"})
    fails("'extra' is unknown", tensors={**tensors, "extra": torch.zeros(1)})
    fails("'into.bias' has shape", tensors={**tensors, "into.bias": torch.zeros(3)})


def test_wrong_input_says_so():
    tokenizer = GCPVQVAE(tiny_model(), "tiny")
    with pytest.raises(InputError, match="65 residues, tiny takes 64"):
        tokenizer.encode(random_chain(65))
    with pytest.raises(InputError, match="at least 1"):
        tokenizer.encode(np.full((4, 3, 3), np.nan))
    with pytest.raises(InputError, match="open loop only"):
        tokenizer.encode(random_chain(5), closed_loop=True)
    with pytest.raises(TokensError, match="code 128 at 1 of the codes"):
        tokenizer.decode(Tokens(np.array([3, 128])))
    with pytest.raises(TokensError, match="no codes"):
        tokenizer.decode(Tokens(np.array([-1, -1])))
    with pytest.raises(TokensError, match="made by 'other'"):
        tokenizer.decode(Tokens(np.array([1]), model="other"))
    with pytest.raises(StructokError, match="65 codes"):
        tokenizer.decode(Tokens(np.zeros(65, dtype=int)))
