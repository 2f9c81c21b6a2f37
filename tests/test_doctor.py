"""The doctor: what is right is named, what is wrong is a sentence that says what to do, and the exit status tells."""

from __future__ import annotations

import importlib.metadata
import os
import stat
from pathlib import Path

import lab_support
import pytest
import torch
from lab_support import invoke

from fastdllm.lab.config import grid_file
from fastdllm.lab.config.parameters import Parameters
from fastdllm.lab.jobs import checks, preflight
from fastdllm.lab.jobs import plan as plans

GOLDEN = Path(__file__).parent / "golden"
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


def ask(*arguments: str) -> tuple[int, str]:
    return invoke("doctor", *arguments)


def test_a_fit_machine():
    code, text = ask("--model", str(GOLDEN), "--device", "cpu", "--task", "arithmetic")
    assert code == 0, text
    for name in ("python", "packages", "device", "dtype", "checkpoint", "disk", "kernel", "task"):
        assert f"✓ {name}" in text
    assert text.rstrip().endswith("fit for this run")


def test_offline_says_little_and_needs_no_network():
    assert ask("--model", str(GOLDEN), "--device", "cpu", "--offline") == (0, "fit for this run\n")


@no_gpu
def test_a_missing_gpu_is_a_sentence():
    code, text = ask("--model", str(GOLDEN), "--device", "cuda", "--offline")
    assert code == 1
    assert "✗ device" in text
    assert "finds no GPU" in text
    assert "fit for" not in text


@pytest.fixture
def offline(monkeypatch):
    """The hub's libraries, which are imported already, ask nobody: where there is no network they try for a minute."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("offline")
def test_tasks_that_do_not_run_are_said_and_not_asked_for():
    _, text = ask("layer_reuse_7b", "--model", "tiny", "--device", "cpu", "--dtype", "float32")
    assert "humaneval does not run: humaneval runs what the model wrote" in text
    assert "task=humaneval" not in text and "checkpoint  tiny" in text
    code, text = ask("layer_reuse_7b", "--task", "humaneval")
    assert code == 1 and "fit for" not in text


def test_a_missing_package_is_named(monkeypatch):
    real = importlib.metadata.requires("fastdllm")
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: [*real, "surely-not-there>=1", "torch>=99"])
    check = checks.packages()
    assert check.ok is False
    assert "missing: surely-not-there" in check.text
    assert f"torch {importlib.metadata.version('torch')} (needs >=99)" in check.text
    assert "make setup" in check.text


def test_a_missing_checkpoint(tmp_path):
    code, text = ask("--model", str(tmp_path / "nowhere"), "--offline")
    assert code == 1
    assert "✗ checkpoint" in text
    (tmp_path / "config.json").write_text("{}")
    code, text = ask("--model", str(tmp_path), "--offline")
    assert code == 1
    assert "no weights" in text


def test_a_hub_checkpoint_that_is_not_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "reachable", lambda host="": False)
    check = preflight.checkpoint("nobody/nothing-of-this-name", None)
    assert check.ok is False
    assert "fetch it first on a node with network" in check.text


@pytest.mark.parametrize("model", ["./tiny", "tiny/", "../tiny", "a/b/c", "no-such", "x" * 100])
def test_what_is_no_hub_id_is_a_directory_that_is_not_there(tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    check = preflight.checkpoint(model, None)
    shown = repr(model)[:50].rstrip("'")      # a long name is shortened
    assert not check.ok and f"model: {shown}" in check.text and " is no directory; allowed: " in check.text


def test_data_that_can_not_be_had(tmp_path):
    assert ask("params/demo.yml", "--model", str(GOLDEN), "--task", "gsm8k")[0] != 0, "the grid has no such task"
    check = preflight.task(Parameters(task="arithmetic", data=str(tmp_path / "no.jsonl")))
    assert check.ok is False
    assert "no.jsonl does not exist" in check.text


def test_a_full_or_read_only_disk(tmp_path, monkeypatch):
    assert checks.disk(tmp_path / "not" / "yet" / "there").ok
    monkeypatch.setattr(checks, "DISK", 1 << 60)
    assert checks.disk(tmp_path).ok is False


@pytest.mark.parametrize(("cuda", "said"), [("12.2", "too old for CUDA 13.0"), ("13.1", "which fits")])
def test_the_driver_against_torch_s_cuda(tmp_path, monkeypatch, cuda, said):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '| NVIDIA-SMI 535.1   Driver Version: 535.104.05   CUDA Version: {cuda}     |'\n")
    tool.chmod(tool.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    text = checks.driver("13.0")
    assert "driver 535.104.05" in text
    assert said in text
    assert "built for the CPU" in checks.driver(None)


@pytest.mark.parametrize(("answer", "ok", "says"), [
    (None, None, "not here: grids run on this machine"), ("exit 1", None, "no cluster answers"),
    ('if [ "$1" = --version ]; then echo slurm 23.02; else echo "3 idle"; fi', True, "slurm 23.02; nodes: 3 idle")])
def test_slurm_is_named_where_it_answers_and_no_fault_where_it_does_not(tmp_path, monkeypatch, answer, ok, says):
    for name in ("sbatch", "sinfo") if answer else ():
        (tmp_path / name).write_text(f"#!/bin/sh\n{answer}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    check = checks.scheduler()
    assert check.ok is ok and says in check.text


def plan_of(tmp_path, **values):
    return plans.plan(grid_file.load(lab_support.params(tmp_path / "g.yml", GOLDEN, **values)))


def test_checks_are_tagged_and_only_what_may_be_paid_for_is_asked(tmp_path, monkeypatch):
    """Submitting asks files and versions; a start asks the node; nobody but the doctor loads the problems."""
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    plan = plan_of(tmp_path, device="cpu")
    asked = {costs: {(check.name, check.cost) for check in plan.checks(costs)}
             for costs in (preflight.SUBMITTED, preflight.ON_THE_NODE, preflight.STARTED, preflight.EVERYTHING)}
    instant = {(name, "instant") for name in ("notebook", "packages", "disk", "checkpoint")}
    node = instant | {(name, "node") for name in ("device", "dtype", "kernel")}
    assert list(asked.values()) == [instant, node, node, node | {("task", "data")}]


@no_gpu
def test_a_plan_is_refused_for_what_its_own_runs_would_fail_for(tmp_path):
    assert plan_of(tmp_path, device="cpu").preflight() is None
    with pytest.raises(ValueError, match=r"device: cuda: torch .* finds no GPU.*\nnothing was started"):
        plan_of(tmp_path, device="cuda", dtype="float32").preflight()
    assert plan_of(tmp_path, device="cuda", dtype="float32").preflight(preflight.SUBMITTED) is None
    with pytest.raises(ValueError, match=r"no\.jsonl does not exist"):
        plan_of(tmp_path, device="cpu", data=str(tmp_path / "no.jsonl")).preflight(preflight.SUBMITTED)
    with pytest.raises(ValueError, match=r"notebook: .*no_such\.ipynb"):
        plan_of(tmp_path, device="cpu", notebook="no_such.ipynb").preflight(preflight.SUBMITTED)
    complete = plans.RunPlan(plan_of(tmp_path, device="cuda").grid)
    assert complete.preflight() is None, "nothing runs, so nothing is asked"


@no_gpu
@pytest.mark.parametrize("command", [("grid", "run"), ("grid", "submit")])
def test_dry_runs_say_what_would_be_refused(tmp_path, command):
    path = lab_support.params(tmp_path / "g.yml", GOLDEN, device="cuda", dtype="float32",
                              data=str(tmp_path / "no.jsonl"))
    code, text = invoke(*command, path, "--dry-run")
    assert code == 0 and "would be refused: data: " in text
    assert ("would be refused: device" in text) == (command[1] == "run")
    assert all(line.startswith("would be refused: ") for line in text.splitlines()), "and what is refused would not run"
    assert not (tmp_path / "executed").exists()
    code, text = invoke(*command, path)
    assert code == 1 and "no.jsonl does not exist" in text
    assert not (tmp_path / "executed").exists(), "something was started"
