"""A folder of structures with everything that happens to folders, and workers that run in this process."""

import numpy as np
import pytest

from structok.tokenizer import Search
from structok.work import quantize
from structok.work.engines import WorkerDied
from structok.work.tasks import Settings


@pytest.fixture(scope="session")
def settings():
    """Quick to run: the small codebook, no search."""
    return Settings("chain-vq-64", search=Search(closed_loop=False), threads=0)


@pytest.fixture(scope="session")
def some_chains(make_chain):
    """Six short chains."""
    return [make_chain(6 + i, seed=i) for i in range(6)]


@pytest.fixture
def structures(tmp_path, some_chains):
    """Nine files in folders with spaces and umlauts, two of one name, three of them broken."""
    folder = tmp_path / "in put"
    for i, name in enumerate(["a.pdb", "b é/a.pdb", "b é/ß 2.cif", "c.bcif", "d.pdb.gz", "e.cif.gz"]):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        some_chains[i].write(path)
    (folder / "empty.pdb").write_bytes(b"")
    (folder / "b é" / "broken ü.cif").write_text("data_x\nloop_\n_atom_site.id\n1\n")
    (folder / "garbage.bcif").write_bytes(bytes(range(256)))
    (folder / "notes.txt").write_text("no structure")
    return folder


class Inline:
    """Works in this process; a worker dies on a task that holds a source of `deadly`, as often as it says."""

    deadly: dict[str, int]

    def __init__(self, make, size=1, preload=()):
        self.size, self._worker = 1, make()

    def start(self, slot, task):
        for unit in task.units:
            if self.deadly.get(unit.source, 0) and not unit.error:
                self.deadly[unit.source] -= 1
                return WorkerDied
        try:
            return [self._worker.run(task)].__iter__()
        except Exception as error:
            return error

    def wait(self, handles):
        return list(handles)

    def result(self, handle):
        if handle is WorkerDied or isinstance(handle, Exception):
            raise handle
        return next(handle)

    def close(self):
        pass


@pytest.fixture
def inline(monkeypatch):
    """Bulk runs stay in this process."""
    Inline.deadly = {}
    monkeypatch.setattr(quantize, "Local", Inline)
    return Inline


@pytest.fixture
def parquet(tmp_path, some_chains):
    """A parquet file as `structok data build` makes them, row groups of two, int16 coordinates."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    rows = []
    for i, chain in enumerate(some_chains):
        centre = chain.coords[:, 1].mean(0)
        coords = np.rint((chain.coords - centre) / 0.01).astype(np.int16).ravel()
        rows.append({"id": f"x{i}_A", "chain": "A", "sequence": chain.sequence, "residue_ids": chain.residue_ids})
        rows[-1] |= {"coords": coords, "centre": centre}
    path = tmp_path / "train-00000-of-00001.parquet"
    kinds = {"residue_ids": pa.list_(pa.string()), "coords": pa.list_(pa.int16()), "centre": pa.list_(pa.float32())}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in rows[0]])
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows, schema), path, row_group_size=2)
    return path
