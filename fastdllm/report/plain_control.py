"""Grids that hold thresholds and reuse: each reuse against the best plain threshold that is at least as fast.

Lowering the threshold costs accuracy and buys speed with no reuse at all, so it is what a reuse has to beat. "At least
as fast" is by the cost model's seconds where the table has them (`predicted_seconds`), else by the clock's, and there
only between runs of one batch size and one executor on one device that were repeated: a clock that was read once is no
measure. The cost model predicts batch 1 from the forwards of single prompts; those of a plain run are the same in any
batch.
"""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportGeneralTypeIssues=false, reportReturnType=false, reportOptionalMemberAccess=false
# (pandas' own annotations make every df[...] a union)

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from fastdllm import stats
from fastdllm.display.tables import REPEATS, interval_text, whole
from fastdllm.lab.config.parameters import Parameters
from fastdllm.lab.records.record import Record
from fastdllm.report import tables
from fastdllm.report.results import Outcomes, Results, without_reuse

SLACK = 1.02        # so much slower still counts as equally fast
CLOCKED = {"batch_size": "at batch", "executor": "on the executor", "device_name": "on"}    # what a clock depends on
NONE_AS_FAST = "none is as fast"
COLUMNS = ("control", "gain", "gain_low", "gain_high", "won", "lost_to_it", "gain_p")


def applies(table: pd.DataFrame) -> bool:
    """Whether these rows hold plain ones and reuse, and several thresholds."""
    return len(table) > 0 and set(table["k"] > 1) == {True, False} and table["threshold"].nunique() > 1


def against_plain(results: Results, table: pd.DataFrame) -> pd.DataFrame:
    """The grid's table with the comparison: for each reuse row the configuration of its `control` ("" where there is
    none, and `no_control` says why), the points won over it with their 95 % interval (paired where single answers are
    kept), problems won and lost, McNemar's p.

    `relative_speed` is each row's speed over that of the plain row of the highest threshold; NaN where the two times
    do not compare.
    table: `tables.grid_table(results)`.
    """
    rows = table.to_dict("records")
    for row, record in zip(rows, results.records, strict=True):
        row |= dict.fromkeys(COLUMNS, math.nan) | {
            "control": "", "no_control": "", "family": family(record), "time": time_of(row),
            "relative_speed": math.nan}
    for row in rows:
        plain = [other for other in rows if other["family"] == row["family"] and other["k"] == 1]
        timed = [other for other in plain if comparable(other, row)]
        if timed:
            row["relative_speed"] = max(timed, key=lambda other: other["threshold"])["time"] / row["time"]
        fast = [other for other in timed if other["time"] <= SLACK * row["time"]]
        if row["k"] > 1 and fast:
            row |= gain(max(fast, key=lambda other: other["accuracy"]), row, results.outcomes)
        elif row["k"] > 1:
            row["no_control"] = NONE_AS_FAST if timed else nothing_timed(plain, row)
    return pd.DataFrame(rows).drop(columns=["family", "time"])


def family(record: Record) -> str:
    """Equal for two runs that differ in nothing but the reuse, the repeat, the threshold and the batch size."""
    default = Parameters.model_fields["batch_size"].default
    parameters = record.parameters.model_copy(update={"batch_size": default})
    return without_reuse(record.model_copy(update={"parameters": parameters}), "threshold")


def nothing_timed(plain: list[dict[str, Any]], row: dict[str, Any]) -> str:
    """Which plain run is missing, without which nothing can be said of a reuse row's speed."""
    if not plain:
        return "no plain run of its other settings"
    if row["time"] != row["time"]:
        return "its own time is not known"
    predicted = row_is_predicted(row)
    if not predicted and row["runs"] < REPEATS:
        return f"its clock was read fewer than {REPEATS} times"
    timed = [other for other in plain if other["time"] == other["time"] and row_is_predicted(other) == predicted]
    if not timed:
        return f"no plain run {'with a predicted time' if predicted else 'timed by the clock'}"
    missing = [f"{said} {row[name]}" for name, said in CLOCKED.items()
               if row[name] not in {other[name] for other in timed}]
    if not missing and not predicted and max(other["runs"] for other in timed) < REPEATS:
        return f"no plain run that was timed {REPEATS} times"
    return f"no plain run {' '.join(missing) or 'of its batch size, executor and device together'}"


def time_of(row: dict[str, Any]) -> float:
    """Seconds a token: the cost model's, or the clock's; nan where neither is known."""
    seconds = row.get("predicted_seconds", math.nan)
    return (row["seconds"] if seconds != seconds else seconds) / (row["tokens"] or math.nan)


def comparable(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether the times of two rows are known and measure the same: two predicted ones do, and two repeated clocks at
    one batch size on one device with one executor.
    """
    if one["time"] != one["time"] or other["time"] != other["time"]:
        return False
    if row_is_predicted(one) or row_is_predicted(other):
        return row_is_predicted(one) and row_is_predicted(other)
    return min(one["runs"], other["runs"]) >= REPEATS and all(one[name] == other[name] for name in CLOCKED)


def row_is_predicted(row: dict[str, Any]) -> bool:
    """Whether a row's time is the cost model's."""
    seconds = row.get("predicted_seconds", math.nan)
    return seconds == seconds


def gain(control: dict[str, Any], row: dict[str, Any], outcomes: dict[str, Outcomes | None]) -> dict[str, Any]:
    """What a reuse row wins over its control, in points."""
    one, other = outcomes[control["folder"]], outcomes[row["folder"]]
    if one is not None and other is not None and one.ids == other.ids:
        pair = stats.compare_paired(one.correct, other.correct)
        return {"control": control["config"], "gain": 100 * pair.difference, "gain_low": 100 * pair.low,
                "gain_high": 100 * pair.high, "won": pair.gained, "lost_to_it": pair.lost, "gain_p": pair.p}
    low, high = stats.difference_unpaired(control["correct"], control["n"], row["correct"], row["n"])
    return {"control": control["config"], "gain": 100 * (row["accuracy"] - control["accuracy"]), "gain_low": 100 * low,
            "gain_high": 100 * high}


def as_text(rows: pd.DataFrame) -> pd.DataFrame:
    """`against_plain` for people, the fastest last."""
    shown = []
    for row in rows.sort_values(["task", "relative_speed"], kind="stable").to_dict("records"):
        reuses = row["k"] > 1
        shown.append({
            "task": row["task"], "config": row["config"], "threshold": f"{row['threshold']:g}",
            "accuracy %": interval_text(row["accuracy"], row["low"], row["high"], scale=100), "n": whole(row["n"]),
            "forwards": whole(row["forwards_run"]),
            "speed": interval_text(row["relative_speed"], math.nan, math.nan, 2),
            "best plain as fast": row["control"] or row["no_control"],
            "points won over it": interval_text(row["gain"], row["gain_low"], row["gain_high"]) if reuses else "",
            "won, lost": f"{row['won']:.0f}, {row['lost_to_it']:.0f}" if row["won"] == row["won"] else ""})
    table = pd.DataFrame(shown)
    return table.drop(columns="task") if table["task"].nunique() == 1 else table


def caption(rows: pd.DataFrame) -> str:
    """What the columns of `as_text` are, and by which clock."""
    predicted = [row_is_predicted(row) for row in rows.to_dict("records")]
    clock = " or ".join(name for name, used in (
        ("the cost model's prediction from the forwards", any(predicted)),
        (f"tokens/s by the clock, where each ran {REPEATS} times or more", not all(predicted))) if used)
    batch = " (a prediction is of batch 1, whatever batch ran)" if any(predicted) else ""
    rule = ", ".join(sorted(set(rows["metric"])))
    return (f"accuracy by the rule {rule} with 95 % Wilson interval; speed: {clock}, over that of the plain row of the "
            f"highest threshold{batch}; best plain as fast: the most accurate configuration without reuse that is at "
            "least as fast; points won over it: with the 95 % interval, on the same problems"
            + (f". {ran_on}" if (ran_on := tables.executors(rows)) else ""))


def sentences(rows: pd.DataFrame) -> list[str]:
    """One sentence for each reuse row: whether it beats lowering the threshold."""
    lines = []
    for row in rows[rows["k"] > 1].to_dict("records"):
        name = f"{row['task']} {row['config']}"
        if not row["control"]:
            lines.append(f"{name}: no plain threshold of this grid is as fast" if row["no_control"] == NONE_AS_FAST else
                         f"{name}: nothing to hold it against: {row['no_control']}")
            continue
        lines.append(f"{name} against {row['control']}: "
                     f"{stats.say_difference(row['gain'], row['gain_low'], row['gain_high'], row['n'])}")
    return lines
