"""Checks before work: what a plan's runs need, the cheap checks (checks.py) before the dear ones.

    cost       what it asks                                      who asks it
    instant    files and versions: the same on every node        everybody, `grid submit` nothing else
    node       the device, the kernel, the hub's local cache     the node that runs: `run`, `grid run`, a job's prologue
    network    the hub, for a checkpoint that is not here        `run`, `grid run`
    data       loads the problems of every task                  `fastdllm doctor`

No weights are read. A plan (plan.py) is judged by `RunPlan.preflight`; `fastdllm doctor` prints all there is to know.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastdllm.lab.config import geometry
from fastdllm.lab.config.parameters import Parameters
from fastdllm.lab.jobs import checks, notebooks
from fastdllm.lab.jobs.checks import Check, Cost
from fastdllm.model import files as checkpoints

SUBMITTED: frozenset[Cost] = frozenset({"instant"})
ON_THE_NODE: frozenset[Cost] = frozenset({"instant", "node"})
STARTED: frozenset[Cost] = frozenset({"instant", "node", "network"})
EVERYTHING: frozenset[Cost] = frozenset({"instant", "node", "network", "data"})


def preflight(runs: list[Parameters], output: Path, costs: frozenset[Cost] = EVERYTHING) -> Iterator[Check]:
    """What these runs need, one by one, the cheap ones first; only what may be paid for is asked."""
    online = "network" in costs
    steps: dict[Cost, Callable[[], Iterator[Check]]] = {
        "instant": lambda: _instant(runs, output), "node": lambda: _node(runs, online), "data": lambda: _data(runs)}
    for cost, step in steps.items():
        if cost in costs:
            yield from (replace(check, cost=cost) for check in step())


def _instant(runs: list[Parameters], output: Path) -> Iterator[Check]:
    yield checks.packages()
    yield checks.disk(output)
    for model, revision in _models(runs):
        if not _on_hub(model):
            yield checkpoint(model, revision)
    for path in sorted({run.data for run in runs if run.data}):
        yield Check("data", Path(path).exists(), f"{path} {'is there' if Path(path).exists() else 'does not exist'}")


def _node(runs: list[Parameters], online: bool) -> Iterator[Check]:
    for device, dtype in sorted({(run.device, run.dtype) for run in runs}):
        yield from checks.compute(device, dtype)
    for model, revision in _models(runs):
        if _on_hub(model):
            yield checkpoint(model, revision, online)
    yield checks.kernel()


def _data(runs: list[Parameters]) -> Iterator[Check]:
    for run in {(run.task, run.data): run for run in runs}.values():
        yield task(run)


def _models(runs: list[Parameters]) -> list[tuple[str, str | None]]:
    return [(model, revision or None) for model, revision in
            sorted({(run.model, run.model_revision or "") for run in runs})]


def machine() -> Iterator[Check]:
    """What is worth knowing of this machine, whatever runs on it: seconds, and the hub is asked."""
    yield Check("python", sys.version_info >= (3, 11), f"{platform.python_version()} on {platform.platform()}")
    yield checks.scheduler()
    yield checks.login()


def notebook(name: str, parameters: Iterable[dict[str, Any]]) -> Check:
    """The notebook is there and takes the parameters of every run."""
    try:
        path = notebooks.find(name)
        for values in parameters:
            notebooks.check(path, values)
    except ValueError as error:
        return Check("notebook", False, str(error))
    return Check("notebook", True, f"{path.name} takes the parameters of every run")


def _on_hub(model: str) -> bool:
    """Whether a checkpoint is named by a hub id, so that its files lie in the hub's cache if they are here."""
    return checkpoints.local(model) is None and checkpoints.HUB_ID.fullmatch(model) is not None


def checkpoint(model: str, revision: str | None, online: bool = True) -> Check:
    """The checkpoint is on this machine and all of it but the weights loads (or, online, it is on the hub)."""
    from fastdllm.model.lm import check
    try:
        geometry.check_model(model)
        if not _on_hub(model):
            path = checkpoints.find(model, revision)
        else:
            from huggingface_hub import snapshot_download
            from huggingface_hub.errors import LocalEntryNotFoundError
            try:
                path = Path(snapshot_download(model, revision=revision, local_files_only=True))
            except LocalEntryNotFoundError:
                if not online or not checks.reachable():
                    return Check("checkpoint", False, f"{model} is not in the local cache and the hub can't be "
                                 "reached: fetch it first on a node with network (HF_HOME on a shared disk)")
                return _at_hub(model, revision)
        size = sum(file.stat().st_size for file in checkpoints.weight_files(path))
        check(path)
    except ValueError as error:
        return Check("checkpoint", False, str(error))
    return Check("checkpoint", True, f"{model}: {size / 2**20:.0f} MiB of weights")


def _at_hub(model: str, revision: str | None) -> Check:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError
    try:
        info = HfApi().model_info(model, revision=revision)
    except HfHubHTTPError as error:
        return Check("checkpoint", False, f"{model}: the hub says {str(error).splitlines()[0]}")
    return Check("checkpoint", True, f"{model}: on the hub (revision {(info.sha or '')[:12]}), will be fetched")


def task(run: Parameters) -> Check:
    """The problems of a task can be had: local file, cache, or hub with the terms accepted."""
    from fastdllm.tasks.access import check
    try:
        return Check("task", True, check(run.task, run.data, prompt=run.prompt, shots=run.shots,
                                         multiturn=run.multiturn, allow_code_execution=run.allow_code_execution))
    except ValueError as error:
        return Check("task", False, str(error))
