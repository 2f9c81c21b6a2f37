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

import re
from collections import Counter
from collections.abc import Iterable

import pandas as pd

from fastdllm.display.tables import Html
from fastdllm.report.audit import agreement, claims, files, scores, speed
from fastdllm.report.audit.evidence import LEVELS, Evidence, Finding, Level, Rule
from fastdllm.stats import number_of

FINDINGS = "one row a finding: the rule that fired, and the configurations or statements that it is about"


def rules() -> dict[str, Rule]:
    """Every rule by its name, in the order of a report."""
    return {**agreement.RULES, **scores.RULES, **files.RULES, **speed.RULES, **claims.RULES}


def audit(evidence: Evidence, only: Iterable[str] | None = None) -> list[Finding]:
    """All findings, the worst level first, within a level the strongest evidence first (the order of the rules).

    Raises ValueError for a rule that does not exist.
    """
    known = rules()
    chosen = list(known) if only is None else list(only)
    missing = [name for name in chosen if name not in known]
    if missing:
        raise ValueError(f"rules={missing}; allowed: {', '.join(known)}")
    findings = [finding for name in chosen for finding in known[name](evidence)]
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def frame(findings: Iterable[Finding]) -> pd.DataFrame:
    """One row per finding: level, rule, statement, how sure, rows."""
    return pd.DataFrame([{"level": f.level, "rule": f.rule, "statement": f.statement, "how sure": f.sure,
                          "rows": compact(f.rows)} for f in findings],
                        columns=["level", "rule", "statement", "how sure", "rows"])


def shown(findings: Iterable[Finding], level: Level, fold: bool = False) -> Html:
    """The findings of a level as a page shows them; folded, their number and their rules stand above the fold."""
    own = [finding for finding in findings if finding.level == level]
    table = frame(own).drop(columns="level").assign(rows=[crossed(finding.rows) for finding in own])
    fired = ", ".join(f"`{rule}` {count}" for rule, count in table["rule"].value_counts(sort=False).items())
    count = number_of(len(table), "finding")
    return Html(table, FINDINGS, f"{count}: {fired}" if fold and fired else "")


def asked(findings: Iterable[Finding]) -> Html:
    """Every rule, what it says, and how often it fired; behind a fold."""
    fired = Counter(finding.rule for finding in findings)
    table = pd.DataFrame([{"rule": name, "note": (rule.__doc__ or "").splitlines()[0], "findings": fired[name]}
                          for name, rule in rules().items()])
    return Html(table, "every rule that was asked, and how often it fired",
                f"{number_of(len(table), 'rule')}, of which {len(fired)} fired")


def compact(rows: Iterable[str]) -> str:
    """`run/task: k1_first, k2_first; ...`: row names with their folder said once."""
    return "; ".join((f"{folder}: " if folder else "") + ", ".join(names) for folder, names in by_folder(rows).items())


def crossed(rows: Iterable[str]) -> str:
    """As `compact`, for people: `run/task: k1 first and k2, k3 x first, last; ...`."""
    return "; ".join((f"{folder}: " if folder else "") + (" and ".join(by_k(names)) or ", ".join(names))
                     for folder, names in by_folder(rows).items())


def by_folder(rows: Iterable[str]) -> dict[str, list[str]]:
    """The names of rows, by the folder that stands before them."""
    folders: dict[str, list[str]] = {}
    for row in rows:
        folder, _, name = row.rpartition("/")
        folders.setdefault(folder, []).append(name)
    return folders


def by_k(names: list[str]) -> list[str]:
    """`k1, k2 x first, last` of names like k1_first, those with the same layers together; nothing where one is not."""
    parts = [re.fullmatch(r"(k\d+)_(.+)", name) for name in names]
    layers: dict[str, list[str]] = {}
    for part in filter(None, parts):
        layers.setdefault(part[1], []).append(part[2])
    alike: dict[str, list[str]] = {}
    for k, subsets in layers.items():
        alike.setdefault(", ".join(subsets), []).append(k)
    return [", ".join(ks) + (" x " if len(ks) > 1 else " ") + subsets for subsets, ks in alike.items()] \
        if all(parts) else []


def failing(findings: Iterable[Finding]) -> set[str]:
    """The rows that an `impossible` finding names: what must not be published without a word."""
    return {row for finding in findings if finding.level == "impossible" for row in finding.rows}


def summary(findings: list[Finding]) -> str:
    """One line: how many findings of each level."""
    if not findings:
        return "audit: no rule fired"
    own = {level: sum(finding.level == level for finding in findings) for level in LEVELS}
    counts = [number_of(n, level) if level == "note" else f"{n} {level}" for level, n in own.items()]
    return f"audit: {number_of(len(findings), 'finding')} ({', '.join(counts)})"
