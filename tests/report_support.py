"""Records with answers of our choosing, written as a run would write them: for tests and benchmarks of reports."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np

from fastdllm.lab import atomic, records
from fastdllm.lab.config.grid import Cell, Grid
from fastdllm.lab.records.identity import Today, identity
from fastdllm.lab.records.record import Code, Environment, Record, accuracy

# cell -> (share of right answers, seconds a problem, tokens a problem)
Behaviour = Callable[[Cell], tuple[float, float, int]]


def healthy(cell: Cell) -> tuple[float, float, int]:
    """Two points lost per step of k, and 5 % faster: neither success nor collapse."""
    k = cell.parameters.reuse.k
    return 0.95 - 0.02 * (k - 1), 0.02 / (1 + 0.05 * (k - 1)), 60


def synthetic(grid: Grid, behave: Behaviour = healthy, only: Callable[[Cell], bool] = lambda _: True,
              filler: str = "") -> None:
    """Write complete records for the grid's cells; k=1 cells share one run, as the runner has it."""
    today, homes = Today(), {}
    ranks = np.random.default_rng(7).permutation(10_000)  # which problems are easy: the same for every cell
    for cell in grid.cells():
        if cell.not_applicable or not only(cell):
            continue
        key = f"{cell.directory.parent} {cell.parameters.key()}"
        if key in homes:
            records.share(homes[key].directory, cell.directory, cell.name, cell.parameters.reuse)
            continue
        homes[key] = cell
        _write(cell, today, behave(cell), ranks, filler)


def _write(cell: Cell, today: Today, behaviour: tuple[float, float, int], ranks: np.ndarray, filler: str) -> None:
    share, seconds, tokens = behaviour
    problems, dataset = today.problems(cell.parameters)
    n = len(problems)
    noise = np.random.default_rng(len(cell.name)).uniform(0.9, 1.1, n)
    right = ranks[:n].argsort().argsort() < round(share * n)
    reuse = cell.parameters.reuse
    skipped = 12 * 20 if reuse.active else 0
    rows = [{"id": problem.id, "subtask": problem.subtask, "prompt_hash": "", "output": f"#### {i}{filler}",
             "extracted": {"strict": str(i), "flexible": str(i)},
             "correct": {"strict": bool(right[i]), "flexible": bool(right[i])}, "tokens": tokens,
             "nfe": {"prefill": 1, "full": 10, "small": 20, "commit": 2}, "finish": "stop",
             "decisions": {"recompute": 120, "reuse": skipped, "fallback": 0, "bypass": 0}, "reused_nothing": False,
             "seconds": seconds * noise[i]} for i, problem in enumerate(problems)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    total = seconds * n
    resolved = today.resolve(cell.parameters)
    parts = today.payload(cell.parameters)
    atomic.write(cell.directory / records.SAMPLES, text)
    records.write(cell.directory, Record(
        schema=1, identity=identity(parts), experiment=cell.experiment, task=cell.task, config=cell.name,
        limit=cell.limit, date="2026-11-21T03:00:00+00:00", parameters=resolved,
        checkpoint=today.checkpoint(cell.parameters), dataset=dataset,
        code=Code(version="0", hash=today.code), environment=Environment(
            python="3.11", torch=today.torch, transformers="5", platform="test", device_name="cpu", node="node-a"),
        seconds=total, load_seconds=1.0, warmup_seconds=0.1, tokens=tokens * n, tokens_per_second=tokens * n / total,
        nfe={"prefill": n, "full": 10 * n, "small": 20 * n, "commit": 2 * n},
        decisions={"recompute": 120 * n, "reuse": skipped * n, "fallback": 0, "bypass": 0}, n=n, metric="strict",
        accuracy={rule: accuracy(int(right.sum()), n) for rule in ("strict", "flexible")}, subtasks={}, empty=0,
        finish={"stop": n, "length": 0, "stop_string": 0}, reused_nothing=0,
        samples_sha256=atomic.sha256(text)))
