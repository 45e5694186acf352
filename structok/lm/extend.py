"""`extend_tokenizer`: a vocabulary into a Hugging Face fast tokenizer, and rows for it into a model."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from unittest.mock import patch

import torch
from jaxtyping import Float
from torch import Tensor

from structok.errors import InputError
from structok.lm.encoder import Encoder, backend_of
from structok.lm.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["extend_tokenizer"]

_log = logging.getLogger("structok.lm")

_STARTED = "structok_started"  # in the model's config: rows of ids below this have had their start
_ALIGN = 128  # a matrix padded to a multiple of this stays so; GPUs multiply it faster
_CHUNK = 512  # rows made at a time, so that memory stays small


def extend_tokenizer(
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
    model: PreTrainedModel | None = None,
    *,
    noise: float = 0.1,
    seed: int = 0,
) -> PreTrainedTokenizerBase:
    """Add a vocabulary to a tokenizer, and start its rows in a model's embeddings; both are changed in place.

    Old tokens keep their ids, and the model its logits for them. Each new row of the input embeddings, and of the
    output embeddings where they are not tied, is the mean of the rows of the words that describe its token
    (`Vocabulary.descriptions`) plus isotropic Gaussian noise, which tells tokens of the same words apart. A matrix
    is enlarged when it must be, never cut. Calling it again changes nothing.

    Ours are no special tokens: `decode(ids, skip_special_tokens=True)`, the default of servers, keeps them.
    `structok.lm.Encoder` keeps them out of prose.

    Parameters
    ----------
    tokenizer : fast tokenizer
    vocabulary : what to add
    model : its language model; give it together with the tokenizer that is not extended yet
    noise : standard deviation of the noise, as a share of that of the old rows' entries
    seed : of the noise

    Returns
    -------
    tokenizer : the same object

    Raises
    ------
    InputError
        If the tokenizer is not a fast one, or `noise` is negative.
    """
    from tokenizers import AddedToken

    if noise < 0:
        raise InputError(f"noise {noise}: 0 or more")
    backend = backend_of(tokenizer)
    extended = not set(vocabulary.tokens).isdisjoint(tokenizer.get_added_vocab())
    new = [token for token in vocabulary.tokens if backend.token_to_id(token) is None]
    # descriptions must be spelled without our tokens: now, or by an encoder that passes them over
    words = None if model is None or extended else _spelled(backend, vocabulary)
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in vocabulary.tokens])
    if model is not None:
        rows = _rows(tokenizer, vocabulary, model, set(new))
        if rows:
            words = words or _spelled(Encoder(tokenizer, vocabulary).base, vocabulary)
            _start(model, {rows[token]: words[token] for token in rows}, noise, seed)
            model.config.update({_STARTED: len(tokenizer)})
    return tokenizer


def _spelled(backend: object, vocabulary: Vocabulary) -> dict[str, list[int]]:
    """Ids of the words that describe each token."""
    described = vocabulary.descriptions()
    encoded = backend.encode_batch(list(described.values()), add_special_tokens=False)  # type: ignore[attr-defined]
    return dict(zip(described, (e.ids for e in encoded)))


def _rows(
    tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary, model: PreTrainedModel, new: set[str]
) -> dict[str, int]:
    """Make room for the tokenizer's ids; tokens whose rows need a start, with their ids."""
    backend = backend_of(tokenizer)
    ids = {token: id for token in vocabulary.tokens if (id := backend.token_to_id(token)) is not None}
    old = _weight(model.get_input_embeddings()).shape[0]
    grows = len(tokenizer) > old
    if grows:
        size = -(-len(tokenizer) // _ALIGN) * _ALIGN if old % _ALIGN == 0 else len(tokenizer)
        _grow(model, size)
    if (started := getattr(model.config, _STARTED, None)) is not None:
        return {token: id for token, id in ids.items() if id >= started}
    if grows and not new:  # a tokenizer that was extended by itself: the model knows nothing of it
        base = backend.get_vocab(with_added_tokens=False)
        return {token: id for token, id in ids.items() if token not in base}
    if not new:
        _log.warning(
            "the tokenizer had every token and the model has rows for them, which stay as they are; "
            "to start them anew, extend the base tokenizer together with the model"
        )
    return {token: id for token, id in ids.items() if token in new or id >= old}


@torch.no_grad()
def _grow(model: PreTrainedModel, size: int) -> None:
    """Enlarge the embeddings to `size` rows; new ones are the mean of the old until they get their start."""
    old = _weight(model.get_input_embeddings()).shape[0]
    # else transformers draws the whole new matrix at random before it copies the old one into it
    with patch.object(model, "_init_weights"):
        model.resize_token_embeddings(size, mean_resizing=False)
    for weight in _matrices(model):
        weight[old:] = _sample(weight[:old]).mean(0).to(weight.dtype)


@torch.no_grad()
def _start(model: PreTrainedModel, rows: dict[int, list[int]], noise: float, seed: int) -> None:
    """Fill rows with the mean of the rows of their words, and noise."""
    generator = torch.Generator().manual_seed(seed)
    ids = list(rows)
    for weight in _matrices(model):
        spread = noise * _sample(weight[: min(ids)]).std().item()
        for at in range(0, len(ids), _CHUNK):
            some = ids[at : at + _CHUNK]
            means = _means(weight, [rows[i] for i in some])
            drawn = torch.randn(means.shape, generator=generator) * spread
            weight[torch.tensor(some, device=weight.device)] = (means + drawn.to(means)).to(weight.dtype)


def _matrices(model: PreTrainedModel) -> list[Tensor]:
    """Input embeddings; output embeddings and their bias where they are other tensors."""
    head = model.get_output_embeddings()
    matrices = [_weight(model.get_input_embeddings())]
    if head is not None and head.weight is not matrices[0]:
        matrices.append(_weight(head))
    if isinstance(bias := getattr(head, "bias", None), Tensor):
        matrices.append(bias[:, None])
    return matrices


def _sample(weight: Float[Tensor, "v d"]) -> Float[Tensor, "n d"]:
    """Some 4,096 rows, in single precision: enough for their mean and spread."""
    return weight[:: max(1, len(weight) // 4096)].float()


def _weight(layer: torch.nn.Module) -> Float[Tensor, "v d"]:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def _means(weight: Float[Tensor, "v d"], words: list[list[int]]) -> Float[Tensor, "n d"]:
    """Mean row of each list of ids, in single precision."""
    lengths = torch.tensor([len(w) for w in words], device=weight.device)
    flat = torch.tensor([i for w in words for i in w], dtype=torch.long, device=weight.device)
    which = torch.repeat_interleave(torch.arange(len(words), device=weight.device), lengths)
    sums = torch.zeros(len(words), weight.shape[1], device=weight.device)
    return sums.index_add_(0, which, weight[flat].float()) / lengths.clamp(min=1)[:, None]
