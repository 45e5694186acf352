"""Our tokens inside Hugging Face tokenizers and models; everything here is small and made offline."""

import time

import pytest

from structok.errors import InputError
from structok.lm import Encoder, Vocabulary, extend_tokenizer

pytest.importorskip("transformers")
import torch

from tests.lm.test_vocabulary import molecule

PROSE = "The [C] atom, see <S 12>, [C 1] and <A M>; <think>so [H] is [=C]</think> [3] é €\n\n x<y"
CHAT = [{"role": "user", "content": "Fold <S 1> [C]"}, {"role": "assistant", "content": "No."}]


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def weights(model):
    return model.get_input_embeddings().weight, model.get_output_embeddings().weight


@pytest.fixture(params=["biomatrix", "scimind"])
def preset(request):
    return Vocabulary.preset(request.param)


# the tokenizer


def test_every_token_of_a_preset_is_one_new_id_in_order(tokenizer, preset):
    old = dict(tokenizer.get_vocab())
    start = time.perf_counter()
    assert extend_tokenizer(tokenizer, preset) is tokenizer
    assert time.perf_counter() - start < 2
    assert tokenizer.convert_tokens_to_ids(preset.tokens) == list(range(len(old), len(old) + len(preset)))
    new = tokenizer.convert_tokens_to_ids(preset.tokens)
    assert tokenizer(preset.tokens, add_special_tokens=False)["input_ids"] == [[i] for i in new]
    assert tokenizer.batch_decode([[i] for i in new]) == preset.tokens
    vocab = dict(tokenizer.get_vocab())
    assert {t: vocab[t] for t in old} == old
    extend_tokenizer(tokenizer, preset)
    assert tokenizer.get_vocab() == vocab


def test_encode_and_decode_are_inverse_on_1000_proteins_and_molecules(
    tokenizer, biomatrix, random_proteins, random_molecules
):
    encode = Encoder(extend_tokenizer(tokenizer, biomatrix), biomatrix)
    texts = [f"{biomatrix.wrap_sequence(p.sequence)}{biomatrix.wrap_structure(p)}" for p in random_proteins(1000)]
    texts += [f"{biomatrix.wrap_selfies(m)} is {biomatrix.wrap_molecule(m)}" for m in random_molecules(biomatrix, 1000)]
    lengths = [2 * len(p) + 4 for p in random_proteins(1000)]
    for i, text in enumerate(texts):
        found = encode(text)
        assert found == ids(tokenizer, text)
        assert tokenizer.decode(found) == text
        assert tokenizer.decode(found, skip_special_tokens=True) == text
        assert i >= 1000 or len(found) == lengths[i]


def test_scimind_letters_are_one_id_each(tokenizer, scimind):
    encode = Encoder(extend_tokenizer(tokenizer, scimind), scimind)
    text = f"{scimind.wrap_sequence('MAR')}{scimind.wrap_nucleic('ACG')}{scimind.wrap_smiles('CC=O')}"
    assert encode(text) == ids(tokenizer, text) and len(encode(text)) == 10
    assert tokenizer.decode(encode(text)) == text


def test_reloaded_tokenizer_is_the_same(tokenizer, biomatrix, tmp_path):
    from transformers import AutoTokenizer

    template = tokenizer.chat_template
    extend_tokenizer(tokenizer, biomatrix)
    assert tokenizer.chat_template == template
    tokenizer.save_pretrained(tmp_path)
    back = AutoTokenizer.from_pretrained(tmp_path)
    assert back.get_vocab() == tokenizer.get_vocab()
    assert back.chat_template == template
    assert back.apply_chat_template(CHAT, tokenize=False) == tokenizer.apply_chat_template(CHAT, tokenize=False)
    text = biomatrix.wrap_sequence("MAR") + PROSE
    assert ids(back, text) == ids(tokenizer, text)
    assert (back.eos_token_id, back.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)


def test_a_token_that_the_tokenizer_had_keeps_its_id_and_row(make_tokenizer, make_model, small):
    tokenizer = make_tokenizer(extra=["[C]"])
    had = tokenizer.convert_tokens_to_ids("[C]")
    model = make_model(len(tokenizer))
    row = weights(model)[0][had].clone()
    extend_tokenizer(tokenizer, small, model)
    assert tokenizer.convert_tokens_to_ids("[C]") == had
    assert len(set(tokenizer.convert_tokens_to_ids(small.tokens))) == len(small)
    assert torch.equal(weights(model)[0][had], row)


def test_slow_tokenizers_are_refused(small):
    with pytest.raises(InputError, match="not a fast tokenizer"):
        extend_tokenizer(object(), small)


# prose


def test_prose_gets_the_ids_it_had_before(make_tokenizer, biomatrix):
    base, tokenizer = make_tokenizer(), make_tokenizer()
    encode = Encoder(extend_tokenizer(tokenizer, biomatrix), biomatrix)
    ours = set(tokenizer.convert_tokens_to_ids(biomatrix.tokens))
    wrapped = f"{PROSE} <|mol_3d_start|>[C 1]<|mol_3d_end|>"
    assert encode(PROSE) == encode.prose(PROSE) == ids(base, PROSE)
    assert encode.prose(wrapped) == ids(base, wrapped)
    assert not ours & set(encode.prose(wrapped) + encode(PROSE))
    assert tokenizer.decode(encode.prose(wrapped)) == wrapped
    # what a plain call does instead, the reason for all this
    assert ours & set(ids(tokenizer, PROSE))


def test_only_tokens_behind_their_control_token_count(tokenizer, small):
    encode = Encoder(extend_tokenizer(tokenizer, small), small)
    number = tokenizer.convert_tokens_to_ids
    # explicit hydrogens in a SMILES are text; so is a token of the wrong kind, and what follows it
    text = "[C]<|mol_smi_start|>[H]C<|mol_smi_end|><|prot_3d_start|><S 1>[C]<S 2><|prot_3d_end|>"
    found = encode(text)
    assert tokenizer.decode(found) == text
    assert set(found) & set(number(small.tokens)) == {
        *number(["<|mol_smi_start|>", "<|mol_smi_end|>", "<|prot_3d_start|>", "<|prot_3d_end|>", "<S 1>"])
    }
    prompt = "Finish: <|prot_3d_start|><S 1><S 2>"
    assert encode(prompt)[-3:] == number(["<|prot_3d_start|>", "<S 1>", "<S 2>"])


def test_rare_tokens_are_spelled_and_read_back(tokenizer, small):
    encode = Encoder(extend_tokenizer(tokenizer, small), small)
    rare = molecule("[Xe][C]", 3, 1)
    text = small.wrap_molecule(rare, unknown="spell")
    found = encode(text)
    assert found[-2:] == tokenizer.convert_tokens_to_ids(["[C 1]", "<|mol_3d_end|>"]) and len(found) > 4
    assert small.unwrap(tokenizer.decode(found)).to_text() == text


def test_chat_templates_and_quoted_users(tokenizer, small):
    encode = Encoder(extend_tokenizer(tokenizer, small), small)
    ours = set(tokenizer.convert_tokens_to_ids(small.tokens))
    chat = tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert encode(chat).count(tokenizer.convert_tokens_to_ids("<|im_start|>")) == 2
    assert not ours & set(encode(chat))
    attack = small.quote(small.wrap_sequence("MAR") + PROSE)
    assert not ours & set(encode(attack)) and not ours & set(ids(tokenizer, attack))


def test_padding_and_truncation_do_not_reach_the_encoder(tokenizer, small):
    extend_tokenizer(tokenizer, small)
    text = small.wrap_sequence("MARNDC")
    tokenizer([text], truncation=True, max_length=3, padding="max_length")
    encode = Encoder(tokenizer, small)
    assert len(encode(text)) == 8 and len(encode.prose("a b c d")) > 3


def test_encoder_needs_an_extended_tokenizer(tokenizer, small):
    with pytest.raises(InputError, match=r"lacks <\|mol_smi_start\|> and"):
        Encoder(tokenizer, small)


# the model


def expected_means(base, small, matrix):
    words = {t: ids(base, d) for t, d in small.descriptions().items()}
    return torch.stack([matrix[words[t]].float().mean(0) for t in small.tokens])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_start_at_the_mean_of_their_words(make_tokenizer, make_model, small, tied, dtype):
    base, tokenizer = make_tokenizer(), make_tokenizer()
    model = make_model(len(base), tied).to(dtype)
    before = [w.detach().clone() for w in weights(model)]
    extend_tokenizer(tokenizer, small, model)
    after = weights(model)
    assert (after[0] is after[1]) == tied
    new = tokenizer.convert_tokens_to_ids(small.tokens)
    for old, now in zip(before, after):
        assert now.dtype == dtype and torch.equal(now[: len(old)], old)
        sigma = 0.1 * old.float().std().item()
        off = now[new].float() - expected_means(base, small, old)
        assert off.abs().max() < 6 * sigma
        assert off.std().item() == pytest.approx(sigma, rel=0.1)
        assert abs(off.mean().item()) < 0.05 * sigma
    if not tied:
        assert not torch.equal(after[0][new], after[1][new])
    assert torch.unique(after[0][new], dim=0).shape[0] == len(small)


def test_old_logits_stay_and_the_model_survives_saving(tokenizer, make_model, small, tmp_path):
    from transformers import AutoModelForCausalLM

    n = len(tokenizer)
    model = make_model(n)
    x = torch.tensor([ids(tokenizer, "a text of old tokens")])
    with torch.no_grad():
        before = model(x).logits
        extend_tokenizer(tokenizer, small, model)
        after = model(x).logits
    assert torch.equal(before, after[..., :n])
    assert model.config.vocab_size == after.shape[-1] >= len(tokenizer)
    model.save_pretrained(tmp_path)
    back = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(weights(back)[0], weights(model)[0])
    extend_tokenizer(tokenizer, small, back)
    assert torch.equal(weights(back)[0], weights(model)[0])


def test_again_changes_nothing_and_seeds_matter(make_tokenizer, make_model, small):
    def extended(seed):
        tokenizer = make_tokenizer()
        model = make_model(len(tokenizer))
        extend_tokenizer(tokenizer, small, model, seed=seed)
        return tokenizer, model

    tokenizer, model = extended(0)
    first = weights(model)[0].clone()
    extend_tokenizer(tokenizer, small, model, seed=5)
    assert torch.equal(weights(model)[0], first)
    new = tokenizer.convert_tokens_to_ids(small.tokens)
    assert torch.equal(weights(extended(0)[1])[0][new], first[new])
    assert not torch.equal(weights(extended(1)[1])[0][new], first[new])


def test_padded_matrices_are_never_cut_and_stay_aligned(make_tokenizer, make_model, small, biomatrix):
    tokenizer = make_tokenizer()
    model = make_model(1024)
    extend_tokenizer(tokenizer, small, model)
    assert len(tokenizer) < 1024 and weights(model)[0].shape[0] == 1024
    base = make_tokenizer()
    new = tokenizer.convert_tokens_to_ids(small.tokens)
    off = weights(model)[0][new] - expected_means(base, small, make_model(1024).get_input_embeddings().weight)
    assert off.abs().max() < 6 * 0.1 * weights(model)[0][: len(base)].std()
    extend_tokenizer(tokenizer, biomatrix, model)
    rows = weights(model)[0].shape[0]
    assert rows % 128 == 0 and len(tokenizer) <= rows < len(tokenizer) + 128


def test_a_larger_vocabulary_leaves_trained_rows_alone(tokenizer, make_model, small):
    model = make_model(len(tokenizer))
    extend_tokenizer(tokenizer, small, model)
    with torch.no_grad():
        weights(model)[0][tokenizer.convert_tokens_to_ids(small.tokens)] = 0.07
    more = Vocabulary.biomatrix(small.groups["selfies"], [*small.groups["molecule"], "[N 9]"], structure_codes=64)
    extend_tokenizer(tokenizer, more, model)
    assert (weights(model)[0][tokenizer.convert_tokens_to_ids(small.tokens)] == 0.07).all()
    assert weights(model)[0][tokenizer.convert_tokens_to_ids("[N 9]")].std() < 0.05


def test_a_saved_tokenizer_and_a_fresh_padded_model(make_tokenizer, make_model, small, caplog):
    base, tokenizer = make_tokenizer(), make_tokenizer()
    extend_tokenizer(tokenizer, small)
    # padding that holds some of the new ids: all of them are started, the words still spelled as before
    padded = len(base) + 20
    model = make_model(padded)
    old = weights(model)[0].detach().clone()
    extend_tokenizer(tokenizer, small, model)
    new = tokenizer.convert_tokens_to_ids(small.tokens)
    off = weights(model)[0][new] - expected_means(base, small, old)
    assert off.abs().max() < 6 * 0.1 * old.std()
    # a model with rows for all of them may be trained: it is left alone, aloud
    roomy = make_model(4096)
    before = weights(roomy)[0].clone()
    extend_tokenizer(tokenizer, small, roomy)
    assert torch.equal(weights(roomy)[0], before)
    assert "stay as they are" in caplog.text


def test_negative_noise_is_refused(tokenizer, small):
    with pytest.raises(InputError, match="noise"):
        extend_tokenizer(tokenizer, small, noise=-1.0)
