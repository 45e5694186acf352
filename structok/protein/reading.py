"""Structure files to chains of residue slots: parsing by biotite, then what counts as a residue or a gap."""

from __future__ import annotations

import gzip
import io
import logging
import math
import os
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from structok.errors import InputError
from structok.polymer.link import PEPTIDE

if TYPE_CHECKING:
    from biotite.structure import AtomArray

__all__ = [
    "BOND_LIMIT",
    "CA_STEP",
    "FORMATS",
    "Contents",
    "find_structures",
    "parse_chains",
    "read_atoms",
    "structure_format",
]

logger = logging.getLogger("structok")

BOND_LIMIT, CA_STEP = PEPTIDE
_JUMP = 100  # numbering jumps beyond this are renumberings (fusions, linkers), not missing residues
FORMATS = {".pdb": "pdb", ".ent": "pdb", ".cif": "cif", ".mmcif": "cif", ".bcif": "bcif"}

Letters = dict[tuple[str, int], str]  # (entity, sequence number) -> one letter
_BACKBONE = ("N", "CA", "C", "O")


@dataclass(frozen=True)
class Contents:
    """First model of a file, without most atoms that are not N, CA, C or O.

    `letters` are those of the full sequences (mmCIF only), `resolution` is in Å, and `predicted` tells files of
    structure prediction, whose B-factors hold the pLDDT.
    """

    atoms: AtomArray
    letters: Letters = field(default_factory=dict)
    resolution: float | None = None
    predicted: bool = False


def find_structures(folder: str | os.PathLike[str]) -> list[Path]:
    """Structure files below a folder, sorted."""
    return sorted(p for p in Path(folder).rglob("*") if structure_format(p.name) and p.is_file())


def structure_format(name: str) -> str | None:
    """Format by suffix: 'pdb', 'cif' or 'bcif', with or without .gz; None when it is none of them."""
    return FORMATS.get(Path(name.lower().removesuffix(".gz")).suffix)


def read_atoms(source: Any, format: str | None, label: str) -> Contents:
    """Parse a file: a path or a binary file object; `format` None goes by the label's suffix, else the content."""
    try:
        content = Path(source).read_bytes() if isinstance(source, (str, os.PathLike)) else source.read()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except FileNotFoundError:
        raise InputError(f"{label}: no such file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{label}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if not content.strip():
        raise InputError(f"{label}: the file is empty")
    kind = format or structure_format(label) or _sniff(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # biotite's notes on guessed elements and fallback columns
            contents = _parse(content, kind)
    except Exception as error:  # biotite raises many kinds of errors on broken files
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        raise InputError(f"{label}: not a {kind} file, or a broken one ({reason})") from None
    if not len(contents.atoms):
        raise InputError(f"{label}: no atoms found; is it a {kind} file?")
    return contents


def _sniff(content: bytes) -> str:
    if content[:1] and (0x80 <= content[0] <= 0x8F or content[0] in (0xDE, 0xDF)):
        return "bcif"  # a MessagePack map
    head = content[:4096].decode("latin-1").lstrip()
    return "cif" if head.startswith(("data_", "#", "loop_")) else "pdb"


def _parse(content: bytes, kind: str) -> Contents:
    if kind == "pdb":
        return _parse_pdb(content)
    if kind not in ("cif", "bcif"):
        raise ValueError(f"unknown format {kind!r}; pdb, cif or bcif")
    from biotite.structure.io import pdbx

    file: Any
    if kind == "cif":
        text = content.decode("utf-8")
        if _cut_off(text):
            raise ValueError("it is cut off at the end")
        file = pdbx.CIFFile.read(io.StringIO(_backbone_rows(text)))
    else:
        file = pdbx.BinaryCIFFile.read(io.BytesIO(content))
    block = file.block
    if "atom_site" not in block:
        raise ValueError("it has no atoms")
    wanted = ["occupancy", "b_factor", "label_seq_id", "label_entity_id"]
    fields = [f for f in wanted if ("B_iso_or_equiv" if f == "b_factor" else f) in block["atom_site"]]
    altloc = "occupancy" if "occupancy" in fields else "first"
    atoms = pdbx.get_structure(file, model=1, altloc=altloc, extra_fields=fields)
    letters: Letters = {}
    if "entity_poly_seq" in block:
        table = block["entity_poly_seq"]
        for entity, number, residue in zip(*(table[c].as_array(str) for c in ("entity_id", "num", "mon_id"))):
            letters[entity, int(number)] = _letter(residue)
    resolutions = (
        _positive(block[category][column].as_array(str)[0])
        for category, column in (("refine", "ls_d_res_high"), ("em_3d_reconstruction", "resolution"))
        if category in block and column in block[category]
    )
    predicted = "ma_qa_metric" in block or "ma_qa_metric_global" in block
    return Contents(atoms, letters, next(filter(None, resolutions), None), predicted)


def _parse_pdb(content: bytes) -> Contents:
    from biotite.structure.io import pdb

    # remarks may hold any encoding; coordinates are ASCII
    lines: list[str] = []
    resolution, title, chain, experiment = None, "", "", False
    for line in content.decode("utf-8", errors="replace").splitlines():
        if line.startswith(("ATOM", "HETATM")):
            if line[12:16].strip() in _BACKBONE or line[21:22] != chain:  # at least one atom of every chain
                lines.append(_fill_blank_columns(line))
                chain = line[21:22]
            continue
        lines.append(line)
        if line.startswith("REMARK   2 RESOLUTION."):
            resolution = _positive(line[23:30])
        elif line.startswith(("TITLE", "HEADER")):
            title += line[10:].upper()
        experiment |= line.startswith("EXPDTA")
    if not chain:
        raise ValueError("it has no ATOM lines")
    parsed = pdb.PDBFile.read(io.StringIO("\n".join(lines)))
    try:
        atoms = parsed.get_structure(model=1, altloc="occupancy", extra_fields=["occupancy", "b_factor"])
    except ValueError:  # B-factors that overflow their columns
        atoms = parsed.get_structure(model=1, altloc="occupancy", extra_fields=["occupancy"])
    return Contents(atoms, resolution=resolution, predicted="PREDICTION" in title and not experiment)


def _positive(text: str) -> float | None:
    try:
        return float(text) if float(text) > 0 else None
    except ValueError:  # '?', '.', 'NOT APPLICABLE'
        return None


def _backbone_rows(text: str) -> str:
    """The mmCIF without the atom rows that are not needed: most of the time goes into splitting them."""
    start = text.find("\n_atom_site.") + 1
    lines = text[start:].split("\n")
    columns: list[str] = []
    while len(columns) < len(lines) and lines[len(columns)].startswith("_atom_site."):
        columns.append(lines[len(columns)].split(".", 1)[1].strip())
    first = lines[len(columns)].split() if len(columns) < len(lines) else []
    if len(first) < len(columns) or not {"label_atom_id", "label_asym_id"} <= set(columns):
        return text  # no atoms, or rows of several lines
    name, asym = columns.index("label_atom_id"), columns.index("label_asym_id")
    last = max(name, asym) + 1
    kept, chain = lines[: len(columns)], ""
    for row in lines[len(columns) :]:
        if row.startswith(("ATOM", "HETATM")):
            values = row.split(None, last)
            if len(values) > last and values[name] not in _BACKBONE and values[asym] == chain:
                continue
            chain = values[asym] if len(values) > last else chain
        kept.append(row)
    return text[:start] + "\n".join(kept)


def _fill_blank_columns(line: str) -> str:
    """Occupancy 1 and B-factor 0 for atoms of programs that leave these columns blank or end the line there."""
    if not line.startswith(("ATOM", "HETATM")) or len(line) < 54:
        return line
    line = line.ljust(80)
    occupancy = line[54:60] if line[54:60].strip() else "  1.00"
    b_factor = line[60:66] if line[60:66].strip() else "  0.00"
    return line[:54] + occupancy + b_factor + line[66:]


def _cut_off(text: str) -> bool:
    """Whether an mmCIF that ends its tables with '#' lines does not end with one."""
    marks = [line for line in text.splitlines() if line.strip()]
    return "#" in (line.strip() for line in marks) and not marks[-1].startswith("#")


@cache
def _letter(residue: str) -> str:
    from biotite.structure.info import one_letter_code

    return (one_letter_code(residue) or "X")[:1].upper()


def parse_chains(atoms: AtomArray, letters: Letters, chain: str | None, label: str) -> Iterator[dict[str, Any]]:
    """Arguments of a `Backbone` for each protein chain of the file."""
    ids = list(dict.fromkeys(atoms.chain_id.tolist()))
    if chain is not None and chain not in ids:
        raise InputError(f"{label}: no chain {chain!r}; it has {', '.join(i or '(blank)' for i in ids)}")
    found, skipped = False, []
    for chain_id in ids if chain is None else [chain]:
        fields = _chain(atoms[atoms.chain_id == chain_id], letters, chain_id, label)
        if isinstance(fields, str):
            skipped.append((chain_id or "(blank)", fields))
            continue
        found = True
        yield fields
    if not found:
        which = "no protein chain" if chain is None else f"chain {chain!r} is no protein backbone"
        raise InputError(f"{label}: {which} ({skipped[-1][1]})")
    for chain_id, reason in skipped:
        logger.info("%s: chain %s skipped, %s", label, chain_id, reason)


def _chain(atoms: AtomArray, letters: Letters, chain_id: str, label: str) -> dict[str, Any] | str:
    """Fields of one chain, or why it is not a protein backbone."""
    from biotite.structure import get_residue_starts

    starts = get_residue_starts(atoms)
    owner = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(atoms)]))
    coords = np.full((len(starts), 4, 3), np.nan, dtype=np.float32)
    present = np.zeros((len(starts), 4), dtype=bool)
    b_factors = np.full(len(starts), np.nan, dtype=np.float32)
    for column, atom_name in enumerate(_BACKBONE):
        # reversed, so that the first of several atoms of one name counts
        where = np.flatnonzero((atoms.atom_name == atom_name) & (atoms.element != "CA"))[::-1]
        coords[owner[where], column] = atoms.coord[where]
        present[owner[where], column] = True
        if atom_name == "CA" and "b_factor" in atoms.get_annotation_categories():
            b_factors[owner[where]] = atoms.b_factor[where]
    names = atoms.res_name[starts]
    whole: np.ndarray = np.all(present[:, :3], axis=1)
    amino = np.array([_is_amino(name) for name in names.tolist()])
    residue = whole | (amino & present[:, 1])
    if not residue.any():
        return "no amino acids"
    number = _sequence_numbers(atoms, starts)
    residue &= ~_loose(coords, residue, atoms.hetero[starts]) if number is None else number > 0
    kept = _one_per_position(atoms, starts, np.flatnonzero(residue))
    if not whole[kept].any():
        return "no residue has N, CA and C; a CA-only model?"
    bad = kept[(present[kept][:, :3, None] & ~np.isfinite(coords[kept][:, :3])).any((1, 2))]
    if len(bad):
        first = starts[bad[0]]
        residue_name = f"residue {atoms.res_name[first]} {atoms.res_id[first]}"
        raise InputError(
            f"{label}: chain {chain_id}, {residue_name} has non-finite coordinates; remove it from the file"
        )
    coords[~whole] = np.nan
    places = None if number is None else number[kept]
    return _with_gaps(atoms, starts[kept], coords[kept], b_factors[kept], places, letters, chain_id)


@cache
def _is_amino(residue: str) -> bool:
    from biotite.structure.info import amino_acid_names

    return residue in amino_acid_names()


def _sequence_numbers(atoms: AtomArray, starts: np.ndarray) -> np.ndarray | None:
    """mmCIF position in the full sequence, 0 for residues outside a polymer; None when the file has none."""
    if "label_seq_id" not in atoms.get_annotation_categories():
        return None
    text = [str(t) for t in atoms.label_seq_id[starts]]
    number = np.array([int(t) if t.isdigit() else 0 for t in text])
    return number if (number > 0).any() else None


def _loose(coords: np.ndarray, residue: np.ndarray, hetero: np.ndarray) -> np.ndarray:
    """HETATM residues bonded to neither neighbour: free amino acids and peptide-like ligands."""
    loose = np.zeros(len(residue), dtype=bool)
    kept = np.flatnonzero(residue)
    gap = np.linalg.norm(coords[kept[1:], 0] - coords[kept[:-1], 2], axis=-1)
    bonded = gap < BOND_LIMIT
    loose[kept] = hetero[kept] & ~np.r_[False, bonded] & ~np.r_[bonded, False]
    return loose


def _one_per_position(atoms: AtomArray, starts: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Of adjacent residues with one number (microheterogeneity), the one with the highest occupancy."""
    occupancy = atoms.occupancy[starts] if "occupancy" in atoms.get_annotation_categories() else np.ones(len(starts))
    number, code = atoms.res_id[starts], atoms.ins_code[starts]
    chosen: list[int] = []
    repeats = np.r_[False, (number[kept[1:]] == number[kept[:-1]]) & (code[kept[1:]] == code[kept[:-1]])]
    for i, repeat in zip(kept.tolist(), repeats.tolist()):
        if not repeat:
            chosen.append(i)
        elif occupancy[i] > occupancy[chosen[-1]]:
            chosen[-1] = i
    return np.array(chosen, dtype=int)


def _with_gaps(
    atoms: AtomArray,
    starts: np.ndarray,
    coords: np.ndarray,
    b_factors: np.ndarray,
    places: np.ndarray | None,
    letters: Letters,
    chain_id: str,
) -> dict[str, Any]:
    """Add a slot for each residue that is missing between two others; `places` are mmCIF sequence numbers."""
    res_id, ins_code = atoms.res_id[starts].tolist(), atoms.ins_code[starts].tolist()
    names = atoms.res_name[starts].tolist()
    entity = str(atoms.label_entity_id[starts[0]]) if "label_entity_id" in atoms.get_annotation_categories() else ""
    bonded = np.linalg.norm(coords[1:, 0] - coords[:-1, 2], axis=-1) < BOND_LIMIT
    bonded = np.r_[True, bonded].tolist()  # nothing is missing before the first
    rows: list[int] = []  # index into `coords`, -1 for an added slot
    sequence: list[str] = []
    ids: list[str] = []
    for i in range(len(starts)):
        if not bonded[i]:
            step = res_id[i] - res_id[i - 1]
            n = _missing(coords[i - 1], coords[i], step if places is None else int(places[i] - places[i - 1]))
            for k in range(1, n + 1):
                rows.append(-1)
                place = 0 if places is None else int(places[i - 1]) + k
                sequence.append(letters.get((entity, place), "X"))
                ids.append(str(res_id[i - 1] + k) if n == step - 1 else f"{res_id[i - 1]}{ins_code[i - 1]}+{k}")
        rows.append(i)
        sequence.append(_letter(names[i]))
        ids.append(f"{res_id[i]}{ins_code[i]}")
    padded = np.concatenate([coords, np.full((1, 4, 3), np.nan, dtype=np.float32)])[rows]
    return {
        "coords": padded[:, :3],
        "oxygen": padded[:, 3],
        "b_factors": np.r_[b_factors, np.float32(np.nan)][rows],
        "sequence": "".join(sequence),
        "chain_id": chain_id,
        "residue_ids": ids,
    }


def _missing(before: np.ndarray, after: np.ndarray, step: int) -> int:
    """Slots to add between two residues that are not bonded and whose numbers differ by `step`."""
    explained = step - 1 if 1 <= step <= _JUMP else 0
    distance = float(np.linalg.norm(after[1] - before[1]))
    if not math.isfinite(distance):  # one of the two is incomplete: only the numbers can tell
        return explained
    # a stretched bond (up to 5.1 Å between CAs) is not a gap
    needed = max(0, math.ceil(distance / CA_STEP - 0.35) - 1)
    return explained if CA_STEP * (explained + 1) * 1.05 > distance and explained else max(explained, needed)
