"""One configuration, or one notebook, with the same care as a grid's cell."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastdllm import tasks
from fastdllm.lab import files, geometry, notebooks, records, yamlfile
from fastdllm.lab.files import canonical, sha256
from fastdllm.lab.grid import AXES, Grid
from fastdllm.lab.identity import Today, code_hash, tree_hash
from fastdllm.lab.parameters import SECTION, Parameters, Record, expand, policy_path, root
from fastdllm.lab.runner import POLL, last_line, start
from fastdllm.lab.worker import DONE, Work
from fastdllm.refusals import said
from fastdllm.settings import Settings

ROOMS = ("settings.py", "model", "decode", "tasks", "lab", "report")
RECORD = "notebook.json"
LAYERS = ("layers", "subsets", "scattered")      # parameters of notebooks that say which layers


class NotebookRun(Settings):
    """What stands beside an executed notebook: it is done if `identity` is today's."""

    identity: str
    notebook: str
    parameters: dict[str, Any]
    date: str
    seconds: float


def flat_file(path: Path) -> dict[str, Any]:
    """Flat parameters from a YAML file (the configuration panel saves such). Raises ValueError naming file and line."""
    return yamlfile.read(path).values


def grid_of(flat: dict[str, Any], experiment: str, trace: int = 0) -> Grid:
    """A grid of one cell from flat parameters; its name tells what is not the default.

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
        return Grid(experiment=experiment, **top, **values, configs=[config], record=Record(trace=trace),
                    suffix=_rest(now, default))
    except ValueError as error:
        raise ValueError(said(error)) from error


def _rest(now: dict[str, Any], default: dict[str, Any]) -> str:
    """What is not the default and has no place in a cell's name: `model-7B_shots-4`, of a path its last part."""
    other = [name for name in now if now[name] != default[name] and name not in (*AXES, "limit")]
    parts = (f"{name}-{Path(str(now[name])).name}" for name in other)
    return "_".join(re.sub(r"[^A-Za-z0-9_.+-]+", "-", part) for part in parts)


def notebook_identity(notebook: Path, parameters: dict[str, Any]) -> str:
    """Hash of code cells, all parameters, the package's code, torch, and the checkpoint that is named."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    values = {name: each.default for name, each in notebooks.declared(notebook).items()} | parameters
    today = Today()
    checkpoint = today.checkpoint(Parameters(model=values["model"])).fingerprint if values.get("model") else None
    return sha256(canonical({"cells": [_tree(source) for source in sources], "parameters": values,
                             "code": code_hash(rooms=ROOMS), "torch": today.torch, "checkpoint": checkpoint}))


def _tree(source: str) -> str:
    try:
        return tree_hash(source)
    except SyntaxError:      # a line for IPython, like %matplotlib
        return sha256(source)


def notebook_directory(notebook: Path, experiment: str, variant: str = "") -> Path:
    """Where an executed notebook goes: executed/<experiment>/<notebook>[/<variant>]."""
    return root() / "executed" / experiment / notebook.stem / variant


def run_notebook(notebook: Path, parameters: dict[str, Any], directory: Path, force: bool = False,
                 jobs: int = 1) -> bool:
    """Execute a notebook unless its executed copy is today's; True if it is there at the end.

    Raises ValueError before anything starts for parameters that it doesn't have.
    """
    values = notebooks.check(notebook, parameters)
    own, output = notebook_identity(notebook, values), directory / notebook.name
    if not force and output.exists() and (directory / RECORD).exists():
        known = NotebookRun(**json.loads((directory / RECORD).read_text(encoding="utf-8")))
        if known.identity == own:
            print(f"complete already: {output}")
            return True
    began = time.time()
    print(f"▶ {notebook.name}, log: {directory / records.LOG}")
    process, log = start(Work(str(notebook), str(output), values, str(root())), directory / records.LOG, jobs)
    try:
        while process.poll() is None:
            time.sleep(POLL)
    finally:
        process.kill()
        process.wait()
        log.close()
    if process.returncode != DONE:
        print(f"✗ {notebook.name}: {last_line(directory / records.LOG)}")
        return False
    done = NotebookRun(identity=own, notebook=notebook.name, parameters=values, seconds=time.time() - began,
                       date=datetime.now(UTC).isoformat(timespec="seconds"))
    files.write(directory / RECORD, done.model_dump_json(indent=1) + "\n")
    print(f"✓ {output} ({done.seconds:.1f} s)")
    return True


def read_parameters(notebook: Path, params: str | None, changes: list[str]) -> dict[str, Any]:
    """A notebook's parameters from a file and `key=value` changes. Raises ValueError naming file and line."""
    path = Path(expand(params)) if params else None
    file = (yamlfile.read(path) if path else yamlfile.YamlFile(Path("--set"), {}, {})).set(changes)
    known = notebooks.declared(notebook)
    for name in file.values:
        if name not in known:
            raise ValueError(f"{file.where((name,))}: {notebook.name} has no such parameter; "
                             f"allowed: {', '.join(known)}")
    given = notebooks.check(notebook, file.values)
    _fit(file, {name: each.default for name, each in known.items()} | given)
    return given


def _fit(file: yamlfile.YamlFile, values: dict[str, Any]) -> None:
    """Raise ValueError for a notebook's layers that its checkpoint lacks, or small blocks that don't divide a block."""
    if not isinstance(values.get("model"), str):
        return
    shape = geometry.of(values["model"], values.get("model_revision") or None)
    for name in (*LAYERS, "small_block"):
        chosen = values.get(name) or None
        for value in chosen if isinstance(chosen, list) else [chosen]:
            try:
                geometry.check(shape, "layers" if name in LAYERS else name, value, values.get("block_size"))
            except ValueError as error:
                raise ValueError(f"{file.where((name,))}={value!r}; {str(error).partition('; ')[2]}") from error
