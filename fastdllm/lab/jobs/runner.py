"""Carries out a plan on this machine: a process for each run, as many at once as the machine holds."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fastdllm.lab import records
from fastdllm.lab.config.grid import Configuration
from fastdllm.lab.config.paths import root
from fastdllm.lab.jobs import notebooks, status
from fastdllm.lab.jobs.machine import default_jobs, gpu_count, threads
from fastdllm.lab.jobs.plan import PlannedRun, RunPlan
from fastdllm.lab.jobs.progress import RunProgress
from fastdllm.lab.jobs.worker import DONE, LOCKED, Work
from fastdllm.lab.records import journal, locks
from fastdllm.lab.records.identity import PACKAGE

POLL = 0.2     # seconds


def share(source: Configuration, target: Configuration) -> None:
    """Give a configuration the record of the configuration that ran the same computation."""
    with locks.lock(target.directory / status.RUN_LOCK):
        records.share(source.directory, target.directory, target.name, target.parameters.reuse)
        for leftover in (*target.directory.glob("partial-*.jsonl"), target.directory / records.SAMPLES,
                         target.directory / status.OPEN, target.directory / status.FAILED):
            leftover.unlink(missing_ok=True)


@dataclass
class Running:
    """A worker at work on a planned run."""

    planned: PlannedRun
    process: subprocess.Popen[str]
    log: IO[str]
    slot: int


def start(job: Work, log: Path, jobs: int, slot: int = 0, caches: dict[str, str] | None = None) -> tuple[
        subprocess.Popen[str], IO[str]]:
    """Start a worker; its output goes to `log`. Its standard input stays open as long as we live."""
    log.parent.mkdir(parents=True, exist_ok=True)
    handle = log.open("a", encoding="utf-8")
    environment = {**os.environ, **(caches or {}), **threads(jobs), "PYTHONUNBUFFERED": "1",
                   "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])}
    if jobs > 1 and gpu_count() > 1:
        environment["CUDA_VISIBLE_DEVICES"] = str(slot % gpu_count())
    process = subprocess.Popen([sys.executable, "-m", "fastdllm.lab.jobs.worker"], stdin=subprocess.PIPE, stdout=handle,
                               stderr=subprocess.STDOUT, text=True, env=environment, cwd=root())
    assert process.stdin is not None
    process.stdin.write(job.dumps() + "\n")
    process.stdin.flush()
    return process, handle


def run(plan: RunPlan, jobs: int | None = None, show: RunProgress | None = None) -> bool:
    """Carry out a plan on this machine, each run in a process of its own; True if all of it is complete at the end.

    Raises ValueError before anything starts for what the plan's runs would all fail for (RunPlan.preflight).
    """
    plan.preflight()
    show = show or RunProgress()
    notebook, jobs = notebooks.find(plan.grid.notebook), jobs or plan.grid.jobs or default_jobs(plan.grid.device,
                                                                                               len(plan.run))
    for state in plan.busy:
        show.print_line(f"{state.configuration.path}: left alone, {state.state} ({state.detail})")
    copy_complete(plan)
    good, waiting, running = not plan.busy, list(plan.run), []
    try:
        show.start()
        while waiting or running:
            while waiting and len(running) < jobs:
                planned = waiting.pop(0)
                slot = min(set(range(jobs)) - {other.slot for other in running})
                running.append(begin(plan, planned, notebook, jobs, slot, show))
            time.sleep(POLL)
            for one in list(running):
                directory = one.planned.configuration.directory
                counts = [journal.progress(path) for path in directory.glob("partial-*.jsonl")]
                show.update(one.planned.configuration.path, *max(counts, default=(0, 0)))
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


def begin(plan: RunPlan, planned: PlannedRun, notebook: Path, jobs: int, slot: int, show: RunProgress) -> Running:
    """Start the worker of one run."""
    directory = planned.configuration.directory
    job = Work(str(notebook), str(directory / notebook.name), plan.parameters(planned), str(root()))
    process, log = start(job, directory / records.LOG, jobs, slot, plan.grid.caches)
    show.begin(planned.configuration.path, planned.reason, directory / records.LOG)
    return Running(planned, process, log, slot)


def end(one: Running, show: RunProgress) -> bool:
    """A worker has ended: say how, and serve the names that share its run."""
    one.log.close()
    assert one.process.stdin is not None
    one.process.stdin.close()
    configuration, code = one.planned.configuration, one.process.returncode
    if code != DONE:
        last = last_line(configuration.directory / records.LOG)
        show.end(configuration.path, "left alone" if code == LOCKED else "failed", last)
        return False
    record = records.read(configuration.directory)
    for target in one.planned.shared_with:
        share(configuration, target)
    show.end(configuration.path, "complete", f"{record.score()}, {record.tokens_per_second:.0f} tokens/s, NFE "
             f"{record.forwards}, {record.tokens / max(record.forwards, 1):.2f} tokens per forward, "
             f"{record.seconds:.1f} s")
    return True


def last_line(log: Path) -> str:
    """The last line of a log, for an error message."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "no output"
