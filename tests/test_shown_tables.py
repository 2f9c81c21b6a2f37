"""Tables of the notebooks: nothing is said twice or left blank, and captions tell of columns that are there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from report_support import phase6_results

from fastdllm import stats
from fastdllm.display import tables
from fastdllm.investigation.collapse import captions, inspection, open_questions, phase6, verdict_bisection
from fastdllm.investigation.speed import baseline, batching, pareto, sweeps
from fastdllm.investigation.speed import captions as speed_captions
from fastdllm.lab.instrument.probe import OBSERVABLES
from fastdllm.report import summary_tables
from fastdllm.report.audit import rules
from fastdllm.report.audit.evidence import Finding


def bisected(reused: int) -> Any:
    parts = {f"{what} {decoder}{rest}": value for decoder in ("good", "bad") for what, rest, value in (
        ("differs from", " in", ", ".join(name for name in OBSERVABLES if name != "outcome")),
        ("parts from", "", "prompt 0, forward 2"), ("tokens of", "", False))}
    row = {"run_skipped": True, "outcome": "ended", "layer calls reused": reused} | parts
    return SimpleNamespace(table=pd.DataFrame([row, row | {"run_skipped": False, "differs from good in": "forwards"}]))


def test_subsets_with_one_table_share_it_and_nearly_everything_is_said_by_what_is_left() -> None:
    shown = verdict_bisection.candidate_tables([("first", bisected(1)), ("middle", bisected(2)),
                                                ("last", bisected(2))])
    assert [name for name, _ in shown] == ["first", "middle, last"]
    assert shown[0][1]["against the good one"].tolist() == [
        "everything but outcome; first at prompt 0, forward 2", "forwards; first at prompt 0, forward 2"]


def test_positions_stand_in_their_order_and_one_is_no_range() -> None:
    assert inspection.some_written(["12", "9", "", "8-10", "12", "31"]) == "8-10, 9, 12, 31"
    assert inspection.some_written(["24", "3", "1", "2", "5"]) == "1, 2, 3, 5"


def test_subsets_stand_as_they_lie_in_the_network() -> None:
    names = ("last", "8-19", "first", "middle")
    made = phase6_results({("a", k, layers): [1, 1] for k in (3, 2) for layers in names})
    assert made.reusing("a")["layers"].tolist() == ["first", "middle", "last", "8-19"] * 2
    both = phase6_results({(name, 2, layers): [1, 1] for name in "ab" for layers in ("first", "last", "middle")})
    assert phase6.against(both, "a", "b")["layers"].tolist() == ["first = middle = last"]


def test_a_caption_names_no_layers_where_none_are_reused() -> None:
    text = captions.revisions(phase6_results({("a", 1, "first"): [1, 1], ("a", 2, "last"): [0, 1]}).frame)
    assert "k1, 100%" in text and "k2 last, 50%" in text


def test_the_front_leaves_no_cell_blank_and_shows_no_negative_nothing() -> None:
    row = {"accuracy": 0.9, "lost": 1.2, "lost_low": -0.01, "lost_high": 2.0, "nfe": 9, "forwards_run": 9, "reuse": 0,
           "nfe_replay": 0, "speedup": 1.0, "sure_low": -1.0, "sure_high": 6.0, "gain": float("nan"), "config": "k1"}
    rows = pd.DataFrame([row | {"k": 1}, row | {"k": 2, "speedup": 1.3, "gain": -0.01, "gain_low": -1.0,
                                                "gain_high": -0.02, "gain_p": 0.0, "gain_holm": 0.5, "control": 0.52}])
    shown = pareto.as_text(rows)
    assert shown["criterion"].tolist() == ["no reuse", "open"] and set(shown["points lost"]) == {"1.2 (0.0 to 2.0)"}
    against = pareto.against_control(rows)
    assert against["points won over it"].tolist() == ["0.0 (-1.0 to 0.0)"]
    assert against["McNemar p"].tolist() == ["< 0.0001"]
    assert not (shown == "").any(axis=None) and not (against == "").any(axis=None)


@pytest.mark.parametrize(("equal", "runs"), [(8, 1), (7, 3)])
def test_same_answers_and_the_clock_are_columns_only_where_they_tell_something(equal: int, runs: int) -> None:
    frame = pd.DataFrame([{"way": "k=1", "batch_size": 1, "n": 8, "tokens_per_second": 9.0, "speedup": 1.0,
                           "ratio": 1.0, "forwards_run": 4, "latency": 0.5, "latency_95": 0.75, "memory": 1e6,
                           "accuracy": 1.0, "low": 0.5, "high": 1.0, "equal": equal, "device_name": "CPU",
                           "ratio_low": 1.0, "ratio_high": 1.0, "speed_low": 1.0, "speed_high": 1.0, "runs": runs}])
    shown, said = batching.as_text(frame), batching.caption(frame, "strict")
    assert ("tokens/s" in shown) == ("over its smallest batch" in shown) == ("at least 3 runs" in said) == (runs == 3)
    assert ("predicted over k=1 at this batch size" in shown) == ("Predicted: tokens/s" in said) == (runs < 3)
    assert ("same answers" in shown) == ("at every batch size" not in said) == (equal < 8)
    assert shown["seconds per answer (95th percentile)"].item() == "0.50 (0.75)"
    assert "n = 8 problems, rule strict" in said


def test_a_table_of_thresholds_shows_forwards_and_a_prediction_and_no_clock() -> None:
    row = {"threshold": 0.5, "n": 8, "accuracy": 1.0, "low": 0.6, "high": 1.0, "tokens_per_forward": 2.0, "nfe": 40,
           "predicted_speedup": 2.1, "on_front": True, "tokens_per_second": 99.0, "device_name": "a CPU"}
    table = pd.DataFrame([row, row | {"threshold": 1.0, "predicted_speedup": 1.0, "nfe": 80}])
    shown = sweeps.threshold_as_text(table)
    assert shown["predicted speed-up"].tolist() == ["2.10x", "1.00x"] and shown["forwards"].tolist() == [40, 80]
    assert "tokens/s" not in shown and "ran once on a CPU" in speed_captions.threshold_table(table)


@pytest.mark.parametrize("devices", [["H100"], ["H100", "H200"]])
def test_the_caption_of_autoregressive_decoding_tells_of_the_columns_there_are(devices: list[str]) -> None:
    measured = pd.DataFrame([{"implementation": "ours", "batch": 1, "ms_per_token": 9.0, "tokens_per_second": 100.0,
                              "share_of_bound": 0.5, "device": device, "shape": "7B"} for device in devices])
    runs = pd.DataFrame([{"executor": "fast", "k": 1, "batch": 1, "tokens_per_second": 50.0}])
    for device, known in (("H100", True), ("another", False)):
        shown = baseline.as_text(measured, runs, device)
        said = baseline.caption(measured, shown)
        assert ("must unmask" in said) == known == any(name.startswith("tokens a forward") for name in shown)
        assert ("on" in shown) == ("on an H100" not in said) == (len(devices) > 1)


def test_one_is_counted_in_the_singular() -> None:
    assert [stats.number_of(n, "configuration") for n in (0, 1, 9)] == [
        "0 configurations", "1 configuration", "9 configurations"]
    assert "1 configurations" not in tables.Html(summary_tables.coverage()).markdown()


def test_totals_of_equal_subsets_and_of_both_autocasts_are_said_once() -> None:
    row = {"dtype": "float16", "k": 2, "n": 9, "tokens first": 5, "tokens middle": 5, "tokens last": 5,
           "outputs differing, middle": 0, "outputs differing, last": 0, "gpu": "H100"}
    parted = row | {"k": 3, "tokens last": 6, "outputs differing, last": 1}
    shown = open_questions.totals_as_text(pd.DataFrame([each | {"autocast": cast} for cast in (False, True)
                                                        for each in (row, parted)]))
    assert shown["tokens (first, middle, last)"].tolist() == ["5", "5, 5, 6"] and "gpu" not in shown
    assert shown["autocast"].tolist() == ["no, yes"] * 2
    assert shown["differ from first's: middle, last"].tolist() == ["0, 0", "0, 1"]
    assert open_questions.totals_as_text(pd.DataFrame()).empty


def test_findings_are_counted_in_the_plural() -> None:
    notes = [Finding("r", "note", (), "s", "certain") for _ in range(2)]
    assert rules.summary(notes).endswith("2 notes)") and rules.summary(notes[:1]).endswith("1 note)")
