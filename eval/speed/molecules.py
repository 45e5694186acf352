"""Molecules per second of every molecule tokenizer, from Mol to tokens and back, RDKit and SELFIES included.

    python -m eval.speed.molecules

The released weights run as published, in open loop, for which rates without RDKit and SELFIES are given too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rdkit import Chem, RDLogger

import structok
from eval import RESULTS
from eval.measure.model import RELEASED, load_tokenizer
from eval.speed.clock import best_of, machine
from structok.molecule.conformer import prepare
from structok.molecule.tokenizer import MolStrucTok
from train.data import shared_folder
from train.molecule.data import npz_molecules


def rates(tokenizer: MolStrucTok, mols: list[Chem.Mol], **how: Any) -> dict[str, float]:
    """Molecules per second of a tokenizer, from Mol to tokens and back."""
    n = len(mols)
    tokens = tokenizer.encode_batch(mols, batch_size=n, **how)
    return {
        "encode": n / best_of(1, lambda: tokenizer.encode_batch(mols, batch_size=n, **how))[0],
        "decode": n / best_of(1, lambda: tokenizer.decode_batch(tokens, batch_size=n))[0],
    }


def geometry_rates(tokenizer: MolStrucTok, mols: list[Chem.Mol], size: int = 500) -> dict[str, float]:
    """Molecules per second from coordinates and graph to codes, and back."""
    ordered = sorted(map(prepare, mols), key=len)
    parts = [ordered[i : i + size] for i in range(0, len(ordered), size)]
    encode, codes = best_of(2, lambda: [tokenizer.assign_batch(part, None) for part in parts])
    decode, _ = best_of(
        2, lambda: [tokenizer.placement([x.mol for x in part]).rebuild(c) for part, c in zip(parts, codes)]
    )
    return {"encode_without_graph": len(mols) / encode, "decode_without_graph": len(mols) / decode}


def main(
    molecules: Annotated[int, typer.Option(help="of the QM9 test set and of the CCD test set each")] = 1000,
    out: Path = RESULTS / "molecule_speed.json",
) -> None:
    """Time and write the rates (molecules per second, all threads)."""
    RDLogger.DisableLog("rdApp.*")
    report: dict[str, Any] = machine()
    for name in ("qm9.npz", "ccd_ideal.npz"):
        mols = [m for _, m in npz_molecules(shared_folder() / "data" / "molecule" / name, 2, molecules)]
        official = load_tokenizer(RELEASED)
        opened = {**rates(official, mols, closed_loop=False), **geometry_rates(official, mols)}
        found: dict[str, Any] = {"molecules": len(mols), "open loop": opened}
        for label in [m for m in structok.list_models() if m.startswith("molstructok")]:
            for beam in (1, 8):
                how = f"{label}, closed loop, beam {beam}"
                found[how] = rates(structok.load(label), mols, closed_loop=True, beam=beam)
        report[name] = found
        print(json.dumps(found, indent=1), flush=True)
        out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
