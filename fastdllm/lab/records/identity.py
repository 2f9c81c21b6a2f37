"""What makes two runs the same: a hash of everything that can change the result, and of nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastdllm import tasks
from fastdllm.lab.atomic import canonical, sha256
from fastdllm.lab.config.parameters import Parameters
from fastdllm.lab.config.paths import PACKAGE
from fastdllm.lab.records.provenance import Checkpoint, Dataset
from fastdllm.lab.records.record import Record
from fastdllm.lab.records.source_hash import rooms_hash, tree_hash, with_helpers
from fastdllm.model.files import find, fingerprint
from fastdllm.settings import Reuse
from fastdllm.tasks import Problem, Task

ROOMS = ("settings.py", "model", "decode", "tasks")
HASH = re.compile(r"[0-9a-f]{40,}")
BY_CONTENT = {"model", "model_revision", "limit", "data"}    # their content is hashed, not their names


def code_hash(package: Path = PACKAGE, rooms: Iterable[str] = ROOMS, texts: bool = False) -> str:
    """SHA-256 of what the code of some rooms does; the default is all that can change a result.

    Texts of errors and logs count only with `texts` (where they are part of the result, as in a notebook).
    """
    return rooms_hash(package, rooms, texts)


def policy_hash(reuse: Reuse) -> str | None:
    """What a policy's own file does, with the modules beside it that it imports; None for policies of the package."""
    if not (reuse.active and reuse.policy.endswith(".py")):
        return None
    own, *helpers = with_helpers(Path(reuse.policy))
    parts = [tree_hash(own.read_text(encoding="utf-8")),
             *(f"{helper.relative_to(own.parent)} {tree_hash(helper.read_text(encoding='utf-8'))}"
               for helper in sorted(helpers))]
    return parts[0] if not helpers else sha256("\n".join(parts))


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
            problems = task.problems(parameters.limit, Path(parameters.data) if parameters.data else None)
            name = parameters.data or parameters.task
            self._problems[key] = problems, Dataset(name=name, fingerprint=task.fingerprint(problems), n=len(problems))
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
                external_code: str | None = None) -> dict[str, Any]:
        """Everything that enters the identity, of a run that is not there yet.

        `external_code` is what stands for code that is not ours (`ExternalCode.policy`).
        """
        resolved = self.resolve(parameters, seen)
        return payload(resolved, self.checkpoint(parameters), self.problems(parameters)[1], self.code,
                       external_code or policy_hash(resolved.reuse), self.torch)


def payload(parameters: Parameters, checkpoint: Checkpoint, dataset: Dataset, code: str, policy: str | None,
            torch: str) -> dict[str, Any]:
    """Everything that enters the identity. Without reuse, what would be reused is left out."""
    values = parameters.model_dump(mode="json", exclude=BY_CONTENT)
    reuse = parameters.reuse if parameters.reuse.active else Reuse()
    if values["executor"] == "auto":
        del values["executor"]      # not asked for: records made when one could not ask have the same identity
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
    """What differs between two payloads, with the old and the new value: `decoding.threshold 0.9 -> 0.5`,
    `code 9cbe88df -> 1a2b3c4d`, `torch 2.12.0 -> 2.13.0` ..."""
    old, new = _flat(then), _flat(now)
    return [f"{name} {_short(old.get(name))} -> {_short(new.get(name))}" for name in {**new, **old}
            if old.get(name) != new.get(name)]


def _flat(payload: dict[str, Any]) -> dict[str, Any]:
    """A payload's parts by the names that people know; settings by dotted name."""
    flat: dict[str, Any] = {}
    for part, value in payload.items():
        if part == "parameters":
            for name, inner in value.items():
                flat |= {f"{name}.{key}": v for key, v in inner.items()} if isinstance(inner, dict) else {name: inner}
        elif part == "policy file" and value and " " in value:      # of external code: "generation file HASH, ..."
            flat |= dict(item.rsplit(" ", 1) for item in value.split(", "))
        else:
            flat[part] = value
    return flat


def _short(value: Any) -> str:
    """A hash as people compare it, by its beginning; other values as they are."""
    return value[:8] if isinstance(value, str) and HASH.fullmatch(value) else str(value)
