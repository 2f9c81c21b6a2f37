"""What the shipped records of the real model say: Run 1 again, what ten problems show, the cap, the losses."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false, reportReturnType=false

from __future__ import annotations

import numpy as np
import pandas as pd

from fastdllm import power, prior_results, stats, tasks
from fastdllm.display.claim import Decision, Judged, claim
from fastdllm.investigation.collapse import phase6, real_model
from fastdllm.investigation.collapse.phase6 import Phase6Results
from fastdllm.investigation.collapse.real_model import BYPASS, MOVED, OF_THE_LOG
from fastdllm.investigation.collapse.verdict_revisions import percent
from fastdllm.report.shipped import ShippedRecords

CRITERION = 5.0      # points: what the proposal lets reuse lose
MUCH = 0.2           # of k=1's right answers: no small loss, whatever it is in points


def first_against_others(cells: pd.DataFrame, have: Phase6Results) -> pd.DataFrame:
    """Run 1's `first` (baseline) against each subset on `6c8822f`, paired, as `phase6.compare` has it.

    cells: `real_model.run_1`; have: `real_model.results` of the same records.
    """
    ran = cells[(cells["k"] > 1) & (cells["path"] != "")]
    own = ran[(ran["layers"] == "first") & (ran["what"] == OF_THE_LOG)].set_index("k")["path"]
    others = ran[(ran["revision"] == BYPASS) & ran["k"].isin(own.index)]
    return phase6.compare(have, [(own[row.k], row.path) for row in others.itertuples()])


def spread(values: pd.Series) -> str:
    """`66 %`, or `18 to 25 %`."""
    low, high = (f"{100 * value:.0f}" for value in (values.min(), values.max()))
    return f"{low} %" if low == high else f"{low} to {high} %"


def by_k(cells: pd.DataFrame) -> str:
    """Shares kept at each k in turn: `63 % and 38 %`."""
    return " and ".join(spread(rows["kept"]) for _, rows in cells.groupby("k"))


@claim(holds="**Run 1 again, on a real model (n = {n})**: of k=1's right answers `first` keeps {own} on its "
             "own commit, {moved} on `6c8822f`, where `middle` and `last` keep {others}.",
       fails="**Run 1 does not come back on the real model (n = {n})**: of k=1's right answers `first` keeps "
             "{own} on its own commit, {moved} on `6c8822f`, where `middle` and `last` keep {others}.",
       unknown="**Run 1 on a real model: not all of its cells ran.**")
def run_1_comes_back(cells: pd.DataFrame, table: pd.DataFrame) -> Decision:
    """cells: `real_model.run_1`; table: `first_against_others`: each subset on `6c8822f` is significantly worse."""
    compared = {subset for layers in table["layers"] for subset in layers.split(" = ")}
    ran = cells[(cells["k"] > 1) & cells["kept"].notna()]
    own = ran[(ran["layers"] == "first") & (ran["what"] == OF_THE_LOG)]
    moved, others = ran[ran["what"] == MOVED], ran[ran["layers"] != "first"]
    if compared != {"first", "middle", "last"} or own.empty or moved.empty or others.empty:
        return None, {}
    return len(phase6.worse(table)) == len(table), {
        "n": int(table["n"].max()), "own": by_k(own), "moved": by_k(moved), "others": by_k(others)}


@claim(holds="{size} of these problems would have shown it: Fisher's test has power {power}.",
       fails="{size} of these problems could not have shown it: Fisher's test has power {power}, and in "
             "{chance:.0%} of draws `first` has no more right than `{other}` (k={k}; exact).",
       unknown="What ten problems would have shown of it can't be told: the two cells did not run.")
def a_few_problems_show_it(cells: pd.DataFrame, have: Phase6Results, size: int = 10) -> Decision:
    """Run 1's `first` against the subset on `6c8822f` that fell furthest; independent draws for the power, paired draws
    of the same problems for the chance.
    """
    ran = cells[(cells["k"] > 1) & (cells["path"] != "") & (cells["what"] == OF_THE_LOG)]
    own, others = ran[ran["layers"] == "first"], ran[ran["layers"] != "first"]
    others = others[others["k"].isin(own["k"])]
    if others.empty:
        return None, {}
    bad = others.loc[others["accuracy"].idxmin()]
    good = own[own["k"] == bad["k"]].iloc[0]
    strength = power.independent(float(good["accuracy"]), float(bad["accuracy"]), size)
    return strength >= 0.8, {"size": size, "power": percent(strength), "other": bad["layers"], "k": bad["k"],
                             "chance": stats.not_ahead(have.correct[good["path"]], have.correct[bad["path"]], size)}


@claim(holds="**The run to the length cap is reproduced**: {capped} of {n} answers under `6c8822f` (k={k} {layers}, "
             "threshold {threshold:g}) are cut there ({cap} tokens), {plain} without reuse; the log has 9 and 10 of "
             "10.",
       fails="**Why the 7B ran to the length cap stays open**: at most {capped} of {n} answers under `6c8822f` "
             "(k={k} {layers}, threshold {threshold:g}) are cut there (at {cap} tokens, the 7B's at {cap_7b}), "
             "{plain} without reuse; the log: 9 and 10 of 10{left}.",
       unknown="**Why the 7B ran to the length cap stays open**: nothing ran under `6c8822f`, or k=1 did not.")
def answers_run_to_the_cap(frame: pd.DataFrame) -> Decision:
    """frame: shipped rows of one task, at one or several thresholds (which of them the log ran is not known).
    Reproduced: surely more than half of a configuration's answers. The 7B's cap is that of the task in its evaluation.
    """
    known = frame[frame["capped"].notna()]
    rows = known[(known["revision"] == BYPASS) & (known["k"] > 1)]
    worst = rows.loc[(rows["capped"] / rows["n"]).idxmax()] if len(rows) else None
    plain = known[(known["k"] == 1) & (known["threshold"] == worst["threshold"])] if worst is not None else rows
    if worst is None or plain.empty:
        return None, {}
    low, _ = stats.wilson(int(worst["capped"]), int(worst["n"]))
    return low > 0.5, {"threshold": worst["threshold"], "capped": int(worst["capped"]), "n": int(worst["n"]),
                       "k": worst["k"], "layers": worst["layers"], "cap": int(worst["max_new_tokens"]),
                       "cap_7b": tasks.get("gsm8k").max_new_tokens, "plain": int(plain["capped"].max()),
                       "left": "" if rows["threshold"].max() == 1.0 else "; threshold 1.0 did not run under `6c8822f`"}


def published_baseline() -> float:
    """January's k=1 on the 7B, a fraction of 1."""
    return float(prior_results.results().query("batch == 'jan_full' and config == 'k1_middle' and task == 'gsm8k'")
                 ["accuracy"].iloc[0])


@claim(holds="Points flatter it: {below} of {m} reuse configurations (subsets right on the same problems count once) "
             "lose fewer than {criterion:g} points, but {relative} of k=1's right answers. The criterion's "
             "{criterion:g} points are {share:.0%} of the 7B's.",
       fails="Points and shares agree: no configuration that loses fewer than {criterion:g} points loses more than a "
             "fifth of k=1's right answers (0 of {m}).",
       unknown="Losses against k=1 can't be told: no k=1, or nothing that reuses, ran.")
def points_flatter_the_loss(table: pd.DataFrame) -> Decision:
    """table: `phase6.losses`, one row a test."""
    if table.empty:
        return None, {}
    few = table[(table["points"] > -CRITERION) & (table["relative"] < -MUCH)]
    return len(few) > 0, {"below": len(few), "m": len(table), "criterion": CRITERION,
                          "relative": spread(-few["relative"]) if len(few) else "",
                           "share": CRITERION / 100 / published_baseline()}


@claim(holds="Why `first` was spared is an observation, no theorem: under `6c8822f` {bypass} of {n} decodes differ by "
             "subset. Under refresh (`26d6179`), where it is a theorem, none of {of_refresh} does.",
       fails="Why `first` was spared is an observation, no theorem: under `6c8822f` {bypass} of {n} decodes differ by "
             "subset. Under refresh (`26d6179`) it is {refresh} of {of_refresh}, where exact arithmetic allows none: "
             "whether rounding on the card tipped it is open.",
       unknown="Whether decodes differ by subset is not known on these records: two subsets of one k must run under "
               "`26d6179` and under `6c8822f`.")
def only_refresh_makes_them_one(refresh: pd.DataFrame, bypass: pd.DataFrame) -> Decision:
    """refresh, bypass: `real_model.differing` of `26d6179` and of `6c8822f`."""
    if refresh.empty or bypass.empty:
        return None, {}
    counts = {"refresh": int(refresh["differ"].sum()), "bypass": int(bypass["differ"].sum()),
              "of_refresh": int(refresh["n"].sum()), "n": int(bypass["n"].sum())}
    return counts["refresh"] == 0 and counts["bypass"] > 0, counts


@claim(holds="Under refresh the subsets agree but for rounding: {differ} of {n} decodes differ (95 % sure: fewer than "
             "{high:.1%}).",
       fails="Under refresh the subsets differ in more than rounding explains: in {differ} of {n} decodes (up to "
             "{high:.1%}).",
       unknown="Whether the subsets agree under refresh is not known: fewer than two ran.")
def subsets_agree_but_for_rounding(refresh: pd.DataFrame) -> Decision:
    """refresh: `real_model.differing` of `26d6179`."""
    if refresh.empty:
        return None, {}
    differ, n = int(refresh["differ"].sum()), int(refresh["n"].sum())
    return real_model.rounding_only(differ, n), {"differ": differ, "n": n, "high": stats.wilson(differ, n)[1]}


@claim(holds="On the real model {differ} of {n} decodes differ by subset in {dtype} under `26d6179`: half precision is "
             "enough for January's unequal totals.",
       fails="On the real model, on our path, none of {n} decodes differs by subset in {dtype} under `26d6179`: there "
             "half precision shows nothing like January's unequal totals. In another order of operations it may tip "
             "answers over (notebook 08, 4).",
       unknown="On the real model fewer than two subsets ran in {dtype} under `26d6179`.")
def half_precision_parts_the_subsets(dtype: str, table: pd.DataFrame) -> Decision:
    """table: `real_model.differing` of `26d6179` in half precision."""
    if table.empty:
        return None, {"dtype": dtype}
    differ = int(table["differ"].sum())
    return differ > 0, {"dtype": dtype, "n": int(table["n"].sum()), "differ": differ}


def mystery(shipped: ShippedRecords, cells: pd.DataFrame) -> list[Judged]:
    """The claims on Run 1 in order. cells: `real_model.run_1` of the same records."""
    have = real_model.results(shipped)
    parted = [real_model.differing(shipped, revision) for revision in ("26d6179", BYPASS)]
    thresholds = shipped.where(task=real_model.TASK, dtype=real_model.DTYPE, limit=None).frame
    return [run_1_comes_back(cells, first_against_others(cells, have)), a_few_problems_show_it(cells, have),
            only_refresh_makes_them_one(*parted), points_flatter_the_loss(phase6.losses(have, "26d6179")),
            answers_run_to_the_cap(thresholds), subsets_agree_but_for_rounding(parted[0])]


def caption(cells: pd.DataFrame, size: int = 10) -> str:
    """The sentence under `real_model.run_1_figure`."""
    ran = cells[cells["path"] != ""]
    if ran.empty:
        return "None of these cells ran on the real model; the commands stand below."
    best = ran.loc[ran["accuracy"].idxmax()]
    least = float(np.sum(stats.drawn(int(best["correct"]), int(best["n"]), size)[:2]))
    return (f"{len(ran)} of {len(cells)} cells ran. Filled: as in Run 1, each cell on its own commit; hollow: `first` "
            f"on `6c8822f`, where the log never ran it. Right: of {size} drawn problems even the best cell "
            f"({best['accuracy']:.1%}) has at most one right in {least:.0%} of draws; crosses are Run 1's own counts, "
            "on the 7B.")
