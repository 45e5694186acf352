"""Molecules per second and core of every molecule tokenizer, and where the time goes, RDKit and SELFIES included.

    python -m eval.speed.molecules

Times are those of the processor, on one thread: a machine that is busy otherwise disturbs them little, and a second
core doubles what the search does (`torch.set_num_threads`), and all of it in a run over files (`structok.work`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import selfies
import torch
import typer
from rdkit import Chem, RDLogger

import structok
from eval import RESULTS
from eval.clock import cpu_seconds, machine
from structok.batching import by_length
from structok.molecule.batch import atom_mask, pad
from structok.molecule.conformer import Conformer, in_token_order, molecule_of, prepare_many
from structok.molecule.search import closed_loop
from structok.molecule.spherical import orient
from structok.molecule.tokenizer import MolStrucTok
from structok.read.molecules import parse_record
from train.data import shared_folder
from train.molecule.data import npz_molecules


def rates(tokenizer: MolStrucTok, mols: list[Chem.Mol], beam: int) -> dict[str, float]:
    """Molecules per second of a tokenizer, from Mol to tokens and back."""
    tokens = tokenizer.encode_batch(mols, closed_loop=True, beam=beam)
    return {
        "encode": len(mols) / cpu_seconds(lambda: tokenizer.encode_batch(mols, closed_loop=True, beam=beam), 2),
        "decode": len(mols) / cpu_seconds(lambda: tokenizer.decode_batch(tokens), 2),
    }


def batches(conformers: list[Conformer], size: int = 256) -> list[list[Conformer]]:
    """Batches of similar length."""
    return [[conformers[i] for i in rows] for rows in by_length([len(c) for c in conformers], size)]


def breakdown(tokenizer: MolStrucTok, mols: list[Chem.Mol], beam: int) -> dict[str, float]:
    """Microseconds of each step per molecule, from the text of a file to codes, and from tokens to a Mol."""
    records = [Chem.MolToMolBlock(m) for m in mols]
    conformers = prepare_many(mols)
    smiles = [in_token_order(m)[0] for m in mols]
    parts = batches(conformers)
    placed = [tokenizer.placement([c.mol for c in part]) for part in parts]
    targets = [orient(pad([c.coords for c in part], torch.float64)) for part in parts]
    masks = [atom_mask([len(c) for c in part]) for part in parts]
    tokens = tokenizer.encode_batch(mols, closed_loop=True, beam=beam)
    rebuilt = [molecule_of(t.selfies or "") for t in tokens]
    decoding = [
        (tokenizer.placement([rebuilt[i] for i in rows]), pad([tokens[i].codes for i in rows], torch.long))
        for rows in by_length([len(t) for t in tokens], 256)
    ]
    steps: dict[str, Callable[[], Any]] = {
        "read: RDKit's parser": lambda: [Chem.MolFromMolBlock(r, sanitize=False, removeHs=False) for r in records],
        "read: all, with sanitising and stereo": lambda: [parse_record(r, "sdf", "", False) for r in records],
        "prepare: sanitising": lambda: [Chem.SanitizeMol(Chem.Mol(m)) for m in mols],
        "prepare: canonical SMILES": lambda: [in_token_order(m) for m in mols],
        "prepare: SELFIES": lambda: [selfies.encoder(x) for x in smiles],
        "prepare: all": lambda: prepare_many(mols),
        "references and network": lambda: [tokenizer.placement([c.mol for c in p]) for p in parts],
        "search": lambda: [closed_loop(p, t, m, beam=beam) for p, t, m in zip(placed, targets, masks)],
        "decode: SELFIES": lambda: [selfies.decoder(t.selfies) for t in tokens],
        "decode: SELFIES to Mol": lambda: [molecule_of(t.selfies or "") for t in tokens],
        "decode: references, network": lambda: [tokenizer.placement([c.mol for c in p]) for p in parts],
        "decode: coordinates": lambda: [placement.rebuild(codes) for placement, codes in decoding],
    }
    return {name: round(1e6 * cpu_seconds(work) / len(mols), 1) for name, work in steps.items()}


def main(
    molecules: Annotated[int, typer.Option(help="of the QM9 test set and of the CCD test set each")] = 500,
    out: Path = RESULTS / "molecule_speed.json",
) -> None:
    """Time all steps on one thread and write the rates (molecules per second and core)."""
    RDLogger.DisableLog("rdApp.*")
    torch.set_num_threads(1)
    report: dict[str, Any] = machine()
    for name in ("qm9.npz", "ccd_ideal.npz"):
        mols = [m for _, m in npz_molecules(shared_folder() / "data" / "molecule" / name, 2, molecules)]
        found: dict[str, Any] = {"molecules": len(mols)}
        for label in [m for m in structok.list_models() if m.startswith("molstructok")]:
            loaded = structok.load(label)
            for beam in (1, 8):
                found[f"{label}, closed loop, beam {beam}"] = rates(loaded, mols, beam)
            found[f"{label}, closed loop, beam 8"] |= {"microseconds": breakdown(loaded, mols, 8)}
        report[name] = found
        print(json.dumps(found, indent=1), flush=True)
        out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
