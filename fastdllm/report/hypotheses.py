"""Whether the hypothesis of a grid whose records ship held: said beside the hypothesis wherever it is shown.

Only those that one number decides, and that no notebook's verdict is made for.
"""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false, reportReturnType=false

from __future__ import annotations

from fastdllm import stats
from fastdllm.display.claim import Decision, Judged, claim
from fastdllm.report.shipped import ShippedRecords

CHOICES = 4      # of a question of ARC-Easy


@claim(holds="The hypothesis held: {accuracy:.1%} of {n} are right (95 % interval {low:.1%} to {high:.1%}), above "
             "chance ({chance:.0%}).",
       fails="The hypothesis failed: {accuracy:.1%} of {n} are right (95 % interval {low:.1%} to {high:.1%}), not "
             "above chance ({chance:.0%}).",
       unknown="The hypothesis is not tested: no record.")
def score_is_above_chance(records: ShippedRecords) -> Decision:
    """Above: the whole 95 % interval of the first record."""
    if records.frame.empty:
        return None, {}
    row = records.frame.iloc[0]
    return row["low"] > 1 / CHOICES, {**row[["accuracy", "n", "low", "high"]], "chance": 1 / CHOICES}


@claim(holds="The hypothesis held: at {apart} of {m} k the subsets differ in some of {n} problems ({dtype}).",
       fails="The hypothesis failed: at every k the subsets agree in all of {n} problems ({dtype}).",
       unknown="The hypothesis is not tested: fewer than two subsets ran under `26d6179`.")
def subsets_differ(records: ShippedRecords) -> Decision:
    """Under refresh: whether answers, tokens and forwards of some problem depend on which layers are reused."""
    rows = records.frame[(records.frame["revision"] == "26d6179") & (records.frame["k"] > 1)]
    groups = [group for _, group in rows.groupby(["task", "threshold", "k"]) if group["layers"].nunique() > 1]
    if not groups:
        return None, {}
    apart = sum(group["computed"].nunique() > 1 for group in groups)
    return apart > 0, {"apart": apart, "m": len(groups), "n": groups[0]["n"].iloc[0], "dtype": rows["dtype"].iloc[0]}


@claim(holds="The hypothesis stands: of {n} problems ({dtype}) {counts}; none differs (exact McNemar test, smallest p "
             "{p}, Holm-corrected).",
       fails="The hypothesis failed: of {n} problems ({dtype}) {counts}; smallest p {p} (exact McNemar test, "
             "Holm-corrected).",
       unknown="The hypothesis is not tested: k=1 and `verify` did not both run.")
def verify_loses_as_often_as_it_wins(records: ShippedRecords) -> Decision:
    """Whether policy `verify` is right as often as k=1 at every k, on the same problems."""
    rows = records.frame.sort_values("k")
    plain, tried = rows[rows["k"] == 1], rows[(rows["k"] > 1) & (rows["policy"] == "verify")]
    if plain.empty or tried.empty:
        return None, {}
    pairs = [stats.compare_paired(records.right(plain["path"].iloc[0]), records.right(path)) for path in tried["path"]]
    p = min(stats.holm([pair.p for pair in pairs]))
    counts = ", ".join(f"k={k} wins {pair.gained} and loses {pair.lost}"
                       for k, pair in zip(tried["k"], pairs, strict=True))
    return p >= stats.SIGNIFICANT, {"n": pairs[0].n, "dtype": plain["dtype"].iloc[0], "counts": counts, "p": f"{p:.2g}"}


@claim(holds="The hypothesis held: under `6c8822f` every subset scores less than under `26d6179`, in all {m} cells of "
             "benchmark, threshold, k and subset ({n} problems, {dtype}; exact McNemar tests, Holm-corrected, largest "
             "p {p}).",
       fails="The hypothesis failed in {apart} of {m} cells of benchmark, threshold, k and subset: under `6c8822f` not "
             "fewer are right than under `26d6179` in {where} ({right} against {there} of {n} problems, {dtype}; a "
             "cell collapses by an exact McNemar test, Holm-corrected).",
       unknown="The hypothesis is not tested: no cell ran under both `6c8822f` and `26d6179`.")
def every_subset_collapses(records: ShippedRecords) -> Decision:
    """Whether bypass costs each cell more right answers than refresh does, on the same problems."""
    cell = ["task", "threshold", "k", "layers"]
    rows = records.frame[records.frame["k"] > 1]
    here, there = (rows[rows["revision"] == name].set_index(cell) for name in ("6c8822f", "26d6179"))
    both = [at for at in here.index if at in there.index]
    if not both:
        return None, {}
    pairs = [stats.compare_paired(records.right(there.at[at, "path"]), records.right(here.at[at, "path"]))
             for at in both]
    p = stats.holm([pair.p for pair in pairs])
    spared = [index for index, pair in enumerate(pairs) if p[index] >= stats.SIGNIFICANT or pair.gained >= pair.lost]
    right, other = ([int(records.right(side.at[both[index], "path"]).sum()) for index in spared]
                    for side in (here, there))
    where = list(dict.fromkeys(f"{task} at threshold {threshold:g}, k={k}" for task, threshold, k, _ in
                               (both[index] for index in spared)))
    return not spared, {
        "m": len(both), "apart": len(spared), "n": pairs[0].n, "dtype": rows["dtype"].iloc[0], "p": f"{max(p):.2g}",
        "where": "; ".join(where), "right": stats.least_to_most(right), "there": stats.least_to_most(other)}


DECIDED_BY = {"arc_easy_smol": score_is_above_chance, "verify_bfloat16": verify_loses_as_often_as_it_wins,
              "gsm8k_smol_float16": subsets_differ, "multiarith_smol": every_subset_collapses,
              "multiarith_smol_float16": subsets_differ}


def judged(experiment: str, records: ShippedRecords) -> Judged | None:
    """The experiment's hypothesis held against its records among these; None where no claim decides it."""
    decide = DECIDED_BY.get(experiment)
    return None if decide is None else decide(records.where(experiment=experiment))
