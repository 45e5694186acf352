"""What every tokenizer shares: batches, checks, search settings, and the calls that users make."""

from __future__ import annotations

import dataclasses
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from jaxtyping import Int

from structok.checkpoint import write_checkpoint
from structok.errors import InputError, TokensError
from structok.tokens import Modality, Stream, Tokens, declare

__all__ = ["Search", "Tokenizer"]

Item = TypeVar("Item")
Structure = TypeVar("Structure")


@dataclass(frozen=True)
class Search:
    """How codes are assigned; None is the checkpoint's default.

    Parameters
    ----------
    closed_loop : pick codes against the structure rebuilt so far (True), or each by itself (False)
    beam : hypotheses that the closed loop keeps
    latent_weight : λ ≥ 0 of the closed loop: how much the step from the residue before counts, beside the rebuilt chain
    rate_weight : μ ≥ 0 of the closed loop, Å² per bit: how much codes that are easy to predict from the code before
        are preferred
    refine : sweeps in which codes near those taken are tried, for decoders that look both ways, see
        `structok.protein.refine`; slow
    """

    closed_loop: bool | None = None
    beam: int | None = None
    latent_weight: float | None = None
    rate_weight: float | None = None
    refine: int | None = None


class Tokenizer(ABC, Generic[Item, Structure]):
    """Structures to tokens and back; subclasses say how to prepare, to assign codes and to rebuild.

    Parameters
    ----------
    config : of the checkpoint
    name : written into the tokens
    device : where it runs
    """

    modality: ClassVar[Modality]
    kind: ClassVar[str]  # model_type in config.json
    unit: ClassVar[str] = "residues"  # what slots are
    sizes: ClassVar[tuple[int, int]] = (32, 256)  # of a batch when encoding and decoding, unless asked otherwise
    formats: ClassVar[tuple[str, ...]] = ("pdb", "cif", "bcif")  # of files of its structures, the usual one first
    posed: bool = False  # whether structures come back where their anchors say
    missing: ClassVar[bool] = False  # whether slots that were not observed have code -1

    def __init__(self, config: Any, name: str, device: str) -> None:
        self.config, self.name, self.device = config, name, device

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return self.config.codebook_size

    @property
    def max_length(self) -> int:
        """Most slots that a structure may have."""
        return self.config.max_length

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The streams of codes that it writes."""
        return declare(self.modality, codes=self.codebook_size)

    @property
    def defaults(self) -> Search:
        """The checkpoint's search settings; None where it knows no such setting."""
        names = [f.name for f in dataclasses.fields(Search)]
        return Search(**{name: getattr(self.config, name, None) for name in names})

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write a checkpoint folder; `structok.load(folder)` reads it back."""
        write_checkpoint(folder, self.kind, self.config, self.tensors())

    def encode(self, x: Any, *, search: Search | None = None, **options: Any) -> Tokens:
        """Tokens of one structure: an object, an array, or the path of a file that holds one.

        Parameters
        ----------
        search : how codes are assigned, or
        options : its fields: `closed_loop`, `beam`, `latent_weight`, `rate_weight`, `refine`, see `Search`

        Raises
        ------
        InputError
            If the structure cannot be tokenized, or an option is out of range or unknown to this checkpoint; the
            message names it and the way out.
        """
        return self.encode_batch([x], search=search, **options)[0]

    def encode_batch(
        self, xs: Sequence[Any], *, batch_size: int | None = None, search: Search | None = None, **options: Any
    ) -> list[Tokens]:
        """As `encode`, for many structures, `batch_size` of similar size at a time; equal to one by one."""
        how = self.settings(Search(**options) if search is None else search)
        items = self.prepare_many(xs)
        codes_of = self.assign(items, how, self.sizes[0] if batch_size is None else batch_size)
        return [self.tokens(item, codes) for item, codes in zip(items, codes_of)]

    def decode(self, tokens: Tokens, *, relax: bool = False) -> Structure:
        """Rebuild one structure.

        Parameters
        ----------
        tokens : of this model
        relax : finish with a force field, where the tokenizer has one (molecules: MMFF94)

        Raises
        ------
        TokensError
            If the tokens are another model's, or a code is out of range.
        """
        return self.decode_batch([tokens], relax=relax)[0]

    def decode_batch(
        self, many: Sequence[Tokens], *, batch_size: int | None = None, relax: bool = False
    ) -> list[Structure]:
        """As `decode`, for many structures, `batch_size` of similar size at a time; equal to one by one."""
        for tokens in many:
            self.check(tokens)
        rebuilt = self.rebuild(many, self.sizes[1] if batch_size is None else batch_size)
        return [self.relax(x) for x in rebuilt] if relax else rebuilt

    def settings(self, asked: Search) -> Search:
        """What was asked for, else the checkpoint's defaults; in open loop without beam and weights.

        Raises
        ------
        InputError
            If a number is out of range, or this checkpoint knows no such setting.
        """
        defaults = self.defaults
        for name, value in vars(asked).items():
            if value is not None and getattr(defaults, name) is None and not (name == "closed_loop" and not value):
                raise InputError(f"{self.name} knows no {name}; it assigns codes in {self._ways(defaults)}")
        found = dataclasses.replace(defaults, **{k: v for k, v in vars(asked).items() if v is not None})
        if found.beam is not None and found.beam < 1:
            raise InputError(f"beam must be at least 1, not {found.beam}")
        for name in ("latent_weight", "rate_weight", "refine"):
            if not 0 <= (getattr(found, name) or 0) < math.inf:
                raise InputError(f"{name} must be at least 0 and finite, not {getattr(found, name)}")
        return found if found.closed_loop else Search(closed_loop=False, refine=found.refine)

    def _ways(self, defaults: Search) -> str:
        known = [name for name, value in vars(defaults).items() if value is not None and name != "closed_loop"]
        return "open loop only" if defaults.closed_loop is None else f"closed loop by {' and '.join(known)}"

    def check(self, tokens: Tokens) -> None:
        """Raise `TokensError` unless these are tokens of this model, codes in range."""
        tokens.check_made_by(self.name, self.modality)
        where = tokens.where
        if tokens.codes.max(initial=-1) < 0:
            raise TokensError(f"{where}: no codes")
        if len(tokens) > self.max_length:
            raise TokensError(f"{where}: {len(tokens)} codes, but {self.name} takes {self.max_length} {self.unit}")
        for stream in self.streams:
            codes = getattr(tokens, stream.name)
            if codes is None or (codes.min() >= 0 and codes.max() < stream.size):
                continue
            wrong = (codes < 0) | (codes >= stream.size)
            if stream.name != "codes":
                wrong &= codes != -1
            elif self.missing:
                wrong &= (codes != -1) | tokens.mask
            if wrong.any():
                at = int(np.flatnonzero(wrong)[0])
                raise TokensError(
                    f"{where}: code {codes[at]} at {at} of the {stream.name} is outside 0..{stream.size - 1} "
                    f"of {self.name}"
                )

    @abstractmethod
    def tensors(self) -> dict[str, Any]:
        """What `save` writes beside the config."""

    @abstractmethod
    def prepare(self, x: Any) -> Item:
        """A structure in the form that `assign` takes, checked."""

    def prepare_many(self, xs: Sequence[Any]) -> list[Item]:
        """As `prepare`, for many."""
        return [self.prepare(x) for x in xs]

    @abstractmethod
    def assign(self, items: Sequence[Item], search: Search, batch_size: int) -> list[Int[np.ndarray, " l"]]:
        """Codes of prepared structures; `search` is complete, with a beam in closed loop only."""

    @abstractmethod
    def tokens(self, item: Item, codes: Int[np.ndarray, " l"]) -> Tokens:
        """The record of a prepared structure and its codes."""

    @abstractmethod
    def rebuild(self, many: Sequence[Tokens], batch_size: int) -> list[Structure]:
        """Structures of checked tokens."""

    def compare(self, structure: Any, back: Structure, tokens: Tokens) -> dict[str, Any]:
        """Metrics of a rebuilt structure against the original, by name (RMSD in Å)."""
        raise InputError(f"{self.name}: no metrics for {self.modality} structures")

    def relax(self, structure: Structure) -> Structure:
        """The structure after a force field; as it is where there is none."""
        return structure
