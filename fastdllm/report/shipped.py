"""Records that ship with the project, those of runs on a GPU as evidence: read here and never run, resumed or counted
as done. Those of grids that run here ship beside them; a reader picks by experiment, model or task.

`fastdllm publish --compact` writes them to executed/published/<experiment>/<task>/<config>/: `summary.json`,
`problems.csv` with a line for each problem, and where it was asked for the answers in `texts.jsonl.gz`. Every setting
is read from the summary; a directory's name says nothing.
"""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false, reportReturnType=false

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fastdllm import stats
from fastdllm.errors import message
from fastdllm.lab import atomic, records
from fastdllm.lab.config import grid_file
from fastdllm.lab.config.grid import Configuration, Grid
from fastdllm.lab.config.paths import executed, short
from fastdllm.lab.jobs.status import ConfigurationState
from fastdllm.lab.records.record import Record

PUBLISHED = "published"         # the folder of executed/
PROBLEMS = "problems.csv"       # what a compact record keeps of its samples
TEXTS = "texts.jsonl.gz"         # the answers of some of them, a JSON line each: id, text
MOST_TEXT = 100_000_000         # bytes of them, unpacked
COUNTS = ("right", "tokens", "forwards")      # columns of problems.csv besides the id
# What tells two configurations apart; experiment, batch size, device and data's place do not change what is decoded.
SETTINGS = ["model", "task", "limit", "engine", "dtype", "threshold", "max_new_tokens", "small_block", "block_cache",
            "full_forwards", "temperature", "seed", "revision", "policy", "k", "layers"]
# The grids whose records ship: what is missing of them is named with its command.
GRIDS = ("gsm8k_smol", "gsm8k_smol_run1", "multiarith_smol", "gsm8k_smol_float16", "multiarith_smol_float16",
         "arc_easy_smol", "phase6_400", "verify_bfloat16")


@dataclass(frozen=True)
class ShippedRecords:
    """One row a configuration in `frame`, and for each row's `path` its problems.

    frame: the columns of `records.frame`, and path, code (in words: the commit that ran, or the hash of what the code
    does where no commit was recorded), capped (answers cut at the length limit; NaN if the record does not say),
    computed (equal for rows that agree in each problem: right or wrong, tokens, forwards), and the rest of SETTINGS.
    problems: DataFrames with the columns id, right (0 or 1), tokens, forwards [n].
    """

    frame: pd.DataFrame
    problems: dict[str, pd.DataFrame]
    origin: str      # what was read, in words; says so where nothing is there

    def where(self, **settings: Any) -> ShippedRecords:
        """The records with these values, like task="gsm8k_words", k=[2, 3]. Raises ValueError for no column."""
        frame = self.frame
        if unknown := sorted(set(settings) - set(COLUMNS)):
            raise ValueError(f"{', '.join(unknown)}: no column of shipped records; allowed: {', '.join(COLUMNS)}")
        for name, value in settings.items():
            wanted = list(value) if isinstance(value, list | tuple | set) else [value]
            frame = frame[frame[name].isin(wanted) | (frame[name].isna() & (None in wanted))]
        return ShippedRecords(frame, {path: self.problems[path] for path in frame["path"]}, self.origin)

    def right(self, path: str) -> np.ndarray:
        """Whether each problem of a record is solved, 0 or 1 [n], in the task's order."""
        return self.problems[path]["right"].to_numpy()


COLUMNS = ["experiment", "model", "task", "config", "k", "layers", "policy", "revision", "engine", "threshold", "dtype",
           "limit", "n", "metric", "batch_size", "device_name", "date", "code", "path"]


def read(folder: Path | None = None) -> ShippedRecords:
    """All compact records below a folder (executed/published, if none is given).

    Of two records of the same settings the later one counts. A missing folder is no error: `origin` says so.
    Raises ValueError naming file and field for what can't be read or does not agree with itself.
    """
    home = executed() / PUBLISHED if folder is None else folder
    shared: list[dict[str, Any]] = []
    problems: dict[str, pd.DataFrame] = {}
    for table in sorted(home.rglob(PROBLEMS)):
        path = table.parent.relative_to(home).as_posix()
        row, rows = _one(table, path, _state(table), _state(table.with_name(records.SUMMARY)))
        problems[path] = rows.copy()
        shared.append(dict(row))
    if not shared:
        missing = "there is none" if home.is_dir() else "no such folder: a checkout of the project has it"
        return ShippedRecords(pd.DataFrame(columns=[*COLUMNS, "accuracy", "low", "high", "correct", "tokens",
                                                "nfe", "capped", "computed"]), {},
                              f"no shipped record in {short(home)}: {missing}")
    frame = latest(pd.DataFrame(shared))
    return ShippedRecords(frame, {path: problems[path] for path in frame["path"]},
                          f"{stats.number_of(len(frame), 'shipped record')} of {short(home)}")


def _state(path: Path) -> tuple[int, ...]:
    """What is another number after a change of a file."""
    if not path.is_file():
        return ()
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=4096)
def _one(table: Path, path: str, *_: tuple[int, ...]) -> tuple[dict[str, Any], pd.DataFrame]:
    """A record's row and its problems: read once in a process, and again when a file of it has changed."""
    record = read_record(table.parent)
    rows = read_problems(table, record)
    return flat(record, path) | {"computed": atomic.sha256(rows[list(COUNTS)].to_csv(index=False))}, rows


def read_record(directory: Path) -> Record:
    """A shipped summary. Raises ValueError naming the file, and the field if one is at fault."""
    path = directory / records.SUMMARY
    if not path.is_file():
        raise ValueError(f"{path}: missing; allowed: a summary beside each {PROBLEMS}, as `fastdllm publish` writes it")
    try:
        return records.read(directory)
    except ValueError as error:
        text = message(error)
        raise ValueError(text if str(path) in text else f"{path}: {text}") from error


def read_problems(path: Path, record: Record) -> pd.DataFrame:
    """id, right, tokens, forwards of each problem. Raises ValueError naming file, line and field for what is no number,
    and for a column whose sum is not the record's.
    """
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        lines, columns = list(reader), list(reader.fieldnames or ())
    if absent := [name for name in ("id", *COUNTS) if name not in columns]:
        raise ValueError(f"{path}: {', '.join(absent)}: no such column; allowed: id, {', '.join(COUNTS)}")
    rows = pd.DataFrame({"id": [line["id"] for line in lines],
                         **{name: [whole(path, number, name, line[name]) for number, line in enumerate(lines, 2)]
                            for name in COUNTS}})
    if bad := [number for number, value in enumerate(rows["right"], 2) if value not in (0, 1)]:
        raise ValueError(f"{path}: line {bad[0]}: right={rows['right'][bad[0] - 2]}; allowed: 0 or 1")
    totals = {"right": record.headline.correct, "tokens": record.tokens, "forwards": record.forwards}
    if len(rows) != record.n:
        raise ValueError(f"{path}: {stats.number_of(len(rows), 'problem')}; allowed: n={record.n}, as "
                         f"{records.SUMMARY} has it")
    for name, total in totals.items():
        if rows[name].sum() != total:
            raise ValueError(f"{path}: {name}: {rows[name].sum()} in all; "
                             f"allowed: {total}, as {records.SUMMARY} has it")
    return rows


def read_texts(path: Path, ids: Sequence[str]) -> list[str]:
    """The answer to each problem of `ids`. Raises ValueError naming the file for what is not the texts of these."""
    try:
        with gzip.open(path) as file:
            data = file.read(MOST_TEXT + 1)
        rows = [json.loads(line) for line in data.decode().removesuffix("\n").split("\n")]
        texts = {row["id"]: row["text"] for row in rows}
    except (OSError, EOFError, zlib.error, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: can't be read ({message(error)}); allowed: packed JSON lines with id and "
                         "text") from error
    if len(data) > MOST_TEXT or list(texts) != list(ids) or not all(isinstance(text, str) for text in texts.values()):
        raise ValueError(f"{path}: texts: {len(texts)}; allowed: {len(ids)}, one for each problem of {PROBLEMS}, "
                         f"in their order, at most {MOST_TEXT} bytes")
    return list(texts.values())


def whole(path: Path, line: int, name: str, text: str | None) -> int:
    """A count as it stands in the file."""
    if text is None or not text.isdecimal():
        raise ValueError(f"{path}: line {line}: {name}={text!r}; allowed: a whole number")
    return int(text)


def home(grid: Grid) -> Path:
    """Where the records of a grid ship, if they do."""
    return executed() / PUBLISHED / grid.experiment


def state_of(state: ConfigurationState, grid: Grid) -> ConfigurationState:
    """A configuration's state by the record of its settings that ships, as it ran; the same state where none does.

    Raises ValueError for a record that can't be read.
    """
    configuration = state.configuration
    directory = home(grid) / configuration.directory.relative_to(grid.directory)
    if configuration.not_applicable or not (directory / records.SUMMARY).is_file():
        return state
    record = read_record(directory)
    same = (fits(asked(configuration), settings_of(flat(record, configuration.path)))
            and record.parameters.batch_size == configuration.parameters.batch_size)
    return replace(state, configuration=replace(configuration, directory=directory), state="complete", record=record,
                   detail="", shared_with=record.shared_from) if same else state


def flat(record: Record, path: str) -> dict[str, Any]:
    """A record as a row of `ShippedRecords.frame`."""
    values = record.parameters.flat()
    known = sum(record.finish.values()) == record.n
    return {name: values[name] for name in SETTINGS} | records.row(record) | {
        "path": path, "code": code(record), "status": "shipped",
        "capped": record.finish.get("length", 0) if known else np.nan}


def code(record: Record) -> str:
    """Which code ran, as far as the record says."""
    if record.code.commit is None:
        return f"code {record.code.hash[:7]} (its commit was not recorded)"
    return f"commit {record.code.commit[:7]}" + (", changed" if record.code.dirty else "")


def settings_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """What a configuration computes, of its columns: without reuse the layers and the policy are no matter."""
    idle = {"layers": "", "policy": "output", "full_forwards": False} if row["k"] == 1 else {}
    values = {**row, **idle}
    return tuple(None if values[name] != values[name] else values[name] for name in SETTINGS)


def asked(configuration: Configuration) -> tuple[Any, ...]:
    """`settings_of` what a params file asks for."""
    values = configuration.parameters.flat()
    return settings_of(values | {"policy": Path(values["policy"]).stem, "layers": values["layers"] or ""})


def fits(wanted: tuple[Any, ...], record: tuple[Any, ...]) -> bool:
    """Whether a record is of the settings that a params file asks for; what it leaves to the task or to the device
    (max_new_tokens, dtype auto) fits any value.
    """
    return all(a == b or a == "auto" or (a is None and name == "max_new_tokens")
               for name, a, b in zip(SETTINGS, wanted, record, strict=True))


def latest(frame: pd.DataFrame) -> pd.DataFrame:
    """One row for each configuration: the one that ran last. k=1 stands once, not once for every subset."""
    keys = [settings_of(row) for row in frame.to_dict("records")]
    ordered = frame.assign(key=keys).sort_values(["date", "path"], ascending=[False, True], kind="stable")
    return ordered.drop_duplicates("key").drop(columns="key").sort_values("path").reset_index(drop=True)


def label(frame: pd.DataFrame) -> str:
    """Of how many problems, by which rule, and of which code, card and day these rows are: what stands beside every
    number that comes from them.
    """
    if frame.empty:
        return "nothing shipped"
    codes, cards = (", ".join(dict.fromkeys(frame[name])) for name in ("code", "device_name"))
    days = sorted({str(day)[:10] for day in frame["date"]})
    counts, rules = (", ".join(map(str, sorted(set(frame[name])))) for name in ("n", "metric"))
    return "; ".join([f"shipped records; n = {counts}; rule {rules}", codes, cards,
                      " to ".join(dict.fromkeys((days[0], days[-1])))])


def missing(shipped: ShippedRecords, params: Iterable[str] = GRIDS) -> pd.DataFrame:
    """What of the grids does not ship: grid, revision, task, threshold, dtype, k, layers, and the command to run it.

    Compared by settings. k=1 is one run for all subsets. Starts nothing. Raises ValueError for a wrong params file.
    """
    have = [settings_of(row) for row in shipped.frame.to_dict("records")]
    rows, seen = [], set()
    for name in params:
        for configuration in grid_file.load(name).configurations():
            if configuration.not_applicable:
                continue
            values, key = configuration.parameters.flat(), asked(configuration)
            if key in seen or any(fits(key, other) for other in have):
                continue
            seen.add(key)
            rows.append({"grid": name, "revision": values["revision"], "task": values["task"],
                         "threshold": values["threshold"], "dtype": values["dtype"], "k": values["k"],
                         "layers": values["layers"] if values["k"] > 1 else "", "state": "not run",
                         "command": f"fastdllm grid run {name} --task {values['task']} --config {configuration.name}"})
    return pd.DataFrame(rows, columns=["grid", "revision", "task", "threshold", "dtype", "k", "layers", "state",
                                       "command"])


def not_run(absent: pd.DataFrame) -> str:
    """`missing` in one sentence: how many, and one command a grid; "" if nothing is missing."""
    parts = [f"{len(rows)} of `{grid}` (`fastdllm grid run {grid}`)"
             for grid, rows in absent.groupby("grid", sort=False)]
    return f"Not run: {', '.join(parts)}." if parts else ""
