"""Which reuse policies pay: accuracy measured here, against time predicted for the 7B, with thresholds as control.

Any reuse has to beat the plain alternative: no reuse and a lower threshold at the same time. Times are
those of the cost model at batch 1 on the 7B shape, for the forwards that this checkpoint needed; those of policy
`verify` hold what drafts cost as measured (`report.verify_costs`).
"""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportReturnType=false

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fastdllm import stats
from fastdllm.display import figures as house
from fastdllm.display.figures import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY, styled
from fastdllm.display.tables import interval_text, p_text
from fastdllm.investigation.speed.sweeps import front, one_task
from fastdllm.report import tables
from fastdllm.report.plain_control import SLACK
from fastdllm.report.results import Results

LOOKS = {"": (GREY, "D"), "output": (BLUE, "o"), "residual": (ORANGE, "s"), "token": (GREEN, "^"),
         "adaptive": (PINK, "v"), "replay": (RED, "P"), "verify": ("#000000", "*"), "topk_tokens": (SKY, "<"),
         "refresh_least_similar": (SKY, ">"), "layer_average": (PINK, "^")}
PENALTY = 3.0       # d3LLM's alpha
MAY_LOSE = 5.0      # points of accuracy within which d3LLM measures
PLAIN_FAMILY = "threshold alone"


def table(results: Results, threshold: float = 0.9) -> pd.DataFrame:
    """One row per configuration, fastest last: predicted speed-up and points lost against k=1 at `threshold`
    (paired), and the same against the best plain threshold that is at least as fast.

    `lost_low` and `lost_high` are a 95 % interval, `sure_low` and `sure_high` hold for all m reuse configurations
    together (`stats.simultaneous`); `gain_holm` is McNemar's p of the gain, by Holm over those with a control.
    """
    one_task(results)
    rows = results.frame.copy()
    rows["predicted"] = tables.predicted(results)
    short = rows["config"].str.replace(r"_b\d+(?=_|$)", "", regex=True)    # a prediction at batch 1 is of no batch
    rows["config"] = short if short.is_unique else rows["config"]
    plain, right = rows[rows["k"] == 1], correct(results)
    base, sure = baseline(rows, threshold), stats.simultaneous(int((rows["k"] > 1).sum()))
    rows["speedup"] = base["predicted"] / rows["predicted"]
    for column in ("control", "gain", "gain_low", "gain_high", "gain_p", "gain_holm"):
        rows[column] = np.nan
    for i, row in rows.iterrows():
        pair = stats.compare_paired(right[base["folder"]], right[row["folder"]])
        low, high = stats.paired_bounds(right[base["folder"]], right[row["folder"]], level=sure)
        rows.loc[i, ["lost", "lost_low", "lost_high", "sure_low", "sure_high"]] = [
            -100 * value for value in (pair.difference, pair.high, pair.low, high, low)]
        faster = plain[plain["predicted"] <= SLACK * row["predicted"]]
        if row["k"] > 1 and len(faster):
            control = faster.loc[faster["accuracy"].idxmax()]
            pair = stats.compare_paired(right[control["folder"]], right[row["folder"]])
            rows.loc[i, ["control", "gain", "gain_low", "gain_high", "gain_p"]] = [
                control["threshold"], 100 * pair.difference, 100 * pair.low, 100 * pair.high, pair.p]
    tested = rows["gain_p"].notna()
    rows.loc[tested, "gain_holm"] = stats.holm(rows.loc[tested, "gain_p"])
    rows["on_front"] = front(rows["speedup"].to_numpy(), rows["accuracy"].to_numpy())
    return rows.sort_values("speedup").reset_index(drop=True)


def correct(results: Results) -> dict[str, np.ndarray]:
    """Right or wrong by folder, arrays [n], where samples are kept."""
    return {folder: outcome.correct for folder, outcome in results.outcomes.items() if outcome is not None}


def baseline(rows: pd.DataFrame, threshold: float) -> pd.Series:
    """The row of k=1 at the threshold nearest to this one."""
    plain = rows[rows["k"] == 1]
    return plain.loc[(plain["threshold"] - threshold).abs().idxmin()]


def against_thresholds(results: Results, rows: pd.DataFrame, policy: str = "replay", k: int = 2,
                       threshold: float = 0.9) -> pd.DataFrame:
    """One reuse against every plain threshold predicted at least as fast: that one's speed-up over k=1, points won,
    95 % interval (paired), McNemar's p, and p_holm over these thresholds. Empty if the reuse did not run or none is as
    fast. rows: `table`.
    """
    mine = rows[(rows["policy"] == policy) & (rows["k"] == k) & (rows["threshold"] == threshold)]
    made, right = [], correct(results)
    for row in mine.head(1).to_dict("records"):
        for control in rows[(rows["k"] == 1) & (rows["predicted"] <= SLACK * row["predicted"])].to_dict("records"):
            pair = stats.compare_paired(right[control["folder"]], right[row["folder"]])
            made.append({"config": row["config"], "threshold": control["threshold"], "n": pair.n,
                         "predicted speed-up": control["speedup"], "points": 100 * pair.difference,
                         "low": 100 * pair.low, "high": 100 * pair.high, "p": pair.p})
    compared = pd.DataFrame(made, columns=["config", "threshold", "n", "predicted speed-up", "points", "low",
                                           "high", "p"])
    return compared.assign(p_holm=stats.holm(compared["p"]))


def verify_against_k1(results: Results, rows: pd.DataFrame) -> pd.DataFrame:
    """Each `verify` row beside k=1 at its threshold: answers that differ in right or wrong, n, predicted speed-up."""
    made, right = [], correct(results)
    for row in rows[rows["policy"].eq("verify") & (rows["k"] > 1)].to_dict("records"):
        for plain in rows[(rows["k"] == 1) & (rows["threshold"] == row["threshold"])].head(1).to_dict("records"):
            made.append({"config": row["config"], "n": row["n"], "speedup": plain["predicted"] / row["predicted"],
                         "differ": int((right[plain["folder"]] != right[row["folder"]]).sum())})
    return pd.DataFrame(made, columns=["config", "n", "speedup", "differ"])


def area(parallelism: np.ndarray, accuracy: np.ndarray, best: float) -> float:
    """AUP, accuracy under parallelism (d3LLM, arXiv 2601.07568), in tokens per forward times % of accuracy.

    Points (rho, y) in order of rho, tokens per forward; those more than MAY_LOSE points below the first are left out.
    rho_1 y_1 + sum of (rho_i - rho_(i-1)) (y_i W(y_i) + y_(i-1) W(y_(i-1))) / 2, where W(y) =
    min(1, exp(-PENALTY (1 - y / best))); best: the highest accuracy of the task, in %, by any method.
    """
    order = np.argsort(parallelism, kind="stable")
    rho, y = parallelism[order], accuracy[order]
    kept = y >= y[0] - MAY_LOSE
    rho, y = rho[kept], y[kept]
    weighted = y * np.minimum(1.0, np.exp(-PENALTY * (1 - y / best)))
    return float(rho[0] * y[0] + np.trapezoid(weighted, rho))


def areas(rows: pd.DataFrame) -> pd.DataFrame:
    """AUP of each family (plain thresholds, or all configurations of a policy), largest first.

    Every family begins with k=1 at the highest threshold, the model without haste. A forward is one that ran: a pass
    of `verify` is one, a replayed step none, one that skips layers still one, so that layer reuse gains nothing here.
    The last column is AUP over that of plain thresholds. rows: `table`.
    """
    start, best = baseline(rows, 1.0), 100 * rows["accuracy"].max()
    family = rows["policy"].where(rows["k"] > 1, PLAIN_FAMILY)
    made = []
    for name, some in rows.groupby(family):
        points = pd.concat([start.to_frame().T, some[some["folder"] != start["folder"]]])
        rho, y = points["tokens_per_forward"].to_numpy(float), 100 * points["accuracy"].to_numpy(float)
        made.append({"family": name, "configurations": len(some), "AUP": area(rho, y, best),
                     "most tokens / forward": rho[y >= y[np.argmin(rho)] - MAY_LOSE].max()})
    made = pd.DataFrame(made).sort_values("AUP", ascending=False).reset_index(drop=True)
    plain = made.loc[made["family"] == PLAIN_FAMILY, "AUP"].max()
    return made.assign(**{f"AUP / AUP of {PLAIN_FAMILY}": made["AUP"] / plain})


@styled
def figure(rows: pd.DataFrame) -> Figure:
    """Predicted speed-up beside accuracy with its interval, a line for each configuration, the fastest below.

    Grey diamonds are plain decoding at a threshold; filled are those that no other beats in both.
    """
    drawn, (left, right) = house.rows(rows["config"].tolist())
    for at, row in enumerate(rows.itertuples()):
        color, marker = LOOKS.get(row.policy if row.k > 1 else "", ("#000000", "X"))
        looks = {"color": color, "marker": marker, "markerfacecolor": color if row.on_front else "white"}
        house.interval(left, at, row.speedup, np.nan, np.nan, **looks)
        house.interval(right, at, 100 * row.accuracy, 100 * row.low, 100 * row.high, **looks)
    left.axvline(1, color=GREY, linewidth=0.9, linestyle="--")
    left.set_xlabel("predicted speed-up (H200, the 7B's shape, batch 1)")
    right.set_xlabel(f"accuracy % (95 % Wilson interval, n = {rows['n'].iloc[0]})")
    used = set(rows["policy"].where(rows["k"] > 1, ""))
    house.keys(drawn, [(name or "no reuse, at a threshold", marker, color)
                       for name, (color, marker) in LOOKS.items() if name in used], 5)
    return drawn


def criterion(row: pd.Series, speed: float, points: float) -> str:
    """Whether one configuration meets the proposal's criterion: "met" where even the simultaneous interval of the loss
    lies below `points`, "not met" where it lies above or the speed is not reached, else "open".
    """
    if row["speedup"] <= speed or row["sure_low"] >= points:
        return "not met"
    return "met" if row["sure_high"] < points else "open"


def as_text(rows: pd.DataFrame, speed: float = 1.2, points: float = 5.0) -> pd.DataFrame:
    """What each configuration gives and costs, as text; speed and points: the criterion. n is the caption's."""
    return pd.DataFrame({
        "config": rows["config"], "accuracy %": [f"{100 * r.accuracy:.1f}" for r in rows.itertuples()],
        "points lost": [interval_text(r.lost, r.lost_low, r.lost_high) for r in rows.itertuples()],
        "NFE": rows["nfe"], "forwards run": rows["forwards_run"], "replayed": rows["nfe_replay"],
        "layer calls reused": rows["reuse"], "predicted speed-up": rows["speedup"].map("{:.2f}x".format),
        "criterion": ["no reuse" if r["k"] == 1 else criterion(r, speed, points) for _, r in rows.iterrows()]})


def against_control(rows: pd.DataFrame) -> pd.DataFrame:
    """Each reuse against the best plain threshold that is at least as fast, as text; without those that have none."""
    have = rows[rows["gain"].notna()]
    return pd.DataFrame({
        "config": have["config"], "predicted speed-up": have["speedup"].map("{:.2f}x".format),
        "threshold at least as fast": have["control"].map("{:g}".format),
        "points won over it": [interval_text(r.gain, r.gain_low, r.gain_high) for r in have.itertuples()],
        "McNemar p": have["gain_p"].map(p_text), "p after Holm": have["gain_holm"].map(p_text)})
