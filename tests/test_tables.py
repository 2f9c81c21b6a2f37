"""The report's tables on records of known content."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lab_support import command
from report_support import fill, timed_on_a_gpu

from fastdllm.display.tables import (
    MOST,
    PREDICTED,
    Html,
    as_text,
    number,
    only_predicted,
    p_text,
    pairs_as_text,
    together,
    without_zeros,
)
from fastdllm.investigation.collapse.inspection import merged_prompts
from fastdllm.lab import records
from fastdllm.lab.config.grid import Configuration, Grid
from fastdllm.report import content, cost_model, figures, plain_control, summary_tables, tables
from fastdllm.report.results import Results

AXES = {"k": [1, 2, 3], "layers": ["first", "middle", "last"]}


def collapse(configuration: Configuration) -> tuple[float, float, int]:
    """k=2 loses 10 points and is a quarter faster, k=3 loses 20."""
    k = configuration.parameters.reuse.k
    return 0.95 - 0.10 * (k - 1), 0.02 / (1.25 if k == 2 else 1), 60


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    grid = Grid(experiment="x", output=str(tmp_path_factory.mktemp("x")), limit=100, axes=AXES)
    fill(grid, collapse)
    return Results.of(grid)


def test_nine_rows_with_baseline_loss_and_speed(results: Results) -> None:
    table = tables.grid_table(results).set_index("config")
    assert list(table.index) == [f"k{k}_{name}" for k in AXES["k"] for name in AXES["layers"]]
    assert (table["state"] == "complete").all()
    row = table.loc["k2_middle"]
    assert row["accuracy"] == pytest.approx(0.85)
    assert row["lost"] == pytest.approx(10)
    assert row["lost_low"] < 10 < row["lost_high"]
    # On a CPU, which others share, the clock (1.25) is no measure: all 20 small forwards of a problem skip 12 layers.
    plain, reused = (cost_model.predicted_seconds({"prefill": 1, "full": 10, "small": 20, "commit": 2}, calls, "output",
                                                  "fixed") for calls in (0, 12 * 20))
    assert row["speed_from"] == "predicted"
    assert row["speedup"] == pytest.approx(plain / reused)
    assert row["speed_low"] == pytest.approx(row["speedup"]) == row["speed_high"], "every problem has the same forwards"
    assert row["p_holm"] < 0.05
    assert row["lost_relative"] == pytest.approx(0.10 / 0.95)
    assert row["tokens_per_forward"] == pytest.approx(60 / 33)
    base = table.loc["k1_last"]
    assert base["lost"] == 0
    assert base["speed_from"] == "baseline"


def on_a_gpu(results: Results) -> Results:
    """The same records, as if they had been timed on a GPU."""
    return Results(results.grid, [replace(state, record=timed_on_a_gpu(state.record)) for state in results.states
                                  if state.record is not None])


def uncounted(results: Results) -> Results:
    """The same records without their forwards: nothing that a cost model could predict from."""
    return Results(results.grid, [replace(state, record=state.record.model_copy(update={"nfe": {}}))
                                  for state in results.states if state.record is not None])


def test_a_clock_that_was_read_once_gives_no_speed_up(results: Results) -> None:
    """On a GPU as little as on a CPU: the cost model's stands there, or none."""
    row, cpu = (tables.grid_table(each).set_index("config").loc["k2_middle"] for each in (on_a_gpu(results), results))
    assert row["speed_from"] == PREDICTED and row["runs"] == 1
    assert row["speedup"] == pytest.approx(cpu["speedup"]) != pytest.approx(1.25), "1.25 is the clock's"
    row = tables.grid_table(uncounted(on_a_gpu(results))).set_index("config").loc["k2_middle"]
    assert row["speed_from"] == "one run"
    assert np.isnan([row["speedup"], row["speed_low"], row["speed_high"], row["sure_speed_low"]]).all()


@pytest.mark.parametrize("unknown", ["executor", "device_name"])
def test_clocks_of_what_is_not_recorded_give_no_speed_up(results: Results, unknown: str) -> None:
    timed = uncounted(on_a_gpu(results))
    blank = {"executor": lambda record: record.model_copy(update={"executor": ""}),
             "device_name": lambda record: record.model_copy(update={
                 "environment": record.environment.model_copy(update={"device_name": ""})})}[unknown]
    row = tables.grid_table(Results(timed.grid, [replace(state, record=blank(state.record)) for state in timed.states])
                            ).set_index("config").loc["k2_middle"]
    assert np.isnan(row["speedup"]) and "not recorded, baseline's not recorded" in row["speed_from"]


def test_the_fastest_without_a_speed_up_is_named_by_what_is_known(thresholds: Results) -> None:
    rows = tables.grid_table(thresholds)
    assert summary_tables.best(rows)["fastest"].item().endswith("x)")
    rows["speedup"] = rows["speedup"].where(rows["k"] == 1)
    said = summary_tables.best(rows)["fastest"].item()
    assert said.endswith("tokens/s predicted)"), "no clock of a CPU"
    clock = summary_tables.best(rows.assign(predicted_seconds=np.nan))["fastest"].item()
    assert clock == "can't be told: one run each"


def test_the_table_of_a_grid_on_a_cpu_is_printed(results: Results, tmp_path: Path) -> None:
    """Where the clock's columns are left out as well as where they stand."""
    file = tmp_path / "x.yml"
    file.write_text(f"experiment: x\noutput: {results.grid.output}\nlimit: 100\n"
                    "axes: {k: [1, 2, 3], layers: [first, middle, last]}\n")
    text = command("grid", "table", file)
    table, _, said = text.partition("\n\n")
    assert "| k2_middle |" in table and "predicted speed-up" in table and "seconds" not in table
    assert "accuracy by the rule strict with 95 % Wilson interval" in said, "a number says by which rule"


@pytest.mark.parametrize("repeats", [1, 2, 3])
def test_three_repeats_give_an_interval_and_fewer_give_none(tmp_path: Path, repeats: int) -> None:
    grid = Grid(experiment="x", output=str(tmp_path), limit=8,
                axes={"k": [1, 2], "layers": ["first"], "repeat": list(range(repeats))})
    fill(grid, lambda c: (0.9, (0.02, 0.021, 0.0195)[c.parameters.repeat] / c.parameters.reuse.k, 60))
    table = tables.grid_table(on_a_gpu(Results.of(grid)))
    assert set(table[table["k"] == 2]["speed_from"]) == {"3 repeats" if repeats == 3 else PREDICTED}
    assert set(table["runs"]) == {repeats}
    shown = figures.grid_figure(table).axes[1].get_xlabel()
    assert shown.startswith("tokens/s" if repeats == 3 else "forwards (predicted")


def test_repeats_are_interleaved_between_what_is_compared() -> None:
    grid = Grid(experiment="x", limit=8, axes={"k": [1, 2], "layers": ["first"], "repeat": [0, 1, 2]})
    order = [(c.parameters.repeat, c.parameters.reuse.k) for c in grid.configurations()]
    assert order == sorted(order)


@pytest.mark.parametrize(("policy", "revision", "saves"), [
    ("output", "fixed", True), ("residual", "fixed", True), ("token", "fixed", False), ("output", "8e18baac", False),
    ("output", "fixed+run_skipped=true", False)])
def test_what_the_cost_model_saves_for_reused_layer_calls(policy: str, revision: str, saves: bool) -> None:
    nfe = {"prefill": [1, 1], "full": [10, 12], "small": [20, 22], "commit": [2, 2], "replay": [0, 0]}
    plain = cost_model.predicted_seconds(nfe, [0, 0], policy, revision)
    assert ((cost_model.predicted_seconds(nfe, [120, 120], policy, revision) < plain) == saves).all()
    fewer = cost_model.predicted_seconds(nfe | {"small": [10, 11], "replay": [10, 11]}, [0, 0], "replay", revision)
    assert (fewer < plain).all(), "a replayed step costs next to nothing"


def test_subsets_that_are_one_computation_are_corrected_for_once(results: Results, tmp_path: Path) -> None:
    table = tables.grid_table(results)
    assert table[table["k"] > 1].groupby("k")["computation"].nunique().tolist() == [1, 1]
    tested = table[table["k"] > 1].drop_duplicates("computation")
    assert tested["p_holm"].max() == tested["p"].max()      # of two tests: the larger p stands, the smaller is doubled
    assert tested["p_holm"].min() == pytest.approx(min(tested["p"].max(), 2 * tested["p"].min()))
    wordy = Grid(experiment="wordy", output=str(tmp_path), limit=100, axes=AXES)      # other tokens, right on the same
    fill(wordy, lambda c: (0.8, 0.02, 60 + AXES["layers"].index(str(c.parameters.reuse.layers)))
              if c.parameters.reuse.k > 1 else (0.95, 0.02, 60))
    same = tables.grid_table(Results.of(wordy)).query("k > 1")
    assert same.groupby("k")["computation"].nunique().tolist() == [3, 3]
    assert same["p_holm"].tolist() == pytest.approx((2 * same["p"]).clip(upper=1).tolist())      # one test a k
    apart = Grid(experiment="x", output=str(tmp_path), limit=100, axes=AXES)
    fill(apart, lambda c: (0.95 - 0.05 * AXES["layers"].index(str(c.parameters.reuse.layers)), 0.02, 60)
              if c.parameters.reuse.k > 1 else (0.95, 0.02, 60))
    other = tables.grid_table(Results.of(apart))
    assert other[other["k"] > 1].groupby("k")["computation"].nunique().tolist() == [3, 3]


def test_paired_interval_is_wide_enough_for_few_discordant_pairs(tmp_path: Path) -> None:
    grid = Grid(experiment="x", output=str(tmp_path), limit=100, axes={"k": [1, 2], "layers": ["first"]})
    fill(grid, lambda configuration: (0.95 if configuration.parameters.reuse.k == 1 else 0.93, 0.02, 60))
    row = tables.grid_table(Results.of(grid)).set_index("config").loc["k2_first"]
    assert row["p"] == 0.5  # two lost, none gained
    assert row["lost_low"] < 0 < row["lost_high"]


def test_repeats_give_the_interval_of_the_speed_up(tmp_path: Path) -> None:
    grid = Grid(experiment="x", output=str(tmp_path), limit=20,
                axes={"k": [1, 2], "layers": ["first"], "repeat": [0, 1, 2]})
    fill(
        grid,
        lambda configuration: (
            0.9,
            (0.02, 0.021, 0.0195)[configuration.parameters.repeat] / configuration.parameters.reuse.k,
            60,
        ),
    )
    table = tables.grid_table(Results.of(grid))
    reused = table[table["k"] == 2]
    assert set(reused["speed_from"]) == {"3 repeats"}
    assert (reused["speedup"] - 2).abs().max() < 1e-6


def test_text_forms(results: Results) -> None:
    shown = as_text(tables.grid_table(results))
    assert len(shown) == 9
    assert {"n", "accuracy %", "points lost", "predicted speed-up", "tokens", "NFE", "NFE prefill", "NFE full",
            "NFE small", "NFE commit", "tokens / forward", "recompute", "reuse", "fallback"} <= set(shown)
    assert list(shown)[:6] == ["config", "accuracy %", "n", "points lost", "of k=1's, %", "predicted speed-up"]
    assert not {"tokens/s", "seconds"} & set(shown), "a shared CPU's clock stands in no table"
    assert not {"tokens/s", "seconds"} & set(as_text(tables.grid_table(on_a_gpu(results)))), "nor one run's of a GPU"
    assert shown["points lost"].iloc[0] == "baseline"
    html = Html(shown, "a < b")._repr_html_()
    assert html.count("<tr") == 10
    assert "a &lt; b" in html
    assert "<script" not in html
    assert Html(shown).markdown().count("\n") == 10
    assert number(-0.04) == "0.0"


def test_a_page_shows_the_head_of_a_long_table_and_says_so() -> None:
    long = Html(pd.DataFrame({"config": range(MOST + 1)}), "where the rest is")
    html = long._repr_html_()
    assert html.count("<tr") == MOST + 1
    assert f"the first {MOST} of {MOST + 1} rows; where the rest is" in html
    assert long.markdown().count("\n| ") == MOST + 2


def test_rules_and_published_comparison(results: Results) -> None:
    rules = summary_tables.rules_table(results)
    assert {"strict % *", "flexible %"} <= set(rules)
    assert summary_tables.against_published(results)["comparison"].tolist() == ["no published score"]
    cover = summary_tables.coverage(results).set_index("benchmark")
    assert cover.loc["arithmetic", "here"] == "9 of 9 configurations, n = 100"
    assert cover.loc["humaneval", "here"] == "not run"
    assert cover.loc["mmlu", "layer reuse"] == "cannot act"


def test_a_limited_score_never_stands_beside_a_full_one_without_its_n() -> None:
    text = summary_tables.comparison(0.31, 0.54, 0.616, "Efficient-Large-Model/Fast_dLLM_v2_7B", False, 70, 5000)
    assert "70 of 5000 problems only" in text
    assert summary_tables.comparison(0.78, 0.82, 0.837, "tiny", True, 1319, 1319) == "another model: not comparable"


def test_published_table_has_n_intervals_and_the_noise_of_its_baseline() -> None:
    january = summary_tables.published_table("jan_full", "gsm8k").set_index("config")
    row = january.loc["k2_middle"]
    assert row["n"] == 1319
    assert row["lost"] == pytest.approx(6.82, abs=0.01)
    assert row["speed_low"] < 0.5 < 2 < row["speed_high"]  # one k=1 row is 2.2 times slower than the others
    assert summary_tables.published_table("jan_limit", "minerva_math", 10)["n"].unique().tolist() == [70]
    with pytest.raises(ValueError, match="allowed: a table of"):
        summary_tables.published_table("jan_full", "humaneval")


def test_missing_samples_leave_intervals_that_say_so(tmp_path: Path) -> None:
    grid = Grid(experiment="x", output=str(tmp_path), limit=50, axes={"k": [1, 2], "layers": ["first"]})
    fill(grid, collapse)
    for path in tmp_path.rglob("samples.jsonl"):
        path.unlink()
    row = tables.grid_table(Results.of(grid)).set_index("config").loc["k2_first"]
    assert row["lost_low"] < row["lost"] < row["lost_high"]  # unpaired
    assert row["speed_low"] != row["speed_low"]
    assert row["speed_from"] == "predicted"      # the record's own sums are enough for that


def test_a_speed_up_that_was_not_measured_at_equal_batching_says_so(tmp_path: Path) -> None:
    grid = Grid(experiment="x", output=str(tmp_path), limit=50,
                axes={"k": [1, 2, 3], "layers": ["first"], "repeat": [0, 1, 2]})
    fill(grid, collapse)
    for configuration in grid.configurations():      # of one run there is no clock's speed-up to speak of
        records.write(configuration.directory, timed_on_a_gpu(
            records.read(configuration.directory), shards=4 if configuration.parameters.reuse.k == 2 else 1))
    table = tables.grid_table(Results.of(grid))
    shown = as_text(table)["speed-up"]
    assert shown[table["k"] == 2].str.contains("(not at equal batching: in 4 shards, k=1 in 1)", regex=False).all()
    assert not shown[table["k"] != 2].str.contains("batching").any()


def test_a_table_says_which_speed_up_is_predicted_where_others_are_timed(results: Results) -> None:
    table = tables.grid_table(results)
    timed = table.assign(speed_from=["3 repeats" if config == "k2_first" else source for config, source in zip(
        table["config"], table["speed_from"], strict=True)])
    shown = as_text(timed).set_index("config")["speed-up"]
    assert "predicted" not in shown["k2_first"] and shown["k2_last"].endswith(" predicted")
    assert figures.grid_figure(timed).axes[1].get_xlabel() == "tokens per forward", "no clock beside a prediction"


def test_a_table_of_several_executors_names_them_and_one_of_one_does_not(results: Results) -> None:
    table = tables.grid_table(results)
    assert tables.executors(table) == ""
    assert "executor" not in content.caption(table)
    table.loc[table["k"] == 3, "executor"] = "eager"
    table.loc[table["config"] == "k2_last", "executor"] = ""
    said = content.caption(table)
    assert "9 configurations ran on different executors: fast (5), not recorded (1), eager (3)" in said
    assert "clocks are not compared" in said


def test_changed_samples_are_refused(tmp_path: Path) -> None:
    grid = Grid(experiment="x", output=str(tmp_path), limit=20, axes={"k": [1, 2], "layers": ["first"]})
    fill(grid)
    path = next(tmp_path.rglob("samples.jsonl"))
    path.write_text(path.read_text().replace("true", "false"))
    with pytest.raises(ValueError, match="not the samples"):
        tables.grid_table(Results.of(grid))


def test_figures_draw_every_computation(results: Results) -> None:
    table = tables.grid_table(results)
    left, right = figures.grid_figure(table, "x").axes
    assert len(right.patches) == 3
    assert [tick.get_text() for tick in left.get_yticklabels()] == [
        "k1 first, middle, last", "k2 first, middle, last", "k3 first, middle, last"]
    once = figures.grid_figure(tables.grid_table(uncounted(on_a_gpu(results)))).axes[1]
    assert len(once.patches) == 7 and once.get_xlabel() == "tokens per forward"      # k=1 is one run
    assert {text.get_text().strip() for text in once.texts} == {"not counted"}


def test_every_line_of_a_figure_has_a_name_and_a_long_one_says_how_many_it_stands_for(results: Results) -> None:
    table = tables.grid_table(uncounted(results))
    many = pd.concat([table.assign(config=table["config"] + f"_revision_{i}", run=table["run"] + str(i))
                      for i in range(9)])
    left, right = figures.grid_figure(many).axes
    assert len(right.patches) == 63 and all(tick.get_text() for tick in left.get_yticklabels())
    alike = pd.concat([table.assign(config=table["config"] + f"+a_switch_of_the_revision={i}") for i in range(3)])
    names = figures.merged(alike, "run")["name"]
    assert names.str.len().max() < 60 and names[0].endswith(f" and {3 * 3 - 1} more")
    alone = table[:1].assign(config="k3_middle_residual_6c8822f+on_full_block=refresh_b1_max128")
    assert list(figures.merged(alone, "run")["name"]) == list(alone["config"])


def test_a_clock_that_was_read_once_gives_no_ratio_in_a_figure(results: Results) -> None:
    once = figures.grid_figure(tables.grid_table(on_a_gpu(results))).axes[1]
    assert "tokens/s" not in once.get_xlabel().replace("predicted: speed-up in tokens/s", "")
    assert all("predicted" in text.get_text() for text in once.texts if "x" in text.get_text())


@pytest.mark.parametrize(("frame", "said"), [
    ({"same": [True, np.bool_(False)]}, ["yes", "no"]), ({"seconds": [0.1 + 0.2, 0.999]}, ["0.300", "0.999"]),
    ({"tokens": [3540.0, 12345.6]}, ["3540", "12346"]), ({"p_holm": [0.0, 1e-9]}, ["&lt; 0.0001"] * 2),
    ({"why": ["a `b` c", None]}, ["a <code>b</code> c", ""]), ({"answer": ["```x```", "`y`"]}, ["```x```", "`y`"]),
     ({"small_block": [1, 2]}, ["small block"])])
def test_a_frame_is_read_as_it_is(frame: dict, said: list[str]) -> None:
    html = Html(pd.DataFrame(frame), "of `k`")._repr_html_()
    assert all(f">{text}</t" in html for text in said) and "of <code>k</code>" in html
    assert "_holm" not in html and "small_block" not in html


def test_a_heading_takes_as_few_lines_as_let_the_table_fit() -> None:
    one = Html(pd.DataFrame({"n": [1], "Run 1, right of 10": [6], "`k`": [2], "tokens/s": [3]}))._repr_html_()
    assert ">Run 1, right of 10</th>" in one, "there is room"
    assert '<th class="l">n</th>' in one and "<code>k</code></th>" in one and ">tokens/s</th>" in one
    many = Html(pd.DataFrame({f"Run {i}, right of (n = 10)": [6] for i in range(8)}))._repr_html_()
    assert "<span>Run 1,</span> <span>right of</span> <span>(n\u00a0=\u00a010)</span></th>" in many
    switches = Html(pd.DataFrame({f"full_block_every_{i}": ["yes"] for i in range(8)}))._repr_html_()
    assert "<span>full_</span> <span>block_</span> <span>every_1</span></th>" in switches


def test_a_table_may_stand_behind_a_line_that_names_it() -> None:
    table = Html(pd.DataFrame({"a": [1]}), "caption", fold="1 row of <x>")
    page = table._repr_html_().partition("</style>")[2]
    assert page.startswith("<details><summary>1 row of &lt;x&gt;</summary><div")
    assert page.endswith("caption</p></details>")
    assert "row of" not in table.markdown()


@pytest.mark.parametrize(("cells", "side"), [
    (["small", "full"], "l"), (["12", "3"], ""), (["26d6179", "8e18baac"], "l"), (["1x8x128"], "l"), (["1.03x"], ""),
    (["3 of 4", "not run"], ""), (["baseline", "5.5 (2.0 to 8.9)"], "i"), (["< 0.0001", "0.4"], ""),
    (["yes", "no"], "l"), (["2-5,9-12"], "l"), (["0 to 3"], ""),
    (["2026-02-16 00:20:40"], "l"), (["", ""], "l"), (["-3.1", ""], "")])
def test_words_begin_at_the_left_and_numbers_end_at_the_right(cells: list[str], side: str) -> None:
    html = Html(pd.DataFrame({"config": ["k1"] * len(cells), "x": cells}))._repr_html_()
    assert html.count(f'<td class="{side}">') == len(cells) * (2 if side == "l" else 1)
    assert ('<th class="l">x</th>' in html) == (side == "l")


@pytest.mark.parametrize(("values", "said"), [
    ([20.49, 20.1, 0.0], ["20.49", "20.10", "0.00"]), ([0.9986, 0.372], ["0.9986", "0.3720"]),
    ([407.74, 288.0, 93.34], ["407.7", "288.0", "93.3"]), ([0.5, 1.0], ["0.5", "1.0"]), ([3.0, 4.0], ["3", "4"]),
    ([0.00012, 31.5], ["0.00012", "31.5"]), ([1.25, np.nan], ["1.25", ""]), ([-0.00001, 1.5], ["-1e-05", "1.5"]),
    ([9999.0, 1.5], ["9999", "1.5"])])
def test_the_numbers_of_a_column_have_as_many_decimals(values: list[float], said: list[str]) -> None:
    lines = Html(pd.DataFrame({"x": values})).markdown().splitlines()[2:]
    assert [line.strip("| ") for line in lines] == said


def test_long_names_and_commands_break_where_a_reader_expects() -> None:
    html = Html(pd.DataFrame({"why": ["grid run x --set dtype=float32 with run_skipped"],
                              "points": ["1.0 (0.5 to 2.0)"]}))._repr_html_()
    assert '<span class="o">--set</span>' in html and "run_<wbr>skipped" in html
    assert '1.0 <span class="o">(0.5 to 2.0)</span>' in html


def test_what_never_happened_has_no_column() -> None:
    table = pd.DataFrame({"problem": ["a", "b"], "full": [0, 3], "replay": [0, 0], "share": [0.0, 0.0]})
    assert list(without_zeros(table)) == ["problem", "full", "share"]


@pytest.mark.parametrize(("values", "said"), [
    ([0.9531, 0.1], ["95.3", "10.0"]), ([0.0, np.nan], ["0.0", ""]),
    (["94.5 (90.4 to 96.9)"], ["94.5 (90.4 to 96.9)"])])
def test_a_share_of_right_answers_is_shown_in_percent_and_says_so(values: list, said: list[str]) -> None:
    text = Html(pd.DataFrame({"config": ["x"] * len(values), "accuracy": values})).markdown()
    assert ("accuracy %" in text) == (not isinstance(values[0], str))
    assert [line.split(" | ")[1].removesuffix(" |") for line in text.splitlines()[2:]] == said


def test_a_table_without_rows_says_so() -> None:
    empty = Html(pd.DataFrame(columns=["grid", "command"]), "what did not run")
    assert "<table" not in empty._repr_html_() and "what did not run: none" in empty._repr_html_()
    assert empty.markdown() == "what did not run: none" and Html(pd.DataFrame()).markdown() == "none"


@pytest.mark.parametrize(("names", "said"), [
    (["k2_first", "k2_last"], "k2 first, last"), (["k1_b1"], "k1_b1"), (["a", "b"], "a, b"),
    (["k2_first_t0.9", "k2_last_t0.9"], "k2 first_t0.9, last_t0.9"),
    (["k2_middle", "k2_middle_policy-empty"], "k2 middle, middle_policy-empty"), (["k2", "k2_last"], "k2, k2_last")])
def test_names_that_begin_alike_are_said_once(names: list[str], said: str) -> None:
    assert together(names) == said


def test_what_is_alike_is_one_row_and_what_parts_is_another() -> None:
    same = {"tokens of the file": 10, "tokens of fixed": 10, "same tokens": True, "forwards of the file": 4,
            "forwards of fixed": 4, "how the file ended": "ended", "first parting": "", "differs in": ""}
    parted = same | {"same tokens": False, "first parting": "prompt 0, forward 2", "differs in": "layer calls"}
    table = pd.DataFrame([same | {"prompt": i, "layers": name} for i in range(3) for name in ("first", "last")]
                         + [parted | {"prompt": 3, "layers": "last"}])
    merged = merged_prompts(table)
    assert merged["decodes"].tolist() == [6, 1] and merged["tokens of the file"].tolist() == [60, 10]
    assert merged["layers"].tolist() == ["first, last", "last"]
    assert merged.iloc[0][["same tokens", "first parting", "differs in"]].tolist() == ["yes", "none", "nothing"]


@pytest.mark.parametrize(("p", "said"), [(0.0, "< 0.0001"), (3e-9, "< 0.0001"), (0.0042, "0.0042"), (1.0, "1"),
                                         (float("nan"), "–")])
def test_a_p_value_is_never_said_to_be_nothing(p: float, said: str) -> None:
    assert p_text(p) == said
    row = {"k": 2, "layers": "first", "n": 64, "lost": 30, "gained": 1, "points": -45.31, "low": -57.6, "high": -30.3}
    shown = pairs_as_text(pd.DataFrame([row | {"p": p, "p_holm": p}]))
    share = pairs_as_text(pd.DataFrame([row | {"p": p, "p_holm": p, "relative": value}
                                        for value in (-0.34, float("nan"))]))
    assert share.table["of the baseline's right answers, %"].tolist() == ["-34.0", "–"]
    assert shown.table["McNemar p"].tolist() == [said] and shown.table["points"].tolist() == ["-45.3 (-57.6 to -30.3)"]


def test_a_sweep_without_reuse_on_a_cpu_shows_no_clock_either(tmp_path: Path) -> None:
    grid = Grid(experiment="x", output=str(tmp_path), limit=8, axes={"threshold": [0.5, 0.9]})
    fill(grid)
    table = tables.grid_table(Results.of(grid))
    assert only_predicted(table) and "tokens/s" not in as_text(table)
    assert figures.grid_figure(table).axes[1].get_xlabel().startswith("forwards")


def front(configuration: Configuration) -> tuple[float, float, int]:
    """Plain: accuracy falls and speed grows as the threshold falls. residual is worse than a plain one as fast, token
    is better than all, adaptive is faster than any plain one."""
    parameters = configuration.parameters
    if parameters.reuse.k == 1:
        return {0.9: (0.9, 0.03, 60), 0.7: (0.8, 0.02, 60), 0.5: (0.4, 0.01, 60)}[parameters.decoding.threshold]
    return {"residual": (0.6, 0.021, 60), "token": (0.95, 0.02, 60), "adaptive": (0.5, 0.005, 60)}[
        parameters.reuse.policy]


@pytest.fixture(scope="module")
def thresholds(tmp_path_factory: pytest.TempPathFactory) -> Results:
    grid = Grid(experiment="front", output=str(tmp_path_factory.mktemp("front")), limit=100, configs=[
        *({"k": 1, "threshold": threshold} for threshold in (0.9, 0.7, 0.5)),
        *({"k": 2, "layers": "middle", "policy": policy, "threshold": 0.9}
          for policy in ("residual", "token", "adaptive"))])
    fill(grid, front)
    return Results.of(grid)


def by_the_clock(results: Results) -> pd.DataFrame:
    """The grid's table without the cost model's seconds, as if each had been timed three times."""
    return tables.grid_table(results).assign(predicted_seconds=float("nan"), runs=3)


def test_each_reuse_is_held_against_the_best_plain_threshold_that_is_as_fast(thresholds: Results) -> None:
    table = plain_control.against_plain(thresholds, by_the_clock(thresholds)).set_index("config")
    residual, token, adaptive = (table.loc[f"k2_middle_{name}_t0.9"] for name in ("residual", "token", "adaptive"))
    assert residual["control"] == "k1_t0.7" and residual["gain"] == pytest.approx(-20)
    assert residual["gain_high"] < 0 and residual["lost_to_it"] - residual["won"] == 20
    assert token["control"] == "k1_t0.7" and token["gain_low"] > 0
    assert adaptive["control"] == "" and adaptive["gain"] != adaptive["gain"]
    assert table.loc["k1_t0.5", "relative_speed"] == pytest.approx(3)
    assert table.loc["k1_t0.9", "relative_speed"] == 1
    text = plain_control.as_text(table.reset_index())
    assert "baseline" not in text.to_numpy() and "none is as fast" in text["best plain as fast"].tolist()
    lines = plain_control.sentences(table.reset_index())
    assert len(lines) == 3 and any("no plain threshold of this grid is as fast" in line for line in lines)


@pytest.mark.parametrize("column", ["executor", "device_name"])
def test_a_clock_of_another_executor_or_device_is_no_control(thresholds: Results, column: str) -> None:
    rows = by_the_clock(thresholds)
    rows[column] = ["one" if k == 1 else "other" for k in rows["k"]]
    table = plain_control.against_plain(thresholds, rows)
    assert table["control"].eq("").all()
    assert table["relative_speed"].notna().tolist() == (rows["k"] == 1).tolist()
    assert set(plain_control.as_text(table).query("speed == '–'")["config"]) == set(rows.loc[rows["k"] > 1, "config"])
    predicted = rows.assign(predicted_seconds=rows["seconds"])        # forwards compare whatever executor ran them
    assert plain_control.against_plain(thresholds, predicted)["control"].ne("").sum() == 2


def test_a_clock_that_was_read_once_is_no_control(thresholds: Results) -> None:
    table = plain_control.against_plain(thresholds, by_the_clock(thresholds).assign(runs=1))
    assert table["control"].eq("").all() and table["relative_speed"].isna().all()
    assert set(table.loc[table["k"] > 1, "no_control"]) == {"its clock was read fewer than 3 times"}
    rows = by_the_clock(thresholds)
    rows.loc[rows["k"] == 1, "runs"] = 1
    table = plain_control.against_plain(thresholds, rows)
    assert set(table.loc[table["k"] > 1, "no_control"]) == {"no plain run that was timed 3 times"}


@pytest.mark.parametrize(("column", "own", "others", "said"), [
    ("batch_size", 1, 32, "no plain run at batch 1"),
    ("executor", "eager", "fast", "no plain run on the executor eager"),
    ("device_name", "a card", "another", "no plain run on a card"),
    ("tokens", float("nan"), 60, "its own time is not known")])
def test_where_no_plain_run_has_such_a_clock_this_is_said_and_not_that_none_is_as_fast(
        thresholds: Results, column: str, own: Any, others: Any, said: str) -> None:
    """The cost model's batch is 1 for both: there batch size, executor and device are no matter."""
    rows = by_the_clock(thresholds)
    rows[column] = [own if k > 1 else others for k in rows["k"]]
    table = plain_control.against_plain(thresholds, rows)
    reuse = table[table["k"] > 1]
    assert reuse["control"].eq("").all() and reuse["no_control"].eq(said).all()
    assert set(plain_control.as_text(table)["best plain as fast"]) == {"", said}
    lines = plain_control.sentences(table)
    assert len(lines) == len(reuse) and all(line.endswith(f"nothing to hold it against: {said}") for line in lines)
    predicted = plain_control.against_plain(thresholds, rows.assign(predicted_seconds=rows["seconds"], tokens=60))
    assert predicted["control"].ne("").sum() == 2 and predicted["relative_speed"].notna().all()


def test_verify_at_batch_1_is_held_against_plain_rows_of_a_larger_batch(tmp_path: Path) -> None:
    """As in params/policy_front.yml, whose `verify` runs one prompt at a time."""
    grid = Grid(experiment="x", output=str(tmp_path), limit=20, batch_size=8, configs=[
        {"k": 1, "threshold": 0.9}, {"k": 1, "threshold": 0.5}, {"k": 2, "policy": "verify", "batch_size": 1}])
    fill(grid)
    results = Results.of(grid)
    table = plain_control.against_plain(results, tables.grid_table(results)).set_index("k")
    assert table.loc[2, "batch_size"] == 1 and table.loc[1, "batch_size"].eq(8).all()
    assert table["relative_speed"].notna().all() and table.loc[2, "no_control"] in ("", plain_control.NONE_AS_FAST)


@pytest.mark.parametrize("predicts_reuse", [True, False])
def test_a_prediction_is_not_held_against_a_clock(thresholds: Results, predicts_reuse: bool) -> None:
    rows = by_the_clock(thresholds)
    rows["predicted_seconds"] = rows["seconds"].where((rows["k"] > 1) == predicts_reuse)
    table = plain_control.against_plain(thresholds, rows)
    assert table["control"].eq("").all()
    assert table["relative_speed"].notna().tolist() == (rows["k"] == 1).tolist()
    assert "prediction from the forwards or tokens/s by the clock" in plain_control.caption(table)
    assert "by the clock" not in plain_control.caption(rows.assign(predicted_seconds=rows["seconds"]))


def test_a_grid_of_one_threshold_has_no_control(results: Results, thresholds: Results) -> None:
    assert not plain_control.applies(tables.grid_table(results))
    rows = tables.grid_table(thresholds)
    assert plain_control.applies(rows)
    other = rows[(rows["k"] > 1) | (rows["threshold"] == 0.5)]
    assert plain_control.applies(other), "one plain threshold, and reuse at another"
    assert not plain_control.applies(rows[rows["k"] == 1]) and not plain_control.applies(rows[rows["k"] > 1])


def test_all_rows_and_columns_are_written_as_csv_and_parquet(thresholds: Results, tmp_path: Path) -> None:
    params = tmp_path / "front.json.yml"
    params.write_text(thresholds.grid.model_dump_json(exclude_defaults=True))
    text = command("grid", "table", params, "--csv", tmp_path / "new" / "t.csv", "--parquet", tmp_path / "t.parquet")
    assert "best plain as fast" in text and "6 rows" in text
    read = [pd.read_csv(tmp_path / "new" / "t.csv"), pd.read_parquet(tmp_path / "t.parquet")]
    for table in read:
        assert len(table) == 6 and {"accuracy", "nfe_small", "gain_low", "identity", "control"} <= set(table.columns)
        assert not set(tables.HERE) & set(table.columns)
    assert list(read[0].columns) == list(read[1].columns)
