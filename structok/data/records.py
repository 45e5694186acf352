"""Units to rows of a data set: parsed, checked against the filters, with the keys for duplicates and clusters."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from structok.data.options import BuildOptions
from structok.errors import InputError, StructokError
from structok.read.sources import Unit

if TYPE_CHECKING:
    from structok.nucleic.chain import NucleicChain
    from structok.structure import Backbone, Structure

__all__ = ["MISSING", "SCALE", "Harvest", "harvest"]

SCALE = 0.01  # Å per unit of int16 coordinates
MISSING = int(np.iinfo(np.int16).min)  # int16 coordinate of a missing residue

_TOO_WIDE = "too wide for int16"

Row = dict[str, Any]


@dataclass
class Harvest:
    """What came out of some units: rows, how many chains or molecules were dropped and why, and what failed."""

    rows: list[Row] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[str, str]] = field(default_factory=list)
    aside: int = 0  # units of the other modality


def harvest(units: Sequence[Unit], options: BuildOptions) -> Harvest:
    """Read units; a broken one is noted and the rest goes on."""
    result = Harvest()
    for unit in units:
        kind = "molecule" if options.modality == "molecule" else "protein"
        if not unit.error and unit.modality != kind:
            result.aside += 1
            continue
        try:
            rows = list(_molecules(unit, options) if kind == "molecule" else _chains(unit, options))
        except StructokError as error:
            result.failures.append((unit.source, str(error).removeprefix(f"{unit.source}: ")))
            continue
        except Exception as error:  # nothing that a file may hold stops the rest
            result.failures.append((unit.source, f"{type(error).__name__}: {error}"))
            continue
        for row in rows:
            if isinstance(row, str):
                result.dropped[row] += 1
            else:
                result.rows.append(row)
    return result


def _chains(unit: Unit, options: BuildOptions) -> Iterator[Row | str]:
    """Rows of a file's chains, or why a chain is dropped."""
    from structok.nucleic.chain import NucleicChain
    from structok.read.structures import backbones, parse_structures

    nucleic = options.modality == "nucleic"
    atoms: Literal["all", "backbone"] = "all" if nucleic else options.atoms
    for structure in parse_structures(unit.read(), unit.format, unit.name, unit.source, atoms=atoms):
        if nucleic:
            strands = [NucleicChain.of(polymer) for polymer in structure.nucleic]
            if not strands:
                raise InputError(f"{unit.source}: no DNA or RNA")
            for strand in strands:
                centre = strand.frames[strand.mask].mean((0, 1)) if strand.mask.any() else np.zeros(3)
                yield _row(strand, strand.atoms, centre, None, structure, unit, options)
        else:
            yield from _rows_of(structure, list(backbones(structure, None, unit.source)), unit, options)


def _rows_of(
    structure: Structure, chains: Sequence[Backbone], unit: Unit, options: BuildOptions
) -> Iterator[Row | str]:
    predicted = {"auto": structure.predicted, "always": True, "never": False}[options.plddt]
    for chain in chains:
        plddt = chain.b_factors if predicted else None
        centre = chain.coords[chain.mask, 1].mean(0)
        row = _row(chain, chain.coords, centre, plddt, structure, unit, options)
        if options.atoms == "all" and not isinstance(row, str):
            from structok.protein.allatom import AtomChain

            sides = _stored(AtomChain.of(chain.entity).atoms[:, 3:], centre, options)
            row = row | {"side_atoms": sides["coords"]} if sides else _TOO_WIDE
        yield row


def _row(
    chain: Backbone | NucleicChain,
    atoms: Float[np.ndarray, "l a 3"],
    centre: Float[np.ndarray, " 3"],
    plddt: Float[np.ndarray, " l"] | None,
    structure: Structure,
    unit: Unit,
    options: BuildOptions,
) -> Row | str:
    """The row of a chain, or why it is not wanted."""
    mean = None if plddt is None else float(np.nanmean(plddt[chain.mask]))
    coords = _stored(atoms, centre, options)
    if reason := _unfit(chain, mean, structure.resolution, options) or (None if coords else _TOO_WIDE):
        return reason
    # where no letter is known, only the coordinates tell chains apart
    key = _digest(chain.sequence if chain.sequence.strip("Xx") else atoms.tobytes())
    return {
        "id": f"{chain.name}_{chain.chain_id}" if chain.chain_id else chain.name,
        "chain": chain.chain_id,
        "sequence": chain.sequence,
        "residue_ids": chain.residue_ids,
        **coords,
        "plddt": plddt,
        "mean_plddt": mean,
        "resolution": structure.resolution,
        "length": len(chain),
        "observed": int(chain.mask.sum()),
        "source": unit.source,
        "key": key,
        "group": key,
    }


def _unfit(
    chain: Backbone | NucleicChain, mean_plddt: float | None, resolution: float | None, options: BuildOptions
) -> str | None:
    """Why a chain is not wanted."""
    edges = np.flatnonzero(np.diff(np.r_[True, chain.mask, True].astype(np.int8)))
    longest_gap = int(np.diff(edges)[::2].max(initial=0))
    if len(chain) < options.min_length:
        return f"shorter than {options.min_length}"
    if len(chain) > options.max_length:
        return f"longer than {options.max_length}"
    if 1 - chain.mask.mean() > options.max_missing:
        return f"more than {options.max_missing:.0%} of residues missing"
    if longest_gap > options.longest_gap:
        return f"more than {options.longest_gap} residues missing in a row"
    if options.min_plddt is not None and mean_plddt is not None and mean_plddt < options.min_plddt:
        return f"mean pLDDT below {options.min_plddt:g}"
    if options.max_resolution is not None and resolution is not None and resolution > options.max_resolution:
        return f"resolution worse than {options.max_resolution:g} Å"
    return None


def _stored(coords: Float[np.ndarray, "..."], centre: Float[np.ndarray, " 3"], options: BuildOptions) -> Row:
    """The columns of the coordinates; empty if they do not fit int16 in units of `SCALE` about `centre`."""
    if options.coords == "float32":
        return {"coords": coords.ravel()}
    scaled = np.rint((coords - centre) / np.float32(SCALE)).ravel()
    if np.abs(scaled, where=~np.isnan(scaled), out=np.zeros_like(scaled)).max() > np.iinfo(np.int16).max:
        return {}
    return {"coords": np.where(np.isnan(scaled), MISSING, scaled).astype(np.int16), "centre": centre}


def _molecules(unit: Unit, options: BuildOptions) -> Iterator[Row | str]:
    """The row of a molecule record, or why it is dropped."""
    from rdkit import Chem
    from rdkit.Chem.Scaffolds import MurckoScaffold

    from structok.molecule.conformer import prepare
    from structok.read.molecules import parse_record

    title = unit.name
    mol = parse_record(unit.read().decode(), unit.kind, unit.source, options.add_hs)
    if mol.GetNumAtoms() > options.max_length:
        yield f"more than {options.max_length} atoms"
        return
    mol.SetProp("_Name", unit.source)  # who is refused
    conformer = prepare(mol, options.max_length)
    if len(conformer) < options.min_length:
        yield f"fewer than {options.min_length} atoms"
        return
    flat = Chem.RemoveHs(mol)
    smiles = Chem.MolToSmiles(flat)
    # molecules of one ring system share a cluster; those without rings are clusters of their own
    scaffold = Chem.MolToSmiles(MurckoScaffold.GetScaffoldForMol(flat), isomericSmiles=False) or smiles
    xyz = conformer.coords.astype(np.float32)
    coords = _stored(xyz, xyz.mean(0), options)
    if not coords:
        yield _TOO_WIDE
        return
    yield {
        "id": title,
        "smiles": smiles,
        "selfies": conformer.selfies,
        "atomic_numbers": [atom.GetAtomicNum() for atom in conformer.mol.GetAtoms()],
        **coords,
        "length": len(xyz),
        "source": unit.source,
        "key": _digest(smiles),
        "group": _digest(scaffold),
    }


def _digest(known: str | bytes) -> bytes:
    return hashlib.blake2b(known.encode() if isinstance(known, str) else known, digest_size=16).digest()
