"""The command line: what it promises about data, talk, exit status and files that exist."""

import gzip
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import structok
from structok import Backbone, Tokens, metrics
from structok.write.structures import write_structure

FAST = ("-m", "chain-vq-64", "--beam", "2")
ATOM = "ATOM      1  {name:<3} {res:>3} A{n:>4}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00           {e}\n"


@pytest.fixture
def work(tmp_path, monkeypatch, make_chain):
    """A working folder with one good.pdb of 15 residues."""
    monkeypatch.chdir(tmp_path)
    make_chain(15).write("good.pdb")
    return tmp_path


def records(text):
    return [json.loads(line) for line in text.splitlines()]


# quantize


def test_quantize_writes_one_record_per_chain_that_decodes(work, run, example, chain):
    done = run("quantize", example, "-m", "chain-vq-4096")
    assert (done.status, done.err) == (0, "")
    [record] = records(done.out)
    assert (record["id"], record["chain"], record["modality"]) == ("1a8o", "A", "protein")
    assert (record["model"], record["sequence"]) == ("chain-vq-4096", chain.sequence)
    back = run("decode", "-", "-o", "back.pdb", stdin=done.out.encode())
    assert (back.status, back.out) == (0, "")
    [rebuilt] = structok.read_structure("back.pdb")
    assert metrics.rmsd(rebuilt, chain) < 0.13
    assert rebuilt.residue_ids == chain.residue_ids


@pytest.mark.parametrize("suffix", ["pdb", "cif", "bcif"])
def test_stdin_is_read_whatever_its_format(work, run, chain, suffix):
    chain.write(f"x.{suffix}")
    done = run("quantize", "-", *FAST, stdin=(work / f"x.{suffix}").read_bytes())
    assert (done.status, done.err) == (0, "")
    assert records(done.out)[0]["sequence"] == chain.sequence


@pytest.mark.parametrize(
    ("format", "name"), [("jsonl", "t.jsonl"), ("text", "t.txt"), ("csv", "t.csv"), ("parquet", "t.parquet")]
)
def test_every_token_format_decodes_to_the_same_structure(work, run, format, name):
    assert run("quantize", "good.pdb", *FAST, "-f", format, "-o", name).status == 0
    assert run("decode", name, "-m", "chain-vq-64", "-o", f"{name}.pdb").status == 0
    expected = structok.load("chain-vq-64")
    expected = expected.decode(expected.encode(work / "good.pdb", beam=2))
    [back] = structok.read_structure(f"{name}.pdb")
    if format == "text":  # has no anchors unless asked, so the chain lies elsewhere
        assert structok.metrics.rmsd(back, expected) < 2e-3
    else:
        assert np.allclose(back.coords, expected.coords, atol=2e-3)


def test_folders_globs_and_files_are_expanded_in_order(work, run, make_chain):
    for name in ("in/b.pdb", "in/a b ü.cif", "in/deep/c.pdb.gz", "g1.pdb", "g2.pdb"):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        make_chain(5).write(name)
    (work / "in/notes.txt").write_text("no structure")
    done = run("quantize", "g*[12].pdb", "in", "good.pdb", *FAST)
    assert done.status == 0
    assert [r["id"] for r in records(done.out)] == ["g1", "g2", "a b ü", "b", "c", "good"]


def test_chain_option_picks_one(work, run, short_pair):
    done = run("quantize", short_pair, "--chain", "L", *FAST)
    assert [r["chain"] for r in records(done.out)] == ["L"]
    assert [r["chain"] for r in records(run("quantize", short_pair, *FAST).out)] == ["H", "L"]


@pytest.fixture
def short_pair(work, make_chain):
    chains = [make_chain(6, seed=i, chain_id=c, name="pair") for i, c in enumerate("HL")]
    write_structure(chains, "pair.cif")
    return work / "pair.cif"


def test_open_loop_and_beam_are_passed_on(work, run):
    tokenizer = structok.load("chain-vq-64")
    for options, expected in (
        (["--open-loop"], {"closed_loop": False}),
        (["--closed-loop", "--beam", "1"], {"closed_loop": True, "beam": 1}),
    ):
        done = run("quantize", "good.pdb", "-m", "chain-vq-64", *options)
        assert records(done.out)[0]["codes"] == tokenizer.encode("good.pdb", **expected).codes.tolist()


def test_rate_weight_is_passed_on(work, run):
    tokenizer = structok.load("chain-vq-4096")
    exact = tokenizer.encode("good.pdb", rate_weight=0.0).codes.tolist()
    assert records(run("quantize", "good.pdb").out)[0]["codes"] == tokenizer.encode("good.pdb").codes.tolist()
    assert records(run("quantize", "good.pdb", "--rate-weight", "0").out)[0]["codes"] == exact
    failed = run("quantize", "good.pdb", "-m", "chain-vq-64", "--rate-weight", "0.1")
    assert failed.status == 1 and "no prior" in failed.err


# what is left out or invented


@pytest.fixture
def two_frames(work):
    """A file of two frames, the first of which lacks residues 7 and 8."""
    lines = (work / "good.pdb").read_text().splitlines()[:-1]
    kept = [line for line in lines if line[22:26] not in ("   7", "   8")]
    (work / "two.pdb").write_text("\n".join([*kept, "END", *lines, "END"]) + "\n")
    return work / "two.pdb"


def test_what_is_left_out_is_said_in_a_line_each_and_quiet_silences(work, run, two_frames):
    done = run("quantize", "two.pdb", "good.pdb", *FAST)
    said = ["1 further frame ignored, the first is read", "chain A: 2 slots added in 1 gap"]
    assert done.status == 0 and done.err.splitlines() == [f"structok: two.pdb: {line}" for line in said]
    assert run("quantize", "two.pdb", *FAST, "--quiet").err == ""
    assert run("evaluate", "two.pdb", *FAST).err.splitlines() == done.err.splitlines()
    assert run("evaluate", "two.pdb", *FAST, "--quiet").err == ""


def test_text_says_what_it_does_not_say(work, run, two_frames):
    done = run("quantize", "two.pdb", "good.pdb", *FAST, "-f", "text")
    [line] = [line for line in done.err.splitlines() if "text" in line]
    assert "two.pdb: chain A" in line and "2 of 15 residues are missing" in line


# bad inputs


def residue_lines(n, res="ALA", names=("N", "CA", "C"), at=(0.0, 0.0, 0.0)):
    return "".join(
        ATOM.format(name=a, res=res, n=n, x=at[0] + 1.3 * i, y=at[1] + i % 2, z=at[2], e=a[0])
        for i, a in enumerate(names)
    )


def bad_inputs(folder, example):
    """Name -> what its message must say."""
    full = gzip.decompress(example.read_bytes())
    at = full.index(b"\nATOM")
    write = lambda name, data: (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())  # noqa: E731
    write("empty.pdb", "")
    write("cut.cif", full[: at + 20_010])
    write("cut.cif.gz", example.read_bytes()[:9000])
    write("paper.pdb", b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<</Type/Catalog>>\nendobj\n")
    write("dna.pdb", "".join(residue_lines(n, " DA", ("P", "C1'", "N9"), (3.0 * n, 0, 0)) for n in range(1, 9)))
    write("trace.pdb", "".join(residue_lines(n, names=("CA",), at=(3.8 * n, 0, 0)) for n in range(1, 9)))
    write("single.pdb", residue_lines(1))
    rows = "".join(residue_lines(n, at=(3.5 * n, 0, 0)) for n in range(1, 9))
    write("nan.pdb", rows.replace("   3.500", "     nan", 1))
    write("zeros.bcif", b"\x00" * 50)
    write("strange.xyz", "3\n")
    (folder / "folder.pdb").mkdir()
    expected = dict.fromkeys(p.name for p in folder.iterdir() if p.name != "good.pdb")
    expected |= {"empty.pdb": "empty", "strange.xyz": "known kind", "nan.pdb": "ALA 1", "trace.pdb": "CA-only"}
    return expected | {"gone.pdb": "no such file", "single.pdb": "at least 2", "folder.pdb": "folder"}


def test_every_bad_input_is_one_line_and_the_good_ones_are_done(work, run, example):
    expected = bad_inputs(work, example)
    done = run("quantize", *sorted(expected), "good.pdb", *FAST)
    assert done.status == 1
    assert [r["id"] for r in records(done.out)] == ["good"]
    errors = [e for e in done.err.splitlines() if e.startswith("structok: error: ")]
    for name, says in expected.items():
        [mine] = [e for e in errors if e.split()[2].rstrip(":,") == name]
        assert (says or name) in mine
    assert len(errors) == len(expected)
    assert f"1 done, {len(expected)} failed" in done.err


def test_unknown_chain_is_reported_per_file(work, run, short_pair):
    done = run("quantize", "good.pdb", short_pair, "--chain", "L", *FAST)
    assert done.status == 1
    assert [r["chain"] for r in records(done.out)] == ["L"]
    assert "good.pdb: no chain 'L'; it has A" in done.err


def test_chain_beyond_the_limit_names_file_and_limit(work, run):
    one = np.array([[0.0, 0.0, 0.0], [1.2, 0.8, 0.0], [2.3, 0.0, 0.3]])
    Backbone(one + np.arange(5000)[:, None, None] * np.array([0.0, 3.4, 0.0])).write("long.cif")
    done = run("quantize", "long.cif", "good.pdb", *FAST)
    assert done.status == 1
    assert [r["id"] for r in records(done.out)] == ["good"]
    assert "long.cif" in done.err and "5000 residues" in done.err and "4096" in done.err


def test_strict_stops_at_the_first_bad_input(work, run):
    (work / "bad.pdb").write_text("")
    (work / "worse.pdb").write_text("")
    done = run("quantize", "good.pdb", "bad.pdb", "worse.pdb", *FAST, "--strict", "-o", "out.jsonl")
    assert done.status == 1
    assert done.err.count("error") == 1 and "bad.pdb" in done.err
    assert not (work / "out.jsonl").exists()


def test_output_is_not_written_when_nothing_worked(work, run):
    done = run("quantize", "gone.pdb", *FAST, "-o", "out.jsonl")
    assert done.status == 1
    assert not (work / "out.jsonl").exists()


# wrong use


@pytest.mark.parametrize(
    "arguments",
    [
        ["quantize"],
        ["frobnicate"],
        ["quantize", "good.pdb", "--nonsense"],
        ["quantize", "good.pdb", "-f", "xml"],
        ["quantize", "good.pdb", "--beam", "0"],
        ["quantize", "good.pdb", "-f", "parquet"],
        ["quantize", "good.pdb", "-o", "."],
        ["decode", "x.jsonl", "-f", "docx"],
    ],
)
def test_wrong_use_is_status_2(work, run, arguments):
    done = run(*arguments)
    assert (done.status, done.out) == (2, "")
    assert done.err


@pytest.mark.parametrize("options", [["-m", "nope"], ["-m", "."], ["--device", "tpu9"]])
def test_model_that_cannot_be_loaded_is_one_line(work, run, options):
    done = run("quantize", "good.pdb", *options)
    assert (done.status, done.out) == (1, "")
    assert len(done.err.splitlines()) <= 2


# output files


def test_existing_output_is_kept_without_force(work, run):
    (work / "out.jsonl").write_text("mine")
    assert run("quantize", "good.pdb", *FAST, "-o", "out.jsonl").status == 2
    assert (work / "out.jsonl").read_text() == "mine"
    assert run("quantize", "good.pdb", *FAST, "-o", "out.jsonl", "--force").status == 0
    (work / "back.pdb").write_text("mine")
    refused = run("decode", "out.jsonl", "-o", "back.pdb")
    assert refused.status in (1, 2) and "back.pdb" in refused.err and "--force" in refused.err
    assert (work / "back.pdb").read_text() == "mine"
    assert run("decode", "out.jsonl", "-o", "back.pdb", "--force").status == 0
    assert structok.read_structure("back.pdb")


def test_missing_output_folder_is_made_and_an_impossible_one_reported(work, run):
    assert run("quantize", "good.pdb", *FAST, "-o", "new dir/é/out.jsonl").status == 0
    done = run("quantize", "good.pdb", *FAST, "-o", "good.pdb/out.jsonl")
    assert done.status == 1
    assert "good.pdb/out.jsonl" in done.err and len(done.err.splitlines()) == 1


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root writes everywhere")
def test_read_only_folder_and_unreadable_file_are_reported(work, run):
    (work / "locked").mkdir(mode=0o500)
    assert "locked" in run("quantize", "good.pdb", *FAST, "-o", "locked/out.jsonl").err
    shutil.copy("good.pdb", "secret.pdb")
    os.chmod("secret.pdb", 0)
    assert "secret.pdb" in run("quantize", "secret.pdb", *FAST).err


# decode


@pytest.fixture
def good_tokens(work, run):
    run("quantize", "good.pdb", *FAST, "-o", "good.jsonl")
    return (work / "good.jsonl").read_text()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda r: r | {"codes": [999, *r["codes"][1:]]}, "999"),
        (lambda r: r | {"codes": [-1, *r["codes"][1:]]}, "-1"),
        (lambda r: r | {"model": "chain-vq-9"}, "chain-vq-9"),
        (lambda r: r | {"model": "molstructok"}, "molstructok"),
        (lambda r: r | {"codes": []}, "codes"),
        (lambda r: {"id": "bad"}, "codes"),
        (lambda r: r | {"codes": None}, "codes"),
        (lambda r: r | {"model": 7}, "model"),
        (lambda r: r | {"missing": "x"}, "missing must be a flat list of integers"),
    ],
)
def test_record_that_cannot_be_decoded_is_skipped(work, run, good_tokens, spoil, says):
    record = json.loads(good_tokens)
    (work / "mixed.jsonl").write_text(json.dumps(spoil(record | {"id": "bad"})) + "\n" + good_tokens)
    done = run("decode", "mixed.jsonl", "-o", "rebuilt")
    assert done.status == 1
    assert [p.name for p in (work / "rebuilt").iterdir()] == ["good.pdb"]
    [error] = [e for e in done.err.splitlines() if "error" in e]
    assert any(s in error for s in says.split("|"))


def test_tokens_of_another_model_than_asked_for_are_refused(work, run, good_tokens):
    done = run("decode", "good.jsonl", "-m", "chain-vq-256", "-o", "back.pdb")
    assert done.status == 1
    assert "chain-vq-64" in done.err and not (work / "back.pdb").exists()


def test_decode_error_names_the_token_file(work, run, good_tokens):
    record = json.loads(good_tokens) | {"codes": [999] * 15}
    (work / "wrong.jsonl").write_text(json.dumps(record))
    assert "wrong.jsonl" in run("decode", "wrong.jsonl", "-o", "back.pdb").err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut.jsonl", None),
        ("cut.txt", b"<|prot_3d_start|><S 1><S 2"),
        ("cut2.txt", b"<|prot_3d_start|><S 1><S 2>"),
        ("binary.jsonl", b"\x00\x93\xff\xfe" * 9),
        ("binary.txt", bytes(range(256))),
        ("binary.parquet", b"PAR1\x00\x00"),
        ("empty.jsonl", b""),
        ("gone.jsonl", ...),
        ("good.pdb", ...),
    ],
)
def test_token_file_that_cannot_be_read_is_one_error_by_name(work, run, good_tokens, name, content):
    if content is not ...:
        (work / name).write_bytes(good_tokens.encode()[:80] if content is None else content)
    done = run("decode", name, "-o", "rebuilt.pdb")
    assert (done.status, done.out) == (1, "")
    assert name in done.err
    assert not (work / "rebuilt.pdb").exists()


def test_decode_to_stdout_is_a_structure(work, run, good_tokens):
    for format, start in (("pdb", "ATOM"), ("cif", "data_")):
        done = run("decode", "good.jsonl", "-f", format)
        assert (done.status, done.err) == (0, "")
        assert done.out.startswith(start)


def test_chains_of_one_structure_share_a_file_and_structures_get_their_own(work, run, short_pair):
    tokens = run("quantize", "pair.cif", "good.pdb", *FAST).out.encode()
    assert run("decode", "-", "-o", "rebuilt", stdin=tokens).status == 0
    assert sorted(p.name for p in (work / "rebuilt").iterdir()) == ["good.pdb", "pair.pdb"]
    assert [c.chain_id for c in structok.read_structure("rebuilt/pair.pdb")] == ["H", "L"]
    refused = run("decode", "-", "-o", "one.pdb", stdin=tokens)
    assert refused.status == 1 and "folder" in refused.err


def test_names_cannot_leave_the_output_folder(work, run, good_tokens):
    lines = [json.dumps(json.loads(good_tokens) | {"id": i}) for i in ("../out", "..", "/tmp/x", "a/b", "")]
    assert run("decode", "-", "-o", "rebuilt/deep", stdin="\n".join(lines).encode()).status == 0
    assert len(list((work / "rebuilt/deep").iterdir())) == 5
    assert [p.name for p in (work / "rebuilt").iterdir()] == ["deep"]


def test_oxygen_is_added_on_request(work, run, good_tokens):
    run("decode", "good.jsonl", "-o", "with.pdb", "--oxygen")
    run("decode", "good.jsonl", "-o", "without.pdb")
    assert (work / "with.pdb").read_text().count("ATOM") == 60
    assert (work / "without.pdb").read_text().count("ATOM") == 45


# evaluate, models


def test_evaluate_reports_every_structure_and_a_summary(work, run, short_pair):
    done = run("evaluate", "good.pdb", short_pair, "gone.pdb", "-m", "chain-vq-64", "--beam", "16", "--json")
    assert done.status == 1 and "gone.pdb" in done.err
    report = json.loads(done.out)
    assert [(r["id"], r["chain"], r["length"]) for r in report["structures"]] == [
        ("good", "A", 15),
        ("pair", "H", 6),
        ("pair", "L", 6),
    ]
    names = {"rmsd", "rmsd_ca", "tm_score", "lddt", "bits_per_token"}
    assert names <= set(report["structures"][0]) and names <= set(report["summary"])
    values = [r["rmsd"] for r in report["structures"]]
    assert report["summary"]["rmsd"]["mean"] == pytest.approx(np.mean(values))
    assert report["summary"]["bits_per_token"]["median"] == 6
    assert 0 < max(values) < 1.5


def test_evaluate_table_shows_the_names_in_full(work, run, make_chain):
    name = "a_rather_long_name_of_a_structure_that_a_pipe_should_not_cut"
    make_chain(8).write(f"{name}.pdb")
    done = run("evaluate", f"{name}.pdb", "good.pdb", *FAST)
    assert (done.status, done.err) == (0, "")
    assert name in done.out and "mean" in done.out


def test_evaluate_with_nothing_done_is_still_json(work, run):
    done = run("evaluate", "gone.pdb", "--json")
    assert done.status == 1
    assert json.loads(done.out)["structures"] == []


def test_models_lists_what_ships(run):
    rows = json.loads(run("models", "--json").out)
    assert [r["name"] for r in rows] == structok.list_models()
    assert all(name in run("models").out for name in structok.list_models())


# the process


def test_reader_that_leaves_early_gets_no_traceback(work):
    many = "\n".join(json.dumps(Tokens([1, 2, 3] * 500, model="chain-vq-64", id="x", chain=c).to_dict()) for c in "AB")
    (work / "t.jsonl").write_text(many)
    script = "import sys; sys.argv[0] = 'structok'; from structok.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", script, "decode", "t.jsonl", "-f", "pdb"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode in (0, 1, 141, -13)
