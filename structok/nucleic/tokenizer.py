"""nucleic-vq: DNA and RNA as rigid steps and conformers, two codes per nucleotide, both in closed loop."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from structok.chains import ChainTokenizer
from structok.checkpoint import check_tensors, make_config
from structok.codebook.nearest import nearest_code
from structok.errors import CheckpointError, InputError
from structok.geometry import apply, backbone_frames, invert
from structok.nucleic.atoms import BACKBONE, BASES, IN_FRAME, SLOTS
from structok.nucleic.chain import NucleicChain
from structok.nucleic.choice import best_path, contacts_of, settle
from structok.nucleic.conformers import (
    O3,
    POINTS,
    SUGAR_OXYGENS,
    Bases,
    Conformers,
    Options,
    P,
    observed_points,
    weights,
)
from structok.nucleic.metrics import compare_atoms, frame_rmsd
from structok.polymer.anchors import Anchoring
from structok.polymer.chain import ChainModel
from structok.polymer.link import Link
from structok.polymer.local import onto_rebuilt
from structok.polymer.search import pose_rows
from structok.read.structures import structure
from structok.structure import Polymer, check_bond
from structok.tokenizer import Search
from structok.tokens import Stream, Tokens, declare

__all__ = ["NucleicVQ", "NucleicVQConfig"]

LINK = Link(limit=9.0, stride=6.0)  # C1' to C4', C3' to C3' (A-form 5.9 Å, B-form 6.5 Å)
BOND = 2.5  # Å, from O3' to P
REACH = 6.0  # Å; a nucleotide with an atom that no conformer comes nearer to is of another kind
UNIT, NONE = 0.001, np.iinfo(np.int16).min  # Å, of stored coordinates; an atom that is not there
_MADE = 0.01  # Å², error of a step or conformer up to which a chain counts as made of codes (files round to 0.001 Å)
_OXYGENS = [BACKBONE.index(name) for name in SUGAR_OXYGENS]


@dataclass(frozen=True)
class NucleicVQConfig:
    """Configuration of a nucleic-vq checkpoint.

    codebook_size : number of steps, those for chain breaks included
    conformers : number of conformers of RNA, and of DNA
    n_break : how many of the steps, the last ones, are long steps over chain breaks
    n_bare : how many of the conformers, the last ones, have no phosphate
    beam, closed_loop : how `encode` searches unless asked otherwise, see `Search`
    choices : conformers of each nucleotide between which links to its neighbours and base pairs decide
    max_length : longest chain, in nucleotides
    anchors : that tokens carry, None without
    """

    codebook_size: int
    conformers: int
    n_break: int = 0
    n_bare: int = 0
    beam: int = 256
    closed_loop: bool = True
    choices: int = 64
    max_length: int = 8192
    anchors: Anchoring | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.n_break < self.codebook_size:
            raise CheckpointError(f"n_break {self.n_break} leaves none of {self.codebook_size} codes for bonds")
        if not 0 < self.n_bare < self.conformers:
            raise CheckpointError(f"n_bare {self.n_bare} of {self.conformers} conformers: some of each kind are needed")


class NucleicVQ(ChainTokenizer[NucleicChain]):
    """Tokenizer of DNA and RNA with all heavy atoms.

    A step places the frame (C4', C3', C1') of a nucleotide after the one before; its conformer says where in that frame
    phosphate, sugar and base lie, and the frame's own atoms better than the step. Nucleotides whose frame is missing
    carry a bridge, as in proteins. One of which too little else is there (no base, less than half a sugar) has
    conformer -1 and comes back as its frame only. A nucleotide without a phosphate comes back without; of one that
    lacks other atoms, all come back.

    Parameters
    ----------
    config : see `NucleicVQConfig`
    steps : shape=(codebook_size, 3, 3), Å
    books : conformers of 'rna' and 'dna', shape=(conformers, 15, 3), Å, see `conformers.POINTS`
    templates : atoms of each base, Å
    """

    modality: ClassVar = "nucleic"
    kind = "nucleic-vq"
    unit = "nucleotides"

    def __init__(
        self,
        config: NucleicVQConfig,
        steps: Float[Tensor, "k 3 3"],
        books: dict[str, Float[Tensor, "c p 3"]],
        templates: dict[str, Float[Tensor, "n 3"]],
        *,
        name: str = "nucleic-vq",
        device: str = "cpu",
    ) -> None:
        super().__init__(config, name, device)
        self.model = ChainModel(steps.to(device), config.n_break, link=LINK)
        self.books = {kind: Conformers(book, config.n_bare) for kind, book in books.items()}
        self.bases = Bases(templates)

    @classmethod
    def from_checkpoint(
        cls, name: str, config: dict[str, Any], tensors: dict[str, Tensor], *, device: str = "cpu"
    ) -> NucleicVQ:
        """Build from what `structok.checkpoint.read_checkpoint` read; strict. Conformers stay on the CPU."""
        built = make_config(NucleicVQConfig, config, name)
        expected: dict[str, tuple[int, ...]] = {"steps": (built.codebook_size, 3, 3)}
        expected |= dict.fromkeys(("rna", "dna"), (built.conformers, POINTS, 3))
        expected |= {letter: (len(names), 3) for letter, names in BASES.items()}
        check_tensors(expected, tensors, name)
        books = {kind: _widen(tensors[kind]) for kind in ("rna", "dna")}
        return cls(built, tensors["steps"], books, {x: tensors[x] for x in BASES}, name=name, device=device)

    def tensors(self) -> dict[str, Tensor]:
        books = {kind: _narrow(book.points) for kind, book in self.books.items()}
        templates = {letter: template.float() for letter, template in self.bases.templates.items()}
        return {"steps": self.model.steps.float(), **books, **templates}

    @property
    def streams(self) -> tuple[Stream, ...]:
        anchors = {"anchors": len(self.points)} if self.config.anchors else {}
        return declare("nucleic", codes=self.codebook_size, conformers=self.config.conformers, **anchors)

    def compare(self, structure: NucleicChain, back: NucleicChain, tokens: Tokens) -> dict[str, Any]:
        return {
            "length": len(tokens),
            "rmsd": compare_atoms(back.atoms, structure.atoms).rmsd,
            "rmsd_frames": frame_rmsd(back.atoms, structure.atoms),
            "bits_per_token": math.log2(self.codebook_size) + math.log2(self.config.conformers),
        }

    def prepare(self, x: Any) -> NucleicChain:
        """A `NucleicChain`, a nucleic `Polymer`, or a path (one nucleic chain)."""
        if isinstance(x, (str, os.PathLike)):
            chains = structure(x).nucleic
            if len(chains) != 1:
                ids = ", ".join(c.chain_id for c in chains) or "none"
                raise InputError(f"{os.fspath(x)}: one nucleic chain is needed, it holds {ids}")
            x = chains[0]
        if isinstance(x, Polymer) and x.kind == "nucleic":
            x = NucleicChain.of(x)
        if not isinstance(x, NucleicChain):
            raise InputError(f"{self.name} takes a NucleicChain, a nucleic Polymer or a path, not {type(x).__name__}")
        where = f"{x.name or 'structure'}, chain {x.chain_id}"
        if x.mask.sum() < 2:
            raise InputError(
                f"{where}: {int(x.mask.sum())} nucleotide(s) with C4', C3' and C1'; a chain needs at least 2"
            )
        if len(x) > self.max_length:
            raise InputError(f"{where}: {len(x)} nucleotides, {self.name} takes {self.max_length}; split the chain")
        check_bond("C4'-C3'", x.frames[x.mask, 0], x.frames[x.mask, 1], 1.52, where)  # Gelbin et al. 1996
        wrong = sorted(set(x.sequence) - set("ACGUTXacgutx"))
        if wrong:
            raise InputError(f"{where}: unknown letters {', '.join(wrong)}; use ACGUTX for RNA, acgutx for DNA")
        return x

    def assign(self, items: Sequence[NucleicChain], search: Search, batch_size: int) -> list[Int[np.ndarray, "two l"]]:
        found = [self._made_of_codes(chain) for chain in items]
        todo = [i for i, codes in enumerate(found) if codes is None]
        frames = [torch.from_numpy(items[i].frames) for i in todo]
        for i, row in zip(todo, self.model.encode(frames, beam=search.beam, batch_size=batch_size)):
            found[i] = np.stack([row.numpy(), self._conformers(items[i], row)])
        return [codes for codes in found if codes is not None]

    def _points(self, chain: NucleicChain) -> Float[Tensor, "l 15 3"]:
        """Backbone and bases' points, Å."""
        atoms = torch.from_numpy(chain.atoms)
        return torch.cat([atoms[:, : len(BACKBONE)], self.bases.points(atoms, chain.sequence)], 1)

    @cached_property
    def _shapes(self) -> dict[str, Conformers]:
        """Conformers in the frames of their own atoms: what they are like wherever they lie."""
        points = {kind: book.points.double() for kind, book in self.books.items()}
        own = {kind: apply(invert(backbone_frames(x[:, IN_FRAME])), x) for kind, x in points.items()}
        return {kind: Conformers(x, self.config.n_bare) for kind, x in own.items()}

    def _made_of_codes(self, chain: NucleicChain) -> Int[np.ndarray, "two l"] | None:
        """Codes of a chain that our decoder made, so that encoding again changes nothing; None of others.

        Only of whole chains. The shape of a nucleotide tells its conformer, and where the frame of the steps lies.
        """
        points = self._points(chain).double()
        frames = backbone_frames(points[:, IN_FRAME])
        local = apply(invert(frames), points).float()
        if not (chain.mask.all() and observed_points(local, chain.sequence).all()):
            return None
        codes, weight = torch.empty(2, len(chain), dtype=torch.long), weights(local, chain.sequence)
        for kind, rows in _by_sugar(chain.sequence, torch.from_numpy(chain.mask)):
            for some in (rows[:1], rows):  # of other chains the first nucleotide tells
                error, code = self._shapes[kind].nearest(local[some], weight[some], 1)
                if not (error < _MADE).all():
                    return None
            codes[1, rows] = code[:, 0]
            placed = self.books[kind].points[code[:, 0]][:, IN_FRAME].double()
            frames[rows] = frames[rows] @ invert(backbone_frames(placed))
        steps, known = pose_rows(invert(frames[:-1]) @ frames[1:]), pose_rows(self.model.transforms.cpu())
        error, index = nearest_code(steps, known)
        codes[0] = torch.cat([index[:1], index])  # the first places nothing, the conformer says how it looks
        return codes.numpy() if bool((error < _MADE).all()) else None

    def _conformers(self, chain: NucleicChain, codes: Int[Tensor, " l"]) -> Int[np.ndarray, " l"]:
        """Conformer codes on the frames that the steps rebuild."""
        rebuilt = self.model.decode(codes.to(self.device)).cpu()
        rebuilt = torch.where(torch.from_numpy(chain.mask)[:, None, None], rebuilt, torch.nan)
        atoms, points = torch.from_numpy(chain.atoms), self._points(chain)
        bases = points[:, len(BACKBONE) :]
        local = onto_rebuilt(torch.cat([points[:, IN_FRAME], points], 1), rebuilt)[:, 3:]
        able = observed_points(local, chain.sequence)
        weight = weights(local, chain.sequence)
        count = self.config.choices
        options = Options(torch.zeros(len(chain), count), torch.full((len(chain), count), -1))
        parts = [P, O3, *_OXYGENS, *range(len(BACKBONE), POINTS)]
        placed = torch.full((len(chain), count, len(parts), 3), torch.nan, dtype=torch.float64)
        for kind, rows in _by_sugar(chain.sequence, able):
            options.error[rows], options.code[rows] = self.books[kind].nearest(local[rows], weight[rows], count)
            book = self.books[kind].points[:, parts].double()
            put = apply(backbone_frames(rebuilt[rows]), book[options.code[rows].clamp(min=0)].flatten(1, 2))
            placed[rows] = put.unflatten(1, (count, -1))
        ends, polar = placed[:, :, :2], placed[:, :, 2:]
        linked = torch.nn.functional.pad((atoms[1:, 0] - atoms[:-1, 8]).norm(dim=-1) <= BOND, (1, 0))
        path = best_path(options, ends, linked)
        contacts = contacts_of(chain.atoms, bases.numpy(), chain.sequence)
        path = settle(path, options, ends, linked, polar, bases, contacts, chain.sequence, self.bases)
        chosen = options.code[torch.arange(len(chain)), torch.from_numpy(path)]
        for kind, rows in _by_sugar(chain.sequence, chosen >= 0):
            off = (self.books[kind].points[chosen[rows]] - local[rows]).norm(dim=-1)
            off = torch.where(weight[rows] > 0, off, 0.0).nan_to_num(0.0).amax(1)
            chosen[rows[off > REACH]] = -1
        return chosen.numpy()

    def trace(self, chain: NucleicChain) -> Float[np.ndarray, "l 3"]:
        return chain.frames[:, 1]

    def plain(self, item: NucleicChain, codes: Int[np.ndarray, "two l"]) -> Tokens:
        return Tokens(
            codes[0],
            "nucleic",
            self.name,
            mask=item.mask,
            id=item.name,
            chain=item.chain_id,
            sequence=item.sequence,
            residue_ids=tuple(item.residue_ids),
            conformers=codes[1],
        )

    def built(self, tokens: Tokens, coords: Float[Tensor, "l 3 3"]) -> NucleicChain:
        sequence = tokens.sequence or "X" * len(tokens)
        atoms = torch.full((len(tokens), SLOTS, 3), torch.nan, dtype=torch.float64)
        atoms[:, IN_FRAME] = coords
        if tokens.conformers is not None:
            code = torch.from_numpy(tokens.conformers.astype(np.int64))
            coded = code >= 0
            points = torch.full((len(tokens), POINTS, 3), torch.nan, dtype=torch.float64)
            frames = backbone_frames(coords)
            for kind, rows in _by_sugar(sequence, coded):
                points[rows] = apply(frames[rows], self.books[kind].points[code[rows]].double())
            atoms[coded, : len(BACKBONE)] = points[coded, : len(BACKBONE)]
            self.bases.place(points[:, len(BACKBONE) :], sequence, atoms)
        atoms[~torch.from_numpy(tokens.mask)] = torch.nan
        chain_id = "A" if tokens.chain is None else tokens.chain
        return NucleicChain(atoms.float().numpy(), sequence, chain_id, tokens.residue_ids, name=tokens.id)


def _by_sugar(sequence: str, rows: Tensor) -> list[tuple[str, Int[Tensor, " m"]]]:
    """The slots among `rows` that are RNA, and those that are DNA."""
    dna = torch.tensor([letter.islower() for letter in sequence])
    found = (("rna", (rows & ~dna).nonzero()[:, 0]), ("dna", (rows & dna).nonzero()[:, 0]))
    return [(kind, some) for kind, some in found if len(some)]


def _narrow(points: Float[Tensor, "k p 3"]) -> Tensor:
    return torch.where(points.isfinite(), (points / UNIT).round(), NONE).to(torch.int16)


def _widen(points: Tensor) -> Float[Tensor, "k p 3"]:
    return torch.where(points == NONE, torch.nan, points.float() * UNIT)
