"""Audit rules over the files that results were read from: which one counts, and what of them could not be read."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false, reportOptionalMemberAccess=false
# (pandas' own annotations make every df[...] a union)

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

import pandas as pd

from fastdllm.report.audit.evidence import Evidence, Finding, Rule, names, same_number, settings_key
from fastdllm.stats import number_of


def which_result(evidence: Evidence) -> Iterator[Finding]:
    """Several result files of one configuration, and a summary that took its score from an old one."""
    files = evidence.rows[(evidence.rows["origin"] == "lm_eval") & evidence.rows["accuracy"].notna()]
    run = [settings_key({**row["settings"], "k": str(row["k"]), "layers": str(row["layers"])})
           for row in files.to_dict("records")]
    folder = files["file"].map(lambda file: str(PurePath(file).parent))
    for (batch, task, config, _, _, _), rows in files.groupby(
            ["batch", "task", "config", "metric", pd.Series(run, files.index), folder], sort=False):
        if len(rows) < 2:
            continue
        rows = rows.sort_values("finished")
        newest, older = rows.iloc[-1], rows.iloc[:-1].to_dict("records")
        summaries = evidence.rows[(evidence.rows["origin"] == "summary") & (evidence.rows["config"] == config)
                                  & (evidence.rows["batch"] == batch) & (evidence.rows["task"] == task)
                                  & evidence.rows["accuracy"].notna()]
        stale = [row for row in summaries.to_dict("records") if not _states(newest, row["accuracy"])
                 and any(_states(file, row["accuracy"]) for file in older)]
        if stale:
            later = all(isinstance(row["finished"], str) and isinstance(newest["finished"], str)
                        and row["finished"] >= newest["finished"] for row in stale)
            yield Finding("which_result", "impossible" if later else "doubtful",
                          (*(row["row"] for row in stale), *names(rows)),
                          f"{batch} {task} {config}: the summary says {stale[0]['accuracy']:.4f}, an older result "
                          f"file's score; the newest of {len(rows)} says {newest['accuracy']:.4f} ({newest['metric']})",
                          "certain: the summary is not older than the newest file" if later
                          else "likely, unless the summary belongs to the older run")
        else:
            yield Finding("which_result", "note", names(rows),
                          f"{batch} {task} {config}: {len(rows)} result files in one folder; which one a reader takes "
                          "depends on the order of a directory listing", "certain")


def summary_disagrees(evidence: Evidence) -> Iterator[Finding]:
    """A summary whose score is none of the one result file beside it."""
    rows = evidence.rows
    files = rows[rows["origin"] == "lm_eval"].groupby(["batch", "task", "config"]).filter(lambda g: len(g) == 1)
    both = files.merge(rows[rows["origin"] == "summary"], on=["batch", "task", "config"],
                       suffixes=("_file", "_summary"))
    for row in both[both["accuracy_file"].notna() & both["accuracy_summary"].notna()].to_dict("records"):
        if _states({"accuracy": row["accuracy_file"], "metrics": row["metrics_file"]}, row["accuracy_summary"]):
            continue
        one_run = row["finished_file"] is not None and row["finished_file"] == row["finished_summary"]
        yield Finding("summary_disagrees", "impossible" if one_run else "doubtful",
                      (row["row_summary"], row["row_file"]),
                      f"{row['row_summary']}: {row['accuracy_summary']:.4f} in the summary, {row['accuracy_file']:.4f} "
                      f"({row['metric_file'] or 'its score'}) in the result file, and no other score of it either",
                      "certain: both name one time" if one_run else "likely, unless they belong to different runs")


def _states(row: Any, accuracy: float) -> bool:
    """Whether a row states this accuracy, under whatever metric."""
    return any(same_number(accuracy, value) for value in (*row["metrics"].values(), row["accuracy"]))


def samples_disagree(evidence: Evidence) -> Iterator[Finding]:
    """A score that is not the mean of the samples kept beside it, or not of as many."""
    for row in evidence.rows.to_dict("records"):
        for metric, (mean, count) in row["sample_means"].items():
            stated = row["metrics"].get(metric)
            if row["n_stated"] and row["n"] == row["n"] and count != row["n"]:
                yield Finding("samples_disagree", "doubtful", (row["row"],),
                              f"{row['row']}: {number_of(count, 'sample')} of {metric} beside results of "
                              f"n = {row['n']:.0f}",
                              "certain that the numbers differ; samples may have been lost since")
            elif stated is not None and not row["group_means"] and not same_number(mean, stated):
                yield Finding("samples_disagree", "impossible", (row["row"],),
                              f"{row['row']}: {metric} is {stated:.4f} in the results and {mean:.4f} over "
                              f"{number_of(count, 'sample')}", "certain: the score is the mean of these samples")


def unreadable(evidence: Evidence) -> Iterator[Finding]:
    """Files that are no valid result: edited by hand, cut off, of an unknown layout."""
    for row in evidence.rows[evidence.rows["problem"].notna()].itertuples():
        ours = row.origin == "record"
        yield Finding("unreadable", "impossible" if ours else "doubtful", (str(row.row),),
                      f"{row.file}: {row.problem}", "certain: a record says so itself" if ours
                      else "certain that it can't be read; nothing of it is in this audit")


def value_not_read(evidence: Evidence) -> Iterator[Finding]:
    """Values that stand in a file and could not be read: the rest of the file was."""
    for row in _with(evidence, "skipped"):
        yield Finding("value_not_read", "doubtful", (str(row["row"]),),
                      f"{row['file']}: {'; '.join(row['skipped'])}", "certain; no rule saw these values")


def value_interpreted(evidence: Evidence) -> Iterator[Finding]:
    """Values that are written as something else than numbers and were read as what they must mean."""
    for row in _with(evidence, "interpreted"):
        yield Finding("value_interpreted", "note", (str(row["row"]),),
                      f"{row['file']}: {'; '.join(row['interpreted'])}", "as far as one can see from one file")


def _with(evidence: Evidence, column: str) -> list[dict[str, Any]]:
    return [row for row in evidence.rows.to_dict("records") if row[column]]


RULES: dict[str, Rule] = {rule.__name__: rule for rule in (
    which_result, summary_disagrees, samples_disagree, unreadable, value_not_read, value_interpreted)}
