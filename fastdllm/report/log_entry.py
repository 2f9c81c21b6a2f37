"""The log writes itself: an entry in the form of the log's template, and how figures stand in a line."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportReturnType=false
# (pandas' own annotations make every df[...] a union)

from __future__ import annotations

from typing import Any

import pandas as pd

from fastdllm import stats
from fastdllm.display.tables import PREDICTED, REPEATS, interval_text
from fastdllm.lab.config.paths import short
from fastdllm.report import tables
from fastdllm.report.content import Report, values


def entry(report: Report) -> str:
    """Log entries in the form of the template, one per task."""
    results, parts = report.results, []
    date = max(record.day for record in results.records)
    folders = pd.Series([state.configuration.directory.parent for state, _ in results.recorded], report.table.index)
    for folder, rows in report.table.groupby(folders, sort=False):
        used = next(record for record in results.records if record.task == rows["task"].iloc[0]).parameters
        one = rows[rows["k"] == 1]
        others = (f"threshold={values(rows['threshold'])}, batch_size={values(rows['batch_size'])}, "
                  f"policy={values(rows['policy'])}, revision={values(rows['revision'])}, model={used.model}, "
                  f"dtype={values(rows['dtype'])}, limit={used.limit or 'none'}")
        notes = [report.verdict.outcome + ": " + report.verdict.why]
        notes += filter(None, [tables.executors(report.table)])
        notes += [f"{f.level}: {f.statement}" for f in report.findings if f.level != "note"]
        parts.append("\n".join([
            f"#### {date} - {results.grid.experiment}", f"- **Task**: {folder.name}", "- **Configuration**:",
            f"  - Layer Reuse: k={values(rows['k'])}", f"  - Layer Subset: {values(rows['layers'])}",
            f"  - Other params: {others}", "- **Results**:",
            f"  - Accuracy: {_list(rows, _accuracy)}",
            f"  - Throughput: {_list(rows, lambda r: rate(r._asdict()))}",
            f"  - Speedup: {_list(rows[rows['k'] > 1], _speedup)}"
            if len(one) else "  - Speedup: not measured (no k=1 configuration)",
            "- **Notes**: " + "; ".join(notes), f"- **Logs**: `{short(folder)}`"]))
    return "\n\n".join(parts) + "\n"


def _list(rows: pd.DataFrame, text) -> str:
    return ", ".join(f"{row.config} {text(row)}" for row in rows.itertuples())


def _speedup(row) -> str:
    ratio = interval_text(row.speedup, row.speed_low, row.speed_high, 2, unit="x")
    return f"{ratio} predicted" if row.speed_from == PREDICTED else ratio


def ratio(row: dict[str, Any]) -> str:
    """A speed-up in a line, or why there is none."""
    if row["speedup"] != row["speedup"]:
        return f"no speed-up ({row['speed_from']})"
    return f"{'predicted ' * (row['speed_from'] == PREDICTED)}{row['speedup']:.2f}x"


def rate(row: dict[str, Any]) -> str:
    """Tokens/s where the clock was read often enough, else tokens per forward, else the one run's clock as such."""
    if row["runs"] < REPEATS and row["nfe"]:
        return f"{row['tokens_per_forward']:.2f} tokens/forward"
    return f"{row['tokens_per_second']:.1f} tokens/s" + ("" if row["runs"] >= REPEATS else " (one run)")


def _accuracy(row) -> str:
    return f"{100 * row.accuracy:.2f}% (n={row.n}, {stats.span(100 * row.low, 100 * row.high)})"
