"""Token files: every format there and back, broken records, outputs that appear whole."""

import gzip
import io
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from structok import StructokError, Tokens
from structok.errors import InputError
from structok.files import TOKEN_FORMATS, TokenWriter, open_whole, read_tokens
from tests.test_tokens import molecules, polymers

SUFFIX = {"jsonl": ".jsonl", "text": ".txt", "csv": ".csv", "parquet": ".parquet"}


def write(path, format, records):
    with open_whole(path) as file:
        writer = TokenWriter(file, format)
        for tokens in records:
            writer.write(tokens)
        writer.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(polymers() | molecules(), min_size=1, max_size=4), st.sampled_from(["jsonl", "parquet"]))
def test_every_field_survives(tmp_path, records, format):
    path = tmp_path / f"x{SUFFIX[format]}"
    write(path, format, records)
    assert list(read_tokens(path)) == records


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(polymers() | molecules(), min_size=1, max_size=4))
def test_csv_keeps_what_is_not_empty(tmp_path, records):
    """An empty csv cell is a field that was not given."""
    path = tmp_path / "x.csv"
    records = [t for t in records if len(t) and t.chain != ""]
    if records:
        write(path, "csv", records)
        assert list(read_tokens(path)) == records


@pytest.mark.parametrize("format", TOKEN_FORMATS)
def test_files_of_version_0_1_are_read(format):
    """Written by that version: a chain with two missing residues, imatinib, and codes that say nothing more."""
    protein, molecule, bare = read_tokens(Path(__file__).parent / f"fixtures/tokens-0.1{SUFFIX[format]}")
    assert (len(protein), len(molecule), bare.codes.tolist()) == (24, 68, [4012, 7, -1])
    assert protein.codes[:6].tolist() == [2695, 2244, 1630, 636, 1556, 611]
    assert protein.anchors is protein.sidechains is molecule.anchors is None
    assert molecule.selfies.startswith("[H][C][=C][Branch1][C][H][C]")
    if format != "text":
        assert (protein.id, protein.model, protein.chain, protein.modality) == ("1a8o", "chain-vq-4096", "A", "protein")
        assert (protein.sequence, protein.residue_ids[:2]) == ("MDIRQGPKEPFRDYVDRFYKTLRA", ("1A", "2"))
        assert (~protein.mask).nonzero()[0].tolist() == [5, 6]
        assert sorted(molecule.atom_order.tolist()) == list(range(68))
        assert bare.mask.tolist() == [True, True, False]


@pytest.mark.parametrize("format", TOKEN_FORMATS)
def test_codes_of_several_records_survive(tmp_path, format):
    path = tmp_path / f"ünï code{SUFFIX[format]}"
    write(path, format, [Tokens([i, 2 * i], id=f"é {i}") for i in range(5)])
    assert [t.codes.tolist() for t in read_tokens(path)] == [[i, 2 * i] for i in range(5)]


@pytest.mark.parametrize("format", ["jsonl", "text", "csv"])
def test_format_follows_content_without_a_known_suffix(tmp_path, format):
    write(tmp_path / "tokens", format, [Tokens([1, 2], id="a")])
    assert [t.codes.tolist() for t in read_tokens(tmp_path / "tokens")] == [[1, 2]]


def test_parquet_without_records_is_a_file_with_no_rows(tmp_path):
    write(tmp_path / "x.parquet", "parquet", [])
    assert list(read_tokens(tmp_path / "x.parquet")) == []


def test_broken_jsonl_record_is_reported_by_line_and_reading_goes_on(tmp_path):
    lines = [json.dumps(Tokens([n], id="x").to_dict()) for n in range(3)]
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join([lines[0], lines[1][:20], "[]", lines[2][:-2]]))
    good, *bad = read_tokens(path)
    assert good.codes.tolist() == [0]
    for number, error in zip((2, 3, 4), bad, strict=True):
        assert isinstance(error, StructokError)
        assert str(error).startswith(f"{path}, line {number}: ")


def test_broken_text_and_csv_records_are_reported_by_line(tmp_path):
    text = tmp_path / "x.txt"
    text.write_text("<S 1>\n\n<|prot_3d_start|><S 1><S\n<S 2>\n")
    first, error, last = read_tokens(text)
    assert (first.codes[0], last.codes[0]) == (1, 2)
    assert f"{text}, line 3" in str(error)
    table = tmp_path / "x.csv"
    table.write_text("id,codes\na,1 2\nb,1 x\nc,3\n")
    first, error, last = read_tokens(table)
    assert (first.codes.tolist(), last.codes.tolist()) == ([1, 2], [3])
    assert f"{table}, line 3" in str(error)


@pytest.mark.parametrize("suffix", SUFFIX.values())
@pytest.mark.parametrize("content", [b"", b"\x00\xff\xfe\x81binary\n\x93", None], ids=["empty", "binary", "gone"])
def test_unreadable_token_file_is_one_error_that_names_it(tmp_path, suffix, content):
    path = tmp_path / f"x{suffix}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StructokError) as caught:
        list(read_tokens(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_csv_without_codes_column_is_an_error_per_row(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("id,sequence\na,AC\n")
    [error] = read_tokens(path)
    assert "codes" in str(error)


def test_gzipped_token_file_is_read_or_refused_by_name(tmp_path):
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"codes": [1]}\n'))
    try:
        [tokens] = read_tokens(path)
        assert tokens.codes.tolist() == [1]
    except InputError as error:
        assert str(path) in str(error)


def test_unknown_format_is_refused():
    with pytest.raises(InputError, match="xml"):
        TokenWriter(io.BytesIO(), "xml")


def test_failed_output_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), open_whole(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with open_whole(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_output_below_a_file_is_refused_by_name(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"), open_whole(tmp_path / "file" / "x.txt"):
        pass


def test_csv_cell_with_an_open_quote_is_an_error_by_name(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('id,codes\na,"' + "1 " * 100_000)
    try:
        results = list(read_tokens(path))
    except StructokError as error:
        results = [error]
    assert all(isinstance(r, Tokens) or str(path) in str(r) for r in results)


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.txt"])
def test_byte_order_mark_is_no_part_of_the_data(tmp_path, name):
    body = {"x.jsonl": '{"codes": [1], "id": "a"}', "x.csv": "id,codes\na,1", "x.txt": "<S 1>"}[name]
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + body.encode())
    [tokens] = read_tokens(tmp_path / name)
    assert tokens.codes.tolist() == [1]
    assert tokens.id in ("a", "x_1")
