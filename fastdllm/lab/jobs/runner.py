"""The smart runner: only what is missing, each computation once, as many at once as the machine holds."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fastdllm.lab import records
from fastdllm.lab.config.grid import Configuration, Grid
from fastdllm.lab.config.paths import root
from fastdllm.lab.jobs import notebooks, status
from fastdllm.lab.jobs.machine import default_jobs, gpu_count, threads
from fastdllm.lab.jobs.plan import RunPlan, plan
from fastdllm.lab.jobs.progress import RunProgress
from fastdllm.lab.jobs.slurm import SlurmJob
from fastdllm.lab.jobs.worker import DONE, LOCKED, Work
from fastdllm.lab.records import journal, locks
from fastdllm.lab.records.identity import PACKAGE, CurrentFingerprints

POLL = 0.2     # seconds










def parameters(grid: Grid, configuration: Configuration, force: bool) -> dict[str, Any]:
    """What the configuration's notebook gets."""
    return {
        **configuration.parameters.flat(),
        "experiment": configuration.experiment,
        "config": configuration.name,
        "author": grid.author,
        "directory": str(configuration.directory),
        "trace": grid.record.trace,
        "token_ids": grid.record.token_ids,
        "force": force,
    }


def share(source: Configuration, target: Configuration) -> None:
    """Give a configuration the record of the configuration that ran the same computation."""
    with locks.lock(target.directory / status.RUN_LOCK):
        records.share(source.directory, target.directory, target.name, target.parameters.reuse)
        for leftover in (*target.directory.glob("partial-*.jsonl"), target.directory / records.SAMPLES,
                         target.directory / status.OPEN, target.directory / status.FAILED):
            leftover.unlink(missing_ok=True)


@dataclass
class Running:
    """A worker at work on a configuration."""

    configuration: Configuration
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


def run(grid: Grid, chosen: list[Configuration], force: bool | Iterable[str] = False, jobs: int | None = None,
        show: RunProgress | None = None, queue: Mapping[str, SlurmJob] | None = None) -> bool:
    """Run what is missing; True if all that was asked for is complete at the end.

    Raises ValueError before anything starts if the notebook doesn't take the parameters.
    """
    every, current, show = grid.configurations(), CurrentFingerprints(), show or RunProgress()
    to_do = plan(chosen, every, force, current, queue)
    notebook = notebooks.find(grid.notebook)
    for configuration, _, forced in to_do.run:
        notebooks.check(notebook, parameters(grid, configuration, forced))
    jobs = jobs or grid.jobs or default_jobs(grid.device, len(to_do.run))
    for state in to_do.busy:
        show.print_line(f"{state.configuration.path}: left alone, {state.state} ({state.detail})")
    good, waiting, running = not to_do.busy, list(to_do.run), []
    try:
        show.start()
        while waiting or running:
            while waiting and len(running) < jobs:
                configuration, reason, forced = waiting.pop(0)
                slot = min(set(range(jobs)) - {other.slot for other in running})
                work = Work(
                    str(notebook),
                    str(configuration.directory / notebook.name),
                    parameters(grid, configuration, forced),
                    str(root()),
                )
                process, log = start(work, configuration.directory / records.LOG, jobs, slot, grid.caches)
                running.append(Running(configuration, process, log, slot))
                show.begin(configuration.path, reason, configuration.directory / records.LOG)
            time.sleep(POLL)
            for one in list(running):
                counts = [journal.progress(path) for path in one.configuration.directory.glob("partial-*.jsonl")]
                show.update(one.configuration.path, *max(counts, default=(0, 0)))
                if one.process.poll() is not None:
                    running.remove(one)
                    good &= end(one, to_do, show)
    finally:
        show.stop()
        for one in running:
            one.process.kill()      # its kernel goes with it; finished samples are on disk
            one.process.wait()
    share_complete(to_do)
    return good


def share_complete(to_do: RunPlan) -> None:
    """Serve the names whose computation was complete before, under another name."""
    for source, target in to_do.share:
        if source not in [configuration for configuration, _, _ in to_do.run]:
            share(source, target)


def end(one: Running, to_do: RunPlan, show: RunProgress) -> bool:
    """A worker has ended: say how, and serve the names that share its run."""
    one.log.close()
    assert one.process.stdin is not None
    one.process.stdin.close()
    code = one.process.returncode
    if code != DONE:
        last = last_line(one.configuration.directory / records.LOG)
        show.end(one.configuration.path, "left alone" if code == LOCKED else "failed", last)
        return False
    record = records.read(one.configuration.directory)
    for source, target in to_do.share:
        if source is one.configuration:
            share(source, target)
    show.end(one.configuration.path, "complete", f"{record.score()}, {record.tokens_per_second:.0f} tokens/s, NFE "
             f"{record.forwards}, {record.tokens / max(record.forwards, 1):.2f} tokens per forward, "
             f"{record.seconds:.1f} s")
    return True


def last_line(log: Path) -> str:
    """The last line of a log, for an error message."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "no output"
