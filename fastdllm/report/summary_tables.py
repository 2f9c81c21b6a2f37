"""Tables beside the grid's: the log's as published, extraction rules, measured next to published, coverage, best."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false, reportOptionalMemberAccess=false
# (pandas' own annotations make every df[...] a union)

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from fastdllm import prior_results, stats
from fastdllm.display.tables import PREDICTED, interval_text
from fastdllm.report.results import Results

UNTOLD = "can't be told: one run each"


def published_table(batch: str, task: str, limit: int = 0, level: float = stats.LEVEL) -> pd.DataFrame:
    """Published configurations with the columns of `grid_table`: what can be said without their samples.

    Points lost have Newcombe's unpaired interval. Each ran once, so its speed-up has the noise that the k=1 rows,
    one computation under three names, show among themselves (prediction interval on logs).
    """
    rows = prior_results.results().query("batch == @batch and task == @task and limit == @limit").reset_index(drop=True)
    if rows.empty:
        raise ValueError(f"batch={batch!r}, task={task!r}, limit={limit}; allowed: a table of published_results.csv")
    one = rows[rows["k"] == 1]
    intervals = [stats.wilson(c, n, level) for c, n in zip(rows["correct"], rows["n"], strict=True)]
    table = rows.assign(low=[low for low, _ in intervals], high=[high for _, high in intervals],
                        tokens_per_second=rows["tokens_per_s"], state="published", metric="")
    logs = np.log(one["tokens_per_s"].dropna())
    spread = math.nan
    if len(logs) > 1:
        spread = scipy_stats.t.ppf((1 + level) / 2, len(logs) - 1) * logs.std(ddof=1) * math.sqrt(1 + 1 / len(logs))
    lost = {"lost": [], "lost_low": [], "lost_high": []}
    correct, n = int(one["correct"].sum() / len(one)), int(one["n"].iloc[0])
    for row in rows.itertuples():
        low, high = stats.difference_unpaired(correct, n, row.correct, row.n, level)
        lost["lost"].append(100 * (correct / n - row.accuracy))
        lost["lost_low"].append(-100 * high if row.k > 1 else math.nan)
        lost["lost_high"].append(-100 * low if row.k > 1 else math.nan)
    ratio = rows["tokens_per_s"] / math.exp(logs.mean()) if len(logs) else rows["tokens_per_s"] * math.nan
    reused = rows["k"] > 1
    return table.assign(**lost, speedup=ratio, speed_low=(ratio * math.exp(-spread)).where(reused),
                        speed_high=(ratio * math.exp(spread)).where(reused), speed_from="spread of the k=1 rows")


def rules_table(results: Results) -> pd.DataFrame:
    """Accuracy with interval under every extraction rule, side by side; the headline rule is marked."""
    rows = []
    for state, record in results.recorded:
        rows.append({"task": state.configuration.directory.parent.name, "config": state.configuration.name, **{
            f"{rule} %" + (" *" if rule == record.metric else ""): _percent(a.value, a.low, a.high)
            for rule, a in record.accuracy.items()}, "n": record.n, "empty answers": record.empty})
    table = pd.DataFrame(rows)
    return table.drop(columns="task") if rows and table["task"].nunique() == 1 else table


def against_published(results: Results) -> pd.DataFrame:
    """Measured baselines next to published scores. A limited run never stands beside a full one without its n."""
    scores, sizes, rows = prior_results.scores(), prior_results.tasks(), []
    for row in results.frame[results.frame["k"] == 1].drop_duplicates(["task", "limit", "key"]).itertuples():
        full = sizes["n_full"].get(row.task, math.nan)
        score = scores.get(row.task)
        model = next(r for r in results.records if r.identity == row.identity).checkpoint.name
        whole = full == full and row.n == full
        rows.append({
            "task": row.task, "model": model, "measured at k=1, %": _percent(row.accuracy, row.low, row.high),
            "n": row.n,
            "published, % (7B, all problems)": f"{100 * score:.1f}" if score is not None else "none",
            "comparison": comparison(row.low, row.high, score, model, whole, int(row.n), full)})
    return pd.DataFrame(rows)


def comparison(low: float, high: float, score: float | None, model: str, whole: bool, n: int, full: float) -> str:
    """What a measured interval may say about a published score of the 7B (fractions; n of `full` problems)."""
    if score is None:
        return "no published score"
    if "7B" not in model:
        return "another model: not comparable"
    inside = "the interval holds the published score" if low <= score <= high else "the interval leaves it out"
    return inside if whole else f"{inside}; {n} of {full:.0f} problems only, a different sample"


def coverage(results: Results | None = None) -> pd.DataFrame:
    """Every benchmark of the suite: problems there are, published runs, what this grid has."""
    log, rows = prior_results.results(), []
    for task, size in prior_results.tasks().iterrows():
        part = log[log["task"] == task]
        runs = [f"{batch}{f' limit {limit}' if limit else ''}: {stats.number_of(len(group), 'configuration')}"
                for (batch, limit), group in part.groupby(["batch", "limit"], sort=False)]
        row = {"benchmark": task,
               "problems": f"{size['n_full']:.0f}" if size["n_full"] == size["n_full"] else "generated",
               "layer reuse": "cannot act" if size["loglikelihood"] else "acts",
               "in the log": "; ".join(runs) or "none"}
        if results is not None:
            states = [
                state
                for state in results.states
                if state.configuration.task == task and state.state != "not applicable"
            ]
            done = sum(state.state == "complete" for state in states)
            n = max((state.record.n for state in states if state.record), default=0)
            row["here"] = f"{done} of {stats.number_of(len(states), 'configuration')}, n = {n}" if states else "not run"
        rows.append(row)
    return pd.DataFrame(rows)


def best(table: pd.DataFrame) -> pd.DataFrame:
    """Per benchmark: the best accuracy, the fastest, and the fastest reuse whose loss is surely below 5 points.

    Faster is by speed-up where all have one; else by the cost model's tokens/s; where it can't say, nobody can: a clock
    that was read once is none.
    """
    rows = []
    for task, part in table[table["state"].isin(["complete", "published"])].groupby("task", sort=False):
        part = part.assign(predicted=part["tokens"] / part["predicted_seconds"])
        by = next((by for by in ("speedup", "predicted") if part[by].notna().all()), None)
        most, fastest = part.loc[part["accuracy"].idxmax()], part.loc[part[by].idxmax()] if by else None
        safe = part[(part["lost_high"] < 5) & (part["k"] > 1)]
        quick = safe.loc[safe[by].idxmax(), "config"] if by and len(safe) else "none" if safe.empty else UNTOLD
        rows.append({"benchmark": task, "n": int(most["n"]),
                     "best accuracy": f"{most['config']} ({100 * most['accuracy']:.1f} %)",
                     "fastest": UNTOLD if fastest is None else f"{fastest['config']} (" + (
                         f"{fastest['predicted']:.0f} tokens/s predicted)" if by == "predicted" else
                         f"{'predicted ' * (fastest['speed_from'] == PREDICTED)}{fastest['speedup']:.2f}x)"),
                     "fastest reuse, surely under 5 points lost": quick})
    return pd.DataFrame(rows)


def _percent(value: float, low: float, high: float) -> str:
    return interval_text(value, low, high, scale=100)
