"""The tables of a report: the grid against its baseline, extraction rules, measured next to published, coverage."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# (pandas' own annotations make every df[...] a union)

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from fastdllm.report import published, stats
from fastdllm.report.results import Outcomes, Results

KINDS = ("prefill", "full", "small", "commit", "replay")
NAN3 = (math.nan, math.nan, math.nan)
DRAWS = 2000


def grid_table(results: Results, level: float = stats.LEVEL) -> pd.DataFrame:
    """One row per cell, numbers only: accuracy, points lost and speed-up against k=1 with intervals, costs.

    Both comparisons are paired over the same problems where the samples are kept. The interval of the speed-up comes
    from repeats where both sides have two or more, else from the problems (run-to-run noise is then not in it).
    """
    frame = results.frame
    if frame.empty:
        return pd.DataFrame()
    weights: dict[int, np.ndarray] = {}
    base = frame[frame["k"] == 1].drop_duplicates("key").set_index("key")
    speeds = frame.drop_duplicates("identity").groupby("run")["tokens_per_second"].apply(list)
    rows = []
    for row in frame.to_dict("records"):
        against = base.loc[row["key"]] if row["key"] in base.index else None
        same = against is not None and against["run"] == row["run"]
        rows.append({**row, **_lost(row, against, same, results.outcomes, weights, level),
                     **_speed(row, against, same, results.outcomes, speeds, weights, level)})
    table = pd.DataFrame(rows)
    compared = table["p"].notna()
    table["p_holm"] = math.nan
    table.loc[compared, "p_holm"] = stats.holm(table.loc[compared, "p"])
    return table


def _weights(n: int, known: dict[int, np.ndarray]) -> np.ndarray:
    if n not in known:
        known[n] = stats.resamples(n, DRAWS)
    return known[n]


def _lost(row: dict[str, Any], against: Any, same: bool, outcomes: dict[str, Outcomes | None],
          weights: dict[int, np.ndarray], level: float) -> dict[str, float]:
    """Points lost (positive: worse than k=1) with interval and McNemar's p."""
    values = dict.fromkeys(("lost", "lost_low", "lost_high", "p"), math.nan)
    if against is None:
        return values
    if same:
        return values | {"lost": 0.0}
    mine, theirs = outcomes[row["folder"]], outcomes[against["folder"]]
    if mine is not None and theirs is not None and mine.ids == theirs.ids:
        drawn = _weights(len(mine.ids) + 2, weights)
        pair = stats.compare_paired(theirs.correct, mine.correct, level=level, weights=drawn)
        return {"lost": -100 * pair.difference, "lost_low": -100 * pair.high, "lost_high": -100 * pair.low, "p": pair.p}
    low, high = stats.difference_unpaired(against["correct"], against["n"], row["correct"], row["n"], level)
    return values | {"lost": 100 * (against["accuracy"] - row["accuracy"]), "lost_low": -100 * high,
                     "lost_high": -100 * low}


def _speed(row: dict[str, Any], against: Any, same: bool, outcomes: dict[str, Outcomes | None],
           speeds: pd.Series, weights: dict[int, np.ndarray], level: float) -> dict[str, Any]:
    """Throughput over the baseline's, with its interval and where that comes from."""
    names = ("speedup", "speed_low", "speed_high")
    if against is None or not against["tokens_per_second"]:
        return dict(zip(names, NAN3, strict=True)) | {"speed_from": "not measured"}
    ratio = row["tokens_per_second"] / against["tokens_per_second"]
    if same:
        return dict(zip(names, (ratio, math.nan, math.nan), strict=True)) | {"speed_from": "baseline"}
    mine_runs, base_runs = speeds[row["run"]], speeds[against["run"]]
    if min(len(mine_runs), len(base_runs)) >= 2:
        return dict(zip(names, stats.repeats_ratio(base_runs, mine_runs, level), strict=True)) | {
            "speed_from": f"{len(mine_runs)} repeats"}
    mine, theirs = outcomes[row["folder"]], outcomes[against["folder"]]
    if mine is None or theirs is None or mine.ids != theirs.ids or not (mine.seconds.sum() and theirs.seconds.sum()):
        return dict(zip(names, (ratio, math.nan, math.nan), strict=True)) | {"speed_from": "one run"}
    centre, low, high = stats.ratio_bootstrap(theirs.tokens, theirs.seconds, mine.tokens, mine.seconds, level=level,
                                              weights=_weights(len(mine.ids), weights))
    # Rows of a batch overlap in time: the seconds of single problems give the spread, the whole run gives the value.
    return dict(zip(names, (ratio, ratio * low / centre, ratio * high / centre), strict=True)) | {
        "speed_from": "problems"}


def published_table(batch: str, task: str, limit: int = 0, level: float = stats.LEVEL) -> pd.DataFrame:
    """Published cells with the columns of `grid_table`: what can be said without their samples.

    Points lost have Newcombe's unpaired interval. A cell ran once, so its speed-up has the noise that the k=1 rows,
    one computation under three names, show among themselves (prediction interval on logs).
    """
    rows = published.results().query("batch == @batch and task == @task and limit == @limit").reset_index(drop=True)
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
    for state, record in results.found:
        rows.append({"task": state.cell.directory.parent.name, "config": state.cell.name, **{
            rule + (" *" if rule == record.metric else ""): _percent(a.value, a.low, a.high)
            for rule, a in record.accuracy.items()}, "n": record.n, "empty answers": record.empty})
    return pd.DataFrame(rows)


def against_published(results: Results) -> pd.DataFrame:
    """Measured baselines next to published scores. A limited run never stands beside a full one without its n."""
    scores, sizes, rows = published.scores(), published.tasks(), []
    for row in results.frame[results.frame["k"] == 1].drop_duplicates(["task", "limit", "key"]).itertuples():
        full = sizes["n_full"].get(row.task, math.nan)
        score = scores.get(row.task)
        model = next(r for r in results.records if r.identity == row.identity).checkpoint.name
        whole = full == full and row.n == full
        rows.append({
            "task": row.task, "model": model, "measured at k=1": _percent(row.accuracy, row.low, row.high), "n": row.n,
            "published (7B, all problems)": f"{100 * score:.1f}" if score is not None else "none",
            "comparison": _comparison(row.low, row.high, score, model, whole, int(row.n), full)})
    return pd.DataFrame(rows)


def _comparison(low: float, high: float, score: float | None, model: str, whole: bool, n: int, full: float) -> str:
    if score is None:
        return "no published score"
    if "7B" not in model:
        return "another model: not comparable"
    inside = "the interval holds the published score" if low <= score <= high else "the interval leaves it out"
    return inside if whole else f"{inside}; {n} of {full:.0f} problems only, a different sample"


def coverage(results: Results | None = None) -> pd.DataFrame:
    """Every benchmark of the suite: problems there are, published runs, what this grid has."""
    log, rows = published.results(), []
    for task, size in published.tasks().iterrows():
        part = log[log["task"] == task]
        runs = [f"{batch}{f' limit {limit}' if limit else ''}: {len(group)} cells"
                for (batch, limit), group in part.groupby(["batch", "limit"], sort=False)]
        row = {"benchmark": task,
               "problems": f"{size['n_full']:.0f}" if size["n_full"] == size["n_full"] else "generated",
               "layer reuse": "cannot act" if size["loglikelihood"] else "acts",
               "in the log": "; ".join(runs) or "none"}
        if results is not None:
            states = [state for state in results.states if state.cell.task == task and state.state != "not applicable"]
            done = sum(state.state == "complete" for state in states)
            n = max((state.record.n for state in states if state.record), default=0)
            row["here"] = f"{done} of {len(states)} cells, n = {n}" if states else "not run"
        rows.append(row)
    return pd.DataFrame(rows)


def best(table: pd.DataFrame) -> pd.DataFrame:
    """Per benchmark: the best accuracy, the fastest, and the fastest whose loss is surely below 5 points."""
    rows = []
    for task, part in table[table["state"].isin(["complete", "published"])].groupby("task", sort=False):
        most, fastest = part.loc[part["accuracy"].idxmax()], part.loc[part["tokens_per_second"].idxmax()]
        safe = part[(part["lost_high"] < 5) | (part["k"] == 1)]
        quick = safe.loc[safe["tokens_per_second"].idxmax()] if len(safe) else None
        rows.append({"benchmark": task, "best accuracy": f"{most['config']} ({100 * most['accuracy']:.1f} %)",
                     "fastest": f"{fastest['config']} ({fastest['tokens_per_second']:.1f} tokens/s)",
                     "fastest, surely under 5 points lost": quick["config"] if quick is not None else "none"})
    return pd.DataFrame(rows)


def _percent(value: float, low: float, high: float) -> str:
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
