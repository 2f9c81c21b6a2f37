"""A real Slurm on this host: up, down, and a node that dies."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

HERE = Path(__file__).parent
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "scancel", "sinfo")


def missing() -> str:
    """Why no Slurm can be started here; "" if it can."""
    if lacking := [name for name in NEEDED if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]:
        return f"no Slurm here ({', '.join(lacking)} missing): bash .ci/install-system.sh"
    return "" if os.getuid() == 0 else "a Slurm for tests is started as root"


@contextmanager
def slurm() -> Iterator[Path]:
    """Slurm for the length of the block, with SLURM_CONF set; yields its directory."""
    port = random.randrange(16000, 32000, 4)           # below the ports that the system gives out
    run = Path(tempfile.mkdtemp(prefix="slurm-"))      # short: munge's socket name has a limit
    before = os.environ.get("SLURM_CONF")
    try:
        subprocess.run([HERE / "up.sh", run, str(port)], check=True, timeout=300)
        os.environ["SLURM_CONF"] = str(run / "slurm.conf")
        yield run
    finally:
        done = subprocess.run([HERE / "down.sh", run], timeout=300, check=False)
        if before is None:
            os.environ.pop("SLURM_CONF", None)
        else:
            os.environ["SLURM_CONF"] = before
        assert done.returncode == 0, "a daemon did not stop"
        shutil.rmtree(run)


def kill_node(run: Path, node: str) -> None:
    """A node dies: its daemon and everything that its jobs started are gone at once; the controller is told."""
    daemon, steps, others = psutil.Process(int((run / f"slurmd.{node}.pid").read_text())), set(), []
    for process in psutil.process_iter():
        try:
            about = process.environ()
            if about.get("SLURMD_NODENAME") == node and about.get("SLURM_CONF", "").startswith(str(run)):
                others.append(process)
                parent = process.parent()
                if parent is not None and parent.name().startswith("slurmstepd"):
                    steps.add(parent)       # it would tell the controller that its script was killed
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    for process in [daemon, *steps, *others]:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    subprocess.run(["scontrol", "update", f"nodename={node}", "state=down", "reason=test"], check=True)


def wait(what, seconds: float, poll: float = 0.3):
    """Wait until `what()` is true and return it. Raises AssertionError after so many seconds."""
    until = time.monotonic() + seconds
    while not (reached := what()):
        assert time.monotonic() < until, f"waited {seconds} s in vain"
        time.sleep(poll)
    return reached
