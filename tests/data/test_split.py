"""Clusters and splits: whole clusters on one side, by a hash that does not depend on the order of the inputs."""

import shutil
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from structok import Backbone, StructokError
from structok.data.build import build
from structok.data.options import BuildOptions
from structok.data.split import make_plan

OPTIONS = BuildOptions(min_length=5, validation=0.4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, helix):
    """30 chains; chain i + 15 is a relative of chain i: every tenth residue differs."""
    where = tmp_path_factory.mktemp("chains")
    for i in range(15):
        chain = helix(80, i)
        chain.write(where / f"{i:02d}.pdb")
        letters = list(chain.sequence)
        letters[4::10] = ["A" if c != "A" else "G" for c in letters[4::10]]
        Backbone(chain.coords, "".join(letters)).write(where / f"{i + 15:02d}.pdb")
    return where


def by_id(rows, column):
    return {row["id"]: row[column] for row in rows}


def test_the_split_depends_on_the_seed_but_not_on_the_order(folder, tmp_path, rows_of, monkeypatch):
    monkeypatch.setenv("PATH", "")
    files = sorted(map(str, folder.iterdir()))
    build(files, tmp_path / "a", OPTIONS)
    build(files[::-1], tmp_path / "b", OPTIONS)
    build(files, tmp_path / "c", replace(OPTIONS, seed=1))
    a, b, c = (rows_of(tmp_path / name) for name in "abc")
    assert by_id(a, "split") == by_id(b, "split")
    assert by_id(a, "cluster") == by_id(b, "cluster")
    assert by_id(a, "split") != by_id(c, "split")
    assert {"train", "validation"} == set(by_id(a, "split").values())


def test_the_share_of_validation_is_about_what_was_asked(tmp_path):
    keys = [i.to_bytes(8, "big") * 2 for i in np.random.default_rng(0).integers(0, 2**63, 2000).tolist()]
    table = pa.table({"id": [f"c{i}" for i in range(2000)], "key": keys, "group": keys})
    pq.write_table(table, tmp_path / "part.parquet")
    plan = make_plan([tmp_path / "part.parquet"], replace(OPTIONS, modality="molecule", validation=0.1), tmp_path)
    assert 0.07 < plan.validation.mean() < 0.13  # 4.5 standard deviations


def test_cluster_file(folder, tmp_path, rows_of):
    lines = [f"family{i % 5}\t{i:02d}_A" for i in range(15)] + [f"family{i % 5}\t{i:02d}" for i in range(15, 25)]
    (tmp_path / "c.tsv").write_text("\n".join(lines) + "\n")
    card = build([str(folder)], tmp_path / "out", replace(OPTIONS, clusters=str(tmp_path / "c.tsv")))
    rows = rows_of(tmp_path / "out")
    clusters, splits = by_id(rows, "cluster"), by_id(rows, "split")
    for i in range(25):
        assert clusters[f"{i:02d}_A"] == clusters[f"{i % 5:02d}_A"]
        assert splits[f"{i:02d}_A"] == splits[f"{i % 5:02d}_A"]
    assert len(set(clusters.values())) == 5 + 5
    assert "c.tsv" in card["clusters"]
    assert "5 not named" in card["clusters"]


def test_broken_cluster_file(folder, tmp_path):
    (tmp_path / "c.tsv").write_text("a\tb\nonly one column\n")
    with pytest.raises(StructokError, match=r"c\.tsv, line 2"):
        build([str(folder)], tmp_path / "out", replace(OPTIONS, clusters=str(tmp_path / "c.tsv")))
    with pytest.raises(StructokError, match="no such cluster file"):
        build([str(folder)], tmp_path / "out", replace(OPTIONS, clusters=str(tmp_path / "d.tsv")))


_FAKE = """#!{python}
# the calls that MMseqs2 answers: FASTA in, 'representative<TAB>member' out; relatives have equal first residues
import sys
command, fasta, out, _ = sys.argv[1:5]
assert command == "easy-cluster" and "--min-seq-id" in sys.argv
first = {{}}
lines = open(fasta).read().split("\\n")
with open(out + "_cluster.tsv", "w") as file:
    for name, sequence in zip(lines[0:-1:2], lines[1::2]):
        file.write(first.setdefault(sequence[:4], name[1:]) + "\\t" + name[1:] + "\\n")
"""


def _check_relatives(out, rows_of):
    clusters = by_id(rows_of(out), "cluster")
    splits = by_id(rows_of(out), "split")
    assert len(set(clusters.values())) == 15
    for i in range(15):
        assert clusters[f"{i:02d}_A"] == clusters[f"{i + 15:02d}_A"]
        assert splits[f"{i:02d}_A"] == splits[f"{i + 15:02d}_A"]
    return splits


def test_mmseqs_is_used_when_it_is_on_the_path(folder, tmp_path, rows_of, monkeypatch):
    program = tmp_path / "bin" / "mmseqs"
    program.parent.mkdir()
    program.write_text(_FAKE.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    files = sorted(map(str, folder.iterdir()))
    card = build(files, tmp_path / "out", OPTIONS)
    assert card["clusters"].startswith("MMseqs2 at 40%")
    splits = _check_relatives(tmp_path / "out", rows_of)
    build(files[::-1], tmp_path / "again", OPTIONS)
    assert _check_relatives(tmp_path / "again", rows_of) == splits
    program.write_text("#!/bin/sh\necho out of luck >&2\nexit 1\n")
    with pytest.raises(StructokError, match=r"mmseqs failed.*out of luck"):
        build(files, tmp_path / "failed", OPTIONS)


@pytest.mark.skipif(shutil.which("mmseqs") is None, reason="MMseqs2 is not installed")
def test_mmseqs_itself_finds_the_relatives(folder, tmp_path, rows_of):
    build([str(folder)], tmp_path / "out", OPTIONS)
    _check_relatives(tmp_path / "out", rows_of)
