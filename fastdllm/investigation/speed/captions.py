"""The sentence under each figure of the speed notebooks: what to see, with the numbers of this figure."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import pandas as pd

from fastdllm.display.claim import RunLabel
from fastdllm.investigation.speed import batching
from fastdllm.report import cost_model
from fastdllm.report.cost_model import SHAPE_7B


def front(rows: pd.DataFrame) -> str:
    """Of `pareto.figure`."""
    reuse = rows[(rows["k"] > 1) & (rows["policy"] != "verify")]
    fastest = rows.loc[rows["speedup"].idxmax()]
    above, sure = int((reuse["gain"] > 0).sum()), int(((reuse["gain"] > 0) & (reuse["gain_holm"] < 0.05)).sum())
    return ("A line a configuration, the fastest below. Grey is no reuse at a threshold, what reuse has to beat; "
            f"filled is what no other beats in both. Fastest: `{fastest['config']}`, {fastest['speedup']:.2f}x. "
            f"{above} of {len(reuse)} lossy configurations score above the best plain threshold as fast, {sure} of "
            f"them surely (Holm). `verify` is k=1 at its threshold, faster. Of {RunLabel.of(rows)}.")


def thresholds(table: pd.DataFrame) -> str:
    """Of `sweeps.threshold_figure`."""
    low, high = table.iloc[0], table.iloc[-1]
    return (f"From threshold {high['threshold']:g} down to {low['threshold']:g} a forward yields "
            f"{high['tokens_per_forward']:.2f} and then {low['tokens_per_forward']:.2f} tokens, and accuracy goes from "
            f"{high['accuracy']:.1%} to {low['accuracy']:.1%}. Filled points and dark bars are on the front: no other "
            f"has both more. Of {RunLabel.of(table)}.")


def threshold_table(table: pd.DataFrame) -> str:
    """Of `sweeps.threshold_as_text`."""
    return ("Points lost: against the highest threshold, with a 95 % interval, paired over the same problems. "
            "Predicted speed-up: tokens/s over those of the highest threshold that the cost model gives the counted "
            f"forwards at {cost_model.SHAPE}. Each threshold ran once on {table['device_name'].iloc[0]}: no clock's "
            "figure stands here.")


def batches(table: pd.DataFrame) -> str:
    """Of `batching.figure`."""
    plain, drafting = table[table["way"] == batching.PLAIN], table[table["policy"] == "verify"]
    first, last = plain.iloc[0], plain.iloc[-1]
    saving = drafting.loc[drafting["forwards_run"] < drafting["nfe"], "batch_size"]
    drafts = f" Drafts of `verify` save forwards up to batch {saving.max()}." if len(saving) else ""
    if batching.repeated(table):
        speed = (f"k=1 from batch {first['batch_size']} to {last['batch_size']}: {first['tokens_per_second']:.0f} and "
                 f"{last['tokens_per_second']:.0f} tokens/s, means of {table['runs'].min()} runs or more.")
    else:
        speed = (f"Speed-ups are those that the cost model gives the forwards at {cost_model.SHAPE}: each "
                 "configuration ran once, so its clock can't tell. Seconds and memory are of that one run.")
    return f"{speed}{drafts} Of {RunLabel.of(table)}."


def roofline(forwards: pd.DataFrame) -> str:
    """Of `gpu_measurements.roofline`."""
    one = forwards[forwards["batch"] == 1]["share_of_copy"]
    return (f"The grey roof is what the card can do; on its slope only bytes count. Forwards at batch 1 reach "
            f"{one.min():.0%} to {one.max():.0%} of the bandwidth there.")


def ceilings(mixes: pd.DataFrame) -> str:
    """Of `throughput.ceilings`."""
    return (f"If every forward skipped 12 of 28 layers, {cost_model.ceiling(SHAPE_7B, 1.0):.2f}x would be the most; at "
            f"half of them {cost_model.ceiling(SHAPE_7B, 0.5):.2f}x. The largest share here is "
            f"{mixes['reused_share'].max():.0%}. Dots below their line pay for forwards that other tokens need.")


def january(configurations: pd.DataFrame) -> str:
    """Of `throughput.january_figure`."""
    one = configurations.loc[configurations["k"] == 1, "tokens_per_s"]
    return (f"Compare within a node only: the three k=1 rows are one computation and span {one.min():.1f} to "
            f"{one.max():.1f} tokens/s.")
