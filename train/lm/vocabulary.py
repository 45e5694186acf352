"""Count the molecule tokens of the shipped vocabulary: `python -m train.lm.vocabulary structok/lm/biomatrix.json`.

Molecules of the training splits are tokenized with a shipped checkpoint; the validation splits tell how much of new
molecules the list covers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import track

import structok
from structok.errors import InputError
from structok.files import write_whole
from structok.lm.counting import MoleculeCounts
from structok.lm.vocabulary import Vocabulary
from structok.molecule.conformer import prepare
from structok.tokens import Tokens
from train.molecule.data import Source, npz_molecules

if TYPE_CHECKING:
    from rdkit.Chem import Mol

COUNTED = (Source("qm9.npz", 0, 30_000), Source("ccd_ideal.npz", 0))
CHECKED = (Source("qm9.npz", 1, 2000), Source("ccd_ideal.npz", 1), Source("fep_ligands.npz"))


def tokenized(source: Source, model: str, batch: int = 512) -> Iterator[tuple[Mol, Tokens]]:
    """Molecules of a source with their tokens; those that the model refuses are left out."""
    tokenizer = structok.load(model)
    window: list[Mol] = []
    for _, mol in track(npz_molecules(source.file(), source.split, source.limit), description=source.path):
        try:
            prepare(mol, max_length=tokenizer.max_length)
        except InputError:
            continue
        window.append(mol)
        if len(window) == batch:
            yield from zip(window, tokenizer.encode_batch(window))
            window = []
    yield from zip(window, tokenizer.encode_batch(window))


def plain_selfies(mol: Mol) -> str:
    """SELFIES as chemists write it: no explicit hydrogens, with stereochemistry; '' where SELFIES has no words."""
    import selfies
    from rdkit import Chem

    try:
        return str(selfies.encoder(Chem.MolToSmiles(Chem.RemoveHs(mol))))
    except selfies.EncoderError:
        return ""


def check(source: Source, model: str, vocabulary: Vocabulary) -> dict[str, object]:
    """How much of molecules that were not counted the vocabulary covers."""
    joint, selfies, whole = set(vocabulary.groups["molecule"]), set(vocabulary.groups["selfies"]), 0
    counts = MoleculeCounts()
    for mol, tokens in tokenized(source, model):
        one = MoleculeCounts().update([tokens])
        whole += set(one.joint) <= joint
        counts.add(tokens)
        counts.add_selfies(plain_selfies(mol))
    return {
        **asdict(source),
        "molecules": counts.molecules,
        "joint_coverage": round(sum(counts.joint[t] for t in joint) / counts.joint.total(), 5),
        "selfies_coverage": round(sum(counts.selfies[t] for t in selfies) / counts.selfies.total(), 5),
        "molecules_wholly_covered": round(whole / counts.molecules, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="json file to write")
    parser.add_argument("--model", default="molstructok")
    parser.add_argument("--coverage", type=float, default=0.99)
    args = parser.parse_args()

    counts, sources = MoleculeCounts(), []
    for source in COUNTED:
        before = counts.molecules
        for mol, tokens in tokenized(source, args.model):
            counts.add(tokens)
            counts.add_selfies(plain_selfies(mol))
        sources.append({**asdict(source), "molecules": counts.molecules - before})
    vocabulary = Vocabulary.counted(counts, coverage=args.coverage)
    about = {
        "model": args.model,
        "counted": sources,
        **vocabulary.about,
        "checked": [check(source, args.model, vocabulary) for source in CHECKED],
    }
    lists = {name: vocabulary.groups[name] for name in ("selfies", "molecule")}
    write_whole(args.out, json.dumps({"about": about, **lists}, indent=0).encode())
    print(json.dumps(about, indent=2))


if __name__ == "__main__":
    main()
