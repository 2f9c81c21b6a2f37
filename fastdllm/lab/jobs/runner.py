"""Carries out a plan on this machine: a process for each run or shard, as many at once as the machine holds."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fastdllm.lab import records
from fastdllm.lab.config.grid import Configuration
from fastdllm.lab.config.paths import PACKAGE, root
from fastdllm.lab.config.shard import Shard
from fastdllm.lab.jobs import marks, notebooks
from fastdllm.lab.jobs.machine import default_jobs, devices, threads
from fastdllm.lab.jobs.plan import RunPlan, Unit
from fastdllm.lab.jobs.progress import RunProgress
from fastdllm.lab.jobs.worker import DONE, LOCKED, OTHERS_GO_ON, Work
from fastdllm.lab.records import journal, locks

POLL = 0.2     # seconds
NOTEBOOK_WORKER = "fastdllm.lab.jobs.worker"
SHARD_WORKER = "fastdllm.lab.evaluation.shard_worker"      # by name: evaluation stands above jobs


def share(source: Configuration, target: Configuration) -> None:
    """Give a configuration the record of the configuration that ran the same computation."""
    with locks.lock(target.directory / locks.RUN):
        records.share(source.directory, target.directory, target.name, target.parameters.reuse)
        for leftover in (*journal.paths(target.directory), target.directory / records.SAMPLES):
            leftover.unlink(missing_ok=True)
        marks.clear(target.directory)


@dataclass
class Running:
    """A worker at work on a unit."""

    unit: Unit
    process: subprocess.Popen[str]
    log: IO[str]
    slot: int


def start(job: Work, log: Path, jobs: int, gpu: str | None = None, caches: dict[str, str] | None = None) -> tuple[
        subprocess.Popen[str], IO[str]]:
    """Start a worker, on one GPU only where one is named; its output goes to `log`. Its standard input stays open as
    long as we live.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    handle = log.open("a", encoding="utf-8")
    environment = {**os.environ, **(caches or {}), **threads(jobs), "PYTHONUNBUFFERED": "1",
                   "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])}
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    module = NOTEBOOK_WORKER if Shard.parse(job.shard).whole else SHARD_WORKER
    process = subprocess.Popen([sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=handle,
                               stderr=subprocess.STDOUT, text=True, env=environment, cwd=root())
    assert process.stdin is not None
    process.stdin.write(job.dumps() + "\n")
    process.stdin.flush()
    return process, handle


def run(plan: RunPlan, jobs: int | None = None, show: RunProgress | None = None,
        gpus: Sequence[str] | None = None) -> bool:
    """Carry out a plan on this machine, each unit in a process of its own; True if all that was planned is done.

    `gpus` are shared out, one to a process (None: all that this machine or Slurm gives us). Raises ValueError before
    anything starts for what the plan's runs would all fail for (RunPlan.preflight).
    """
    plan.preflight()
    show, gpus = show or RunProgress(), devices(plan.grid.device) if gpus is None else tuple(gpus)
    jobs = jobs or plan.grid.jobs
    waiting = plan.units(min(len(gpus), jobs or len(gpus)) or 1)
    jobs = jobs or default_jobs(plan.grid.device, len(gpus), len(waiting))
    plan.start_over(waiting)
    for state in plan.busy:
        show.print_line(f"{state.configuration.path}: left alone, {state.state} ({state.detail})")
    copy_complete(plan)
    good, running = not plan.busy, []
    try:
        show.start()
        while waiting or running:
            while waiting and len(running) < jobs:
                slot = min(set(range(jobs)) - {other.slot for other in running})
                running.append(begin(plan, waiting.pop(0), jobs, slot, gpus, show))
            time.sleep(POLL)
            for one in list(running):
                unit = one.unit
                done, n = max(map(journal.progress, unit.planned.configuration.directory.glob(
                    journal.pattern(unit.shard))), default=(0, 0))
                show.update(unit.title, done, len(unit.shard.indexes(n)))
                if one.process.poll() is not None:
                    running.remove(one)
                    good &= end(one, show)
    finally:
        show.stop()
        for one in running:
            one.process.kill()      # its kernel goes with it; finished samples are on disk
            one.process.wait()
    return good


def copy_complete(plan: RunPlan) -> None:
    """Serve the names whose computation was complete before, under another name."""
    for source, target in plan.copy:
        share(source, target)


def begin(plan: RunPlan, unit: Unit, jobs: int, slot: int, gpus: Sequence[str], show: RunProgress) -> Running:
    """Start the worker of one unit; with several GPUs, on that of its slot."""
    directory, notebook = unit.planned.configuration.directory, notebooks.find(plan.grid.notebook)
    gpu = gpus[slot % len(gpus)] if len(gpus) > 1 else None
    job = Work(str(notebook), str(directory / notebook.name),
               unit.planned.configuration.flat(unit.planned.forced and unit.shard.whole), str(root()), str(unit.shard))
    process, log = start(job, directory / records.LOG, jobs, gpu, plan.grid.caches)
    reason = unit.planned.reason + (f", GPU {gpu}" if gpu is not None else "")
    show.begin(unit.title, reason, directory / records.LOG)
    return Running(unit, process, log, slot)


def end(one: Running, show: RunProgress) -> bool:
    """A worker has ended: say how, and serve the names that share its run."""
    one.log.close()
    assert one.process.stdin is not None
    one.process.stdin.close()
    configuration, code = one.unit.planned.configuration, one.process.returncode
    if code == OTHERS_GO_ON:
        show.end(one.unit.title, "done", "the record is made when all shards are")
        return True
    if code != DONE:
        last = last_line(configuration.directory / records.LOG)
        show.end(one.unit.title, "left alone" if code == LOCKED else "failed", last)
        return False
    record = records.read(configuration.directory)
    for target in one.unit.planned.shared_with:
        share(configuration, target)
    show.end(one.unit.title, "complete", f"{record.score()}, {record.tokens_per_second:.0f} tokens/s, NFE "
             f"{record.forwards}, {record.tokens / max(record.forwards, 1):.2f} tokens per forward, "
             f"{record.seconds:.1f} s")
    return True


def last_line(log: Path) -> str:
    """The last line of a log, for an error message."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "no output"
