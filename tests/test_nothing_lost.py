"""Nothing is overwritten by a smaller run, nothing disappears from sight, and an interrupted run says what it kept."""

import json
import os
import re
import shlex
import signal
import subprocess
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from lab_support import ROOT, checkpoint, command, invoke, params
from report_support import fill
from share_support import REPO

from fastdllm.cli.grid import options_text, read
from fastdllm.lab import records
from fastdllm.lab.config import grid_file
from fastdllm.lab.config.grid import GRID_FILE, Grid
from fastdllm.lab.jobs import status
from fastdllm.lab.records import locks
from fastdllm.report import content, results_page
from fastdllm.report.results import Results
from fastdllm.share import gallery, inventory


@pytest.fixture
def study(tmp_path):
    """A params file with two tasks, its output below tmp_path."""
    path = tmp_path / "study.yml"
    path.write_text(json.dumps({"experiment": "study", "output": str(tmp_path / "executed"), "limit": 20, "axes": {
        "task": ["arithmetic", "two_step"], "k": [1, 2], "layers": ["middle"]}}))
    return path


PARTS = [{}, {"limit": 2}, {"task": "two_step"}, {"task": "two_step", "limit": 2}, {"changes": ["batch_size=4"]},
         {"changes": ["batch_size=8"]}]


def meant(path, task=None, limit=None, changes=None):
    return read(str(path), task, limit, None, changes)[0]


def test_each_part_of_a_grid_has_a_report_of_its_own(study):
    places = [meant(study, **part).report_directory for part in PARTS]
    assert len(set(places)) == len(PARTS)
    assert places[0] == meant(study).directory
    assert places[1].name == "limit_2" and places[2].name == "two_step"


def test_the_report_of_a_part_leaves_that_of_the_whole_as_it_was(study):
    whole, small = meant(study), meant(study, limit=3)
    for grid in (whole, small):
        fill(grid)
        results_page.write(content.Report.of(Results.read(grid.save())))
    assert "20" in (whole.directory / results_page.PAGE).read_text()
    pages = {path.relative_to(whole.directory).as_posix() for path in whole.directory.rglob(results_page.PAGE)}
    assert pages == {"results.md", "reports/limit_3/results.md"}
    again = Results.read(small.report_directory)
    assert {record.n for record in again.records} == {3}
    assert {record.n for record in Results.read(whole.directory).records} == {20}


def test_a_report_of_one_task_holds_that_task_alone(study):
    grid = meant(study, task="two_step")
    assert {configuration.task for configuration in grid.of_task("two_step").configurations()} == {"two_step"}
    listed = Grid(experiment="x", task="arithmetic", configs=[{"k": 1}, {"k": 1, "task": "two_step"}])
    assert [configuration.task for configuration in listed.of_task("two_step").configurations()] == ["two_step"]


def test_a_part_stays_the_part_where_a_job_reads_it_again(study, tmp_path):
    grid = meant(study, limit=2)
    copy = tmp_path / "submitted.yml"
    copy.write_text(json.dumps(grid.model_dump(mode="json", exclude_defaults=True)))
    assert grid_file.load(copy).report_directory == grid.report_directory
    assert json.loads((grid.save() / GRID_FILE).read_text())["part"] == "limit_2"


@pytest.mark.parametrize("options", [{}, {"limit": 3}, {"task": "two_step", "limit": 3},
                                     {"changes": ["axes.k=[1,2,3]", "reuse.policy=residual"], "config": ["k2_middle"]}])
def test_the_options_that_are_printed_mean_the_same_configurations(study, options):
    given = {"task": None, "limit": None, "config": None, "changes": None, **options}
    words = shlex.split(options_text(str(study), **given))
    _, text = invoke("grid", "status", *words)
    for configuration in read(str(study), **given)[1]:
        assert configuration.name in text
    assert f"/ {len(read(str(study), **given)[1])}" in text


def test_what_ran_and_what_ships_stand_beside_each_other(tmp_path):
    for name in ("demo", "published/demo", "published/notebooks", "own"):
        (tmp_path / name).mkdir(parents=True)
    every = inventory.experiments(tmp_path)
    assert [(each.key, each.shipped) for each in every] == [
        ("demo", False), ("own", False), ("published/demo", True), ("published/notebooks", True)]
    assert [each.key for each in inventory.experiments(tmp_path, ["demo", "notebooks", "published/demo"])] == [
        "demo", "published/notebooks", "published/demo"]
    with pytest.raises(ValueError, match="did you mean demo"):
        inventory.experiments(tmp_path, ["dmo"])


def test_the_gallery_shows_a_shipped_experiment_beside_ones_own(tmp_path):
    fill(Grid(experiment="demo", output=str(tmp_path), limit=5, axes={"k": [1], "layers": ["middle"]}))
    fill(Grid(experiment="demo", output=str(tmp_path / "published"), limit=7, axes={"k": [1], "layers": ["middle"]}))
    site = gallery.build(folder=tmp_path)
    page = site.index.read_text()
    assert page.count("run here") == page.count("shipped with the project") == 1
    for address in ("cells/demo/arithmetic_limit_5", "cells/published/demo/arithmetic_limit_7"):
        assert f"{address}/k1_middle/summary.json" in page and (site.folder / address).is_dir()


def test_an_interrupted_run_says_how_many_samples_it_kept(tmp_path, executable, warm_workers):
    """Ctrl-C in the middle of a configuration: what is on disk is counted, and the same command goes on."""
    file = params(tmp_path / "run.yml", checkpoint(tmp_path / "model"), limit=400, batch_size=1)
    process = subprocess.Popen([executable, "-m", "fastdllm", "grid", "run", str(file)], cwd=tmp_path, text=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    configurations = grid_file.load(file).configurations()
    until = time.monotonic() + 240
    while status.kept(configurations[:1])[0] not in "123456789" and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    least, kept, total = re.search(r"interrupted; (at least )?(\d+) of (\d+) samples kept", said).groups()
    # k = 1 and k = 2 with two subsets, k = 1 shared: three computations
    assert 0 < int(kept) < int(total) == 3 * 400
    assert "the same command goes on" in said
    on_disk = int(status.kept(configurations, 60).split(" ")[0])
    assert on_disk >= int(kept) and (least or on_disk == int(kept)), "what was said is what is there"


def test_while_a_kernel_is_still_at_work_what_is_kept_is_a_least_number(tmp_path):
    grid = Grid(experiment="x", output=str(tmp_path), limit=5, axes={"k": [1, 2], "layers": ["middle"]})
    fill(grid, only=lambda configuration: configuration.parameters.reuse.k == 1)
    directory = next(each.directory for each in grid.configurations() if each.parameters.reuse.k == 2)
    with locks.lock(directory / locks.SAMPLES):
        assert status.kept(grid.configurations()) == "at least 5 of 10 samples kept; the same command goes on"
    with ExitStack() as kernel:
        kernel.enter_context(locks.lock(directory / locks.SAMPLES))
        ends = threading.Timer(0.2, kernel.close)
        ends.start()
        assert status.kept(grid.configurations(), wait=60) == "5 of 10 samples kept; the same command goes on"
        ends.join()


@pytest.mark.parametrize(("arguments", "work", "kept"), [
    (("run", "00_tour"), "fastdllm.lab.jobs.notebook_run.run_notebook", "samples of the grids"),
    (("notebooks", "--smoke"), "fastdllm.lab.jobs.suite.run", "what was executed to its end"),
    (("grid", "report", "demo"), "fastdllm.report.grid_report.write", "all records"),
    (("report", "demo/k1_first"), "fastdllm.report.grid_report.write_of_records", "all records"),
    (("train", "--recipe", "smoke", "--out", "x"), "fastdllm.train.loop.train", "what was saved")])
def test_what_takes_long_says_at_ctrl_c_what_is_kept(arguments, work, kept, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt
    monkeypatch.setattr(work, stopped)
    monkeypatch.setattr("fastdllm.report.comparison.sides.record_directory", Path)
    status, text = invoke(*arguments)
    assert status != 0
    assert kept in text and "the same command" in text, text


def test_a_finished_run_counts_as_kept_whole(tmp_path):
    grid = Grid(experiment="x", output=str(tmp_path), limit=5, axes={"k": [1, 2], "layers": ["middle"]})
    assert status.kept(grid.configurations()) == "the same command begins again"
    fill(grid, only=lambda configuration: configuration.parameters.reuse.k == 1)
    assert status.kept(grid.configurations()) == "5 of 10 samples kept; the same command goes on"
    damaged = next(each for each in grid.configurations() if each.parameters.reuse.k == 1)
    (damaged.directory / records.SUMMARY).write_text("{")
    assert status.kept(grid.configurations()) == "the same command begins again"


def test_of_an_unknown_grid_nothing_is_made(tmp_path):
    assert "no such file" in command("grid", "report", tmp_path / "none.yml", code=1)


def test_configurations_stand_in_the_grids_order_and_else_as_one_counts():
    shelf = REPO / "executed" / "published"
    sweep = inventory.configuration_states(shelf / "batch_sweep")
    assert [state.configuration.name for state in sweep][:3] == ["k1_b1", "k1_b8", "k1_b32"]
    demo = inventory.configuration_states(shelf / "demo", grid=inventory.grid_of("demo"))
    assert [state.configuration.name for state in demo] == [
        f"k{k}_{layers}" for k in (1, 2, 3) for layers in ("first", "middle", "last")]
    assert sorted(["t0.51", "t0.5", "t1.0", "b16_x", "b4"], key=inventory.natural_key) == [
        "b4", "b16_x", "t0.5", "t0.51", "t1.0"]
