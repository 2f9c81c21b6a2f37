"""One configuration as a grid of one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fastdllm import tasks
from fastdllm.errors import message
from fastdllm.lab.config import geometry
from fastdllm.lab.config.grid import AXES, Grid
from fastdllm.lab.config.parameters import SECTION, Parameters, RecordOptions
from fastdllm.lab.config.paths import policy_path


def grid_of(flat: dict[str, Any], experiment: str, trace: int = 0) -> Grid:
    """A grid of one configuration from flat parameters; its name tells what is not the default.

    Raises ValueError for an unknown name or a wrong value.
    """
    unknown = set(flat) - set(SECTION) - set(Parameters.model_fields)
    if unknown:
        allowed = sorted((set(Parameters.model_fields) | set(SECTION)) - {"decoding", "reuse"})
        raise ValueError(f"{', '.join(sorted(unknown))}: unknown; allowed: {', '.join(allowed)}")
    if isinstance(flat.get("policy"), str):
        flat = {**flat, "policy": policy_path(flat["policy"])}
    parameters, default = geometry.fits(Parameters.of(**flat)), Parameters().flat()
    if parameters.task not in tasks.names():
        raise ValueError(f"task={parameters.task!r}; allowed: {', '.join(tasks.names())}")
    from fastdllm.decode.revisions import get
    get(parameters.revision)
    values = {section: parameters.__dict__[section].model_dump(exclude_unset=True) for section in ("decoding", "reuse")}
    top = {name: value for name, value in parameters.model_dump().items()
           if name in Grid.model_fields and name not in values}
    now = parameters.flat()
    named = {axis for axis in AXES if now[axis] != default[axis] or axis in ("k", "layers")} - {"task", "limit"}
    config: dict[str, Any] = {"repeat": parameters.repeat}
    for axis in named:
        section = SECTION.get(axis)
        config[axis] = values[section].pop(axis, now[axis]) if section else top.get(axis, now[axis])
    config = {axis: value for axis, value in config.items() if value not in (None, "") and (axis != "repeat" or value)}
    try:
        return Grid(experiment=experiment, **top, **values, configs=[config], record=RecordOptions(trace=trace),
                    suffix=_rest(now, default))
    except ValueError as error:
        raise ValueError(message(error)) from error


def _rest(now: dict[str, Any], default: dict[str, Any]) -> str:
    """What is not the default and has no place in the name: `model-7B_shots-4`, of a path its last part."""
    other = [name for name in now if now[name] != default[name] and name not in (*AXES, "limit")]
    parts = (f"{name}-{Path(str(now[name])).name}" for name in other)
    return "_".join(re.sub(r"[^A-Za-z0-9_.+-]+", "-", part) for part in parts)
