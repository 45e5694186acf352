"""Side chains of proteins: one conformer code per residue, chosen on the rebuilt backbone.

The sequence is known to the decoder, so that all bits of a code go to the conformer: each residue type has its own
codebook, of side-chain heavy atoms in the frame of the residue's N, CA and C. A code is chosen by where the true atoms
lie in the frame that the decoder will have, and so makes good for part of that frame's error.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from structok.checkpoint import check_tensors, make_config, write_checkpoint
from structok.codebook.nearest import nearest_code
from structok.errors import InputError, TokensError
from structok.geometry import apply, backbone_frames, dihedral, place_oxygen
from structok.polymer.link import PEPTIDE
from structok.polymer.local import onto_rebuilt
from structok.protein.sidechain_atoms import ATOMS, LETTERS
from structok.protein.sidechain_clash import clear_oxygens, untangle

__all__ = ["SideChainConfig", "SideChains"]

UNIT = 0.001  # Å, of the stored conformers: int16 holds ±32 Å
CODED = tuple(letter for letter in LETTERS if letter != "G")
_CODED = np.frombuffer("".join(CODED).encode(), np.uint8)
_CHI1 = 2.0  # Å; more of it keeps chi1 at the cost of the other atoms
_N = torch.tensor([-0.53, 1.36, 0.0])  # usual place of N in the frame, Å
_REACH = 5.0  # Å; a side chain with an atom that no conformer comes nearer to is of another kind


@dataclass(frozen=True)
class SideChainConfig:
    """Configuration of a side-chain checkpoint.

    codebook_size : number of conformers of each residue type
    """

    codebook_size: int


class SideChains:
    """Codebooks of side-chain conformers.

    Glycine and unknown residues have no code (-1). A residue is coded when its side chain is observed at least up to
    the gamma atoms (CB for alanine), by the atoms that are there; the code then stands for the whole side chain, so
    that atoms beyond come back as the conformer has them. Less than that, a D-amino acid, or atoms that no conformer
    comes near to: code -1, and the side chain comes back missing.

    Parameters
    ----------
    config : see `SideChainConfig`
    conformers : of each residue type but glycine, atoms after the backbone in atom14 order, in the residue's frame, Å
    """

    modality = "protein"

    def __init__(
        self, config: SideChainConfig, conformers: Mapping[str, Float[Tensor, "k n 3"]], *, name: str = "sidechain"
    ) -> None:
        self.config, self.name, self.codebook_size = config, name, config.codebook_size
        self.conformers = {letter: conformers[letter].float() for letter in CODED}

    @classmethod
    def from_checkpoint(
        cls, name: str, config: dict[str, Any], tensors: dict[str, Tensor], *, device: str = "cpu"
    ) -> SideChains:
        """Build from what `structok.checkpoint.read_checkpoint` read; strict. The lookup runs on the CPU."""
        built = make_config(SideChainConfig, config, name)
        check_tensors({x: (built.codebook_size, len(ATOMS[x]) - 4, 3) for x in CODED}, tensors, name)
        return cls(built, {letter: tensor.float() * UNIT for letter, tensor in tensors.items()}, name=name)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `config.json` and `model.safetensors`, coordinates rounded to 0.001 Å."""
        tensors = {letter: (x / UNIT).round().to(torch.int16) for letter, x in self.conformers.items()}
        write_checkpoint(folder, "sidechain", self.config, tensors)

    def encode(
        self, atoms: Float[np.ndarray, "l 14 3"], sequence: str, rebuilt: Float[np.ndarray, "l 3 3"]
    ) -> Int[np.ndarray, " l"]:
        """Codes of one chain, int32, -1 where a residue has none.

        Parameters
        ----------
        atoms : heavy atoms in atom14 order (`sidechain_atoms.ATOMS`), Å, NaN = missing
        sequence : one letter per residue
        rebuilt : N, CA, C as the backbone's decoder gives them, in any pose; residues that are missing may be NaN

        Raises
        ------
        InputError
            If the arrays do not fit, or no residue is both observed and rebuilt.
        """
        return self.encode_batch([atoms], [sequence], [rebuilt])[0]

    def encode_batch(
        self,
        atoms: Sequence[Float[np.ndarray, "l 14 3"]],
        sequences: Sequence[str],
        rebuilt: Sequence[Float[np.ndarray, "l 3 3"]],
    ) -> list[Int[np.ndarray, " l"]]:
        """As `encode`, for many chains."""
        local = []
        for x, letters, backbone in zip(atoms, sequences, rebuilt, strict=True):
            _check(x, letters, backbone)
            local.append(onto_rebuilt(torch.as_tensor(x).float(), torch.as_tensor(backbone).float()))
        wrong_hand = [_wrong_hand(torch.as_tensor(x).float()) for x in atoms]
        codes = self.nearest(torch.cat(local), "".join(sequences), torch.cat(wrong_hand))
        lengths = [len(x) for x in local]
        split = [part.numpy().astype(np.int32) for part in codes.split(lengths)]
        placed = self.decode_batch(split, sequences, rebuilt)
        return [untangle(self, *chain) for chain in zip(split, placed, local, sequences, rebuilt, atoms)]

    def nearest(
        self, local: Float[Tensor, "r 14 3"], letters: str, wrong_hand: Bool[Tensor, " r"]
    ) -> Int[Tensor, " r"]:
        """Codes of residues whose atoms are given in the rebuilt frames."""
        codes = torch.full((len(local),), -1)
        seen = local.isfinite().all(-1)
        kind = torch.frombuffer(bytearray(letters, "latin-1"), dtype=torch.uint8)
        for letter, book in self.conformers.items():
            n = book.shape[1]
            able = (kind == ord(letter)) & seen[:, 4 : 4 + min(2, n)].all(1) & ~wrong_hand
            rows = able.nonzero()[:, 0]
            if not len(rows):
                continue
            patterns, of = seen[rows, 4 : 4 + n].unique(dim=0, return_inverse=True)
            for p, there in enumerate(patterns):
                some = rows[of == p]
                index = self.options(letter, local[some], there)[:, 0]
                off = (book[index] - local[some, 4 : 4 + n])[:, there].square().sum(-1).amax(1)
                codes[some] = torch.where(off <= _REACH**2, index, -1)
        return codes

    def options(
        self, letter: str, local: Float[Tensor, "r 14 3"], there: Bool[Tensor, " n"], count: int = 1
    ) -> Int[Tensor, "r c"]:
        """The conformers nearest to residues of one type, by the side-chain atoms that are `there`.

        Nearness is the squared distance of atoms, and that of chi1 on a circle of radius `_CHI1` Å.
        """
        book = self.conformers[letter]
        x, e = local[:, 4 : 4 + book.shape[1]][:, there].flatten(1), book[:, there].flatten(1)
        if book.shape[1] > 1:
            x = torch.cat([x, _on_circle(local[:, 0], local[:, 1], local[:, 4], local[:, 5])], 1)
            e = torch.cat([e, _on_circle(_N.expand(len(e), 3), torch.zeros(len(e), 3), book[:, 0], book[:, 1])], 1)
        count = min(count, len(book))
        return nearest_code(x, e.contiguous(), count)[1].long().view(-1, count)

    def decode(
        self, codes: Int[np.ndarray, " l"], sequence: str, rebuilt: Float[np.ndarray, "l 3 3"]
    ) -> Float[np.ndarray, "l 14 3"]:
        """Heavy atoms of a chain in atom14 order, Å, float32, NaN where there is none.

        The carbonyl O follows from the backbone (`structok.geometry.place_oxygen`), and is turned aside where it would
        run into another atom; where the next residue is missing its place is a guess.

        Raises
        ------
        TokensError
            If a code is out of range, or a residue type has no codes.
        """
        return self.decode_batch([codes], [sequence], [rebuilt])[0]

    def decode_batch(
        self,
        codes: Sequence[Int[np.ndarray, " l"]],
        sequences: Sequence[str],
        rebuilt: Sequence[Float[np.ndarray, "l 3 3"]],
    ) -> list[Float[np.ndarray, "l 14 3"]]:
        """As `decode`, for many chains."""
        for some, letters in zip(codes, sequences, strict=True):
            _check_codes(some, letters, self)
        coords = torch.from_numpy(np.concatenate(rebuilt)).float()
        code = torch.from_numpy(np.concatenate(codes)).long()
        ends = np.cumsum([len(x) for x in sequences])
        out = torch.full((len(coords), 14, 3), torch.nan)
        out[:, :3] = coords
        following = torch.zeros(len(coords), dtype=torch.bool)
        following[:-1] = (coords[1:, 0] - coords[:-1, 2]).norm(dim=-1) <= PEPTIDE.limit
        following[ends - 1] = False
        out[:, 3] = place_oxygen(coords, following)
        frames = backbone_frames(coords)
        kind = torch.frombuffer(bytearray("".join(sequences), "latin-1"), dtype=torch.uint8)
        for letter, book in self.conformers.items():
            rows = ((kind == ord(letter)) & (code >= 0)).nonzero()[:, 0]
            out[rows, 4 : 4 + book.shape[1]] = apply(frames[rows], book[code[rows]])
        chains = np.split(out.numpy(), ends[:-1])
        for chain in chains:
            clear_oxygens(chain)
        return chains


def _on_circle(
    n: Float[Tensor, "r 3"], ca: Float[Tensor, "r 3"], cb: Float[Tensor, "r 3"], gamma: Float[Tensor, "r 3"]
) -> Float[Tensor, "r 2"]:
    """Chi1 as a point of a circle of radius `_CHI1`."""
    chi = dihedral(n, ca, cb, gamma)
    return _CHI1 * torch.stack([chi.cos(), chi.sin()], -1)


def _wrong_hand(atoms: Float[Tensor, "l 14 3"]) -> Bool[Tensor, " l"]:
    """Residues whose CB is where that of a D-amino acid is."""
    n, ca, c, cb = (*atoms[:, :3].unbind(1), atoms[:, 4])
    return (torch.linalg.cross(n - ca, c - ca) * (cb - ca)).sum(-1) < 0


def _check(atoms: Any, sequence: str, rebuilt: Any) -> None:
    shape, backbone = np.shape(atoms), np.shape(rebuilt)
    if shape != (len(sequence), 14, 3) or backbone != (len(sequence), 3, 3):
        raise InputError(f"{len(sequence)} letters, atoms {shape}, backbone {backbone}: expected [L, 14, 3], [L, 3, 3]")
    if not np.isfinite(np.asarray(atoms)[:, :3] + np.asarray(rebuilt)).all((1, 2)).any():
        raise InputError("no residue is both observed and rebuilt")


def _check_codes(codes: Any, sequence: str, model: SideChains) -> None:
    codes = np.asarray(codes)
    if codes.shape != (len(sequence),):
        raise TokensError(f"{len(sequence)} residues but side-chain codes of shape {codes.shape}")
    known = np.isin(np.frombuffer(sequence.encode("latin-1"), np.uint8), _CODED)
    wrong = (codes < -1) | (codes >= model.codebook_size) | ((codes >= 0) & ~known)
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        what = "has no side-chain codes" if not known[at] else f"outside -1..{model.codebook_size - 1} of {model.name}"
        raise TokensError(f"side-chain code {codes[at]} at slot {at} ({sequence[at]}): {what}")
