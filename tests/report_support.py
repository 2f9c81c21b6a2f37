"""Records with answers of our choosing, as a run would write them, and all claims: for tests of reports."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from lab_support import write_record

import fastdllm
from fastdllm.display.claim import Claim
from fastdllm.lab import records
from fastdllm.lab.config.grid import Configuration, Grid
from fastdllm.lab.records.identity import CurrentFingerprints
from fastdllm.share import bundle

# configuration -> (share of right answers, seconds a problem, tokens a problem)
Behaviour = Callable[[Configuration], tuple[float, float, int]]


def healthy(configuration: Configuration) -> tuple[float, float, int]:
    """Two points lost per step of k, and 5 % faster: neither success nor collapse."""
    k = configuration.parameters.reuse.k
    return 0.95 - 0.02 * (k - 1), 0.02 / (1 + 0.05 * (k - 1)), 60


def fill(grid: Grid, behave: Behaviour = healthy, only: Callable[[Configuration], bool] = lambda _: True,
         filler: str = "") -> None:
    """Write complete records for the grid's configurations; k=1 configurations share one run, as the runner has it."""
    current, homes = CurrentFingerprints(), {}
    ranks = np.random.default_rng(7).permutation(10_000)  # which problems are easy: the same for every configuration
    for configuration in grid.configurations():
        if configuration.not_applicable or not only(configuration):
            continue
        key = f"{configuration.directory.parent} {configuration.parameters.key()}"
        if key in homes:
            records.share(homes[key].directory, configuration.directory, configuration.name,
                          configuration.parameters.reuse)
            continue
        homes[key] = configuration
        behaviour = behave(configuration)
        samples = rows(configuration, current, behaviour, ranks, filler)
        write_record(configuration, current, samples, seconds=behaviour[1] * len(samples))


def rows(configuration: Configuration, current: CurrentFingerprints, behaviour: tuple[float, float, int],
         ranks: np.ndarray, filler: str) -> list[dict[str, Any]]:
    """A sample for each problem: so large a share right, the easy ones first, with some noise in the seconds."""
    share, seconds, tokens = behaviour
    problems, _ = current.problems(configuration.parameters)
    n = len(problems)
    noise = np.random.default_rng(len(configuration.name)).uniform(0.9, 1.1, n)
    right = ranks[:n].argsort().argsort() < round(share * n)
    reused = 12 * 20 if configuration.parameters.reuse.active else 0
    return [{"id": problem.id, "subtask": problem.subtask, "output": f"#### {i}{filler}",
             "extracted": {"strict": str(i), "flexible": str(i)},
             "correct": {"strict": bool(right[i]), "flexible": bool(right[i])}, "tokens": tokens,
             "nfe": {"prefill": 1, "full": 10, "small": 20, "commit": 2},
             "decisions": {"recompute": 120, "reuse": reused, "fallback": 0, "bypass": 0},
             "seconds": seconds * noise[i]} for i, problem in enumerate(problems)]


def every_claim() -> dict[str, Claim]:
    """All claims of the package, by module and name."""
    modules = [importlib.import_module(info.name) for info in pkgutil.walk_packages(fastdllm.__path__, "fastdllm.")
               if info.name.split(".")[1] in ("investigation", "report", "share", "ui", "display")]
    return {f"{value.decide.__module__}.{value.name}": value for module in modules for value in vars(module).values()
            if isinstance(value, Claim)}


def ship(grid: Grid, folder: Path, **changes: Any) -> None:
    """The grid's records below a folder as `fastdllm publish --compact` leaves them; `changes` to their fields."""
    for configuration in grid.configurations():
        if not configuration.not_applicable and (configuration.directory / records.SUMMARY).exists():
            record = records.read(configuration.directory)
            home = folder / configuration.directory.relative_to(grid.directory.parent)
            records.write(home, record.model_copy(update=changes))
            (home / bundle.PROBLEMS).write_bytes(bundle.problems(configuration.directory, record))
