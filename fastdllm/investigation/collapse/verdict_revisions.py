"""E of the log's checklist: what each revision does over the whole grid, and what ten problems can show of it."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from fastdllm import power, stats
from fastdllm.display.claim import Decision, Judged, RunLabel, claim, told, verdict
from fastdllm.investigation.collapse.phase6 import NAMES, Phase6Results, across_subsets, against, losses, worse
from fastdllm.investigation.collapse.verdict_suspects import list_differences

JANUARY, RUN_1, RUN_2 = "8e18baac", "6c8822f", "26d6179"
ENOUGH = 0.8      # power that counts as "can show"


@claim(holds="**{who} is worse than January's in {hit} of {m} comparisons** (most: k{k} {layers}, {points:+.1f} "
             "points, {relative:+.0%} of the right answers).",
       fails="**{who} is not found worse than January's (0 of {m} comparisons)**; losses up to {missed:.1f} points are "
             "not excluded.",
       unknown="**{who} can't be compared with January's: no configuration ran under both.**")
def worse_than_january(who: str, table: pd.DataFrame) -> Decision:
    """table: `phase6.against` January's code, one row a different computation."""
    if table.empty:
        return None, {"who": who}
    hit, worst = worse(table), table.loc[table.points.idxmin()]
    return len(hit) > 0, {"who": who, "hit": len(hit), "m": len(table), "k": worst.k, "layers": worst.layers,
                          "points": worst.points, "relative": worst.relative,
                          "missed": max(0.0, -float(table.low.min()))}


@claim(holds="Every subset is hit, `first` too.",
       fails="Not every subset is hit: not {spared}.",
       unknown="Whether it spares a subset can't be told: none is hit, or not all three were run.")
def hits_every_subset(table: pd.DataFrame) -> Decision:
    """table: `phase6.against`; hit: significantly worse at some k."""
    ran = {subset for layers in table.layers for subset in layers.split(" = ")}
    hit = {subset for layers in worse(table).layers for subset in layers.split(" = ")}
    return (None if not hit or len(ran) < 3 else hit == ran), {"spared": ", ".join(sorted(ran - hit))}


@claim(holds="{name}: at each k the subsets are one computation (same answers, tokens and forwards).",
       fails="{name}: the subsets are not one computation at every k; {right}.",
       unknown="{name}: fewer than two subsets ran.")
def subsets_are_one_computation(name: str, subsets: pd.DataFrame) -> Decision:
    """subsets: `phase6.across_subsets`."""
    if subsets.empty or subsets.subsets.max() < 2:
        return None, {"name": name}
    differ, n = int(subsets["answers that differ"].max()), int(subsets.n.max())
    return (subsets.computations == 1).all(), {"name": name, "right": (
        f"up to {differ} of {n} answers are right with one and wrong with another" if differ else
        f"tokens or forwards of some answer differ, but all have the same right answers (n = {n})")}


def percent(share: float) -> str:
    """A small chance for people: never 0%."""
    return "under 0.1%" if share < 0.001 else f"{share:.1%}" if share < 0.1 else f"{share:.0%}"


@claim(holds="n = {n} shows a fall from {good:.0%} to {bad:.0%} with power {power}.",
       fails="n = {n} misses a fall from {good:.0%} to {bad:.0%} more often than once in five (power {power}; 80 % "
             "from about n = {needed}).",
       unknown="{good:.0%} against {bad:.0%} is no difference to be shown.")
def shows(good: float, bad: float, n: int) -> Decision:
    """Two accuracies as fractions of 1, and the problems of each."""
    values = {"good": good, "bad": bad, "n": n}
    if round(good, 3) == round(bad, 3):
        return None, values
    strength = power.independent(good, bad, n)
    return strength >= ENOUGH, values | {"power": percent(strength), "needed": needed(good, bad)}


def needed(good: float, bad: float) -> int:
    """Problems from which on the power is 80 %, by the same rule as `power.independent`."""
    return next((n for n in range(2, power.EXACT + 1) if power.independent(good, bad, n) >= ENOUGH),
                0) or power.n_needed(good, bad)


@claim(holds="Spot check: all {n} decodes gave the record's tokens.",
       fails="Spot check: {wrong} of {n} decodes gave other tokens than the record.",
       unknown="Spot check: nothing was decoded again.")
def records_are_reproduced(check: pd.DataFrame) -> Decision:
    """check: `phase6.spot_check`."""
    return (None if check.empty else check["same tokens"].all()), {
        "n": len(check), "wrong": int((~check["same tokens"].astype(bool)).sum())}


def mean_accuracies(results: Phase6Results) -> list[tuple[float, float, str]]:
    """(good, bad, label) of falls whose power is of interest: here, the log's collapse, January's loss at k=3."""
    here = [results.reusing(revision).accuracy.mean() for revision in (JANUARY, RUN_1)]
    pairs = [(*here, f"here: {here[0]:.0%} against {here[1]:.0%}"), (0.7, 0.1, "log: 70 % against 10 %"),
             (0.8044, 0.6717, "January: 80.4 % (k=1) against 67.2 % (k=3)")]
    return [pair for pair in pairs if pair[0] == pair[0] and pair[1] == pair[1] and round(pair[0] - pair[1], 3)]


def old_code(runs: Sequence[tuple[RunLabel, Phase6Results]], small: int, check: pd.DataFrame,
             real: Sequence[Judged] = ()) -> str:
    """The three revisions against each other, and what `small` problems can show. runs: sets of records, the real
    model's first: each claim is on the first that can tell; real: what its records say of Run 1's own table.
    """
    run_1, run_2 = ([(f"{who}, on {label.model}, n = {label.n}", against(results, JANUARY, revision))
                     for label, results in runs] for who, revision in (("Run 1's code (`6c8822f`)", RUN_1),
                                                                       ("Run 2's code (`26d6179`)", RUN_2)))
    low, high = stats.wilson(round(0.7 * small), small)
    powers = [shows(good, bad, small) for good, bad, _ in mean_accuracies(runs[-1][1])]
    one, every = told(worse_than_january, *run_1), told(hits_every_subset, *[[table] for _, table in run_1])
    head = [each for each in real if each.state is not None] or [one, every, powers[-2]]
    once = "Subsets right on the same problems are one test, and corrected for once."
    details = [f"{one} {every}", *("\n".join([f"{label}. {once}", "", *block(results, first, second)])
                                   for (label, results), (_, first), (_, second)
                                   in zip(runs, run_1, run_2, strict=True))]
    return verdict([*head, told(worse_than_january, *run_2), records_are_reproduced(check)],
                   [*details, "Power of Fisher's exact test:\n" + "\n".join(f"- {judged}" for judged in powers)
                    + f"\n- At {small} problems 70 % has the interval {low:.0%} to {high:.0%}."])


def block(results: Phase6Results, run_1: pd.DataFrame, run_2: pd.DataFrame) -> list[str]:
    """One set of records, in full: subsets, both codes against January's (`against`), each against its own k=1."""
    lines = [f"- {subsets_are_one_computation(f'`{revision}`', across_subsets(results, revision))}"
             for revision in (JANUARY, RUN_1, RUN_2)]
    parts = [(f"{NAMES[revision]} against January's", table) for revision, table in ((RUN_1, run_1), (RUN_2, run_2))]
    parts += [(f"{NAMES[revision]} against its own k=1", losses(results, revision))
              for revision in (JANUARY, RUN_1, RUN_2)]
    return lines + [f"\n{title}:\n{list_differences(table)}" for title, table in parts if len(table)]
