"""The smart runner: states, plans, shared runs, and the commands end to end on a tiny checkpoint."""

import dataclasses
import json

import lab_support
import pytest

from fastdllm.lab import records
from fastdllm.lab.config import grid_file
from fastdllm.lab.jobs import marks, notebooks, runner, status
from fastdllm.lab.jobs import plan as plans
from fastdllm.lab.jobs.slurm import SlurmJob
from fastdllm.lab.records import journal, locks
from fastdllm.lab.records.identity import CurrentFingerprints, identity

pytestmark = pytest.mark.usefixtures("warm_workers")
MODEL = lab_support.GOLDEN       # synthetic records need no tokenizer


@pytest.fixture
def grid(tmp_path):
    return grid_file.load(lab_support.params(tmp_path / "g.yml", MODEL))


def test_a_run_that_was_stopped_behind_its_last_problem_says_what_is_left(grid):
    """A journal that is full, then the record that it becomes, whose notebook has not ended."""
    current, configuration = CurrentFingerprints(), grid.configurations()[2]
    own = identity(current.payload(configuration.parameters))
    run = journal.begin(configuration.directory, own, current.resolve(configuration.parameters), 4)
    open_mark = configuration.directory / marks.OPEN
    open_mark.write_text("{}")
    assert looks(grid, current)["k2_first"].detail == "0 of 4"
    for index in range(4):
        run.add({"index": index, "session": 1, "elapsed": 1.0})
    assert looks(grid, current)["k2_first"].detail == "4 of 4; the record is still to be written"
    lab_support.synthetic(configuration, current)
    stopped = looks(grid, current)["k2_first"]
    assert (stopped.state, stopped.detail) == (
        "partial", "all 4 problems are in the record; its notebook is still to be finished")
    open_mark.unlink()
    assert looks(grid, current)["k2_first"].state == "complete"


def planned(plan):
    """(name, names that share its run) of what a plan runs."""
    return [(each.configuration.name, [other.name for other in each.shared_with]) for each in plan.run]


def looks(grid, current=None, **jobs):
    return {
        state.configuration.name: state
        for state in status.states(grid.configurations(), current or CurrentFingerprints(), jobs.get("queue"))
    }


def test_states_and_the_page(grid):
    current, configurations = (
        CurrentFingerprints(),
        {configuration.name: configuration for configuration in grid.configurations()},
    )
    lab_support.synthetic(configurations["k1_first"], current)
    marks.fail(configurations["k2_first"].directory, "ValueError: no such thing", "run")
    by_name = looks(grid, current)
    assert [by_name[name].state for name in configurations] == ["complete", "pending", "failed", "pending"]
    page = status.text(list(by_name.values())).splitlines()
    assert "  ✓ k1_first" in page
    assert "  ✗ k1_middle (pending; shared with k1_first)" in page
    assert "  ✗ k2_first (failed; ValueError: no such thing [in cell run])" in page
    assert page[-2] == "Completed: 1 / 4"
    assert not status.all_complete(list(by_name.values()))


def test_a_changed_parameter_makes_a_cell_stale_and_says_which(tmp_path):
    path = lab_support.params(tmp_path / "g.yml", MODEL)
    grid, current = grid_file.load(path), CurrentFingerprints()
    for configuration in grid.configurations():
        lab_support.synthetic(configuration, current)
    assert status.all_complete(status.states(grid.configurations(), current))
    changed = grid_file.load(path, ["decoding.threshold=0.5", "seed=3"])
    assert looks(changed, current)["k2_first"].detail == "changed: seed 0 -> 3, decoding.threshold 0.9 -> 0.5"
    before, current.code = current.code, "another"
    assert looks(grid, current)["k2_first"].detail == f"changed: code {before[:8]} -> another"


def test_missing_data_or_checkpoint_can_not_pass_as_complete(tmp_path):
    grid, current = grid_file.load(lab_support.params(tmp_path / "g.yml", MODEL)), CurrentFingerprints()
    for configuration in grid.configurations():
        lab_support.synthetic(configuration, current)
    gone = grid_file.load(tmp_path / "g.yml", [f"model={tmp_path}/gone"])
    assert {state.state for state in status.states(gone.configurations())} == {"stale"}


def test_running_queued_and_ended_jobs(grid):
    configuration = grid.configurations()[2]
    with locks.lock(configuration.directory / locks.RUN):
        state = looks(grid)["k2_first"]
    assert state.state == "running"
    assert "process" in state.detail
    for job, wanted in (
        (SlurmJob(7, 2, "PENDING", reason="Resources"), "queued"),
        (SlurmJob(7, 2, "RUNNING", "n1", "0:10"), "running"),
        (SlurmJob(7, 2, "TIMEOUT", "n1"), "failed"),
    ):
        state = looks(grid, queue={configuration.path: job})["k2_first"]
        assert (state.state, "7_2" in state.detail) == (wanted, True)
    assert not plans.plan(grid, [configuration], queue={configuration.path: SlurmJob(7, 2, "PENDING")}).run


HEADER = b'{"identity":"","n":4}\n'


@pytest.mark.parametrize(("name", "content", "says"), [
    ("partial-{own}.1of2.jsonl", HEADER + b'{"index:0}\n{"index":1}\n', "line 2: damaged"),
    ("partial-{own}.jsonl", HEADER[1:], "line 1: damaged"),
    ("partial-{own}.2of2.jsonl", b"\xff\xfe\n", "line 1: damaged"),
    ("partial-{own}.jsonl", b"[]\n", "line 1: damaged"),
    ("partial-{own}.jsonl", b"", "line 1: damaged"),
    ("partial-0123456789ab.1of2.jsonl", b"{}\n", "line 1: damaged"),
    ("partial-{own}.jsonl", None, "Is a directory")])
def test_a_damaged_journal_is_named_and_the_other_configurations_are_shown(grid, name, content, says):
    current, configuration = CurrentFingerprints(), grid.configurations()[2]
    path = configuration.directory / name.format(own=identity(current.payload(configuration.parameters))[:12])
    path.parent.mkdir(parents=True)
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with locks.lock(configuration.directory / locks.RUN):
        states = looks(grid, current)
    assert len(states) == len(grid.configurations())
    for state, word in ((states["k2_first"], "running"), (looks(grid, current)["k2_first"], "failed")):
        if word == "failed" and "{own}" not in name:
            assert (state.state, state.detail) == ("stale", "unfinished run of another configuration")
        else:
            assert state.state == word and str(path) in state.detail and says in state.detail
    assert "same command" in status.kept([configuration])


@pytest.mark.parametrize("name", ["partial-{own}.jsonl", "partial-{own}.1of2.jsonl", "failed.json", "failed.1of2.json"])
def test_a_file_that_goes_while_it_is_looked_at_does_not_end_the_status(grid, name):
    current, configuration = CurrentFingerprints(), grid.configurations()[2]
    own = identity(current.payload(configuration.parameters))
    configuration.directory.mkdir(parents=True)
    gone = configuration.directory / name.format(own=own[:12])
    gone.symlink_to(gone.with_name("gone"))      # the directory lists it, and it is not there
    with locks.lock(configuration.directory / locks.RUN):
        state = looks(grid, current)["k2_first"]
    assert state.state == "running" and state.detail.startswith("process ")
    assert looks(grid, current)["k2_first"].state == ("pending" if "failed" in name else "partial")
    assert status.kept([configuration]) == "the same command begins again"


def test_plan_runs_each_computation_once_and_only_what_is_missing(grid):
    current, configurations = (
        CurrentFingerprints(),
        {configuration.name: configuration for configuration in grid.configurations()},
    )
    first = plans.plan(grid, current=current)
    assert planned(first) == [("k1_first", ["k1_middle"]), ("k2_first", []), ("k2_middle", [])] and not first.copy
    lab_support.synthetic(configurations["k1_first"], current)
    second = plans.plan(grid, [configurations["k1_middle"], configurations["k2_first"]], current=current)
    assert planned(second) == [("k2_first", [])]
    assert [(a.name, b.name) for a, b in second.copy] == [("k1_first", "k1_middle")]
    runner.copy_complete(second)
    assert records.read(configurations["k1_middle"].directory).shared_from == "k1_first"
    assert looks(grid, current)["k1_middle"].state == "complete"
    forced = plans.plan(grid, force=["k1_first"], current=current)
    assert [(each.configuration.name, each.forced) for each in forced.run] == [
        ("k1_first", True), ("k2_first", False), ("k2_middle", False)]
    assert planned(forced)[0] == ("k1_first", ["k1_middle"])


def test_select_refuses_unknown_names(grid):
    with pytest.raises(ValueError, match="'k9'; allowed: k1_first, k1_middle"):
        grid_file.select(grid.configurations(), None, ["k9"])
    with pytest.raises(ValueError, match="'sums'; allowed: arithmetic"):
        grid_file.select(grid.configurations(), "sums")


def test_imported_results_are_never_complete(grid):
    current, configuration = CurrentFingerprints(), grid.configurations()[0]
    record = lab_support.synthetic(configuration, current)
    records.write(
        configuration.directory, record.model_copy(update={"status": "imported", "source": "results/00_baseline"})
    )
    state = status.state_of(configuration, current)
    assert (state.state, state.detail) == ("imported", "from results/00_baseline")
    assert planned(plans.plan(grid, [configuration], current=current)) == [("k1_first", [])]


def test_not_applicable_cells_do_not_run_and_do_not_count(tmp_path):
    path = lab_support.params(tmp_path / "g.yml", MODEL, axes={"k": [1, 2], "layers": ["first"],
                                                             "block_cache": [True, False]})
    grid, current = grid_file.load(path), CurrentFingerprints()
    plan = plans.plan(grid, current=current)
    assert [name for name, _ in planned(plan)] == [
        "k1_first_block_cache",
        "k1_first_no_block_cache",
        "k2_first_block_cache",
    ]
    assert status.text(status.states(grid.configurations(), current)).splitlines()[-2] == "Completed: 0 / 3"


def test_grid_from_nothing_to_complete(tmp_path, monkeypatch):
    """The commands, papermill and all, on random weights: two runs for three names."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    model = lab_support.checkpoint(tmp_path / "model")
    path = lab_support.params(tmp_path / "g.yml", model, limit=2, jobs=2, record={"trace": 1}, axes={}, configs=[
        {"k": 1, "layers": "first"}, {"k": 1, "layers": "middle"}, {"k": 2, "layers": "middle"}])
    assert "Completed: 0 / 3" in lab_support.command("grid", "status", path, code=1)
    assert lab_support.command("grid", "run", path, "--dry-run").count("would run") == 2
    assert not (tmp_path / "executed").exists()
    output = lab_support.command("grid", "run", path)
    assert "Completed: 3 / 3" in output
    assert output.count("log: ") == 2
    assert "Completed: 3 / 3" in lab_support.command("grid", "status", path)
    folder = tmp_path / "executed" / "g" / "arithmetic_limit_2"
    record = records.read(folder / "k2_middle")
    assert record.decisions["reuse"] > 0
    assert record.notes["traced_same_output"] == 1
    for name in ("10_cell.ipynb", "trace.parquet", "samples.jsonl", "run.log"):
        assert (folder / "k2_middle" / name).stat().st_size > 0
    assert record.identity[:16] in (folder / "k2_middle" / "10_cell.ipynb").read_text()      # it shows whose it is
    assert record.identity != records.read(folder / "k1_first").identity
    assert records.read(folder / "k1_middle").shared_from == "k1_first"
    assert "nothing to do" in lab_support.command("grid", "run", path, "--dry-run")
    assert "finished in" in lab_support.command("grid", "logs", path, "k1_middle")
    changed = lab_support.command("grid", "status", path, "--set", "decoding.threshold=0.5", code=1)
    assert "stale; changed: decoding.threshold 0.9 -> 0.5" in changed
    assert lab_support.command("grid", "run", path, "--dry-run", "--force", "k2_middle").count("would run") == 1


def test_a_failing_notebook_marks_its_cell_and_a_good_run_clears_it(tmp_path):
    """With a notebook of the grid's own, which takes the parameters of any configuration."""
    source = json.loads(notebooks.find("10_cell.ipynb").read_text())
    source["cells"] = [cell for cell in source["cells"] if cell["metadata"].get("name") == "parameters"] * 2
    source["cells"][1] = source["cells"][1] | {"id": "boom", "metadata": {"name": "boom"}, "source": "1 / (k - 2)"}
    (tmp_path / "own.ipynb").write_text(json.dumps(source))
    path = lab_support.params(tmp_path / "g.yml", MODEL, notebook=str(tmp_path / "own.ipynb"), axes={},
                              configs=[{"k": 2, "layers": "first"}])
    output = lab_support.command("grid", "run", path, code=1)
    assert (
        "✗ arithmetic_limit_4/k2_first: failed (ZeroDivisionError: division by zero [in cell boom])" in output
    )
    assert "✗ k2_first (failed; ZeroDivisionError: division by zero [in cell boom])" in output
    grid = grid_file.load(path)
    directory = grid.configurations()[0].directory
    assert "Traceback" in (directory / "own.failed.ipynb").read_text()
    lab_support.synthetic(grid.configurations()[0], CurrentFingerprints())
    assert (
        status.state_of(grid.configurations()[0], CurrentFingerprints()).state == "failed"
    )  # a record alone does not undo a failure
    source["cells"][1]["source"] = "1"
    (tmp_path / "own.ipynb").write_text(json.dumps(source))
    assert "Completed: 1 / 1" in lab_support.command("grid", "run", path)
    assert not (directory / "own.failed.ipynb").exists()


def test_help_shows_examples():
    for arguments in ((), ("grid",), ("run",)):
        output = lab_support.command(*arguments, "--help")
        assert "fastdllm" in output
    assert "--dry-run" in lab_support.command("grid", "run", "--help")


def test_cell_is_hashable_and_frozen(grid):
    with pytest.raises(dataclasses.FrozenInstanceError):
        grid.configurations()[0].name = "other"
