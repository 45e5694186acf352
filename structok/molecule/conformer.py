"""Molecules in and out: token order and SELFIES, the graph that a SELFIES stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from structok.errors import InputError, TokensError
from structok.molecule.checks import check_graph, checked_coordinates, difference, is_plain, mapped

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = [
    "Conformer",
    "add_conformer",
    "in_token_order",
    "minimise",
    "molecule_of",
    "prepare",
    "prepare_many",
    "title",
]


@dataclass(frozen=True)
class Conformer:
    """A molecule as the tokenizer sees it.

    Parameters
    ----------
    id : name of the molecule
    mol : sanitised RDKit Mol that the SELFIES stands for, atoms in token order, no conformer
    coords : float64 array, shape=(n, 3), Å, in token order
    selfies : SELFIES whose atom tokens are in the same order
    order : int32 array, shape=(n,), input atom of each token atom
    """

    id: str
    mol: Mol
    coords: Float[np.ndarray, "n 3"]
    selfies: str
    order: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.coords)


def in_token_order(mol: Mol) -> tuple[str, list[int]]:
    """Canonical Kekulé SMILES without stereo, and the input atom of each of its atoms.

    Tokens follow this order. Chirality is left to the coordinates, and so is the isotope.
    """
    from rdkit import Chem

    smiles = Chem.MolToSmiles(mol, kekuleSmiles=True, isomericSmiles=False)
    return smiles, list(mol.GetPropsAsDict(includePrivate=True, includeComputed=True)["_smilesAtomOutputOrder"])


def molecule_of(selfies: str, where: str = "tokens") -> Mol:
    """Sanitised Mol of a SELFIES with explicit hydrogens, atoms in the order of its atom tokens.

    Nothing is added to what the tokens say: an atom short of hydrogens is a radical.

    Raises
    ------
    TokensError
        If it is no SELFIES, derives no molecule, or RDKit rejects that molecule.
    """
    import selfies as sf
    from rdkit import Chem, rdBase

    try:
        smiles = sf.decoder(selfies)
    except sf.DecoderError as error:
        raise TokensError(f"{where}: not a SELFIES string that can be decoded ({_line(error)})") from None
    params: Any = Chem.SmilesParserParams()
    params.removeHs = False
    params.sanitize = False
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles, params)
        if mol is None or not mol.GetNumAtoms():
            raise TokensError(f"{where}: the SELFIES derives no molecule ({smiles[:60]!r})")
        for atom in mol.GetAtoms():
            atom.SetNoImplicit(True)
            atom.SetNumExplicitHs(0)
        try:
            Chem.SanitizeMol(mol)
        except ValueError as error:
            raise TokensError(f"{where}: RDKit rejects the molecule of the SELFIES ({_line(error)})") from None
    return mol


def _line(error: Exception) -> str:
    """First line of another package's message."""
    return str(error).strip().split("\n")[0] or type(error).__name__


def prepare(mol: Mol, max_length: int = 1000) -> Conformer:
    """Check a molecule and bring it to token order.

    Parameters
    ----------
    mol : Mol with explicit hydrogens and one 3D conformer (the first is taken); `_Name` is its name
    max_length : atoms at most

    Raises
    ------
    InputError
        No conformer, a flat or broken one, missing hydrogens, valences that RDKit rejects, several fragments,
        dummy atoms, bonds or valences that SELFIES does not know, a SELFIES that does not give the molecule
        back, or too many atoms.
    """
    return prepare_many([mol], max_length)[0]


def prepare_many(mols: Sequence[Mol], max_length: int = 1000) -> list[Conformer]:
    """As `prepare`, each step for all molecules before the next: their code stays in the processor's caches."""
    named = [(mol, title(mol)) for mol in mols]
    for mol, name in named:
        n = mol.GetNumAtoms()
        if not n:
            raise InputError(f"{name}: no atoms")
        if n > max_length:
            raise InputError(f"{name}: {n} atoms, more than the {max_length} this model takes; split the molecule")
    coords = [checked_coordinates(mol, name) for mol, name in named]
    named = [(_sanitised(mol, name), name) for mol, name in named]
    for mol, name in named:
        check_graph(mol, name)
    smiles, orders = zip(*(in_token_order(mol) for mol, _ in named)) if named else ((), ())
    selfies = [_selfies(text, name) for text, (_, name) in zip(smiles, named)]
    graphs = [_read_back(mol, order, text, name) for (mol, name), order, text in zip(named, orders, selfies)]
    return [
        Conformer(name, graph, xyz[order], text, np.array(order, dtype=np.int32))
        for (_, name), graph, xyz, text, order in zip(named, graphs, coords, selfies, orders)
    ]


def title(mol: Mol) -> str:
    """Name of a molecule in messages and tokens."""
    return (mol.GetProp("_Name").strip() if mol.HasProp("_Name") else "") or "molecule"


def _read_back(mol: Mol, order: list[int], selfies: str, name: str) -> Mol:
    """The molecule that a SELFIES stands for; where nothing can differ, the molecule itself in token order."""
    from rdkit import Chem

    if is_plain(mol):
        back = Chem.RenumberAtoms(mol, order)
        back.RemoveAllConformers()
        return back
    try:
        back = molecule_of(selfies, name)
    except TokensError as error:
        raise InputError(f"{error}; the molecule has no faithful SELFIES") from None
    if changed := difference(mol, order, back):
        raise InputError(f"{name}: SELFIES does not give the molecule back ({changed})")
    return back


def _sanitised(mol: Mol, name: str) -> Mol:
    """Copy with aromaticity as RDKit sees it and without atom maps, so that it compares with the SELFIES read back."""
    from rdkit import Chem, rdBase

    mol = Chem.Mol(mol)
    for atom in mol.GetAtomsMatchingQuery(mapped()):
        atom.SetAtomMapNum(0)
    try:
        with rdBase.BlockLogs():
            Chem.SanitizeMol(mol)
    except ValueError as error:
        raise InputError(f"{name}: RDKit rejects the molecule ({_line(error)})") from None
    return mol


def _selfies(smiles: str, name: str) -> str:
    import selfies as sf

    try:
        return sf.encoder(smiles)
    except sf.EncoderError as error:
        reason = next((line.strip() for line in str(error).split("\n") if "exceed" in line), _line(error))
        raise InputError(f"{name}: SELFIES cannot write {smiles[:80]} ({reason})") from None


def add_conformer(mol: Mol, coords: Float[np.ndarray, "n 3"]) -> Mol:
    """Copy of `mol` with one 3D conformer; stereochemistry is perceived from it."""
    from rdkit import Chem

    mol = Chem.Mol(mol)
    conformer = Chem.Conformer(len(coords))
    conformer.Set3D(True)
    conformer.SetPositions(np.ascontiguousarray(coords, dtype=np.float64))
    mol.RemoveAllConformers()
    mol.AddConformer(conformer, assignId=True)
    Chem.AssignStereochemistryFrom3D(mol)
    return mol


def minimise(mol: Mol, steps: int = 500) -> None:
    """Relax the conformer in place with MMFF94, or with UFF where MMFF94 lacks parameters.

    Raises
    ------
    InputError
        If neither force field knows the molecule.
    """
    from rdkit.Chem import rdForceFieldHelpers as fields

    if fields.MMFFHasAllMoleculeParams(mol):
        fields.MMFFOptimizeMolecule(mol, maxIters=steps)
    elif fields.UFFHasAllMoleculeParams(mol):
        fields.UFFOptimizeMolecule(mol, maxIters=steps)
    else:
        raise InputError(f"{title(mol)}: no MMFF94 or UFF parameters for its atoms; decode it without relax")
