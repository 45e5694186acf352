"""Official folders, in all the shapes they come in, and what is refused."""

import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from structok import load
from structok.errors import CheckpointError
from structok.protein.convert import _official_name, convert, official_config
from structok.protein.model import GCPVQVAEModel

ROOT = Path(__file__).parents[2]
REFERENCE = Path(os.environ.get("STRUCTOK_SHARED", ROOT.parent / "shared")) / "reference" / "gcp_vqvae"
pytestmark = pytest.mark.skipif(not REFERENCE.is_dir(), reason="no official folder here")


@pytest.fixture
def source(tmp_path):
    """A writable copy of the official folder."""
    folder = tmp_path / "official"
    folder.mkdir()
    for file in [*REFERENCE.glob("*.yaml"), REFERENCE / "weights.safetensors"]:
        shutil.copyfile(file, folder / file.name)
    return folder


@pytest.fixture(scope="module")
def weights():
    return load_file(REFERENCE / "weights.safetensors")


def _edit(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_pickle_with_wrapper_prefixes_gives_the_same_model(source, weights, tmp_path):
    expected = load_file(convert(source, tmp_path / "a") / "model.safetensors")
    (source / "weights.safetensors").unlink()
    (source / "checkpoints").mkdir()
    nested = {
        k.replace("encoder.", "encoder.encoder.", 1) if k.startswith("encoder.") else k: v for k, v in weights.items()
    }
    for state in ({f"_orig_mod.{k}": v for k, v in weights.items()}, nested):
        content = {
            "model_state_dict": state,
            "epoch": 3,
            "optimizer_state_dict": {"state": {}, "param_groups": []},
        }
        torch.save(content, source / "checkpoints" / "best_valid.pth")
        out = convert(source, tmp_path / "a", force=True)
        found = load_file(out / "model.safetensors")
        assert found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in found)
    assert load(out).codebook_size == len(weights["vqvae.vector_quantizer._codebook.embed"][0])
    assert {p.name for p in out.iterdir()} == {"config.json", "model.safetensors", "README.md"}


def test_objects_are_never_unpickled(source, tmp_path):
    (source / "weights.safetensors").unlink()
    (source / "checkpoints").mkdir()
    file = source / "checkpoints" / "best_valid.pth"
    torch.save({"model_state_dict": {}, "config": Path("x")}, file)
    with pytest.raises(CheckpointError, match="not unpickled"):
        convert(source, tmp_path / "out")
    torch.save({"weights": {}}, file)
    with pytest.raises(CheckpointError, match="no tensors under 'model_state_dict'"):
        convert(source, tmp_path / "out")
    file.write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match=r"best_valid\.pth"):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_tensor_counts(source, weights, tmp_path):
    name = "vqvae.decoder.projector_in.weight"

    def fails(match, tensors):
        save_file(tensors, source / "weights.safetensors")
        with pytest.raises(CheckpointError, match=match):
            convert(source, tmp_path / "out")

    fails(f"{name}' is missing", {k: v for k, v in weights.items() if k != name})
    fails("'vqvae.surprise' is unknown", {**weights, "vqvae.surprise": torch.zeros(2)})
    fails("'decoder.into.weight' has shape", {**weights, name: torch.zeros(3, 5)})
    untrained = "vqvae.vector_quantizer._codebook.initted"
    fails("never initialised", {**weights, untrained: torch.tensor(False)})


@pytest.mark.parametrize(
    ("file", "old", "new", "match"),
    [
        (
            "config_vqvae.yaml",
            "use_ndlinear: false",
            "use_ndlinear: true",
            "use_ndlinear = True is not implemented",
        ),
        ("config_vqvae.yaml", "      codebook_size: 64\n", "", "codebook_size is missing"),
        ("config_vqvae.yaml", "codebook_size: 64", "codebook_size: many", "'many' is no int"),
        (
            "config_geometric_decoder.yaml",
            "causal: false",
            "causal: 'True'",
            "causal = True is not implemented",
        ),
        ("config_geometric_decoder.yaml", "depth: 2", "depth: 3", r"layers\.4.*' is missing"),
        ("config_gcpnet_encoder.yaml", "knn_16", "eps_8", "edge_types"),
        ("config_gcpnet_encoder.yaml", "default_bottleneck: 4", "default_bottleneck: 2", "disagree"),
        ("config_gcpnet_encoder.yaml", "features:", "features: [", "cannot be read"),
    ],
)
def test_options_that_are_not_implemented_are_named(source, tmp_path, file, old, new, match):
    _edit(source / file, old, new)
    with pytest.raises(CheckpointError, match=match):
        convert(source, tmp_path / "out")


def test_booleans_as_strings_and_missing_switches(source, tmp_path):
    _edit(source / "config_geometric_decoder.yaml", "causal: false", "causal: 'False'")
    _edit(source / "config_vqvae.yaml", "  use_ndlinear: false\n", "")
    _edit(source / "config_vqvae.yaml", "rotation_trick: false", "rotation_trick: 'true'")
    assert load(convert(source, tmp_path / "out")).config.quantizer.rotation_trick


def test_incomplete_folders_and_existing_output(source, tmp_path):
    with pytest.raises(CheckpointError, match="not a folder"):
        convert(tmp_path / "nowhere", tmp_path / "out")
    out = convert(source, tmp_path / "out")
    with pytest.raises(CheckpointError, match="exists already"):
        convert(source, out)
    assert convert(source, out, force=True) == out
    (source / "config_geometric_decoder.yaml").unlink()
    with pytest.raises(CheckpointError, match=r"config_geometric_decoder\.yaml: missing"):
        convert(source, tmp_path / "new")
    shutil.copyfile(REFERENCE / "config_geometric_decoder.yaml", source / "config_geometric_decoder.yaml")
    (source / "weights.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no weights"):
        convert(source, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_nothing_is_taken_from_the_size(source, tmp_path):
    """Another configuration, its tensors written under official names, comes back as the model it was."""
    yaml = pytest.importorskip("yaml")
    sizes = {
        "config_vqvae.yaml": [("codebook_size: 64", "codebook_size: 48"), ("      dim: 16", "      dim: 24")],
        "config_geometric_decoder.yaml": [("dimension: 64", "dimension: 160"), ("depth: 2", "depth: 3")],
        "config_gcpnet_encoder.yaml": [("knn_16", "knn_9"), ("num_message_layers: 4", "num_message_layers: 3")],
    }
    for file, edits in sizes.items():
        for old, new in edits:
            _edit(source / file, old, new)
    tree = yaml.safe_load((source / "config_vqvae.yaml").read_text())
    tree["model"]["vqvae"]["encoder"].update(dimension=96, depth=1, heads=6, attn_kv_heads=3, ff_mult=2)
    (source / "config_vqvae.yaml").write_text(yaml.safe_dump(tree))
    text = (source / "config_gcpnet_encoder.yaml").read_text()
    widths = {"num_layers": 3, "emb_dim": 64, "node_s_emb_dim": 64, "h_hidden_dim": 64}
    for key, value in {**widths, "node_v_emb_dim": 8, "chi_hidden_dim": 8}.items():
        text = re.sub(rf"(\b{key}: )\d+", rf"\g<1>{value}", text)
    (source / "config_gcpnet_encoder.yaml").write_text(text)

    config = official_config(source)
    torch.manual_seed(0)
    model = GCPVQVAEModel(config)
    model.quantizer.initialised.fill_(True)
    assert (config.encoder.dim, config.decoder.dim, config.graph.node_scalars, config.graph.layers) == (96, 160, 64, 3)
    official = {}
    for name, tensor in model.state_dict().items():
        key, groups = _official_name(name), (config.decoder if "decoder" in name else config.encoder).kv_heads
        if key.endswith("gamma"):
            tensor = tensor - 1
        elif "_codebook" in key and tensor.ndim:
            tensor = tensor[None]
        elif key.startswith(("vqvae.encoder_tail.0.weight", "vqvae.encoder_head.0.weight")):
            tensor = tensor[..., None]
        elif key.endswith("to_q.weight"):
            tensor = tensor.unflatten(0, (groups, -1, 64)).transpose(0, 1).flatten(0, 2)
        elif key.endswith("to_out.weight"):
            tensor = tensor.unflatten(1, (groups, -1, 64)).transpose(1, 2).flatten(1, 3)
        official[key] = tensor.contiguous()
    save_file(official, source / "weights.safetensors")
    again = load(convert(source, tmp_path / "out"))
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], tensor, msg=name)
