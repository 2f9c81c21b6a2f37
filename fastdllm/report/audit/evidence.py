"""What a rule of the audit sees, and what it returns."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false, reportOptionalMemberAccess=false
# (pandas' own annotations make every df[...] a union)

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import pandas as pd

from fastdllm.lab.records.stated_result import STAMP as STAMP

Level = Literal["impossible", "doubtful", "note"]
LEVELS: tuple[Level, ...] = ("impossible", "doubtful", "note")
# One row per configuration. Missing values are allowed everywhere but in row, batch, task and config.
# settings: what a row is known to have run with, beyond k, layers, limit and code; metrics: every score by its name;
# limit: 0 for all problems, below 1 a share of them; n_stated: n is in the source, not worked out from the benchmark's
# size; skipped, interpreted: what could not be read as it stands; group_means, sample_means: as in
# lab.records.stated_result.
COLUMNS = ("row", "batch", "task", "config", "k", "layers", "settings", "limit", "n", "n_stated", "metric", "metrics",
           "accuracy", "tokens", "seconds", "tokens_per_s", "finished", "code", "dirty", "torch", "hardware", "node",
           "shards", "empty", "reuse", "model", "origin", "file", "problem", "skipped", "interpreted", "group_means",
           "sample_means")
EMPTY: dict[str, Any] = {"settings": {}, "metrics": {}, "group_means": {}, "sample_means": {}, "skipped": (),
                         "interpreted": ()}             # what stands where nothing is given
# One row per thing that a page or a file states.
STATEMENTS = ("kind", "subject", "parameter", "value", "source")
# Settings that shape an answer: rows are one computation only if all of them are known and agree.
SETTINGS = ("model", "data", "prompt", "shots", "engine", "revision", "dtype", "device", "batch_size", "threshold",
            "max_new_tokens", "block_size", "small_block", "block_cache", "temperature", "stop_strings", "stop_ids")
MOST_NAMED = 4      # of what is not stated: where nearly nothing is, a list of it all says no more
# What else has to agree, by the column that holds it.
CIRCUMSTANCES = {"code": "code", "torch": "torch", "hardware": "hardware"}


@dataclass(frozen=True)
class Finding:
    """What a rule found: about which rows, in words, and how sure it is."""

    rule: str
    level: Level
    rows: tuple[str, ...]
    statement: str
    sure: str


@dataclass(frozen=True)
class Evidence:
    """What an audit reads: configurations (columns `COLUMNS`) and statements (columns `STATEMENTS`)."""

    rows: pd.DataFrame
    statements: pd.DataFrame

    @classmethod
    def of(cls, rows: Iterable[dict], statements: Iterable[dict] = ()) -> Evidence:
        """From dictionaries; unknown keys are refused with ValueError, missing ones are missing values."""
        frames = []
        for items, columns in ((list(rows), COLUMNS), (list(statements), STATEMENTS)):
            unknown = {key for item in items for key in item} - set(columns)
            if unknown:
                raise ValueError(f"columns={sorted(unknown)}; allowed: {', '.join(columns)}")
            frames.append(pd.DataFrame(items, columns=list(columns), dtype=object))
        table = frames[0]
        for column in ("k", "limit", "n", "accuracy", "tokens", "seconds", "tokens_per_s", "empty", "reuse"):
            table[column] = pd.to_numeric(table[column], errors="raise")
        table["metric"] = table["metric"].astype(object).where(table["metric"].notna(), "")
        for column, empty in EMPTY.items():
            table[column] = pd.Series([value if isinstance(value, type(empty)) else empty for value in table[column]],
                                      index=table.index, dtype=object)
        return cls(table, frames[1])

    def tables(self) -> Iterator[tuple[str, pd.DataFrame]]:
        """The tables that a reader would compare within: one batch, task and limit."""
        for (batch, task, limit), rows in self.rows.groupby(["batch", "task", "limit"], sort=False, dropna=False):
            which = "" if limit == 0 else f" limit {limit:g}" if limit == limit else " limit not stated"
            yield f"{batch} {task}{which}", rows

    @cached_property
    def alike(self) -> list[tuple[str, pd.DataFrame]]:
        """Tables split further so that, of what is known, only k, the layers and the code differ inside one.

        Named by what else varies, and by the score where a file names it.
        """
        tables = []
        for name, rows in self.tables():
            varying = [key for key in dict.fromkeys(key for settings in rows["settings"] for key in settings)
                       if len({settings_key({key: settings.get(key)}) for settings in rows["settings"]}) > 1]
            keys = rows["settings"].map(settings_key)
            for (_, metric), part in rows.groupby([keys, "metric"], sort=False):
                own = [f"{key} {part['settings'].iloc[0][key]}" for key in varying if key in part["settings"].iloc[0]]
                own += [str(metric)] if metric else []
                tables.append((f"{name} ({', '.join(own)})" if own else name, part))
        return tables


Rule = Callable[[Evidence], Iterator[Finding]]


def settings_key(settings: dict[str, Any]) -> str:
    """Equal for equal settings, in whatever order they stand."""
    return json.dumps(settings, sort_keys=True, default=str)


def names(rows: pd.DataFrame) -> tuple[str, ...]:
    return tuple(rows["row"])


def unknown(rows: pd.DataFrame) -> list[str]:
    """What shaped these rows (all of them alike in what is known) and is not stated for each."""
    missing = [name for name in SETTINGS if any(name not in settings for settings in rows["settings"])]
    missing += ["limit"] if (rows["limit"].isna() & rows["n"].isna()).any() else []
    missing += [name for name, column in CIRCUMSTANCES.items() if rows[column].isna().any()]
    changed, unsaid = rows["dirty"].eq(True).any(), rows["dirty"].isna().any()
    return missing + (["the changes of the working tree"] if changed else
                      ["whether the working tree had changes"] if unsaid else [])


def circumstances_apart(rows: pd.DataFrame) -> list[str]:
    """The circumstances in which these rows differ, with their values."""
    return [f"{name} ({', '.join(map(str, rows[column].dropna().unique()))})"
            for name, column in CIRCUMSTANCES.items() if rows[column].nunique() > 1]


def not_one_computation(rows: pd.DataFrame) -> str:
    """Why rows that are alike may still be different computations; "" if all that shaped them is known and agrees."""
    reasons = [f"they differ in {', '.join(different)}"] if (different := circumstances_apart(rows)) else []
    missing = unknown(rows)
    few = missing if len(missing) <= MOST_NAMED + 1 else [*missing[:MOST_NAMED], f"{len(missing) - MOST_NAMED} more"]
    reasons += [f"not stated: {', '.join(few)}"] if few else []
    return "; ".join(reasons)


def decimals(value: float) -> int:
    """The decimal places that a number is stated with (80.4 % has three as a share)."""
    return len(f"{value:.12g}".partition(".")[2])


def same_number(one: float, other: float) -> bool:
    """Whether two numbers agree to the digits that the shorter of them is stated with."""
    return abs(one - other) <= 0.5000001 * 10 ** -max(1, min(decimals(one), decimals(other)))
