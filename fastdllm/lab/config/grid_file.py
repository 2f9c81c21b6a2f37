"""Reading grid files: looked up, validated value by value, with errors that name file, line, key and value."""

from __future__ import annotations

import os
from collections.abc import Iterable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from fastdllm import tasks
from fastdllm.errors import SettingsError, did_you_mean, nearest, with_location
from fastdllm.lab.atomic import sha256
from fastdllm.lab.config import geometry, yaml_file
from fastdllm.lab.config.grid import AXES, Configuration, Grid
from fastdllm.lab.config.parameters import OF_TASK, SECTION, SECTIONS, Parameters, Slurm, check, check_revision
from fastdllm.lab.config.paths import expand, listed, look_up, policy_path, root

DEFAULT = "layer_reuse"


def find(name: str | Path | None) -> Path:
    """A params file: a path, or the bare name of a file in params/; none: the default grid."""
    path = Path(expand(str(name or DEFAULT)))
    if path.is_file():
        return path
    by_name = look_up(Path("params", path.name if path.suffix else f"{path.name}.yml"))
    if by_name and path.parent == Path("."):
        return by_name
    known = [file.stem for file in listed("params", "*.yml")]
    raise ValueError(f"{name}: no such file; {did_you_mean(path.stem, known)}allowed: a YAML file, or one of "
                     f"{', '.join(known)}")


def load(name: str | Path | None = None, overrides: list[str] | None = None,
         environment: MutableMapping[str, str] | None = None) -> Grid:
    """Read and validate a grid. Raises ValueError that names file, line, key, value and what is allowed.

    `environment` (`os.environ`, for a program) takes the grid's caches before a checkpoint is looked for, so that the
    program looks where the grid's runs will.
    """
    file = yaml_file.read(find(name)).set(overrides or [])
    values = dict(file.values)
    if values and "experiment" not in values and set(values) <= set(Parameters().flat()):
        raise ValueError(f"{file.path}: flat parameters of one run; allowed: fastdllm run {file.path.stem}, or a grid, "
                         "which has an experiment")
    if isinstance(values.get("slurm"), dict):
        values["slurm"] = _with_profile(file, values["slurm"])
    try:
        grid = Grid(**values)
    except SettingsError as error:
        raise ValueError(file.explain(error) + _nearer(values)) from error
    if environment is not None:
        environment.update(grid.caches)
    _check_values(file, grid)
    grid = _with_policy_files(file, grid)
    try:
        grid.configurations()
    except ValueError as error:
        raise ValueError(f"{file.where(('axes',) if grid.axes else ('configs',))}: {error}") from error
    return grid


def load_part(name: str | Path | None = None, task: str | None = None, limit: int | None = None,
              config: Iterable[str] = (), overrides: Sequence[str] = (),
              environment: MutableMapping[str, str] | None = None) -> tuple[Grid, list[Configuration]]:
    """What the options --task, --limit, --config and --set mean of a grid file: the grid, and its configurations.

    A task that the grid lacks replaces its own. `Grid.part` names what of the file's grid is meant, "" for all of it.
    Raises what `load` and `select` raise.
    """
    part = "_".join([*([task] if task else []), *([f"limit_{limit}"] if limit else []),
                     *([f"set-{sha256(' '.join(overrides))[:6]}"] if overrides else [])])
    changes = [*overrides, *([] if limit is None else [f"limit={limit}"])]
    grid = load(name, changes, environment)
    if task is not None and task not in {configuration.task for configuration in grid.configurations()}:
        try:
            tasks.check_name(task)
        except ValueError as error:
            raise ValueError(f"--task {str(error).removeprefix('task=')}") from error
        grid = load(name, [*changes, f"axes.task=[{task}]" if "task" in grid.axes else f"task={task}"])
    if part:
        grid = grid.model_copy(update={"part": part})
    return grid, select(grid.configurations(), task, config)


def select(configurations: list[Configuration], task: str | None = None,
           config: Iterable[str] = ()) -> list[Configuration]:
    """The configurations of a task and of some names. Raises ValueError for a name that the grid doesn't have."""
    if task is not None and task not in (known := sorted({configuration.task for configuration in configurations})):
        raise ValueError(f"--task {task!r}; {did_you_mean(task, known)}allowed: {', '.join(known)}")
    names = list(dict.fromkeys(configuration.name for configuration in configurations))
    for name in config:
        if name not in names and name not in (configuration.path for configuration in configurations):
            raise ValueError(f"--config {name!r}; {did_you_mean(name, names)}allowed: {', '.join(names)}")
    wanted = set(config)
    return [configuration for configuration in configurations if task in (None, configuration.task)
            and (not wanted or configuration.name in wanted or configuration.path in wanted)]


def _nearer(values: dict[str, Any]) -> str:
    """Where a key that stands at the top belongs, if it has a place at all."""
    meant = {name: name if name in SECTION else nearest(name, [*Grid.model_fields, *SECTION])
             for name in values if name not in Grid.model_fields}
    return "".join(f"\n{did_you_mean(name, SECTION) if name != own else ''}{own}: allowed as {SECTION[own]}.{own} for "
                   "all configurations" + (f", axes.{own} (a list) to cross it" if own in AXES else "")
                   for name, own in meant.items() if own in SECTION)


def _with_profile(file: yaml_file.YamlFile, slurm: dict[str, Any]) -> dict[str, Any]:
    """The profile's keys under the grid's own."""
    if not slurm.get("profile"):
        return slurm
    try:
        return slurm_profile(str(slurm["profile"])).model_dump(exclude_unset=True) | slurm
    except ValueError as error:
        raise ValueError(f"{file.where(('slurm', 'profile'))}: {error}") from error


def slurm_profile(name: str) -> Slurm:
    """A Slurm profile: a YAML file, or the name of one in params/slurm. Raises ValueError naming file and line."""
    by_path = name.endswith((".yml", ".yaml"))
    path = Path(expand(name)) if by_path else look_up(Path("params", "slurm", f"{name}.yml"))
    if path is None or not path.is_file():
        known = [profile.stem for profile in listed("params/slurm", "*.yml")]
        raise ValueError(f"profile {name!r}; {did_you_mean(name, known)}allowed: {', '.join(known)}, or a YAML file")
    file = yaml_file.read(path)
    try:
        return Slurm(**file.values)
    except SettingsError as error:
        raise ValueError(file.explain(error)) from error


def _check_values(file: yaml_file.YamlFile, grid: Grid) -> None:
    """Every single value that an axis or a section holds, so that an error can name its line."""
    values: list[tuple[yaml_file.Key, str, Any]] = [(("revision",), "revision", grid.revision),
                                                    (("task",), "task", grid.task)]
    for section in SECTIONS:
        for name, value in grid.__dict__[section].items():
            if SECTION.get(name) != section:
                allowed = [key for key, where in SECTION.items() if where == section]
                raise ValueError(f"{file.where((section, name))}: {value!r}; unknown key; {did_you_mean(name, allowed)}"
                                 f"allowed: {', '.join(allowed)}")
            values.append(((section, name), name, value))
    for axis, each in grid.axes.items():
        values += [(("axes", axis, i), axis, value) for i, value in enumerate(each)]
    for i, config in enumerate(grid.configs):
        values += [(("configs", i, axis), axis, value) for axis, value in config.items()]
    shape = geometry.of(grid.model, grid.model_revision)
    for key, name, value in values:
        if value is None and name in OF_TASK:      # the task's own
            continue
        try:
            check(name, value)
            geometry.check(shape, name, value, grid.decoding.get("block_size"))
            if name == "task":
                tasks.check_name(str(value))
            if name == "revision" and value != "fixed":
                check_revision(str(value))
        except ValueError as error:
            raise ValueError(with_location(file.where(key), str(error))) from error


def _with_policy_files(file: yaml_file.YamlFile, grid: Grid) -> Grid:
    """Policy files by absolute path; a relative one is looked up beside the params file, then in the project."""
    def full(key: yaml_file.Key, value: Any) -> Any:
        try:
            return policy_path(value, file.path.parent) if isinstance(value, str) else value
        except ValueError as error:
            raise ValueError(with_location(file.where(key), str(error))) from error

    reuse = {key: full(("reuse", key), value) if key == "policy" else value for key, value in grid.reuse.items()}
    axes = {axis: [full(("axes", axis, i), v) for i, v in enumerate(values)] if axis == "policy" else values
            for axis, values in grid.axes.items()}
    configs = [{axis: full(("configs", i, axis), v) if axis == "policy" else v for axis, v in config.items()}
               for i, config in enumerate(grid.configs)]
    return grid.model_copy(update={"reuse": reuse, "axes": axes, "configs": configs})


def new(name: str, source: str | Path) -> Path:
    """A new params file from another one, its `experiment` replaced. Raises ValueError if it exists."""
    target = Path(expand(name)) if name.endswith((".yml", ".yaml")) else root() / "params" / f"{name}.yml"
    if target.exists():
        raise ValueError(f"{target}: exists; allowed: a new name")
    text = find(source).read_text(encoding="utf-8")
    lines = [f"experiment: {target.stem}" if line.startswith("experiment:") else line for line in text.splitlines()]
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    part.write_text("\n".join(lines) + "\n", encoding="utf-8")
    try:
        load(part)
    except ValueError:
        part.unlink()
        raise
    os.replace(part, target)
    return target
