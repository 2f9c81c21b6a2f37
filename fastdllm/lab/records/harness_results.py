"""lm-evaluation-harness' `results_*.json` of any task, and the `samples_*.jsonl` beside them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from fastdllm.lab import atomic
from fastdllm.lab.records.stated_result import (
    Location,
    Reading,
    StatedResult,
    locate,
    plain_number,
    settings_of,
    text_or_none,
    timestamp,
)
from fastdllm.tasks.task_specs import TASK_SPECS

HEADLINES = {**{task: spec.metric for task, spec in TASK_SPECS.items()}, "gsm8k_cot": "exact_match,flexible-extract"}
# Settings of the harness itself that shape an answer, by our names.
CONFIG = {"batch_size": "batch_size", "model_dtype": "dtype", "system_instruction_sha": "system instruction",
          "chat_template_sha": "chat template", "fewshot_as_multiturn": "multiturn", "random_seed": "seed",
          "model": "model class"}
# Metrics that are 0 or 1 for each problem, so that their mean is a whole number of problems.
RIGHT_OR_WRONG = re.compile(r"^(exact_match|math_verify|acc|acc_norm|em|pass@1|pass_at_1|prompt_level_\w+_acc)(,|$)")


def is_results(values: dict[str, Any]) -> bool:
    """Whether a JSON object is a results file of the harness."""
    return isinstance(values.get("results"), dict)


def read(path: Path, top: Path, values: dict[str, Any]) -> list[StatedResult]:
    """One result for each task of the file that is not part of a group; a group without scores gives its parts.

    Raises ValueError for a file in which there is none.
    """
    groups = {task: [str(part) for part in parts] for task, parts in _object(values, "group_subtasks").items()
              if isinstance(parts, list)}
    inner = {part for task, parts in groups.items() if _scores(values, task) for part in parts}
    empty = {task for task, parts in groups.items() if not _scores(values, task)
             and any(_scores(values, part) for part in parts)}
    tasks = [task for task in values["results"] if task not in inner | empty]
    if not tasks:
        raise ValueError("results: no task, or only parts of each other; allowed: at least one task or group")
    return [_result(path, top, values, task, groups) for task in tasks]


def _result(path: Path, top: Path, values: dict[str, Any], task: str, groups: dict[str, list[str]]) -> StatedResult:
    reading = Reading()
    metrics = _metrics(values, task, reading)
    headline = _headline(task, metrics, _object(_object(values, "higher_is_better"), task))
    settings, commit = _settings(values, task), text_or_none(values.get("git_hash"))
    ignored = tuple(str(values[name]) for name in ("model_name_sanitized",) if values.get(name))
    location = locate(path, top, task, (*ignored, *(part for part in path.parent.parts if "__" in part)))
    stated_k = reading.whole("model_args.k", settings.pop("k"), 1) if "k" in settings else None
    layers = text_or_none(settings.pop("layers", None)) or location.layers
    if location.rest:
        settings["folder"] = location.rest
    leaves = _leaves(task, groups)
    result = StatedResult(
        path, "lm_eval", location.name, location.batch, task, location.config, stated_k or location.k,
        re.sub(r"[\[\]()\s]", "", layers) if layers else None, _limit(values, location, reading),
        _size(values, leaves, reading),
        headline, metrics.get(headline) if headline and 0 <= metrics[headline] <= 1 else None, metrics,
        finished=timestamp(path.stem.removeprefix("results_")), commit=commit,
        gpu=_gpu(values), torch=_torch(values), settings=settings,
        group_means=_group_means(values, headline, groups.get(task, []), groups),
        contradictions=(("k", str(stated_k), str(location.k)),) if stated_k and location.k not in (None, stated_k)
        else ())
    result = _with_samples(result, leaves, reading)
    if not headline:
        reading.skipped.append(f"results.{task}: no score that can be read")
    elif result.accuracy is None:
        reading.skip(f"results.{task}.{headline}", metrics[headline], "a share from 0 to 1, to be compared")
    return replace(result, skipped=tuple(reading.skipped), interpreted=tuple(reading.interpreted))


def _metrics(values: dict[str, Any], task: str, reading: Reading) -> dict[str, float]:
    """Every metric of a task that is a number; standard errors and labels are no metrics."""
    metrics = {}
    for name, value in _object(values["results"], task).items():
        if name in ("alias", "sample_len", "samples", "name", "sample_count") or "_stderr" in name:
            continue
        number = plain_number(value)
        if number is None:
            reading.skip(f"results.{task}.{name}", value, "a number")
            continue
        if isinstance(value, str):
            reading.interpreted.append(f"results.{task}.{name}={value!r} is read as the number {number:g}")
        metrics[name] = float(number)
    return metrics


def _scores(values: dict[str, Any], task: str) -> bool:
    return bool(_metrics(values, task, Reading()))


def _headline(task: str, metrics: dict[str, float], higher_is_better: dict[str, Any]) -> str:
    """The task's own headline; for a task that we don't know, its first metric of which more is better."""
    known = [HEADLINES[name] for name in sorted(HEADLINES, key=len, reverse=True)
             if task == name or task.startswith(f"{name}_")]
    good = [name for name in metrics if higher_is_better.get(name.split(",")[0]) is not False]
    return next((name for name in known if name in metrics), next(iter([*good, *metrics]), ""))


def _settings(values: dict[str, Any], task: str) -> dict[str, Any]:
    """What the file says about how it ran: model_args, the harness's configuration, the task's."""
    config = _object(values, "config")
    given = _object(_object(values, "configs"), task)
    stated = {ours: config.get(theirs) for theirs, ours in CONFIG.items()}
    stated |= {"model": values.get("model_name"),
               "shots": _object(values, "n-shot").get(task, given.get("num_fewshot")),
               "prompt": _object(values, "task_hashes").get(task) or given.get("doc_to_text"),
               "data": given.get("dataset_path"), "task version": _object(values, "versions").get(task)}
    generation = given.get("generation_kwargs")
    for section in (generation, _arguments(config.get("gen_kwargs")), _arguments(config.get("model_args"))):
        stated |= settings_of(section) if isinstance(section, dict) else {}
    return settings_of({name: value if isinstance(value, (int, float)) else json.dumps(value) if isinstance(
        value, (list, dict)) else value for name, value in stated.items()})


def _arguments(given: Any) -> dict[str, Any]:
    """model_args as the harness writes them: an object, or `a=1,b=[2,3]` (commas in brackets separate nothing)."""
    if isinstance(given, dict):
        return given
    if not isinstance(given, str):
        return {}
    parts = re.split(r",(?![^\[(]*[\])])", given)
    return dict(part.strip().split("=", 1) for part in parts if "=" in part)


def _limit(values: dict[str, Any], location: Location, reading: Reading) -> float | None:
    """0 for all problems; None where neither the file nor a folder says."""
    config = values.get("config")
    if not isinstance(config, dict) or "limit" not in config:
        return location.limit
    return 0 if config["limit"] is None else reading.limit("config.limit", config["limit"])


def _size(values: dict[str, Any], leaves: list[str], reading: Reading) -> int | None:
    """Problems that were scored, over all parts; None where one of them is not stated."""
    sizes = [_effective(values, leaf, reading) for leaf in leaves]
    return sum(size for size in sizes if size) if sizes and all(sizes) else None


def _effective(values: dict[str, Any], leaf: str, reading: Reading) -> int | None:
    stated = _object(values, "n-samples").get(leaf)
    if isinstance(stated, dict):
        stated = stated.get("effective")
    return None if stated is None else reading.whole(f"n-samples.{leaf}", stated, 1)


def _group_means(values: dict[str, Any], metric: str, parts: list[str],
                 groups: dict[str, list[str]]) -> dict[str, float]:
    """The mean of a group's parts by problems and by parts; {} where a part's score or size is missing."""
    scores = [_metrics(values, part, Reading()).get(metric) for part in parts]
    sizes = [_size(values, _leaves(part, groups), Reading()) for part in parts]
    if not parts or None in scores or None in sizes:
        return {}
    known = [(score, size) for score, size in zip(scores, sizes, strict=True) if score is not None and size is not None]
    weighted = sum(score * size for score, size in known) / sum(size for _, size in known)
    return {"weighted": weighted, "unweighted": fmean(score for score, _ in known)}


def _leaves(task: str, groups: dict[str, list[str]], above: tuple[str, ...] = ()) -> list[str]:
    inner = [part for part in groups.get(task, []) if part not in above]
    return [leaf for part in inner for leaf in _leaves(part, groups, (*above, task))] if inner else [task]


def _with_samples(result: StatedResult, leaves: list[str], reading: Reading) -> StatedResult:
    """Empty answers, and each metric's mean, in the sample files of the same time stamp (if all of them are kept)."""
    stamp = result.file.stem.removeprefix("results")
    kept = {file.name: file for file in result.file.parent.glob("samples_*.jsonl")}
    names = [f"samples_{leaf}{stamp}.jsonl" for leaf in leaves]      # a task's name need not be a file's
    if not kept.keys() >= set(names):
        return result
    files = [kept[name] for name in names]
    rows = [row for file in files for row in _rows(file, reading)]
    if len(reading.skipped) and any("samples_" in text for text in reading.skipped):
        return result                      # what is left of a damaged file counts nothing
    filters = list(dict.fromkeys(str(row.get("filter", "")) for row in rows))
    first = [row for row in rows if str(row.get("filter", "")) == filters[0]] if rows else []
    empty = sum(_is_empty(row.get("resps")) for row in first)
    means = {}
    for metric in filter(RIGHT_OR_WRONG.match, result.metrics):
        name, _, rule = metric.partition(",")
        own = [row for row in rows if row.get("filter", rule) == rule and name in row]
        numbers = [float(row[name]) for row in own if isinstance(row[name], (bool, int, float))]
        if numbers and len(numbers) == len(own) and (len(filters) > 1 or filters == [rule] or len(result.metrics) == 1):
            means[metric] = fmean(numbers), len(numbers)
    return replace(result, empty=empty, sample_means=means)


def _rows(file: Path, reading: Reading) -> Iterator[dict[str, Any]]:
    try:
        for number, row in enumerate(atomic.json_lines(file), start=1):
            if isinstance(row, dict):
                yield row
            else:
                reading.skip(f"{file.name}, line {number}", row, "a JSON object")
    except ValueError as error:
        reading.skipped.append(str(error).replace(str(file), file.name))


def _is_empty(responses: Any) -> bool:
    """Whether every response of a problem is no text: [[""]], and the flat [""] of some versions."""
    texts = [text for part in responses for text in (part if isinstance(part, list) else [part])] if isinstance(
        responses, list) else []
    return bool(texts) and all(isinstance(text, str) and not text.strip() for text in texts)


def _object(values: dict[str, Any], name: str) -> dict[str, Any]:
    inner = values.get(name)
    return inner if isinstance(inner, dict) else {}


def _gpu(values: dict[str, Any]) -> str | None:
    gpu = re.search(r"^GPU 0: (.+)$", str(values.get("pretty_env_info", "")), re.MULTILINE)
    return gpu[1].strip() if gpu else None


def _torch(values: dict[str, Any]) -> str | None:
    version = re.search(r"PyTorch version: (\S+)", str(values.get("pretty_env_info", "")))
    return version[1] if version else None
