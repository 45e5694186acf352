"""A small Qwen3 on structure tokens whose embeddings start from what the tokens stand for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import DynamicCache, Qwen3Config, Qwen3Model

from structok.polymer.anchors import load_points
from train.lm.words import Document, Kind, PairVocabulary

__all__ = ["Settings", "TokenModel", "attention_bias", "meanings_of", "padded", "sample"]

_SCALES = (1.0, 0.5, 0.25, 0.125)  # of the spread of the vectors
_WAVES = 32  # a scale
_SIZE = 0.1  # of embeddings at the start


@dataclass(frozen=True)
class Settings:
    """The language model and its budget, the same for all rows of a modality."""

    hidden: int = 128
    layers: int = 4
    heads: int = 4
    inner: int = 384
    tokens: int = 200_000  # of training
    residues: int = 140_000  # of training crops; molecules a thirtieth
    batch: int = 512  # tokens per step
    rate: float = 1e-2
    warmup: float = 0.05  # share of the steps
    decay: float = 0.1
    given: float = 0.5  # share of documents that begin with the string
    seed: int = 0

    @property
    def steps(self) -> int:
        """Of training."""
        return max(1, self.tokens // self.batch)


def meanings_of(tokenizer: Any) -> dict[Kind, Float[Tensor, "k f"]]:
    """Vectors that codes and anchors stand for: a step's atoms or a codebook's entries, and places."""
    found: dict[Kind, Float[Tensor, "k f"]] = {}
    model = getattr(tokenizer, "model", tokenizer)
    for holder in (model, getattr(model, "quantizer", None)):
        for name in ("flat", "codebook"):
            vectors = getattr(holder, name, None)
            if isinstance(vectors, Tensor) and vectors.ndim == 2:
                found.setdefault(Kind.CODE, vectors.detach().float().cpu())
    if tokenizer.modality == "protein":
        found[Kind.ANCHOR] = load_points().points
    return found


def waves(vectors: Float[Tensor, "k d"]) -> Float[Tensor, "k f"]:
    """Random Fourier features (Rahimi & Recht 2007) at several scales: near vectors look alike."""
    random = torch.Generator().manual_seed(0)
    centred = vectors - vectors.mean(0)
    centred = centred / centred.square().sum(-1).mean().sqrt()
    phases = [centred @ torch.randn(vectors.shape[1], _WAVES, generator=random) / scale for scale in _SCALES]
    return torch.cat([f(p) for p in phases for f in (torch.cos, torch.sin)], -1) * math.sqrt(2)


class TokenModel(nn.Module):
    """Predicts each token from those before it, knowing of which kind it is.

    The embedding of a code or an anchor is a learned map of features of what it stands for, where that is known: a
    table of 8,000 free rows cannot be learned from so few tokens. Output embeddings are the same, plus a bias a token.

    Parameters
    ----------
    vocabulary, settings : see there
    meanings : vectors by kind, see `meanings_of`
    """

    def __init__(self, vocabulary: PairVocabulary, settings: Settings, meanings: Mapping[Kind, Tensor]) -> None:
        super().__init__()
        torch.manual_seed(settings.seed)
        self.vocabulary = vocabulary
        config = Qwen3Config(
            vocab_size=1,
            hidden_size=settings.hidden,
            num_hidden_layers=settings.layers,
            intermediate_size=settings.inner,
            num_attention_heads=settings.heads,
            num_key_value_heads=settings.heads,
            head_dim=settings.hidden // settings.heads,
            max_position_embeddings=1024,
            initializer_range=0.05,
            pad_token_id=None,
        )
        self.body = Qwen3Model(config)
        self.tables, self.maps = nn.ParameterDict(), nn.ParameterDict()
        self.tables["control"] = nn.Parameter(_SIZE * torch.randn(3, settings.hidden))
        for kind in Kind:
            block = vocabulary.block(kind)
            if kind in meanings:
                features = waves(meanings[kind])
                self.register_buffer(f"features_{kind.name}", features, persistent=False)
                weight = torch.randn(features.shape[1], settings.hidden) / math.sqrt(features.shape[1])
                self.maps[kind.name] = nn.Parameter(_SIZE * weight)
            else:
                self.tables[kind.name] = nn.Parameter(_SIZE * torch.randn(block.stop - block.start, settings.hidden))
        self.bias = nn.Parameter(torch.zeros(len(vocabulary)))

    @torch.no_grad()
    def start(self, documents: Sequence[Document]) -> None:
        """Biases that say how frequent each token is among its kind, one added to each count."""
        seen = np.concatenate([d.ids[d.kinds >= 0] for d in documents])
        count = torch.from_numpy(np.bincount(seen, minlength=len(self.vocabulary)) + 1.0)
        for kind in Kind:
            chance = count[self.vocabulary.block(kind)].log()
            self.bias[self.vocabulary.block(kind)] = (chance - chance.mean()).float()

    def embed(self, ids: Int[Tensor, "b q"]) -> Float[Tensor, "b q d"]:
        """Embeddings of tokens. A map is applied to the features of these tokens alone, never to all of them."""
        out = self.tables["control"][ids.clamp(max=2)]
        for kind in Kind:
            block = self.vocabulary.block(kind)
            at = (ids >= block.start) & (ids < block.stop)
            if at.any():
                own, known = ids[at] - block.start, kind.name in self.maps
                rows = self.features(kind)[own] @ self.maps[kind.name] if known else self.tables[kind.name][own]
                out = out.masked_scatter(at[..., None], rows)
        return out

    def features(self, kind: Kind) -> Float[Tensor, "k f"]:
        """What the embeddings of a kind are mapped from."""
        return getattr(self, f"features_{kind.name}")

    def hidden(
        self,
        ids: Int[Tensor, "b q"],
        positions: Int[Tensor, "b t"],
        ahead: Int[Tensor, "b t"],
        cache: DynamicCache | None = None,
    ) -> Float[Tensor, "b q d"]:
        """States that the last q tokens' successors are predicted from."""
        new = ids.shape[1]
        bias = attention_bias(positions, ahead[:, -new:], self.body.config.num_attention_heads)
        out = self.body(
            inputs_embeds=self.embed(ids), position_ids=positions[:, -new:], attention_mask=bias,
            use_cache=cache is not None, **({} if cache is None else {"past_key_values": cache}),
        )  # fmt: skip
        return out.last_hidden_state

    def logits(self, hidden: Float[Tensor, "*b d"], kind: Kind) -> Float[Tensor, "*b k"]:
        """Of the tokens of one kind."""
        bias = self.bias[self.vocabulary.block(kind)]
        if kind.name in self.maps:
            return hidden @ self.maps[kind.name].T @ self.features(kind).T + bias
        return hidden @ self.tables[kind.name].T + bias

    def forward(self, documents: Sequence[Document]) -> tuple[Float[Tensor, "b t-1"], Int[Tensor, "b t-1"]]:
        """Negative log likelihood in nats of each token but the first, 0 of starts and padding; the likeliest token."""
        ids, positions, ahead, kinds = padded(documents)
        hidden = self.hidden(ids, positions, ahead)[:, :-1]
        loss, best = hidden.new_zeros(hidden.shape[:2]), torch.zeros(hidden.shape[:2], dtype=torch.long)
        for kind in Kind:
            at = kinds[:, 1:] == kind
            if at.any():
                start = self.vocabulary.block(kind).start
                logits = self.logits(hidden[at], kind)
                loss[at] = F.cross_entropy(logits, ids[:, 1:][at] - start, reduction="none")
                best[at] = logits.detach().argmax(-1) + start
        return loss, best

    @torch.no_grad()
    def draws(self, documents: Sequence[Document], seed: int) -> list[Int[np.ndarray, " t"]]:
        """A sample of each token given the true ones before it; starts stay."""
        ids, positions, ahead, kinds = padded(documents)
        random = torch.Generator().manual_seed(seed)
        hidden = self.hidden(ids, positions, ahead)[:, :-1]
        out = ids.clone()
        for kind in Kind:
            at = kinds[:, 1:] == kind
            if at.any():
                chance = self.logits(hidden[at], kind).softmax(-1)
                out[:, 1:][at] = (
                    torch.multinomial(chance, 1, generator=random)[:, 0] + self.vocabulary.block(kind).start
                )
        return [row[: len(d)].numpy() for row, d in zip(out, documents)]


def padded(documents: Sequence[Document]) -> list[Int[Tensor, "b t"]]:
    """Ids, positions, positions ahead and kinds of a batch, padding behind."""
    longest = max(map(len, documents))

    def stack(rows: Sequence[np.ndarray], fill: int) -> Int[Tensor, "b t"]:
        return torch.from_numpy(np.stack([np.pad(r, (0, longest - len(r)), constant_values=fill) for r in rows]))

    return [
        stack([d.ids for d in documents], PairVocabulary.PAD),
        stack([d.positions for d in documents], 0),
        stack([d.ahead for d in documents], 0),
        stack([d.kinds for d in documents], -1),
    ]


def attention_bias(positions: Int[Tensor, "b t"], ahead: Int[Tensor, "b q"], heads: int) -> Float[Tensor, "b h q t"]:
    """Causal mask, and a fixed preference for keys near the residue or atom that comes next, in either stream.

    Linear in the distance (Press et al. 2022), with slopes 2, 1/2, 1/8, ... over the heads. Which residue belongs to
    which code is the first thing that a large model learns of two streams; a small one would spend its whole
    budget on it. The queries are the last q tokens.
    """
    length, queries = positions.shape[1], ahead.shape[1]
    distance = (ahead[:, :, None] - positions[:, None]).abs()
    slopes = 2 * 4.0 ** -torch.arange(heads)
    bias = -slopes[:, None, None] * distance[:, None]
    later = torch.ones(length, length, dtype=torch.bool).triu(1)[length - queries :]
    return bias.masked_fill(later, -torch.inf)


@torch.no_grad()
def sample(
    model: TokenModel, documents: Sequence[Document], fixed: Sequence[Bool[np.ndarray, " t"]], seed: int
) -> list[Int[np.ndarray, " t"]]:
    """Ids of documents whose tokens are drawn one after the other at temperature 1, but those that are fixed."""
    random = torch.Generator().manual_seed(seed)
    ids, positions, ahead, kinds = padded(documents)
    longest = ids.shape[1]
    keep = torch.from_numpy(np.stack([np.pad(f, (0, longest - len(f)), constant_values=True) for f in fixed]))
    cache = DynamicCache(config=model.body.config)
    for t in range(1, longest):
        hidden = model.hidden(ids[:, t - 1 : t], positions[:, :t], ahead[:, :t], cache)[:, 0]
        for kind in Kind:
            at = (kinds[:, t] == kind) & ~keep[:, t]
            if at.any():
                chance = model.logits(hidden[at], kind).softmax(-1)
                drawn = torch.multinomial(chance, 1, generator=random)[:, 0]
                ids[at, t] = drawn + model.vocabulary.block(kind).start
    return [row[: len(d)].numpy() for row, d in zip(ids, documents)]
