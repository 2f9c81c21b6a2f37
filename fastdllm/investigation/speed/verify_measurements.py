"""Policy `verify` on a GPU (`fastdllm/data/verify.jsonl`, by benchmarks/bench_verify.py): whole runs against k=1."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportReturnType=false

from __future__ import annotations

from pathlib import Path

import pandas as pd

from fastdllm.display.claim import Decision, claim
from fastdllm.lab import atomic
from fastdllm.report.verify_costs import PATH

REAL_MODEL = "smol"
RUN = ["data", "dtype", "n", "threshold", "k", "tokens_per_second", "speedup", "forwards_saved", "equal_to_k1",
       "device", "seconds", "forwards_run"]


def runs(path: Path = PATH, model: str = REAL_MODEL) -> pd.DataFrame:
    """Whole runs one prompt at a time, RUN by row: tokens/s, their ratio to k=1's (speedup), k=1's forwards over
    passes, how many of n texts equal k=1's, and seconds and passes of the whole run.
    """
    lines = [line for line in atomic.json_lines(path) if line["part"] == "run" and line["model"] == model]
    table = pd.DataFrame(lines, columns=["model", *RUN])
    return table.assign(dtype=table["dtype"].str.removeprefix("torch."))


@claim(holds="**The criterion (over {speed:g}x, under {points:g} points lost) is met by `verify`**: {ratio:.2f}x by "
             "the clock at k={k} ({of}); in float32 ({exact_ratio:.2f}x) its tokens are k=1's in {equal} of {m} texts "
             "at every k, so 0 points are lost but for rounding: in bfloat16 {half} of {n} texts are k=1's.",
       fails="**The criterion (over {speed:g}x, under {points:g} points lost) is not met by `verify`**: {ratio:.2f}x "
             "by the clock at k={k} ({of}); in float32 ({exact_ratio:.2f}x) at least {equal} of {m} texts are k=1's.",
       unknown="**Whether `verify` meets the criterion (over {speed:g}x, under {points:g} points lost) is open**: "
               "{why}.")
def verify_meets_the_criterion(table: pd.DataFrame, speed: float, points: float, threshold: float) -> Decision:
    """table: `runs`. Equal: every float32 text. Speed: the best k, each k by the slowest of its bfloat16 runs; on the
    far side of what is asked by more than the clock's noise, which is what k=1's forwards of these runs differ by.
    """
    drafted = table[(table["k"] > 1) & (table["threshold"] == threshold)]
    exact, fast = drafted[drafted["dtype"] == "float32"], drafted[drafted["dtype"] == "bfloat16"]
    if exact.empty or fast.empty:
        return None, {"speed": speed, "points": points, "why": "no run on a GPU in float32 and in bfloat16"}
    slowest = fast.loc[fast.groupby("k")["speedup"].idxmin()]
    best = slowest.loc[slowest["speedup"].idxmax()]
    worst = exact.loc[(exact["equal_to_k1"] / exact["n"]).idxmin()]
    plain = table[(table["k"] == 1) & (table["dtype"] == "bfloat16")]
    forwards = 1e3 * plain["seconds"] / plain["forwards_run"]
    noise, equal = forwards.max() / forwards.min(), bool((exact["equal_to_k1"] == exact["n"]).all())
    if equal and speed / noise < best["speedup"] <= speed * noise:
        return None, {"speed": speed, "points": points, "why":
                      f"in float32 its tokens are k=1's in every text, but {best['speedup']:.2f}x by the clock at "
                      f"k={best['k']} ({REAL_MODEL}, {best['data']}, bfloat16, n = {best['n']}, {best['device']}) is "
                      f"within its noise: a forward of k=1 took {forwards.min():.2f} to {forwards.max():.2f} ms"}
    return equal and best["speedup"] > speed, {
        "speed": speed, "points": points, "ratio": best["speedup"], "k": best["k"], "equal": worst["equal_to_k1"],
        "m": worst["n"], "exact_ratio": exact["speedup"].max(), "half": best["equal_to_k1"], "n": best["n"],
        "of": f"{REAL_MODEL}, {best['data']}, bfloat16, n = {best['n']}, {best['device']}"}


def half_precision(table: pd.DataFrame, threshold: float) -> str:
    """How many bfloat16 texts are k=1's, where rounding may decide; "" if none ran. table: `runs`."""
    half = table[(table["k"] > 1) & (table["dtype"] == "bfloat16") & (table["threshold"] == threshold)]
    if half.empty:
        return ""
    return (f"In bfloat16 {half['equal_to_k1'].min()} to {half['equal_to_k1'].max()} of {half['n'].max()} `verify` "
            "texts are those of k=1: a packed forward rounds otherwise. What that does to right answers was not "
            "scored.")
