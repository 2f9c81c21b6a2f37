"""What a rule of the audit sees, and what it returns."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false, reportOptionalMemberAccess=false
# (pandas' own annotations make every df[...] a union)

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import pandas as pd

Level = Literal["impossible", "doubtful", "note"]
STAMP = "%Y%m%d_%H%M%S"
LEVELS: tuple[Level, ...] = ("impossible", "doubtful", "note")
# One row per configuration. Missing values are allowed everywhere but in the first five columns.
COLUMNS = ("row", "batch", "task", "config", "k", "layers", "setting", "limit", "n", "metric", "accuracy", "tokens",
           "seconds", "tokens_per_s", "finished", "code", "dirty", "node", "empty", "reuse", "model", "origin", "file",
           "problem")
# One row per thing that a page or a file states.
STATEMENTS = ("kind", "subject", "parameter", "value", "source")


@dataclass(frozen=True)
class Finding:
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
        """From dictionaries; unknown keys are refused, missing ones are missing values."""
        frames = []
        for items, columns in ((list(rows), COLUMNS), (list(statements), STATEMENTS)):
            unknown = {key for item in items for key in item} - set(columns)
            if unknown:
                raise ValueError(f"columns={sorted(unknown)}; allowed: {', '.join(columns)}")
            frames.append(pd.DataFrame(items, columns=list(columns), dtype=object))
        table = frames[0]
        for column in ("k", "limit", "n", "accuracy", "tokens", "seconds", "tokens_per_s", "empty", "reuse"):
            table[column] = pd.to_numeric(table[column], errors="raise")
        for column in ("setting", "metric"):
            table[column] = table[column].astype(object).where(table[column].notna(), "")
        table["limit"] = table["limit"].fillna(0).astype(int)  # 0: all problems
        return cls(table, frames[1])

    def tables(self) -> Iterator[tuple[str, pd.DataFrame]]:
        """The tables that a reader would compare within: one batch, task and limit."""
        for (batch, task, limit), rows in self.rows.groupby(["batch", "task", "limit"], sort=False):
            yield f"{batch} {task}" + (f" limit {limit}" if limit else ""), rows

    @cached_property
    def alike(self) -> list[tuple[str, pd.DataFrame]]:
        """Tables split further so that only k and the layers differ inside one; named by what else varies."""
        found = []
        for name, rows in self.tables():
            settings = [set(setting.split(", ")) for setting in rows["setting"].unique()]
            common = set.intersection(*settings) if settings else set()
            for (setting, _), part in rows.groupby(["setting", "metric"], sort=False):
                own = ", ".join(piece for piece in str(setting).split(", ") if piece not in common)
                found.append((f"{name} ({own})" if own else name, part))
        return found


Rule = Callable[[Evidence], Iterator[Finding]]


def names(rows: pd.DataFrame) -> tuple[str, ...]:
    return tuple(rows["row"])


def config_name(text: str) -> tuple[int, str] | None:
    """k and layers of a configuration name such as k2_middle."""
    found = re.match(r"^k(\d+)_(first|middle|last)(?:_|$)", text)
    return (int(found[1]), found[2]) if found else None
