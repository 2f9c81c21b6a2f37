"""What a report starts from: a grid's records, their states, and their single answers, read once."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false, reportOptionalMemberAccess=false
# (pandas' own annotations make every df[...] a union)

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from fastdllm.lab import atomic, records
from fastdllm.lab.config.grid import GRID_FILE, Configuration, Grid
from fastdllm.lab.config.parameters import Parameters
from fastdllm.lab.config.paths import short
from fastdllm.lab.jobs import status
from fastdllm.lab.records.identity import CurrentFingerprints
from fastdllm.lab.records.record import Record
from fastdllm.report import cost_model, shipped
from fastdllm.report.verify_costs import relative_time
from fastdllm.settings import Decoding, Reuse

RECORDS = "records.json"      # the directories of the records that a report is of, where no grid names them
LONGEST = 100                 # characters of a folder's name


@dataclass(frozen=True)
class Outcomes:
    """The answers of one run by problem: arrays [n] of right or wrong, tokens, seconds, and predicted seconds.

    predicted: the cost model's, from the forwards (`cost_model.predicted_seconds`); NaN where they are not known.
    """

    ids: tuple[str, ...]
    correct: np.ndarray
    tokens: np.ndarray
    seconds: np.ndarray
    predicted: np.ndarray


@dataclass(frozen=True)
class Results:
    """The configurations of a grid that have a record (complete, stale or imported), in the grid's order.

    shipped: where the records are those that ship with the project, a sentence that says so; else "".
    """

    grid: Grid
    states: list[status.ConfigurationState]
    shipped: str = ""

    @classmethod
    def of(cls, grid: Grid, configurations: list[Configuration] | None = None) -> Results:
        return cls(grid, status.states(grid.configurations() if configurations is None else configurations))

    @classmethod
    def own_or_shipped(cls, grid: Grid, configurations: list[Configuration] | None = None) -> Results:
        """The grid's own records; where it has none at all, those that ship with the project, as they ran."""
        own = cls.of(grid, configurations)
        if own.recorded:
            return own
        found = cls(grid, [shipped.state_of(state, grid) for state in own.states])
        if not found.recorded:
            return own
        codes = ", ".join(dict.fromkeys(map(shipped.code, found.records)))
        return replace(found, shipped=f"No run of {grid.experiment} here yet: these are the records that ship in "
                                      f"{short(shipped.home(grid))} ({codes}); your own: `fastdllm grid run "
                                      f"{grid.experiment}`")

    @classmethod
    def read(cls, directory: str | Path) -> Results:
        """From a report's directory: by the records.json of `fastdllm report`, or the grid.json of `grid report`."""
        path = Path(directory) / GRID_FILE
        if (listed := path.with_name(RECORDS)).is_file():
            return cls.of_records([Path(each) for each in json.loads(listed.read_text(encoding="utf-8"))])
        if not path.is_file():
            raise ValueError(f"directory={str(directory)!r}; allowed: an experiment with a {GRID_FILE} "
                             "(`fastdllm grid report` writes it)")
        return cls.own_or_shipped(Grid(**json.loads(path.read_text(encoding="utf-8"))))

    @classmethod
    def of_records(cls, directories: Sequence[Path]) -> Results:
        """Records wherever they lie, as if one grid had made them. Its report's folder is named after them."""
        ran = [records.read(directory) for directory in directories]
        experiments = {record.experiment for record in ran}
        grid = Grid(experiment=experiments.pop() if len(experiments) == 1 else "records", part=joined_name(directories))
        current = CurrentFingerprints()
        return cls(grid, [
            status.state_of(Configuration(record.experiment, record.config, record.parameters, directory), current)
            for record, directory in zip(ran, directories, strict=True)])

    @cached_property
    def recorded(self) -> list[tuple[status.ConfigurationState, Record]]:
        return [(state, state.record) for state in self.states if state.record is not None]

    def required(self) -> Results:
        """Itself. Raises ValueError if no configuration has a record."""
        if not self.recorded:
            raise ValueError(f"{self.grid.experiment}: no configuration has a record, and none with these settings "
                             f"ships; allowed: a grid after `fastdllm grid run` or `submit`")
        return self

    @property
    def records(self) -> list[Record]:
        return [record for _, record in self.recorded]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """`records.frame` with three more columns: state, key (the run's settings without reuse and repeat), folder."""
        table = records.frame(self.records)
        table["state"] = [state.state for state, _ in self.recorded]
        table["key"] = [without_reuse(record) for record in self.records]
        table["run"] = [run_key(record) for record in self.records]
        table["folder"] = [str(state.configuration.directory) for state, _ in self.recorded]
        return table

    @cached_property
    def outcomes(self) -> dict[str, Outcomes | None]:
        """Answers by folder; None where no samples are kept. Cells that share a run share the arrays."""
        by_home: dict[Path, Outcomes | None] = {}
        outcomes: dict[str, Outcomes | None] = {}
        for state, record in self.recorded:
            folder = state.configuration.directory
            home = folder if record.shared_from is None else folder.parent / record.shared_from
            if home not in by_home:
                by_home[home] = read_outcomes(home / records.SAMPLES, record)
            outcomes[str(folder)] = by_home[home]
        return outcomes

    @property
    def missing(self) -> list[status.ConfigurationState]:
        """Applicable configurations without a complete record."""
        return [state for state in self.states if state.state not in ("complete", "not applicable")]


def joined_name(directories: Sequence[Path]) -> str:
    """A folder's name for some records: each one's task, where it is another one than before, and configuration.

    Short enough for every file system.
    """
    parts = [part for before, path in zip([None, *directories], directories, strict=False) for part in
             ([path.name] if before and before.parent == path.parent else [path.parent.name, path.name])]
    name = re.sub(r"[^A-Za-z0-9_.+-]", "-", "_".join(parts))
    return name if len(name) <= LONGEST else f"{name[:LONGEST]}_{atomic.sha256(name)[:6]}"


def without_reuse(record: Record, *names: str) -> str:
    """Equal for two runs that differ in nothing but the reuse, the repeat, and these settings of decoding."""
    defaults = {name: Decoding.model_fields[name].default for name in names}
    parameters = by_content(record)
    decoding = parameters.decoding.model_copy(update=defaults)
    return parameters.model_copy(update={"reuse": Reuse(), "repeat": 0, "decoding": decoding}).model_dump_json()


def run_key(record: Record) -> str:
    """Equal for two runs of one computation: repeats, and k=1 under several names."""
    return by_content(record).model_copy(update={"repeat": 0}).key()


def by_content(record: Record) -> Parameters:
    """The parameters, the data file named by what it holds: the same problems may lie at several paths."""
    return record.parameters.model_copy(update={"data": record.dataset.fingerprint or record.parameters.data})


def read_outcomes(path: Path, record: Record) -> Outcomes | None:
    """The answers in a samples.jsonl, or in what a compact record keeps of it, which knows no seconds; None if there is
    neither, ValueError if they are not the record's.
    """
    if not path.is_file():
        return shipped_outcomes(path.with_name(shipped.PROBLEMS), record)
    data = path.read_bytes()
    if record.samples_sha256 is not None and atomic.sha256(data) != record.samples_sha256:
        raise ValueError(f"{path}: these are not the samples that {records.SUMMARY} was made from; "
                         "allowed: records as they were written")
    rows = json.loads(b"[" + data.rstrip().replace(b"\n", b",") + b"]")    # half the time of a call per line
    return Outcomes(tuple(row["id"] for row in rows),
                    np.array([bool(row["correct"][record.metric]) for row in rows], dtype=np.float32),
                    np.array([row["tokens"] for row in rows], dtype=np.float32),
                    np.array([row["seconds"] for row in rows], dtype=np.float32),
                    predicted(record, {kind: [row["nfe"].get(kind, 0) for row in rows] for kind in record.nfe},
                              [row["decisions"].get("reuse", 0) for row in rows],
                              # an answer for which nothing was drafted has no passes of its own to count
                              [row.get("forwards_run") or records.forwards(row["nfe"]) for row in rows]
                              if record.forwards_run is not None else None))


def shipped_outcomes(path: Path, record: Record) -> Outcomes | None:
    """The answers in a problems.csv; None if there is no such file."""
    if not path.is_file():
        return None
    rows = shipped.read_problems(path, record)
    right, tokens = (rows[name].to_numpy(np.float32) for name in ("right", "tokens"))
    unknown = np.full(len(rows), np.nan)
    return Outcomes(tuple(rows["id"]), right, tokens, unknown, unknown)


def predicted_seconds(record: Record) -> float:
    """What the cost model gives all forwards of a record together; NaN where it does not count them."""
    ran = None if record.forwards_run is None else [record.forwards_run]
    return float(predicted(record, {kind: [count] for kind, count in record.nfe.items()},
                           [record.decisions.get("reuse", 0)], ran)[0])


def predicted(record: Record, nfe: dict[str, list[int]], reused: list[int], ran: list[int] | None = None) -> np.ndarray:
    """Seconds [n] that the cost model gives these forwards; NaN where a record does not count forwards by kind.

    ran: the passes that ran, under policy verify fewer than its forwards. What they carry besides is counted as it
    was measured (`verify_costs.relative_time`), the same for each pass of the record.
    """
    run, reuse = record.parameters, record.parameters.reuse
    if run.engine != "diffusion" or not record.nfe:
        return np.full(len(reused), np.nan)
    seconds = cost_model.predicted_seconds(nfe, reused, reuse.policy, run.revision, full_forwards=reuse.full_forwards)
    if ran is None:
        return seconds
    a_pass = relative_time(record) * records.forwards(record.nfe) / (record.forwards_run or 1)
    return seconds * a_pass * np.asarray(ran) / np.maximum(1, sum(np.asarray(count) for count in nfe.values()))
