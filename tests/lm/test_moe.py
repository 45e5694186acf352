"""Experts from dense feed-forward layers: equal to the dense model, few experts per token, saved and read back."""

import copy

import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers")

from structok.errors import CheckpointError, InputError  # noqa: E402
from structok.lm.moe import Routing, balanced_kmeans, load_experts, split_feed_forward  # noqa: E402

SIZES = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
IDS = torch.tensor([[3, 50, 41, 7, 59], [40, 2, 1, 45, 46]])  # 40 and above are no text


def llama(**changes):
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**SIZES, **changes}))


def qwen3(**changes):
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**{**SIZES, "head_dim": 8, **changes}))


@pytest.fixture(params=[llama, qwen3], ids=["llama", "qwen3"])
def dense(request):
    torch.manual_seed(0)
    return request.param().double().eval()


@pytest.fixture(scope="module")
def split():
    """A LLaMA with a bias in every feed-forward layer, 16 experts, ids from 40 on being no text."""
    torch.manual_seed(1)
    model = llama(mlp_bias=True).double().eval()
    for name, parameter in model.named_parameters():
        if "mlp" in name and name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return split_feed_forward(model, other_ids=range(40, 60))


def logits(model, **kwargs):
    with torch.no_grad():
        return model(**{"input_ids": IDS, **kwargs}).logits


def chosen(model, **kwargs):
    """Experts on, per layer [layer, batch, length]."""
    found = []
    handles = [
        block.mlp.router.register_forward_hook(
            lambda _, __, out, mlp=block.mlp: found.append(mlp.choose(out.float()).sum(1).view(IDS.shape))
        )
        for block in model.get_decoder().layers
    ]
    logits(model, **kwargs)
    for handle in handles:
        handle.remove()
    return torch.stack(found)


def test_all_experts_on_equal_the_dense_model(dense):
    before = logits(dense)
    split_feed_forward(dense, text=16, other=16, other_ids=range(40, 60))
    torch.testing.assert_close(logits(dense), before, rtol=1e-12, atol=1e-12)


def test_all_on_equals_the_grouped_path(split):
    before = logits(split)
    routing = split.get_decoder().layers[0].mlp.routing
    assert not torch.allclose(before, logits(copy_with(split, text=16, other=16)), atol=1e-4)
    # 15 experts run one by one; the output misses exactly the share of the one that is off
    layer = copy.deepcopy(split.get_decoder().layers[0].mlp)
    x = torch.randn(7, 32, dtype=torch.float64)
    layer.routing.active = torch.full((7,), 16)
    whole = layer(x)
    layer.routing.active = torch.full((7,), 15)
    off = (~layer.choose(layer.router(x).float())).nonzero()[:, 1]
    inner = layer.act_fn(layer.gate_proj(x)) * layer.up_proj(x)
    share = inner.unflatten(1, (16, 6)) * torch.nn.functional.one_hot(off, 16)[..., None]
    missing = share.flatten(1) @ layer.down_proj.weight.T
    torch.testing.assert_close(layer(x) + missing, whole, rtol=1e-12, atol=1e-12)
    assert routing.active is not None and len(routing.active) == IDS.numel()


def copy_with(model, **changes):
    model = copy.deepcopy(model)
    routing = model.get_decoder().layers[0].mlp.routing
    assert routing is model.get_decoder().layers[1].mlp.routing
    for name, value in changes.items():
        setattr(routing, name, value)
    return model


def test_text_gets_eight_experts_and_the_rest_two(split):
    expected = torch.where(IDS >= 40, 2, 8)
    assert (chosen(split) == expected).all()
    mask = torch.zeros_like(IDS, dtype=torch.bool)
    mask[0] = True
    assert (chosen(split, modality_mask=mask) == torch.where(mask, 2, 8)).all()
    assert torch.equal(logits(split, modality_mask=IDS >= 40), logits(split))


def test_generation_switches_experts_by_itself(split):
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad():
        made = split.generate(IDS, attention_mask=torch.ones_like(IDS), **options)
        whole = split(input_ids=made, attention_mask=torch.ones_like(made)).logits
    assert torch.equal(whole[:, IDS.shape[1] - 1 : -1].argmax(-1), made[:, IDS.shape[1] :])


def test_embeddings_need_a_mask(split):
    embedded = split.get_input_embeddings()(IDS)
    with pytest.raises(InputError, match="modality_mask"):
        split(inputs_embeds=embedded)
    with torch.no_grad():
        out = split(inputs_embeds=embedded, modality_mask=IDS >= 40).logits
    torch.testing.assert_close(out, logits(split))


@pytest.mark.parametrize("shard", ["50GB", "20KB"])
def test_save_and_load(split, tmp_path, shard):
    split.save_pretrained(tmp_path, max_shard_size=shard)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard == "20KB")
    back = load_experts(tmp_path, dtype=torch.float64).eval()
    theirs = dict(back.named_parameters())
    assert all(torch.equal(value, theirs.pop(name)) for name, value in split.named_parameters()) and not theirs
    torch.testing.assert_close(logits(back), logits(split), rtol=1e-6, atol=1e-6)
    assert back.get_decoder().layers[0].mlp.routing.other_ids == [(40, 59)]
    # without its routers, the saved folder is an equivalent dense model
    plain = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    torch.testing.assert_close(logits(plain), logits(copy_with(back, text=16, other=16)), rtol=1e-12, atol=1e-12)


def test_every_parameter_learns(split):
    model = copy.deepcopy(split).train()
    model(input_ids=IDS, labels=IDS).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_gradient_checkpointing_changes_nothing(split):
    grads = []
    for checkpointing in (False, True):
        model = copy.deepcopy(split).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(input_ids=IDS, labels=IDS).loss.backward()
        grads.append(model.get_decoder().layers[0].mlp.router.weight.grad)
    torch.testing.assert_close(*grads)


def test_router_starts_with_the_experts_that_matter():
    """Neurons that fire together sit in one expert, and the router finds it, before any training."""
    torch.manual_seed(0)
    model = llama(hidden_size=64, intermediate_size=128, num_attention_heads=4)
    mlp = model.get_decoder().layers[0].mlp
    directions = torch.linalg.qr(torch.randn(64, 16)).Q.T
    group = torch.arange(128) % 16
    with torch.no_grad():
        mlp.gate_proj.weight.copy_(4 * directions[group] + 0.02 * torch.randn(128, 64))
    split_feed_forward(model)
    layer = model.get_decoder().layers[0].mlp
    x = 3 * directions + 0.02 * torch.randn(16, 64)
    layer.routing.active = torch.full((16,), 16)
    whole = layer(x)
    layer.routing.active = torch.full((16,), 1)
    error = (layer(x) - whole).norm(dim=1) / whole.norm(dim=1)
    assert error.max() < 0.3
    layer.router.weight.data = layer.router.weight.data.roll(1, 0)
    assert ((layer(x) - whole).norm(dim=1) / whole.norm(dim=1)).min() > 0.7


def test_balanced_kmeans_is_balanced_and_finds_planted_clusters():
    random = np.random.default_rng(0)
    centres = random.normal(size=(8, 5)) * 10
    truth = random.permutation(np.repeat(np.arange(8), 12))
    found = balanced_kmeans(centres[truth] + random.normal(size=(96, 5)), 8, seed=3)
    assert (np.bincount(found, minlength=8) == 12).all()
    assert len(set(zip(truth.tolist(), found.tolist()))) == 8
    uneven = np.concatenate([random.normal(size=(80, 5)), 50 + random.normal(size=(16, 5))])
    assert (np.bincount(balanced_kmeans(uneven, 8)) == 12).all()
    assert (balanced_kmeans(uneven, 8, seed=5) == balanced_kmeans(uneven, 8, seed=5)).all()


def test_what_does_not_fit_is_refused_and_left_alone(split, tmp_path):
    model = llama(intermediate_size=100)
    with pytest.raises(InputError, match="100 neurons do not split into 16"):
        split_feed_forward(model)
    assert type(model.get_decoder().layers[0].mlp).__name__ == "LlamaMLP"
    with pytest.raises(InputError, match="experts already"):
        split_feed_forward(split)
    config = transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=20)
    with pytest.raises(InputError):
        split_feed_forward(transformers.GPT2LMHeadModel(config))
    with pytest.raises(InputError, match="from 1 to the 16"):
        Routing(text=17)
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_experts(tmp_path)
    llama().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="without experts"):
        load_experts(tmp_path)
