"""Run what is missing: how notebooks and other programs make a grid's configurations complete."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from fastdllm.lab.config.grid import Configuration, Grid
from fastdllm.lab.evaluation.evaluate import evaluate
from fastdllm.lab.evaluation.prepare import PreparedRun
from fastdllm.lab.jobs import marks, runner
from fastdllm.lab.jobs.plan import PlannedRun, RunPlan, plan
from fastdllm.lab.jobs.progress import RunProgress
from fastdllm.lab.jobs.status import states
from fastdllm.lab.records.locks import Locked

WAIT = 2.0      # seconds between looks at a configuration that another process runs


def run_missing(grid: Grid, chosen: list[Configuration] | None = None, *, apart: bool = False,
                log: Callable[[str], None] = print) -> None:
    """Make the chosen configurations (None: all) complete, each computation once: here, in this process, or `apart`,
    each in a process of its own (whose peak memory is then the run's).

    A configuration that another process works on is waited for. Raises RuntimeError that names the directory if a
    run apart fails, ValueError for what a run can't do.
    """
    while not _pass(grid, chosen, apart, log):
        time.sleep(WAIT)


def _pass(grid: Grid, chosen: list[Configuration] | None, apart: bool, log: Callable[[str], None]) -> bool:
    """Run everything that nobody else is at; whether that was all."""
    to_do = plan(grid, chosen)
    free = replace(to_do, busy=[])
    if not apart:
        taken = [planned for planned in free.run if not _run_here(free, planned, log)]
    elif free.run and not runner.run(replace(free, grid=grid.model_copy(update={"shards": 1})),
                                      show=RunProgress(log=log)):
        raise RuntimeError(f"{grid.directory}: not complete: " + "; ".join(
            f"{state.configuration.path} {state.state} ({state.detail})"
            for state in states([planned.configuration for planned in free.run]) if state.state != "complete"))
    else:
        taken = []
    runner.copy_complete(free)
    return not (to_do.busy or taken)


def _run_here(plan: RunPlan, planned: PlannedRun, log: Callable[[str], None]) -> bool:
    """One run of a plan in this process; False if another process was faster to begin with it."""
    configuration = planned.configuration
    try:
        record = evaluate(PreparedRun(configuration), log=lambda _: None)
    except Locked:
        return False
    marks.clear(configuration.directory)
    for target in planned.shared_with:
        runner.share(configuration, target)
    log(f"{configuration.path}: {record.score()}, {record.tokens_per_second:.0f} tokens/s, {record.seconds:.0f} s")
    return True
