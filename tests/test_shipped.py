"""Shipped records: read by their own settings, later ones before earlier ones, nothing guessed, nothing started."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lab_support import DATE, command
from report_support import fill, ship, shipped_of

from fastdllm.lab import atomic, records
from fastdllm.lab.config import grid_file
from fastdllm.lab.config.grid import Grid
from fastdllm.lab.jobs.status import states
from fastdllm.lab.records.provenance import Code
from fastdllm.report import content, grid_report, log_entry, results_page, shipped, shipped_beside, tables
from fastdllm.report.results import Results

ROOT = Path(__file__).parent.parent
AXES = {"k": [1, 2], "layers": ["first", "middle"]}


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    made = Grid(experiment="made", output=str(tmp_path_factory.mktemp("grid") / "executed"), limit=12, axes=AXES)
    fill(made)
    return made


@pytest.fixture
def home(grid, tmp_path):
    ship(grid, tmp_path / "shipped")
    return tmp_path / "shipped"


def test_one_row_a_computation_with_the_answers_of_each_problem(home, grid):
    table = shipped.read(home)
    assert table.frame[["k", "layers"]].apply(tuple, axis=1).tolist() == [(1, "first"), (2, "first"), (2, "middle")]
    for configuration in grid.configurations():
        if configuration.name == "k1_middle":       # k1_first under another name
            continue
        record = records.read(configuration.directory)
        path = table.frame.loc[table.frame["config"] == configuration.name, "path"].iloc[0]
        assert table.right(path).sum() == record.headline.correct
        assert table.problems[path]["tokens"].sum() == record.tokens
        assert table.problems[path]["forwards"].sum() == record.forwards
        samples = records.samples(configuration.directory)
        assert table.right(path).tolist() == [int(each["strict"]) for each in samples["correct"]]
    same = table.frame.set_index(["k", "layers"])["computed"]
    assert same[(2, "first")] == same[(2, "middle")]      # what is filled in depends on k alone


def test_settings_come_from_the_summary_whatever_the_directory_is_called(home):
    before = shipped.read(home).frame
    (home / "made").rename(home / "elsewhere")
    (home / "elsewhere" / "arithmetic_limit_12" / "k2_first").rename(home / "elsewhere" / "k3_last")
    after = shipped.read(home).frame
    assert sorted(after["k"]) == sorted(before["k"])
    assert after.set_index("layers")["accuracy"].drop("first").tolist() == (
        before.set_index("layers")["accuracy"].drop("first").tolist())


def test_the_later_of_two_records_of_one_configuration_counts(home, grid, tmp_path):
    second = Grid(experiment="again", output=str(tmp_path / "executed"), limit=12, axes={"k": [2], "layers": ["first"]})
    fill(second, lambda _: (0.25, 0.5, 40))
    for day, expected in (("2026-11-20", 11), ("2026-11-25", 3)):
        ship(second, home, date=f"{day}{DATE[10:]}")
        frame = shipped.read(home).frame
        assert frame[(frame["k"] == 2) & (frame["layers"] == "first")]["correct"].tolist() == [expected], day
    assert len(frame) == 3
    assert frame.set_index(["k", "layers"])["computed"].loc[2].nunique() == 2      # no longer one computation


def test_selection_by_columns_and_a_label_of_commit_card_and_day(home, grid):
    ship(grid, home / "committed", code=Code(version="0", hash="f" * 64, commit="0123456789", dirty=True),
         date="2026-12-01T00:00:00+00:00")
    table = shipped.read(home)
    assert table.where(k=[2]).frame["layers"].tolist() == ["first", "middle"]
    assert set(table.where(k=2, layers="middle").problems) == set(table.where(k=2, layers="middle").frame["path"])
    of = f"shipped records; n = {table.frame.n.max()}; rule strict"
    assert shipped.label(table.frame) == f"{of}; commit 0123456, changed; cpu; 2026-12-01"
    ship(grid, home / "committed", code=Code(version="0", hash="f" * 64), date="2026-12-02T00:00:00+00:00")
    assert shipped.label(shipped.read(home).frame).startswith(
        f"{of}; code fffffff (its commit was not recorded); cpu; ")
    with pytest.raises(ValueError, match=r"treshold: no column of shipped records; allowed: .*threshold"):
        table.where(treshold=0.9)


def test_nothing_shipped_is_no_error_and_says_so(tmp_path):
    for folder, words in ((tmp_path / "none", "no such folder"), (tmp_path, "there is none")):
        table = shipped.read(folder)
        assert words in table.origin
        assert table.where(k=2).frame.empty
        assert shipped.label(table.frame) == "nothing shipped"


@pytest.mark.parametrize(("broken", "words"), [
    (lambda text: text.replace("forwards", "steps"), "forwards: no such column; allowed: id, right, tokens, forwards"),
    (lambda text: text.replace(",1,", ",7,", 1), "line 2: right=7; allowed: 0 or 1"),
    (lambda text: text.replace(",1,", ",yes,", 1), "line 2: right='yes'; allowed: a whole number"),
    (lambda text: text.replace(",1,", ",0,", 1), "right: 10 in all; allowed: 11, as summary.json has it"),
    (lambda text: text.rsplit("\n", 2)[0] + "\n", "11 problems; allowed: n=12, as summary.json has it"),
], ids=["column", "value", "word", "sum", "problem missing"])
def test_what_does_not_agree_is_refused_with_file_and_field(home, broken, words):
    path = home / "made" / "arithmetic_limit_12" / "k2_first" / "problems.csv"
    lines = path.read_text().splitlines(keepends=True)
    first = next(index for index, line in enumerate(lines) if ",1," in line)
    lines[1], lines[first] = lines[first], lines[1]      # a solved problem first
    path.write_text(broken("".join(lines)))
    with pytest.raises(ValueError) as error:
        shipped.read(home)
    assert str(error.value) == f"{path}: {words}"


def test_a_damaged_or_missing_summary_is_refused_with_its_file(home):
    path = home / "made" / "arithmetic_limit_12" / "k2_first" / "summary.json"
    record = json.loads(path.read_text())
    del record["checksum"]
    record["n"] = "many"
    record["checksum"] = atomic.sha256(atomic.canonical(record))
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"summary\.json: .*n='many'; allowed: a whole number"):
        shipped.read(home)
    path.unlink()
    with pytest.raises(ValueError, match=r"summary\.json: missing"):
        shipped.read(home)


def test_what_does_not_ship_is_named_with_a_command_and_is_not_started(home, tmp_path):
    shutil.rmtree(home / "made" / "arithmetic_limit_12" / "k2_middle")
    params = tmp_path / "made.yml"
    params.write_text(f"experiment: made\noutput: {tmp_path / 'new'}\nlimit: 12\n"
                      "axes: {k: [1, 2], layers: [first, middle]}\n")
    absent = shipped.missing(shipped.read(home), [str(params)])
    assert absent[["k", "layers", "state"]].to_numpy().tolist() == [[2, "middle", "not run"]]
    assert absent["command"].tolist() == [f"fastdllm grid run {params} --task arithmetic --config k2_middle"]
    assert "1 of" in shipped.not_run(absent) and not shipped.not_run(absent.iloc[:0])
    assert not (tmp_path / "new").exists()


def test_the_records_that_ship_agree_with_themselves_and_count_as_nothing_done():
    table = shipped.read(ROOT / "executed" / "published")
    assert len(table.frame) >= 7
    for row in table.frame.itertuples():
        assert np.isclose(table.right(row.path).mean(), row.accuracy)
        assert row.status == "shipped"
    for name in shipped.GRIDS:
        assert not [state for state in states(grid_file.load(name).configurations()) if state.state == "complete"]


@pytest.fixture(scope="module")
def real_one(tmp_path_factory):
    """Results of a small grid, k=1 and k=2 middle and last, as if its model were the one whose records ship."""
    made = Grid(experiment="small", output=str(tmp_path_factory.mktemp("small") / "executed"), limit=4,
                revision="26d6179", dtype="float32", axes={"k": [1, 2], "layers": ["middle", "last"]})
    fill(made)
    results = Results.of(made)
    return Results(made, [replace(state, record=state.record.model_copy(update={
        "checkpoint": state.record.checkpoint.model_copy(update={"name": "smol"})})) for state in results.states])


def test_below_a_grid_stand_the_shipped_records_of_its_model_and_settings(real_one):
    cells = {("26d6179", 1, "first"): [1, 1, 1, 0, 0], ("26d6179", 2, "middle"): [1, 1, 0, 0, 0],
             ("26d6179", 2, "first"): [0, 0, 0, 0, 0], ("6c8822f", 2, "middle"): [0, 0, 0, 0, 1],
             ("26d6179", 3, "middle"): [0, 0, 0, 0, 0]}
    text = shipped_beside.markdown(real_one, shipped_of(cells))
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| gsm8k")]
    assert [line[:4] for line in lines] == [["gsm8k_words", "k1", "60.0 (23.1 to 88.2)", "3 of 5"],
                                            ["gsm8k_words", "k2 middle", "40.0 (11.8 to 76.9)", "2 of 5"]]
    assert {line[-1] for line in lines} == {"a card, 2026-11-25, commit 0123456"}
    assert "not shipped" not in text
    without = shipped_beside.markdown(real_one, shipped_of({key: cells[key] for key in list(cells)[:1]}))
    assert "not shipped: gsm8k_words k=2" in without


@pytest.mark.parametrize("other", [{"threshold": 1.0}, {"dtype": "float16"}, {"limit": 300}, {"model": "tiny"},
                                   {"task": "multiarith_words"}, {"engine": "autoregressive"}], ids=str)
def test_what_differs_is_not_put_below_a_grid_and_its_absence_is_one_line(real_one, other):
    text = shipped_beside.markdown(real_one, shipped_of({("26d6179", 1, "first"): [1, 1, 0, 0, 0]}, **other))
    assert "\n" not in text and text.startswith("GSM8K, all problems: no shipped record at this grid's settings (")
    assert "`gsm8k_smol`" in text


def test_where_nothing_ships_the_line_says_so_and_another_model_has_none(real_one, grid, tmp_path):
    assert "no such folder" in shipped_beside.markdown(real_one, shipped.read(tmp_path / "none"))
    assert shipped_beside.markdown(Results.of(grid)) == ""
    assert "The same model on GSM8K" not in results_page.page(content.Report.of(Results.of(grid)))


def test_the_page_of_a_report_has_what_ships_of_its_model(real_one):
    page = results_page.page(content.Report.of(real_one))
    assert "## The same model on GSM8K\n\n| " in page
    for task in ("gsm8k_words", "gsm8k_equations"):
        assert f"| {task} | k1 | " in page and f"| {task} | k2 middle | " in page
    assert " of 1319 | strict | NVIDIA H100" in page


@pytest.fixture
def cloned(tmp_path, monkeypatch):
    """A grid whose records ship and that never ran here, as in a fresh clone."""
    monkeypatch.setenv("FASTDLLM_HOME", str(tmp_path))
    made = Grid(experiment="made", limit=12, axes=AXES)
    fill(made)
    ship(made, tmp_path / "executed" / "published")
    ran = Results.of(made)
    frame = tables.grid_table(ran)
    shutil.rmtree(made.directory)
    return made, frame


def test_a_grid_that_never_ran_here_shows_what_ships_and_says_so(cloned, tmp_path):
    grid, ran = cloned
    results = Results.own_or_shipped(grid)
    record = results.records[0]
    assert "No run of made here yet" in results.shipped and shipped.code(record) in results.shipped
    assert "executed/published/made" in results.shipped and "`fastdllm grid run made`" in results.shipped
    columns = ["config", "accuracy", "n", "lost", "lost_low", "lost_high", "p", "nfe", "k"]
    pd.testing.assert_frame_equal(tables.grid_table(results)[columns], ran[columns])
    params = tmp_path / "made.yml"
    params.write_text(grid.model_dump_json(exclude_defaults=True))
    assert command("grid", "table", params).startswith(f"{results.shipped}\n\n| config |")
    report = content.Report.of(results)
    for text in (report.heading, results_page.page(report), results_page.summary_text(report)):
        assert text.count(results.shipped) == 1
    assert "executed/published/made/arithmetic_limit_12`" in log_entry.entry(report)
    assert "made/arithmetic_limit_12/k2_first --problem" in results_page.page(report)
    said = command("grid", "report", params)
    assert results.shipped in said and (grid.directory / "90_report.html").exists()
    assert command("grid", "status", params, code=1).count("pending") == len(grid.configurations())


def test_one_own_record_is_enough_to_show_no_shipped_ones(cloned):
    grid, _ = cloned
    fill(grid, only=lambda configuration: configuration.name == "k1_first")
    results = Results.own_or_shipped(grid)
    assert results.shipped == "" and [record.config for record in results.records] == ["k1_first"]


@pytest.mark.parametrize("changes", [{"limit": 11}, {"batch_size": 3}, {"decoding": {"threshold": 0.5}}])
def test_shipped_records_of_other_settings_are_not_those_of_a_grid(cloned, changes):
    other = cloned[0].model_copy(update=changes)
    assert not Results.own_or_shipped(other).recorded
    with pytest.raises(ValueError, match="no configuration has a record, and none with these settings ships"):
        grid_report.write(other)


def test_points_lost_are_paired_only_where_single_answers_are_kept(cloned):
    grid, _ = cloned
    assert "paired over the same problems" in content.caption(tables.grid_table(Results.own_or_shipped(grid)))
    for path in shipped.home(grid).rglob(shipped.PROBLEMS):
        path.unlink()
    table = tables.grid_table(Results.own_or_shipped(grid))
    assert table["lost_low"].notna().any() and "paired over" not in content.caption(table)
