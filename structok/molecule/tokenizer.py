"""`MolStrucTok`: molecules to tokens and back, with the published model, our own, or the topology-conditioned one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from structok.batching import by_length
from structok.checkpoint import check_tensors, make_config, write_checkpoint
from structok.errors import CheckpointError, InputError, StructokError, TokensError
from structok.molecule.batch import atom_mask, pad, topo_batch
from structok.molecule.conformer import Conformer, add_conformer, minimise, molecule_of, prepare, read_molecules
from structok.molecule.graph import bonds_of, graph_of
from structok.molecule.model import MolStrucTokConfig, MolStrucTokModel
from structok.molecule.placement import Placement, TablePlacement, TopoPlacement
from structok.molecule.search import closed_loop as search
from structok.molecule.spherical import levels, orient, reference_atoms
from structok.molecule.topo import TopoDecoder
from structok.molecule.topology import topology_of
from structok.tokens import Tokens

if TYPE_CHECKING:
    from rdkit.Chem import Mol

    from structok.molecule.topo_cpu import Network

__all__ = ["MolStrucTok"]

_ATOMS = 1 << 14  # padded atoms in a batch at most


class MolStrucTok:
    """Molecule tokenizer: one code per atom, explicit hydrogens included.

    Parameters
    ----------
    model : `MolStrucTokModel` for decoder 'branch' or 'shared', `TopoDecoder` for 'topo'
    config : its settings
    name : of the checkpoint, written into the tokens
    device : where it runs
    """

    modality = "molecule"

    def __init__(
        self,
        model: MolStrucTokModel | TopoDecoder,
        config: MolStrucTokConfig,
        name: str = "molstructok",
        device: str = "cpu",
    ):
        self.model, self.config, self.name, self.device = model.to(device).eval(), config, name, device
        if isinstance(model, MolStrucTokModel):
            with torch.no_grad():
                self._table = model.table()

    @cached_property
    def _network(self) -> Network | None:
        """The decoder as the search on the CPU needs it."""
        if self.device != "cpu" or not isinstance(self.model, TopoDecoder):
            return None
        from structok.molecule.topo_cpu import Network

        return Network.of(self.model)

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return self.config.codebook_size

    @property
    def max_length(self) -> int:
        """Most atoms a molecule may have."""
        return self.config.max_length

    @classmethod
    def from_checkpoint(
        cls, name: str, config: dict[str, Any], tensors: dict[str, Tensor], device: str = "cpu"
    ) -> MolStrucTok:
        """Build from what `structok.checkpoint.read_checkpoint` returns; strict.

        Raises
        ------
        CheckpointError
            If config keys, tensor names or shapes are not exactly the expected ones.
        """
        settings = make_config(MolStrucTokConfig, config, name)
        model: MolStrucTokModel | TopoDecoder
        if settings.decoder in ("branch", "shared"):
            model = MolStrucTokModel(settings)
        elif settings.decoder == "topo":
            model = TopoDecoder(
                settings.codebook_size, settings.n_fixed, settings.width, settings.hidden, settings.rounds
            )
        else:
            raise CheckpointError(f"{name}: decoder {settings.decoder!r} is none of branch, shared, topo")
        check_tensors({k: tuple(v.shape) for k, v in model.state_dict().items()}, tensors, name)
        model.load_state_dict(tensors)
        return cls(model, settings, name, device)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write a checkpoint folder that `structok.load` reads."""
        write_checkpoint(folder, "molstructok", self.config, self.model.state_dict())

    def encode(
        self, x: Mol | str | os.PathLike[str], *, closed_loop: bool | None = None, beam: int | None = None
    ) -> Tokens:
        """Tokenize one molecule.

        Parameters
        ----------
        x : sanitised Mol with explicit hydrogens and a 3D conformer, or the path of a file that holds one
        closed_loop : pick codes against the reconstruction so far (True) or each by itself (False);
            default: the checkpoint's
        beam : hypotheses of the closed loop; default: the checkpoint's

        Raises
        ------
        InputError
            If the molecule cannot be tokenized; the message names it and the way out.
        """
        return self.encode_batch([x], closed_loop=closed_loop, beam=beam)[0]

    def encode_batch(
        self,
        xs: Sequence[Mol | str | os.PathLike[str]],
        *,
        batch_size: int = 256,
        closed_loop: bool | None = None,
        beam: int | None = None,
    ) -> list[Tokens]:
        """Tokenize many molecules, `batch_size` of similar size at a time; the same tokens as one by one."""
        if beam is not None and beam < 1:
            raise InputError(f"beam {beam}: at least 1 hypothesis is needed")
        conformers = [self._prepare(x) for x in xs]
        closed = self.config.closed_loop if closed_loop is None else closed_loop
        codes: list[Int[np.ndarray, " n"]] = [np.empty(0, np.int64)] * len(xs)
        for rows in by_length([len(c) for c in conformers], batch_size, most=_ATOMS):
            batch = [conformers[i] for i in rows]
            found = self.assign(batch, closed, beam or self.config.beam).cpu().numpy()
            for i, row in zip(rows, found):
                codes[i] = row[: len(conformers[i])]
        return [
            Tokens(k, "molecule", self.name, id=c.id, selfies=c.selfies, atom_order=c.order)
            for c, k in zip(conformers, codes)
        ]

    def _prepare(self, x: Mol | str | os.PathLike[str]) -> Conformer:
        if not isinstance(x, (str, os.PathLike)):
            return prepare(x, max_length=self.max_length)
        molecules = list(read_molecules(x))
        if len(molecules) > 1:
            raise InputError(f"{x}: {len(molecules)} molecules; read_molecules gives them one by one")
        [(name, mol)] = molecules
        if isinstance(mol, StructokError):
            raise mol
        return prepare(mol, name, max_length=self.max_length)

    def assign(self, batch: list[Conformer], closed: bool, beam: int) -> Int[Tensor, "b n"]:
        """Codes of a batch of prepared molecules, padding behind: what is left of encoding after `prepare`."""
        placement = self.placement([c.mol for c in batch], decoding=False)
        target = orient(pad([c.coords for c in batch], torch.float64, self.device))
        mask = atom_mask([len(c) for c in batch], self.device)
        return search(placement, target, mask, beam=beam) if closed else placement.open_loop(target, mask)

    def placement(self, mols: list[Mol], *, decoding: bool = True) -> Placement:
        """Where each code puts each atom of these molecules, atoms in token order."""
        if isinstance(self.model, TopoDecoder):
            graphs = [graph_of(m) for m in mols]
            batch = topo_batch(graphs, [topology_of(g) for g in graphs], self.device)
            return TopoPlacement(self.model, batch, self.config.bond_weight, self._network)
        refs = [reference_atoms(bonds_of(m), m.GetNumAtoms()) for m in mols]
        level = pad([levels(r) for r in refs], torch.long, self.device) if decoding else None
        padded = pad(refs, torch.long, self.device)
        return TablePlacement(self.model, self._table, padded, level, self.config.bond_weight)

    def decode(self, tokens: Tokens, *, relax: bool = False) -> Mol:
        """Rebuild one molecule.

        Parameters
        ----------
        tokens : codes and SELFIES
        relax : finish with an MMFF94 minimisation, as the published decoder does

        Returns
        -------
        mol : RDKit Mol with one conformer, atoms in token order, stereochemistry perceived from the coordinates

        Raises
        ------
        TokensError
            If these are no molecule tokens, a code is not in the codebook, or the SELFIES gives no molecule
            of as many atoms.
        """
        return self.decode_batch([tokens], relax=relax)[0]

    def decode_batch(self, tokens: Sequence[Tokens], *, batch_size: int = 256, relax: bool = False) -> list[Mol]:
        """Rebuild many molecules, `batch_size` of similar size at a time; the same coordinates as one by one."""
        mols = [self._graph(t) for t in tokens]
        for rows in by_length([len(t) for t in tokens], batch_size, most=_ATOMS):
            placement = self.placement([mols[i] for i in rows])
            codes = pad([tokens[i].codes for i in rows], torch.long, self.device)
            for i, coords in zip(rows, placement.rebuild(codes).cpu().numpy()):
                mols[i] = add_conformer(mols[i], coords[: len(tokens[i])])
                if tokens[i].id:
                    mols[i].SetProp("_Name", tokens[i].id)
        if relax:
            for mol in mols:
                minimise(mol)
        return mols

    def _graph(self, tokens: Tokens) -> Mol:
        name = tokens.id or "tokens"
        tokens.check_made_by(self.name, "molecule")
        assert tokens.selfies is not None  # molecule tokens have one
        if not len(tokens):
            raise TokensError(f"{name}: no atoms")
        if len(tokens) > self.max_length:
            raise TokensError(f"{name}: {len(tokens)} atoms, more than the {self.max_length} of {self.name}")
        if tokens.codes.min() < 0 or tokens.codes.max() >= self.codebook_size:
            raise TokensError(f"{name}: every atom needs a code from 0 to {self.codebook_size - 1}")
        if "." in tokens.selfies:
            raise TokensError(f"{name}: a SELFIES of several fragments; decode them one by one")
        mol = molecule_of(tokens.selfies, name)
        if mol.GetNumAtoms() != len(tokens):
            raise TokensError(
                f"{name}: the SELFIES names {len(tokens)} atoms but only {mol.GetNumAtoms()} of them can be bonded; "
                "drop what its grammar ignores"
            )
        return mol
