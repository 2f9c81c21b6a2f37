"""Old result folders, taken over so that they stand beside new ones: as imported, never as complete.

Known layout: .../<experiment>/<task>[_limit_N]/<config>/summary.json (flat, or one level deep). What a file does not
say is not guessed: it stands as unknown, and an accuracy whose n is unknown gets the interval from 0 to 1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastdllm import tasks
from fastdllm.lab import atomic, records
from fastdllm.lab.config.parameters import Parameters
from fastdllm.lab.config.paths import executed
from fastdllm.lab.records.record import Accuracy, Checkpoint, Code, Dataset, Environment, Record
from fastdllm.lab.records.record import accuracy as with_interval

UNKNOWN = "unknown"
# What the old files call things, the most specific name first.
NAMES = {
    "accuracy": ("accuracy", "acc", "score"), "tokens": ("total_tokens", "num_tokens", "tokens"),
    "seconds": ("total_time_s", "total_time", "seconds", "elapsed", "time"),
    "throughput": ("tokens_per_second", "tokens_per_sec", "tokens_per_s", "throughput"),
    "date": ("finished", "finished_at", "timestamp", "date"), "commit": ("git_commit", "git_hash", "commit"),
    "node": ("node_name", "hostname", "node", "host"), "gpu": ("gpu", "gpu_name", "device_name"), "limit": ("limit",),
    "k": ("reuse_k", "k"), "n": ("num_samples", "n_samples", "n"), "model": ("model_path", "model"),
    "threshold": ("threshold",), "layers": ("layer_subset", "layers"), "job": ("slurm_job_id", "job_id", "job")}
CONFIG = re.compile(r"^k(\d+)(?:_(first|middle|last))?$")


def take(folder: Path, experiment: str | None = None, target: Path | None = None) -> list[str]:
    """Import every summary.json below `folder`; one line for each, then the count.

    Raises ValueError if there is none, or if nothing could be taken.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; allowed: an old results/ or artifacts/ folder")
    found = sorted(folder.rglob(records.SUMMARY))
    if not found:
        raise ValueError(f"{folder}: holds no {records.SUMMARY}; allowed: an old results/ or artifacts/ folder")
    lines, count = [], 0
    for path in found:
        try:
            place = _take(path, folder, experiment, target or executed())
        except ValueError as error:
            lines.append(f"✗ {path.relative_to(folder)}: {error}")
            continue
        lines.append(f"✓ {path.relative_to(folder)} -> {place}")
        count += 1
    if not count:
        raise ValueError("\n".join([*lines, f"{folder}: nothing was imported"]))
    return [*lines, f"imported {count} of {len(found)}"]


def _take(path: Path, top: Path, experiment: str | None, target: Path) -> Path:
    folders = [top.resolve().name, *path.relative_to(top).parts[:-1]]
    if len(folders) < 2 or (experiment is None and len(folders) < 3):
        raise ValueError("not below <experiment>/<task>/<config>/; allowed: that layout, or --experiment NAME")
    home, task, config = experiment or folders[-3], folders[-2], folders[-1]
    place = target / home / task / config
    if (place / records.SUMMARY).exists() and records.read(place).status != "imported":
        raise ValueError(f"{place} holds a record of a run of ours; allowed: another --experiment")
    values = read(path)
    records.write(place, record(values, home, task, config, path))
    return place


def read(path: Path) -> dict[str, Any]:
    """The values of an old summary.json by our names. Raises ValueError for a record of ours, or without accuracy."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{type(content).__name__}; allowed: a JSON object")
    if "schema" in content and "checksum" in content:
        raise ValueError("a record of this suite, not an old one; allowed: copy its whole directory below executed/")
    flat = {name: value for part in _levels(content) for name, value in part.items() if not isinstance(value, dict)}
    found = {ours: flat[name] for ours, names in NAMES.items() for name in reversed(names)
             if flat.get(name) is not None}
    if not isinstance(found.get("accuracy"), (int, float)):
        raise ValueError("it states no accuracy; scores are never looked up in other files")
    if found["accuracy"] > 1:
        found["accuracy"] = found["accuracy"] / 100
    return found


def record(values: dict[str, Any], experiment: str, folder: str, config: str, source: Path) -> Record:
    """An imported record: what the old file says, and unknown for the rest."""
    task, _, limit = folder.partition("_limit_")
    size = int(limit) if limit.isdigit() else _whole(values.get("limit"))
    named = CONFIG.match(config)
    k = _whole(values.get("k")) or (int(named[1]) if named else 1)
    layers = values.get("layers") or (named[2] if named else None)
    n = _whole(values.get("n")) or (size if task in tasks.names() and size else 0)
    value, metric = float(values["accuracy"]), "stated"
    score = with_interval(round(value * n), n).model_copy(update={"value": value}) if n else Accuracy(
        correct=0, n=0, value=value, low=0.0, high=1.0)
    seconds, tokens = float(values.get("seconds") or 0.0), _whole(values.get("tokens")) or 0
    parameters = Parameters.of(
        model=str(values.get("model") or UNKNOWN), task=task, limit=size or None, k=k,
        layers=str(layers) if layers else None, revision=str(values.get("commit") or UNKNOWN),
        **({"threshold": float(values["threshold"])} if "threshold" in values else {}))
    return Record(
        schema=records.SCHEMA, identity=f"imported-{atomic.file_sha256(source)}", status="imported",
        experiment=experiment, task=task, config=config, limit=size, date=str(values.get("date") or UNKNOWN),
        source="/".join(source.parts[-4:]), parameters=parameters,
        checkpoint=Checkpoint(name=parameters.model, fingerprint=UNKNOWN),
        dataset=Dataset(name=task, fingerprint=UNKNOWN, n=n),
        code=Code(version=UNKNOWN, commit=values.get("commit") and str(values["commit"]), hash=UNKNOWN),
        environment=Environment(python=UNKNOWN, torch=UNKNOWN, transformers=UNKNOWN, platform=UNKNOWN,
                                device_name=str(values.get("gpu") or UNKNOWN), node=str(values.get("node") or UNKNOWN),
                                slurm_job=values.get("job") and str(values["job"])),
        seconds=seconds, load_seconds=0.0, warmup_seconds=0.0, tokens=tokens,
        tokens_per_second=float(values.get("throughput") or (tokens / seconds if seconds else 0.0)), nfe={},
        decisions={}, n=n, metric=metric, accuracy={metric: score}, subtasks={}, empty=0, finish={}, reused_nothing=0,
        sessions=1,
        notes={"stated": {name: value for name, value in values.items() if isinstance(value, (int, float, str))}})


def _levels(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The nested objects first, so that the top level wins."""
    yield from (value for value in content.values() if isinstance(value, dict))
    yield content


def _whole(value: Any) -> int | None:
    return int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value else None
