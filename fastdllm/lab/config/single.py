"""One configuration as a grid of one."""

from __future__ import annotations

import re
from typing import Any

from fastdllm import tasks
from fastdllm.errors import did_you_mean, message, with_location
from fastdllm.lab.config import geometry
from fastdllm.lab.config.grid import AXES, Grid
from fastdllm.lab.config.parameters import OF_TASK, SECTION, Parameters, RecordOptions, check, check_revision, path_of
from fastdllm.lab.config.paths import policy_path, short_name


def grid_of(flat: dict[str, Any], experiment: str, trace: int = 0) -> Grid:
    """A grid of one configuration from flat parameters; its name tells what is not the default.

    Raises ValueError for an unknown name or a wrong value.
    """
    names = list(Parameters().flat())
    if unknown := sorted(set(flat) - set(names)):
        raise ValueError(f"{', '.join(unknown)}: unknown; {did_you_mean(unknown[0], names)}allowed: "
                         f"{', '.join(sorted(names))}")
    for name, value in flat.items():
        try:
            if value is not None or name not in OF_TASK:
                check(name, value)
        except ValueError as error:
            raise ValueError(with_location(".".join(map(str, path_of(name))), str(error))) from error
    if "policy" in flat:
        flat = {**flat, "policy": policy_path(flat["policy"])}
    parameters = geometry.fits(Parameters.of(**flat))
    tasks.check_name(parameters.task)
    check_revision(parameters.revision)
    values = parameters.model_dump(exclude_unset=True)
    config, suffix = _named(parameters)
    for name in config:
        section = SECTION.get(name)
        (values.get(section, {}) if section else values).pop(name, None)
    try:
        return Grid(experiment=experiment, **values, configs=[config], record=RecordOptions(trace=trace), suffix=suffix)
    except ValueError as error:
        raise ValueError(message(error)) from error


def _named(parameters: Parameters) -> tuple[dict[str, Any], str]:
    """What is not the default: what a grid's names tell, and the rest as text: `model-golden-1f0c2a_shots-4`."""
    now, default = parameters.flat(), Parameters().flat()
    different = [name for name in now if now[name] != default[name] and name not in ("task", "limit")]
    rest = [name for name in different if name not in AXES or (name == "policy" and now[name].endswith(".py"))]
    given = {name: parameters.__dict__[section].__dict__[name] if (section := SECTION.get(name)) else now[name]
             for name in ("k", "layers", *different) if name not in rest}
    parts = (re.sub(r"[^A-Za-z0-9_.+-]+", "-", f"{name}-{_text(now[name])}") for name in rest)
    return {name: value for name, value in given.items() if value is not None}, "_".join(parts)


def _text(value: Any) -> str:
    """A value in a directory's name."""
    if isinstance(value, list):
        return "+".join(map(str, value)) or "none"
    return short_name(value) if isinstance(value, str) else str(value)
