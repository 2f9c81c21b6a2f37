"""Records with answers of our choosing, as a run would write them, and all claims: for tests of reports."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Callable

import numpy as np

import fastdllm
from fastdllm.display.claim import Claim
from fastdllm.lab import atomic, records
from fastdllm.lab.config.grid import Configuration, Grid
from fastdllm.lab.records.identity import CurrentFingerprints, identity
from fastdllm.lab.records.record import Code, Environment, Record, accuracy

# configuration -> (share of right answers, seconds a problem, tokens a problem)
Behaviour = Callable[[Configuration], tuple[float, float, int]]


def healthy(configuration: Configuration) -> tuple[float, float, int]:
    """Two points lost per step of k, and 5 % faster: neither success nor collapse."""
    k = configuration.parameters.reuse.k
    return 0.95 - 0.02 * (k - 1), 0.02 / (1 + 0.05 * (k - 1)), 60


def synthetic(grid: Grid, behave: Behaviour = healthy, only: Callable[[Configuration], bool] = lambda _: True,
              filler: str = "") -> None:
    """Write complete records for the grid's configurations; k=1 configurations share one run, as the runner has it."""
    current, homes = CurrentFingerprints(), {}
    ranks = np.random.default_rng(7).permutation(10_000)  # which problems are easy: the same for every configuration
    for configuration in grid.configurations():
        if configuration.not_applicable or not only(configuration):
            continue
        key = f"{configuration.directory.parent} {configuration.parameters.key()}"
        if key in homes:
            records.share(
                homes[key].directory, configuration.directory, configuration.name, configuration.parameters.reuse
            )
            continue
        homes[key] = configuration
        _write(configuration, current, behave(configuration), ranks, filler)


def _write(
    configuration: Configuration,
    current: CurrentFingerprints,
    behaviour: tuple[float, float, int],
    ranks: np.ndarray,
    filler: str,
) -> None:
    share, seconds, tokens = behaviour
    problems, dataset = current.problems(configuration.parameters)
    n = len(problems)
    noise = np.random.default_rng(len(configuration.name)).uniform(0.9, 1.1, n)
    right = ranks[:n].argsort().argsort() < round(share * n)
    reuse = configuration.parameters.reuse
    skipped = 12 * 20 if reuse.active else 0
    rows = [{"id": problem.id, "subtask": problem.subtask, "prompt_hash": "", "output": f"#### {i}{filler}",
             "extracted": {"strict": str(i), "flexible": str(i)},
             "correct": {"strict": bool(right[i]), "flexible": bool(right[i])}, "tokens": tokens,
             "nfe": {"prefill": 1, "full": 10, "small": 20, "commit": 2}, "finish": "stop",
             "decisions": {"recompute": 120, "reuse": skipped, "fallback": 0, "bypass": 0}, "reused_nothing": False,
             "seconds": seconds * noise[i]} for i, problem in enumerate(problems)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    total = seconds * n
    resolved = current.resolve(configuration.parameters)
    parts = current.payload(configuration.parameters)
    atomic.write(configuration.directory / records.SAMPLES, text)
    records.write(
        configuration.directory,
        Record(
            schema=1,
            identity=identity(parts),
            experiment=configuration.experiment,
            task=configuration.task,
            config=configuration.name,
            limit=configuration.limit,
            date="2026-11-21T03:00:00+00:00",
            parameters=resolved,
            checkpoint=current.checkpoint(configuration.parameters),
            dataset=dataset,
            code=Code(version="0", hash=current.code),
            environment=Environment(
                python="3.11", torch=current.torch, transformers="5", platform="test", device_name="cpu", node="node-a"
            ),
            seconds=total,
            load_seconds=1.0,
            warmup_seconds=0.1,
            tokens=tokens * n,
            tokens_per_second=tokens * n / total,
            nfe={"prefill": n, "full": 10 * n, "small": 20 * n, "commit": 2 * n},
            decisions={"recompute": 120 * n, "reuse": skipped * n, "fallback": 0, "bypass": 0},
            n=n,
            metric="strict",
            accuracy={rule: accuracy(int(right.sum()), n) for rule in ("strict", "flexible")},
            subtasks={},
            empty=0,
            finish={"stop": n, "length": 0, "stop_string": 0},
            reused_nothing=0,
            samples_sha256=atomic.sha256(text),
        ),
    )


def every_claim() -> dict[str, Claim]:
    """All claims of the package, by module and name."""
    modules = [importlib.import_module(info.name) for info in pkgutil.walk_packages(fastdllm.__path__, "fastdllm.")
               if info.name.split(".")[1] in ("investigation", "report", "share", "ui", "display")]
    return {f"{value.decide.__module__}.{value.name}": value for module in modules for value in vars(module).values()
            if isinstance(value, Claim)}
