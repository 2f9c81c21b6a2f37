"""The success criterion: every outcome on a grid made for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_support import fill

from fastdllm import stats
from fastdllm.lab.config.grid import Grid
from fastdllm.lab.config.parameters import Criteria
from fastdllm.report import criteria, summary_tables
from fastdllm.report.results import Results


def table(**changes: Any) -> pd.DataFrame:
    """Two reuse rows that meet the criterion, unless changed."""
    row = {"task": "t", "state": "complete", "k": 2, "n": 200, "speedup": 1.3, "speed_low": 1.25, "speed_high": 1.35,
           "lost": 2.0, "lost_low": 0.5, "lost_high": 4.0} | changes
    return pd.DataFrame([row | {"config": "k2_first"}, row | {"config": "k3_first", "k": 3}])


SLOW = {"speedup": 1.0, "speed_low": 0.98, "speed_high": 1.02}
BROKEN = {"lost": 60.0, "lost_low": 50.0, "lost_high": 70.0}


@pytest.mark.parametrize(("changes", "outcome", "kinds"), [
    ({}, "confirmed", {"meets"}),
    ({"lost_high": 6.0}, "undecided", {"open"}),  # the loss may be above 5
    ({"speed_low": 1.15}, "undecided", {"open"}),  # the speed-up may be below 1.2
    ({"speed_low": np.nan, "speed_high": np.nan}, "undecided", {"open"}),  # not measured is not a result
    (SLOW, "rejected", {"negligible"}),
    (BROKEN, "rejected", {"catastrophic"}),
    ({"speedup": 1.1, "speed_low": 1.08, "speed_high": 1.12}, "neither confirmed nor rejected", {"misses"}),
    ({"lost": 10.0, "lost_low": 8.0, "lost_high": 12.0}, "neither confirmed nor rejected", {"misses"}),
])
def test_outcomes(changes: dict[str, float], outcome: str, kinds: set[str]) -> None:
    verdict = criteria.judge_table(table(**changes), Criteria())
    assert verdict.outcome == outcome
    assert set(verdict.rows["is"]) == kinds
    assert verdict.rule
    assert verdict.answer.startswith({"meets": "Yes", "open": "Not settled"}.get(next(iter(kinds)), "No configuration"))
    assert "n = 200" in verdict.answer
    assert verdict.why
    settled = not verdict.answer.startswith("Not ")
    assert settled == (outcome != "undecided"), "what is said to be reached by none is not called undecided"


def test_reuse_with_nothing_to_hold_it_against_is_not_known_and_no_dash_stands_for_a_number() -> None:
    unknown = dict.fromkeys(("speedup", "speed_low", "speed_high", "lost", "lost_low", "lost_high"), np.nan)
    verdict = criteria.judge_table(table(**unknown), Criteria())
    assert verdict.outcome == "undecided" and verdict.answer.startswith("Not known: no reuse configuration has a k=1")
    assert "–" not in verdict.answer and "nan" not in verdict.answer


def test_one_success_confirms_and_an_incomplete_grid_is_never_rejected() -> None:
    mixed = pd.concat([table(**SLOW).head(1), table().tail(1)])
    assert criteria.judge_table(mixed, Criteria()).outcome == "confirmed"
    verdict = criteria.judge_table(table(**SLOW), Criteria(), missing=["t/k3_last"])
    assert verdict.outcome == "undecided"
    assert verdict.why == "negligible: 2 of 2; not complete: 1"
    assert criteria.judge_table(pd.DataFrame(), Criteria()).outcome == "undecided"


def test_stale_cells_do_not_count() -> None:
    assert criteria.judge_table(table(state="stale"), Criteria()).outcome == "undecided"


def test_more_configurations_need_more_certainty() -> None:
    assert stats.simultaneous(1) == pytest.approx(0.95)
    assert stats.simultaneous(6) == pytest.approx(1 - 0.05 / 6)


@pytest.mark.parametrize(("revision", "outcome"), [("fixed", "confirmed"), ("fixed+run_skipped=true", "rejected")])
def test_on_a_grid_of_records(tmp_path: Path, revision: str, outcome: str) -> None:
    """What the layer calls save by the cost model; where skipped layers run all the same, they save nothing."""
    grid = Grid(experiment="x", output=str(tmp_path), limit=300, revision=revision,
                axes={"k": [1, 2], "layers": ["first", "last"]})
    fill(grid, lambda configuration: (0.95, 0.02, 60))
    verdict = criteria.judge(Results.of(grid))
    assert verdict.outcome == outcome
    assert "predicted to run at" in verdict.answer
    assert len(verdict.rows) == 2 and verdict.merged["config"].tolist() == ["k2 first, last"]


def test_on_the_published_grids() -> None:
    """January's single runs with a baseline that varies by 2.2x can confirm nothing and reject nothing."""
    january = summary_tables.published_table("jan_full", "gsm8k", level=stats.simultaneous(6))
    verdict = criteria.judge_table(january, Criteria())
    assert verdict.outcome == "undecided"
    assert "meets" not in set(verdict.rows["is"])
