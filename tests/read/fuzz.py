"""Random damage to good files, and whether reading them loses anything without a word.

    python -m tests.read.fuzz 100000 --kind pdb --seed 1

A damaged PDB or mmCIF file must give every residue that gemmi sees with N, CA and C, or say what it left out, or be
refused in one line; a damaged SDF every molecule that RDKit reads, or an error for it.

Found so far, each mended: a '#' comment among the rows of an mmCIF ended its table without a word; residues that came
twice on one spot were dropped without a word; what RDKit's own checks refuse (an element that is none) was a traceback.
A residue with N, CA and C whose damaged name is a nucleotide's left the chain. After that: 6,000 files of each kind,
seed 900, and 3,000 of each kind, seed 91, none wrong.
"""

from __future__ import annotations

import argparse
import random
import string
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import gemmi
import numpy as np
from rdkit import Chem, RDLogger

from structok.errors import StructokError
from structok.read.molecules import read_molecules
from structok.read.structures import backbones, parse_structures

EXAMPLES = Path(__file__).parents[2] / "structok" / "examples"
_LETTERS = string.ascii_letters + string.digits + " .-*?#'\"_$"


# notes that say that residues are missing, and how many
_LOSSES = (
    "incomplete residues",
    "placeholder atoms",
    "stray residues",
    "torn residues",
    "chains skipped",
    "lines ignored",
    "ligands left out",
    "repeated atoms",
)
OUTCOMES: Counter[str] = Counter()  # what came of the files of a run


def damage(text: str, rng: random.Random) -> str:
    """The text after one to three accidents: lines dropped, repeated, moved, shuffled, cut; columns changed."""
    lines = text.split("\n")
    for _ in range(rng.randint(1, 3)):
        if len(lines) < 2:
            break
        i = rng.randrange(len(lines))
        some = rng.randint(1, min(30, len(lines) - 1))
        match rng.randrange(9):
            case 0:
                del lines[i : i + some]
            case 1:
                lines[i:i] = lines[i : i + some]
            case 2:
                part = lines[i : i + some]
                rng.shuffle(part)
                lines[i : i + some] = part
            case 3:
                block = lines[i : i + some]
                del lines[i : i + some]
                at = rng.randrange(len(lines) + 1)
                lines[at:at] = block
            case 4:
                lines = lines[: i + 1] if rng.random() < 0.5 else lines[i:]
            case 5 | 6 | 7:
                lines[i] = _change(lines[i], rng)
            case 8:  # one column in many lines
                column, char = rng.randrange(80), rng.choice(_LETTERS)
                lines[i : i + some] = [x[:column] + char + x[column + 1 :] for x in lines[i : i + some]]
    return "\n".join(lines)


def _change(line: str, rng: random.Random) -> str:
    if not line:
        return rng.choice(_LETTERS)
    i = rng.randrange(len(line))
    match rng.randrange(5):
        case 0:
            return line[:i] + rng.choice(_LETTERS) + line[i + 1 :]
        case 1:
            return line[:i] + line[i + 1 :]
        case 2:
            return line[:i] + rng.choice(_LETTERS) + line[i:]
        case 3:
            return line[:i]
        case _:
            width = rng.randint(1, 8)
            return line[:i] + "".join(rng.choice(_LETTERS) for _ in range(width)) + line[i + width :]


def good_pdb() -> str:
    """Two chains of 24 residues, waters and a ligand, all atoms."""
    return _gemmi_structure().make_pdb_string()


def good_cif() -> str:
    """The same as mmCIF, with the full sequence."""
    return _gemmi_structure().make_mmcif_document().as_string()


def _gemmi_structure() -> gemmi.Structure:
    made = gemmi.read_structure(str(EXAMPLES / "1a8o.cif.gz"))
    made.setup_entities()
    chain = made[0]["A"]
    kept = [r for i, r in enumerate(chain) if i < 24 or r.name == "HOH"][:34]
    for name, shift in (("A", 0.0), ("B", 60.0)):
        new = gemmi.Chain(name + name)
        for residue in kept:
            new.add_residue(residue.clone())
        for residue in new:
            for atom in residue:
                atom.pos += gemmi.Position(shift, 0, 0)
        made[0].add_chain(new)
    made[0].remove_chain("A")
    for chain in made[0]:
        chain.name = chain.name[:1]
    made.assign_subchains(force=True)
    made.setup_entities()
    made.assign_label_seq_id()
    return made


def good_sdf() -> str:
    """Four records of the example's molecule, under three names."""
    block = (EXAMPLES / "ligand.sdf").read_text().split("$$$$")[0].rstrip("\n")
    _, rest = block.split("\n", 1)
    return "".join(f"{title}\n{rest}\n$$$$\n" for title in ("one", "two", "one", ""))


def check_structure(text: str, kind: str) -> str:
    """What went wrong with a file, '' if nothing did."""
    expected = _by_gemmi(text, kind)
    try:
        found = parse_structures(text.encode(), kind, "x", "x", atoms="backbone")
        seen, said, slots = set(), Counter(), 0
        for one in found:
            for note in one.notes:
                said[note.kind] += 0 if note.routine else note.count
            for chain in backbones(one, None, "x"):
                seen |= {_spot(x) for x in chain.coords[chain.mask, 1]}
                slots += int((~chain.mask).sum())
    except StructokError as error:
        OUTCOMES["refused"] += 1
        return "" if "\n" not in str(error) else f"an error of several lines: {error}"
    except Exception:
        return f"a traceback: {traceback.format_exc(limit=-2)}"
    if slots > sum(said[k] for k in ("slots added", "incomplete residues", "stray residues")):
        return f"{slots} slots invented without a word"
    OUTCOMES["read, something said" if said else "read"] += 1
    if expected is None:
        OUTCOMES["read, but not by gemmi"] += 1
        return ""
    excused = sum(said[k] for k in _LOSSES) + (len(expected) if said["frames ignored"] else 0)
    if (lost := expected - seen) and len(lost) > excused:
        return f"{len(lost)} of {len(expected)} residues lost without a word, near {sorted(lost)[0]}"
    return ""


def _by_gemmi(text: str, kind: str) -> set[tuple[float, ...]] | None:
    """CA of each residue of the first frame that has N, CA and C; None where gemmi reads nothing."""
    try:
        if kind == "pdb":
            read = gemmi.read_pdb_string(text)
        else:
            read = gemmi.make_structure_from_block(gemmi.cif.read_string(text).sole_block())
    except Exception:
        return None
    spots = set()
    for chain in read[0] if len(read) else []:
        for residue in chain:
            atoms = {a.name: a for a in residue if np.isfinite(a.pos.tolist()).all()}
            if {"N", "CA", "C"} <= set(atoms):
                spots |= {_spot(atoms["CA"].pos.tolist())}
    return spots


def _spot(xyz) -> tuple[float, ...]:
    return tuple(round(float(x), 2) + 0.0 for x in np.asarray(xyz, dtype=np.float32))


def check_sdf(text: str) -> str:
    """What went wrong with a file, '' if nothing did."""
    expected = []
    for record in text.split("$$$$"):
        mol = Chem.MolFromMolBlock(record.removeprefix("\n"), removeHs=False)
        if mol is not None and mol.GetNumAtoms():
            expected.append(Chem.MolToSmiles(mol))
    try:
        results = list(read_molecules(BytesIO(text.encode())))
    except StructokError as error:
        OUTCOMES["refused"] += 1
        return "" if "\n" not in str(error) else f"an error of several lines: {error}"
    except Exception:
        return f"a traceback: {traceback.format_exc(limit=-2)}"
    names = [name for name, _ in results]
    if len(set(names)) < len(names):
        return f"names that come twice: {names}"
    OUTCOMES["read"] += 1
    errors = sum(isinstance(mol, StructokError) for _, mol in results)
    found = Counter(Chem.MolToSmiles(m) for _, m in results if not isinstance(m, StructokError))
    lost = Counter(expected) - found
    return f"{lost.total()} molecules lost without a word" if lost.total() > errors else ""


KINDS: dict[str, tuple[Callable[[], str], Callable[[str], str]]] = {
    "pdb": (good_pdb, lambda text: check_structure(text, "pdb")),
    "cif": (good_cif, lambda text: check_structure(text, "cif")),
    "sdf": (good_sdf, check_sdf),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("count", type=int)
    parser.add_argument("--kind", choices=list(KINDS), default="pdb")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files that went wrong")
    options = parser.parse_args()
    RDLogger.DisableLog("rdApp.*")
    make, check = KINDS[options.kind]
    good, began, wrong = make(), time.monotonic(), 0
    assert not check(good)
    for i in range(options.count):
        text = damage(good, random.Random(f"{options.seed}-{i}"))
        if problem := check(text):
            wrong += 1
            print(f"{options.kind} {options.seed}-{i}: {problem}", flush=True)
            if options.keep:
                options.keep.mkdir(parents=True, exist_ok=True)
                (options.keep / f"{options.seed}-{i}.{options.kind}").write_text(text)
    seconds = time.monotonic() - began
    print(f"{options.count} damaged {options.kind} files, {wrong} went wrong, {seconds:.0f} s; {dict(OUTCOMES)}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
