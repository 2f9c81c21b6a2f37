"""What this machine can hold."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache

KERNEL_BYTES = int(1.5e9)       # a kernel with torch, pandas, matplotlib and the embedded checkpoint
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def cores() -> int:
    """Cores that this process may use (a Slurm allocation or container shows fewer than the machine has)."""
    return len(os.sched_getaffinity(0))


def free_memory() -> int:
    """Bytes of memory that are to be had."""
    with open("/proc/meminfo", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


@cache
def gpus() -> tuple[str, ...]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them: those in it (Slurm sets it), else all
    that nvidia-smi lists. Asked without torch, which takes seconds to import.
    """
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return tuple(gpu.strip() for gpu in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if gpu.strip())
    if shutil.which("nvidia-smi") is None:
        return ()
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    return tuple(str(number) for number in range(sum(line.startswith("GPU ") for line in listed.stdout.splitlines())))


def devices(device: str) -> tuple[str, ...]:
    """The GPUs among which runs on `device` (auto, cpu, cuda or cuda:N) are shared out; cuda:N is one and no choice."""
    return gpus() if device in ("auto", "cuda") else ()


def default_jobs(device: str, gpus: int, units: int) -> int:
    """Processes at once: one a GPU, or one a core as far as memory goes."""
    if gpus or device.startswith("cuda"):
        return max(1, min(units, gpus))
    return max(1, min(units, cores(), free_memory() // KERNEL_BYTES))


def threads(jobs: int) -> dict[str, str]:
    """Environment that gives each of `jobs` processes its share of the cores, or less where that is asked for.

    Threads sleep while they wait: on a machine with other work, spinning ones make a run twenty times slower.
    """
    share = max(1, cores() // jobs)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    count = min(share, int(asked)) if asked.isdigit() and int(asked) else share
    return {**dict.fromkeys(THREADS, str(count)), "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
            "TOKENIZERS_PARALLELISM": "false"}
