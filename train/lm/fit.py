"""A small Qwen3-architecture language model on structure tokens, from random weights, to see what they cost to learn.

    python -m train.lm chain-vq-4096:closed:1 -o runs/lm/chain-vq-4096-closed-1

A row is MODEL:open, or MODEL:closed with the checkpoint's own weights, MODEL:closed:LATENT_WEIGHT, or
MODEL:closed:LATENT_WEIGHT:RATE_WEIGHT. Every row reads the same crops or molecules in the same order, each once, with
the symbols (amino acids, SELFIES) or the codes first by chance, in the same number of steps.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from jaxtyping import Float, Int
from rich.console import Console
from torch import Tensor
from transformers import DynamicCache, Qwen3Config, Qwen3ForCausalLM

import structok
from structok.errors import InputError
from structok.tokens import Tokens
from train.data import load_backbones, shared_folder
from train.lm.data import (
    AMINO_ACIDS,
    Document,
    Pair,
    PairVocabulary,
    batches,
    chain_crops,
    padded,
    pair_of,
    small_molecules,
)

console = Console(stderr=True)


@dataclass(frozen=True)
class Row:
    """A tokenizer and how its codes are assigned; weights that are None are the checkpoint's own."""

    model: str
    closed: bool
    latent_weight: float | None = None
    rate_weight: float | None = None
    beam: int = 8

    @classmethod
    def parse(cls, text: str) -> Row:
        """From 'chain-vq-4096:open' or 'chain-vq-4096:closed:1'."""
        model, loop, *weights = [*text.split(":"), ""][:5]
        if loop not in ("open", "closed") or (loop == "open" and any(weights)) or text.count(":") > 3:
            raise InputError(f"{text}: a row is MODEL:open or MODEL:closed[:LATENT_WEIGHT[:RATE_WEIGHT]]")
        try:
            return cls(model, loop == "closed", *(float(w) for w in weights if w))
        except ValueError:
            raise InputError(f"{text}: the weights must be numbers") from None

    @property
    def weights(self) -> dict[str, float]:
        """Those that were given, by the name of the option."""
        given = {"latent_weight": self.latent_weight, "rate_weight": self.rate_weight}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def assignment(self) -> str:
        """In words."""
        if not self.closed:
            return "open loop"
        letters = {"latent_weight": "λ", "rate_weight": "μ"}
        return ", ".join(
            [f"closed loop, beam {self.beam}", *(f"{letters[name]} {value:g}" for name, value in self.weights.items())]
        )

    @property
    def name(self) -> str:
        """As a folder's name."""
        parts = [Path(self.model).name, "closed" if self.closed else "open", *(f"{w:g}" for w in self.weights.values())]
        return "-".join(parts)

    def encode(self, tokenizer: Any, structures: Sequence[Any]) -> list[Tokens]:
        """Tokens of many structures."""
        options: dict[str, Any] = {"closed_loop": self.closed, **self.weights}
        if self.closed:
            options["beam"] = self.beam
        return tokenizer.encode_batch(structures, **options)


@dataclass(frozen=True)
class Settings:
    """The language model and its budget, the same for all rows of a modality."""

    hidden: int = 128
    layers: int = 4
    heads: int = 4
    inner: int = 384
    residues: int = 250_000  # of training crops
    molecules: int = 6_000
    batch: int = 1024  # padded tokens per step
    rate: float = 6e-3
    warmup: float = 0.05  # share of the steps
    decay: float = 0.1
    seed: int = 0


def make_model(vocabulary: PairVocabulary, settings: Settings) -> Qwen3ForCausalLM:
    """Random weights."""
    torch.manual_seed(settings.seed)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(vocabulary),
            hidden_size=settings.hidden,
            num_hidden_layers=settings.layers,
            intermediate_size=settings.inner,
            num_attention_heads=settings.heads,
            num_key_value_heads=settings.heads,
            head_dim=settings.hidden // settings.heads,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            pad_token_id=vocabulary.PAD,
        )
    )


def attention_bias(positions: Int[Tensor, "b t"], heads: int, queries: int | None = None) -> Float[Tensor, "b h q t"]:
    """Causal mask, and a fixed preference for keys near the residue or atom that comes next, in either stream.

    Linear in the distance (Press et al. 2022), with slopes 2, 1/2, 1/8, ... over the heads. Which residue belongs to
    which code is the first thing that a large model learns of two streams; a small one would spend its whole
    budget on it. `queries` are the last so many tokens; default: all.
    """
    length = positions.shape[1]
    queries = length if queries is None else queries
    distance = (positions[:, length - queries :, None] + 1 - positions[:, None]).abs()
    slopes = 2 * 4.0 ** -torch.arange(heads)
    bias = -slopes[:, None, None] * distance[:, None]
    later = torch.ones(length, length, dtype=torch.bool).triu(1)[length - queries :]
    return bias.masked_fill(later, -torch.inf)


def loss_of(model: Qwen3ForCausalLM, documents: Sequence[Document]) -> tuple[Float[Tensor, "b t"], Int[Tensor, "b t"]]:
    """Negative log likelihood in nats of each token but the first (0 on padding), and the likeliest token."""
    ids, positions = padded(documents)
    bias = attention_bias(positions, model.config.num_attention_heads)
    logits = model(input_ids=ids, position_ids=positions, attention_mask=bias).logits[:, :-1]
    loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none", ignore_index=0)
    return loss.view(ids.shape[0], -1), logits.detach().argmax(-1)


def fit(
    pairs: Sequence[Pair],
    vocabulary: PairVocabulary,
    settings: Settings,
    report: Callable[[int, int, float], None] = lambda step, steps, bits: None,
) -> Qwen3ForCausalLM:
    """Train on each pair once, in one of its two orders by chance."""
    model = make_model(vocabulary, settings).train()
    order = np.random.default_rng(settings.seed).random(len(pairs)) < 0.5
    plan = batches([vocabulary.document(p, bool(first)) for p, first in zip(pairs, order)], settings.batch)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": settings.decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.rate, betas=(0.9, 0.95))
    warm = max(1, round(settings.warmup * len(plan)))

    def schedule(step: int) -> float:
        done = (step - warm) / max(1, len(plan) - warm)
        return (step + 1) / warm if step < warm else 0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    for step, part in enumerate(plan):
        loss, _ = loss_of(model, part)
        mean = loss.sum() / sum(len(d.ids) - 1 for d in part)
        mean.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        scheduler.step()
        report(step, len(plan), float(mean.detach()) / math.log(2))
    return model.eval()


@torch.no_grad()
def sample(
    model: Qwen3ForCausalLM,
    prefix: Int[Tensor, "b t"],
    positions: Int[Tensor, " t"],
    steps: int,
    seed: int,
) -> Int[Tensor, "b s"]:
    """Continue prefixes at temperature 1, whose positions go on with 1, 2, 3, ... after the last one's 0.

    Samples go on after an end token; the caller cuts there.
    """
    generator = torch.Generator().manual_seed(seed)
    cache = DynamicCache(config=model.config)
    ids, at = prefix, positions.expand_as(prefix)
    out = []
    for step in range(steps):
        new = ids.shape[1]
        bias = attention_bias(at, model.config.num_attention_heads, new)
        logits = model(input_ids=ids, position_ids=at[:, -new:], attention_mask=bias, past_key_values=cache).logits
        ids = torch.multinomial(logits[:, -1].softmax(-1), 1, generator=generator)
        at = torch.cat([at, torch.full_like(ids, step + 1)], 1)
        out.append(ids)
    return torch.cat(out, 1)


def training_pairs(row: Row, tokenizer: Any, data: Path, settings: Settings) -> tuple[list[Pair], PairVocabulary]:
    """The tokenized training set of a row, and its vocabulary."""
    if tokenizer.modality == "protein":
        crops = chain_crops(load_backbones(data / "protein" / "train.npz"), 0, settings.residues, settings.seed)
        pairs = [pair_of(t) for t in row.encode(tokenizer, crops)]
        return pairs, PairVocabulary(tuple(AMINO_ACIDS), tokenizer.codebook_size)
    mols = small_molecules(data / "molecule" / "qm9.npz", 0, settings.molecules)
    pairs = [pair_of(t) for t in row.encode(tokenizer, mols)]
    return pairs, PairVocabulary(tuple(sorted({s for p in pairs for s in p.symbols})), tokenizer.codebook_size)


def train_row(row: Row, data: Path, out: Path, settings: Settings) -> None:
    """Tokenize, train, and write the model with `vocabulary.json` and `training.json`; nothing if it is there."""
    if (out / "training.json").exists():
        return
    began = time.time()
    tokenizer = structok.load(row.model)
    pairs, vocabulary = training_pairs(row, tokenizer, data, settings)
    console.log(f"{row.name}: {len(pairs)} documents tokenized in {time.time() - began:.0f} s")
    began = time.time()

    def report(step: int, steps: int, bits: float) -> None:
        if step % 50 == 0 or step == steps - 1:
            console.log(f"{row.name}: step {step} of {steps}, {bits:.3f} bits/token, {time.time() - began:.0f} s")

    model = fit(pairs, vocabulary, settings, report)
    count = np.bincount(np.concatenate([p.codes[p.codes >= 0] for p in pairs]), minlength=tokenizer.codebook_size)
    model.save_pretrained(out)
    (out / "vocabulary.json").write_text(json.dumps({**asdict(vocabulary), "unigrams": count.tolist()}) + "\n")
    record = {
        "row": asdict(row),
        "settings": asdict(settings),
        "parameters": sum(p.numel() for p in model.parameters()),
        "documents": len(pairs),
        "codes": int(count.sum()),
        "tokens": sum(2 * len(p.symbols) + 4 for p in pairs),
        "steps": len(batches([vocabulary.document(p, False) for p in pairs], settings.batch)),
        "seconds": round(time.time() - began),
    }
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")


def main(
    row: Annotated[str, typer.Argument(help="MODEL:open or MODEL:closed[:LATENT_WEIGHT[:RATE_WEIGHT]]")],
    out: Annotated[Path, typer.Option("-o", "--out", help="folder for the language model")],
    data: Annotated[Path | None, typer.Option(help="folder with protein/train.npz and molecule/qm9.npz")] = None,
    residues: int = Settings.residues,
    molecules: int = Settings.molecules,
    seed: int = 0,
) -> None:
    """Train the language model of one row."""
    settings = Settings(residues=residues, molecules=molecules, seed=seed)
    train_row(Row.parse(row), data or shared_folder() / "data", out, settings)
