"""The success criterion of the proposal, on any grid, with its uncertainty.

Confirm if k=2 or k=3 gives more than 1.2x throughput at less than 5 points of accuracy lost; reject if every reuse
configuration shows a negligible speed-up or a catastrophic loss. Neither, if every one surely misses the bar for
success, but not all by as much as rejection asks; undecided, where intervals or missing records leave it open. Both
words of the rejection get a number (lab.parameters.Criteria):
negligible is surely below 1.05x, catastrophic is surely above 20 points. "Surely" means the whole interval, taken at
1 - 0.05/m for m reuse configurations, so that looking at many of them confirms nothing by chance.
"""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false, reportOptionalMemberAccess=false
# (pandas' own annotations make every df[...] a union)

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from fastdllm import stats
from fastdllm.display.claim import Decision, claim
from fastdllm.display.tables import PREDICTED, interval_text, together
from fastdllm.lab.config.parameters import Criteria
from fastdllm.report import cost_model, tables
from fastdllm.report.results import Results

NAMED = 5       # configurations that meet the goal, at most, in the reason for it

Outcome = Literal["confirmed", "rejected", "neither confirmed nor rejected", "undecided"]


@dataclass(frozen=True)
class CriterionVerdict:
    """The outcome, the rule that gave it, one row per reuse configuration (what it is, and why), and a plain answer."""

    outcome: Outcome
    rule: str
    why: str
    rows: pd.DataFrame
    answer: str

    def __str__(self) -> str:
        return f"{self.outcome}: {self.why} (rule: {self.rule})"

    @property
    def merged(self) -> pd.DataFrame:
        """The rows, one for all configurations of a task of which the same is said."""
        said: dict[tuple[str, ...], list[str]] = {}
        for row in self.rows.to_dict("records"):
            said.setdefault((row["task"], row["is"], row["why"]), []).append(row["config"])
        return pd.DataFrame([{"task": task, "config": together(configs), "is": kind, "why": why}
                             for (task, kind, why), configs in said.items()])


def judge(results: Results, table: pd.DataFrame | None = None) -> CriterionVerdict:
    """The verdict on a grid's complete configurations; incomplete ones can only leave it undecided.

    `table` is `tables.grid_table(results)`, if there is one already.
    """
    table = tables.grid_table(results) if table is None else table
    sure = {name.removeprefix("sure_"): table[name] for name in table if str(name).startswith("sure_")}
    missing = [state.configuration.path for state in results.missing if state.configuration.parameters.reuse.active]
    return judge_table(table.assign(**sure), results.grid.criteria, missing)


def judge_table(table: pd.DataFrame, criteria: Criteria, missing: list[str] | None = None) -> CriterionVerdict:
    """The verdict on a table like `tables.grid_table`, its intervals taken at `stats.simultaneous(m)`."""
    reused = table[(table["k"] > 1) & table["state"].isin(["complete", "published"])] if len(table) else table
    rows = pd.DataFrame([{"task": row["task"], "config": row["config"], **_one(row, criteria)}
                         for row in reused.to_dict("records")], columns=["task", "config", "is", "why"])
    m = len(rows)
    sure = f"{100 * stats.simultaneous(m):.1f} % intervals for {stats.number_of(m, 'configuration')}"
    confirm = (f"some configuration with k > 1: speed-up > {criteria.speedup}x and "
               f"loss < {criteria.points_lost} points, {sure}")
    reject = (f"every configuration with k > 1: speed-up < {criteria.negligible_speedup}x (negligible) or "
              f"loss > {criteria.catastrophic_loss} points (catastrophic), {sure}")
    answer = str(goal_is_reached(reused, rows["is"].tolist(), criteria, bool(missing)))
    if (rows["is"] == "meets").any():
        good = [f"{row['config']} ({row['why']})" for row in rows[rows["is"] == "meets"].to_dict("records")]
        more = [f"{len(good) - NAMED} more"] if len(good) > NAMED else []
        return CriterionVerdict("confirmed", confirm, ", ".join(good[:NAMED] + more), rows, answer)
    if m and not missing and rows["is"].isin(["negligible", "catastrophic"]).all():
        bars = {"negligible": f"below {criteria.negligible_speedup}x",
                "catastrophic": f"more than {criteria.catastrophic_loss} points lost"}
        counts = ", ".join(f"{count} of {m} {bars[str(name)]}" for name, count in rows["is"].value_counts().items())
        return CriterionVerdict("rejected", reject, f"reuse configurations: {counts}", rows, answer)
    if not m:
        return CriterionVerdict("undecided", confirm, "no reuse configuration with a complete record", rows, answer)
    counts = ", ".join(f"{name}: {count} of {m}" for name, count in rows["is"].value_counts().items())
    rule = f"confirmed asks for {confirm}; rejected asks for {reject}"
    if not missing and rows["is"].isin(["negligible", "catastrophic", "misses"]).all():
        return CriterionVerdict("neither confirmed nor rejected", rule, f"{counts}; every one surely misses the bar "
                                "for success, not all by as much as rejection asks", rows, answer)
    gaps = f"; not complete: {len(missing)}" if missing else ""
    return CriterionVerdict("undecided", rule, counts + gaps, rows, answer)


@claim(holds="Yes, {goal} is reached: the fastest that does, {figures}.",
       fails="No configuration reaches {goal}: the fastest, {figures}.",
       unknown="{why}")
def goal_is_reached(reused: pd.DataFrame, kinds: list[str], criteria: Criteria, missing: bool) -> Decision:
    """One sentence for who reads nothing else: the fastest configuration that meets the goal, may, or misses it.

    kinds: what each row of `reused` is (see `_one`); missing: some configuration has no complete record.
    """
    goal = f"more than {criteria.speedup}x throughput at less than {criteria.points_lost} points of accuracy lost"
    if reused.empty:
        return None, {"why": f"Not known yet: no reuse configuration has a complete record to hold against {goal}."}
    if reused[["lost", "speedup"]].isna().all(axis=None):
        return None, {"why": f"Not known: no reuse configuration has a k=1 with its other settings (threshold, batch "
                             f"size ...) among these records, to hold it against {goal}."}
    sought = next((kind for kind in ("meets", "open") if kind in kinds), None)
    of_kind = reused[[kind == sought or sought is None for kind in kinds]]
    row = of_kind.sort_values("speedup", ascending=False).iloc[0]
    relative = f", {row['lost_relative']:z.0%} of k=1's right answers" if row.get("lost_relative", math.nan) == row.get(
        "lost_relative", math.nan) else ""
    together = (f"intervals that hold for all {len(reused)} configurations together" if len(reused) > 1
                else "95 % intervals")
    figures = (
        f"{row['config']}, {_runs_at(row)} and loses "
        f"{interval_text(row['lost'], row['lost_low'], row['lost_high'])} points{relative} "
        f"(n = {row['n']:.0f}, {together})"
    )
    if sought == "meets":
        return True, {"goal": goal, "figures": figures}
    if sought == "open":
        return None, {"why": f"Not settled whether any configuration reaches {goal}: the fastest that still may, "
                             f"{figures}."}
    if missing:
        return None, {"why": f"Not settled, as some are not complete; of the others none reaches {goal}: the fastest, "
                             f"{figures}."}
    return False, {"goal": goal, "figures": figures}


def _runs_at(row: pd.Series) -> str:
    """The speed-up in words: the clock's, or what the cost model makes of the forwards, or that there is none."""
    if row["speedup"] != row["speedup"]:
        return "has no speed-up that can be told"
    ratio = interval_text(row["speedup"], row["speed_low"], row["speed_high"], 2)
    if row.get("speed_from") == PREDICTED:
        return f"is predicted to run at {ratio} times the tokens/s of k=1 (its forwards at {cost_model.SHAPE})"
    return f"runs at {ratio} times the tokens/s of k=1"


def _one(row: dict, criteria: Criteria) -> dict[str, str]:
    """One configuration: meets, negligible, catastrophic, misses (surely), or open. Missing intervals leave it open."""
    why = (f"speed-up {interval_text(row['speedup'], row['speed_low'], row['speed_high'], 2)}, "
           f"loss {interval_text(row['lost'], row['lost_low'], row['lost_high'])} points")
    if row["lost_low"] > criteria.catastrophic_loss:
        return {"is": "catastrophic", "why": why}
    if row["speed_high"] < criteria.negligible_speedup:
        return {"is": "negligible", "why": why}
    if row["speed_low"] > criteria.speedup and row["lost_high"] < criteria.points_lost:
        return {"is": "meets", "why": why}
    if row["speed_high"] <= criteria.speedup or row["lost_low"] >= criteria.points_lost:
        return {"is": "misses", "why": why}
    return {"is": "open", "why": why}
