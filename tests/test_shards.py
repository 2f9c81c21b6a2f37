"""A configuration in shards: the same samples and record, a process each, and a lost one resumes alone."""

import json
import random
import re
import time
from pathlib import Path

import lab_support
import pytest
from process_support import CONTEXT

import fastdllm
from fastdllm.lab import records
from fastdllm.lab.config import grid_file
from fastdllm.lab.config.shard import WHOLE, Shard, split
from fastdllm.lab.evaluation.evaluate import evaluate, evaluate_shard
from fastdllm.lab.evaluation.prepare import PreparedRun
from fastdllm.lab.jobs import machine, marks, runner, status, submission
from fastdllm.lab.jobs import plan as plans
from fastdllm.lab.records import journal, locks
from fastdllm.lab.records.identity import CurrentFingerprints, identity

pytestmark = pytest.mark.usefixtures("warm_workers")
CLOCK = ("seconds", "elapsed", "session")      # of a sample: what the time of day and the split may change


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return lab_support.checkpoint(tmp_path_factory.mktemp("model") / "random")


@pytest.fixture
def grid(tmp_path, model):
    return load(tmp_path, model)


def load(tmp_path, model, **changes):
    values = {"axes": {}, "configs": [{"k": 2, "layers": "middle"}], "limit": 7} | changes
    return grid_file.load(lab_support.params(tmp_path / "g.yml", model, **values))


def solve(configuration, shard):
    return evaluate_shard(PreparedRun(configuration), shard, log=lambda text: None)


def solved(configuration):
    """The samples as they stand in the file, without what is of the clock."""
    lines = (configuration.directory / records.SAMPLES).read_bytes().splitlines()
    return [json.dumps({name: value for name, value in json.loads(line).items() if name not in CLOCK}).encode()
            for line in lines]


def work(configuration, shard, answer):
    """In a process of its own: solve a shard, and say whether the record is made."""
    import torch
    torch.set_num_threads(1)
    try:
        answer.put(solve(configuration, shard) is not None)
    except locks.Locked:
        answer.put("locked")


def start(configuration, shard):
    answer = CONTEXT.Queue()
    process = CONTEXT.Process(target=work, args=(configuration, shard, answer))
    process.start()
    return process, answer


def test_names_of_shards():
    assert Shard.parse("2of4") == Shard(2, 4) == Shard.of_file(Path(Shard(2, 4).file("failed.json")))
    assert [list(shard.indexes(7)) for shard in split(3)] == [[0, 3, 6], [1, 4], [2, 5]]
    assert WHOLE.file("failed.json") == "failed.json" and Shard(2, 4).file(".run.lock") == ".run.2of4.lock"
    for text in ("4", "0of4", "5of4", "2/4", "2of4 "):
        with pytest.raises(ValueError, match=re.escape(f"shard={text!r}; allowed")):
            Shard.parse(text)


def test_samples_and_identity_are_those_of_the_whole_run(tmp_path, model):
    whole = load(tmp_path, model, output=str(tmp_path / "whole")).configurations()[0]
    parts = load(tmp_path, model, shards=3).configurations()[0]
    first = evaluate(PreparedRun(whole), log=lambda text: None)
    assert solve(parts, Shard(1, 3)) is None and solve(parts, Shard(3, 3)) is None
    record = solve(parts, Shard(2, 3))
    assert record is not None
    assert solved(parts) == solved(whole)
    same = ("identity", "n", "tokens", "nfe", "decisions", "accuracy", "finish", "parameters", "sessions")
    assert {name: getattr(record, name) for name in same} == {name: getattr(first, name) for name in same}
    assert (first.shards, record.shards) == (1, 3)
    assert parts.name == whole.name and parts.directory.name == whole.directory.name
    samples = records.samples(parts.directory)
    by_shard = samples.groupby(samples["index"] % 3)["elapsed"]
    assert record.seconds == pytest.approx(by_shard.max().sum())
    assert status.state_of(parts, CurrentFingerprints()).state == "complete"
    assert not journal.paths(parts.directory)


@pytest.mark.parametrize(("before", "after"), [([Shard(2, 3)], split(2)), ([Shard(1, 2)], [WHOLE]),
                                           ([Shard(1, 4), Shard(4, 4)], split(3))])
def test_another_number_of_shards_goes_on_with_what_is_solved(grid, before, after):
    [configuration] = grid.configurations()
    for shard in before:
        assert solve(configuration, shard) is None
    kept = {path: path.read_bytes() for path in journal.paths(configuration.directory)}
    for shard in after[:-1]:
        assert solve(configuration, shard) is None
    assert all(path.read_bytes() == text for path, text in kept.items())
    record = solve(configuration, after[-1])
    samples = [json.loads(line) for line in (configuration.directory / records.SAMPLES).read_text().splitlines()]
    assert [sample["index"] for sample in samples] == list(range(7))
    old = {index for shard in before for index in shard.indexes(7)}
    assert {sample["index"] for sample in samples if sample["session"] == 1} == old, "solved once"
    assert (record.n, record.sessions) == (7, 2)


def test_status_counts_shards(grid):
    [configuration] = grid.configurations()
    solve(configuration, Shard(1, 3))
    state = status.state_of(configuration, CurrentFingerprints())
    assert (state.state, state.detail) == ("partial", "3 of 7, 1 of 3 shards done")
    with locks.lock(configuration.directory / Shard(2, 3).file(locks.RUN)), \
            locks.lock(configuration.directory / Shard(3, 3).file(locks.RUN)):
        state = status.state_of(configuration, CurrentFingerprints())
    assert state.state == "running"
    assert state.detail.endswith("; 3 of 7, 1 of 3 shards done; at work: shard 2of3, 3of3")
    marks.fail(configuration.directory, "ValueError: no", shard=Shard(2, 3))
    state = status.state_of(configuration, CurrentFingerprints())
    assert (state.state, state.detail) == ("failed", "shard 2of3: ValueError: no")
    marks.clear(configuration.directory, Shard(1, 3))
    assert status.state_of(configuration, CurrentFingerprints()).state == "failed", "another shard's failure stays"
    marks.clear(configuration.directory, Shard(1, 2))
    assert status.state_of(configuration, CurrentFingerprints()).state == "partial", "another split's does not"


def test_two_splits_do_not_work_on_one_configuration(grid, monkeypatch):
    monkeypatch.setattr("fastdllm.lab.evaluation.evaluate.PATIENCE", 0.1)
    [configuration] = grid.configurations()
    with locks.shard_lock(configuration.directory, Shard(1, 2)):
        for other in (WHOLE, Shard(1, 3), Shard(1, 2)):
            with pytest.raises(locks.Locked, match="another process works on it"):
                solve(configuration, other)
        assert solve(configuration, Shard(2, 2)) is None
        asked = plans.plan(grid, shard=Shard(2, 2))
        assert [planned.configuration for planned in asked.run] == [configuration]
        assert plans.plan(grid).busy and plans.plan(grid, shard=Shard(1, 2)).busy


def test_the_last_of_the_shards_makes_the_record(grid):
    """All at once: whoever finds the others gone writes it, once."""
    [configuration] = grid.configurations()
    both = [start(configuration, shard) for shard in split(3)]
    made = [answer.get(timeout=240) for _, answer in both]
    for process, _ in both:
        process.join()
    assert made.count(True) == 1 and made.count(False) == 2
    assert list(records.samples(configuration.directory)["index"]) == list(range(7))
    assert not locks.at_work(configuration.directory)


def test_kill_9_of_shards_at_random_moments(tmp_path, model):
    """Nothing solved is lost, the record is made when and only when all problems are solved, and once."""
    grid = load(tmp_path, model, limit=9, batch_size=1)
    [configuration], current = grid.configurations(), CurrentFingerprints()
    random.seed(3)
    kept: dict[int, object] = {}
    for _ in range(6):
        shards = [start(configuration, shard) for shard in split(2)]
        time.sleep(random.uniform(0.2, 3.0))
        for process, _answer in shards[:random.choice((1, 2))]:
            process.kill()
        for process, _answer in shards:
            process.join()
        state = status.state_of(configuration, current)
        if state.state == "complete":
            break
        assert state.state in ("pending", "partial")
        own = identity(current.payload(configuration.parameters))
        now = {sample["index"]: sample["token_ids"]
               for sample in journal.collect(configuration.directory, own, 9).samples()}
        assert kept == {index: now[index] for index in kept}
        kept = now
    for shard in split(2):
        solve(configuration, shard)
    assert status.state_of(configuration, current).state == "complete"
    samples = records.samples(configuration.directory)
    assert list(samples["index"]) == list(range(9))
    assert all(list(samples["token_ids"][index]) == list(ids) for index, ids in kept.items())


def test_a_shard_does_not_start_over_by_itself(grid):
    [configuration] = grid.configurations()
    with pytest.raises(ValueError, match="force=True with shard 1of2; allowed: the whole run"):
        evaluate_shard(PreparedRun(configuration, force=True), Shard(1, 2))
    with pytest.raises(ValueError, match="--force with --shard 1of2; allowed"):
        plans.plan(grid, force=True, shard=Shard(1, 2))


def test_shards_that_start_over_take_nothing_from_before(tmp_path, model):
    grid = load(tmp_path, model, shards=2)
    [configuration], current = grid.configurations(), CurrentFingerprints()
    lab_support.synthetic(configuration, current)
    forced = plans.plan(grid, force=True, current=current)
    forced.start_over(map(plans.Unit, forced.run))
    assert not journal.paths(configuration.directory), "a whole run starts over by itself"
    forced.start_over(forced.units())
    assert records.read(configuration.directory).n == 7, "the last good record stays"
    assert solve(configuration, Shard(1, 2)) is None
    record = solve(configuration, Shard(2, 2))
    assert record is not None and "#### 1" not in set(records.samples(configuration.directory)["output"])


def shares(grid, gpus):
    """(configuration, shard) of what a plan becomes."""
    return [(unit.planned.configuration.name, str(unit.shard)) for unit in plans.plan(grid).units(gpus)]


@pytest.mark.parametrize(("runs", "gpus", "expected"), [
    (1, 1, ["1of1"]), (2, 2, ["1of1"] * 2), (1, 4, ["1of4", "2of4", "3of4", "4of4"]),
    (3, 2, ["1of1", "1of1", "1of2", "2of2"]), (2, 4, ["1of2", "2of2"] * 2), (2, 3, ["1of3", "2of3", "3of3"] * 2),
    (5, 1, ["1of1"] * 5)])
def test_gpus_that_would_idle_get_shards_of_the_last_runs(tmp_path, runs, gpus, expected):
    grid = load(tmp_path, lab_support.GOLDEN, axes={"repeat": list(range(runs))}, configs=[{"k": 1}], batch_size=1)
    assert [shard for _, shard in shares(grid, gpus)] == expected


def test_no_shard_is_smaller_than_a_batch(tmp_path):
    grid = load(tmp_path, lab_support.GOLDEN, batch_size=4)
    assert [shard for _, shard in shares(grid, 8)] == ["1of2", "2of2"]


def test_shards_of_a_grid_are_those_with_problems_left(tmp_path, model):
    grid = load(tmp_path, model, shards=3)
    [configuration] = grid.configurations()
    assert [shard for _, shard in shares(grid, 1)] == ["1of3", "2of3", "3of3"]
    solve(configuration, Shard(2, 3))
    assert [shard for _, shard in shares(grid, 1)] == ["1of3", "3of3"]
    text = submission.plan_grid(plans.plan(grid)).text
    assert text.count("--shard ") == 2 and "--shard 3of3" in text and "partial-*.3of3.jsonl" in text


def test_gpus_are_those_that_slurm_gives(monkeypatch):
    machine.gpus.cache_clear()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5a")
    assert machine.devices("auto") == machine.devices("cuda") == ("3", "GPU-5a")
    assert machine.devices("cpu") == machine.devices("cuda:1") == ()
    machine.gpus.cache_clear()


def test_all_gpus_are_used_without_a_flag(tmp_path, model):
    """Two made-up GPUs and a network on the CPU: a worker on each, one record, one notebook."""
    notebook = lab_support.computing_notebook(tmp_path / "configuration.ipynb")
    grid = grid_file.load(one_configuration(tmp_path, model, notebook))
    [configuration] = grid.configurations()
    assert runner.run(plans.plan(grid), gpus=("5", "7"))
    log = (configuration.directory / records.LOG).read_text()
    assert {"shard 1of2 begins on GPU 5", "shard 2of2 begins on GPU 7"} <= set(re.findall(r"shard \dof2 begins.*", log))
    assert records.read(configuration.directory).shards == 2
    assert (configuration.directory / notebook.name).exists() and log.count("finished in") == 1
    assert status.all_complete(status.states(grid.configurations()))
    assert not list(configuration.directory.glob("open*.json"))


def test_tokens_a_second_are_of_answers_alone(tmp_path):
    """Neither the prompt's tokens nor what the last block holds behind the stop count, whole run or shards."""
    grid = grid_file.load(lab_support.params(tmp_path / "g.yml", "tiny", axes={}, limit=6, shards=2,
                                             configs=[{"k": 1}], decoding={"threshold": 0.9}))
    [configuration] = grid.configurations()
    solve(configuration, Shard(1, 2))
    record = solve(configuration, Shard(2, 2))
    samples = records.samples(configuration.directory)
    [stop] = fastdllm.load("tiny", device="cpu").stop_ids
    stopped = samples[samples["finish"] == "stop"]
    assert len(stopped), "some answers end inside a block"
    assert all(ids.index(stop) == len(ids) - 1 for ids in map(list, stopped["token_ids"]))
    assert list(samples["tokens"]) == [len(ids) for ids in samples["token_ids"]]
    assert any(len(ids) % 32 for ids in stopped["token_ids"])
    assert record is not None and record.tokens == samples["tokens"].sum()
    assert record.tokens_per_second == pytest.approx(record.tokens / record.seconds)


def one_configuration(tmp_path, model, notebook):
    return lab_support.params(tmp_path / "g.yml", model, notebook=str(notebook), axes={}, limit=4, batch_size=1,
                              jobs=None, configs=[{"k": 2, "layers": "middle"}])


def test_machines_without_slurm_take_a_shard_each(tmp_path, model):
    """The commands: one shard here, then the rest."""
    notebook = lab_support.computing_notebook(tmp_path / "configuration.ipynb")
    path = one_configuration(tmp_path, model, notebook)
    text = lab_support.command("grid", "run", path, "--shard", "2of2")
    assert "shard 2of2: done" in text and "partial; 2 of 4, 1 of 2 shards done" in text
    assert "Completed: 1 / 1" in lab_support.command("grid", "run", path, "--shards", 2)
    assert records.read(grid_file.load(path).configurations()[0].directory).shards == 2
