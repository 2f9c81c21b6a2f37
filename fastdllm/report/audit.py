"""The audit of results: every rule is a function over one normalised table, and says what can't be.

    findings = audit(published())          # the published table of the log
    findings = audit(read("executed/x"))   # our records, lm-evaluation-harness folders, old summary.json layouts

A finding names its rule, its rows, a statement with the numbers, and how sure it is. Levels:
`impossible` (the numbers contradict each other or the computation), `doubtful` (they can't carry the claim, or have
a second explanation), `note` (expected, or harmless, but worth knowing).
"""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false, reportOptionalMemberAccess=false
# (pandas' own annotations make every df[...] a union)

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import pandas as pd

Level = Literal["impossible", "doubtful", "note"]
LEVELS: tuple[Level, ...] = ("impossible", "doubtful", "note")

# One row per cell. Missing values are allowed everywhere but in the first five columns.
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
    """What an audit reads: cells (columns `COLUMNS`) and statements (columns `STATEMENTS`)."""

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


def rules() -> dict[str, Rule]:
    """Every rule by its name, in the order of a report."""
    from fastdllm.report import audit_cells, audit_claims, audit_speed
    return {**audit_cells.RULES, **audit_speed.RULES, **audit_claims.RULES}


def audit(evidence: Evidence, only: Iterable[str] | None = None) -> list[Finding]:
    """All findings, the worst first. ValueError for a rule that does not exist."""
    known = rules()
    chosen = list(known) if only is None else list(only)
    missing = [name for name in chosen if name not in known]
    if missing:
        raise ValueError(f"rules={missing}; allowed: {', '.join(known)}")
    found = [finding for name in chosen for finding in known[name](evidence)]
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


def frame(findings: Iterable[Finding]) -> pd.DataFrame:
    """One row per finding: level, rule, statement, how sure, rows."""
    return pd.DataFrame([{"level": f.level, "rule": f.rule, "statement": f.statement, "how sure": f.sure,
                          "rows": compact(f.rows)} for f in findings],
                        columns=["level", "rule", "statement", "how sure", "rows"])


def compact(rows: Iterable[str]) -> str:
    """`run/task: k1_first, k2_first; ...`: row names with their folder said once."""
    folders: dict[str, list[str]] = {}
    for row in rows:
        folder, _, name = row.rpartition("/")
        folders.setdefault(folder, []).append(name)
    return "; ".join((f"{folder}: " if folder else "") + ", ".join(names) for folder, names in folders.items())


def failing(findings: Iterable[Finding]) -> set[str]:
    """The rows that an `impossible` finding names: what must not be published without a word."""
    return {row for finding in findings if finding.level == "impossible" for row in finding.rows}


def names(rows: pd.DataFrame) -> tuple[str, ...]:
    return tuple(rows["row"])


def summary(findings: list[Finding]) -> str:
    """One line: how many findings of each level."""
    if not findings:
        return "audit: no rule fired"
    counts = [f"{sum(f.level == level for f in findings)} {level}" for level in LEVELS]
    return f"audit: {len(findings)} findings ({', '.join(counts)})"
