"""What lies in an experiment's directory: its grid's configurations, other records, and executed notebooks."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from fastdllm.errors import did_you_mean
from fastdllm.lab import records
from fastdllm.lab.config import grid_file
from fastdllm.lab.config.grid import Configuration, Grid
from fastdllm.lab.config.parameters import Parameters
from fastdllm.lab.config.paths import executed, listed
from fastdllm.lab.jobs import notebook_run, notebooks, status
from fastdllm.lab.jobs.status import ConfigurationState
from fastdllm.lab.records.identity import CurrentFingerprints
from fastdllm.report.shipped import PUBLISHED

GALLERY = "gallery"


@dataclass(frozen=True)
class Executed:
    """An executed notebook that is no grid configuration. `problem` says why it should not be shown as today's."""

    path: Path
    name: str
    problem: str = ""
    date: str = ""


def names(folder: Path | None = None) -> list[str]:
    """The experiments that have a directory."""
    folder = folder or executed()
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir()
                  if path.is_dir() and path.name not in (PUBLISHED, GALLERY) and not path.name.startswith("."))


@dataclass(frozen=True)
class Experiment:
    """An experiment's directory. `key` tells one that ran here from one of the same name that ships."""

    name: str
    directory: Path
    shipped: bool

    @property
    def key(self) -> str:
        return f"{PUBLISHED}/{self.name}" if self.shipped else self.name


def experiments(folder: Path | None = None, wanted: list[str] | None = None) -> list[Experiment]:
    """What ran here and what ships with the project, beside each other; or those that are wanted, by key or name.

    A bare name means what ran here, if something did. Raises ValueError for a name that neither has.
    """
    folder = folder or executed()
    shelf = folder / PUBLISHED
    every = [*(Experiment(name, folder / name, False) for name in names(folder)),
             *(Experiment(name, shelf / name, True) for name in names(shelf))]
    by_key = {**{each.name: each for each in reversed(every)}, **{each.key: each for each in every}}
    if unknown := [name for name in wanted or [] if name not in by_key]:
        raise ValueError(f"experiment {', '.join(unknown)}; {did_you_mean(unknown[0], by_key)}allowed: "
                         f"{', '.join(by_key) or 'none: nothing has run'}")
    return [by_key[name] for name in wanted] if wanted else every


def grid_of(experiment: str) -> Grid | None:
    """The grid of params/ that an experiment is named after, or None.

    Raises ValueError for a params file that is not valid.
    """
    for path in listed("params", "*.yml"):
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        if isinstance(values, dict) and values.get("experiment") == experiment:
            return grid_file.load(path)
    return None


def configuration_states(
    directory: Path, current: CurrentFingerprints | None = None, grid: Grid | None = None
) -> list[ConfigurationState]:
    """The state of the grid's configurations in this directory, then of every other record that lies in it, by the
    grid's order of their names and else as one counts.

    A grid that ran in another form only (with --limit, say) counts for nothing here.
    """
    current = current or CurrentFingerprints()
    configurations = (
        grid.configurations() if grid is not None and grid.directory.resolve() == directory.resolve() else []
    )
    planned = (
        status.states(configurations, current)
        if any(configuration.directory.parent.is_dir() for configuration in configurations)
        else []
    )
    known = {state.configuration.directory.resolve() for state in planned}
    others = []
    ranks = {one.name: rank for rank, one in enumerate(grid.configurations())} if grid is not None else {}
    for path in sorted(directory.glob(f"*/*/{records.SUMMARY}"), key=lambda path: (
            path.parent.parent.name, ranks.get(path.parent.name, len(ranks)), natural_key(path.parent.name))):
        if path.parent.resolve() in known:
            continue
        try:
            record = records.read(path.parent)
        except ValueError as error:
            configuration = Configuration(directory.name, path.parent.name, _parameters_of(path), path.parent)
            others.append(ConfigurationState(configuration, "failed", str(error)))
            continue
        configuration = Configuration(directory.name, record.config, record.parameters, path.parent)
        state = (
            ConfigurationState(configuration, "complete", record=record)
            if record.redacted
            else status.state_of(configuration, current)
        )
        outside = f"not a configuration of {directory.name}.yml" if planned else ""
        others.append(replace(state, shared_with=record.shared_from,
                             detail="; ".join(filter(None, [state.detail, outside]))))
    return planned + others


def natural_key(name: str) -> list[str | float]:
    """What to sort names by so that numbers in them count: k1_b4 before k1_b16, t0.5 before t0.51."""
    parts = re.split(r"(\d+(?:\.\d+)?)", name)          # text and number in turn
    return [float(part) if place % 2 else part for place, part in enumerate(parts)]


def _parameters_of(path: Path) -> Parameters:
    """Parameters that say no more than where a damaged record lies."""
    task, _, limit = path.parent.parent.name.partition("_limit_")
    return Parameters.of(task=task, limit=int(limit) if limit.isdigit() and int(limit) else None)


def notebook_runs(directory: Path) -> list[Executed]:
    """Every executed notebook of the directory that is not a configuration's, with what speaks against it."""
    runs = []
    for path in sorted(directory.rglob("*.ipynb")):
        if ".part" in path.name or path.name.endswith(".failed.ipynb") or (path.parent / records.SUMMARY).exists():
            continue
        name = str(path.relative_to(directory).with_suffix(""))
        note = path.parent / notebook_run.RECORD
        if not note.exists():
            runs.append(Executed(path, name))
            continue
        run = notebook_run.NotebookRun(**json.loads(note.read_text(encoding="utf-8")))
        try:
            now = notebook_run.notebook_identity(notebooks.find(run.notebook), run.parameters)
            problem = "" if now == run.identity else "stale: the notebook, its parameters or the code changed"
        except ValueError as error:
            problem = f"cannot be checked: {error}"
        runs.append(Executed(path, name, problem, run.date))
    return runs
