"""The grid's table: every configuration against its baseline, with intervals. For summaries: `summary_tables`."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false, reportOptionalMemberAccess=false
# (pandas' own annotations make every df[...] a union)

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fastdllm import stats
from fastdllm.display.tables import ONE_RUN, PREDICTED, REPEATS
from fastdllm.report.results import Outcomes, Results, predicted_seconds

KINDS = ("prefill", "full", "small", "commit", "replay")
COMPARED = ("lost", "lost_low", "lost_high", "p", "speedup", "speed_low", "speed_high")
DRAWS = 2000
HERE = ("folder", "key", "run")         # columns of the table that only this machine or this process can use


def grid_table(results: Results) -> pd.DataFrame:
    """One row per configuration, numbers only: accuracy, points lost and speed-up against k=1 with intervals, costs.

    Both comparisons are paired over the same problems where the samples are kept. What the speed-up is stands in
    speed_from: the clock's from REPEATS or more runs of each side, with their interval; else the cost model's
    prediction from the forwards (`predicted`; its interval is that of the problems), for a clock that was read once
    tells nothing; else there is none (`one run`). Clocks of two executors or devices are not compared. runs: how often
    the row's computation was timed, by its executor on its device. predicted_seconds is the cost model's time of the
    whole run.
    A run in shards has smaller batches at its ends: where the two sides were not split alike, `batching` says so.
    The columns sure_* hold the same intervals at `stats.simultaneous(m)` for the m reuse configurations (each is timed
    by itself). lost_relative is the loss as a share of the baseline's accuracy; p_holm counts each test once
    (configurations right on the same problems, of one k and policy: McNemar's test knows no tokens).
    """
    frame = results.frame
    if frame.empty:
        return pd.DataFrame()
    rows = frame.assign(predicted_seconds=predicted(results)).to_dict("records")
    base: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["k"] == 1:
            base.setdefault(row["key"], row)
    levels = (stats.LEVEL, stats.simultaneous(sum(row["k"] > 1 for row in rows)))
    pairs = {
        i: ComparedPair(row, base[row["key"]], *(results.outcomes[side["folder"]] for side in (row, base[row["key"]])))
        for i, row in enumerate(rows)
        if row["key"] in base and base[row["key"]]["run"] != row["run"]
    }
    bounds = _bootstrap({i: pair for i, pair in pairs.items() if pair.paired}, levels)
    speeds: dict[tuple[str, ...], dict[str, float]] = {}
    for row in rows:
        speeds.setdefault(clock(row), {})[row["identity"]] = row["tokens_per_second"]
    for i, row in enumerate(rows):
        row["runs"] = len(speeds[clock(row)])
        row["batching"] = unequal_batching(row, base.get(row["key"]))
        row |= dict.fromkeys((*COMPARED, *(f"sure_{name}" for name in COMPARED if "_" in name)), math.nan)
        if i in pairs:
            row |= pairs[i].values(bounds.get(i), levels, speeds)
            row |= not_compared(row, base[row["key"]])
        elif row["key"] in base:
            row |= {"lost": 0.0, "speedup": 1.0, "speed_from": "baseline"}
        else:
            row["speed_from"] = "not measured"
    table = pd.DataFrame(rows)
    table["lost_relative"] = [row["lost"] / 100 / base[row["key"]]["accuracy"]
                              if row["key"] in base and base[row["key"]]["accuracy"] else math.nan for row in rows]
    table["computation"] = computations(results, rows)
    tests = {i: (row["key"], row["k"], row["policy"], pairs[i].mine.correct.tobytes())
             for i, row in enumerate(rows) if row["p"] == row["p"]}
    once = {key: rows[i]["p"] for i, key in tests.items()}
    corrected = dict(zip(once, stats.holm(list(once.values())), strict=True))
    table["p_holm"] = [corrected[tests[i]] if i in tests else math.nan for i in range(len(rows))]
    return table


def clock(row: dict[str, Any]) -> tuple[str, ...]:
    """Equal for rows whose clocks measured the same: repeats of one computation by one executor on one device."""
    return row["run"], row["executor"], row["device_name"]


def predicted(results: Results) -> list[float]:
    """Seconds that the cost model gives each record's forwards at the 7B's shape; NaN where they are not counted."""
    return list(map(predicted_seconds, results.records))


def not_compared(row: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """No speed-up where the two clocks measured different executors or devices, or where these are not recorded; a
    prediction from forwards stands.
    """
    differences = [f"{what} {row[name] or 'not recorded'}, baseline's {base[name] or 'not recorded'}"
                   for what, name in (("executor", "executor"), ("device", "device_name"))
                   if not row[name] == base[name] != ""]
    if not differences or row["speed_from"] == PREDICTED:
        return {}
    return {**dict.fromkeys(("speedup", "speed_low", "speed_high", "sure_speed_low", "sure_speed_high"), math.nan),
            "speed_from": f"not compared: {'; '.join(differences)}"}


def executors(table: pd.DataFrame) -> str:
    """A sentence that names the executors where the rows ran on several, and what that means for speeds; else ""."""
    ran = table["executor"].replace("", "not recorded")
    if ran.nunique() < 2:
        return ""
    named = ", ".join(f"{name} ({count})" for name, count in ran.value_counts(sort=False).items())
    return (f"These {len(table)} configurations ran on different executors: {named}. Their clocks are not compared; "
            "forwards, and speeds predicted from them, are")


def computations(results: Results, rows: list[dict[str, Any]]) -> list[str]:
    """A name for what each row computed, that of the first row with the same answers, tokens and forwards.

    Subsets that are one computation are one observation: three copies of a number are one number. Where no samples are
    kept, a row is a computation of its own unless it shares its run.
    """
    names: dict[Any, str] = {}
    keys = []
    for row in rows:
        answers = results.outcomes[row["folder"]]
        key = row["run"] if answers is None else (
            row["key"], row["k"], row["policy"], answers.ids, answers.correct.tobytes(), answers.tokens.tobytes(),
            *(row[f"nfe_{kind}"] for kind in KINDS))
        keys.append(names.setdefault(key, row["config"]))
    return keys


@dataclass(frozen=True)
class ComparedPair:
    """A reuse row, its baseline row, and the answers of both where they are kept."""

    row: dict[str, Any]
    base: dict[str, Any]
    mine: Outcomes | None
    theirs: Outcomes | None

    @property
    def paired(self) -> bool:
        return self.mine is not None and self.theirs is not None and self.mine.ids == self.theirs.ids

    @property
    def predicted(self) -> bool:
        """Whether the cost model can stand in for a clock that was read too seldom: it knows both sides' forwards."""
        known = self.row["predicted_seconds"] + self.base["predicted_seconds"]
        return known == known

    def values(self, bounds: np.ndarray | None, levels: tuple[float, float],
               speeds: dict[tuple[str, ...], dict[str, float]]) -> dict[str, Any]:
        """Points lost (positive: worse than k=1) and throughput over the baseline's, with both kinds of interval.

        bounds [2, levels, 2] from the bootstrap: (loss, speed ratio), (low, high).
        """
        row, base = self.row, self.base
        values: dict[str, Any] = {"lost": 100 * (base["accuracy"] - row["accuracy"])}
        if bounds is not None and self.mine is not None and self.theirs is not None:
            mine, theirs = self.mine.correct, self.theirs.correct
            lost, gained = ((theirs == 1) & (mine == 0)).sum(), ((theirs == 0) & (mine == 1)).sum()
            values["p"] = stats.mcnemar(int(lost), int(gained))
        runs = [list(speeds[clock(side)].values()) for side in (base, row)]
        repeats = min(map(len, runs))
        for at, (level, sure) in enumerate(zip(levels, ("", "sure_"), strict=True)):
            if bounds is not None:
                (low, high), (slow, fast) = bounds[:, at]
            else:
                low, high = (-100 * end for end in reversed(stats.difference_unpaired(
                    base["correct"], base["n"], row["correct"], row["n"], level)))
                slow = fast = math.nan
            if repeats >= REPEATS:
                values["speedup"], slow, fast = stats.repeats_ratio(*runs, level)
                values["speed_from"] = f"{repeats} repeats"
            elif self.predicted:
                values |= {"speedup": predicted_ratio(row, base), "speed_from": PREDICTED}
                slow, fast = values["speedup"] * slow, values["speedup"] * fast
            else:
                values |= {"speedup": math.nan, "speed_from": ONE_RUN}
                slow = fast = math.nan
            values |= {f"{sure}lost_low": low, f"{sure}lost_high": high, f"{sure}speed_low": slow,
                       f"{sure}speed_high": fast}
        return values


def predicted_ratio(row: dict[str, Any], base: dict[str, Any]) -> float:
    """The cost model's throughput of a row over its baseline's; NaN where either is not known."""
    mine, theirs = (side["tokens"] / side["predicted_seconds"] for side in (row, base))
    return mine / theirs if theirs else math.nan


def unequal_batching(row: dict[str, Any], base: dict[str, Any] | None) -> str:
    """What keeps a row's speed from being compared at equal batching with its baseline's; "" if nothing does.

    The batch size is part of what makes the two comparable at all (`results.without_reuse`).
    """
    if base is None or row["shards"] == base["shards"]:
        return ""
    return f"not at equal batching: in {row['shards']} shards, k=1 in {base['shards']}"


def _bootstrap(pairs: dict[int, ComparedPair], levels: tuple[float, ...]) -> dict[int, np.ndarray]:
    """Bootstrap bounds of all pairs: [2, levels, 2] each, one matrix of draws per number of problems.

    First the points lost (with Agresti and Min's two extra pairs, see `stats.compare_paired`), then the ratio of the
    predicted throughputs divided by its own value; NaN where nothing is predicted.
    """
    bounds: dict[int, np.ndarray] = {}
    weights: dict[int, np.ndarray] = {}
    for i, pair in pairs.items():
        assert pair.mine is not None and pair.theirs is not None
        n = len(pair.mine.ids)
        for size in (n, n + 2):
            if size not in weights:
                weights[size] = stats.resamples(size, DRAWS)
        lost = 100 * np.array(stats.paired_bounds(pair.mine.correct, pair.theirs.correct, level=levels,
                                                  weights=weights[n + 2]))
        ratio, *ends = stats.ratio_bootstrap(
            pair.theirs.tokens, pair.theirs.predicted, pair.mine.tokens, pair.mine.predicted, level=levels,
            weights=weights[n]) if pair.predicted else [math.nan] * (1 + 2 * len(levels))
        bounds[i] = np.array([lost, np.array(ends) / ratio]).reshape(2, len(levels), 2)
    return bounds
