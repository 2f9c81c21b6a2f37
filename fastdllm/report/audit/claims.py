"""Audit rules over what pages and files state: parameters, layer tables, published scores."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false, reportOptionalMemberAccess=false
# (pandas' own annotations make every df[...] a union)

from __future__ import annotations

import re
from collections.abc import Iterator

import pandas as pd

from fastdllm import prior_results, stats
from fastdllm.report.audit.evidence import Evidence, Finding, Rule, names


def stated_twice(evidence: Evidence) -> Iterator[Finding]:
    """One parameter of one subject, stated with different values in different places."""
    stated = evidence.statements[evidence.statements["kind"] == "parameter"]
    for (subject, parameter), rows in stated.groupby(["subject", "parameter"], sort=False):
        if rows["value"].nunique() < 2:
            continue
        places = "; ".join(f"{value}: {', '.join(part['source'].unique())}"
                           for value, part in rows.groupby("value", sort=False))
        yield Finding("stated_twice", "doubtful", (str(subject),), f"{subject}: {parameter} is stated as {places}",
                      "certain that the statements differ; which one ran is not in the records")


def layer_tables(evidence: Evidence) -> Iterator[Finding]:
    """Layer ranges that don't fit the model they are about, or not the subset size stated beside them."""
    stated = evidence.statements[evidence.statements["kind"] == "layers"]
    model = evidence.statements[evidence.statements["kind"] == "model"]
    for subject, rows in stated.groupby("subject", sort=False):
        counts = model.loc[model["subject"] == subject, "value"]
        sizes = rows.loc[rows["parameter"] == "size", "value"].astype(int).unique()
        for (subset, value), part in rows[rows["parameter"] != "size"].groupby(["parameter", "value"], sort=False):
            ends = [int(end) for end in re.findall(r"\d+", str(value))]
            first, last, places = ends[0], ends[-1], ", ".join(part["source"].unique())
            if len(counts) and last >= int(counts.iloc[0]):
                missing = last - max(first, int(counts.iloc[0])) + 1
                yield Finding("layer_tables", "impossible", (f"{subject} {subset}",),
                              f"{subset} = layers {value} ({places}): the model has {counts.iloc[0]}, indices 0 to "
                              f"{int(counts.iloc[0]) - 1}; {missing} of these layers do not exist",
                              "certain: num_hidden_layers of the checkpoint's config")
            if len(sizes) and last - first + 1 not in sizes:
                yield Finding("layer_tables", "doubtful", (f"{subject} {subset}",),
                              f"{subset} = layers {value} ({places}) are {last - first + 1} layers; stated: "
                              f"{', '.join(str(size) for size in sizes)}", "certain")


def published_score(evidence: Evidence) -> Iterator[Finding]:
    """A baseline whose interval leaves out the published score of the same benchmark and model."""
    scores = prior_results.scores()
    for name, rows in evidence.tables():
        task = rows["task"].iloc[0]
        base = rows[(rows["k"] == 1) & rows["accuracy"].notna() & rows["n"].notna()
                    & (rows["model"].isna() | rows["model"].astype(str).str.contains("Fast_dLLM_v2_7B"))]
        if task not in scores or base.empty:
            continue
        if any(low <= scores[task] <= high for low, high in _intervals(base)):
            continue
        row = base.iloc[0]
        n, (low, high) = int(row["n"]), next(_intervals(base))
        full = prior_results.problems(str(task), 0)
        part = f", on {n} of {full} problems" if full and n < full else ""
        yield Finding("published_score", "doubtful", names(base),
                      f"{name}: k=1 at {row['accuracy']:.2%} (n = {n}, interval {stats.span(low, high, '.1%')}{part}) "
                      f"leaves out the published {scores[task]:.1%}",
                      "95 %, if the problems were drawn at random" if part else "95 %; the cause is not in the table")


def _intervals(rows: pd.DataFrame) -> Iterator[stats.Interval]:
    for accuracy, n in zip(rows["accuracy"], rows["n"].astype(int), strict=True):
        yield stats.wilson(round(accuracy * n), n)


def stated_empty(evidence: Evidence) -> Iterator[Finding]:
    """Empty answers that a page reports."""
    stated = evidence.statements[evidence.statements["kind"] == "empty"]
    for row in stated.itertuples():
        yield Finding("stated_empty", "doubtful", (str(row.subject),),
                      f"{row.subject}: {row.value} answers empty ({row.source})", "as stated there")


RULES: dict[str, Rule] = {rule.__name__: rule for rule in (stated_twice, layer_tables, published_score, stated_empty)}
