"""What the audit reads: the published table, and any folder of results.

Three layouts are known by their content, wherever they lie: our records (`summary.json` with schema and checksum),
the old `summary.json`, and lm-evaluation-harness' `results_*.json` (with its `samples_*.jsonl`, if kept).
"""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false, reportOptionalMemberAccess=false
# (pandas' own annotations make every df[...] a union)

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastdllm import prior_results as figures
from fastdllm.lab import records
from fastdllm.lab.records import harness_results, old_summary
from fastdllm.lab.records.stated_result import StatedResult, benchmark_size, locate, read_json, timestamp
from fastdllm.report.audit.evidence import STATEMENTS, Evidence

ELSEWHERE = ("k", "layers", "task", "limit", "repeat", "model", "data", "allow_code_execution", "similarity")


def published() -> Evidence:
    """The published configurations and everything that the log's pages state."""
    table = figures.results()
    rows = [{"row": f"{r.batch}/{r.task}{f'_limit_{r.limit}' if r.limit else ''}/{r.config}", "batch": r.batch,
             "task": r.task, "config": r.config, "k": r.k, "layers": r.layers, "limit": r.limit or 0, "n": r.n,
             "n_stated": False, "accuracy": r.accuracy, "tokens": r.tokens, "seconds": r.seconds,
             "tokens_per_s": r.tokens_per_s, "finished": r.finished, "code": r.commit, "dirty": r.dirty,
             "torch": r.torch, "node": r.node, "origin": "published",
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
            values = read_json(path)
        except ValueError as error:
            rows.append(_broken(path, top, str(error), "unreadable"))
            continue
        is_summary = path.name == records.SUMMARY
        if is_summary and old_summary.is_record(values):
            rows.append(_read_record(path, top))
            continue
        if not is_summary and not harness_results.is_results(values):
            rows.append(_broken(path, top, "neither a summary nor results of lm-evaluation-harness", "unreadable"))
            continue
        try:
            results = (harness_results.read(path, top, values) if harness_results.is_results(values)
                       else [old_summary.read(path, top)])
        except ValueError as error:
            rows.append(_broken(path, top, str(error), "unreadable"))
            continue
        for result in results:
            _add(result, top, rows, statements)
    if not rows:
        raise ValueError(f"directory={str(directory)!r}; allowed: a folder that holds summary.json or results_*.json")
    return Evidence.of(rows, statements)


def from_records(read_records: list[records.Record]) -> Evidence:
    """The audit's view of records that were read and checked already."""
    return Evidence.of([_record_row(record, records.SUMMARY) for record in read_records])


def _broken(path: Path, top: Path, problem: str, origin: str) -> dict[str, Any]:
    where = locate(path, top)
    return {"row": where.name, "batch": where.batch, "task": where.task, "config": where.config, "limit": where.limit,
            "file": str(path.relative_to(top)), "problem": problem, "origin": origin}


def _read_record(path: Path, top: Path) -> dict[str, Any]:
    try:
        return _record_row(records.read(path), str(path.relative_to(top)))
    except ValueError as error:
        return _broken(path, top, str(error).replace(str(path), path.name), "record")


def _record_row(record: records.Record, file: str) -> dict[str, Any]:
    """A record as a row. What an imported one does not state stays missing."""
    flat, imported = records.row(record), record.status == "imported"
    stated = record.notes.get("stated", {}) if imported else {}
    if imported:
        settings, n_stated = stated.get("settings", {}), stated.get("n in the file") is not None
    else:
        settings = {name: value for name, value in record.parameters.flat().items() if name not in ELSEWHERE}
        settings |= {name: f"{content.name} {content.fingerprint[:12]}"
                     for name, content in (("model", record.checkpoint), ("data", record.dataset))}
        if record.parameters.reuse.policy == "adaptive":
            settings["similarity"] = record.parameters.reuse.similarity
        n_stated = True
    limit = stated.get("limit", record.limit or 0)                  # None: the file doesn't say
    folder = record.task + (f"_limit_{record.limit}" if record.limit else "")
    code, where = record.code, record.environment
    return {"row": f"{record.experiment}/{folder}/{record.config}", "batch": record.experiment, "task": record.task,
            "config": record.config, "k": flat["k"], "layers": flat["layers"] or None, "settings": settings,
            "limit": limit, "n": record.headline.n or None, "n_stated": n_stated,
            "metric": "" if record.metric == "stated" else record.metric,
            "metrics": {name: score.value for name, score in record.accuracy.items()},
            "accuracy": flat["accuracy"], "tokens": flat["tokens"], "seconds": flat["seconds"],
            "tokens_per_s": flat["tokens_per_second"], "finished": timestamp(record.date),
            # the hash names the code whatever its commit; an imported record has none
            "code": code.commit if imported else code.hash[:8], "dirty": code.dirty if imported else False,
            "torch": _known(where.torch), "hardware": _known(where.device_name), "node": _known(where.node),
            "shards": record.shards, "empty": None if imported else record.empty,
            "reuse": _reused(record),
            "model": record.checkpoint.name, "origin": "imported" if imported else "record", "file": file}


def _reused(record: records.Record) -> int | None:
    """Layer calls and forwards that were not computed; None where the source doesn't say, or the policy skips none."""
    if record.status == "imported" or record.parameters.reuse.policy == "verify":
        return None
    return record.decisions.get("reuse", 0) + record.nfe.get("replay", 0)


def _known(text: str) -> str | None:
    return None if text == "unknown" else text


def _add(result: StatedResult, top: Path, rows: list[dict[str, Any]], statements: list[dict[str, Any]]) -> None:
    """A row for a result that somebody else's file states, and statements for what such files contradict."""
    name = result.name
    if result.origin == "lm_eval":          # one file may hold several tasks
        in_folder = any(part == result.task or part.startswith(f"{result.task}_limit_") for part in name.split("/"))
        name += f"/{result.file.name}" + ("" if in_folder else f":{result.task}")
    limit, n = result.limit, result.problems
    if limit is None and result.origin == "summary" and not any(text.startswith("limit=") for text in result.skipped):
        limit = 0                               # a folder of this layout would name a limit; n_stated stays False
        n = n or benchmark_size(result.task, 0)
    file = str(result.file.relative_to(top))
    rows.append({
        "row": name, "batch": result.batch, "task": result.task, "config": result.config, "k": result.k,
        "layers": result.layers, "settings": result.settings, "limit": limit, "n": n, "n_stated": result.n is not None,
        "metric": result.metric, "metrics": result.metrics, "accuracy": result.accuracy, "tokens": result.tokens,
        "seconds": result.seconds, "tokens_per_s": result.tokens_per_second, "finished": result.finished,
        "code": result.commit, "dirty": result.dirty, "torch": result.torch, "hardware": result.gpu,
        "node": result.node, "empty": result.empty, "model": result.settings.get("model"), "origin": result.origin,
        "file": file, "skipped": result.skipped, "interpreted": result.interpreted, "group_means": result.group_means,
        "sample_means": result.sample_means})
    threshold = result.settings.get("threshold")
    beside = (result.file.parent, result.file.parent.parent)
    if threshold is not None and (result.origin == "summary" or any((folder / records.SUMMARY).exists() for folder in
                                                                    beside)):
        statements.append({"kind": "parameter", "subject": result.name, "parameter": "threshold", "source": file,
                           "value": str(float(threshold)) if isinstance(threshold, int) else str(threshold)})
    for setting, in_file, in_folder in result.contradictions:
        statements += [{"kind": "parameter", "subject": result.name, "parameter": setting, "value": value,
                        "source": source}
                       for value, source in ((in_file, file), (in_folder, "its folder's name"))]
