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


DECIDED_BY = {"arc_easy_smol": score_is_above_chance, "verify_bfloat16": verify_loses_as_often_as_it_wins,
              "gsm8k_smol_float16": subsets_differ, "multiarith_smol_float16": subsets_differ}


def judged(experiment: str, records: ShippedRecords) -> Judged | None:
    """The experiment's hypothesis held against its records among these; None where no claim decides it."""
    decide = DECIDED_BY.get(experiment)
    return None if decide is None else decide(records.where(experiment=experiment))
