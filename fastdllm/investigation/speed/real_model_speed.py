"""What the real model's shipped records say of speed: its mix of forwards at the 7B's shape, the threshold as control,
likelihood scoring. Times are the cost model's, at batch 1 on an H200; accuracy is the records'.
"""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false, reportReturnType=false

from __future__ import annotations

from typing import Any

import pandas as pd

from fastdllm import stats
from fastdllm.display.claim import Decision, claim
from fastdllm.display.tables import interval_text, whole
from fastdllm.investigation.collapse.phase6 import Phase6Results, worse
from fastdllm.lab.config.computation import generative
from fastdllm.report import cost_model
from fastdllm.report.shipped import ShippedRecords

REVISION = "26d6179"
HIGH, LOW = 1.0, 0.9      # thresholds of the shipped grids


def front(shipped: ShippedRecords, task: str, dtype: str = "float32") -> pd.DataFrame:
    """k = 1, 2, 3 at each threshold, one subset each (they decode alike): right answers, forwards, predicted time at
    the 7B's shape, and speed-up and points lost (paired, 95 %) against k=1 at the highest threshold that ran.
    """
    some = shipped.where(task=task, dtype=dtype, revision=REVISION, limit=None, policy="output")
    rows = some.frame.drop_duplicates(["threshold", "k"]).sort_values(["threshold", "k"], ascending=[False, True])
    plain = rows[rows["k"] == 1]
    if plain.empty:
        return rows.iloc[:0].assign(predicted=[], speedup=[], lost=[], lost_low=[], lost_high=[], relative=[])
    base, made = plain.iloc[0], []
    for row in rows.to_dict("records"):
        pair = stats.compare_paired(shipped.right(base["path"]), shipped.right(row["path"]))
        made.append(row | {"predicted": predicted_seconds(row), "lost": -100 * pair.difference,
                           "lost_low": -100 * pair.high, "lost_high": -100 * pair.low,
                           "relative": -pair.difference / base["accuracy"] if base["accuracy"] else float("nan")})
    table = pd.DataFrame(made).reset_index(drop=True)
    table["speedup"] = table["predicted"].iloc[0] / table["predicted"]
    return table


def predicted_seconds(row: dict[str, Any]) -> float:
    """The cost model's time of one record's forwards at the 7B's shape. row: a row of shipped records."""
    nfe = {kind: row[f"nfe_{kind}"] for kind in ("prefill", "full", "small", "commit", "replay")}
    return float(cost_model.predicted_seconds(nfe, row["reuse"], row["policy"], row["revision"],
                                              full_forwards=row["full_forwards"]))


def front_text(table: pd.DataFrame) -> pd.DataFrame:
    """`front` for people; all rows are of the same n problems."""
    return pd.DataFrame([{
        "threshold": f"{row.threshold:g}", "k": row.k, f"right of {row.n}": row.correct,
        "points lost": "baseline" if row.Index == 0 else interval_text(row.lost, row.lost_low, row.lost_high),
        "of k=1's right answers": "baseline" if row.Index == 0 else f"{row.relative:.0%}",
        "full forwards": whole(row.nfe_full), "small forwards": whole(row.nfe_small),
        "commit forwards": whole(row.nfe_commit),
        "tokens / forward": f"{row.tokens / row.nfe:.2f}", "layer calls reused": whole(row.reuse),
        "predicted speed-up": f"{row.speedup:.2f}x"} for row in table.itertuples()])


def mix(table: pd.DataFrame, threshold: float = LOW) -> pd.DataFrame:
    """`front` at one threshold as `throughput.mixes` has it: what `reuse_can_reach_the_goal` reads."""
    rows = table[table["threshold"] == threshold]
    made = pd.DataFrame({"run": ["k=1" if k == 1 else f"k={k} output" for k in rows["k"]],
                         "h200_speed": rows["tokens"] / rows["predicted"]})
    first = rows.iloc[0] if len(rows) else None
    made.attrs = {"of": "" if first is None else f"on the real model ({first['task']}, n = {first['n']}, threshold "
                        f"{threshold:g})"}
    return made


def scored(shipped: ShippedRecords) -> pd.DataFrame:
    """The records of tasks that are scored by likelihood."""
    return shipped.frame[[not generative(task) for task in shipped.frame["task"]]]


def likelihood(shipped: ShippedRecords) -> pd.DataFrame:
    """The tasks that are scored by likelihood: right answers and tokens/s."""
    return pd.DataFrame([{"task": row.task, "model": row.model, "right": f"{row.correct} of {row.n}",
                          "accuracy %": interval_text(row.accuracy, row.low, row.high, scale=100),
                          "choices scored": whole(row.nfe), "batch": whole(row.batch_size),
                          "seconds": f"{row.seconds:.0f}", "tokens/s": f"{row.tokens_per_second:.0f}"}
                         for row in scored(shipped).itertuples()])


@claim(holds="**On the real model (n = {n}) a lower threshold beats reuse**: {low:g} for {high:g}, nothing reused, is "
             "predicted {plain:.2f}x for {plain_lost:z.1f} points; k={k} instead {reuse:.2f}x for {reuse_lost:.1f} "
             "({relative:.0%} of the right answers).",
       fails="**On the real model (n = {n}) a lower threshold is not shown to beat reuse**: {low:g} for {high:g}, "
             "nothing reused, is predicted {plain:.2f}x for {plain_lost:z.1f} points; k={k} instead {reuse:.2f}x for "
             "{reuse_lost:.1f} ({relative:.0%} of the right answers).",
       unknown="**Whether a lower threshold beats reuse on the real model is not known**: k=1 and k=2 at threshold "
               "{high:g} and k=1 at {low:g} must ship.")
def a_lower_threshold_beats_reuse(shipped: ShippedRecords, table: pd.DataFrame) -> Decision:
    """table: `front`. Better: at least as fast as predicted, and significantly more right answers (exact McNemar)."""
    cells = {(row["threshold"], row["k"]): row for row in table.to_dict("records")}
    if not {(HIGH, 1), (LOW, 1), (HIGH, 2)} <= set(cells):
        return None, {"high": HIGH, "low": LOW}
    plain, reuse = cells[LOW, 1], cells[HIGH, 2]
    pair = stats.compare_paired(shipped.right(plain["path"]), shipped.right(reuse["path"]))
    return plain["speedup"] >= reuse["speedup"] and pair.difference < 0 and pair.p < 0.05, {
        "high": HIGH, "low": LOW, "k": 2, "n": pair.n, "plain": plain["speedup"], "reuse": reuse["speedup"],
        "plain_lost": plain["lost"], "reuse_lost": reuse["lost"], "relative": reuse["relative"]}


@claim(holds="{task} by likelihood on {model}: {accuracy:.1%} of {n}, above chance ({chance:.0%}), at {speed:.0f} "
             "tokens/s; reuse is not applicable.",
       fails="{task} by likelihood on {model}: {accuracy:.1%} of {n} is chance ({chance:.0%}), at {speed:.0f} "
             "tokens/s; reuse is not applicable.",
       unknown="No likelihood task ships.")
def likelihood_is_above_chance(shipped: ShippedRecords, choices: int = 4) -> Decision:
    """The first likelihood task; above: the whole 95 % interval."""
    frame = scored(shipped)
    if frame.empty:
        return None, {}
    row: dict[str, Any] = frame.iloc[0].to_dict()
    return row["low"] > 1 / choices, {"task": row["task"], "model": row["model"], "accuracy": row["accuracy"],
                                      "n": row["n"], "chance": 1 / choices, "speed": row["tokens_per_second"]}


@claim(holds="Two-tier caching (only full forwards' outputs are stored) is worse than the latest outputs in {hit} of "
             "{m} comparisons (most: k={k}, {points:+.1f} points, {relative:+.0%} of the right answers; {of}).",
       fails="Two-tier caching (only full forwards' outputs are stored) is not found worse than the latest outputs (0 "
             "of {m} comparisons; most: k={k}, {points:+.1f} points, interval {low:+.1f} to {high:+.1f}; {of}).",
       unknown="Two-tier caching did not run beside the latest outputs.")
def two_tier_is_worse(table: pd.DataFrame, results: Phase6Results) -> Decision:
    """table: `phase6.against`, `cache_source: full` against `latest`; results: the records that it is of."""
    if table.empty:
        return None, {}
    hit, worst = worse(table), table.loc[table["points"].idxmin()]
    return len(hit) > 0, {"hit": len(hit), "m": len(table), "k": worst["k"], "points": worst["points"],
                          "relative": worst["relative"], "low": worst["low"], "high": worst["high"],
                          "of": f"{results.frame['model'].iloc[0]}, n = {worst['n']}"}
