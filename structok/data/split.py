"""Which rows stay, their clusters, and train or validation: decided from keys alone, so coordinates are never held."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int, UInt64

from structok.data.options import KINDS, BuildOptions
from structok.data.shards import read_rows
from structok.errors import InputError

if TYPE_CHECKING:
    from pyarrow import Table

__all__ = ["Plan", "make_plan"]

_LINEAR = 1_000_000  # sequences beyond which MMseqs2 clusters in linear time


@dataclass(frozen=True)
class Plan:
    """Decisions for all rows of all parts, in order.

    `keep` is False for duplicates; `cluster` is the same in every build that has the same clusters; `renamed` has
    the new ids of rows whose id came before. `how` says how clusters were made, `unlisted` counts the kept rows
    that the cluster file does not name.
    """

    keep: Bool[np.ndarray, " n"]
    cluster: Int[np.ndarray, " n"]
    validation: Bool[np.ndarray, " n"]
    renamed: dict[int, str]
    how: str
    unlisted: int = 0


def make_plan(parts: Iterable[Path], options: BuildOptions, work: Path) -> Plan:
    """Drop duplicates (the first stays), make ids unique, cluster, and split whole clusters by a seeded hash.

    The memory needed grows with the number of rows, by their ids and keys; sequences go to MMseqs2 by a file.
    """
    keep: list[bool] = []
    groups: list[int] = []
    renamed: dict[int, str] = {}
    listed = None if options.clusters is None else _read_clusters(Path(options.clusters))
    seen: set[bytes] = set()
    taken: set[str] = set()
    unlisted = row = 0
    for table in _tables(parts, ["id", "key", "group"]):
        for name, key, group in zip(*(table[c].to_pylist() for c in ("id", "key", "group"))):
            keep.append(not (options.dedup and key in seen))
            seen.add(key)
            number = int.from_bytes(group[:8], "big")
            if keep[-1]:
                if listed is not None:
                    found = listed.get(name) or listed.get(name.rpartition("_")[0])
                    unlisted += found is None
                    number = number if found is None else found
                if (unique := _unique(name, taken)) != name:
                    renamed[row] = unique
                taken.add(unique)
            groups.append(number)
            row += 1
    cluster = np.array(groups, dtype=np.uint64)
    how = KINDS[options.modality].grouped
    if listed is not None:
        how = f"the file {Path(options.clusters or '').name}"
    elif options.modality == "protein" and (mmseqs := shutil.which("mmseqs")):
        cluster = _mmseqs(mmseqs, parts, cluster, options.identity, work)
        how = f"MMseqs2 at {options.identity:.0%} sequence identity and 80 % coverage"
    distinct, inverse = np.unique(cluster, return_inverse=True)
    salt = options.seed.to_bytes(8, "big", signed=True)
    digests = [hashlib.blake2b(int(c).to_bytes(8, "big"), digest_size=8, key=salt).digest() for c in distinct]
    chosen = np.array([int.from_bytes(d, "big") / 2**64 < options.validation for d in digests], dtype=bool)
    validation = chosen[inverse] if len(cluster) else chosen
    return Plan(np.array(keep, bool), (cluster >> np.uint64(1)).astype(np.int64), validation, renamed, how, unlisted)


def _tables(parts: Iterable[Path], columns: list[str]) -> Iterator[Table]:
    for part in parts:
        yield from read_rows(part, columns)


def _unique(name: str, taken: set[str]) -> str:
    unique, n = name, 1
    while unique in taken:
        n += 1
        unique = f"{name}.{n}"
    return unique


def _read_clusters(path: Path) -> dict[str, int]:
    """Member -> number of its cluster."""
    listed: dict[str, int] = {}
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                fields = line.rstrip("\r\n").split("\t")
                if len(fields) < 2:
                    raise InputError(f"{path}, line {number}: expected 'cluster<TAB>member'")
                listed[fields[1]] = _number(fields[0].encode())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'not text'})") from None
    return listed


def _number(name: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big")


def _mmseqs(
    program: str, parts: Iterable[Path], keys: UInt64[np.ndarray, " n"], identity: float, work: Path
) -> UInt64[np.ndarray, " n"]:
    """Cluster of each row: the smallest key of its members, so that it does not depend on their order."""
    result, scratch = work / "clusters.tsv", work / "mmseqs"
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    if not result.exists():
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        row = 0
        chosen = np.zeros(len(keys), dtype=bool)
        chosen[first] = True
        with (scratch / "all.fasta").open("w", encoding="ascii") as fasta:
            for table in _tables(parts, ["sequence"]):
                for sequence in table["sequence"].to_pylist():
                    if chosen[row] and sequence.strip("X"):
                        fasta.write(f">{inverse[row]}\n{sequence}\n")
                    row += 1
        command = "easy-linclust" if len(first) > _LINEAR else "easy-cluster"
        how = ["--min-seq-id", f"{identity:g}", "-c", "0.8", "-v", "1", "--threads", str(os.cpu_count() or 1)]
        done = subprocess.run(
            [program, command, "all.fasta", "out", "tmp", *how], cwd=scratch, capture_output=True, text=True
        )
        if done.returncode:
            reason = (done.stderr or done.stdout).strip().split("\n")[-1][:120]
            raise InputError(f"mmseqs failed ({reason}); give a cluster file with --clusters")
        os.replace(scratch / "out_cluster.tsv", result)
        shutil.rmtree(scratch)
    unique = keys[first]
    best = unique.copy()
    pairs = np.loadtxt(result, dtype=np.int64, delimiter="\t", ndmin=2)
    if len(pairs):
        representative, member = pairs.T
        np.minimum.at(best, representative, unique[member])
        best[member] = best[representative]
    return best[inverse]
