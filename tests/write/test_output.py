"""Rebuilt structures to files: every one gets its own, and one that cannot be written stops no other."""

import json

import pytest

from structok import Tokens


def lines(*ids, **fields):
    rows = (Tokens([1, 2, 3, 4], model="chain-vq-64", id=i, chain="A", **fields).to_dict() for i in ids)
    return "\n".join(map(json.dumps, rows)).encode()


def decode(run, tmp_path, *ids, **options):
    done = run("decode", "-", "-o", tmp_path / "out", *options.get("more", ()), stdin=lines(*ids))
    return done, sorted(p.name for p in (tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("ids", "files"),
    [
        (["design.0001", "design.0002"], ["design.0001.pdb", "design.0002.pdb"]),
        (["lig", "lig_2", "lig"], ["lig.pdb", "lig_2.pdb", "lig_3.pdb"]),
        (["lig", "lig", "lig_2"], ["lig.pdb", "lig_2.pdb", "lig_2_2.pdb"]),
        (["a/b", "a_b", "A_b"], ["A_b_3.pdb", "a_b.pdb", "a_b_2.pdb"]),
        (["x.pdb", "x"], ["x.pdb", "x.pdb.pdb"]),
    ],
)
def test_names_of_outputs_never_collide(run, tmp_path, ids, files):
    done, found = decode(run, tmp_path, *ids)
    assert (done.status, found) == (0, files)


def test_names_that_are_too_long_are_shortened_and_said(run, tmp_path):
    done, found = decode(run, tmp_path, "first", "ü" * 300, "ü" * 301, "last")
    assert done.status == 0 and len(found) == 4 and found[0] == "first.pdb"
    assert done.err.count("too long") == 2
    assert "too long" not in decode(run, tmp_path, "x" * 300, more=("--quiet",))[0].err


def test_an_output_that_cannot_be_written_is_one_failure(run, tmp_path):
    (tmp_path / "out" / "b.pdb").mkdir(parents=True)
    done, found = decode(run, tmp_path, "a", "b", "c", more=("--force",))
    assert done.status == 1 and {"a.pdb", "c.pdb"} <= set(found)
    assert done.err.count("error") == 1 and "b.pdb" in done.err
