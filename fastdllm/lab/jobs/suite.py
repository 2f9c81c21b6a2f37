"""Every notebook of the suite, at full size or small: what `fastdllm notebooks` and the tests run."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdllm.lab.config import grid_file, yaml_file
from fastdllm.lab.config.paths import listed, look_up
from fastdllm.lab.jobs import notebook_run, notebooks, runner
from fastdllm.lab.jobs.plan import plan
from fastdllm.stats import number_of

EXPERIMENT = "notebooks"
RUN_BY_GRIDS = ("10_cell", "90_report")      # these get their parameters from a grid


@dataclass(frozen=True)
class Entry:
    """A notebook, its parameters, and the grid whose records it reads ("" for none)."""

    path: Path
    parameters: dict[str, Any]
    grid: str


def own_parameters(notebook: Path, size: str) -> dict[str, Any]:
    """The parameters of a notebook at a size, smoke or full: params/SIZE/NAME.yml, none if there is no such file."""
    path = look_up(Path("params", size, f"{notebook.stem}.yml"))
    return notebooks.check(notebook, yaml_file.read(path).values) if path else {}


def entries(smoke: bool = False, only: str = "") -> list[Entry]:
    """The notebooks in reading order. Raises ValueError if `only` names none of them."""
    paths = [path for path in listed("notebooks", "*.ipynb")
             if path.stem not in RUN_BY_GRIDS and only in path.stem]
    if not paths:
        raise ValueError(f"--only {only!r}: no such notebook; allowed: part of a name in notebooks/")
    result = []
    for path in paths:
        declared = notebooks.declared(path)
        grid = declared["params"].default if "params" in declared else ""
        result.append(Entry(path, own_parameters(path, "smoke" if smoke else "full"), grid))
    return result


def run(smoke: bool = False, only: str = "", jobs: int = 2, force: bool = False) -> bool:
    """Run the grids that notebooks read, then the notebooks, `jobs` at a time; True if all are complete.

    What is complete already is not run again.
    """
    chosen, began = entries(smoke, only), time.time()
    good = True
    for name in dict.fromkeys(entry.grid for entry in chosen if entry.grid and not smoke):
        grid = grid_file.load(name)
        print(f"grid {name}: {number_of(len(grid.configurations()), 'configuration')}", flush=True)
        good &= runner.run(plan(grid), grid.jobs or jobs)
    with ThreadPoolExecutor(jobs) as pool:
        done = list(pool.map(lambda entry: notebook_run.run_notebook(
            entry.path, entry.parameters,
            notebook_run.notebook_directory(entry.path, EXPERIMENT, "smoke" if smoke else ""),
            force, jobs), chosen))
    for entry, fine in zip(chosen, done, strict=True):
        print(f"{'✓' if fine else '✗'} {entry.path.stem}")
    print(f"Completed: {sum(done)} / {number_of(len(done), 'notebook')} in {time.time() - began:.0f} s, "
          f"in {notebook_run.notebook_directory(chosen[0].path, EXPERIMENT).parent}")
    return good and all(done)
