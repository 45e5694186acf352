"""Molecules per second and where the time goes, written to eval/results/molecule_speed.json.

    python -m eval.molecule_speed --official ../shared/reference/molstructok/weights.safetensors

Times are those of the processor, on one thread: a machine that is busy otherwise disturbs them little, and a second
core doubles what the search does (`torch.set_num_threads`), and all of it in a run over files (`structok.bulk`).

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
import selfies
import torch
import typer
from jaxtyping import Float, Int
from rdkit import Chem, RDLogger
from torch import Tensor

import structok
from eval.molecules import RESULTS, converted
from structok.batching import by_length
from structok.codebook.nearest import nearest_code
from structok.codebook.search import beam_search
from structok.molecule.batch import atom_mask, pad
from structok.molecule.conformer import Conformer, in_token_order, molecule_of, prepare
from structok.molecule.files import parse_record
from structok.molecule.model import MolStrucTokModel
from structok.molecule.placement import Placement
from structok.molecule.search import Growth, closed_loop
from structok.molecule.spherical import FIRST_ATOM, orient
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
    smiles, order = in_token_order(mol)
    text, attribution = selfies.encoder(smiles, attribute=True)
    assert attribution
    return Chem.RenumberAtoms(mol, order), text


def seconds(work: Callable[[], Any], repeats: int = 3) -> float:
    """Processor time, best of some runs."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def rates(tokenizer: MolStrucTok, mols: list[Chem.Mol], **how: Any) -> dict[str, float]:
    """Molecules per second of a tokenizer, from Mol to tokens and back."""
    n = len(mols)
    tokens = tokenizer.encode_batch(mols, **how)
    return {
        "encode": n / seconds(lambda: tokenizer.encode_batch(mols, **how), 2),
        "decode": n / seconds(lambda: tokenizer.decode_batch(tokens), 2),
    }


def batches(conformers: list[Conformer], size: int = 256) -> list[list[Conformer]]:
    """Batches of similar length."""
    ordered = sorted(conformers, key=len)
    return [ordered[i : i + size] for i in range(0, len(ordered), size)]


def in_torch(placement: Placement, target: Tensor, mask: Tensor, beam: int) -> Tensor:
    """The search of other devices."""
    growth = Growth(placement, target, beam)
    codes, _ = beam_search(growth, growth.start(target.shape[1]), mask, beam=beam, start=1)
    codes[:, 0] = placement.first_code
    return codes


def search_rates(tokenizer: MolStrucTok, conformers: list[Conformer], beam: int) -> dict[str, float]:
    """Molecules per second of the search alone, compiled and in torch, and for how many both take the same codes."""
    n, found = len(conformers), {"compiled": 0.0, "torch": 0.0, "equal": 0.0}
    for part in batches(conformers, 128):
        placement = tokenizer.placement([c.mol for c in part], decoding=False)
        target = orient(pad([c.coords for c in part], torch.float64))
        mask = atom_mask([len(c) for c in part])
        ours, theirs = closed_loop(placement, target, mask, beam=beam), in_torch(placement, target, mask, beam)
        found["equal"] += int((ours == theirs).all(1).sum())
        found["compiled"] += seconds(lambda t=target, p=placement, m=mask: closed_loop(p, t, m, beam=beam))
        found["torch"] += seconds(lambda t=target, p=placement, m=mask: in_torch(p, t, m, beam), 1)
    return {"compiled": n / found["compiled"], "torch": n / found["torch"], "equal": found["equal"]}


def breakdown(tokenizer: MolStrucTok, mols: list[Chem.Mol], beam: int) -> dict[str, float]:
    """Microseconds of each step per molecule, from the text of a file to codes, and from tokens to a Mol."""
    records = [Chem.MolToMolBlock(m) for m in mols]
    conformers = [prepare(m) for m in mols]
    smiles = [in_token_order(m)[0] for m in mols]
    parts = batches(conformers)
    placed = [tokenizer.placement([c.mol for c in part], decoding=False) for part in parts]
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
        "prepare: all": lambda: [prepare(m) for m in mols],
        "references and network": lambda: [tokenizer.placement([c.mol for c in p], decoding=False) for p in parts],
        "search": lambda: [closed_loop(p, t, m, beam=beam) for p, t, m in zip(placed, targets, masks)],
        "decode: SELFIES": lambda: [selfies.decoder(t.selfies) for t in tokens],
        "decode: SELFIES to Mol": lambda: [molecule_of(t.selfies or "") for t in tokens],
        "decode: references, network": lambda: [tokenizer.placement([c.mol for c in p]) for p in parts],
        "decode: coordinates": lambda: [placement.rebuild(codes) for placement, codes in decoding],
    }
    return {name: round(1e6 * seconds(work) / len(mols), 1) for name, work in steps.items()}


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
    molecules: Annotated[int, typer.Option(help="of the QM9 test set and of the CCD test set each")] = 500,
    out: Path = RESULTS / "molecule_speed.json",
) -> None:
    """Time all steps on one thread and write the rates (molecules per second and core)."""
    RDLogger.DisableLog("rdApp.*")
    torch.set_num_threads(1)
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
        ours = tokenizer.encode_batch(mols)
        n = len(mols)
        prepared = seconds(lambda m=mols: [loop_prepare(x) for x in m], 1)
        coded = seconds(lambda c=conformers: [loop_encode(model, x) for x in c], 1)
        decoded = seconds(lambda c=conformers, k=codes: [loop_decode(model, x.mol, y) for x, y in zip(c, k)], 1)
        loop = {
            "encode": n / (prepared + coded),
            "encode_without_graph": n / coded,
            "decode_without_graph": n / decoded,
        }
        opened = {**rates(tokenizer, mols, closed_loop=False), **geometry_rates(tokenizer, conformers)}
        found: dict[str, Any] = {
            "molecules": n,
            "atoms": sum(map(len, conformers)),
            "equal_codes": sum(np.array_equal(a, b.codes) for a, b in zip(codes, ours)),
            "python_loop": loop,
            "open loop": opened,
        }
        for key in ("encode", "encode_without_graph", "decode_without_graph"):
            found[f"ratio_{key}"] = opened[key] / loop[key]
        for label in [m for m in structok.list_models() if m.startswith("molstructok")]:
            loaded = structok.load(label)
            for beam in (1, 8):
                found[f"{label}, closed loop, beam {beam}"] = {
                    **rates(loaded, mols, closed_loop=True, beam=beam),
                    "search": search_rates(loaded, conformers, beam),
                }
            found[f"{label}, closed loop, beam 8"]["microseconds"] = breakdown(loaded, mols, 8)
        report[name] = found
        print(json.dumps(found, indent=1), flush=True)
        out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    app()
