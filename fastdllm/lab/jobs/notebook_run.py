"""One notebook, executed with the same care as a grid's configuration."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastdllm.lab import atomic, records
from fastdllm.lab.atomic import canonical, sha256
from fastdllm.lab.config import geometry, yaml_file
from fastdllm.lab.config.parameters import Parameters
from fastdllm.lab.config.paths import expand, root
from fastdllm.lab.jobs import notebooks
from fastdllm.lab.jobs.runner import POLL, last_line, start
from fastdllm.lab.jobs.worker import DONE, Work
from fastdllm.lab.records.identity import CurrentFingerprints, code_hash
from fastdllm.lab.records.source_hash import tree_hash
from fastdllm.settings import Settings

ROOMS = ("settings.py", "stats.py", "power.py", "prior_results.py", "model", "decode", "tasks", "lab", "display",
         "report", "investigation", "ui")
RECORD = "notebook.json"
LAYERS = ("layers", "subsets", "scattered")      # parameters of notebooks that say which layers


class NotebookRun(Settings):
    """What stands beside an executed notebook: it is done if `identity` is today's."""

    identity: str
    notebook: str
    parameters: dict[str, Any]
    date: str
    seconds: float


def notebook_identity(notebook: Path, parameters: dict[str, Any]) -> str:
    """Hash of code cells, all parameters, the package's code, torch, and the checkpoint that is named."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    values = {name: each.default for name, each in notebooks.declared(notebook).items()} | parameters
    current = CurrentFingerprints()
    checkpoint = current.checkpoint(Parameters(model=values["model"])).fingerprint if values.get("model") else None
    return sha256(canonical({"cells": [_tree(source) for source in sources], "parameters": values,
                             "code": code_hash(rooms=ROOMS, texts=True), "torch": current.torch,
                             "checkpoint": checkpoint}))


def _tree(source: str) -> str:
    try:
        return tree_hash(source, texts=True)
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
    atomic.write(directory / RECORD, done.model_dump_json(indent=1) + "\n")
    print(f"✓ {output} ({done.seconds:.1f} s)")
    return True


def read_parameters(notebook: Path, params: str | None, changes: list[str]) -> dict[str, Any]:
    """A notebook's parameters from a file and `key=value` changes. Raises ValueError naming file and line."""
    path = Path(expand(params)) if params else None
    file = (yaml_file.read(path) if path else yaml_file.of_options("--set")).set(changes)
    known = notebooks.declared(notebook)
    for name in file.values:
        if name not in known:
            raise ValueError(f"{file.where((name,))}: {notebook.name} has no such parameter; "
                             f"allowed: {', '.join(known)}")
    given = notebooks.check(notebook, file.values)
    _fit(file, {name: each.default for name, each in known.items()} | given)
    return given


def _fit(file: yaml_file.YamlFile, values: dict[str, Any]) -> None:
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
