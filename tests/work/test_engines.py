"""Workers that die, and those of a Ray cluster."""

import os
import signal
from dataclasses import dataclass
from functools import partial

import pytest

import structok
from structok.read.sources import Unit
from structok.tokenizer import Search
from structok.work.engines import Local, WorkerDied, rescue, run_tasks
from structok.work.quantize import quantize_folder
from structok.work.tasks import Chunk, Quantizer, Settings


@dataclass(frozen=True)
class Deadly(Unit):
    """A structure whose reading ends the process, the first `deaths` times."""

    deaths: int = 0

    def read(self) -> bytes:
        with open(f"{self.path}.deaths", "ab", buffering=0) as file:
            file.write(b"x")
            if file.tell() <= self.deaths:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().read()


@pytest.fixture
def engine():
    local = Local(
        partial(Quantizer, Settings("chain-vq-64", search=Search(closed_loop=False))), 1, ["structok.protein.chain_vq"]
    )
    yield local
    local.close()


@pytest.fixture
def good(tmp_path, make_chain):
    make_chain(5).write(tmp_path / "good.pdb")
    return tmp_path / "good.pdb"


def test_task_of_a_killed_worker_is_done_again(engine, good):
    [(_, outcome)] = run_tasks(engine, [Chunk(0, (Deadly("good.pdb", "pdb", str(good), deaths=1),))])
    expected = structok.load("chain-vq-64").encode(good, closed_loop=False)
    assert outcome.failures == []
    assert [t.codes.tolist() for t in outcome.tokens] == [expected.codes.tolist()]


def test_input_that_kills_workers_is_a_failure_and_the_others_are_done(engine, good):
    task = Chunk(3, (Deadly("bad.pdb", "pdb", str(good), deaths=99), Unit("good.pdb", "pdb", str(good))))
    assert list(run_tasks(engine, [task])) == [(task, WorkerDied)]
    outcome = rescue(engine, task)
    [(source, reason)] = outcome.failures
    assert source == "bad.pdb" and "died" in reason
    assert [t.id for t in outcome.tokens] == ["good"]


class Slow:
    """Ends tasks from the last to the first, and remembers when they were started."""

    size = 3

    def __init__(self):
        self.started, self.most = [], 0

    def start(self, slot, task):
        self.started.append(task)
        return (slot, task)

    def wait(self, handles):
        self.most = max(self.most, len(handles))
        return [max(handles, key=lambda h: h[1])]

    def result(self, handle):
        return handle[1]


@pytest.mark.parametrize("ahead", [None, 1, 4])
def test_tasks_start_when_a_worker_is_free_and_not_too_far_ahead(ahead):
    engine = Slow()
    ended = [task for task, _ in run_tasks(engine, iter(range(20)), ahead)]
    assert sorted(ended) == engine.started == list(range(20))
    assert engine.most == (1 if ahead == 1 else 3)
    if ahead:
        late = [max(engine.started[: engine.started.index(t) + 1]) - t for t in ended]
        assert max(late) < ahead
        for place, task in enumerate(ended):
            missing = set(range(task)) - set(ended[:place])
            assert not missing or task - min(missing) < ahead


def test_ray_makes_the_same_files(structures, settings, tmp_path, inline, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    local = quantize_folder(["in put"], tmp_path / "local", settings, shard_size=2)
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False, _system_config={"worker_niceness": 0})
    try:
        with_ray = quantize_folder(["in put"], tmp_path / "ray", settings, shard_size=2, engine="ray", workers=2)
    finally:
        ray.shutdown()
    assert with_ray == local
    files = [p.relative_to(tmp_path / "ray") for p in (tmp_path / "ray").rglob("*") if p.is_file()]
    assert len([f for f in files if f.name.startswith("part-")]) == local.shards > 1
    for file in files:
        assert (tmp_path / "ray" / file).read_bytes() == (tmp_path / "local" / file).read_bytes()
