"""All heavy atoms of proteins and nucleic acids, on clusters that training never saw.

python -m eval.measure.allatom -o eval/results/allatom.json
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from biotite.structure import base_pairs
from jaxtyping import Float

import structok
from eval.measure.damage import damage
from eval.measure.stats import summary
from structok.nucleic import metrics as nucleic
from structok.nucleic.atoms import FRAME
from structok.nucleic.chain import NucleicChain
from structok.protein.allatom import AtomChain
from structok.protein.sidechain_atoms import ATOMS, BONDS, LETTERS
from structok.protein.sidechain_metrics import chi_angles, clashes, compare_atoms
from structok.tokens import Tokens
from train.data import shared_folder
from train.polymer.data import load_nucleic, load_proteins

CHI = 20  # degrees within which a chi angle counts as kept
DAMAGE = 0.01, 0.05  # share of codes and anchors that are wrong
LONG = 20  # nucleotides that a chain needs to be damaged
LENGTHS = (0, 20, 40, 80, 160, 10_000)  # nucleotides
FLAT = "FHWY"  # types with rings that should be flat
PUBLISHED = [
    {
        "model": "bio2token",
        "what": "proteins and RNA, all heavy atoms",
        "bits": "12 per atom: about 94 per residue, 250 per nucleotide",
        "rmsd": "0.5 to 0.6",
        "differs": "its own test sets",
    },
    {
        "model": "RiboSphere",
        "what": "RNA, all heavy atoms",
        "bits": "not stated here",
        "rmsd": "1.25",
        "differs": "its own test set",
    },
    {
        "model": "chain-vq-4096 with side chains",
        "what": "CASP14",
        "bits": "24 per residue",
        "rmsd": "not measured",
        "differs": "the CASP14 files at hand hold backbones only, no side chains",
    },
]


def rounded(values: Any, digits: int = 4) -> Any:
    """The same, floats rounded."""
    if isinstance(values, dict):
        return {k: rounded(v, digits) for k, v in values.items()}
    if isinstance(values, list):
        return [rounded(v, digits) for v in values]
    return round(values, digits) if isinstance(values, float) else values


def timed(work: Callable[[], Any], count: int) -> tuple[Any, float]:
    """What the work returns, and how many of `count` a second of CPU time does."""
    start = time.process_time()
    return work(), count / (time.process_time() - start)


def angles_off(a: Float[np.ndarray, "*n"], b: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """Degrees between angles in radians."""
    return np.degrees(np.abs(np.angle(np.exp(1j * (a - b)))))


def of_type(sequence: str, letter: str) -> np.ndarray:
    return np.array([x == letter for x in sequence])


def proteins(name: str, chains: Sequence[AtomChain], **search: float) -> dict[str, Any]:
    """Accuracy, chi angles, clashes, geometry and speed of a pair of models."""
    model = structok.load(name)
    residues = sum(int(c.mask.sum()) for c in chains)
    model.decode_batch(model.encode_batch(chains[:2], **search))  # compile
    tokens, encode = timed(lambda: model.encode_batch(chains, **search), residues)
    back, decode = timed(lambda: model.decode_batch(tokens), residues)
    compared = [compare_atoms(b.atoms, c.atoms, c.sequence) for b, c in zip(back, chains)]
    letters = "".join(c.sequence for c in chains)
    strict, alike = (np.concatenate([getattr(x, kind) for x in compared]) for kind in ("strict", "alike"))
    chi = [np.concatenate([chi_angles(c.atoms, c.sequence) for c in some]) for some in (back, chains)]
    off = angles_off(chi[0], chi[1])
    codes = np.concatenate([t.sidechains for t in tokens])
    seen = np.concatenate([c.mask for c in chains])
    types: dict[str, Any] = {}
    for letter in LETTERS:
        rows = of_type(letters, letter) & seen
        types[letter] = {
            "residues": int(rows.sum()),
            "rmsd": rms(strict[rows, 4:]),
            "rmsd_alike": rms(alike[rows, 4:]),
            "chi_kept": [share(off[rows, i] <= CHI, np.isfinite(off[rows, i])) for i in range(4)],
            "uncoded": int((codes[rows] < 0).sum()),
        }
    new = [clashes(b.atoms, c.sequence) - clashes(c.atoms, c.sequence) for b, c in zip(back, chains)]
    sizes = [s.size for s in model.streams if s.name in ("codes", "sidechains")]
    return {
        "bits": float(np.log2(sizes).sum()),
        "chains": len(chains),
        "residues": residues,
        "rmsd": summary([x.rmsd for x in compared]),
        "rmsd_alike": summary([x.rmsd_alike for x in compared]),
        "rmsd_of": {
            "N, CA, C": rms(strict[:, :3]),
            "O": rms(strict[:, 3]),
            "side chain": rms(strict[:, 4:]),
        },
        "chi_kept": [share(off[:, i] <= CHI, np.isfinite(off[:, i])) for i in range(4)],
        "chains_without_new_clash": float(np.mean([not x for x in new])),
        "new_clashes": sum(map(len, new)),
        "clashes_before": sum(len(clashes(c.atoms, c.sequence)) for c in chains),
        "bond_error": {"rebuilt": bond_error(back), "input": bond_error(chains)},
        "out_of_plane": {"rebuilt": out_of_plane(back), "input": out_of_plane(chains)},
        "wrong_hands": wrong_hands(back, chains),
        "types": types,
        "residues_per_core_second": {"encode": encode, "decode": decode},
    }


def rms(square: np.ndarray) -> float | None:
    known = square[np.isfinite(square)]
    return float(np.sqrt(known.mean())) if known.size else None


def share(hits: np.ndarray, known: np.ndarray) -> float | None:
    return float(hits[known].mean()) if known.any() else None


def bond_error(chains: Sequence[AtomChain]) -> float:
    """RMS deviation of side-chain bonds from the usual length of their kind in these chains, Å."""
    off = []
    for letter in LETTERS:
        atoms = np.concatenate([c.atoms[of_type(c.sequence, letter)] for c in chains])
        for a, b in BONDS[letter][3:]:
            length = np.linalg.norm(atoms[:, ATOMS[letter].index(a)] - atoms[:, ATOMS[letter].index(b)], axis=-1)
            length = length[np.isfinite(length)]
            off.append(length - np.median(length))
    return float(np.sqrt(np.square(np.concatenate(off)).mean()))


def out_of_plane(chains: Sequence[AtomChain]) -> float:
    """RMS distance of ring atoms from the best plane through them, Å."""
    off = []
    for letter in FLAT:
        ring = [i for i, name in enumerate(ATOMS[letter]) if i > 4 and name != "OH"]
        for c in chains:
            atoms = c.atoms[of_type(c.sequence, letter)][:, ring].astype(np.float64)
            atoms = atoms[np.isfinite(atoms).all((1, 2))]
            if len(atoms):
                normal = np.linalg.svd(atoms - atoms.mean(1, keepdims=True))[2][:, -1]
                off.append(((atoms - atoms.mean(1, keepdims=True)) * normal[:, None]).sum(-1).ravel())
    return float(np.sqrt(np.square(np.concatenate(off)).mean()))


def wrong_hands(back: Sequence[AtomChain], chains: Sequence[AtomChain]) -> dict[str, int]:
    """Residues whose CA (all types), or CB (I, T), has another handedness than in the input."""
    found = {}
    for where, letters, others in (("CA", LETTERS, (0, 2, 4)), ("CB", "I", (1, 5, 6)), ("CB", "T", (1, 5, 6))):
        centre = 1 if where == "CA" else 4
        count = 0
        for a, b in zip(back, chains):
            rows = np.array([x in letters for x in a.sequence])
            volumes = []
            for c in (a, b):
                x = c.atoms[rows] - c.atoms[rows][:, centre : centre + 1]
                volumes.append((np.cross(x[:, others[0]], x[:, others[1]]) * x[:, others[2]]).sum(-1))
            count += int((volumes[0] * volumes[1] < 0).sum())
        found[where if where == "CA" else f"CB of {letters}"] = count
    return found


def nucleic_acids(name: str, chains: Sequence[NucleicChain]) -> dict[str, Any]:
    """Accuracy, base pairs, pucker, bonds between nucleotides and speed, RNA and DNA apart."""
    model = structok.load(name)
    count = sum(int(c.mask.sum()) for c in chains)
    model.decode_batch(model.encode_batch(chains[:2]))
    tokens, encode = timed(lambda: model.encode_batch(chains), count)
    back, decode = timed(lambda: model.decode_batch(tokens), count)
    result: dict[str, Any] = {
        "bits": float(sum(np.log2(s.size) for s in model.streams if s.name in ("codes", "conformers"))),
        "frame": ", ".join(FRAME),
    }
    kinds = {"all": chains, "RNA": [], "DNA": []}
    kinds["RNA"] = [c for c in chains if c.sequence.replace("X", "").isupper()]
    kinds["DNA"] = [c for c in chains if c.sequence.replace("X", "").islower()]
    for kind, some in kinds.items():
        result[kind] = _nucleic([(b, c) for b, c in zip(back, chains) if any(c is x for x in some)])
    result["by_length"] = {}
    for low, high in pairwise(LENGTHS):
        pairs = [(b, c) for b, c in zip(back, chains) if low < len(c) <= high]
        if pairs:
            rmsd = [nucleic.compare_atoms(b.atoms, c.atoms).rmsd for b, c in pairs]
            result["by_length"][f"{low + 1}-{high}"] = {"chains": len(pairs), "rmsd": float(np.mean(rmsd))}
    result["uncoded"] = int(sum(((t.conformers < 0) & t.mask).sum() for t in tokens))
    result["nucleotides_per_core_second"] = {"encode": encode, "decode": decode}
    result["damaged"] = _damaged(model, [(t, c) for t, c in zip(tokens, chains) if len(c) >= LONG])
    return result


def _damaged(model: Any, pairs: Sequence[tuple[Tokens, NucleicChain]]) -> dict[str, Any]:
    """RMSD of frames where codes and anchors are random in part, and where they are not; with and without anchors."""
    random = np.random.default_rng(0)
    tokens, chains = zip(*pairs)

    def frames(some: Sequence[Tokens]) -> float:
        back = model.decode_batch(some)
        return float(np.mean([nucleic.frame_rmsd(b.atoms, c.atoms) for b, c in zip(back, chains)]))

    found: dict[str, Any] = {
        "chains": len(chains),
        "repaired_undamaged": sum(bool(b.repairs) for b in model.decode_batch(tokens)),
        "undamaged": frames(tokens),
    }
    for rate in DAMAGE:
        some = [damage(t, rate, model.codebook_size, len(model.points), random) for t in tokens]
        found[f"{rate:g}"] = {"anchors": frames(some), "alone": frames([t.without_anchors() for t in some])}
    return found


def _nucleic(pairs: Sequence[tuple[NucleicChain, NucleicChain]]) -> dict[str, Any]:
    north = [np.concatenate([nucleic.pseudorotation(c.atoms) for c in side]) for side in zip(*pairs)]
    known = np.isfinite(north[0]) & np.isfinite(north[1])
    links = [np.concatenate([nucleic.link_lengths(c.atoms) for c in side]) for side in zip(*pairs)]
    bonded = np.isfinite(links[0]) & (links[1] < 2.5)
    kept = before = after = 0
    for b, c in pairs:
        mine, theirs = (paired(x) for x in (b, c))
        kept, before, after = kept + len(mine & theirs), before + len(theirs), after + len(mine)
    return {
        "chains": len(pairs),
        "nucleotides": int(sum(c.mask.sum() for _, c in pairs)),
        "rmsd": summary([nucleic.compare_atoms(b.atoms, c.atoms).rmsd for b, c in pairs]),
        "rmsd_frame": summary([nucleic.frame_rmsd(b.atoms, c.atoms) for b, c in pairs]),
        "pucker_kept": share(nucleic.is_north(north[0]) == nucleic.is_north(north[1]), known),
        "base_pairs": {
            "input": before,
            "rebuilt": after,
            "both": kept,
            "agree": kept / (before + after - kept) if before + after else None,
        },
        "link": {"mean": float(links[0][bonded].mean()), "rms_off": rms((links[0] - links[1])[bonded] ** 2)},
    }


def paired(chain: NucleicChain) -> set[tuple[int, int]]:
    """Base pairs within a chain as biotite finds them, by residue number."""
    array = NucleicChain(chain.atoms, chain.sequence).to_atom_array()
    if not len(array):
        return set()
    return {tuple(sorted(array.res_id[list(pair)].tolist())) for pair in base_pairs(array)}  # type: ignore[misc]


def main(
    out: Annotated[Path, typer.Option("-o", "--out")] = Path("eval/results/allatom.json"),
    backbone: str = "chain-vq-4096",
) -> None:
    """Write the results as JSON."""
    shared = shared_folder() / "data"
    trusted = [AtomChain(c.atoms, c.sequence, name=c.name) for c in load_proteins(shared / "protein/allatom.npz", 1)]
    strands = [NucleicChain(c.atoms, c.sequence, name=c.name) for c in load_nucleic(shared / "nucleic/nucleic.npz", 1)]
    result = {
        "proteins": {
            f"{backbone}+{side}": proteins(f"{backbone}+{side}", trusted)
            | {"exact": proteins(f"{backbone}+{side}", trusted, rate_weight=0.0)}
            for side in structok.list_models()
            if side.startswith("sidechain-")
        },
        "nucleic": {"nucleic-vq-4096": nucleic_acids("nucleic-vq-4096", [c for c in strands if c.mask.sum() > 1])},
        "published": PUBLISHED,
        "notes": "Validation clusters; proteins whose side chains a program may have built are left out.",
    }
    out.write_text(json.dumps(rounded(result), indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
