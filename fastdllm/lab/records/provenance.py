"""Where a record comes from: weights, data, code and machine, and how the last two are found out."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
from importlib.metadata import version
from typing import Any

from fastdllm.lab.config.parameters import Parameters
from fastdllm.lab.config.paths import PACKAGE
from fastdllm.settings import Settings
from fastdllm.version import __version__


class Checkpoint(Settings):
    """The weights by name and by content."""

    name: str
    fingerprint: str


class Dataset(Settings):
    """The problems by name and by content, and how many."""

    name: str
    fingerprint: str
    n: int


class Code(Settings):
    """`hash`: what settings, model, decode and tasks do; `policy`: a policy's own file, or code that is not ours.

    Version and commit are for people.
    """

    version: str
    commit: str | None = None
    dirty: bool | None = None
    hash: str
    policy: str | None = None


class Environment(Settings):
    """Where it ran. No variables of the environment ever stand here."""

    python: str
    torch: str
    transformers: str
    platform: str
    device_name: str
    node: str
    slurm_job: str | None = None


def code(tree: str, policy: str | None) -> Code:
    """The code of this run; commit and dirty flag where the package lies in a git checkout."""
    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=PACKAGE.parent, capture_output=True, text=True, timeout=20)
        except (FileNotFoundError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    changed = git("status", "--porcelain", "--", PACKAGE.name)
    return Code(version=__version__, commit=git("rev-parse", "HEAD"), dirty=None if changed is None else bool(changed),
                hash=tree, policy=policy)


def node() -> str:
    """The name of this machine, as Slurm or it itself has it."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def environment(parameters: Parameters, nodes: tuple[str, ...] = ()) -> Environment:
    """Versions, device and node (all of them, where shards ran on several `nodes`). Never the variables of the
    environment: they may hold secrets.
    """
    return Environment(python=sys.version.split()[0], torch=version("torch"), transformers=version("transformers"),
                       platform=platform.platform(), device_name=device_name(parameters.device),
                       node=", ".join(sorted({node(), *nodes} - {""})) if len(nodes) > 1 else node(),
                       slurm_job=slurm_job())


def device_name(device: str) -> str:
    """The GPU's or the processor's name."""
    if device == "cuda":
        import torch
        return torch.cuda.get_device_name()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "cpu")
    except OSError:
        return platform.processor() or "cpu"


def peak_memory(device: str) -> dict[str, Any]:
    """The most memory this process has held so far: on the GPU what torch allocated, else resident memory."""
    if device == "cuda":
        import torch
        return {"peak_memory_bytes": torch.cuda.max_memory_allocated(), "peak_memory_of": "GPU"}
    import resource
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "peak_memory_of": "process"}


def slurm_job() -> str | None:
    """`123_4` for an array task, `123` for a job, None outside Slurm."""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")
