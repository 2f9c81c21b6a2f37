"""The policy front of notebook 09: what the table holds, the area under it, and the predicted time of `verify`."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_support import fill

from fastdllm.decode.verify import PASS_TOKENS
from fastdllm.display.claim import MOST_WORDS, words_before_fold
from fastdllm.display.tables import Html, pairs_as_text
from fastdllm.investigation.speed import pareto, verdict_policies, verify_measurements
from fastdllm.lab.config import grid_file
from fastdllm.lab.config.grid import Grid
from fastdllm.report import verify_costs
from fastdllm.report.results import Results

SPEED, POINTS = 1.2, 5.0
CONFIGS = [*({"k": 1, "threshold": t} for t in (0.5, 0.9, 1.0)),
           {"k": 2, "policy": "verify", "threshold": 0.9, "batch_size": 1},
           {"k": 2, "layers": "middle", "policy": "replay", "threshold": 0.9},
           {"k": 2, "layers": "middle", "policy": "token", "threshold": 0.9}]


def results(folder, right):
    """A share of right answers for each (policy or threshold); plain at 0.9 and `verify` have the same ones."""
    def behave(configuration):
        reuse, decoding = configuration.parameters.reuse, configuration.parameters.decoding
        return right.get(reuse.policy if reuse.active else decoding.threshold, 0.9), 0.02, 60
    grid = Grid(experiment="x", output=str(folder), limit=60, batch_size=32, configs=CONFIGS)
    fill(grid, behave)
    return Results.of(grid)


def with_fast(rows, *thresholds):
    """The table with plain decoding at these thresholds as fast as it gets."""
    fast = (rows["k"] == 1) & rows["threshold"].isin(thresholds)
    return rows.assign(predicted=rows["predicted"].where(~fast, 0.5 * rows["predicted"]))


def test_the_verdict_turns_with_the_records_and_is_short(tmp_path):
    texts = []
    for name, right in (("lossless", {}), ("lossy", {0.5: 0.3, "replay": 0.5, "verify": 0.8})):
        made = results(tmp_path / name, right)
        rows = with_fast(pareto.table(made), 0.5)
        compared, pairs = pareto.against_thresholds(made, rows), pareto.verify_against_k1(made, rows)
        texts.append(verdict_policies.policies(rows, compared, pairs, verify_measurements.runs(), SPEED, POINTS, 0.9))
        assert words_before_fold(texts[-1]) <= MOST_WORDS
    assert "k=1's right and wrong answers in 1 of 1 runs" in texts[0] and "that is a fault" in texts[1]
    assert "does not beat every plain threshold" in texts[0] and "beats every plain threshold" in texts[1]


def test_a_comparison_is_corrected_for_the_thresholds_and_holds_only_those_as_fast(tmp_path):
    made = results(tmp_path, {0.5: 0.6})
    rows = pareto.table(made)
    assert pareto.against_thresholds(made, rows).empty, "skipping layers is faster than any forward of k=1"
    compared = pareto.against_thresholds(made, with_fast(rows, 0.5, 0.9)).set_index("threshold")
    assert compared["points"].to_dict() == pytest.approx({0.5: 30, 0.9: 0})
    assert compared.loc[0.5, "p_holm"] == pytest.approx(2 * compared.loc[0.5, "p"])


def test_speeds_of_the_cost_model_say_so_and_ratios_say_of_what(tmp_path):
    made = results(tmp_path, {0.5: 0.6})
    rows = pareto.table(made)
    compared = pareto.against_thresholds(made, with_fast(rows, 0.5, 0.9))
    headings = [shown.markdown().splitlines()[0]
                for shown in (Html(pareto.as_text(rows)), pairs_as_text(compared), Html(pareto.areas(rows)))]
    assert [line.count("speed-up") for line in headings] == [1, 1, 0]
    assert [line.count("predicted speed-up") for line in headings] == [1, 1, 0]
    assert "AUP / AUP of threshold alone" in headings[2] and "relative" not in headings[2]


def test_configurations_are_named_without_their_batch(tmp_path):
    assert set(pareto.table(results(tmp_path, {}))["config"]) >= {"k1_t0.9", "k2_verify_t0.9", "k2_middle_replay_t0.9"}


@pytest.mark.parametrize(("loss", "speedup", "told"), [
    ((1.0, 4.0), 1.3, "met"), ((1.0, 6.0), 1.3, "open"), ((5.5, 9.0), 1.3, "not met"), ((1.0, 4.0), 1.1, "not met")])
def test_criterion_of_a_configuration(loss, speedup, told):
    row = pd.Series({"speedup": speedup, "sure_low": loss[0], "sure_high": loss[1]})
    assert pareto.criterion(row, SPEED, POINTS) == told


def test_area_without_loss_is_parallelism_times_accuracy():
    assert pareto.area(np.array([3.0, 1.0]), np.array([80.0, 80.0]), 80.0) == pytest.approx(3 * 80)


def test_area_weighs_what_is_lost_and_leaves_out_what_collapsed():
    weight = np.exp(-3 * (1 - 76 / 80))
    expected = 80 + (80 + 76 * weight) / 2
    assert pareto.area(np.array([1.0, 2.0]), np.array([80.0, 76.0]), 80.0) == pytest.approx(expected)
    assert pareto.area(np.array([1.0, 2.0, 9.0]), np.array([80.0, 76.0, 74.0]), 80.0) == pytest.approx(expected)


def test_areas_of_families_begin_with_the_same_point(tmp_path):
    table = pareto.areas(pareto.table(results(tmp_path, {0.5: 0.5}))).set_index("family")
    assert set(table.index) == {"threshold alone", "verify", "replay", "token"}
    assert table.loc["threshold alone", "AUP / AUP of threshold alone"] == 1
    assert table.loc["verify", "AUP"] == pytest.approx(table.loc["token", "AUP"])


# -- `verify`: its measurements, and the predicted time

def test_the_page_has_the_measured_numbers():
    page = (Path(__file__).parent.parent / "docs" / "verify.md").read_text()
    cells = [line.split("|")[2:-1] for line in page.splitlines() if line.startswith("|")][2:]
    runs = verify_measurements.runs()
    runs = runs[(runs["k"] > 1) & (runs["dtype"] == "bfloat16")]
    written = [[float(cell) for cell in line] for line in cells if len(line) == 3]
    longer = runs.groupby(["threshold", "k"], as_index=False).first()
    for at, (threshold, column) in enumerate((t, c) for t in (0.9, 1.0) for c in ("forwards_saved", "speedup")):
        assert written[at] == pytest.approx(longer.loc[longer["threshold"] == threshold, column].tolist(), abs=0.0051)
    exact = verify_measurements.runs().query("dtype == 'float32' and k > 1")
    assert "({:.2f}, {:.2f} and {:.2f} times the tokens/s at threshold 0.9)".format(*exact["speedup"]) in " ".join(
        page.split())

def test_verify_is_not_judged_by_less_than_the_noise_of_the_clock():
    """1.17x where forwards of k=1 took 2.20 to 2.49 ms is open, as in a run beside others; below what is asked where
    they did not differ; and met by what was measured on a quiet host."""
    quiet = verify_measurements.runs()
    runs = quiet.assign(seconds=quiet["forwards_run"] * 0.00249, speedup=quiet["speedup"] * 1.17 / 1.352)
    loud = runs.assign(seconds=runs["seconds"].where(runs.index > 0, runs["forwards_run"] * 0.0022))
    steady = runs.assign(seconds=runs["forwards_run"] * 0.0022)
    decided = [verify_measurements.verify_meets_the_criterion(table, SPEED, POINTS, 0.9)
               for table in (loud, steady, quiet)]
    assert [one.state for one in decided] == [None, False, True]
    assert "within its noise: a forward of k=1 took 2.20 to 2.49 ms" in str(decided[0])


def test_predicted_time_of_verify_is_that_of_the_widths_that_ran():
    """A record's drafts by kind give nearly what the widths of its passes give; they were counted on the GPU."""
    lines = [json.loads(line) for line in verify_costs.PATH.read_text().splitlines()]
    packed = verify_costs.milliseconds("verify")
    runs = [line for line in lines if line["part"] == "run" and line["dtype"] == "torch.float32"]
    base, drafted = runs[0]["widths"], [line for line in runs if line["k"] > 1]
    assert len(drafted) == 3
    for run in drafted:
        record: Any = SimpleNamespace(
            parameters=SimpleNamespace(decoding=SimpleNamespace(small_block=8, block_size=None)),
            forwards_run=run["forwards_run"], nfe={"prefill": base["0"], "small": base["8"], "full": base["32"]},
            drafts=[SimpleNamespace(kind=name.split(" ", 2)[2], **count) for name, count in run["drafts"].items()])
        exact = sum(count * packed[int(width)] for width, count in run["widths"].items() if width != "0")
        plain = base["8"] * 5.4015 + base["32"] * 5.6008
        assert verify_costs.relative_time(record) == pytest.approx(exact / plain, rel=0.03)
        record.parameters.decoding.small_block = 4
        assert np.isnan(verify_costs.relative_time(record))


def test_drafts_are_offered_as_far_as_the_cost_model_has_measured_that_they_gain():
    """A small draft for every row doubles a pass of small forwards: that costs less than the right ones save."""
    packed = verify_costs.milliseconds("verify")
    assert max(packed) == PASS_TOKENS
    longer = max(packed[2 * width] / packed[width] - 1 for width in (8, 16, 32))
    runs = [line for line in map(json.loads, verify_costs.PATH.read_text().splitlines())
            if line["part"] == "run" and line["k"] == 2]
    right = [sum(count["accepted"] for count in run["drafts"].values())
             / sum(count["offered"] for count in run["drafts"].values()) for run in runs]
    assert len(runs) >= 4 and longer < 0.06 and min(right) > 0.35 > longer


def test_the_policy_front_fills_the_hole_and_stays_small():
    grid = grid_file.load("params/policy_front.yml", [])
    configurations = grid.configurations()
    plain = {one.parameters.decoding.threshold for one in configurations if not one.parameters.reuse.active}
    assert plain >= {0.5, 0.51, 0.52, 0.54, 0.56, 0.58, 0.6} and grid.limit == 400 and len(configurations) < 34
    assert all(one.parameters.batch_size == 1 for one in configurations if one.parameters.reuse.drafts)
