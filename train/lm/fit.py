"""Train small language models on structure tokens, from random weights, to see what the tokens cost to learn.

    python -m train.lm chain-vq-4096 --anchors none,inline,first --seeds 3

A row is MODEL with the checkpoint's own search, MODEL:open, or MODEL:closed[:LATENT_WEIGHT[:RATE_WEIGHT]]. Every
model of a modality sees the same number of tokens in as many steps and has the same parameters; half of the documents
begin with the string (amino acids, SELFIES).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from safetensors.torch import load_file, save_file

import structok
from structok.errors import InputError
from structok.tokenizer import Search
from structok.tokens import AnchorText, Tokens
from train.data import load_backbones, shared_folder
from train.lm.data import batches, chain_crops, small_molecules
from train.lm.network import Settings, TokenModel, meanings_of
from train.lm.words import AMINO_ACIDS, Document, Kind, Pair, PairVocabulary, pair_of

console = Console(stderr=True)
RUNS = Path("runs/lm")


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


def training_tokens(row: Row, tokenizer: Any, data: Path, settings: Settings) -> list[Tokens]:
    """The tokenized training set of a row, the same for every seed."""
    if tokenizer.modality == "protein":
        crops = chain_crops(load_backbones(data / "protein" / "train.npz"), 0, settings.residues, 0)
        return row.encode(tokenizer, crops)
    return row.encode(tokenizer, small_molecules(data / "molecule" / "qm9.npz", 0, settings.residues // 30))


def train_rows(
    row: Row, forms: Sequence[AnchorText], seeds: Sequence[int], data: Path, runs: Path, settings: Settings
) -> None:
    """Tokenize once, train each form with each seed, and write what `load_model` reads; nothing that is there."""
    wanted = [(form, seed, folder_of(runs, row, form, seed)) for seed in seeds for form in forms]
    wanted = [w for w in wanted if not (w[2] / "training.json").exists()]
    if not wanted:
        return
    began = time.time()
    tokenizer = structok.load(row.model)
    tokens = training_tokens(row, tokenizer, data, settings)
    pairs = [pair_of(t) for t in tokens]
    console.log(f"{row.name}: {len(pairs)} structures tokenized in {time.time() - began:.0f} s")
    protein = tokenizer.modality == "protein"
    symbols = tuple(AMINO_ACIDS) if protein else tuple(sorted({s for p in pairs for s in p.symbols}))
    vocabulary = PairVocabulary(symbols, tokenizer.codebook_size)
    count = np.bincount(np.concatenate([p.codes[p.codes >= 0] for p in pairs]), minlength=tokenizer.codebook_size)
    for form, seed, out in wanted:
        own = replace(settings, seed=seed, given=settings.given if protein else 1.0)
        documents = documents_of(pairs, vocabulary, own, form)
        plan = batches(documents, own.batch)
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


def forms_of(text: str) -> list[AnchorText]:
    """From 'none,inline,first'."""
    found = [f.strip() for f in text.split(",") if f.strip()]
    if not found or set(found) - {"none", "inline", "first"}:
        raise InputError(f"{text}: anchors are none, inline or first, with commas between")
    return found  # type: ignore[return-value]


def main(
    row: Annotated[str, typer.Argument(help="MODEL, MODEL:open or MODEL:closed[:LATENT_WEIGHT[:RATE_WEIGHT]]")],
    anchors: Annotated[str, typer.Option(help="none, inline, first: where they stand, with commas between")] = "none",
    seeds: Annotated[int, typer.Option(help="how many")] = 1,
    runs: Annotated[Path, typer.Option("-o", "--runs", help="folder for the language models")] = RUNS,
    data: Annotated[Path | None, typer.Option(help="folder with protein/train.npz and molecule/qm9.npz")] = None,
    tokens: Annotated[int, typer.Option(help="of training")] = Settings.tokens,
    residues: Annotated[int, typer.Option(help="of training crops")] = Settings.residues,
) -> None:
    """Train the language models of one row."""
    settings = Settings(tokens=tokens, residues=residues)
    folder = data or shared_folder() / "data"
    train_rows(Row.parse(row), forms_of(anchors), range(seeds), folder, runs, settings)
