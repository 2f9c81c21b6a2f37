"""Faults: killed at any moment, two at once, a full disk. A configuration never reads as complete and is not."""

import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time

import lab_support
import pytest
from process_support import CONTEXT

from fastdllm.lab import atomic, records
from fastdllm.lab.config import grid_file
from fastdllm.lab.evaluation import evaluate
from fastdllm.lab.evaluation.prepare import PreparedRun
from fastdllm.lab.jobs import status
from fastdllm.lab.records import journal, locks
from fastdllm.lab.records.identity import CurrentFingerprints, identity

pytestmark = pytest.mark.usefixtures("warm_kernels")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return lab_support.checkpoint(tmp_path_factory.mktemp("model") / "random")


def cell_of(tmp_path, model, **changes):
    values = {"axes": {}, "configs": [{"k": 2, "layers": "middle"}], "limit": 6} | changes
    return grid_file.load(lab_support.params(tmp_path / "g.yml", model, **values)).configurations()[0]


def work(configuration, said):
    """In a process of its own: evaluate the configuration, and say how that went."""
    import torch
    torch.set_num_threads(1)
    try:
        record = evaluate.evaluate(PreparedRun(configuration), log=lambda text: None)
        said.put(("record", record.identity))
    except (locks.Locked, OSError, ValueError) as error:
        said.put((type(error).__name__, str(error)))


def start(configuration):
    said = CONTEXT.Queue()
    process = CONTEXT.Process(target=work, args=(configuration, said))
    process.start()
    return process, said


def finish(configuration):
    process, said = start(configuration)
    result = said.get(timeout=120)
    process.join()
    return result


def test_kill_9_at_ten_random_moments(tmp_path, model):
    """While loading, decoding, writing the record: nothing finished is lost, nothing reads as complete and is not."""
    configuration, current = cell_of(tmp_path, model), CurrentFingerprints()
    own = identity(current.payload(configuration.parameters))
    began = time.monotonic()
    assert finish(configuration)[0] == "record"
    whole_run = time.monotonic() - began
    reference = list(records.samples(configuration.directory)["token_ids"])
    random.seed(2)
    kept: dict[int, object] = {}
    for path in configuration.directory.iterdir():
        path.unlink()
    for _ in range(10):
        process, _said = start(configuration)
        time.sleep(random.uniform(0.02, 1.0) * whole_run)
        process.kill()      # SIGKILL
        process.join()
        state = status.state_of(configuration, current)
        if state.state == "complete":
            assert len(records.samples(configuration.directory)) == 6
            break
        assert state.state in ("pending", "partial")
        if journal.path_of(configuration.directory, own).exists():
            run = journal.begin(configuration.directory, own, current.resolve(configuration.parameters), 6)
            assert kept == {index: run.done[index]["token_ids"] for index in kept}      # still there, unchanged
            kept = {index: sample["token_ids"] for index, sample in run.done.items()}
    assert finish(configuration) == ("record", own)
    assert status.state_of(configuration, current).state == "complete"
    assert list(records.samples(configuration.directory)["token_ids"]) == reference


def test_killed_between_the_last_writes(tmp_path, model, monkeypatch):
    """Samples written, record not; record written, unfinished samples not yet gone."""
    configuration, current = cell_of(tmp_path, model, limit=2), CurrentFingerprints()
    good = lab_support.synthetic(configuration, current, correct=0)
    own = good.identity

    class Killed(BaseException):
        pass

    def die(*_arguments):
        raise Killed

    for moment in ("write", "unlink"):
        run = journal.begin(configuration.directory, own, good.parameters, 2)
        for index in range(2):
            sample = {
                **json.loads((configuration.directory / records.SAMPLES).read_text().splitlines()[index]),
                "elapsed": 9.0,
            }
            run.add(sample)
        with monkeypatch.context() as patch:
            patch.setattr(*((evaluate.records, "write", die) if moment == "write" else (type(run.path), "unlink", die)))
            with pytest.raises(Killed):
                evaluate.finish(configuration.directory, run, good.model_copy(update={"seconds": 9.0}))
        state = status.state_of(configuration, current)
        assert (state.state, state.detail) == ("partial", "2 of 2; the record is still to be written")
        assert finish(configuration) == ("record", own)      # nothing is decoded again
        assert records.read(configuration.directory).seconds == 9.0
        assert status.state_of(configuration, current).state == "complete"


def test_two_processes_on_one_cell_end_with_one_record(tmp_path, model):
    configuration = cell_of(tmp_path, model, limit=4)
    both = [start(configuration), start(configuration)]
    results = [said.get(timeout=120) for _, said in both]
    for process, _ in both:
        process.join()
    own = identity(CurrentFingerprints().payload(configuration.parameters))
    assert ("record", own) in results
    other = next((result for result in results if result[0] != "record"), None)
    if other is not None:      # the second one may also have waited and found the record
        assert other[0] == "Locked"
        assert any(f"process {process.pid} on" in other[1] for process, _ in both)
    samples = records.samples(configuration.directory)
    assert list(samples["index"]) == [0, 1, 2, 3]
    assert set(samples["session"]) == {1}


def test_the_second_process_is_told_who_holds_the_cell(tmp_path, model):
    configuration = cell_of(tmp_path, model, limit=1)
    path = configuration.directory / ".samples.lock"
    told = pytest.raises(locks.Locked, match=f"process {os.getpid()} on ")
    with locks.lock(path), told, locks.lock(path, wait=0.1):
        pass
    assert locks.holder(configuration.directory / ".samples.lock") is None


def test_a_lock_ends_with_its_holder(tmp_path):
    code = ("import sys, time; from pathlib import Path; from fastdllm.lab.records.locks import lock\n"
            "with lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)")
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / ".lock")], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    assert locks.holder(tmp_path / ".lock")["pid"] == holder.pid
    holder.kill()
    holder.wait()
    assert locks.holder(tmp_path / ".lock") is None


def test_a_run_that_reused_nothing_is_an_error(tmp_path, model):
    configuration = cell_of(tmp_path, model, limit=1, configs=[{"k": 40, "layers": "first"}],
                   decoding={"threshold": 0.0, "max_new_tokens": 32})
    kind, message = finish(configuration)
    assert (kind, "reused nothing in any of 1 problems" in message) == ("ValueError", True)
    assert (
        status.state_of(configuration, CurrentFingerprints()).state == "partial"
    )  # its samples are kept, no record is written


def test_a_policy_is_a_file_that_the_params_name(tmp_path, model):
    source = ("from helper import VALUE\n\nfrom fastdllm.decode.policies import OutputPolicy\n\n\n"
              "class Policy(OutputPolicy):\n    pass\n")
    (tmp_path / "mine.py").write_text(source)
    (tmp_path / "helper.py").write_text("VALUE = 1\n")
    configuration = cell_of(tmp_path, model, limit=1, configs=[{"k": 2, "layers": "middle", "policy": "mine.py"}])
    assert configuration.name == "k2_middle_mine"
    assert finish(configuration)[0] == "record"
    record = records.read(configuration.directory)
    assert record.decisions["reuse"] > 0
    for name in ("mine.py", "helper.py"):       # copied into the run
        assert (configuration.directory / name).read_text() == (tmp_path / name).read_text()
    (tmp_path / "mine.py").write_text(source.replace("pass", "x = 1"))
    state = status.state_of(configuration, CurrentFingerprints())
    assert state.state == "stale"
    assert re.fullmatch(r"changed: policy file [0-9a-f]{8} -> [0-9a-f]{8}", state.detail)


def test_the_runner_killed_in_mid_run(tmp_path, model, monkeypatch, executable):
    """kill -9 of the command takes worker and kernel with it; the next run goes on and completes."""
    warm = os.environ["JUPYTER_PATH"]
    monkeypatch.delenv("JUPYTER_PATH")      # an ordinary kernel, which watches its parent itself
    configuration = cell_of(tmp_path, model, limit=60, batch_size=1)      # more than decode while the worker notices
    command = [sys.executable, "-m", "fastdllm", "grid", "run", str(tmp_path / "g.yml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    own, deadline = identity(CurrentFingerprints().payload(configuration.parameters)), time.monotonic() + 300
    while journal.progress(journal.path_of(configuration.directory, own))[0] < 2:
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    first.kill()
    first.wait()
    deadline = time.monotonic() + 300
    while status.state_of(configuration, CurrentFingerprints()).state == "running":       # the worker notices, and goes
        assert time.monotonic() < deadline
        time.sleep(0.1)
    second = subprocess.run([executable, *command[1:]], env={**environment, "JUPYTER_PATH": warm}, capture_output=True,
                            text=True, timeout=240)
    assert second.returncode == 0, second.stdout + second.stderr
    record = records.read(configuration.directory)
    assert (record.n, record.sessions) == (60, 2)
    assert "resuming at problem" in (configuration.directory / records.LOG).read_text()
    assert not list(configuration.directory.glob("*.part*"))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 kB; only root can mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]).returncode:
        pytest.skip("a full disk can't be made here (needs root and mount)")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_names_the_file_and_leaves_the_last_good_record(small_disk):
    from fastdllm.lab.config.grid import Configuration
    from fastdllm.lab.config.parameters import Parameters
    parameters = Parameters.of(model=str(lab_support.GOLDEN), k=2, layers="middle", limit=2)
    configuration, current = Configuration("e", "k2_middle", parameters, small_disk / "cell"), CurrentFingerprints()
    before = lab_support.synthetic(configuration, current)
    run = journal.begin(configuration.directory, "f" * 64, before.parameters, 9)
    with pytest.raises(OSError, match=r"partial-.*jsonl could not be written \(No space left on device\)"):
        run.add({"index": 0, "elapsed": 1.0, "session": 1, "output": "x" * 60000})
    with pytest.raises(OSError, match=r"summary.json could not be written"):
        records.write(configuration.directory, before.model_copy(update={"author": "x" * 60000}))
    assert records.read(configuration.directory) == before
    assert len(records.samples(configuration.directory)) == 2
    run.path.unlink()
    again = journal.begin(configuration.directory, "f" * 64, before.parameters, 9)
    again.add({"index": 0, "elapsed": 1.0, "session": 1})
    assert status.state_of(configuration, current).state == "complete"


def test_a_file_size_limit_acts_like_a_full_disk(tmp_path):
    """Without root: the same error where the system refuses to write more."""
    path = tmp_path / "x.json"
    atomic.write(path, "good")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match=r"x.json could not be written \(File too large\)"):
            atomic.write(path, "x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert path.read_text() == "good"
    assert [each.name for each in tmp_path.iterdir()] == ["x.json"]
