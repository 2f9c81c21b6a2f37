"""What the speed notebooks conclude: threshold, batch size, throughput, and the tour's first look."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from fastdllm import stats
from fastdllm.decode.step import KINDS
from fastdllm.display.claim import Decision, Judged, RunLabel, claim, told, verdict
from fastdllm.display.tables import PREDICTED, interval_text
from fastdllm.investigation.speed import batching
from fastdllm.report import cost_model
from fastdllm.report.cost_model import SHAPE_7B

# -- 00: the tour, 18: the chat

@claim(holds="**A forward yields more than one token: {tokens} tokens in {forwards} forwards, {rate:.2f} each.**",
       fails="**A forward yields no more than one token: {tokens} tokens in {forwards} forwards, {rate:.2f} each.**",
       unknown="**Nothing was generated.**")
def several_tokens_a_forward(tokens: int, forwards: int) -> Decision:
    """Tokens and forwards of all answers together; autoregressive decoding makes one token a forward."""
    if not forwards:
        return None, {}
    return tokens > forwards, {"tokens": tokens, "forwards": forwards, "rate": tokens / forwards}


@claim(holds="All {n} problems are solved (95 % interval {low:.0%} to {high:.0%}).",
       fails="{right} of {n} problems are solved (95 % interval {low:.0%} to {high:.0%}).",
       unknown="No problem was asked.")
def all_solved(right: Sequence[bool]) -> Decision:
    """One value a problem."""
    if not right:
        return None, {}
    low, high = stats.wilson(sum(right), len(right))
    return all(right), {"right": sum(right), "n": len(right), "low": low, "high": high}


def tour(right: Sequence[bool], tokens: int, nfe: pd.DataFrame) -> str:
    """00. nfe: forwards by kind, one row a problem."""
    kinds = nfe.sum()
    return verdict([several_tokens_a_forward(tokens, int(kinds[list(KINDS)].sum())), all_solved(right)],
                   ["Forwards: " + ", ".join(f"{int(kinds[kind])} {kind}" for kind in KINDS)
                    + ". More problems narrow the interval."])


def chat(tokens: int, nfe: dict[str, int], line: str) -> str:
    """18. tokens and forwards of the first answer, and its speed as a line."""
    return verdict([several_tokens_a_forward(tokens, sum(nfe[kind] for kind in KINDS))],
                   [line, "One answer with a trace: notebook 10 measures."])


# -- 11: threshold

@claim(holds="**Threshold {threshold:g} is safe here: {gain:.2f} times the tokens per forward of {highest:g} "
             "({rate:.2f}), {lost:z.1f} points lost** (95 % interval {low:.1f} to {high:.1f}; {relative:z.0%} of the "
             "right answers).",
       fails="**No threshold below {highest:g} is shown to lose fewer than {points:g} points**: keep it, or measure "
             "more problems.",
       unknown="**No second threshold was measured on the same problems.**")
def a_lower_threshold_is_safe(table: pd.DataFrame, points: float) -> Decision:
    """table: `sweeps.threshold_table`; points: what may be lost, with 95 % confidence."""
    highest = table.iloc[-1]
    if "lost_high" not in table or table["lost_high"].isna().all():
        return None, {}
    safe = table[table["lost_high"] < points]
    if safe.empty:
        return False, {"highest": highest["threshold"], "points": points}
    pick = safe.loc[safe["tokens_per_forward"].idxmax()]
    return True, {"threshold": pick["threshold"], "highest": highest["threshold"], "rate": pick["tokens_per_forward"],
                  "gain": pick["tokens_per_forward"] / highest["tokens_per_forward"], "lost": pick["lost"],
                  "low": pick["lost_low"], "high": pick["lost_high"],
                  "relative": pick["lost"] / 100 / highest["accuracy"] if highest["accuracy"] else float("nan")}


@claim(holds="Too low a threshold costs answers: {threshold:g} loses {lost:.1f} points, surely more than {points:g}.",
       fails="No threshold down to {threshold:g} is shown to lose more than {points:g} points.",
       unknown="How low is too low was not measured.")
def a_threshold_is_too_low(table: pd.DataFrame, points: float) -> Decision:
    """table, points: as above; the highest of those that surely lose more."""
    if "lost_low" not in table or table["lost_low"].isna().all():
        return None, {}
    bad = table[table["lost_low"] > points]
    row = bad.iloc[-1] if len(bad) else table.iloc[0]
    return len(bad) > 0, {"threshold": row["threshold"], "lost": row["lost"], "points": points}


def threshold(table: pd.DataFrame, points: float) -> str:
    """11. The fastest safe threshold, and where it breaks."""
    highest = table.iloc[-1]
    return verdict([a_lower_threshold_is_safe(table, points), a_threshold_is_too_low(table, points)],
                   [f"{RunLabel.of(table)}. At threshold {highest['threshold']:g}: {highest['accuracy']:.1%} with "
                    f"{highest['tokens_per_forward']:.2f} tokens per forward. The thresholds were chosen beforehand; "
                    "picking the best of several on the same problems flatters it a little."])


# -- 12: batch size

@claim(holds="**A larger batch is faster: batch {batch} makes {speed:.0f} tokens/s, {ratio:.2f} ({low:.2f} to "
             "{high:.2f}) times batch {first}**; an answer then takes {latency:.2f} s instead of {alone:.2f} s.",
       fails="**No batch is shown to be faster than {first}** ({speed:.0f} tokens/s; the fastest other, {batch}, makes "
             "{ratio:.2f} ({low:.2f} to {high:.2f}) times that).",
       unknown="**Whether a larger batch is faster can't be told here**: {why}.")
def a_larger_batch_is_faster(table: pd.DataFrame) -> Decision:
    """table: `batching.table`, its rows of k=1. Only repeats tell: the interval of the ratio must lie above one."""
    table = table.query("way == @batching.PLAIN")
    if len(table) < 2:
        return None, {"why": "only one batch size was measured"}
    first, larger = table.iloc[0], table.iloc[1:]
    if larger["ratio"].isna().any():
        return None, {"why": f"batch {', '.join(map(str, table['batch_size']))} ran once each, and one run can't tell "
                             "a speed from noise"}
    sure = larger[larger["ratio_low"] > 1]
    best = (larger if sure.empty else sure).nlargest(1, "ratio").iloc[0]
    return len(sure) > 0, {"batch": best["batch_size"], "first": first["batch_size"], "ratio": best["ratio"],
                           "low": best["ratio_low"], "high": best["ratio_high"], "latency": best["latency"],
                           "alone": first["latency"], "speed": (best if len(sure) else first)["tokens_per_second"]}


@claim(holds="Every answer is the same at every batch size.",
       fails="Up to {differ} of {n} answers change with the batch size; in half precision other shapes round "
             "differently, in float32 that would be a fault.",
       unknown="Whether answers depend on the batch can't be told from one size.")
def answers_do_not_depend_on_the_batch(table: pd.DataFrame) -> Decision:
    """table: `batching.table`: every way's answers against those of its own smallest batch."""
    differ = int((table["n"] - table["equal"]).max())
    return (None if table["batch_size"].nunique() < 2 else differ == 0), {"differ": differ, "n": int(table["n"].max())}


@claim(holds="**At equal batch size {way} {does} {best} times the tokens/s of k=1, at batch {batch}**; all reuse and "
             "sizes: {low:.2f} to {high:.2f}{by}.",
       fails="**At equal batch size no reuse is {shown} to make {goal:g} times the tokens/s of k=1**: {low:.2f} to "
             "{high:.2f} over all sizes{by}.",
       unknown="**Whether reuse is faster than k=1 at equal batch size can't be told here**: {why}.")
def reuse_is_faster_at_some_batch_size(table: pd.DataFrame, goal: float = 1.1) -> Decision:
    """table: `batching.table`. Faster is more than `goal` times k=1's tokens/s: with the whole interval (of all
    comparisons together) where runs were repeated, else by the cost model's prediction, which says so.
    """
    reuse = table[(table["way"] != batching.PLAIN) & table["speedup"].notna()]
    if reuse.empty:
        return None, {"why": "no reuse was run beside it whose clock was repeated or whose forwards were counted"}
    counted = reuse[reuse["speed_from"] == PREDICTED]
    timed = reuse[reuse["speed_from"] != PREDICTED]
    rows, low = (counted, counted["speedup"]) if timed.empty else (timed, timed["sure_speed_low"])
    best = rows.loc[rows["speedup"].where(low > goal, 0.0).idxmax()]
    by_clock = len(timed) > 0
    return (low > goal).any(), {
        "way": f"`{best['way']}`", "batch": best["batch_size"], "goal": goal, "low": rows["speedup"].min(),
        "high": rows["speedup"].max(), "does": "makes" if by_clock else "is predicted to make",
        "shown": "shown" if by_clock else "predicted",
        "by": "" if by_clock else f" (the forwards at {cost_model.SHAPE})",
        "best": interval_text(best["speedup"], best["sure_speed_low"], best["sure_speed_high"], 2) if by_clock else
        f"{best['speedup']:.2f}"}


def batch(table: pd.DataFrame) -> str:
    """12. What reuse gains at equal batch size, the fastest batch size and what it costs, whether answers depend on it.
    """
    once = "" if batching.repeated(table) else (
        " Three values of the axis `repeat` would measure the clock's noise.")
    return verdict([reuse_is_faster_at_some_batch_size(table), a_larger_batch_is_faster(table),
                    answers_do_not_depend_on_the_batch(table)],
                   [f"{RunLabel.of(table)}.{once} Less than 1.1x counts as no gain."])


# -- 13: throughput

@claim(holds="**At batch 1 a forward costs what its bytes cost: {full:.0%} (full) and {small:.0%} (small) of the copy "
             "bandwidth** on the {device}.",
       fails="**At batch 1 a forward costs more than its bytes: only {full:.0%} (full) and {small:.0%} (small) of the "
             "copy bandwidth** on the {device}.",
       unknown="**What a forward costs at batch 1 was not measured.**")
def bytes_explain_a_forward(forwards: pd.DataFrame) -> Decision:
    """forwards: `gpu_measurements.forwards`; explained is half of the copy bandwidth or more."""
    one = forwards[(forwards["batch"] == 1) & (forwards["layers"] == 28)].groupby("kind")["share_of_copy"].mean()
    if not {"full", "small"} <= set(one.index):
        return None, {}
    return one[["full", "small"]].min() >= 0.5, {"full": one["full"], "small": one["small"],
                                                 "device": forwards.attrs["device"]}


@claim(holds="The cost model gives the time of whole runs at batch 1 to within {off:.1%}.",
       fails="The cost model misses the time of whole runs at batch 1 by up to {off:.1%}: its predictions don't count.",
       unknown="The cost model was not held against runs at batch 1.")
def the_cost_model_holds(runs: pd.DataFrame) -> Decision:
    """runs: `gpu_measurements.runs`; 15 % is what a prediction may be off."""
    off = runs["off"].abs().max() if len(runs) else float("nan")
    return (None if off != off else off < 0.15), {"off": off}


@claim(holds="Reuse of 12 layers can gain: {k2:.2f}x for k=2 and {k3:.2f}x for k=3 are predicted at the mix of "
             "forwards measured {of}, above {goal:g}x.",
       fails="Reuse of 12 layers can't gain {goal:g}x: {k2:.2f}x for k=2 and {k3:.2f}x for k=3 are predicted at the "
             "mix of forwards measured {of}.",
       unknown="What reuse can gain can't be predicted: no run reused.")
def reuse_can_reach_the_goal(table: pd.DataFrame, goal: float) -> Decision:
    """table: `throughput.mixes`; goal: the speed-up that counts as success."""
    rows = table.set_index("run")["h200_speed"]
    if not {"k=1", "k=2 output", "k=3 output"} <= set(rows.index):
        return None, {}
    k2, k3 = rows["k=2 output"] / rows["k=1"], rows["k=3 output"] / rows["k=1"]
    return max(k2, k3) > goal, {"k2": k2, "k3": k3, "goal": goal, "of": table.attrs.get("of", "here")}


@claim(holds="January's k>1 were slower than k=1 on the same node ({low:.2f} to {high:.2f} times, one run each): its "
             "skipped layers ran all the same.",
       fails="January's k>1 were not all slower than k=1 on the same node ({low:.2f} to {high:.2f} times, one run "
             "each).",
       unknown="January's k>1 never ran on a node of k=1.")
def january_was_slower(configurations: pd.DataFrame) -> Decision:
    """configurations: `throughput.january`."""
    same = configurations.loc[(configurations["k"] > 1) & configurations["ratio"].notna(), "ratio"]
    if same.empty:
        return None, {}
    return same.max() < 1, {"low": same.min(), "high": same.max()}


@claim(holds="Half precision costs nothing that {n} problems show: no dtype is found worse than float32.",
       fails="Half precision costs answers: {worst} in {dtype} against {best} of {n} in float32 at threshold "
             "{threshold:g}.",
       unknown="Half precision was not measured on a GPU.")
def half_precision_is_free(table: pd.DataFrame) -> Decision:
    """table: `prior_results.dtype_accuracy`; Newcombe's interval of each dtype against float32 at one threshold."""
    if "float32" not in set(table["dtype"]) or table["dtype"].nunique() < 2:
        return None, {}
    for value, rows in table.groupby("threshold"):
        full = rows[rows["dtype"] == "float32"].iloc[0]
        for row in rows[rows["dtype"] != "float32"].itertuples():
            _, high = stats.difference_unpaired(int(full["correct"]), int(full["n"]), int(row.correct), int(row.n))
            if high < 0:
                return False, {"worst": row.correct, "dtype": row.dtype, "best": full["correct"], "n": full["n"],
                               "threshold": value}
    return True, {"n": int(table["n"].max())}


def throughput(forwards: pd.DataFrame, runs: pd.DataFrame, loop: dict[str, Any], table: pd.DataFrame,
               configurations: pd.DataFrame, dtypes: pd.DataFrame, real: pd.DataFrame, goal: float = 1.2,
               details: Sequence[Judged] = ()) -> str:
    """13. Bytes, model, ceiling, January; the measured runs and half precision behind the fold.

    table, real: the mix of forwards here, and of the real model (which decides the head if it can tell).
    """
    first = configurations.loc[configurations["k"] == 1, "tokens_per_s"]
    return verdict(
        [bytes_explain_a_forward(forwards), the_cost_model_holds(runs),
         told(reuse_can_reach_the_goal, (real, goal), (table, goal)), january_was_slower(configurations)],
        [*map(str, details), f"On the embedded checkpoint: {reuse_can_reach_the_goal(table, goal)}",
         measured_runs(forwards, runs, loop), str(half_precision_is_free(dtypes)),
         f"12 of 28 layers are {1 - 1 / cost_model.ceiling(SHAPE_7B, 1.0):.1%} of a forward's bytes; the mix is that "
         f"of n = {table.attrs['problems']} problems at threshold {table.attrs['threshold']:g} on the embedded "
         "checkpoint.",
         f"January's own three k=1 rows, one computation, span {first.min():.1f} to {first.max():.1f} tokens/s: how "
         "much of the rest is the node can't be told from nine runs."])


def measured_runs(forwards: pd.DataFrame, runs: pd.DataFrame, loop: dict[str, Any]) -> str:
    """Whole runs on the GPU, ours beside the plain loop and the published one; Markdown."""
    batches = forwards.loc[forwards["batch"] > 1, "predicted_ms"] / forwards.loc[forwards["batch"] > 1, "ms"] - 1
    ours = runs[(runs["executor"] == "fast") & (runs["k"] == 1)].set_index("batch")
    plain = runs[(runs["network"] == "PlainNetwork") & (runs["k"] == 1)]
    times = next(times for times in plain["ms_by_kind"] if times)
    alike = plain.loc[plain["note"].notna(), "tokens_per_second"].iloc[0]
    then, speed, kinds = loop["published"], ours["tokens_per_second"], ("full", "small", "commit")
    return (
        f"One prompt at one token a forward makes {speed[1]:.0f} tokens/s, {ours.loc[1, 'ratio']:.1f} times the plain "
        f"loop in the same run and {speed[1] / max(then['tokens_per_second']):.1f} times what the published loop made "
        f"({then['tokens_per_second'][0]}-{then['tokens_per_second'][1]}). An eager loop waits for its host: a full, "
        f"small, commit forward took {', '.join(f'{times[kind]:.1f}' for kind in kinds)} ms in the plain loop, "
        f"{', '.join(str(then['ms_by_kind'][kind]) for kind in kinds)} in the published one on another host. At batch "
        f"32, rows moving by themselves make {speed[32]:.0f} tokens/s, {ours.loc[32, 'ratio']:.1f} times the plain "
        f"loop, {speed[32] / alike:.1f} times where that one gets rows of like length together. In batches of 32 the "
        f"cost model is {-batches.max():.0%} to {-batches.min():.0%} too fast: it knows neither attention nor what "
        "the products of many rows lose.")
