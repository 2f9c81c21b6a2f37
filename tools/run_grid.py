"""`python -m tools.run_grid PARAMS [key=value ...]`: the grid's missing configurations, one after the other, here.

What `fastdllm grid run` does (records, resuming, one lock a configuration), without notebooks, progress bars and
worker processes: for a machine that has torch, transformers, pydantic, ruamel.yaml and statsmodels, and little else.
Several calls at once share the work: who finds a configuration taken goes on to the next.
"""

from __future__ import annotations

import sys

from fastdllm.lab.config import grid_file
from fastdllm.lab.evaluation.evaluate import evaluate
from fastdllm.lab.evaluation.prepare import PreparedRun
from fastdllm.lab.records.locks import Locked


def main(params: str, *changes: str) -> None:
    """Run a grid; k=1 runs once for all subsets (`fastdllm grid run` shares its record later, without running)."""
    grid = grid_file.load(params, list(changes))
    grid.save()
    ran: set[str] = set()
    for configuration in grid.configurations():
        if configuration.not_applicable or (key := configuration.parameters.key()) in ran:
            continue
        ran.add(key)
        try:
            record = evaluate(PreparedRun(configuration, grid.record, grid.author))
        except Locked as error:
            print(f"{configuration.path}: left to another process ({error})", flush=True)
            continue
        score = record.accuracy[record.metric]
        print(f"{configuration.path}: {score.correct} of {score.n}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
