"""Train small language models on structure tokens, from random weights, to see what the tokens cost to learn.

A row is MODEL with the checkpoint's own search, MODEL:open, or MODEL:closed[:LATENT_WEIGHT[:RATE_WEIGHT]]. Every
model sees the same number of tokens and has the same layers; half of the documents of proteins, all of those of
molecules, begin with the string (amino acids, SELFIES). `python -m eval.lm` trains and measures them.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

import structok
from structok.errors import InputError
from structok.files import write_whole
from structok.tokenizer import Search
from structok.tokens import AnchorText, Tokens
from train.data import load_backbones
from train.lm.data import batches, chain_crops, small_molecules
from train.lm.network import Settings, TokenModel, meanings_of
from train.lm.words import AMINO_ACIDS, Document, Kind, Pair, PairVocabulary, pair_of

console = Console(stderr=True)


@dataclass(frozen=True)
class Row:
    """A tokenizer and how its codes are assigned; what is None is the checkpoint's own."""

    model: str
    closed: bool | None = None
    latent_weight: float | None = None
    rate_weight: float | None = None

    @classmethod
    def parse(cls, text: str) -> Row:
        """From 'chain-vq-4096', 'chain-vq-4096:open' or 'chain-vq-4096:closed:1'."""
        model, loop, *weights = [*text.split(":"), "", ""][:5]
        weights = [w for w in weights if w]
        if loop not in ("", "open", "closed") or (loop != "closed" and weights) or text.count(":") > 3:
            raise InputError(f"{text}: a row is MODEL, MODEL:open or MODEL:closed[:LATENT_WEIGHT[:RATE_WEIGHT]]")
        try:
            return cls(model, {"": None, "open": False, "closed": True}[loop], *map(float, weights))
        except ValueError:
            raise InputError(f"{text}: the weights must be numbers") from None

    @property
    def options(self) -> dict[str, Any]:
        """Those of `encode_batch`."""
        given = {"closed_loop": self.closed, "latent_weight": self.latent_weight, "rate_weight": self.rate_weight}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def name(self) -> str:
        """As a folder's name."""
        loop = [] if self.closed is None else ["closed" if self.closed else "open"]
        weights = [f"{w:g}" for w in (self.latent_weight, self.rate_weight) if w is not None]
        return "-".join([Path(self.model).name, *loop, *weights])

    def encode(self, tokenizer: Any, structures: Sequence[Any]) -> list[Tokens]:
        """Tokens of many structures."""
        return tokenizer.encode_batch(structures, search=Search(**self.options))


def folder_of(runs: Path, row: Row, anchors: AnchorText, seed: int) -> Path:
    """Where a language model is kept."""
    return runs / f"{row.name}-{anchors}-{seed}"


def documents_of(
    pairs: Sequence[Pair],
    vocabulary: PairVocabulary,
    settings: Settings,
    anchors: AnchorText,
    given: bool | None = None,
) -> list[Document]:
    """Documents in random order until they hold the tokens of the budget; pairs come again if there are too few.

    `given` says whether the string leads; by chance where it is None.
    """
    random = np.random.default_rng(settings.seed)
    found: list[Document] = []
    total = 0
    while total < settings.tokens:
        for i in random.permutation(len(pairs)):
            leads = bool(random.random() < settings.given) if given is None else given
            found.append(vocabulary.document(pairs[i], anchors, leads))
            total += len(found[-1])
            if total >= settings.tokens:
                break
    return found


def fit(
    plan: Sequence[Sequence[Document]],
    model: TokenModel,
    settings: Settings,
    report: Callable[[int, int, float], None] = lambda step, steps, bits: None,
) -> TokenModel:
    """Train on batches of documents, each once."""
    model.train()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": settings.decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.rate, betas=(0.9, 0.95), fused=True)
    warm = max(1, round(settings.warmup * len(plan)))

    def schedule(step: int) -> float:
        done = (step - warm) / max(1, len(plan) - warm)
        return (step + 1) / warm if step < warm else 0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    for step, part in enumerate(plan):
        loss, _ = model(part)
        mean = loss.sum() / sum(int((d.kinds >= 0).sum()) for d in part)
        mean.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        scheduler.step()
        report(step, len(plan), float(mean.detach()) / math.log(2))
    return model.eval()


def training_tokens(row: Row, tokenizer: Any, data: Path, runs: Path, settings: Settings) -> list[Tokens]:
    """The tokenized training set of a row, the same for every seed and form; kept in `runs`."""
    kept = runs / f"{row.name}-{settings.residues}.jsonl"
    if not kept.exists():
        if tokenizer.modality == "protein":
            structures = chain_crops(load_backbones(data / "protein" / "train.npz"), 0, settings.residues, 0)
        else:
            structures = small_molecules(data / "molecule" / "qm9.npz", 0, settings.residues // 30)
        lines = [json.dumps(t.to_dict()) for t in row.encode(tokenizer, structures)]
        runs.mkdir(parents=True, exist_ok=True)
        write_whole(kept, "\n".join(lines).encode())
    return [Tokens.from_dict(json.loads(line)) for line in kept.read_text().splitlines()]


def train_rows(
    row: Row, forms: Sequence[AnchorText], seeds: Sequence[int], data: Path, runs: Path, settings: Settings
) -> None:
    """Tokenize once, train each form with each seed, and write what `load_model` reads; nothing that is there."""
    tokenizer = structok.load(row.model)
    protein = tokenizer.modality == "protein"
    wanted = []
    for seed in seeds:
        own = replace(settings, seed=seed, given=settings.given if protein else 1.0)
        for form in forms:
            record = folder_of(runs, row, form, seed) / "training.json"
            if not record.exists() or json.loads(record.read_text())["settings"] != asdict(own):
                wanted.append((form, own, record.parent))
    if not wanted:
        return
    began = time.time()
    tokens = training_tokens(row, tokenizer, data, runs, settings)
    pairs = [pair_of(t) for t in tokens]
    console.log(f"{row.name}: {len(pairs)} structures tokenized in {time.time() - began:.0f} s")
    symbols = tuple(AMINO_ACIDS) if protein else tuple(sorted({s for p in pairs for s in p.symbols}))
    vocabulary = PairVocabulary(symbols, tokenizer.codebook_size, **({} if protein else {"anchors": 0, "radii": 0}))
    count = np.bincount(np.concatenate([p.codes[p.codes >= 0] for p in pairs]), minlength=tokenizer.codebook_size)
    for form, own, out in wanted:
        documents = documents_of(pairs, vocabulary, own, form)
        plan = batches(documents, own.steps)
        began = time.process_time()

        def report(step: int, steps: int, bits: float, name: str = out.name, began: float = began) -> None:
            if step % 50 == 0 or step == steps - 1:
                console.log(f"{name}: step {step} of {steps}, {bits:.3f} bits, {time.process_time() - began:.0f} s")

        model = TokenModel(vocabulary, own, meanings_of(tokenizer))
        model.start(documents)
        fit(plan, model, own, report)
        record = {
            "row": asdict(row),
            "anchors": form,
            "settings": asdict(own),
            "parameters": sum(p.numel() for p in model.parameters()),
            "documents": len(documents),
            "codes": int(sum((d.kinds == Kind.CODE).sum() for d in documents)),
            "tokens": sum(map(len, documents)),
            "steps": len(plan),
            "cpu_seconds": round(time.process_time() - began),
        }
        out.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, out / "model.safetensors")
        (out / "vocabulary.json").write_text(json.dumps({**asdict(vocabulary), "unigrams": count.tolist()}) + "\n")
        (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")


def load_model(folder: Path) -> tuple[TokenModel, dict[str, Any], list[int]]:
    """What `train_rows` wrote: the model, `training.json`, and how often each code was seen."""
    training = json.loads((folder / "training.json").read_text())
    record = json.loads((folder / "vocabulary.json").read_text())
    unigrams = record.pop("unigrams")
    vocabulary = PairVocabulary(**{**record, "symbols": tuple(record["symbols"])})
    meanings = meanings_of(structok.load(training["row"]["model"]))
    model = TokenModel(vocabulary, Settings(**training["settings"]), meanings)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval(), training, unigrams
