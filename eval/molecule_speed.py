"""Molecules per second against an atom-by-atom Python loop, written to eval/results/molecule_speed.json.

    python -m eval.molecule_speed --official ../shared/reference/molstructok/weights.safetensors

The published implementation walks through a molecule in Python, one atom at a time, with small numpy vectors,
one molecule after the other, and runs its networks per molecule. `loop_encode` and `loop_decode` do the same
work as that description says, without needless cost; both sides use the same weights and give the same codes.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from jaxtyping import Float, Int
from rdkit import Chem, RDLogger

import structok
from eval.molecules import RESULTS, converted
from structok.codebook.nearest import nearest_code
from structok.molecule.conformer import Conformer, in_token_order, prepare
from structok.molecule.model import MolStrucTokModel
from structok.molecule.spherical import FIRST_ATOM
from structok.molecule.tokenizer import MolStrucTok
from train.data import shared_folder
from train.molecule.data import npz_molecules

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def loop_references(mol: Chem.Mol) -> list[tuple[int, int, int]]:
    """Focal atom and references of each atom, found atom by atom."""
    refs: list[tuple[int, int, int]] = []
    for i in range(mol.GetNumAtoms()):
        if i < 3:
            refs.append(((-1, -1, -1), (0, -1, -1), (1, 0, -1))[i])
            continue
        earlier = [a.GetIdx() for a in mol.GetAtomWithIdx(i).GetNeighbors() if a.GetIdx() < i]
        f = max(earlier)
        refs.append({0: (0, 1, 2), 1: (1, 0, 2)}.get(f, (f, refs[f][0], refs[f][1])))
    return refs


def loop_frame(f: np.ndarray, c1: np.ndarray, c2: np.ndarray) -> Float[np.ndarray, "3 3"]:
    """Axes at f."""
    x = (c1 - f) / np.linalg.norm(c1 - f)
    y = c2 - f
    y = y - np.dot(y, x) * x
    y = y / np.linalg.norm(y)
    return np.stack([x, y, np.cross(x, y)])


def loop_encode(model: MolStrucTokModel, conformer: Conformer) -> Int[np.ndarray, " n"]:
    """Codes of one molecule."""
    x, refs = conformer.coords, loop_references(conformer.mol)
    rows = [FIRST_ATOM]
    for i in range(1, len(x)):
        if i < 3:
            d = np.linalg.norm(x[i] - x[0])
            angle = FIRST_ATOM[2]
            if i == 2:
                a, b = np.linalg.norm(x[1] - x[0]), np.linalg.norm(x[2] - x[1])
                angle = np.arccos(np.clip((a * a + d * d - b * b) / (2 * a * d), -1, 1))
            rows.append((d, FIRST_ATOM[1], angle, 0.0))
            continue
        f, c1, c2 = (x[k] for k in refs[i])
        local = loop_frame(f, c1, c2) @ (x[i] - f)
        d = np.linalg.norm(local)
        phi = np.arctan2(local[1], local[0])
        rows.append((d, np.arccos(local[2] / d), abs(phi), np.sign(phi)))
    with torch.no_grad():
        latent = model.latent(torch.tensor(np.array(rows, dtype=float)))
        return nearest_code(latent, model.codebook)[1].numpy()


def loop_decode(model: MolStrucTokModel, mol: Chem.Mol, codes: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n 3"]:
    """Coordinates of one molecule."""
    refs = loop_references(mol)
    with torch.no_grad():
        mean, logits = model.decoder(model.codebook[torch.from_numpy(codes).long()])
    d, theta, phi = (np.exp(mean[:, 0].numpy()) - 1, mean[:, 1].numpy() * np.pi, mean[:, 2].numpy() * np.pi)
    sign = logits.argmax(1).numpy() - 1
    x = np.zeros((len(codes), 3))
    for i in range(1, len(codes)):
        if i == 1:
            x[i] = (d[i], 0, 0)
        elif i == 2:
            x[i] = (d[i] * np.cos(phi[i]), d[i] * np.sin(phi[i]), 0)
        else:
            f, c1, c2 = (x[k] for k in refs[i])
            azimuth = sign[i] * phi[i]
            local = d[i] * np.array(
                [np.sin(theta[i]) * np.cos(azimuth), np.sin(theta[i]) * np.sin(azimuth), np.cos(theta[i])]
            )
            x[i] = f + loop_frame(f, c1, c2).T @ local
    return x


def loop_prepare(mol: Chem.Mol) -> tuple[Chem.Mol, str]:
    """Token order and SELFIES with attribution."""
    import selfies

    smiles, order = in_token_order(mol)
    text, attribution = selfies.encoder(smiles, attribute=True)
    assert attribution
    return Chem.RenumberAtoms(mol, order), text


def seconds(work: Callable[[], Any], repeats: int = 2) -> float:
    """Wall-clock time, best of some runs; wants a quiet machine."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def rates(tokenizer: MolStrucTok, mols: list[Chem.Mol], **how: Any) -> dict[str, float]:
    """Molecules per second of a tokenizer, from Mol to tokens and back."""
    n = len(mols)
    tokens = tokenizer.encode_batch(mols, batch_size=n, **how)
    return {
        "encode": n / seconds(lambda: tokenizer.encode_batch(mols, batch_size=n, **how), 1),
        "decode": n / seconds(lambda: tokenizer.decode_batch(tokens, batch_size=n), 1),
    }


def batches(conformers: list[Conformer], size: int = 500) -> list[list[Conformer]]:
    """Batches of similar length."""
    ordered = sorted(conformers, key=len)
    return [ordered[i : i + size] for i in range(0, len(ordered), size)]


def geometry_rates(tokenizer: MolStrucTok, conformers: list[Conformer]) -> dict[str, float]:
    """Molecules per second without RDKit's and SELFIES' share: from coordinates and graph to codes, and back."""
    n, parts = len(conformers), batches(conformers)
    codes = [tokenizer.assign_batch(part, None) for part in parts]

    def decode() -> None:
        for part, c in zip(parts, codes):
            tokenizer.placement([x.mol for x in part]).rebuild(c)

    return {
        "encode_without_graph": n / seconds(lambda: [tokenizer.assign_batch(part, None) for part in parts]),
        "decode_without_graph": n / seconds(decode),
    }


@app.command()
def main(
    official: Annotated[Path, typer.Option(help="released MolStrucTok weights")],
    molecules: Annotated[int, typer.Option(help="of the QM9 test set and of the CCD test set each")] = 1000,
    out: Path = RESULTS / "molecule_speed.json",
) -> None:
    """Time both and write the rates (molecules per second, all threads) and their ratios."""
    RDLogger.DisableLog("rdApp.*")
    tokenizer = converted(official)
    model = tokenizer.model
    assert isinstance(model, MolStrucTokModel)
    report: dict[str, Any] = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
    }
    for name, split in (("qm9.npz", 2), ("ccd_ideal.npz", 2)):
        mols = [m for _, m in npz_molecules(shared_folder() / "data" / "molecule" / name, split, molecules)]
        conformers = [prepare(m) for m in mols]
        codes = [loop_encode(model, c) for c in conformers]
        ours = tokenizer.encode_batch(mols, batch_size=len(mols))
        equal = sum(np.array_equal(a, b.codes) for a, b in zip(codes, ours))
        n = len(mols)
        prepared = seconds(lambda m=mols: [loop_prepare(x) for x in m])
        coded = seconds(lambda c=conformers: [loop_encode(model, x) for x in c], 2)
        decoded = seconds(lambda c=conformers, k=codes: [loop_decode(model, x.mol, y) for x, y in zip(c, k)], 2)
        loop = {
            "encode": n / (prepared + coded),
            "encode_without_graph": n / coded,
            "decode_without_graph": n / decoded,
        }
        opened = {**rates(tokenizer, mols, closed_loop=False), **geometry_rates(tokenizer, conformers)}
        found: dict[str, Any] = {"molecules": n, "equal_codes": equal, "python_loop": loop, "open loop": opened}
        for label in [m for m in structok.list_models() if m.startswith("molstructok")]:
            for beam in (1, 8):
                name_of = f"{label}, closed loop, beam {beam}"
                found[name_of] = rates(structok.load(label), mols, closed_loop=True, beam=beam)
        for key in ("encode", "encode_without_graph", "decode_without_graph"):
            found[f"ratio_{key}"] = opened[key] / loop[key]
        report[name] = found
        print(json.dumps(found, indent=1), flush=True)
        out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    app()
