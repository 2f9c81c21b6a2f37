"""The doctor: what is right is named, what is wrong is a sentence that says what to do, and the exit status tells."""

from __future__ import annotations

import importlib.metadata
import os
import stat
from pathlib import Path

import pytest
import torch
from lab_support import invoke

from fastdllm.lab.config.parameters import Parameters
from fastdllm.lab.jobs import doctor

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


def test_quick_says_little_and_needs_no_network():
    assert ask("--model", str(GOLDEN), "--device", "cpu", "--offline") == (0, "fit for this run\n")


@no_gpu
def test_a_missing_gpu_is_a_sentence():
    code, text = ask("--model", str(GOLDEN), "--device", "cuda", "--offline")
    assert code == 1
    assert "✗ device" in text
    assert "finds no GPU" in text
    assert "fit for" not in text


def test_tasks_that_do_not_run_are_said_and_not_asked_for():
    _, text = ask("layer_reuse_7b", "--model", "tiny", "--device", "cpu", "--dtype", "float32")
    assert "humaneval does not run: humaneval runs what the model wrote" in text
    assert "task=humaneval" not in text and "checkpoint  tiny" in text
    code, text = ask("layer_reuse_7b", "--task", "humaneval")
    assert code == 1 and "fit for" not in text


def test_a_missing_package_is_named(monkeypatch):
    real = importlib.metadata.requires("fastdllm")
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: [*real, "surely-not-there>=1", "torch>=99"])
    check = doctor.packages()
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
    monkeypatch.setattr(doctor, "reachable", lambda host="": False)
    check = doctor.checkpoint("nobody/nothing-of-this-name", None)
    assert check.ok is False
    assert "fetch it first on a node with network" in check.text


def test_data_that_can_not_be_had(tmp_path):
    assert ask("params/demo.yml", "--model", str(GOLDEN), "--task", "gsm8k")[0] != 0, "the grid has no such task"
    check = doctor.task(Parameters(task="arithmetic", data=str(tmp_path / "no.jsonl")))
    assert check.ok is False
    assert "no.jsonl does not exist" in check.text


def test_a_full_or_read_only_disk(tmp_path, monkeypatch):
    assert doctor.disk(tmp_path / "not" / "yet" / "there").ok
    monkeypatch.setattr(doctor, "DISK", 1 << 60)
    assert doctor.disk(tmp_path).ok is False


@pytest.mark.parametrize(("cuda", "said"), [("12.2", "too old for CUDA 13.0"), ("13.1", "which fits")])
def test_the_driver_against_torch_s_cuda(tmp_path, monkeypatch, cuda, said):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '| NVIDIA-SMI 535.1   Driver Version: 535.104.05   CUDA Version: {cuda}     |'\n")
    tool.chmod(tool.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    text = doctor.driver("13.0")
    assert "driver 535.104.05" in text
    assert said in text
    assert "built for the CPU" in doctor.driver(None)


@pytest.mark.parametrize(("answer", "ok", "says"), [
    (None, None, "not here: grids run on this machine"), ("exit 1", None, "no cluster answers"),
    ('if [ "$1" = --version ]; then echo slurm 23.02; else echo "3 idle"; fi', True, "slurm 23.02; nodes: 3 idle")])
def test_slurm_is_named_where_it_answers_and_no_fault_where_it_does_not(tmp_path, monkeypatch, answer, ok, says):
    for name in ("sbatch", "sinfo") if answer else ():
        (tmp_path / name).write_text(f"#!/bin/sh\n{answer}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    check = doctor.scheduler()
    assert check.ok is ok and says in check.text
