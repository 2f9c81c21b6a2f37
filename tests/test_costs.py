"""The cost model gives the figures that were worked out by hand for the 7B (design section 2, claim 4)."""

import json
from pathlib import Path

import pytest

from fastdllm.report import costs
from fastdllm.report.pareto import SHAPE_7B

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def test_bytes_and_ceilings_of_the_7b():
    assert costs.forward_bytes(SHAPE_7B, 28) == pytest.approx(14.14e9, rel=1e-3)
    for share, ceiling in [(0.5, 1.25), (0.5 * 0.69, 1.16), (0.25, 1.11)]:
        assert costs.ceiling(SHAPE_7B, share) == pytest.approx(ceiling, abs=0.005)


def test_predictions_stand_beside_what_was_measured_at_batch_1():
    report = json.loads((RESULTS / "h200_forwards_2026-11-21.json").read_text(encoding="utf-8"))
    rows = [row for row in report["forwards"] if row["batch"] == 1]
    assert {row["layers"] for row in rows} == {16, 28}
    for row in rows:
        predicted = 1e3 * costs.forward_seconds(costs.H200, SHAPE_7B, layers=row["layers"],
                                                width=8 if row["kind"] == "small" else 32)
        assert predicted == pytest.approx(row["ms"], rel=0.15)


def test_reuse_saves_only_what_it_skips():
    plain = costs.run_seconds(costs.H200, SHAPE_7B, costs.Mix(10, 20, 3))
    reused = costs.run_seconds(costs.H200, SHAPE_7B, costs.Mix(10, 20, 3, reused_small=10))
    replayed = costs.run_seconds(costs.H200, SHAPE_7B, costs.Mix(10, 20, 3, reused_small=10), replay=True)
    assert replayed < reused < plain
    assert plain / reused < costs.ceiling(SHAPE_7B, 10 / 33)
