"""The report for GPUs runs, at toy sizes where there is none, and would notice a lookup that is wrong."""

import json

import pytest
import torch

pytest.importorskip("triton")

from eval import gpu
from eval.report.gpu import gpu as table_of
from structok.codebook import nearest


def test_the_whole_report_at_toy_sizes(tmp_path):
    out = tmp_path / "gpu-toy.json"
    gpu.main(toy=True, out=out, limit=600)
    report = json.loads(out.read_text())
    assert len({row["regime"] for row in report["correctness"]}) == 11
    assert all(row["wrong, k = 1"] == row["wrong, k = 8"] == 0 for row in report["correctness"])
    assert sum(row["wrong, addmm"] for row in report["correctness"]) > 0  # the regimes are hard
    [row] = report["lookups"]
    assert not row["failed"] and row["seconds"]["structok"] > 0 and row["share_of_bfloat16_peak"] > 0
    assert report["encoding"][0]["mean_rmsd"] < 1 and report["encoding"][0]["codes_as_on_the_cpu"] == 1
    assert [row["residues/s"] > 0 for row in report["training"]] == [True, True]
    text = table_of(report)
    assert "0 wrong rows" in text and "500 × 100 × 9" in text


def test_what_takes_too_long_is_left_out_and_says_so(tmp_path):
    gpu.main(toy=True, out=tmp_path / "gpu.json", limit=0)
    report = json.loads((tmp_path / "gpu.json").read_text())
    left = [row.get("left out") for part in ("lookups", "encoding", "training") for row in report[part]]
    assert left and set(left) == {"time was up"}
    assert table_of(report)


def test_a_wrong_lookup_is_noticed(tmp_path, monkeypatch):
    right = nearest.nearest_code

    def wrong(x, codebook, k=1):
        distance, index = right(x, codebook, k=k)
        return distance, index.where(index != 3, 4)

    monkeypatch.setattr(nearest, "nearest_code", wrong)
    with pytest.raises(SystemExit, match="not exact"):
        gpu.main(toy=True, out=tmp_path / "gpu.json", limit=0)


def test_ties_must_go_to_the_lower_number():
    distance = torch.tensor([[1.0, 1.0, 2.0], [1.0, 1.0 + 1e-14, 2.0], [1.0, 1.0 + 1e-9, 2.0]], dtype=torch.float64)
    for index, expected in ((0, 0), (1, 2), (2, 3)):
        assert gpu.wrong_rows(torch.full((3, 1), index), distance) == expected


def test_without_a_gpu_it_asks_for_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no CUDA GPU"):
        gpu.main()
