"""What makes two runs the same: a hash of everything that can change the result, and of nothing else."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastdllm import tasks
from fastdllm.lab.atomic import canonical, sha256
from fastdllm.lab.config.parameters import Parameters
from fastdllm.lab.records.record import Checkpoint, Dataset, Record
from fastdllm.model.files import find, fingerprint
from fastdllm.settings import Reuse
from fastdllm.tasks import Problem, Task

PACKAGE = Path(__file__).resolve().parents[2]
ROOMS = ("settings.py", "model", "decode", "tasks")
BY_CONTENT = {"model", "model_revision", "limit", "data"}    # their content is hashed, not their names


def tree_hash(source: str) -> str:
    """SHA-256 of the syntax tree of Python source: comments, docstrings and layout don't count."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            match node.body:
                case [ast.Expr(ast.Constant(str())), *rest]:
                    node.body = rest
    return sha256(ast.dump(tree))


def code_hash(package: Path = PACKAGE, rooms: Iterable[str] = ROOMS) -> str:
    """SHA-256 over the syntax trees of the code that can change a result: settings, model, decode, tasks."""
    digest = hashlib.sha256()
    for room in rooms:
        place = package / room
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(f"{path.relative_to(package)} {tree_hash(path.read_text(encoding='utf-8'))}\n".encode())
    return digest.hexdigest()


def policy_hash(reuse: Reuse) -> str | None:
    """The syntax tree of a policy's own file; None for the policies of the package."""
    if not (reuse.active and reuse.policy.endswith(".py")):
        return None
    return tree_hash(Path(reuse.policy).read_text(encoding="utf-8"))


class CurrentFingerprints:
    """Checkpoints, data, code and versions as they are now. Each is looked up once."""

    def __init__(self) -> None:
        self._checkpoints: dict[tuple[str, str | None], Checkpoint] = {}
        self._tasks: dict[str, Task] = {}
        self._problems: dict[str, tuple[list[Problem], Dataset]] = {}

    @cached_property
    def code(self) -> str:
        return code_hash()

    @cached_property
    def torch(self) -> str:
        return version("torch")

    def checkpoint(self, parameters: Parameters) -> Checkpoint:
        """Raises ValueError if the checkpoint can't be had."""
        key = (parameters.model, parameters.model_revision)
        if key not in self._checkpoints:
            path = find(*key)
            self._checkpoints[key] = Checkpoint(name=parameters.model, fingerprint=fingerprint(path))
        return self._checkpoints[key]

    def task(self, parameters: Parameters) -> Task:
        """The task with the run's options."""
        options = {name: parameters.__dict__[name] for name in ("prompt", "shots", "multiturn", "allow_code_execution")}
        key = canonical({"task": parameters.task, **options})
        if key not in self._tasks:
            self._tasks[key] = tasks.get(parameters.task, **options)
        return self._tasks[key]

    def problems(self, parameters: Parameters) -> tuple[list[Problem], Dataset]:
        """The problems of a run. Raises ValueError if the data can't be had."""
        task = self.task(parameters)
        key = canonical([id(task), parameters.limit, parameters.data])
        if key not in self._problems:
            found = task.problems(parameters.limit, Path(parameters.data) if parameters.data else None)
            name = parameters.data or parameters.task
            self._problems[key] = found, Dataset(name=name, fingerprint=task.fingerprint(found), n=len(found))
        return self._problems[key]

    def resolve(self, parameters: Parameters, seen: Parameters | None = None) -> Parameters:
        """No "auto" left, and what the task decides filled in.

        `seen` are the parameters of an existing record: its dtype stands in where only a GPU could tell and there
        is none here (a login node). Raises ValueError where nothing can tell.
        """
        device = parameters.device.split(":")[0]
        if device == "auto" and self.torch.endswith("+cpu"):
            device = "cpu"
        dtype = parameters.dtype
        if device == "cpu" and dtype == "auto":
            dtype = "float32"
        if "auto" in (device, dtype):
            import torch

            from fastdllm.model.lm import choose_device, choose_dtype
            if device == "cuda" and not torch.cuda.is_available():
                if seen is None:
                    raise ValueError("dtype='auto' with device='cuda' on a machine without GPU; "
                                     "allowed: float32, bfloat16 or float16")
                dtype = seen.dtype
            else:
                chosen = choose_device(device)
                device, dtype = chosen.type, str(choose_dtype(dtype, chosen)).removeprefix("torch.")
        task = self.task(parameters)
        of_task = {"max_new_tokens": task.max_new_tokens, "stop_strings": task.stop_strings}
        decoding = parameters.decoding.model_copy(update={name: value for name, value in of_task.items()
                                                          if name not in parameters.given})
        return parameters.model_copy(update={"device": device, "dtype": dtype, "decoding": decoding})

    def payload(self, parameters: Parameters, seen: Parameters | None = None,
                foreign: str | None = None) -> dict[str, Any]:
        """Everything that enters the identity, of a run that is not there yet; `foreign` stands for code not ours."""
        resolved = self.resolve(parameters, seen)
        return payload(resolved, self.checkpoint(parameters), self.problems(parameters)[1], self.code,
                       foreign or policy_hash(resolved.reuse), self.torch)


def payload(parameters: Parameters, checkpoint: Checkpoint, dataset: Dataset, code: str, policy: str | None,
            torch: str) -> dict[str, Any]:
    """Everything that enters the identity. Without reuse, what would be reused is left out."""
    values = parameters.model_dump(mode="json", exclude=BY_CONTENT)
    reuse = parameters.reuse if parameters.reuse.active else Reuse()
    values["reuse"] = reuse.model_dump(mode="json")
    if policy is not None:
        values["reuse"]["policy"] = Path(reuse.policy).name
    return {"parameters": values, "checkpoint": checkpoint.fingerprint, "data": dataset.fingerprint, "code": code,
            "policy file": policy, "torch": torch}


def identity(parts: dict[str, Any]) -> str:
    """SHA-256 of a payload."""
    return sha256(canonical(parts))


def payload_of(record: Record) -> dict[str, Any]:
    """The payload that a record was made from."""
    return payload(record.parameters, record.checkpoint, record.dataset, record.code.hash, record.code.policy,
                   record.environment.torch)


def changes(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two payloads: `decoding.threshold 0.9 -> 0.5`, `code`, `checkpoint` ..."""
    found = []
    for part in now:
        if part == "parameters":
            old, new = _flat(then["parameters"]), _flat(now["parameters"])
            found += [f"{name} {old.get(name)} -> {new.get(name)}" for name in new if old.get(name) != new[name]]
        elif then.get(part) != now[part]:
            found.append(f"torch {then.get(part)} -> {now[part]}" if part == "torch" else part)
    return found


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    flat = {}
    for name, value in values.items():
        flat |= {f"{name}.{inner}": v for inner, v in value.items()} if isinstance(value, dict) else {name: value}
    return flat
