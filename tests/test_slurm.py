"""Grids on a real Slurm: two nodes on this host. The slow ones are submitted first, so that waiting is shared.

The configurations run a notebook that has the parameters of notebooks/10_cell.ipynb and computes, but draws nothing.
All jobs but the one that outlives its time limit run a Python that starts with everything imported.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import lab_support
import pytest
import warm_python
from share_support import SECRETS, notebook
from slurm import cluster

from fastdllm.lab import records
from fastdllm.lab.config import grid_file
from fastdllm.lab.jobs import slurm, submission
from fastdllm.lab.jobs import status as states
from fastdllm.lab.jobs.status import ConfigurationState
from fastdllm.lab.records import journal

pytestmark = [pytest.mark.skipif(bool(cluster.missing()), reason=cluster.missing()), pytest.mark.timeout(900)]
HERE = Path(__file__).parent / "slurm"
LIMITED = 60          # problems of the configuration that outlives its time limit
TOLD = "told"         # file that the shards wait for
PATIENCE = 400.0      # seconds that a loaded machine may take for the whole story


def fastdllm(*arguments: str, ok: bool = True) -> str:
    """Run a command as a user would; its output."""
    code, text = lab_support.invoke(*arguments)
    assert (code == 0) is ok, text
    return text


@dataclass
class Story:
    """Everything that was submitted."""

    directory: Path
    files: dict[str, Path]
    run: Path
    foreign: int
    said: str       # by `grid submit --limit 60`

    def look(self, name: str) -> dict[str, ConfigurationState]:
        grid = grid_file.load(self.files[name])
        return {
            each.configuration.name: each
            for each in states.states(grid.configurations(), jobs=submission.cell_jobs(grid.directory))
        }

    def until_begun(self, name: str) -> None:
        """Until the first sample of its only configuration is on disk."""
        def begun():
            [state] = self.look(name).values()
            assert state.state in ("queued", "running"), f"{state.state}: {state.detail}"
            return re.search(r"; [1-9]\d* of", state.detail)
        cluster.wait(begun, PATIENCE, 1.0)

    def until_over(self, name: str) -> dict[str, ConfigurationState]:
        def through():
            seen = self.look(name)
            return seen if all(each.state not in ("queued", "running") for each in seen.values()) else None
        return cluster.wait(through, PATIENCE, 1.0)

    def log(self, name: str, config: str) -> str:
        grid = grid_file.load(self.files[name])
        configuration = next(configuration for configuration in grid.configurations() if configuration.name == config)
        path = submission.job_log(grid.directory, configuration.path)
        assert path is not None
        return path.read_text()


@pytest.fixture(scope="module")
def story(tmp_path_factory, executable, warm_kernels):
    directory = tmp_path_factory.mktemp("grids")
    model = lab_support.checkpoint(directory / "model")
    computing = lab_support.computing_notebook(directory / "configuration.ipynb")
    common = {"time": "10", "cpus": 1, "throttle": 2, "signal_seconds": 30}
    slow, first, waits = ({"axes": {}, "configs": [{"k": 2, "layers": "middle", "policy": str(HERE / policy)}],
                           "batch_size": 1} for policy in ("slow.py", "slow_at_first.py", "waits.py"))
    array = {"axes": {"k": [1, 2], "layers": ["middle", "last"]}, "limit": 1}
    settings = {
        # The signal comes 90 to 150 seconds after the start, which takes 20 to 60; so many problems sleep for longer.
        "limited": first | {"limit": LIMITED, "slurm": common | {"time": "4", "signal_seconds": 90,
                                                                 "partition": "second"}},
        "node": slow | {"limit": 6, "slurm": common}, "cancelled": slow | {"limit": 30, "slurm": common},
        "broken": {"axes": {}, "limit": 2, "configs": [{"k": 1}, {"k": 2, "layers": "middle",
                                                                  "policy": str(HERE / "fails.py")}],
                   "slurm": common},
        "array": array | {"slurm": common},
        # 24 problems in three shards that go on when they are told: one is killed, one is put back into the queue
        "shards": waits | {"limit": 24, "shards": 3, "slurm": common | {"throttle": 3}},
        "unfit": {"axes": {}, "configs": [{"k": 1}], "device": "cuda", "dtype": "float32", "slurm": common}}
    with pytest.MonkeyPatch.context() as patch, cluster.slurm() as run:
        for name, value in {**SECRETS, "OMP_NUM_THREADS": "1", "FASTDLLM_TEST_TOLD": str(directory / TOLD)}.items():
            patch.setenv(name, value)       # sbatch hands the environment on
        files = {name: lab_support.params(directory / f"{name}.yml", model, notebook=str(computing), **values)
                 for name, values in settings.items()}
        foreign = slurm.submit(HERE / "foreign.sh", f"--output={directory}/foreign.log")
        said = fastdllm("grid", "submit", str(files["limited"]), "--limit", str(LIMITED))
        patch.setattr(sys, "executable", executable)
        patch.setenv(warm_python.EXECUTABLE, executable)
        for name in ("cancelled", "unfit"):
            fastdllm("grid", "submit", str(files[name]))
        yield Story(directory, files, run, foreign, said)


def submit(story, name, *options):
    """Submit a grid, unless a test before did."""
    if not submission.submissions(story.directory / "executed" / name):
        fastdllm("grid", "submit", str(story.files[name]), *options)


def test_submit_says_how_to_follow_what_was_submitted(story):
    [command] = re.findall(rf"follow it with: fastdllm (grid status .* --limit {LIMITED})\n", story.said)
    assert f"Experiment Status: limited / arithmetic_limit_{LIMITED}" in fastdllm(*shlex.split(command), ok=False)


def test_cancel_takes_this_grids_jobs_and_no_others(story):
    story.until_begun("cancelled")
    note = submission.submissions(story.directory / "executed" / "cancelled")[-1]
    assert str(note.job) in fastdllm("grid", "cancel", str(story.files["cancelled"]))
    state = story.until_over("cancelled")["k2_middle_slow"]
    assert state.state == "partial"
    assert re.search(r"[1-9]\d* of 30.*CANCELLED", state.detail), state.detail
    assert slurm.jobs([story.foreign])[story.foreign, None].running
    assert all(not job.over for (number, _), job in slurm.jobs([n.job for n in submission.submissions(
        story.directory / "executed" / "limited")]).items()), "another grid's job was cancelled"


def test_a_node_that_goes_down_gives_its_cell_to_another(story):
    submit(story, "node")
    story.until_begun("node")
    job = submission.cell_jobs(story.directory / "executed" / "node")["arithmetic_limit_6/k2_middle_slow"]
    cluster.kill_node(story.run, job.node)
    state = story.until_over("node")["k2_middle_slow"]
    assert state.state == "complete"
    assert state.record is not None
    assert state.record.sessions == 2
    assert state.record.environment.node != job.node
    assert len(records.samples(state.configuration.directory)["id"].unique()) == 6


def test_a_grid_through_an_array(story):
    submit(story, "broken", "--dependency")
    submit(story, "array")
    cells = story.until_over("array")
    assert {each.state for each in cells.values()} == {"complete"}
    assert len(cells) == 4
    note = submission.submissions(story.directory / "executed" / "array")[-1]
    assert len(note.tasks) == 3, "k=1 is one computation under two names"
    jobs = {each.record.environment.slurm_job for each in cells.values() if each.record}
    assert jobs == {f"{note.job}_{index}" for index in range(3)}
    assert fastdllm("grid", "status", str(story.files["array"])).rstrip().splitlines()[-2] == "Completed: 4 / 4"
    log = fastdllm("grid", "logs", str(story.files["array"]), "k2_middle")
    assert f"==> {cells['k2_middle'].configuration.directory / records.LOG} <==" in log
    assert "finished in" in log


def shard_state(story, index):
    """(job and task as Slurm has them, samples on disk) of a shard's latest array task."""
    directory = story.directory / "executed" / "shards"
    note = submission.submissions(directory)[-1]
    [path] = (directory / "arithmetic_limit_24").glob(f"*/partial-*.{index + 1}of3.jsonl") or [Path("none")]
    return slurm.jobs([note.job]).get((note.job, index)), journal.progress(path)[0]


def put_back(job):
    """Whether a job was started anew, or waits to be, and what it had started is gone."""
    shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=True).stdout
    return "Restarts=1" in shown and "COMPLETING" not in shown


def test_a_configuration_in_shards_outlives_a_kill_and_a_requeue(story):
    """One array task a shard; the one that is cancelled is submitted alone, the one put back resumes by itself."""
    directory = story.directory / "executed" / "shards"
    submit(story, "shards")
    note = submission.submissions(directory)[-1]
    assert note.tasks == (("arithmetic_limit_24/k2_middle_waits",),) * 3
    cluster.wait(lambda: all(list(directory.glob(f"*/*/partial-*.{part}of3.jsonl")) and shard_state(story, part - 1)[1]
                             for part in (1, 2)), PATIENCE, 0.2)
    detail = story.look("shards")["k2_middle_waits"].detail
    assert re.search(r"\d+ of 24, 0 of 3 shards done", detail), detail
    subprocess.run(["scancel", f"{note.job}_0"], check=True)
    subprocess.run(["scontrol", "requeue", f"{note.job}_1"], check=True)
    cluster.wait(lambda: shard_state(story, 0)[0].over and put_back(f"{note.job}_1"), PATIENCE)
    (story.directory / TOLD).touch()
    state = story.until_over("shards")["k2_middle_waits"]
    assert state.state == "partial", f"{state}"
    assert re.search(r"2 of 3 shards done; job .* ended: CANCELLED", state.detail), state.detail
    text = fastdllm("grid", "submit", str(story.files["shards"]), "--dry-run")
    assert text.count("--shard ") == 1 and "--shard 1of3" in text, "only the lost shard"
    fastdllm("grid", "submit", str(story.files["shards"]))
    state = story.until_over("shards")["k2_middle_waits"]
    assert state.state == "complete", f"{state}\n{story.log('shards', 'k2_middle_waits')}"
    assert state.record is not None
    assert state.record.shards == 3
    samples = records.samples(state.configuration.directory)
    assert list(samples["index"]) == list(range(24))
    resumed = samples.loc[samples["session"] == 2, "index"] % 3
    assert {0, 1} == set(resumed), "the killed and the requeued shard went on, the third ran through"
    assert put_back(f"{note.job}_1")
    assert (state.configuration.directory / "configuration.ipynb").exists()


def test_resubmission_runs_only_what_is_missing(story):
    submit(story, "array")
    cells = story.until_over("array")
    assert {each.state for each in cells.values()} == {"complete"}
    assert "nothing to submit" in fastdllm("grid", "submit", str(story.files["array"]))
    lost = cells["k2_last"].configuration.directory
    (lost / records.SUMMARY).unlink()
    before = {name: (each.configuration.directory / records.SUMMARY).stat().st_mtime_ns
              for name, each in cells.items() if name != "k2_last"}
    text = fastdllm("grid", "submit", str(story.files["array"]), "--dry-run")
    assert "1 run for 1 configuration" in text
    assert not list(lost.glob(records.SUMMARY)), "a dry run submits nothing"
    fastdllm("grid", "submit", str(story.files["array"]))
    assert "left alone" in fastdllm("grid", "submit", str(story.files["array"])), "it is in the queue already"
    cells = story.until_over("array")
    assert {each.state for each in cells.values()} == {"complete"}
    assert before == {
        name: (cells[name].configuration.directory / records.SUMMARY).stat().st_mtime_ns for name in before
    }


def test_a_failing_cell_says_why(story):
    submit(story, "broken", "--dependency")
    cells = story.until_over("broken")
    assert cells["k1"].state == "complete"
    assert cells["k2_middle_fails"].state == "failed"
    assert "planted fault" in cells["k2_middle_fails"].detail
    output = fastdllm("grid", "status", str(story.files["broken"]), ok=False)
    assert "Completed: 1 / 2" in output


def test_the_report_follows_the_grid_even_if_a_cell_failed(story):
    submit(story, "broken", "--dependency")
    story.until_over("broken")
    directory = story.directory / "executed" / "broken"
    note = submission.submissions(directory)[-1]
    assert note.report_job is not None
    job = cluster.wait(lambda: (seen := slurm.jobs([note.report_job])[note.report_job, None]).over and seen, PATIENCE)
    log = next((directory / "slurm").glob("*-report-0.log")).read_text()
    assert job.state == "COMPLETED", log
    assert "1 of 2 configurations complete" in log
    assert (directory / "90_report.html").exists()


def test_a_notebook_is_submitted_like_a_cell(story, monkeypatch):
    project = story.directory / "project"
    for name in ("notebooks", "params"):
        (project / name).mkdir(parents=True)
    monkeypatch.chdir(project)
    notebook(project / "notebooks" / "question.ipynb", "print('size', size)")
    (project / "params" / "question.yml").write_text("size: 7\n")
    (project / "slurm.yml").write_text('time: "5"\ncpus: 1\nsignal_seconds: 30\n')
    order = ("run", "question.ipynb", "--params", "params/question.yml", "--submit", "--profile", "slurm.yml")
    assert "--params" in fastdllm(*order, "--dry-run")
    assert not (project / "executed").exists(), "a dry run writes nothing"
    number = int(re.search(r"submitted job (\d+)", fastdllm(*order))[1])
    job = cluster.wait(lambda: (seen := slurm.jobs([number])[number, None]).over and seen, PATIENCE)
    directory = project / "executed" / "notebooks" / "question" / "question"
    assert job.state == "COMPLETED", next((directory / "slurm").glob("*.log")).read_text()
    assert "size 7" in (directory / "question.ipynb").read_text()


def test_an_unfit_node_is_found_out_before_anything_is_loaded(story):
    state = next(iter(story.until_over("unfit").values()))
    assert state.state == "failed", state
    text = story.log("unfit", state.configuration.name)
    assert "✗ device" in text
    assert not (state.configuration.directory / records.LOG).exists(), "the configuration itself was not started"


def test_a_cell_outlives_its_time_limit(story):
    state = story.until_over("limited")["k2_middle_slow_at_first"]
    assert state.state == "complete", f"{state}\n{story.log('limited', 'k2_middle_slow_at_first')}"
    assert state.record is not None
    assert state.record.sessions >= 2
    assert len(records.samples(state.configuration.directory)["id"].unique()) == LIMITED
    text = story.log("limited", "k2_middle_slow_at_first")
    assert "the time limit is near" in text
    assert "start number 2" in text
    assert "resuming at problem" in (state.configuration.directory / records.LOG).read_text()
    shown = subprocess.run(["scontrol", "show", "job", str(submission.submissions(
        story.directory / "executed" / "limited")[-1].job)], capture_output=True, text=True, check=True).stdout
    assert re.search(r"Restarts=[1-9]", shown)


def test_no_secret_in_scripts_logs_and_records(story):
    story.until_over("limited")
    files = [path for path in (story.directory / "executed").rglob("*") if path.is_file()]
    assert {".sh", ".log", ".json", ".yml", ".ipynb", ".jsonl"} <= {path.suffix for path in files}
    for path in files:
        content = path.read_bytes()
        assert not [name for name, secret in SECRETS.items() if secret.encode() in content], path
