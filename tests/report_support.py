"""Records with answers of our choosing, as a run would write them, and all claims: for tests of reports."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from lab_support import write_record

import fastdllm
from fastdllm import stats
from fastdllm.display.claim import Claim
from fastdllm.investigation.collapse import phase6
from fastdllm.lab import records
from fastdllm.lab.config.grid import Configuration, Grid
from fastdllm.lab.records.identity import CurrentFingerprints
from fastdllm.lab.records.record import Record
from fastdllm.report import shipped
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
             "seconds": seconds * noise[i], "executor": "fast"} for i, problem in enumerate(problems)]


def timed_on_a_gpu(record: Record, **changes: Any) -> Record:
    """The same record as if its clock had been a GPU's, whose speed-ups are measured; `changes` to its other fields."""
    parameters = record.parameters.model_copy(update={"device": "cuda"})
    return record.model_copy(update={"parameters": parameters} | changes)


def modules_that_show() -> list[ModuleType]:
    """The modules of the rooms that make claims and figures."""
    return [importlib.import_module(info.name) for info in pkgutil.walk_packages(fastdllm.__path__, "fastdllm.")
            if info.name.split(".")[1] in ("investigation", "report", "share", "ui", "display")]


def every_claim() -> dict[str, Claim]:
    """All claims of the package, by module and name."""
    return {f"{value.decide.__module__}.{value.name}": value for module in modules_that_show()
            for value in vars(module).values() if isinstance(value, Claim)}


def ship(grid: Grid, folder: Path, **changes: Any) -> None:
    """The grid's records below a folder as `fastdllm publish --compact` leaves them; `changes` to their fields."""
    for configuration in grid.configurations():
        if not configuration.not_applicable and (configuration.directory / records.SUMMARY).exists():
            record = records.read(configuration.directory)
            home = folder / configuration.directory.relative_to(grid.directory.parent)
            records.write(home, record.model_copy(update=changes))
            (home / shipped.PROBLEMS).write_bytes(bundle.problems(configuration.directory, record))


Cell = tuple[str, int, str]      # revision, k, layers


def phase6_results(right: dict[Cell, list[int]], tokens: int = 10) -> phase6.Phase6Results:
    """Results of phase 6 made up: a cell's right or wrong by problem, and the tokens of the whole."""
    rows = [{"config": f"{r}-{k}-{s}", "name": r, "revision": r, "policy": "output", "k": k, "layers": s, "n": len(v),
             "correct": sum(v), "accuracy": np.mean(v), "low": 0.0, "high": 1.0, "tokens": tokens, "nfe_full": 5,
             "nfe": 9, "model": "tiny", "task": "t", "metric": "strict"} for (r, k, s), v in right.items()]
    return phase6.Phase6Results(pd.DataFrame(rows), {row["config"]: np.array(right[key]) for key, row in
                                                     zip(right, rows, strict=True)}, {})


def shipped_of(right: dict[Cell, Sequence[int]], *, tokens: dict[Cell, int] | None = None,
               capped: int = 0, **settings: Any) -> shipped.ShippedRecords:
    """Shipped records made up: a cell's right or wrong by problem; `tokens` of each problem (20), and settings that
    differ from the real model's headline.
    """
    rows, problems = [], {}
    for key, answers in right.items():
        revision, k, layers = key
        each, path = (tokens or {}).get(key, 20), f"{revision}/k{k}_{layers}"
        table = pd.DataFrame({"id": [f"p-{i}" for i in range(len(answers))], "right": list(answers), "tokens": each,
                              "forwards": 15})
        problems[path] = table
        low, high = stats.wilson(sum(answers), len(answers))
        rows.append({"experiment": "made", "model": "smol", "task": "gsm8k_words", "config": f"k{k}_{layers}", "k": k,
                     "layers": layers, "policy": "output", "revision": revision, "engine": "diffusion",
                     "threshold": 0.9, "dtype": "float32", "limit": None, "n": len(answers), "metric": "strict",
                     "max_new_tokens": 256, "small_block": 8, "block_cache": True, "full_forwards": False,
                     "temperature": 0.0, "seed": 0, "batch_size": 8, "device_name": "a card", "date": "2026-11-25",
                     "code": "commit 0123456",
                     "path": path, "correct": sum(answers), "accuracy": sum(answers) / len(answers), "low": low,
                     "high": high, "tokens": each * len(answers), "nfe": 15 * len(answers), "capped": capped,
                     "nfe_prefill": 0, "nfe_full": 5 * len(answers), "nfe_small": 8 * len(answers),
                     "nfe_commit": 2 * len(answers), "nfe_replay": 0, "reuse": 60 * len(answers) if k > 1 else 0,
                     "computed": table[["right", "tokens", "forwards"]].to_csv(index=False)} | settings)
    return shipped.ShippedRecords(pd.DataFrame(rows), problems, "made up")
