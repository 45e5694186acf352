"""`MolStrucTok`: molecules to tokens and back, with the published model, our own, or the topology-conditioned one."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from structok.batching import in_batches
from structok.checkpoint import check_tensors, make_config
from structok.errors import InputError, StructokError, TokensError
from structok.molecule.batch import atom_mask, pad, topo_batch
from structok.molecule.conformer import Conformer, add_conformer, minimise, molecule_of, prepare_many, title
from structok.molecule.graph import bonds_of, graphs_of
from structok.molecule.model import MolStrucTokConfig, MolStrucTokModel
from structok.molecule.placement import Placement, TablePlacement, TopoPlacement
from structok.molecule.search import closed_loop
from structok.molecule.spherical import orient, reference_atoms
from structok.molecule.topo import TopoDecoder
from structok.molecule.topology import topology_of
from structok.read.molecules import molecule_notes, read_molecules
from structok.tokenizer import Search, Tokenizer
from structok.tokens import Tokens

if TYPE_CHECKING:
    from rdkit.Chem import Mol

    from structok.molecule.topo_cpu import Network

__all__ = ["MolStrucTok"]

logger = logging.getLogger("structok")

_ATOMS = 1 << 14  # padded atoms in a batch at most


class MolStrucTok(Tokenizer[Conformer, "Mol"]):
    """Molecule tokenizer: one code per atom, explicit hydrogens included.

    Parameters
    ----------
    model : `MolStrucTokModel` for decoder 'branch' or 'shared', `TopoDecoder` for 'topo'
    config : its settings
    name : of the checkpoint, written into the tokens
    device : where it runs
    """

    modality = "molecule"
    formats = ("sdf",)
    kind = "molstructok"
    unit = "atoms"
    sizes = (256, 256)

    def __init__(
        self,
        model: MolStrucTokModel | TopoDecoder,
        config: MolStrucTokConfig,
        name: str = "molstructok",
        device: str = "cpu",
    ):
        super().__init__(config, name, device)
        self.model = model.to(device).eval()
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
        else:
            model = TopoDecoder(
                settings.codebook_size, settings.n_fixed, settings.width, settings.hidden, settings.rounds
            )
        check_tensors({k: tuple(v.shape) for k, v in model.state_dict().items()}, tensors, name)
        model.load_state_dict(tensors)
        return cls(model, settings, name, device)

    def tensors(self) -> dict[str, Tensor]:
        return self.model.state_dict()

    def prepare(self, x: Mol | str | os.PathLike[str]) -> Conformer:
        """A sanitised Mol with explicit hydrogens and a 3D conformer, or the path of a file that holds one."""
        return self.prepare_many([x])[0]

    def prepare_many(self, xs: Sequence[Mol | str | os.PathLike[str]]) -> list[Conformer]:
        return prepare_many([_molecule(x) for x in xs], max_length=self.max_length)

    def encode(self, x: Mol | str | os.PathLike[str], *, search: Search | None = None, **options: Any) -> Tokens:
        """As `Tokenizer.encode`; what tokens do not hold (isotopes, atom maps) is told to the logger 'structok'."""
        mol = _molecule(x)
        for note in molecule_notes(mol):
            logger.info("%s: %s", title(mol), note)
        return super().encode(mol, search=search, **options)

    def assign(self, items: Sequence[Conformer], search: Search, batch_size: int) -> list[Int[np.ndarray, " n"]]:
        def work(part: list[int]) -> Int[np.ndarray, "b n"]:
            return self.assign_batch([items[i] for i in part], search.beam).cpu().numpy()

        return in_batches(work, [len(c) for c in items], batch_size, most=_ATOMS)

    def tokens(self, item: Conformer, codes: Int[np.ndarray, " n"]) -> Tokens:
        return Tokens(codes, "molecule", self.name, id=item.id, selfies=item.selfies, atom_order=item.order)

    def assign_batch(self, batch: list[Conformer], beam: int | None) -> Int[Tensor, "b n"]:
        """Codes of a batch of prepared molecules, padding behind; without a beam in open loop."""
        placement = self.placement([c.mol for c in batch])
        target = orient(pad([c.coords for c in batch], torch.float64, self.device))
        mask = atom_mask([len(c) for c in batch], self.device)
        return closed_loop(placement, target, mask, beam=beam) if beam else placement.open_loop(target, mask)

    def placement(self, mols: list[Mol]) -> Placement:
        """Where each code puts each atom of these molecules, atoms in token order."""
        if isinstance(self.model, TopoDecoder):
            graphs = graphs_of(mols)
            batch = topo_batch(graphs, [topology_of(g) for g in graphs], self.device)
            return TopoPlacement(self.model, batch, self.config.bond_weight, self._network)
        refs = [reference_atoms(bonds_of(m), m.GetNumAtoms()) for m in mols]
        return TablePlacement(self.model, self._table, pad(refs, torch.long, self.device), self.config.bond_weight)

    def rebuild(self, many: Sequence[Tokens], batch_size: int) -> list[Mol]:
        """RDKit Mols with one conformer, atoms in token order, stereochemistry perceived from the coordinates."""
        mols = [self._graph(t) for t in many]

        def work(part: list[int]) -> Float[np.ndarray, "b n 3"]:
            codes = pad([many[i].codes for i in part], torch.long, self.device)
            return self.placement([mols[i] for i in part]).rebuild(codes).cpu().numpy()

        rows = in_batches(work, [len(t) for t in many], batch_size, most=_ATOMS)
        built = [add_conformer(mol, coords) for mol, coords in zip(mols, rows)]
        for mol, tokens in zip(built, many):
            if tokens.id:
                mol.SetProp("_Name", tokens.id)
        return built

    def compare(self, structure: Mol, back: Mol, tokens: Tokens) -> dict[str, Any]:
        from structok.molecule.metrics import compare_molecules  # only who evaluates needs it

        return compare_molecules(structure, back, tokens)

    def relax(self, structure: Mol) -> Mol:
        minimise(structure)
        return structure

    def _graph(self, tokens: Tokens) -> Mol:
        name = tokens.where
        assert tokens.selfies is not None  # molecule tokens have one
        if "." in tokens.selfies:
            raise TokensError(f"{name}: a SELFIES of several fragments; decode them one by one")
        mol = molecule_of(tokens.selfies, name)
        if mol.GetNumAtoms() != len(tokens):
            raise TokensError(
                f"{name}: the SELFIES names {len(tokens)} atoms but only {mol.GetNumAtoms()} of them can be bonded; "
                "drop what its grammar ignores"
            )
        return mol


def _molecule(x: Mol | str | os.PathLike[str]) -> Mol:
    """A Mol, or the only one of a file, named."""
    if not isinstance(x, (str, os.PathLike)):
        return x
    molecules = list(read_molecules(x))
    if len(molecules) > 1:
        raise InputError(f"{x}: {len(molecules)} molecules; read_molecules gives them one by one")
    [(name, mol)] = molecules
    if isinstance(mol, StructokError):
        raise mol
    mol.SetProp("_Name", name)
    return mol
