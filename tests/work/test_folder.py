"""`structok quantize -o folder/`: shards, resume, guards, failures; and the ways to be interrupted."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from structok.errors import InputError, StructokError
from structok.files import read_tokens
from structok.tokenizer import Search
from structok.work.folder import ShardFolder
from structok.work.quantize import quantize_folder, quantize_stream
from structok.work.tasks import Settings

FAST = ("-m", "chain-vq-64", "--open-loop")


@pytest.fixture
def work(tmp_path, monkeypatch, structures, inline):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def failures(folder):
    return [json.loads(line) for line in (folder / ".structok" / "failures.jsonl").read_text().splitlines()]


def test_everything_is_a_record_or_a_failure(work, run):
    status, out, err = run("quantize", "in put", "gone.pdb", *FAST, "-o", "tokens/", "--shard-size", 3, "--workers", 1)
    assert (status, out) == (1, "")
    assert "6 tokenized, 4 failed of 10 inputs, 3 shards" in err
    rows = list(read_tokens("tokens"))
    assert [t.id for t in rows] == ["a", "a_2", "ß 2", "c", "d", "e"]
    names = [f["source"] for f in failures(work / "tokens")]
    assert names == ["in put/b é/broken ü.cif", "in put/empty.pdb", "in put/garbage.bcif", "gone.pdb"]
    for failure in failures(work / "tokens"):
        assert failure["source"] not in failure["reason"]
        assert f"{failure['source']}: {failure['reason']}" in err
    run("quantize", "in put", *FAST, "-o", "one.jsonl")
    assert [t.to_dict() for t in read_tokens("one.jsonl")] == [t.to_dict() for t in rows]


def test_every_reader_of_parquet_reads_the_shards(work, settings):
    quantize_folder(["in put"], work / "tokens", settings, shard_size=3)
    expected = [(t.id, t.codes.tolist()) for t in read_tokens("tokens")]
    sources = ["in put/a.pdb", "in put/b é/a.pdb", "in put/b é/ß 2.cif", "in put/c.bcif"]
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table("tokens")
    assert list(zip(table["id"].to_pylist(), table["codes"].to_pylist())) == expected
    assert table["source"].to_pylist()[:4] == sources
    try:
        import polars

        frame = polars.read_parquet("tokens/*.parquet")
        assert list(zip(frame["id"], frame["codes"].to_list())) == expected
    except ImportError:
        pass
    try:
        import duckdb

        found = duckdb.sql("select id, codes from 'tokens/*.parquet' order by source").fetchall()
        assert sorted(found) == sorted(expected)
    except ImportError:
        pass


def test_what_is_left_out_is_listed(work, run):
    lines = (work / "in put" / "a.pdb").read_text().splitlines()
    (work / "in put" / "twice.pdb").write_text("\n".join([*lines, *lines]))
    status, _, err = run("quantize", "in put/twice.pdb", "in put/a.pdb", *FAST, "-o", "tokens/", "--workers", 1)
    assert status == 0 and "1 note on" in err and "notes.jsonl" in err
    [note] = map(json.loads, (work / "tokens" / ".structok" / "notes.jsonl").read_text().splitlines())
    assert (note["source"], note["kind"], note["count"]) == ("in put/twice.pdb", "frames ignored", 1)


@pytest.mark.parametrize("format", ["jsonl", "csv", "text"])
def test_other_formats_have_shards_too(work, settings, format):
    quantize_folder(["in put"], work / "tokens", replace(settings, format=format), shard_size=4)
    codes = [t.codes.tolist() for t in read_tokens("tokens")]
    quantize_folder(["in put"], work / "parquet", settings, shard_size=2)
    assert codes == [t.codes.tolist() for t in read_tokens("parquet")] and len(codes) == 6


def test_parts_together_are_the_whole(work, settings, parquet):
    inputs = ["in put", parquet.name]
    quantize_folder(inputs, work / "whole", settings, shard_size=2)
    for i in (3, 1, 2):
        summary = quantize_folder(inputs, work / "parts", settings, shard_size=2, part=(i, 3))
        assert 0 < summary.inputs < 15
    assert summary.missing == 0
    assert contents(work / "parts") == contents(work / "whole")
    assert len(list(read_tokens("whole"))) == 12


def test_finished_shards_are_not_done_again(work, settings, monkeypatch):
    quantize_folder(["in put"], work / "whole", settings, shard_size=2)
    folder = ShardFolder(work / "whole", "parquet")
    before = contents(work / "whole")
    for name in ("part-000001.parquet", ".structok/done/000003.json"):  # as if killed before they were written
        (work / "whole" / name).unlink()
    (work / "whole" / "part-000002.parquet").write_bytes(b"PAR1")  # a disk that lost power
    for leftover in (".part-000001.parquet.x1y2", ".structok/done/.000003.json.zz"):
        (work / "whole" / leftover).write_bytes(b"half")
    kept = folder.shard(0).stat().st_mtime_ns
    quantize_folder(["in put"], work / "whole", settings, shard_size=2)
    assert contents(work / "whole") == before
    assert folder.shard(0).stat().st_mtime_ns == kept


def test_another_run_is_not_mixed_in(work, run, settings):
    arguments = ["quantize", "in put", *FAST, "-o", "tokens", "--shard-size", 4, "--workers", 1]
    (work / "tokens").mkdir()
    assert run(*arguments)[0] == 1
    before = contents(work / "tokens")
    status, _, err = run(*arguments, "--beam", 3)
    assert status == 1 and "beam None then, 3 now" in err and "--force" in err
    (work / "in put" / "new.pdb").write_bytes((work / "in put" / "a.pdb").read_bytes())
    status, _, err = run(*arguments)
    assert status == 1 and "inputs 9 then, 10 now" in err
    assert contents(work / "tokens") == before
    assert run(*arguments, "--force")[0] == 1
    assert [t.id for t in read_tokens("tokens")] == ["a", "a_2", "ß 2", "c", "d", "e", "new"]
    assert run(*arguments, "--force", "-f", "jsonl")[0] == 1
    assert not list((work / "tokens").glob("*.parquet"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--shard", "0/2", "-o", "t/"], "--shard"),
        (["--shard", "3/2", "-o", "t/"], "--shard"),
        (["--shard", "1/2"], "folder"),
        (["--engine", "ray", "-o", "t.jsonl"], "folder"),
        (["-o", "in put"], "other files"),
        (["-o", "t/", "--workers", "0"], "workers"),
    ],
)
def test_wrong_use_is_status_2(work, run, options, says):
    status, out, err = run("quantize", "in put", *FAST, *options)
    assert (status, out) == (2, "") and says in err
    assert not (work / "t").exists()


def test_folder_below_the_inputs_is_no_input(work, settings):
    (work / "file.parquet").write_bytes(b"")
    before = quantize_folder(["."], work / "in put" / "tokens", settings, shard_size=2)
    assert (before.inputs, before.rows, before.failed) == (10, 6, 4)
    assert quantize_folder(["."], work / "in put" / "tokens", settings, shard_size=2) == before
    with pytest.raises(InputError, match="other files"):
        quantize_folder(["."], work / "in put", settings)


def test_folder_in_use_is_refused(work, settings):
    with (
        ShardFolder(work / "tokens", "parquet").locked("part-1-of-1"),
        pytest.raises(InputError, match="another process"),
    ):
        quantize_folder(["in put"], work / "tokens", settings)
    assert quantize_folder(["in put"], work / "tokens", settings).rows == 6


def test_inputs_that_change_meanwhile_stop_the_run(work, settings, monkeypatch, inline):
    start, later = inline.start, work / "later"
    shutil.copytree(work / "in put", later)

    def meddle(self, slot, task):
        (later / "z.pdb").write_bytes(b"")
        return start(self, slot, task)

    monkeypatch.setattr(inline, "start", meddle)
    with pytest.raises(InputError, match="changed during the run"):
        quantize_folder(["in put", "later"], work / "tokens", settings, shard_size=2)


@pytest.mark.parametrize("deaths", [1, 9])
def test_worker_that_dies_loses_nothing(work, settings, inline, deaths):
    quantize_folder(["in put"], work / "whole", settings, shard_size=3)
    inline.deadly["in put/d.pdb.gz"] = deaths
    summary = quantize_folder(["in put"], work / "tokens", settings, shard_size=3)
    if deaths == 1:
        assert contents(work / "tokens") == contents(work / "whole")
    else:
        assert (summary.rows, summary.failed) == (5, 4)
        assert {
            "source": "in put/d.pdb.gz",
            "reason": "its worker process died; a crash, or out of memory?",
        } in failures(work / "tokens")


def test_workers_that_die_on_everything_stop_the_run(work, settings, inline):
    inline.deadly |= {f"in put/{name}": 9 for name in ("a.pdb", "b é/a.pdb", "b é/broken ü.cif")}
    with pytest.raises(StructokError, match="each of its 3 inputs"):
        quantize_folder(["in put"], work / "tokens", settings, shard_size=3)
    inline.deadly.clear()
    assert quantize_folder(["in put"], work / "tokens", settings, shard_size=3).rows == 6


def test_stream_of_workers_is_that_of_one_process(work, run, inline):
    alone = run("quantize", "in put", *FAST)
    shared = run("quantize", "in put", *FAST, "--workers", 1)
    assert alone[:2] == shared[:2] and alone[1].count("\n") == 6
    assert sorted(alone[2].splitlines()) == sorted(shared[2].splitlines())
    inline.deadly["in put/c.bcif"] = 4
    outcomes = list(
        quantize_stream(["in put"], Settings("chain-vq-64", search=Search(closed_loop=False), threads=0), 1)
    )
    assert [t.id for o in outcomes for t in o.tokens] == ["a", "a_2", "ß 2", "d", "e"]
    assert "in put/c.bcif" in dict(f for o in outcomes for f in o.failures)
    status, _, err = run("quantize", "-", *FAST, "--workers", 2)
    assert status == 1 and "stdin" in err


def test_strict_stops_at_the_first_bad_input(work, run):
    status, _, err = run("quantize", "in put", *FAST, "-o", "t/", "--strict", "--workers", 1)
    assert status == 1 and err.count("\n") == 1 and "broken ü.cif" in err


def test_full_disk_stops_the_run_and_it_goes_on_later(work, settings, make_chain):
    make_chain(2500).write("in put/long.cif")
    jsonl = replace(settings, format="jsonl")
    quantize_folder(["in put"], work / "whole", jsonl, shard_size=2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # writing fails as on a full disk
    try:
        with pytest.raises(InputError, match=r"part-000004\.jsonl: cannot be written"):
            quantize_folder(["in put"], work / "tokens", jsonl, shard_size=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [name for name in contents(work / "tokens") if name.startswith(".part") or "000004" in name]
    quantize_folder(["in put"], work / "tokens", jsonl, shard_size=2)
    assert contents(work / "tokens") == contents(work / "whole")


def test_output_that_cannot_be_written_is_one_line(work, run):
    (work / "file").write_text("")
    status, out, err = run("quantize", "in put", *FAST, "-o", "file/tokens/")
    assert (status, out, err.count("\n")) == (1, "", 1) and "file/tokens" in err


# the real thing: workers of their own, and signals


def command(*arguments):
    # a test run in a shell's background is deaf to interrupts, and so would be its children
    script = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    script += "; from structok.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", script, "quantize", *map(str, arguments)], stderr=subprocess.PIPE, start_new_session=True
    )


def ends(pid):
    """Whether a process group has no members left within seconds."""
    for _ in range(100):
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.fixture
def many(tmp_path, make_chain, monkeypatch):
    """A folder of 300 files, one of them broken: more than are done before a signal comes."""
    monkeypatch.chdir(tmp_path)
    make_chain(8).write("x.pdb")
    (tmp_path / "many").mkdir()
    for i in range(300):
        shutil.copy("x.pdb", f"many/{i:03}.pdb")
    (tmp_path / "many" / "007.pdb").write_bytes(b"")
    return tmp_path


def interrupted(many, end):
    """Start a run and end it after its first shard; what it said."""
    process = command("many", *FAST, "-o", "tokens/", "--shard-size", 2, "--workers", 2)
    while not list(many.glob("tokens/part-*")) and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(end)
    _, talk = process.communicate()
    assert process.returncode == (-signal.SIGKILL if end == signal.SIGKILL else 130)
    assert ends(process.pid)  # no worker lives on
    assert len(list(many.glob("tokens/.structok/done/0*"))) < 150
    return talk.decode()


def test_killed_and_started_again_gives_the_same_bytes(many, inline, settings):
    quantize_folder(["many"], many / "whole", settings, shard_size=2)
    interrupted(many, signal.SIGKILL)
    process = command("many", *FAST, "-o", "tokens/", "--shard-size", 2, "--workers", 1)
    assert b"299 tokenized, 1 failed of 300 inputs" in process.communicate()[1]
    assert contents(many / "tokens") == contents(many / "whole")


def test_control_c_is_clean(many):
    talk = interrupted(many, signal.SIGINT)
    assert "Traceback" not in talk and "same command" in talk
    assert not [name for name in contents(many / "tokens") if name.rsplit("/")[-1].startswith(".")]
