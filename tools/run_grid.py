"""`python -m tools.run_grid PARAMS [key=value ...] [--only PATTERN]`: the grid's missing configurations, one by one.

What `fastdllm grid run` does (records, resuming, one lock a configuration), without notebooks, progress bars and
worker processes: for a machine that has torch, transformers, pydantic, ruamel.yaml and statsmodels, and little else.
Several calls at once share the work: who finds a configuration taken goes on to the next. `--only` runs those whose
TASK/NAME matches a shell pattern, in the places that the whole grid gives them: an axis narrowed to one value by
`key=value` would leave the name, and two calls with different values would share places.
"""

from __future__ import annotations

import argparse
from fnmatch import fnmatch

from fastdllm.lab.config import grid_file
from fastdllm.lab.evaluation.evaluate import evaluate
from fastdllm.lab.evaluation.prepare import PreparedRun
from fastdllm.lab.records.locks import Locked


def main(params: str, changes: list[str], only: str = "*") -> None:
    """Run a grid; k=1 runs once for all subsets (`fastdllm grid run` shares its record later, without running)."""
    grid = grid_file.load(params, changes)
    grid.save()
    ran: set[str] = set()
    for configuration in grid.configurations():
        if configuration.not_applicable or not fnmatch(str(configuration.path), only):
            continue
        if (key := configuration.parameters.key()) in ran:
            continue
        ran.add(key)
        try:
            record = evaluate(PreparedRun(configuration))
        except Locked as error:
            print(f"{configuration.path}: left to another process ({error})", flush=True)
            continue
        score = record.accuracy[record.metric]
        print(f"{configuration.path}: {score.correct} of {score.n}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("params")
    parser.add_argument("changes", nargs="*", metavar="key=value")
    parser.add_argument("--only", default="*", metavar="PATTERN")
    given = parser.parse_args()
    main(given.params, given.changes, given.only)
