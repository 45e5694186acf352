"""What inputs are: files of a folder, rows of parquet, things that do not exist; and cutting them into tasks."""

import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from structok.errors import StructokError
from structok.read.inputs import find_inputs, read_units, singles, weight
from structok.read.sources import Unit
from structok.work.tasks import chunks


class Errors(list):
    def error(self, error: StructokError, source: str = "") -> None:
        self.append((source, str(error)))

    def note(self, note, source: str) -> None:
        pass


def read(units, **options):
    errors = Errors()
    items = list(read_units(units, errors, **({"chain": None, "add_hs": False} | options)))
    return items, errors


def test_folder_archive_and_parquet_are_read_in_the_order_of_their_names(structures, parquet, tmp_path):
    with tarfile.open(tmp_path / "ä.tar", "w") as archive:
        archive.add(structures / "c.bcif", "in/c.bcif")
    inputs = [str(tmp_path / "ä.tar"), str(structures), str(parquet), str(tmp_path / "gone.pdb"), f"{tmp_path}/*.xyz"]
    items, errors = read(find_inputs(inputs))
    names = [item[2].name for item in items]
    assert names == ["c", "a", "a", "ß 2", "c", "d", "e", *(f"x{i}_A" for i in range(6))]
    failed = [source.rsplit("/", 1)[-1] for source, _ in errors]
    assert failed == ["broken ü.cif", "empty.pdb", "garbage.bcif", "gone.pdb", "*.xyz"]
    assert all(source in text for source, text in errors)


def test_rows_of_parquet_are_chains_to_a_hundredth_of_an_angstrom(parquet, some_chains):
    [unit] = find_inputs([str(parquet)])
    items, errors = read([Unit(unit.source, "rows", unit.path, 1, 4)])
    assert not errors and [i[1] for i in items] == [f"{parquet}, row {n}" for n in range(2, 6)]
    for (_, _, chain), expected in zip(items, some_chains[1:5]):
        assert np.abs(chain.coords - expected.coords).max() < 0.006
        assert (chain.sequence, chain.residue_ids) == (expected.sequence, expected.residue_ids)
    alone = [read([row])[0][0] for row in singles([unit])]
    assert [(source, chain.name) for _, source, chain in alone] == [
        (f"{parquet}, row {n}", f"x{n - 1}_A") for n in range(1, 7)
    ]
    assert read([unit], chain="B") == ([], [])


def test_molecules_in_parquet(tmp_path, example):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    from structok.molecule.conformer import prepare
    from structok.read.molecules import read_molecules

    [(name, mol)] = read_molecules(example.parent / "ligand.sdf")
    mol.SetProp("_Name", name)
    conformer = prepare(mol)
    row = {"id": name, "selfies": conformer.selfies, "coords": conformer.coords.ravel().astype(np.float32)}
    schema = pa.schema([("id", pa.string()), ("selfies", pa.string()), ("coords", pa.list_(pa.float32()))])
    pyarrow.parquet.write_table(pa.Table.from_pylist([row], schema), tmp_path / "m.parquet")
    [(modality, _, back)], errors = read(find_inputs([str(tmp_path / "m.parquet")]))
    assert modality == "molecule" and not errors
    assert prepare(back).id == name and prepare(back).selfies == conformer.selfies
    assert np.allclose(back.GetConformer().GetPositions(), conformer.coords, atol=1e-4)


@pytest.mark.parametrize("body", [b"PAR1 and nothing more", b""])
def test_parquet_that_is_none_is_an_error(tmp_path, body):
    (tmp_path / "x.parquet").write_bytes(body)
    items, [(source, text)] = read(find_inputs([str(tmp_path)]))
    assert not items and source.endswith("x.parquet") and "parquet" in text


def test_parquet_of_something_else_is_an_error(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    pyarrow.parquet.write_table(pa.table({"id": ["a"]}), tmp_path / "x.parquet")
    _, [(_, text)] = read(find_inputs([str(tmp_path / "x.parquet")]))
    assert "coords" in text


units = st.lists(
    st.one_of(
        st.builds(lambda i: Unit(f"{i}.pdb", "pdb", f"{i}.pdb"), st.integers(0, 99)),
        st.builds(lambda n: Unit("r.parquet", "rows", "r.parquet", 3, n), st.integers(0, 20)),
    )
)


@given(units, st.integers(1, 7), st.integers(1, 9))
def test_chunks_lose_nothing_and_keep_the_order(units, size, first):
    def flat(some):
        return [(u.source, u.offset) for u in singles(some)]

    whole = list(chunks(units, size))
    assert [u for chunk in whole for u in flat(chunk)] == flat(units)
    assert all(sum(map(weight, chunk)) == size for chunk in whole[:-1])
    assert [u for chunk in chunks(units, size, first=first) for u in flat(chunk)] == flat(units)


def test_first_chunks_are_small():
    units = [Unit(str(i), "pdb", str(i)) for i in range(20)]
    assert [len(chunk) for chunk in chunks(units, 6, first=1)] == [1, 2, 4, 6, 6, 1]
