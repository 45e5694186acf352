"""Put backbones that came as arrays into shards, as `structok data build` makes them from structure files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from structok.data.columns import schema
from structok.data.options import BuildOptions
from structok.data.shards import SPLITS, ShardWriter
from structok.errors import InputError
from structok.files import pyarrow, write_whole
from train.data import Backbones, load_backbones

__all__ = ["pack"]


def pack(source: Path, out: Path, *, shard_size: int = 8192, longest: int = 2048) -> None:
    """Write train and validation shards of what `load_backbones` reads.

    Parameters
    ----------
    source : npz, parquet or folder of structures
    out : a new folder
    shard_size : chains per shard
    longest : longer chains are left out

    Raises
    ------
    InputError
        If the folder is there, or there is nothing to read.
    """
    if out.exists():
        raise InputError(f"{out}: exists; choose a new folder")
    data = load_backbones(source)
    work = out / ".build"
    work.mkdir(parents=True)
    layout = schema(BuildOptions())
    for split, name in enumerate(SPLITS):
        rows = np.flatnonzero((data.split == split) & (data.lengths <= longest))
        if not len(rows):
            continue
        writer = ShardWriter(out, work, name, layout, len(rows), shard_size)
        for part in np.array_split(rows, -(-len(rows) // 256)):
            records = [_record(data, int(i), name, str(source)) for i in part]
            writer.add(pyarrow().Table.from_pylist(records, schema=layout))
    work.rmdir()
    counts = {name: int((data.split == i).sum()) for i, name in enumerate(SPLITS)}
    write_whole(out / "card.json", json.dumps({"inputs": [str(source)], "chains": counts}, indent=2).encode())


def _record(data: Backbones, i: int, split: str, source: str) -> dict[str, object]:
    rows = slice(data.offsets[i], data.offsets[i + 1])
    coords, n = data.coords[rows], int(data.lengths[i])
    return {
        "id": data.names[i],
        "chain": "A",
        "sequence": "X" * n if data.sequence is None else data.sequence[rows].tobytes().decode("ascii"),
        "residue_ids": [str(k + 1) for k in range(n)],
        "coords": coords.ravel(),
        "length": n,
        "observed": int(np.isfinite(coords).all((1, 2)).sum()),
        "source": source,
        "cluster": int(data.cluster[i]),
        "split": split,
    }
