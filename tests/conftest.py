"""Fixtures shared by all tests: the example files, loaded tokenizers, and the shared data where it exists."""

import io
import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():  # before anything imports Triton: its kernels then run in the interpreter
    os.environ.setdefault("TRITON_INTERPRET", "1")

import structok
from structok import cli

ROOT = Path(__file__).parent.parent


class Done(NamedTuple):
    """What a command left behind."""

    status: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch, capfd):
    """run(*arguments, stdin=b"") goes through the entry point; status, out and err come back."""

    def call(*arguments, stdin=b""):
        monkeypatch.setattr(sys, "argv", ["structok", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(stdin))))
        capfd.readouterr()
        try:
            cli.main()
            status = 0
        except SystemExit as end:
            status = end.code or 0
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return Done(status, out, err)

    return call


@pytest.fixture(scope="session")
def example() -> Path:
    """1A8O: one chain of 70 residues with four selenomethionines, as gzipped mmCIF."""
    return ROOT / "structok" / "examples" / "1a8o.cif.gz"


@pytest.fixture(scope="session")
def chain(example):
    """The example's only chain."""
    [backbone] = structok.read_structure(example)
    return backbone


@pytest.fixture(scope="session")
def chain_vq():
    """The default protein tokenizer of the chain-vq family."""
    return structok.load("chain-vq-4096")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Training data and reference values; present for developers and in CI only."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no shared data beside this checkout")
    return folder


@pytest.fixture(scope="session")
def make_chain(chain_vq):
    """make_chain(length, seed=0): a random chain of real steps, from codes drawn at random."""

    def make(length: int, seed: int = 0, **fields) -> structok.Backbone:
        random = np.random.default_rng(seed)
        bonded = chain_vq.codebook_size - chain_vq.config.n_break
        coords = chain_vq.decode(structok.Tokens(random.integers(0, bonded, length))).coords
        sequence = "".join(random.choice(list("ACDEFGHIKLMNPQRSTVWY"), length))
        return structok.Backbone(coords, fields.pop("sequence", sequence), **fields)

    return make
