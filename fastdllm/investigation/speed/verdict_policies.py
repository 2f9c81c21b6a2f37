"""What notebook 09 concludes: which policies are worth having, `verify` beside the lossy ones."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from fastdllm import stats
from fastdllm.display.claim import Decision, Judged, RunLabel, claim, verdict
from fastdllm.display.tables import p_text
from fastdllm.investigation.speed import pareto
from fastdllm.investigation.speed.verify_measurements import half_precision, verify_meets_the_criterion


def named(part: pd.DataFrame, most: int = 6) -> str:
    """Configurations by name, the first few."""
    names = [f"`{name}`" for name in part["config"]]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "none"


def lossy(rows: pd.DataFrame) -> pd.DataFrame:
    """The reuse that can lose answers: all but `verify`. rows: `pareto.table`."""
    return rows[(rows["k"] > 1) & (rows["policy"] != "verify")]


@claim(holds="Of {m} lossy configurations these meet it: {names}.",
       fails="None of {m} lossy configurations is shown to meet it ({missed} surely miss it).",
       unknown="No lossy policy was measured.")
def a_lossy_policy_meets_the_criterion(rows: pd.DataFrame, speed: float, points: float) -> Decision:
    """rows: `pareto.table`; predicted speed, and points lost by intervals that hold together (`pareto.criterion`)."""
    some = lossy(rows)
    if some.empty:
        return None, {}
    judged = pd.Series([pareto.criterion(row, speed, points) for _, row in some.iterrows()], some.index)
    met = some[judged == "met"]
    return len(met) > 0, {"m": len(some), "names": named(met, 3), "missed": int((judged == "not met").sum())}


@claim(holds="**`replay` at k=2 beats every plain threshold as fast** ({m} of {m}; the closest, {t:g}, by {points:.1f} "
             "points, p = {p} after Holm, n = {n}).",
       fails="**`replay` at k=2 does not beat every plain threshold as fast** ({beaten} of {m}): threshold {t:g} is "
             "predicted {speedup:.2f}x, and `replay` wins {points:z.1f} points over it (p = {p} after Holm, n = {n}).",
       unknown="Whether `replay` at k=2 beats the thresholds is open: no threshold as fast ran beside it.")
def replay_beats_every_threshold(compared: pd.DataFrame) -> Decision:
    """compared: `pareto.against_thresholds`; beaten: more right answers, p after Holm below 0.05."""
    if compared.empty:
        return None, {}
    beaten = (compared["points"] > 0) & (compared["p_holm"] < stats.SIGNIFICANT)
    row = compared.loc[compared["points"].idxmin()]
    return beaten.all(), {"m": len(compared), "beaten": int(beaten.sum()), "t": row["threshold"], "n": row["n"],
                          "speedup": row["predicted speed-up"], "points": row["points"], "p": p_text(row["p_holm"])}


@claim(holds="Against the best threshold as fast, after Holm: better {better}; worse {worse}.",
       fails="After Holm none of {m} can be told from the best threshold as fast.",
       unknown="No plain threshold is as fast: there is no control.")
def the_threshold_tells_policies_apart(rows: pd.DataFrame) -> Decision:
    """rows: `pareto.table`: the paired gain of lossy policies over the best plain threshold at least as fast."""
    some = lossy(rows)
    some = some[some["gain"].notna()]
    sure = some[some["gain_holm"] < stats.SIGNIFICANT]
    better, worse = sure[sure["gain"] > 0], sure[sure["gain"] < 0]
    return (None if some.empty else len(sure) > 0), {"better": named(better, 2), "worse": named(worse, 2),
                                                     "m": len(some)}


@claim(holds="Here `verify` gives k=1's right and wrong answers in {m} of {m} runs (n = {n}; predicted {low:.2f}x to "
             "{high:.2f}x against k=1 at its threshold).",
       fails="Here `verify` differs from k=1 in right or wrong answers in {differ} of {m} runs (n = {n}): in float32 "
             "that is a fault.",
       unknown="Here `verify` did not run beside k=1 at its threshold.")
def verify_answers_as_k1(pairs: pd.DataFrame) -> Decision:
    """pairs: `pareto.verify_against_k1`."""
    if pairs.empty:
        return None, {}
    differ = int((pairs["differ"] > 0).sum())
    return differ == 0, {"m": len(pairs), "differ": differ, "n": pairs["n"].max(), "low": pairs["speedup"].min(),
                         "high": pairs["speedup"].max()}


def policies(rows: pd.DataFrame, compared: pd.DataFrame, pairs: pd.DataFrame, measured: pd.DataFrame, speed: float,
             points: float, threshold: float, real: Sequence[Judged] = ()) -> str:
    """09. The criterion for `verify` and for the lossy policies, and these against plain thresholds.

    rows, compared, pairs: of `pareto`; measured: `verify_measurements.runs`; real: on the real model, behind the fold.
    """
    return verdict(
        [verify_meets_the_criterion(measured, speed, points, threshold),
         a_lossy_policy_meets_the_criterion(rows, speed, points), replay_beats_every_threshold(compared)],
        [str(verify_answers_as_k1(pairs)), half_precision(measured, threshold),
         str(the_threshold_tells_policies_apart(rows)), *map(str, real),
         f"{RunLabel.of(rows)}. Speed is the cost model's at the 7B's shape, batch 1, for the forwards measured here; "
         "`verify` with what drafts cost as measured on an H100. The criterion asks it of intervals of the loss that "
         "hold for all configurations together (Bonferroni); comparisons with thresholds are paired, exact McNemar, "
         "Holm."])
