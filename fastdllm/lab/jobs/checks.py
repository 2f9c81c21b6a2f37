"""What this machine has: every check is a sentence, tagged by what it costs, and a failing one says what to do."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from fastdllm.lab.jobs import slurm

HUB = "huggingface.co"
REACH = 3.0                  # seconds to wait for the hub
DISK = 1 << 30               # bytes that should be free where results go
MARKS = {True: "✓", False: "✗", None: "–"}

Cost = Literal["instant", "node", "network", "data"]      # what a check asks of whom: preflight.py


@dataclass(frozen=True)
class Check:
    """`ok` None: worth knowing, not needed for this run."""

    name: str
    ok: bool | None
    text: str
    cost: Cost = "instant"

    def __str__(self) -> str:
        return f"{MARKS[self.ok]} {self.name:<11} {self.text}"


def packages() -> Check:
    """Everything that the package asks for is installed, in a version that it takes."""
    try:
        wanted = [Requirement(text) for text in importlib.metadata.requires("fastdllm") or []]
    except importlib.metadata.PackageNotFoundError:
        return Check("packages", False, "fastdllm itself is not installed here: pip install -e . (or make setup)")
    missing, wrong, count = [], [], 0
    for requirement in wanted:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        count += 1
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(requirement.name)
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} (needs {requirement.specifier})")
    if missing or wrong:
        problems = [f"missing: {', '.join(missing)}"] if missing else []
        problems += [f"unfit: {', '.join(wrong)}"] if wrong else []
        return Check("packages", False, f"{'; '.join(problems)}. Run make setup in this environment ({sys.prefix})")
    named = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "papermill"))
    return Check("packages", True, f"all {count} are there: {named}")


def compute(device: str, dtype: str) -> Iterator[Check]:
    """The device exists and knows the dtype; what is wrong with the driver if it doesn't."""
    if device == "cpu" or (device == "auto" and importlib.metadata.version("torch").endswith("+cpu")):
        yield Check("device", True, f"cpu, {len(os.sched_getaffinity(0))} cores")      # no need to import torch
        yield Check("dtype", True, "float32" if dtype == "auto" else dtype)
        return
    import torch

    from fastdllm.model.lm import choose_device, choose_dtype
    if device.startswith("cuda") and not torch.cuda.is_available():
        yield Check("device", False, f"{device}: torch {torch.__version__} finds no GPU; {driver(torch.version.cuda)}")
        return
    chosen = choose_device(device)
    if chosen.type != "cuda":
        yield Check("device", True, f"cpu, {len(os.sched_getaffinity(0))} cores, {torch.get_num_threads()} threads")
        yield Check("dtype", True, str(choose_dtype(dtype, chosen)).removeprefix("torch."))
        return
    index = chosen.index or 0
    if index >= torch.cuda.device_count():
        yield Check("device", False, f"{device}: there are {torch.cuda.device_count()} GPUs here, counted from 0")
        return
    name, capability = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
    free, total = torch.cuda.mem_get_info(index)
    sm = f"SM {capability[0]}.{capability[1]}"
    yield Check("device", True, f"{name}, {sm}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free; "
                f"torch for CUDA {torch.version.cuda}; {driver(torch.version.cuda)}")
    if dtype == "bfloat16" and capability < (8, 0):
        yield Check("dtype", False, f"bfloat16 on {sm}, which has none: set dtype: float16")
    else:
        yield Check("dtype", True, str(choose_dtype(dtype, chosen)).removeprefix("torch."))


def driver(built_for: str | None) -> str:
    """What nvidia-smi says of the driver, against the CUDA version that torch was built for."""
    if built_for is None:
        return "this torch is built for the CPU: install a CUDA build (pip install torch on a machine with a GPU)"
    if shutil.which("nvidia-smi") is None:
        return f"no NVIDIA driver here (torch is built for CUDA {built_for}): ask for a GPU (slurm.gres: gpu:1)"
    done = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=30, check=False)
    version, cuda = _after(done.stdout, "Driver Version:", "CUDA Version:")
    if done.returncode or not cuda:
        said = " ".join((done.stderr or done.stdout).split())[:80]
        return f"nvidia-smi fails ({said}): was a GPU allotted to this job?"
    major, ours = int(cuda.split(".")[0]), int(built_for.split(".")[0])
    fits = "which fits" if major >= ours else f"too old for CUDA {built_for}: update it, or install an older CUDA build"
    return f"driver {version} (up to CUDA {cuda}), {fits}"


def _after(text: str, *labels: str) -> list[str]:
    return [text.partition(label)[2].split()[0].strip("|") if label in text else "" for label in labels]


def disk(output: Path) -> Check:
    """Results can be written, and there is room."""
    existing = next(path for path in (output, *output.resolve().parents) if path.is_dir())
    if not os.access(existing, os.W_OK):
        return Check("disk", False, f"{existing} can't be written: set output: in the params file")
    free = shutil.disk_usage(existing).free
    return Check("disk", free > DISK, f"{free / 2**30:.0f} GiB free where results go" +
                 ("" if free > DISK else f" ({existing}): at least 1 GiB is wanted"))


def kernel() -> Check:
    """Jupyter finds the kernel that the notebooks name."""
    from jupyter_client.kernelspec import KernelSpecManager
    known = KernelSpecManager().find_kernel_specs()
    missing = f"no kernel python3 (only {', '.join(known) or 'none'}): python -m ipykernel install --sys-prefix"
    return Check("kernel", "python3" in known, "python3" if "python3" in known else missing)


def scheduler() -> Check:
    """Slurm, if it is here and answers."""
    if not slurm.available():
        return Check("slurm", None, "not here: grids run on this machine (fastdllm grid run)")
    try:
        version = slurm.ask("sinfo", "--version").strip()
        nodes = slurm.ask("sinfo", "-h", "-o", "%D %t").split("\n")
    except slurm.SlurmError as error:
        return Check("slurm", None, f"its commands are here, but no cluster answers ({str(error).splitlines()[0]})")
    return Check("slurm", True, f"{version}; nodes: {', '.join(line for line in nodes if line)}")


def reachable(host: str = HUB) -> bool:
    """Whether the hub answers on its port."""
    try:
        socket.create_connection((host, 443), REACH).close()
    except OSError:
        return False
    return True


def login() -> Check:
    """Whether there is a token for the hub, and from where. The token itself is never shown."""
    from huggingface_hub import get_token
    if get_token() is None:
        return Check("hub", None, "not logged in: needed for gated data only (hf auth login, or HF_TOKEN)")
    source = "HF_TOKEN" if os.environ.get("HF_TOKEN") else "the login file"
    return Check("hub", True, f"a token is set ({source}); the hub {'answers' if reachable() else 'does not answer'}")
