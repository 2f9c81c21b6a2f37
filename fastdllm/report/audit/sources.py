"""What the audit reads: the published table, and any folder of results.

Three layouts are known by their content, wherever they lie: our records (`summary.json` with schema and checksum),
the old `summary.json`, and lm-evaluation-harness' `results_*.json` (with its `samples_*.jsonl`, if kept).
"""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false, reportOptionalMemberAccess=false
# (pandas' own annotations make every df[...] a union)

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

from fastdllm import prior_results as figures
from fastdllm.lab import records
from fastdllm.report.audit.evidence import STAMP, STATEMENTS, Evidence, config_name

# The old summary.json under its several spellings, flat or one level deep.
ALIASES = {
    "accuracy": ("accuracy", "acc", "score"), "tokens": ("tokens", "total_tokens", "num_tokens"),
    "seconds": ("seconds", "total_time", "total_time_s", "time", "elapsed"),
    "tokens_per_s": ("tokens_per_s", "tokens_per_second", "throughput", "tokens_per_sec"),
    "finished": ("finished", "timestamp", "date", "finished_at"), "code": ("commit", "git_commit", "git_hash"),
    "dirty": ("dirty", "git_dirty"), "node": ("node", "hostname", "host", "node_name"),
    "k": ("k", "reuse_k"), "layers": ("layers", "layer_subset"), "limit": ("limit",), "task": ("task",),
    "n": ("n", "num_samples", "n_samples"), "model": ("model", "model_path"), "threshold": ("threshold",),
    "config": ("config_name", "config", "layer_config"),
}
# Headline metric of lm-evaluation-harness' results, the first that is there.
HEADLINES = ("exact_match,strict-match", "math_verify,none", "acc,none", "exact_match,none",
             "prompt_level_strict_acc,none", "pass@1,create_test", "pass_at_1,none", "exact_match,flexible-extract")


def published() -> Evidence:
    """The published configurations and everything that the log's pages state."""
    table = figures.results()
    rows = [{"row": f"{r.batch}/{r.task}{f'_limit_{r.limit}' if r.limit else ''}/{r.config}", "batch": r.batch,
             "task": r.task, "config": r.config, "k": r.k, "layers": r.layers, "limit": r.limit or None, "n": r.n,
             "accuracy": r.accuracy, "tokens": r.tokens, "seconds": r.seconds, "tokens_per_s": r.tokens_per_s,
             "finished": r.finished, "code": r.commit, "dirty": r.dirty, "node": r.node, "origin": "published",
             "file": figures.DATA.joinpath("published_results.csv").name} for r in table.itertuples()]
    statements = figures.claims()[list(STATEMENTS)].to_dict("records")
    ran = table[(table["batch"] == "jan_full") & (table["task"] == "gsm8k")]
    statements += [{"kind": "parameter", "subject": "jan_full", "parameter": "commit", "value": commit,
                    "source": "the rows of published_results.csv (gsm8k)"} for commit in ran["commit"].unique()]
    return Evidence.of(rows, statements)


def read(directory: str | Path) -> Evidence:
    """Everything below a folder that looks like a result. ValueError if there is nothing."""
    top = Path(directory)
    if not top.is_dir():
        raise ValueError(f"directory={str(directory)!r}; allowed: a folder of results")
    rows: list[dict[str, Any]] = []
    statements: list[dict[str, Any]] = []
    for path in sorted([*top.rglob("summary.json"), *top.rglob("results*.json")]):
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            rows.append(_broken(path, top, f"not JSON: {error}"))
            continue
        if path.name == "summary.json" and isinstance(values, dict) and "schema" in values:
            rows.append(_record(path, top))
        elif isinstance(values, dict) and isinstance(values.get("results"), dict):
            rows += _harness(path, top, values, statements)
        elif path.name == "summary.json" and isinstance(values, dict):
            rows.append(_summary(path, top, values, statements))
        else:
            rows.append(_broken(path, top, "neither a summary nor results of lm-evaluation-harness"))
    if not rows:
        raise ValueError(f"directory={str(directory)!r}; allowed: a folder that holds summary.json or results_*.json")
    return Evidence.of(rows, statements)


def from_records(found: list[records.Record]) -> Evidence:
    """The audit's view of records that were read and checked already."""
    return Evidence.of([_record_row(record, "summary.json") for record in found])


def _place(path: Path, top: Path) -> dict[str, Any]:
    """Batch, task, limit and config as the folders say them: .../batch/task[_limit_N]/config/..."""
    folders = [top.resolve().name, *path.relative_to(top).parts[:-1]]
    at = next((i for i in range(len(folders) - 1, -1, -1) if config_name(folders[i])), len(folders) - 1)
    config, task = folders[at], folders[at - 1] if at > 0 else ""
    batch = folders[at - 2] if at > 1 else top.resolve().parent.name if at == 1 else ""
    limit = re.match(r"^(.*)_limit_(\d+)$", task)
    k, layers = config_name(config) or (None, None)
    return {"row": "/".join(folders[1:at + 1]) or folders[at], "batch": batch, "task": limit[1] if limit else task,
            "config": config, "k": k, "layers": layers, "limit": int(limit[2]) if limit else None,
            "file": str(path.relative_to(top))}


def _broken(path: Path, top: Path, problem: str) -> dict[str, Any]:
    return _place(path, top) | {"problem": problem, "origin": "unreadable"}


def _record(path: Path, top: Path) -> dict[str, Any]:
    try:
        return _record_row(records.read(path), str(path.relative_to(top)))
    except ValueError as error:
        return _broken(path, top, str(error).replace(str(path), path.name))


def _record_row(record: records.Record, file: str) -> dict[str, Any]:
    flat = records.row(record)
    setting = ", ".join(f"{key} {flat[key]}" for key in ("policy", "revision", "threshold", "batch_size", "small_block",
                                                         "block_cache", "dtype", "device", "engine", "seed"))
    folder = record.task + (f"_limit_{record.limit}" if record.limit else "")
    return {"row": f"{record.experiment}/{folder}/{record.config}", "batch": record.experiment, "task": record.task,
            "config": record.config, "k": flat["k"], "layers": flat["layers"], "setting": setting,
            "limit": record.limit, "n": record.headline.n, "metric": record.metric, "accuracy": flat["accuracy"],
            "tokens": record.tokens, "seconds": record.seconds, "tokens_per_s": record.tokens_per_second,
            "finished": _stamp(record.date), "code": record.code.hash[:8], "node": record.environment.node,
            "empty": record.empty, "reuse": record.decisions.get("reuse", 0) + record.nfe.get("replay", 0),
            "model": record.checkpoint.name, "origin": "record", "file": file}


def _summary(path: Path, top: Path, values: dict[str, Any], statements: list[dict[str, Any]]) -> dict[str, Any]:
    """The old layout. What the folder says fills in what the file does not."""
    flat = {key: value for part in (values, *(v for v in values.values() if isinstance(v, dict)))
            for key, value in part.items() if not isinstance(value, (dict, list))}
    found = {name: flat[key] for name, keys in ALIASES.items() for key in reversed(keys) if flat.get(key) is not None}
    threshold = found.pop("threshold", None)
    row = _place(path, top) | found | {"origin": "summary"}
    if row.get("n") is None:
        row["n"] = figures.problems(str(row["task"]), int(row["limit"] or 0))
    row["finished"] = _stamp(row.get("finished"))
    if threshold is not None:
        statements.append({"kind": "parameter", "subject": row["row"], "parameter": "threshold",
                           "value": str(float(threshold)), "source": row["file"]})
    return row


def _harness(path: Path, top: Path, values: dict[str, Any], statements: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per top-level task of a results file of lm-evaluation-harness."""
    place, config = _place(path, top), values.get("config") or {}
    groups, sizes = values.get("group_subtasks") or {}, values.get("n-samples") or {}
    inner = {name for names in groups.values() for name in names}
    arguments = config.get("model_args") or {}
    if isinstance(arguments, str):
        arguments = dict(part.split("=", 1) for part in arguments.split(",") if "=" in part)
    limit = config.get("limit")
    rows = []
    for task, scores in values["results"].items():
        if task in inner:
            continue
        metric = next((name for name in HEADLINES if isinstance(scores.get(name), (int, float))), None)
        leaves = _leaves(task, groups)
        n = sum(sizes[leaf]["effective"] for leaf in leaves if leaf in sizes) or None
        k = arguments.get("reuse_k", place["k"])
        rows.append(place | {
            "row": f"{place['row']}/{path.name}", "task": task, "limit": int(limit) if limit else None, "n": n,
            "k": k, "layers": arguments.get("layer_subset", place["layers"]), "metric": metric or "",
            "accuracy": scores[metric] if metric else None, "origin": "lm_eval",
            "finished": _stamp(path.stem.removeprefix("results_")), "code": values.get("git_hash"),
            "model": arguments.get("model_path") or values.get("model_name"),
            "empty": _empty(path, leaves), "problem": None if metric else "no known metric in the results"})
        if "threshold" in arguments:
            statements.append({"kind": "parameter", "subject": place["row"], "parameter": "threshold",
                               "value": str(float(arguments["threshold"])), "source": place["file"]})
    return rows


def _leaves(task: str, groups: dict[str, list[str]]) -> list[str]:
    inner = groups.get(task) or []
    return [leaf for name in inner for leaf in _leaves(name, groups)] if inner else [task]


def _empty(path: Path, tasks: list[str]) -> int | None:
    """Empty answers in the sample files of the same time stamp; None where no samples are kept."""
    stamp = path.stem.removeprefix("results")
    count, seen = 0, False
    for file in (path.with_name(f"samples_{task}{stamp}.jsonl") for task in tasks):
        if not file.exists():
            continue
        seen = True
        for line in file.read_text(encoding="utf-8").splitlines():
            answers = json.loads(line).get("resps") or []
            count += bool(answers) and all(str(text).strip() == "" for text in answers[0])
    return count if seen else None


def _stamp(text: Any) -> str | None:
    """Any of the time stamps in use, as 20260119_005418; None where it is none."""
    if text is None:
        return None
    text = str(text)
    if re.fullmatch(r"\d{8}_\d{6}", text):
        return text
    try:
        return datetime.fromisoformat(re.sub(r"T(\d\d)-(\d\d)-(\d\d)", r"T\1:\2:\3", text)).strftime(STAMP)
    except ValueError:
        return None
