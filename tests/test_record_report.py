"""`fastdllm report`: the page of a grid's report for what `fastdllm run` made."""

import re

import pandas as pd
import pytest
from lab_support import command, invoke
from report_support import fill

from fastdllm.lab.config.grid import Grid
from fastdllm.lab.config.paths import root
from fastdllm.report.results import Results


@pytest.fixture(scope="module")
def ran(tmp_path_factory, programs, warm_workers):
    """A project in which two configurations were run, one by one, and reported; what the commands said."""
    home = tmp_path_factory.mktemp("home")
    limits = ("--limit", "3", "--set", "max_new_tokens=32")
    said = [programs.fastdllm("run", *limits, *words, cwd=home, FASTDLLM_HOME=str(home))
            for words in ((), ("--k", "2", "--layers", "middle"))]
    assert [each.returncode for each in said] == [0, 0], said
    offered = [re.search(r"its report: fastdllm report (\S+)", each.stdout)[1] for each in said]
    report = programs.fastdllm("report", *offered, cwd=home, FASTDLLM_HOME=str(home))
    assert report.returncode == 0, report
    return home, report.stdout


def test_runs_are_reported_as_a_grid_is(ran):
    home, said = ran
    page = home / re.search(r"^report: (.+)$", said, re.M)[1]
    body = page.read_text(encoding="utf-8")
    assert "<h1" in body and "Coverage" in body and "Audit" in body
    table = pd.read_csv(page.parent / "results.csv")
    assert table["k"].tolist() == [1, 2] and table["n"].tolist() == [3, 3]
    assert table["lost"].notna().iloc[1], "k=1, run by itself, is the baseline of k=2"
    assert page.parent.parent == home / "executed" / "single" / "reports"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project in which two grids have records."""
    monkeypatch.setenv("FASTDLLM_HOME", str(tmp_path))
    for name in ("one", "two"):
        grid = Grid(experiment=name, output=str(tmp_path / "executed"), limit=20,
                    axes={"k": [1, 2], "layers": ["middle"]})
        fill(grid, lambda c: (0.9, 0.02, 60))
    return tmp_path / "executed"


def test_records_of_several_experiments_are_one_report(project):
    directories = [project / name / "arithmetic_limit_20" / "k2_middle" for name in ("one", "two")]
    results = Results.of_records(directories)
    assert [record.experiment for record in results.records] == ["one", "two"]
    assert results.grid.report_directory.parent == root() / "executed" / "records" / "reports"
    many = Results.of_records(directories * 9).grid.report_directory
    assert len(many.name) < 130 and many != results.grid.report_directory


@pytest.mark.parametrize(("name", "message"), [
    ("one/k9", "no such record"), (".", "no summary.json of a run"), ("feb15_run1/k1_first", "figures of the log")])
def test_what_is_no_record_of_a_run_is_refused(name, message, project, monkeypatch):
    monkeypatch.chdir(project)
    assert message in invoke("report", name)[1]


def test_the_help_leads_from_a_run_to_its_report():
    assert "fastdllm run" in command("report", "--help")
