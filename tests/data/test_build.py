"""`structok data build`: what is kept and dropped, duplicates, clusters, interruption, broken and odd inputs."""

import gzip
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

import structok
from structok import Backbone, StructokError, read_structure
from structok.data import build as build_module
from structok.data.build import build
from structok.data.dataset import ShardDataset
from structok.data.options import BuildOptions
from structok.data.shards import find_shards, read_structures
from structok.errors import InputError
from structok.protein.allatom import AtomChain
from structok.read.inputs import Wanted, read_inputs
from structok.work.log import Notes
from structok.write.structures import structure_bytes, write_structure

FORMATS = ("pdb", "cif", "bcif", "pdb.gz", "cif.gz", "bcif.gz")
SMALL = BuildOptions(min_length=5)


def failures(folder):
    return [json.loads(line) for line in (folder / "failures.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, helix):
    """40 chains in six formats, in folders and archives, and 5 files that cannot be read."""
    folder = tmp_path_factory.mktemp("in put é")
    (folder / "ü b").mkdir()
    with (
        tarfile.open(folder / "plain.tar", "w") as plain,
        tarfile.open(folder / "zipped.tar.gz", "w:gz") as zipped,
    ):
        for i in range(40):
            kind = FORMATS[i % 6]
            body = structure_bytes([helix(20 + i, i)], kind.removesuffix(".gz"))
            body = gzip.compress(body) if kind.endswith(".gz") else body
            name = f"ß {i:02d}.{kind}"
            if i % 4 < 2:
                (folder / ("ü b" if i % 4 else ".") / name).write_bytes(body)
            else:
                member = tarfile.TarInfo(f"in side/{name}")
                member.size = len(body)
                (plain if i % 4 == 2 else zipped).addfile(member, io.BytesIO(body))
    (folder / "empty.pdb").write_bytes(b"")
    (folder / "cut.cif.gz").write_bytes(gzip.compress(b"data_x\n" * 1000)[:-20])
    (folder / "garbage.bcif").write_bytes(bytes(range(256)))
    (folder / "ü b" / "text.cif").write_text("no structure at all\n")
    (folder / "cut.tar").write_bytes((folder / "plain.tar").read_bytes()[:1700])
    (folder / "notes.txt").write_text("not a structure\n")
    return folder


@pytest.fixture
def parts_of_7(monkeypatch):
    monkeypatch.setattr(build_module, "_PART", 7)


def test_every_format_and_archive_gives_its_chain(inputs, tmp_path, helix, rows_of):
    card = build([str(inputs)], tmp_path / "out", SMALL)
    assert card["counts"]["kept"] == 40
    chains = {c.name: c for c in read_structures(tmp_path / "out", "protein")}
    assert set(chains) == {f"ß {i:02d}_A" for i in range(40)}
    for i in range(40):
        expected, found = helix(20 + i, i), chains[f"ß {i:02d}_A"]
        assert np.abs(found.coords - expected.coords).max() < 2e-3
        assert (found.sequence, found.residue_ids) == (expected.sequence, expected.residue_ids)
    sources = {row["id"]: row["source"] for row in rows_of(tmp_path / "out")}
    assert sources["ß 03_A"] == f"{inputs}/zipped.tar.gz/in side/ß 03.pdb.gz"
    assert sources["ß 01_A"] == f"{inputs}/ü b/ß 01.cif"


def test_each_failure_is_listed_with_its_reason(inputs, tmp_path):
    card = build([str(inputs)], tmp_path / "out", SMALL)
    listed = {f["source"].removeprefix(f"{inputs}/"): f["reason"] for f in failures(tmp_path / "out")}
    inside = "cut.tar/in side/ß 02.bcif"
    assert set(listed) == {"empty.pdb", "cut.cif.gz", "garbage.bcif", "ü b/text.cif", "cut.tar", inside}
    assert "empty" in listed["empty.pdb"]
    assert "cut off" in listed[inside]
    assert card["counts"]["failed"] == len(listed)
    assert card["counts"]["found"] == 40
    assert not (tmp_path / "out" / ".build").exists()


def test_workers_and_part_sizes_do_not_change_the_result(inputs, tmp_path, parts_of_7, rows_of, tree):
    options = replace(SMALL, shard_size=9, validation=0.3)
    build([str(inputs)], tmp_path / "a", options)
    build([str(inputs)], tmp_path / "b", options, workers=2)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert {p.name.split("-")[0] for p in find_shards(tmp_path / "a")} == {"train", "validation"}
    assert all(row["split"] == "validation" for row in rows_of(tmp_path / "a", "validation"))


@pytest.mark.parametrize("where", ["parts", "shards"])
def test_interrupted_builds_end_with_the_same_bytes(inputs, tmp_path, parts_of_7, monkeypatch, where, tree):
    options = replace(SMALL, shard_size=9)
    build([str(inputs)], tmp_path / "out", options)
    whole = tree(tmp_path / "out")
    for path in sorted((tmp_path / "out").iterdir()):
        path.unlink()

    calls = {"n": 0}
    if where == "parts":
        target, name = build_module, "harvest"
    else:
        target, name = build_module.ShardWriter, "_close"
    original = getattr(target, name)

    def stop_at_third(*args):
        calls["n"] += 1
        if calls["n"] == 3:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(target, name, stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        build([str(inputs)], tmp_path / "out", options)
    assert not (tmp_path / "out" / "README.md").exists()
    build([str(inputs)], tmp_path / "out", options)
    assert tree(tmp_path / "out") == whole
    if where == "parts":  # the two that were finished were not done again
        assert calls["n"] == 3 + -(-47 // 7) - 2


def test_sigkill_and_again(inputs, tmp_path, tree):
    """The whole program, killed while it reads; its workers end with it."""
    many = tmp_path / "many"
    many.mkdir()
    for k in range(50):
        (many / f"{k}.tar").write_bytes((inputs / "plain.tar").read_bytes())
    arguments = ["data", "build", str(many), "--min-length", "5", "--workers", "2", "--no-dedup"]
    command = [sys.executable, "-m", "structok.cli", *arguments, "-o", "out"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, start_new_session=True)
    work = tmp_path / "out" / ".build"
    deadline = time.monotonic() + 60
    while not list(work.glob(".structok/done/*.json")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert work.exists()
    options = replace(SMALL, dedup=False)
    build([str(many)], tmp_path / "out", options)
    card = build([str(many)], tmp_path / "ref", options)
    assert card["counts"]["kept"] == 500
    assert tree(tmp_path / "out") == tree(tmp_path / "ref")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _alive(process.pid):
        time.sleep(0.05)
    assert not _alive(process.pid)


def _alive(session):
    """Processes of a session that are left."""
    found = subprocess.run(["ps", "-o", "stat=", "-s", str(session)], capture_output=True, text=True).stdout.split()
    return [s for s in found if not s.startswith("Z")]


def test_equal_sequences_are_dropped_but_the_first(tmp_path, helix, rows_of):
    a, b = helix(30, 1), helix(30, 2)
    for name, chain in (("1", a), ("2", b), ("3", Backbone(a.coords + 5, a.sequence)), ("4", a)):
        chain.write(tmp_path / "in" / f"{name}.pdb")
    card = build([str(tmp_path / "in")], tmp_path / "out", SMALL)
    assert [row["id"] for row in rows_of(tmp_path / "out")] == ["1_A", "2_A"]
    assert card["dropped"] == {"duplicate of an earlier one": 2}
    kept = build([str(tmp_path / "in")], tmp_path / "all", replace(SMALL, dedup=False))
    assert kept["counts"]["kept"] == 4
    clusters = {row["id"]: row["cluster"] for row in rows_of(tmp_path / "all")}
    assert clusters["1_A"] == clusters["3_A"] == clusters["4_A"] != clusters["2_A"]


def test_unknown_sequences_are_told_apart_by_their_coordinates(tmp_path, helix):
    for name, seed in (("1", 1), ("2", 2), ("3", 1)):
        helix(30, seed, sequence="X" * 30).write(tmp_path / "in" / f"{name}.cif")
    assert build([str(tmp_path / "in")], tmp_path / "out", SMALL)["counts"]["kept"] == 2


def test_ids_that_come_again_are_numbered(tmp_path, helix, rows_of):
    for seed, folder in enumerate("abc"):
        helix(30, seed).write(tmp_path / "in" / folder / "same.pdb")
    build([str(tmp_path / "in")], tmp_path / "out", SMALL)
    found = {row["source"][-10]: row["id"] for row in rows_of(tmp_path / "out")}
    assert found == {"a": "same_A", "b": "same_A.2", "c": "same_A.3"}


def test_filters_drop_by_reason(tmp_path, helix, rows_of):
    plain = helix(60, 0)
    holes = {"scattered": plain.coords.copy(), "run": plain.coords.copy()}
    holes["scattered"][5:55:4] = np.nan
    holes["run"][20:30] = np.nan
    for name, chain in {
        "good": plain,
        "short": helix(10, 1),
        "long": helix(99, 2),
        "scattered": Backbone(holes["scattered"], plain.sequence),
        "run": Backbone(holes["run"], plain.sequence),
    }.items():
        chain.write(tmp_path / "in" / f"{name}.cif")
    body = (tmp_path / "in" / "good.cif").read_text()
    (tmp_path / "in" / "coarse.cif").write_text(body + "_refine.ls_d_res_high 3.60\n#\n")
    options = BuildOptions(min_length=20, max_length=80, max_missing=0.18, longest_gap=8, max_resolution=3.5)
    card = build([str(tmp_path / "in")], tmp_path / "out", options)
    assert [row["id"] for row in rows_of(tmp_path / "out")] == ["good_A"]
    assert card["dropped"] == {
        "shorter than 20": 1,
        "longer than 80": 1,
        "more than 18% of residues missing": 1,
        "more than 8 residues missing in a row": 1,
        "resolution worse than 3.5 Å": 1,
    }
    assert card["counts"] == {"read": 6, "failed": 0, "found": 6, "aside": 0, "kept": 1}


def with_b_factors(chain, values):
    """PDB text with B-factors."""
    lines = structure_bytes([chain], "pdb").decode().splitlines(keepends=True)
    atoms = [i for i, line in enumerate(lines) if line.startswith("ATOM")]
    for i, value in zip(atoms, np.repeat(values, 3)):
        lines[i] = f"{lines[i][:60]}{value:6.2f}{lines[i][66:]}"
    return "".join(lines)


def test_plddt_comes_from_the_b_factors_of_predictions_only(tmp_path, helix, rows_of):
    good, bad = np.linspace(70, 95, 30), np.full(30, 40.0)
    header = "TITLE     ALPHAFOLD MONOMER V2.0 PREDICTION FOR SOMETHING\n"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.pdb").write_text(header + with_b_factors(helix(30, 1), good))
    (tmp_path / "in" / "2.pdb").write_text(header + with_b_factors(helix(30, 2), bad))
    (tmp_path / "in" / "3.pdb").write_text(with_b_factors(helix(30, 3), bad))
    card = build([str(tmp_path / "in")], tmp_path / "out", BuildOptions(min_plddt=60))
    first, third = rows_of(tmp_path / "out")
    assert np.allclose(first["plddt"], good, atol=0.01)
    assert first["mean_plddt"] == pytest.approx(good.mean(), abs=0.01)
    assert (third["id"], third["plddt"], third["mean_plddt"]) == ("3_A", None, None)
    assert card["dropped"] == {"mean pLDDT below 60": 1}
    always = build([str(tmp_path / "in")], tmp_path / "always", BuildOptions(min_plddt=60, plddt="always"))
    assert always["dropped"] == {"mean pLDDT below 60": 2}


def test_resolution_is_read_from_the_header(example, tmp_path, rows_of):
    build([str(example)], tmp_path / "out", SMALL)
    [row] = rows_of(tmp_path / "out")
    assert row["resolution"] == pytest.approx(1.7)
    assert (row["length"], row["observed"], row["chain"]) == (70, 70, "A")


def test_int16_keeps_a_hundredth_of_an_angstrom(tmp_path, helix):
    coords = helix(40, 0).coords + 400  # beyond what int16 holds without the centre
    coords[7:9] = np.nan
    chain = Backbone(coords, helix(40, 0).sequence)
    chain.write(tmp_path / "x.cif")
    wide = helix(40, 1)
    Backbone(wide.coords * 40, wide.sequence).write(tmp_path / "wide.cif")
    card = build([str(tmp_path / "*.cif")], tmp_path / "out", BuildOptions(coords="int16", max_missing=1))
    [back] = read_structures(tmp_path / "out", "protein")
    [before] = read_structure(tmp_path / "x.cif")
    assert np.array_equal(back.mask, before.mask)
    assert np.nanmax(np.abs(back.coords - before.coords)) <= 0.0051
    assert pq.read_schema(find_shards(tmp_path / "out")[0]).field("coords").type.value_type == "int16"
    assert card["dropped"].get("too wide for int16", 0) + len(failures(tmp_path / "out")) <= 1


def test_existing_output_is_refused_and_force_replaces_it(tmp_path, helix):
    for i in range(3):
        helix(30, i).write(tmp_path / "in" / f"{i}.pdb")
    source, out = [str(tmp_path / "in")], tmp_path / "out"
    build(source, out, replace(SMALL, shard_size=1, validation=0))
    (out / "mine.txt").write_text("keep me")
    with pytest.raises(StructokError, match="--force"):
        build(source, out, SMALL)
    build(source, out, replace(SMALL, validation=0), force=True)
    assert [p.name for p in find_shards(out)] == ["train-00000-of-00001.parquet"]
    assert (out / "mine.txt").exists()


def test_other_options_do_not_go_on_with_a_begun_build(tmp_path, monkeypatch, helix):
    helix(30, 0).write(tmp_path / "in" / "0.pdb")
    monkeypatch.setattr(build_module, "make_plan", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build([str(tmp_path / "in")], tmp_path / "out", SMALL)
    monkeypatch.undo()
    with pytest.raises(StructokError, match="other settings"):
        build([str(tmp_path / "in")], tmp_path / "out", replace(SMALL, seed=5))
    helix(31, 1).write(tmp_path / "in" / "1.pdb")
    with pytest.raises(StructokError, match="count 1 then, 2 now"):
        build([str(tmp_path / "in")], tmp_path / "out", SMALL)
    assert build([str(tmp_path / "in")], tmp_path / "out", replace(SMALL, seed=5), force=True)["counts"]["kept"] == 2


def test_nothing_left_says_why(tmp_path, helix):
    helix(10, 0).write(tmp_path / "in" / "0.pdb")
    (tmp_path / "in" / "1.pdb").write_text("x")
    with pytest.raises(StructokError, match=r"1 failed.*1 shorter than 25"):
        build([str(tmp_path / "in")], tmp_path / "out", BuildOptions())
    with pytest.raises(StructokError, match="nowhere"):
        build([str(tmp_path / "nowhere")], tmp_path / "out2", BuildOptions())


def test_a_file_with_one_bad_chain_does_not_stop_the_rest(tmp_path, helix, rows_of):
    write_structure([helix(30, 0, chain_id="A"), helix(31, 1, chain_id="B")], tmp_path / "two.pdb")
    build([str(tmp_path / "two.pdb")], tmp_path / "out", SMALL)
    assert [(row["id"], row["chain"]) for row in rows_of(tmp_path / "out")] == [("two_A", "A"), ("two_B", "B")]


@pytest.mark.parametrize("coords", ["float32", "int16"])
def test_side_chains_are_kept_on_request(example, tmp_path, coords):
    build([str(example)], tmp_path / "out", BuildOptions(atoms="all", coords=coords))
    [back] = read_structures(tmp_path / "out", "protein")
    [chain] = read_structure(example, atoms="all")
    atoms = AtomChain.of(chain.entity)
    assert isinstance(back, AtomChain) and back.sequence == atoms.sequence
    assert np.array_equal(np.isfinite(back.atoms), np.isfinite(atoms.atoms))
    assert np.nanmax(np.abs(back.atoms - atoms.atoms)) <= 0.0051
    [item] = read_inputs([str(tmp_path / "out")], Notes(True), chain=None, add_hs=False, wanted=Wanted.proteins)
    assert item[0] == "protein" and np.array_equal(item[2].atoms, back.atoms, equal_nan=True)
    [batch] = ShardDataset(tmp_path / "out", split=None)
    assert batch.coords.shape == (1, 70, 3, 3) and batch.mask.all()


@pytest.mark.parametrize("coords", ["float32", "int16"])
def test_dna_and_rna_become_rows(tmp_path, coords, example):
    random = np.random.default_rng(0)
    tokens = structok.Tokens(random.integers(0, 2000, 8), "nucleic", id="n", chain="B", sequence="GCAUgcat")
    tokens = replace(tokens, conformers=random.integers(0, 3000, 8))
    chain = structok.load("nucleic-vq-4096").decode(tokens)
    write_structure([chain], tmp_path / "n.cif")
    options = BuildOptions(modality="nucleic", min_length=2, coords=coords, validation=0)
    card = build([str(tmp_path / "n.cif"), str(example)], tmp_path / "out", options)
    assert card["counts"]["failed"] == 1 and "no DNA or RNA" in str(failures(tmp_path / "out"))
    [back] = read_structures(tmp_path / "out", "nucleic")
    assert (back.sequence, back.chain_id, back.name) == (chain.sequence, "B", "n_B")
    assert np.array_equal(np.isfinite(back.atoms), np.isfinite(chain.atoms))
    assert np.nanmax(np.abs(back.atoms - chain.atoms)) <= 0.0061
    [item] = read_inputs([str(tmp_path / "out")], Notes(True), chain=None, add_hs=False)
    assert item[0] == "nucleic" and np.array_equal(item[2].atoms, back.atoms, equal_nan=True)
    [batch] = ShardDataset(tmp_path / "out")
    assert batch.coords.shape == (1, 8, 23, 3) and batch.mask.all()
    with pytest.raises(InputError, match="of modality nucleic"):
        list(read_structures(tmp_path / "out", "protein"))
