"""Whether this version gives the codes that another one gives, for every shipped checkpoint that both have.

git worktree add /tmp/before COMMIT && python -m eval.measure.same_codes /tmp/before
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rdkit import Chem

# what runs in both versions: it needs nothing but their public functions
_ENCODE = """
import json, sys, numpy as np, structok
from rdkit import Chem
folder, names = sys.argv[1], sys.argv[2].split(",")
with np.load(f"{folder}/chains.npz") as file:
    chains = [structok.Backbone(file[str(i)]) for i in range(len(file.files))]
mols = [m for m in Chem.SDMolSupplier(f"{folder}/molecules.sdf", removeHs=False)]
found = {}
for name in names:
    tokenizer = structok.load(name)
    exact = {"rate_weight": 0.0} if getattr(tokenizer.config, "groups", 0) else {}
    some = chains if tokenizer.modality == "protein" else mols
    found[name] = [t.codes.tolist() for t in tokenizer.encode_batch(some, **exact)]
print(json.dumps(found))
"""


def codes(tree: Path, folder: str, names: list[str]) -> dict[str, list[list[int]]]:
    """Codes of the structures in a folder by the version in `tree`, at rate weight 0."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "NUMBA_CACHE_DIR": f"{folder}/{tree.name}"}
    command = [sys.executable, "-c", _ENCODE, folder, ",".join(names)]
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def write_inputs(folder: Path, chains: int, molecules: int, seed: int) -> None:
    """Validation chains of any length, gaps and breaks included, and molecules, for both versions to read."""
    from eval.measure.sets import molecule_sets, protein_sets

    found = [c for some in protein_sets(None, 2 * chains // 3, seed)[:2] for c in some.structures]
    np.savez(folder / "chains.npz", **{str(i): c.coords for i, c in enumerate(found)})
    with Chem.SDWriter(str(folder / "molecules.sdf")) as writer:
        for mol in (m for some in molecule_sets(None, molecules // 2, whole=False)[:2] for m in some.structures):
            writer.write(mol)


def main(
    before: Annotated[Path, typer.Argument(help="working tree of the other version")],
    chains: Annotated[int, typer.Option(help="how many")] = 200,
    molecules: Annotated[int, typer.Option(help="how many")] = 200,
    seed: Annotated[int, typer.Option(help="which")] = 1,
) -> None:
    """Compare; exit status 1 if a code differs."""
    here = Path(__file__).resolve().parents[2]
    names = sorted(p.parent.name for p in (here / "checkpoints").glob("*/config.json"))
    names = [n for n in names if (before / "checkpoints" / n).is_dir()]
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(Path(folder), chains, molecules, seed)
        old, new = (codes(tree, folder, names) for tree in (before.resolve(), here))
    for name in names:
        same = sum(a == b for a, b in zip(old[name], new[name], strict=True))
        rows[name] = {"structures": len(new[name]), "codes": sum(map(len, new[name])), "same": same}
    print(json.dumps(rows, indent=1))
    if any(row["same"] < row["structures"] for row in rows.values()):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
