"""Other people's result folders, taken over so that they stand beside new ones: as imported, never as complete.

Known layouts: .../<experiment>/<task>[_limit_N]/<config>/summary.json (flat, or one level deep), and the results
files of lm-evaluation-harness. What a file does not say is not guessed: the record names it as unknown and does not
hold it, and an accuracy whose n is unknown gets the interval from 0 to 1.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from fastdllm.lab import atomic, records
from fastdllm.lab.config.parameters import SECTION, Parameters
from fastdllm.lab.config.paths import executed
from fastdllm.lab.records import harness_results, old_summary
from fastdllm.lab.records.provenance import Checkpoint, Code, Dataset, Environment
from fastdllm.lab.records.record import Accuracy, Record
from fastdllm.lab.records.record import accuracy as with_interval
from fastdllm.lab.records.stated_result import StatedResult, read_json

UNKNOWN = "unknown"
ALLOWED = "allowed: a folder with old summary.json files, or with results_*.json of lm-evaluation-harness"
NO_PARAMETERS = ("task", "limit", "repeat", "model", "revision")        # said elsewhere, or in words


def take(folder: Path, experiment: str | None = None, target: Path | None = None) -> list[str]:
    """Import every result below `folder`; one line for each result that was found, then the count.

    Raises ValueError if there is none, or if nothing could be taken.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; {ALLOWED}")
    files = [*sorted(folder.rglob(records.SUMMARY)), *sorted(folder.rglob("results*.json"), reverse=True)]
    if not files:
        raise ValueError(f"{folder}: holds no {records.SUMMARY} and no results_*.json; {ALLOWED}")
    lines: list[str] = []
    taken: dict[Path, StatedResult] = {}
    count = 0
    for path in files:
        name = path.relative_to(folder)
        try:
            results = _read(path, folder)
        except ValueError as error:
            lines.append(f"✗ {name}: {error}")
            count += 1
            continue
        for result in results:
            count += 1
            try:
                home = _home(result, path, folder, experiment, target or executed())
                if home in taken and (settings := _apart(result, taken[home])):
                    home, result = home.with_name(f"{home.name}_{settings}"), replace(
                        result, config=f"{result.config}_{settings}")
                if home in taken:
                    raise ValueError(f"{home} holds what {taken[home].file.relative_to(folder)} states already; "
                                     "allowed: one result a configuration (of several results files, the newest)")
                records.write(home, record(result, experiment or _experiment(result)))
            except ValueError as error:
                lines.append(f"✗ {name}: {result.task}: {error}")
                continue
            taken[home] = result
            lines.append(f"✓ {name} -> {home}" + "".join(f"\n    not read: {text}" for text in result.skipped)
                         + "".join(f"\n    {text}" for text in result.interpreted))
    if not taken:
        raise ValueError("\n".join([*lines, f"{folder}: nothing was imported"]))
    return [*lines, f"imported {len(taken)} of {count}"]


def _read(path: Path, top: Path) -> list[StatedResult]:
    values = read_json(path)
    if path.name == records.SUMMARY and old_summary.is_record(values):
        raise ValueError("a record of this suite, not an old one; allowed: copy its whole directory below executed/")
    if harness_results.is_results(values):
        return harness_results.read(path, top, values)
    if path.name != records.SUMMARY:
        raise ValueError("no results of lm-evaluation-harness; allowed: its results_*.json")
    return [old_summary.read(path, top)]


def _home(result: StatedResult, path: Path, top: Path, experiment: str | None, target: Path) -> Path:
    """Where a result goes below `target`. Raises ValueError if it can't go there."""
    if result.accuracy is None:
        raise ValueError(f"no accuracy could be read: {'; '.join(result.skipped)}")
    if result.origin == "summary" and len(path.relative_to(top).parts) < (2 if experiment else 3):
        raise ValueError("not below <experiment>/<task>/<config>/; allowed: that layout, or --experiment NAME")
    home = target / (experiment or _experiment(result)) / _task_folder(result) / _file_name(result.config)
    if (home / records.SUMMARY).exists() and records.read(home).status != "imported":
        raise ValueError(f"{home} holds a record of a run of ours; allowed: another --experiment")
    return home


def _apart(result: StatedResult, other: StatedResult) -> str:
    """What a result ran with and another of the same folder did not, as a part of a name; "" for the same settings."""
    values, theirs = ({"k": one.k, "layers": one.layers, **one.settings} for one in (result, other))
    return _file_name("_".join(f"{name}-{value}" for name, value in values.items() if value != theirs.get(name)
                               and value is not None)) if values != theirs else ""


def record(result: StatedResult, experiment: str) -> Record:
    """An imported record: what the file states, and unknown for the rest. ValueError for settings that can't be."""
    metric, n = result.metric or "stated", result.problems
    assert result.accuracy is not None, "checked by the caller"
    scores = {name: _score(value, n) for name, value in {**result.metrics, metric: result.accuracy}.items()
              if 0 <= value <= 1}
    parameters, unknown = _parameters(result)
    numbers = {"tokens": result.tokens, "seconds": result.seconds, "n": n,
               "tokens_per_second": result.tokens_per_second}
    if result.tokens_per_second is None and result.tokens and result.seconds:
        numbers["tokens_per_second"] = result.tokens / result.seconds
    unknown += [name for name, value in numbers.items() if value is None]
    stated = {"settings": result.settings, "metrics": result.metrics, "n in the file": result.n,
              "limit": result.limit,
              "not read": list(result.skipped), "read as": list(result.interpreted),
              "contradictions": [list(one) for one in result.contradictions]}
    return Record(
        schema=records.SCHEMA, identity=f"imported-{atomic.file_sha256(result.file)}", status="imported",
        unknown=tuple(unknown), experiment=experiment, task=result.task, config=_file_name(result.config),
        limit=result.whole_limit, date=result.finished or UNKNOWN, source="/".join(result.file.parts[-4:]),
        parameters=parameters, checkpoint=Checkpoint(name=parameters.model, fingerprint=UNKNOWN),
        dataset=Dataset(name=result.task, fingerprint=UNKNOWN, n=n or 0),
        code=Code(version=UNKNOWN, commit=result.commit, dirty=result.dirty, hash=UNKNOWN),
        environment=Environment(python=UNKNOWN, torch=result.torch or UNKNOWN, transformers=UNKNOWN, platform=UNKNOWN,
                                device_name=result.gpu or UNKNOWN, node=result.node or UNKNOWN, slurm_job=result.job),
        **{name: value for name, value in numbers.items() if value is not None},
        load_seconds=0.0, warmup_seconds=0.0, nfe={}, decisions={}, metric=metric, accuracy=scores, subtasks={},
        empty=result.empty or 0, finish={}, reused_nothing=0, notes={"stated": stated})


def _parameters(result: StatedResult) -> tuple[Parameters, list[str]]:
    """The parameters that are stated and that we know, and the names of all others.

    Raises ValueError where k and layers can't go together.
    """
    given: dict[str, Any] = {"k": result.k, "layers": result.layers}
    for name, value in result.settings.items():
        if name in Parameters.model_fields or name in SECTION:
            try:
                Parameters.of(**{name: value})
            except ValueError:
                continue                  # not a value of ours ("torch.bfloat16"): it stays among what the file states
            given[name] = value
    given = {name: value for name, value in given.items() if value is not None}
    named = {"model": str(result.settings.get("model") or UNKNOWN), "revision": result.commit or UNKNOWN}
    parameters = Parameters.of(**{**given, **named, "task": result.task, "limit": result.whole_limit or None})
    return parameters, [name for name in parameters.flat() if name not in given and name not in NO_PARAMETERS]


def _score(value: float, n: int | None) -> Accuracy:
    if not n:
        return Accuracy(correct=0, n=0, value=value, low=0.0, high=1.0)
    return with_interval(round(value * n), n).model_copy(update={"value": value})


def _experiment(result: StatedResult) -> str:
    return _file_name(result.batch)


def _task_folder(result: StatedResult) -> str:
    return _file_name(result.task) + (f"_limit_{limit}" if (limit := result.whole_limit or result.limit) else "")


def _file_name(text: str) -> str:
    """The text as the name of one directory, below the one that it is put into (`..` is none)."""
    return text.replace("/", "_").replace("\0", "_").lstrip(".") or UNKNOWN
