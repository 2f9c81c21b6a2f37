"""The cost model gives the figures that were worked out by hand for the 7B."""

import json

import numpy as np
import pandas as pd
import pytest

from fastdllm.investigation.speed import baseline, gpu_measurements
from fastdllm.report import cost_model
from fastdllm.report.cost_model import SHAPE_7B

GPU = "benchmarks/results/h200_2026-11-21.json"


def test_bytes_and_ceilings_of_the_7b():
    assert cost_model.forward_bytes(SHAPE_7B, 28) == pytest.approx(14.14e9, rel=1e-3)
    for share, ceiling in [(0.5, 1.25), (0.5 * 0.69, 1.16), (0.25, 1.11)]:
        assert cost_model.ceiling(SHAPE_7B, share) == pytest.approx(ceiling, abs=0.005)


def test_what_forwards_that_run_together_take_at_least():
    """The weights once, however many rows: of bytes that is 4.71 ms at 3 TB/s, of operations 18 ms for 1024 tokens."""
    def least(count, need, bandwidth=3e12, flops=700e12):
        return cost_model.least_seconds(SHAPE_7B, [need] * count, bandwidth, flops)
    full, small, commit = (cost_model.Need.of(kind, 256) for kind in ("full", "small", "commit"))
    assert (full, small) == (cost_model.Need(32, 8, 256), cost_model.Need(8, 8, 280))
    assert commit == cost_model.Need(32, 1, 256)
    assert cost_model.Need.of("prefill", 0, tokens=96) == cost_model.Need(96, 0, 0)
    assert cost_model.Need.of("prefill", 0, tokens=96, carried=True) == cost_model.Need(96, 1, 0)
    one = cost_model.Need(32, 8, 0)
    assert least(1, one) == pytest.approx(14.14e9 / 3e12, rel=1e-3) == cost_model.forward_bytes(SHAPE_7B, 28) / 3e12
    cache = 28 * 256 * 2 * 4 * 128 * 2                  # layers, positions, keys and values, heads, their size, bytes
    assert least(1, full) - least(1, one) == pytest.approx(cache / 3e12)
    assert least(1, commit) == least(1, full) and least(2, small) < least(1, full) + least(1, small)
    layers = 28 * (3584 * (3584 + 1024) + 3584 * 3584 + 3 * 3584 * 18944)
    assert least(32, full) == pytest.approx(2 * (32 * 32 * layers + 32 * 8 * 152064 * 3584) / 700e12)
    assert least(32, full) > least(32, commit), "a head for 8 positions a row, not for one"
    no_head = cost_model.Need.of("prefill", 0, tokens=32)
    assert least(1, one) - least(1, no_head) == pytest.approx(2 * 152064 * 3584 / 3e12)


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


def test_autoregressive_baseline_tells_what_a_forward_must_unmask(tmp_path):
    """At the same batch on the same card; what is missing is said to be not measured."""
    runs = pd.DataFrame([{"executor": "fast", "k": 1, "batch": batch, "tokens_per_second": speed}
                         for batch, speed in ((1, 240.0), (32, 1500.0))])
    path = tmp_path / "autoregressive.jsonl"
    common = {"device": "card", "dtype": "bfloat16", "shape": "7B"}
    lines = [common | {"implementation": "ours", "batch": 1, "tokens_per_second": 100.0, "ms_per_token": 10.0,
                       "share_of_bound": 0.5},
             common | {"implementation": "static", "batch": 1, "tokens_per_second": 240.0, "ms_per_token": 4.0,
                       "share_of_bound": 0.9},
             common | {"implementation": "static", "batch": 32, "left_out": "after 220 s"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    measured = baseline.read(str(path))
    assert baseline.claimed() == 2.54
    assert baseline.needed(measured, runs, "card", 1) == pytest.approx(2.54), "against the faster of the two"
    assert np.isnan(baseline.needed(measured, runs, "card", 32))
    assert np.isnan(baseline.needed(measured, runs, "other", 1))
    text = baseline.as_text(measured, runs, "card")
    assert list(text["tokens/s"]) == ["100", "240", "not measured"]
    assert list(text["tokens a forward for 2.54x"]) == ["2.54", "2.54", "not measured"]
    assert list(baseline.as_text(measured, runs, "other")) == list(text)[:-1], "no column of what was never measured"
    nothing = baseline.as_text(baseline.read(str(tmp_path / "none.jsonl")), runs, "card")
    assert list(nothing["tokens/s"]) == ["not measured"]
