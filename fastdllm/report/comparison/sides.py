"""The sides of a comparison: records of any origin, and what is kept of their single problems.

A side is named by a directory or a file (a record, an old summary.json, results of lm-evaluation-harness), or by
`experiment[/task]/configuration`, looked up in executed/, in executed/published/, and among the log's own figures.
"""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# (pandas' own annotations make every df[...] a union)

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fastdllm import prior_results
from fastdllm.errors import did_you_mean
from fastdllm.lab import atomic, records
from fastdllm.lab.config.paths import executed, expand, listed
from fastdllm.lab.records import harness_results, importer, old_summary
from fastdllm.lab.records.record import Record
from fastdllm.lab.records.stated_result import StatedResult, read_json
from fastdllm.report import shipped

COLUMNS = ["index", "correct", "tokens", "forwards", "seconds", "output", "extracted", "prompt_hash"]


@dataclass(frozen=True, eq=False)
class Side:
    """A record under the name that it was asked for.

    problems: one line for each problem, by its id, with COLUMNS (`correct` maps rules to true or false; what is not
    kept is missing); None where single answers are lost. home: the directory that holds samples and trace.
    """

    name: str
    record: Record
    problems: pd.DataFrame | None = None
    home: Path | None = None

    @property
    def shown(self) -> str:
        """Its name on a page; of an absolute path the last three parts, for pages are shared and machines are not."""
        path = Path(self.name)
        return "/".join(path.parts[-3:]) if path.is_absolute() else self.name

    @property
    def absent_data(self) -> str:
        """Which data its problems came from, where the file is not on this machine; "" where it is, or none is needed.
        """
        data, path = self.record.dataset, self.record.parameters.data
        if self.record.status == "imported" or path is None or Path(path).expanduser().exists():
            return ""
        return (f"the data of the run are not on this machine ({data.name}: {data.n} problems of {self.record.task}, "
                f"fingerprint {data.fingerprint[:12]}; where to get them: docs/tasks.md)")


def find(name: str) -> Side:
    """The side of a name. Raises ValueError that lists what is allowed."""
    path = Path(expand(name))
    if path.is_file() and path.name != records.SUMMARY:
        return _of_harness(path, name)
    directory = path.parent if path.name == records.SUMMARY else path
    if (directory / records.SUMMARY).is_file():
        return _of_summary(directory, name)
    if directory.is_dir() and (results := sorted(directory.rglob("results_*.json"))):
        if len(results) > 1:
            raise ValueError(f"{name}: holds {len(results)} results files; allowed: one of "
                             f"{', '.join(str(file) for file in results)}")
        return _of_harness(results[0], name)
    return _named(name)


def record_directory(name: str) -> Path:
    """The directory of a record of ours: the directory itself, its summary.json, or experiment[/task]/configuration.

    Raises ValueError for a name that is no such record.
    """
    path = Path(expand(name))
    if path.is_dir() or path.is_file():
        directory = path if path.is_dir() else path.parent
    else:
        source, key = _look_up(name)
        if not isinstance(source, Path):
            raise ValueError(f"{name}: figures of the log ({key}); allowed: the record of a run")
        directory = source
    summary = directory / records.SUMMARY
    if not summary.is_file() or not old_summary.is_record(read_json(summary)):
        raise ValueError(f"{name}: no {records.SUMMARY} of a run here; allowed: the directory of a record, or its name "
                         "as EXPERIMENT/TASK/CONFIGURATION")
    return directory


def _named(name: str) -> Side:
    """`experiment[/task]/configuration`, below executed/ or among the log's figures."""
    source, key = _look_up(name)
    return _of_summary(source, key) if isinstance(source, Path) else _of_log(source, key)


def _look_up(name: str) -> tuple[Path | dict[str, Any], str]:
    """What a name means, and its full form. Raises ValueError for none and for several."""
    homes = (executed() / shipped.PUBLISHED, executed())
    known = {**_log(), **{key: path for home in homes for key, path in _below(home)}}
    parts = name.strip("/").split("/")
    fitting = [key for key in known if key == "/".join(parts)
               or (len(parts) == 2 and [key.split("/")[0], key.split("/")[-1]] == parts)]
    if len(fitting) > 1:
        raise ValueError(f"{name}: {len(fitting)} records; allowed: one of {', '.join(sorted(fitting))}")
    if not fitting:
        few = ", ".join(sorted({key.split("/")[0] for key in known})) or "none: nothing has run"
        raise ValueError(f"{name}: no such record; {_meant(name, known)}allowed: a record's directory, results of "
                         f"lm-evaluation-harness, or experiment/task/configuration of the experiments {few}")
    return known[fitting[0]], fitting[0]


def _meant(name: str, known: Iterable[str]) -> str:
    """What was probably meant: a record of the experiment that was typed, where it has any, and else another's."""
    experiment, keys = name.strip("/").split("/")[0], list(known)
    forms = [*keys, *map(_short, keys)]
    own = [form for form in forms if form.startswith(f"{experiment}/")]
    if not own and experiment in (file.stem for file in listed("params", "*.yml")):
        return f"nothing of {experiment} has run here (fastdllm grid run {experiment} would); "
    return did_you_mean(name, own) or did_you_mean(name, forms)


def _short(key: str) -> str:
    return f"{key.split('/')[0]}/{key.split('/')[-1]}"


def _below(folder: Path) -> list[tuple[str, Path]]:
    """The records of experiments below a folder, by experiment/task/configuration."""
    return [("/".join(path.parent.relative_to(folder).parts), path.parent)
            for path in sorted(folder.glob(f"*/*/*/{records.SUMMARY}"))]


def _log() -> dict[str, dict[str, Any]]:
    """The published figures of the log, by batch/task/configuration."""
    rows = prior_results.results().to_dict("records")
    limits = [f"_limit_{row['limit']}" if row["limit"] else "" for row in rows]
    return {f"{row['batch']}/{row['task']}{limit}/{row['config']}": row
            for row, limit in zip(rows, limits, strict=True)}


def _of_log(row: dict[str, Any], name: str) -> Side:
    """A row of the log: no settings but k and layers are stated with it."""
    result = StatedResult(
        Path(str(prior_results.DATA / "published_results.csv")), "summary", name, row["batch"], row["task"],
        row["config"], int(row["k"]), row["layers"], limit=row["limit"], n=int(row["n"]), metric="stated",
        accuracy=row["accuracy"], tokens=_stated(row["tokens"]), seconds=_stated(row["seconds"]),
        tokens_per_second=_stated(row["tokens_per_s"]), finished=str(row["finished"]), commit=row["commit"],
        dirty=bool(row["dirty"]), node=row["node"], torch=row["torch"])
    return Side(name, importer.record(result, row["batch"]))


def _stated(value: float) -> float | None:
    return None if value != value else value


def _of_summary(directory: Path, name: str) -> Side:
    """A record of ours, or an old summary.json."""
    path = directory / records.SUMMARY
    if not old_summary.is_record(read_json(path)):
        top = path.parents[min(3, len(path.parents) - 1)]
        return Side(name, importer.record(old_summary.read(path, top), directory.parent.name))
    record, samples = records.read(directory), records.samples_path(directory)
    if samples.is_file():
        return Side(name, record, _of_samples(records.samples(directory)), samples.parent)
    if (table := directory / shipped.PROBLEMS).is_file():
        problems = _of_counts(shipped.read_problems(table, record), record)
        if (texts := directory / shipped.TEXTS).is_file():
            problems["output"] = shipped.read_texts(texts, list(problems.index))
        return Side(name, record, problems, directory)
    return Side(name, record, home=directory)


def _of_samples(samples: pd.DataFrame) -> pd.DataFrame:
    """The samples of a record; their forwards are those that ran: policy verify runs fewer than its NFE where it
    drafted, and says so in these samples alone.
    """
    nfe = samples["nfe"].map(records.forwards)
    forwards = samples["forwards_run"].fillna(nfe).astype(int) if "forwards_run" in samples else nfe
    return samples.assign(forwards=forwards).set_index("id").reindex(columns=COLUMNS)


def _of_counts(rows: pd.DataFrame, record: Record) -> pd.DataFrame:
    """The problems of a compact record. Its forwards are the NFE: how many ran under policy verify is not kept."""
    correct = [{record.metric: bool(right)} for right in rows["right"]]
    ran = rows["forwards"] if record.forwards_run is None else math.nan
    return rows.assign(correct=correct, index=rows.index, forwards=ran).set_index("id").reindex(columns=COLUMNS)


def _of_harness(path: Path, name: str) -> Side:
    """Results of lm-evaluation-harness, paired by document where its samples_*.jsonl lie beside them."""
    values = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict) or not harness_results.is_results(values):
        raise ValueError(f"{path}: no results of lm-evaluation-harness; allowed: its results_*.json")
    stated = harness_results.read(path, path.parents[min(1, len(path.parents) - 1)], values)
    if len(stated) != 1:
        raise ValueError(f"{path}: {len(stated)} tasks; allowed: results of one task")
    [result] = stated
    samples = path.with_name(f"samples_{result.task}{path.stem.removeprefix('results')}.jsonl")
    problems = _of_documents(result, atomic.json_lines(samples)) if samples.is_file() else None
    return Side(name, importer.record(result, path.parent.name), problems, path.parent)


def _of_documents(result: StatedResult, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The harness's samples, one line a document and filter, under our ids (`gsm8k-7` is its document 7)."""
    problems: dict[str, dict[str, Any]] = {}
    for row in rows:
        problem = problems.setdefault(f"{result.task}-{row['doc_id']}", {"index": row["doc_id"], "correct": {},
                                                                         "extracted": {}})
        rule = row.get("filter")
        for metric in result.metrics:
            name, _, its_rule = metric.partition(",")
            if rule in (None, its_rule) and row.get(name) in (0, 1):
                problem["correct"][metric] = bool(row[name])
        problem["extracted"][rule or "answer"] = first_text(row.get("filtered_resps"))
        problem["output"] = first_text(row.get("resps"))
    return pd.DataFrame(problems.values(), index=pd.Index(list(problems), name="id")).reindex(columns=COLUMNS)


def first_text(responses: Any) -> str | None:
    """The first text of a harness's responses, [["text"]] or ["text"]; None where there is none."""
    while isinstance(responses, list) and responses:
        responses = responses[0]
    return responses if isinstance(responses, str) else None
