"""Chains of the training data as a folder of structure files in many formats, some of them broken, to test bulk work.

    python -m eval.bulk_files OUT --chains 5000

OUT/files holds the structures: loose files in folders, and tar archives; names have spaces and non-ASCII letters,
and some ids occur twice. OUT/manifest.tsv says for each file what it is: the chain, or how it was broken.
"""

from __future__ import annotations

import argparse
import gzip
import io
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import numpy as np

from structok.structure import Backbone
from structok.write.structures import structure_bytes
from train.data import shared_folder

FORMATS = ("pdb", "cif", "bcif", "pdb.gz", "cif.gz", "bcif.gz")
ARCHIVES = {7: "first.tar", 8: "zweites Archiv é.tar.gz"}  # two tenths of the files
BROKEN = ("empty", "cut", "garbage", "no atoms", "not finite", "no protein")


def chains(path: Path) -> Iterator[tuple[Backbone, float]]:
    """Chains of a packed npz in random order, and their resolution in Å (0 = unknown)."""
    with np.load(path) as file:
        data = {k: file[k] for k in file.files}
    for i in np.random.default_rng(0).permutation(len(data["offsets"]) - 1):
        rows = slice(data["offsets"][i], data["offsets"][i + 1])
        xyz = data["xyz"][rows]
        coords = np.where(xyz == np.iinfo(np.int16).min, np.nan, xyz / np.float32(100))
        numbers = data["resnum"][rows].tolist()
        ids, letters = [str(numbers[0])], ["", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
        for before, n in pairwise(numbers):  # repeated numbers were told apart by insertion codes
            repeats = letters.index(ids[-1].lstrip("-0123456789")) + 1 if n == before else 0
            ids.append(f"{n}{letters[repeats % len(letters)]}")
        sequence = data["seq"][rows].tobytes().decode("ascii")
        chain = "".join(filter(str.isalnum, data["chain"][i])) or "A"
        backbone = Backbone(coords[:, :3], sequence, chain, ids, oxygen=coords[:, 3], name=str(data["pdb"][i] or i))
        if backbone.mask.any():
            yield backbone, float(data["resolution"][i])


def body(backbone: Backbone, resolution: float, suffix: str) -> bytes:
    """The file's content, with the resolution where the format is text."""
    kind = suffix.removesuffix(".gz")
    if kind == "pdb" and (len(backbone.chain_id) > 1 or max(map(len, backbone.residue_ids)) > 5):  # does not fit
        backbone = Backbone(backbone.coords, backbone.sequence, "A", oxygen=backbone.oxygen, name=backbone.name)
    content = structure_bytes([backbone], kind, oxygen=True)
    if resolution and kind == "pdb":
        content = f"REMARK   2 RESOLUTION.  {resolution:6.2f} ANGSTROMS.\n".encode() + content
    if resolution and kind == "cif":
        content += f"_refine.ls_d_res_high {resolution:.2f}\n#\n".encode()
    return gzip.compress(content, mtime=0) if suffix.endswith(".gz") else content


def broken(kind: str, whole: bytes) -> tuple[str, bytes]:
    """Suffix and content of a file that cannot be used."""
    if kind == "empty":
        return "pdb", b""
    if kind == "cut":
        return "cif.gz", gzip.compress(whole, mtime=0)[: len(whole) // 20]
    if kind == "garbage":
        return "bcif", bytes(range(256)) * 20
    if kind == "no atoms":
        return "cif", b"data_none\n_entry.id none\n#\n"
    text = whole.decode().splitlines(keepends=True)
    atoms = [i for i, line in enumerate(text) if line.startswith("ATOM")]
    if kind == "not finite":
        text[atoms[4]] = text[atoms[4]][:30] + "     nan" + text[atoms[4]][38:]
        return "pdb", "".join(text).encode()
    water = "HETATM    1  O   HOH A   1       1.000   2.000   3.000  1.00  0.00           O\n"
    return "pdb", water.encode()


def write(out: Path, count: int, share: float) -> None:
    """Write `count` good files, and `share` times as many broken ones."""
    rng = np.random.default_rng(1)
    files = out / "files"
    files.mkdir(parents=True)
    with ExitStack() as stack:
        manifest = stack.enter_context((out / "manifest.tsv").open("w", encoding="utf-8"))
        archives = {
            k: stack.enter_context(tarfile.open(files / n, "w:gz" if n.endswith("gz") else "w"))
            for k, n in ARCHIVES.items()
        }

        def put(i: int, name: str, content: bytes, what: str) -> None:
            place = i % 10
            folder = ("a", "b c", "été/δ")[place % 3]
            if place in archives:
                info = tarfile.TarInfo(f"{folder}/{name}")
                info.size = len(content)
                archives[place].addfile(info, io.BytesIO(content))
                where = f"{ARCHIVES[place]}/{folder}/{name}"
            else:
                where = f"{folder}/{name}"
                (files / folder).mkdir(parents=True, exist_ok=True)
                (files / where).write_bytes(content)
            manifest.write(f"{where}\t{what}\n")

        every, bad = max(1, round(1 / share)) if share else count + 1, 0
        for i, (backbone, resolution) in zip(range(count), chains(shared_folder() / "data" / "protein" / "train.npz")):
            suffix = FORMATS[rng.integers(len(FORMATS))]
            # the same id comes again where several chains of one entry are in the data, and in every 100th file
            stem = "twice" if i % 100 == 50 else f"{backbone.name} {backbone.chain_id}"
            number = f" ({i})" if i % 3 else f"_ß{i}"
            name = f"{stem}.{i}.{suffix}" if i % 2 else f"{stem}{number}.{suffix}"
            put(i, name, body(backbone, resolution, suffix), f"chain\t{backbone.name}\t{len(backbone)}")
            if i % every == every - 1:
                kind = BROKEN[bad % len(BROKEN)]
                suffix, content = broken(kind, body(backbone, 0, "pdb"))
                put(i // 7, f"broken {bad}.{suffix}", content, f"broken\t{kind}")
                bad += 1


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--chains", type=int, default=5000)
    parser.add_argument("--broken", type=float, default=0.01, help="broken files per good one")
    options = parser.parse_args()
    write(options.out, options.chains, options.broken)


if __name__ == "__main__":
    main()
