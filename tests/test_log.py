"""The log that writes itself: entry, page, notes that stay, and the report command's files."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import page_support
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from report_support import fill

from fastdllm.display.claim import MOST_WORDS, words_before_fold
from fastdllm.lab import records
from fastdllm.lab.config.grid import Grid
from fastdllm.report import (
    cell_report,
    content,
    criteria,
    grid_report,
    log_entry,
    plain_control,
    results_page,
    tables,
    wrong_answers,
)
from fastdllm.report.audit.evidence import Finding
from fastdllm.report.results import Results

pytestmark = pytest.mark.usefixtures("warm_workers")


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    grid = Grid(experiment="x", output=str(tmp_path), limit=40, hypothesis="Reuse pays.", author="A. Author",
                axes={"k": [1, 2, 3], "layers": ["first", "middle", "last"]})
    fill(grid, only=lambda configuration: configuration.name != "k3_last")
    return grid


def test_an_entry_of_one_configuration_names_its_task(tmp_path: Path) -> None:
    grid = Grid(experiment="x", output=str(tmp_path), limit=40, axes={"k": [2, 3], "layers": ["middle"]})
    fill(grid, only=lambda configuration: configuration.name == "k2_middle")
    assert "- **Task**: arithmetic_limit_40\n" in log_entry.entry(content.Report.of(Results.of(grid)))


def test_entry_has_the_form_of_the_template(grid: Grid) -> None:
    text = log_entry.entry(content.Report.of(Results.of(grid)))
    lines = [line.split(":")[0] for line in text.splitlines()]
    assert lines == ["#### 2026-11-21 - x", "- **Task**", "- **Configuration**", "  - Layer Reuse",
                     "  - Layer Subset", "  - Other params", "- **Results**", "  - Accuracy",
                     "  - Throughput", "  - Speedup", "- **Notes**",
                     "- **Logs**"]
    assert "k=1/2/3" in text
    assert "k2_middle 92.50% (n=40, " in text


def test_page_says_everything_and_keeps_the_notes(grid: Grid) -> None:
    report = content.Report.of(Results.of(grid))
    path, *_ = results_page.write(report)
    text = path.read_text()
    for part in ("Reuse pays.", "A. Author", "## Verdict", "undecided", "Rule:", "Best configuration per benchmark",
                 "## Coverage", "arithmetic_limit_40/k3_last: pending", "too_few", "Holm over the grid",
                 results_page.NO_NOTES):
        assert part in text
    assert str(grid.directory) not in text  # no machine's paths
    path.write_text(text.replace(results_page.NO_NOTES, "Seen twice.\n\n- on two days"))
    results_page.write(report)
    results_page.write(report)
    assert path.read_text().count("Seen twice.\n\n- on two days") == 1


def test_the_answer_says_what_speeds_side_by_side_are_worth(grid: Grid) -> None:
    report = content.Report.of(Results.of(grid))
    found = [Finding("side_by_side", "note", ("a", "b"), "2 of 2 runs", "certain")]
    assert "hold for this run" not in results_page.page(replace(report, findings=found)), "a prediction needs no clock"
    timed = replace(report, findings=[], table=report.table.assign(speed_from="one run"))
    assert "speeds hold for this run" not in results_page.page(timed) and "timed once" in timed.answer
    beside = replace(timed, findings=found)
    assert "hold for this run" in results_page.page(beside) and "hold for this run" in results_page.summary_text(beside)


def test_what_is_said_of_several_configurations_is_said_once(grid: Grid) -> None:
    report = content.Report.of(Results.of(grid))
    lines = results_page.differences(report.table)
    assert [line.split(":")[0] for line in lines] == ["arithmetic k2 first, middle, last each",
                                                      "arithmetic k3 first, middle each"]
    assert results_page.differences(report.table.assign(computation=report.table["config"])) == lines


def test_a_report_begins_with_what_ran_when_where_and_on_what_code(grid: Grid) -> None:
    heading = content.Report.of(Results.of(grid)).heading
    record = Results.of(grid).records[0]
    assert heading.startswith("# x\n\nReuse pays.\n\n*2026-11-21; ")
    assert "arithmetic, rule strict; " in heading
    assert record.environment.device_name in heading and record.code.version in heading
    assert heading.index(record.environment.device_name) < heading.index("**Answer.**")


def test_an_answer_speaks_of_runs_side_by_side_where_it_holds_a_clocked_speed(grid: Grid) -> None:
    """Not where speeds are predicted, missing, or of executors that don't compare."""
    report, finding = content.Report.of(Results.of(grid)), Finding("side_by_side", "note", (), "", "")
    reuse = report.table["speed_from"] != "baseline"
    for speed_from, speedup, said in (("one run", 1.1, True), (tables.PREDICTED, 1.1, False),
                                      ("not compared: device A, baseline's B", math.nan, False)):
        table = report.table.assign(speed_from=report.table["speed_from"].mask(reuse, speed_from),
                                    speedup=report.table["speedup"].mask(reuse, speedup))
        answer = replace(report, table=table, findings=[finding]).answer
        assert ("side by side" in answer) == said


def test_a_report_holds_reuse_against_lowering_the_threshold_where_the_grid_has_both(grid: Grid,
                                                                                    tmp_path: Path) -> None:
    """On the page and in the notebook; a grid of one threshold says nothing of it."""
    control = Grid(experiment="control", output=str(tmp_path / "control"), limit=40, configs=[
        {"k": 1, "threshold": 0.9}, {"k": 1, "threshold": 0.5},
        *({"k": 2, "layers": "middle", "policy": policy, "threshold": 0.9} for policy in ("residual", "replay"))])
    fill(control)
    report = content.Report.of(Results.of(control))
    assert report.against_plain is not None
    lines = plain_control.sentences(report.against_plain)
    assert len(lines) == 2
    grid_report.write(control)
    html = BeautifulSoup((control.directory / "90_report.html").read_text(), "html.parser").get_text()
    for text in ((control.directory / "results.md").read_text(), html):
        assert "Against lowering the threshold" in text and "points won over it" in text
        assert all(line in text for line in lines)
    single = content.Report.of(Results.of(grid))
    assert single.against_plain is None and "Against lowering the threshold" not in results_page.page(single)


def test_a_page_without_its_marks_is_not_overwritten(grid: Grid) -> None:
    report = content.Report.of(Results.of(grid))
    path, *_ = results_page.write(report)
    path.write_text("my own page")
    with pytest.raises(ValueError, match="marks of the notes"):
        results_page.write(report)
    assert path.read_text() == "my own page"


def test_report_command_writes_notebook_html_page_and_entry(grid: Grid, capfd: pytest.CaptureFixture[str]) -> None:
    said = grid_report.write(grid)
    assert said.splitlines()[-1].endswith("90_report.html")
    assert "8 of 9 configurations complete" in said
    assert "arithmetic k2_middle   92.5 % of 40" in said
    kept = pd.read_csv(grid.directory / "results.csv").set_index("config")
    assert len(kept) == 8
    assert kept.loc["k2_middle", "accuracy"] == pytest.approx(0.925)
    assert str(grid.directory) not in (grid.directory / "results.csv").read_text()
    html = (grid.directory / "90_report.html").read_text()
    assert "k2_middle" in html
    assert html.count("<img ") == 1, "one figure"
    assert 'alt="Accuracy with interval, and cost, of 8 configurations' in html
    shown = BeautifulSoup(html, "html.parser").main.get_text()
    assert "Out[" not in shown and "In [" not in shown
    assert "log entry:" not in shown, "what the command prints is no part of the page"
    assert html.index("Answer.") < html.index("Accuracy with interval")
    assert "IPKernelApp" not in capfd.readouterr().err
    assert 'src="http' not in html
    assert "Traceback" not in html
    cells = json.loads((grid.directory / "90_report.ipynb").read_text())["cells"]
    assert [fault for shown in page_support.tables(cells) for fault in page_support.bare(shown)] == []
    verdict = "".join(cells[-1]["outputs"][0]["data"]["text/markdown"])
    assert verdict.startswith("**Undecided.** Open: 5 of 5; not complete: 1")
    answer = content.Report.of(Results.of(grid)).answer
    assert shown.count(answer) == 1 and (grid.directory / "results.md").read_text().count(answer) == 1
    assert "fastdllm explore x/arithmetic_limit_40/k2_middle --problem" in shown
    assert words_before_fold(verdict) <= MOST_WORDS
    assert {path.name for path in grid.directory.iterdir() if path.is_file()} == {
        "grid.json", "results.md", "results.csv", "log_entry.md", "90_report.ipynb", "90_report.html"}


def test_wrong_answers_lead_to_their_player(grid: Grid) -> None:
    """Those of configurations whose answers are kept; the command is the one that their own page prints."""
    for name in ("k3_first", "k3_middle"):
        (grid.directory / "arithmetic_limit_40" / name / records.SAMPLES).unlink()
    table = wrong_answers.table(Results.of(grid)).set_index("config")
    assert list(table.index) == ["k1_first", "k1_middle", "k1_last", "k2_first", "k2_middle", "k2_last"]
    home = grid.directory / "arithmetic_limit_40" / "k2_last"
    samples = records.samples(home)
    wrong = [row["id"] for row in samples.to_dict("records") if not row["correct"]["strict"]]
    row = table.loc["k2_last"]
    assert row["wrong"] == f"{len(wrong)} of 40" and row["problems"].split(", ") == wrong[:3]
    command = row["step by step"].strip("`")
    assert command.endswith(f"k2_last --problem {wrong[0]}")
    assert command in cell_report.samples_html(records.read(home), samples)
    assert command in results_page.page(content.Report.of(Results.of(grid)))


def test_where_no_wrong_answer_is_known_none_is_shown(tmp_path: Path) -> None:
    right = Grid(experiment="x", output=str(tmp_path), limit=4, axes={"k": [1, 2], "layers": ["first"]})
    fill(right, lambda configuration: (1.0, 0.02, 60))
    assert wrong_answers.shown(Results.of(right)) is None
    assert "fastdllm explore" not in results_page.page(content.Report.of(Results.of(right)))


def test_the_verdict_of_a_grid_of_many_good_configurations_stays_short(grid: Grid) -> None:
    report = content.Report.of(Results.of(grid))
    good = pd.concat([report.table.assign(
        config=report.table["config"] + f"_b{i}", k=2, state="complete", speedup=1.5, speed_low=1.4, speed_high=1.6,
        lost=1.0, lost_low=0.5, lost_high=1.5) for i in range(9)])
    text = results_page.verdict_text(replace(report, verdict=criteria.judge_table(good, grid.criteria)))
    assert text.startswith("**Confirmed.** ") and f"{len(good) - criteria.NAMED} more." in text
    assert words_before_fold(text) <= MOST_WORDS


def test_a_grid_without_records_is_refused(tmp_path: Path) -> None:
    empty = Grid(experiment="x", output=str(tmp_path), limit=4, axes={"k": [1]})
    with pytest.raises(ValueError, match="no configuration has a record"):
        grid_report.write(empty)
    with pytest.raises(ValueError, match=r"grid\.json"):
        Results.read(tmp_path)
