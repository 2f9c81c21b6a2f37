"""The old `summary.json`, flat or one level deep, under the several spellings of its values."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastdllm.lab.records.stated_result import (
    OURS,
    SETTING_NAMES,
    Reading,
    StatedResult,
    locate,
    plain_number,
    read_json,
    settings_of,
    text_or_none,
    timestamp,
)

NAMES = {
    "accuracy": ("accuracy", "acc", "score"), "metric": ("metric",),
    "tokens": ("total_tokens", "tokens_generated", "num_tokens", "tokens"),
    "seconds": ("total_time_s", "total_time", "seconds", "elapsed", "time"),
    "tokens_per_second": ("tokens_per_second", "tokens_per_sec", "tokens_per_s", "throughput"),
    "finished": ("finished", "finished_at", "timestamp", "date"), "commit": ("git_commit", "git_hash", "commit"),
    "dirty": ("git_dirty", "dirty"), "node": ("node_name", "hostname", "node", "host"),
    "gpu": ("gpu_name", "device_name", "gpu"), "torch": ("torch_version", "torch"), "task": ("task",),
    "n": ("num_samples", "n_samples", "n"), "job": ("slurm_job_id", "job_id", "job")}
SECTIONS = ("model_args", "eval_params", "config", "parameters", "gen_kwargs")      # hold settings and nothing else


def is_record(values: dict[str, Any]) -> bool:
    """Whether a summary.json is a record of this suite (to be read with its checksum), not an old one."""
    return "schema" in values and "checksum" in values


def read(path: Path, top: Path) -> StatedResult:
    """What the file and the folders below `top` state. Raises ValueError for a file that is no JSON object."""
    values, reading = read_json(path), Reading()
    flat = {name: _of_a_list(name, value) if isinstance(value, list) else value
            for part in _levels(values) for name, value in part.items()
            if not isinstance(value, (dict, list)) or (isinstance(value, list) and name in OURS)}
    stated = {ours: flat[name] for ours, names in NAMES.items() for name in reversed(names) if name in flat}
    named = {OURS[name]: value for name, value in flat.items() if name in OURS}
    settings = settings_of({name: value for section in SECTIONS if isinstance(values.get(section), dict)
                            for name, value in values[section].items() if not isinstance(value, (dict, list))})
    settings |= settings_of({name: value for name, value in named.items() if name in SETTING_NAMES})
    location = locate(path, top)
    k = reading.whole("k", named["k"], 1) if named.get("k") is not None else None
    layers = text_or_none(named.get("layers"))
    finished, dirty = timestamp(stated.get("finished")), stated.get("dirty")
    if finished is None and stated.get("finished") is not None:
        reading.skip("finished", stated["finished"], "a time such as 2026-01-19T00:54:18")
    if dirty is not None and not isinstance(dirty, bool):
        reading.skip("dirty", dirty, "true or false")
    contradictions = [("k", str(k), str(location.k))] if k and location.k and k != location.k else []
    if layers and location.layers and layers != location.layers:
        contradictions.append(("layers", layers, location.layers))
    limit = _limit(named, location.limit, reading)
    for ours, names in NAMES.items():
        for name in names if ours not in stated else ():
            if isinstance(values.get(name), (list, dict) if ours == "accuracy" else list):      # else: a level
                reading.skip(name, values[name], "one value")
    if "accuracy" not in stated and not reading.skipped:
        reading.skipped.append("accuracy is not stated")
    for name in ("k", "layers", "limit"):
        settings.pop(name, None)
    if location.rest:
        settings["folder"] = location.rest
    accuracy, tokens, seconds, speed = (
        read(name, stated[name]) if name in stated else None for name, read in (
            ("accuracy", reading.share), ("tokens", reading.whole), ("seconds", reading.number),
            ("tokens_per_second", reading.number)))
    metrics, metric = _metrics(values, str(stated.get("task") or location.task), stated.get("metric"), accuracy)
    return StatedResult(
        path, "summary", location.name, location.batch, str(stated.get("task") or location.task), location.config,
        k or location.k, layers or location.layers, limit,
        n=reading.whole("n", stated["n"], 1) if "n" in stated else None, metric=metric, metrics=metrics,
        accuracy=accuracy, tokens=tokens, seconds=seconds, tokens_per_second=speed,
        finished=finished, commit=text_or_none(stated.get("commit")),
        dirty=dirty if isinstance(dirty, bool) else None,
        node=text_or_none(stated.get("node")), gpu=text_or_none(stated.get("gpu")),
        torch=text_or_none(stated.get("torch")), job=text_or_none(stated.get("job")), settings=settings,
        contradictions=tuple(contradictions), skipped=tuple(reading.skipped), interpreted=tuple(reading.interpreted))


def _of_a_list(name: str, values: list[Any]) -> str:
    """Layers as they are written elsewhere (8,9); any other list as JSON, which no number is read of."""
    layers = OURS[name] == "layers" and all(type(value) is int for value in values)
    return ",".join(map(str, values)) if layers else json.dumps(values, ensure_ascii=False)


def _limit(named: dict[str, Any], of_folder: int | None, reading: Reading) -> float | None:
    """0 for all problems (a stated null); None where neither the file nor its folder says."""
    if named.get("limit") is None:
        return of_folder if of_folder is not None else 0 if "limit" in named else None
    return reading.limit("limit", named["limit"])


def _metrics(values: dict[str, Any], task: str, named: Any, accuracy: float | None) -> tuple[dict[str, float], str]:
    """The scores that a file lists for its task, and which of them its accuracy is ("" if that is not clear)."""
    groups = values.get("group_results")
    listed = groups.get(task) if isinstance(groups, dict) else None
    metrics = {name: float(number) for name, value in (listed if isinstance(listed, dict) else {}).items()
               if "_stderr" not in name and (number := plain_number(value)) is not None}
    same = [name for name, value in metrics.items() if value == accuracy]
    return metrics, str(named or (same[0] if len(same) == 1 else ""))


def _levels(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The nested objects first, so that the top level wins."""
    yield from (value for value in values.values() if isinstance(value, dict))
    yield values
