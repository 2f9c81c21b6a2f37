"""Grids: an experiment as one YAML file, and the configurations that it spans."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from fastdllm.errors import did_you_mean, message
from fastdllm.lab import atomic
from fastdllm.lab.config.computation import not_applicable, repeated
from fastdllm.lab.config.parameters import (
    OF_TASK,
    SECTION,
    SECTIONS,
    Criteria,
    Parameters,
    RecordOptions,
    RunFields,
    Slurm,
    path_of,
)
from fastdllm.lab.config.paths import expand, root, short_name
from fastdllm.lab.config.yaml_file import set_path

AXES = ("task", "k", "layers", "policy", "revision", "threshold", "batch_size", "small_block", "block_cache",
        "full_forwards", "similarity", "temperature", "max_new_tokens", "dtype", "engine", "executor", "prompt", "seed",
        "repeat")
SHORT = {"threshold": "t", "batch_size": "b", "small_block": "s", "repeat": "r", "seed": "seed", "similarity": "sim",
         "temperature": "temp", "max_new_tokens": "max"}
GRID_FILE = "grid.json"     # the resolved grid, beside its report: what that is made from
REPORTS = "reports"         # below an experiment: the reports of parts of its grid (--limit, --task, --set)
WHERE = ("experiment", "config", "directory", "author", "trace", "token_ids", "force")    # a notebook's, besides
CACHES = ("HF_HOME", "HF_DATASETS_CACHE", "HF_HUB_CACHE", "TORCH_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR",
          "XDG_CACHE_HOME", "TMPDIR")


@dataclass(frozen=True)
class Configuration:
    """One configuration of a grid: what runs, the directory of its record, and what the record says besides."""

    experiment: str
    name: str
    parameters: Parameters
    directory: Path
    not_applicable: str | None = None
    record: RecordOptions = field(default_factory=RecordOptions)
    author: str = ""

    @classmethod
    def of(cls, flat: dict[str, Any]) -> Configuration:
        """Of a notebook's parameters: the inverse of `flat`."""
        values = {name: value for name, value in flat.items() if name not in WHERE}
        return cls(flat["experiment"], flat["config"], Parameters.of(**values), Path(flat["directory"]),
                   record=RecordOptions(trace=flat["trace"], token_ids=flat["token_ids"]), author=flat["author"])

    def flat(self, force: bool = False) -> dict[str, Any]:
        """What the notebook's parameters cell takes; `force` starts over."""
        return {**self.parameters.flat(), "experiment": self.experiment, "config": self.name, "author": self.author,
                "directory": str(self.directory), "trace": self.record.trace, "token_ids": self.record.token_ids,
                "force": force}

    @property
    def task(self) -> str:
        return self.parameters.task

    @property
    def limit(self) -> int | None:
        return self.parameters.limit

    @property
    def path(self) -> str:
        """`task[_limit_N]/config`: unique in the experiment."""
        return f"{self.directory.parent.name}/{self.name}"


class Grid(RunFields):
    """A params file: what one run needs, and which of it varies.

    `axes` are crossed; every entry of `configs` (listed configurations) meets every combination. `decoding` and
    `reuse` hold what the file gives; they are checked with what an axis adds to them.
    """

    experiment: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="letters, digits, _ . -")
    author: str = ""
    hypothesis: str = ""
    criteria: Criteria = Criteria()
    notebook: str = "10_cell.ipynb"
    data: str | dict[str, str] | None = None
    decoding: dict[str, Any] = Field(default_factory=dict)
    reuse: dict[str, Any] = Field(default_factory=dict)
    axes: dict[str, list[Any]] = Field(default_factory=dict)
    configs: list[dict[str, Any]] = Field(default_factory=list)
    record: RecordOptions = RecordOptions()
    slurm: Slurm = Slurm()
    jobs: int | None = Field(
        default=None, ge=1, description="configurations at once on this machine; none: what it can hold"
    )
    shards: int | None = Field(
        default=None, ge=1, description="parts of a configuration, each a process or an array task of its own; "
        "none: 1, or as many as use all GPUs of this machine"
    )
    output: str = "executed"
    suffix: str = Field(default="", pattern=r"^[A-Za-z0-9_.+-]*$", description="behind the names of all configurations")
    caches: dict[str, str] = Field(default_factory=dict)
    part: str = Field(default="", pattern=r"^[A-Za-z0-9_.+-]*$", description="what of the grid of the params file this "
                                                                             "is, like limit_2; empty: that grid")

    @field_validator("axes")
    @classmethod
    def _axes(cls, axes: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for axis, values in axes.items():
            _known(axis)
            if not values or len({repr(v) for v in values}) < len(values):
                raise ValueError(f"{axis}={values!r}; allowed: one or more different values")
        return axes

    @field_validator("configs")
    @classmethod
    def _configs(cls, configs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for config in configs:
            for axis in config:
                _known(axis)
        return configs

    @field_validator("caches")
    @classmethod
    def _caches(cls, caches: dict[str, str]) -> dict[str, str]:
        for name in caches:
            if name not in CACHES:
                raise ValueError(f"{name}; allowed: {', '.join(CACHES)}")
        return {name: expand(path) for name, path in caches.items()}

    @property
    def directory(self) -> Path:
        """Where the experiment's records lie; a relative `output` starts at the project."""
        return root() / expand(self.output) / self.experiment

    @property
    def report_directory(self) -> Path:
        """Where the report lies: beside the records, that of a part of the grid in a folder of its own."""
        return self.directory / REPORTS / self.part if self.part else self.directory

    def save(self) -> Path:
        """Write grid.json where the report goes; returns that directory."""
        atomic.write(self.report_directory / GRID_FILE, self.model_dump_json(indent=1) + "\n")
        return self.report_directory

    def of_task(self, task: str) -> Grid:
        """The grid with this one of its tasks."""
        if "task" in self.axes:
            return self.model_copy(update={"axes": {**self.axes, "task": [task]}})
        return self.model_copy(update={"configs": [config for config in self.configs
                                                   if config.get("task", self.task) == task]})

    def configurations(self) -> list[Configuration]:
        """All configurations, in order of the axes, first repeats before second ones: what is compared runs in turns.

        Raises ValueError for values that make no sense, and for two configurations of one name. Of those that are
        the same computation (computation.py) the first one runs, the others say so as not applicable.
        """
        made: dict[str, Configuration] = {}
        varying = {axis for axis, values in self.axes.items() if len(values) > 1 or axis in ("k", "layers")}
        varying |= {axis for config in self.configs for axis in config}
        for config in self.configs or [{}]:
            if both := set(config) & set(self.axes):
                raise ValueError(f"configs: {', '.join(sorted(both))} is an axis too; allowed: one place for each")
            for combination in itertools.product(*self.axes.values()):
                values = config | dict(zip(self.axes, combination, strict=True))
                configuration = self._configuration(values, varying)
                if configuration.path in made:
                    raise ValueError(
                        f"configs: {values} meets {configuration.path} again; allowed: each configuration once"
                    )
                made[configuration.path] = configuration
        reasons = repeated({path: configuration.parameters for path, configuration in made.items()
                            if configuration.not_applicable is None})
        return [replace(configuration, not_applicable=reasons.get(path, configuration.not_applicable))
                for path, configuration in sorted(made.items(), key=lambda item: item[1].parameters.repeat)]

    def _configuration(self, values: dict[str, Any], varying: set[str]) -> Configuration:
        """The grid's own values with these parameters set in them."""
        base = {name: self.__dict__[name] for name in RunFields.model_fields}
        base |= {section: dict(self.__dict__[section]) for section in SECTIONS}
        for axis, value in values.items():
            set_path(base, path_of(axis), value)
        data = self.data.get(base["task"]) if isinstance(self.data, dict) else self.data
        base |= {"data": expand(data) if data else None, "model": expand(base["model"])}
        for name in [name for name in OF_TASK if base["decoding"].get(name, "given") is None]:
            del base["decoding"][name]
        name = configuration_name(base, varying, self._policy_names()) + (f"_{self.suffix}" if self.suffix else "")
        reason = not_applicable(base)
        try:
            parameters = Parameters(**(base if reason is None else base | {"reuse": {}}))
        except ValueError as error:
            raise ValueError(f"configuration {name}: {message(error)}") from error
        folder = parameters.task + (f"_limit_{parameters.limit}" if parameters.limit else "")
        return Configuration(self.experiment, name, parameters, self.directory / folder / name, reason, self.record,
                             self.author)

    def _policy_names(self) -> dict[str, str]:
        """How policies are called in names: a file by its stem, two files of one stem by their paths besides."""
        policies = [*self.axes.get("policy", ()), *(config["policy"] for config in self.configs if "policy" in config)]
        paths = {str(policy) for policy in policies}
        stems = Counter(Path(path).stem for path in paths)
        return {path: Path(path).stem if stems[Path(path).stem] == 1 else short_name(path) for path in paths}


def configuration_name(values: dict[str, Any], varying: set[str], policies: dict[str, str]) -> str:
    """`k2_middle`, and behind it what else varies in the grid: `k2_middle_token_t0.7`."""
    reuse, parts = values["reuse"], [f"k{values['reuse'].get('k', 1)}"]
    if reuse.get("layers") is not None and (reuse.get("k", 1) > 1 or "layers" in varying):
        layers = reuse["layers"]
        parts.append(layers.replace(",", "+") if isinstance(layers, str) else "+".join(map(str, layers)))
    for axis in AXES:
        if axis in varying and axis not in ("task", "k", "layers"):
            section = SECTION.get(axis)
            value = (values[section] if section else values).get(axis)
            if value is None:
                continue
            if axis == "policy":
                value = policies[str(value)]
            if isinstance(value, bool):
                parts.append(axis if value else f"no_{axis}")
            else:
                parts.append(f"{SHORT.get(axis, '')}{value}".replace("/", "-").replace(" ", ""))
    return "_".join(parts)


def _known(axis: str) -> None:
    if axis not in AXES:
        raise ValueError(f"{axis}; {did_you_mean(axis, AXES)}allowed: {', '.join(AXES)}")
