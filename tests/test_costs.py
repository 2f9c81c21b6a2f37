"""The cost model gives the figures that were worked out by hand for the 7B."""

import pytest

from fastdllm.investigation.speed import gpu_measurements
from fastdllm.report import cost_model
from fastdllm.report.cost_model import SHAPE_7B

GPU = "benchmarks/results/h200_2026-11-21.json"


def test_bytes_and_ceilings_of_the_7b():
    assert cost_model.forward_bytes(SHAPE_7B, 28) == pytest.approx(14.14e9, rel=1e-3)
    for share, ceiling in [(0.5, 1.25), (0.5 * 0.69, 1.16), (0.25, 1.11)]:
        assert cost_model.ceiling(SHAPE_7B, share) == pytest.approx(ceiling, abs=0.005)


def test_predictions_stand_beside_what_was_measured_at_batch_1():
    """Forwards, and whole runs of k = 1, 2, 3 with every policy: within 15 %."""
    table = gpu_measurements.forwards(GPU)
    alone = table[table["batch"] == 1]
    assert {*alone["layers"]} == {16, 28} and {*alone["kind"]} == {"full", "small", "commit"}
    assert (alone["predicted_ms"] / alone["ms"] - 1).abs().max() < 0.15
    for dtype in ("float16", "bfloat16"):
        runs = gpu_measurements.runs(GPU, dtype)
        ours = runs[runs["predicted"].notna()]
        assert {1, 2, 3} == {*ours["k"]} and {"output", "replay"} <= {*ours["policy"]}
        assert ours["off"].abs().max() < 0.15


def test_memory_stands_beside_what_was_measured():
    report, seen = gpu_measurements.read(GPU), []
    for part in report["dtypes"]:
        seen += [(row["peak_memory"], row["predicted_memory"]) for row in (part, *part["runs"]) if "peak_memory" in row]
    assert len(seen) == 3
    assert all(abs(predicted / peak - 1) < 0.1 for peak, predicted in seen)


def test_another_dtype_is_refused():
    with pytest.raises(ValueError, match="dtype='float8'; allowed: float16, bfloat16"):
        gpu_measurements.forwards(GPU, "float8")


def test_reuse_saves_only_what_it_skips():
    plain = cost_model.run_seconds(cost_model.H200, SHAPE_7B, cost_model.Mix(10, 20, 3))
    reused = cost_model.run_seconds(cost_model.H200, SHAPE_7B, cost_model.Mix(10, 20, 3, reused_small=10))
    replayed = cost_model.run_seconds(cost_model.H200, SHAPE_7B, cost_model.Mix(10, 20, 3, reused_small=10),
                                      replay=True)
    assert replayed < reused < plain
    assert plain / reused < cost_model.ceiling(SHAPE_7B, 10 / 33)
