"""The log's tables on the real model: each cell on the commit that it ran on, losses, draws, predictions."""

from __future__ import annotations

import itertools
import shlex

import numpy as np
import pandas as pd
import pytest
from report_support import every_claim, shipped_of

from fastdllm import prior_results, stats
from fastdllm.display.claim import MOST_WORDS, RunLabel, told, words_before_fold
from fastdllm.investigation.collapse import (
    phase6,
    real_model,
    transfer,
    verdict_collapse,
    verdict_real_model,
)
from fastdllm.lab.config import grid_file
from fastdllm.report import predictions

SUBSETS = ("first", "middle", "last")


def answers(right: int, n: int = 400) -> list[int]:
    return [1] * right + [0] * (n - right)


def run_1(own: int = 100, moved: int = 40, **others: int):
    """Run 1's cells: k=1 solves 120 of 400, `first` on its own commit `own`, on 6c8822f `moved`, like the others."""
    right = {("6f96d95-dirty", 1, "first"): answers(120), ("6d2a9a8", 1, "first"): answers(120)}
    for k in (2, 3):
        right[("6f96d95-dirty", k, "first")] = answers(own)
        right |= {("6c8822f", k, layers): answers(others.get(layers, moved)) for layers in SUBSETS}
    return shipped_of(right, tokens={("6c8822f", 2, "last"): 30})


def test_each_cell_of_run_1_is_read_on_the_commit_that_the_log_names():
    cells = real_model.run_1(run_1())
    log = prior_results.results().query("batch == 'feb15_run1'").set_index("config")
    own = cells[cells["what"] == real_model.OF_THE_LOG].set_index("cell")
    assert set(own.index) == set(log.index)
    for cell, row in own.iterrows():
        assert log.commit[cell].startswith(row.revision.split("-")[0])
        assert row.path.startswith(row.revision)
        assert row.log == log.correct[cell]
    assert own.kept.round(3).to_dict() == {
        f"k{k}_{layers}": 1.0 if k == 1 else round((100 if layers == "first" else 40) / 120, 3)
        for k in (1, 2, 3) for layers in SUBSETS}
    moved = cells[cells["what"] == real_model.MOVED]
    assert moved.path.tolist() == ["6c8822f/k2_first", "6c8822f/k3_first"]


def test_a_cell_without_a_record_stays_as_not_run_in_table_and_figure():
    records = run_1().where(k=[1, 2])
    cells = real_model.run_1(records)
    text = real_model.run_1_text(cells)
    [right] = [name for name in text if name.startswith("right of ") and "drawn" not in name]
    assert right == f"right of {cells['n'].max():.0f}" and (text[right] == "not run").sum() == 4
    figure = real_model.run_1_figure(cells)
    assert sum(each.get_text() == "not run" for each in figure.axes[0].texts) == 4
    beside = real_model.published_beside(records)
    january = next(name for name in beside if name.startswith("January"))
    assert "ce2817c0" in january and any("f7f4c2c0" in name for name in beside)
    assert beside.set_index("config")[january].to_dict()["k2_middle"] == "73.6"
    assert (beside["real model, 26d6179: right %"] == "not run").all()
    nothing = real_model.run_1(records.where(k=7))
    assert (nothing.path == "").all() and len(real_model.run_1_figure(nothing).axes) == 2
    assert "None of these cells ran" in verdict_real_model.caption(nothing)


def test_run_1_comes_back_only_if_every_subset_falls_on_the_other_commit():
    for records, state in ((run_1(), True), (run_1(moved=98), False), (run_1(last=99), False),
                           (run_1().where(revision=["6c8822f", "6d2a9a8"]), None),
                           (run_1().where(layers=["first", "middle"]), None)):
        cells, have = real_model.run_1(records), real_model.results(records)
        table = verdict_real_model.first_against_others(cells, have)
        assert verdict_real_model.run_1_comes_back(cells, table).state is state


def test_subsets_that_are_one_computation_are_compared_once_by_each_problem():
    records = run_1()
    table = phase6.losses(real_model.results(shipped_of(
        {("26d6179", 1, "first"): answers(120), **{("26d6179", 2, layers): answers(90) for layers in SUBSETS}})),
        "26d6179")
    assert table.layers.tolist() == ["first = middle = last"]
    assert table.p_holm.tolist() == table.p.tolist()
    have = real_model.results(records)
    bypass = phase6.across_subsets(have, "6c8822f").set_index("k")
    assert bypass.computations.to_dict() == {2: 2, 3: 1}      # `last` at k=2 has other tokens
    differing = real_model.differing(records, "6c8822f").set_index("k")
    assert differing.differ.to_dict() == {2: 400, 3: 0}
    assert real_model.differing(records.where(layers="first"), "6c8822f").empty


@pytest.mark.parametrize("size", [1, 2, 4])
def test_draws_of_a_few_problems_are_exact(size):
    a, b = np.array([1, 1, 0, 0, 1, 0]), np.array([1, 0, 1, 0, 0, 0])
    draws = [list(draw) for draw in itertools.combinations(range(6), size)]
    assert stats.not_ahead(a, b, size) == pytest.approx(np.mean([a[d].sum() <= b[d].sum() for d in draws]))
    chances = stats.drawn(3, 6, size)
    assert chances == pytest.approx([np.mean([a[d].sum() == count for d in draws]) for count in range(size + 1)])
    low, high = real_model.central(3, 6, size)
    assert chances[low:high + 1].sum() >= 0.95


def test_draws_refuse_more_problems_than_there_are():
    with pytest.raises(ValueError, match="size=7; allowed: 1 to n=6"):
        stats.not_ahead([1] * 6, [0] * 6, 7)


def test_the_verdict_with_a_real_model_is_short_and_puts_it_before_the_embedded_checkpoint():
    grid = {(revision, k, layers): answers(120 if k == 1 else 40 if revision == "6c8822f" else 100)
            for revision in ("8e18baac", "6c8822f", "26d6179") for k, layers in
            ((1, "first"), *itertools.product((2, 3), SUBSETS))}
    real = real_model.results(shipped_of(grid))
    tiny = phase6.Phase6Results(real.frame.assign(model="tiny", task="arithmetic"), real.correct, {}, real.computed)
    records = run_1()
    cells = real_model.run_1(records)
    share = {"share": 0.43, "low": 0.38, "high": 0.48, "prompts": 16.0}
    stale = pd.DataFrame({"6c8822f": share, "26d6179": share | {"share": 0.0}}).T
    for mystery in (verdict_real_model.mystery(records, cells),
                    verdict_real_model.mystery(records, cells.assign(path=""))):
        text = verdict_collapse.collapse([(RunLabel.of(one.frame), one) for one in (real, tiny)], stale,
                                         verdict_collapse.log_runs(), verdict_collapse.january_rows(), mystery,
                                         "Not run: 3.")
        assert words_before_fold(text) <= MOST_WORDS, words_before_fold(text)
        assert str(mystery[0]) in text.split("<details")[0]
        assert all(str(one) in text for one in mystery) and "Not run: 3." in text
        assert "On smol (n = 400), Run 2's code" in text and "On tiny" not in text.split("<details")[0]
        assert "commit 0123456" in text


def test_a_claim_falls_back_to_the_second_records_where_the_first_can_not_tell():
    tiny = real_model.results(shipped_of({(revision, 2, layers): answers(100 if revision == "8e18baac" else 30)
                                          for revision in ("8e18baac", "6c8822f") for layers in SUBSETS}))
    second = told(verdict_collapse.worse_than_january, ("smol", phase6.compare(tiny, [])),
                                 ("tiny", phase6.against(tiny, "8e18baac", "6c8822f")))
    assert second.state is True and "tiny" in str(second)
    none = told(verdict_collapse.worse_than_january, ("smol", phase6.compare(tiny, [])))
    assert none.state is None and "smol" in str(none)


def test_predictions_name_a_command_that_is_accepted_and_a_claim_that_exists():
    names = {claim.name for claim in every_claim().values()}
    experiments = set()
    for prediction in predictions.PREDICTIONS:
        assert prediction.on_smol in names | {""}
        words = shlex.split(prediction.experiment.command)
        assert words[:3] == ["fastdllm", "grid", "run"]
        changes = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
        grid = grid_file.load(words[3], changes)
        assert "7B" in grid.model and [c for c in grid.configurations() if not c.not_applicable]
        experiments.add(grid.experiment)
    assert len(experiments) == len(predictions.PREDICTIONS), "two predictions would write to one place"
    judged = verdict_real_model.mystery(run_1(), real_model.run_1(run_1()))
    table = transfer.predictions({one.claim: one for one in judged})
    assert set(table["on the real model"]) <= {"holds", "does not hold", "not known yet", "not tested"}
    assert all(len(rows) >= 5 for rows in transfer.lists().values())


def test_the_caption_of_the_400_names_every_code_whose_rows_stand_below_it():
    """Both thresholds stand in one table: not the code of one of them."""
    rows = pd.DataFrame({"code": ["commit a", "commit b"], "device_name": "card", "date": "2026-11-26", "n": 400,
                         "metric": "strict", "threshold": [0.9, 1.0]})
    assert "commit a, commit b" in real_model.caption_400(rows)
    assert "commit a" not in real_model.caption_400(rows[rows["threshold"] == 1.0])
