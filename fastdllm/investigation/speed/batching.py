"""Ways to decode over batch sizes: k=1, reuse and verify, each against k=1 at the same batch size. Table and figure.

Tokens/s stand here where each configuration ran REPEATS times or more, with an interval. A clock that was read once
can't tell an effect from noise: there the speed is forwards and what the cost model gives them.
"""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import math
from itertools import cycle
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastdllm import stats
from fastdllm.display.figures import BLUE, GREY, ORANGE, styled
from fastdllm.display.tables import REPEATS, interval_text
from fastdllm.investigation.speed import sweeps
from fastdllm.lab import records
from fastdllm.report import cost_model, tables
from fastdllm.report.results import Results

PLAIN = "k=1"
STYLES = ((ORANGE, "s", ":"), ("#D55E00", "^", "--"), ("#009E73", "D", "-."), ("#CC79A7", "v", "-"))


def table(results: Results) -> pd.DataFrame:
    """One row a way (`PLAIN`, "k=2 output middle", "k=3 verify") and batch size, ascending.

    The columns of `grid_table` (speedup: over k=1 at the same batch size, NaN if that was not run; speed_from), and
    ratio, ratio_low, ratio_high: tokens/s over those of the way's smallest batch, with intervals that hold for all
    together (NaN without repeats of both); tokens_per_second: the mean of the runs; seconds per answer (latency: mean,
    latency_95: 95th percentile; queueing not included); peak memory [bytes] and whose; equal: answers that are those of
    the way's smallest batch.

    Raises ValueError for a grid of several tasks, or a record whose samples are not kept.
    """
    sweeps.one_task(results)
    every = tables.grid_table(results)
    every["way"] = [way(row) for row in every.to_dict("records")]
    clocks = every.groupby("run")["tokens_per_second"].agg(list)
    frame = every.drop_duplicates("run").sort_values(["k", "way", "batch_size"], kind="stable").reset_index(drop=True)
    frame["tokens_per_second"] = [np.mean(clocks[run]) for run in frame["run"]]
    by_folder = {str(state.configuration.directory): record for state, record in results.recorded}
    texts: dict[str, list[str]] = {}
    for i, (folder, name) in enumerate(zip(frame["folder"], frame["way"], strict=True)):
        mine, notes = results.outcomes[folder], by_folder[folder].notes
        if mine is None:
            raise ValueError(f"{folder}: no samples are kept here; allowed: records with their samples")
        own = list(records.samples(Path(folder))["output"])
        frame.loc[i, ["latency", "latency_95"]] = [mine.seconds.mean(), np.quantile(mine.seconds, 0.95)]
        frame.loc[i, "memory"] = notes.get("peak_memory_bytes", np.nan)
        frame.loc[i, "equal"] = sum(a == b for a, b in zip(own, texts.setdefault(name, own), strict=True))
    frame["memory_of"] = [by_folder[folder].notes.get("peak_memory_of", "") for folder in frame["folder"]]
    smallest = frame.groupby("way")["run"].transform("first")
    level = stats.simultaneous(max(1, int((smallest != frame["run"]).sum())))
    frame[["ratio", "ratio_low", "ratio_high"]] = [
        (math.nan,) * 3 if min(len(clocks[base]), len(clocks[own])) < REPEATS else
        stats.repeats_ratio(clocks[base], clocks[own], level) if base != own else (1.0, math.nan, math.nan)
        for base, own in zip(smallest, frame["run"], strict=True)]
    return frame


def repeated(frame: pd.DataFrame) -> bool:
    """Whether each configuration ran often enough for its clock to be a measure. frame: `table`."""
    return bool((frame["runs"] >= REPEATS).all())


def way(row: dict) -> str:
    """What a configuration does, without its batch size."""
    if row["k"] == 1:
        return PLAIN
    return " ".join([f"k={row['k']}", row["policy"], *([] if row["policy"] == "verify" else [row["layers"]])])


@styled
def figure(frame: pd.DataFrame) -> Figure:
    """Tokens/s (without repeats: forwards), the speed-up at equal batch, latency and memory against the batch size.
    frame: `table`.
    """
    drawn, axes = plt.subplots(2, 2, figsize=(9.5, 6.4))
    plain = frame[frame["way"] == PLAIN]
    speeds, ups, seconds, memory = axes.flat
    timed = repeated(frame)
    shown = "tokens_per_second" if timed else "forwards_run"
    speeds.plot(plain["batch_size"], plain[shown], color=BLUE, marker="o", label=PLAIN)
    if timed and len(plain):      # as far as anything was measured: above it stands the legend
        most = frame["tokens_per_second"].max() / plain["tokens_per_second"].iloc[0]
        rows = plain["batch_size"].iloc[0] * np.array([1, min(most, plain["batch_size"].max())])
        speeds.plot(rows, plain["tokens_per_second"].iloc[0] * rows / rows[0], color=GREY, linestyle="--",
                    linewidth=0.9, label="if rows cost nothing")
    others = frame[frame["way"] != PLAIN].groupby("way", sort=False)
    for (name, rows), (color, marker, line) in zip(others, cycle(STYLES), strict=False):      # cycle has no end
        looks = {"color": color, "marker": marker, "linestyle": line}
        speeds.plot(rows["batch_size"], rows[shown], label=name, **looks)
        ups.plot(rows["batch_size"], rows["speedup"], **looks)
    speeds.set(title="tokens/s, mean of the runs" if timed else "forwards run, of all answers",
               ylim=(0, 1.6 * frame[shown].max()))
    speeds.legend(loc="upper left", ncols=2)
    ups.axhline(1, color=GREY, linewidth=0.9)
    ups.set(title=f"{'' if timed else 'predicted '}tokens/s over those of k=1 at this batch size",
            ylim=(0, 1.25 * np.nanmax([1.0, *frame["speedup"]])))
    seconds.plot(plain["batch_size"], plain["latency_95"], color=ORANGE, marker="s", label="k=1, 95th percentile")
    seconds.plot(plain["batch_size"], plain["latency"], color=BLUE, marker="o", label="k=1, mean")
    seconds.set(title="seconds per answer (of one run each)", ylim=(0, 1.45 * np.nanmax([0.01, *plain["latency_95"]])))
    seconds.legend(loc="upper left")
    memory.plot(plain["batch_size"], plain["memory"] / 1e6, color=BLUE, marker="o")
    memory.set(title=f"k=1, peak memory, MB ({frame['memory_of'].iloc[0] or 'not measured'})",
               ylim=(0, 1.2 * np.nanmax([1.0, *plain["memory"] / 1e6])))
    for each in axes.flat:
        _batch_axis(each, sorted(set(frame["batch_size"])), int(frame["n"].max()))
    return drawn


def _batch_axis(axis: Axes, sizes: list[int], n: int) -> None:
    axis.set_xscale("log", base=2)
    axis.set_xticks(sizes, [f"{size}" for size in sizes])
    axis.minorticks_off()
    axis.set_xlabel(f"batch size (n = {n})")


def caption(frame: pd.DataFrame, rule: str) -> str:
    """Of `as_text`; rule: the extraction rule of the accuracies."""
    same = "with the same answers at every batch size" if (frame["equal"] == frame["n"]).all() else \
        "same answers: those that the smallest batch gives too"
    ran, speed = (f"at least {REPEATS} runs", "Tokens/s: their mean, the ratios with 95 % intervals") if repeated(
        frame) else ("one run", f"Predicted: tokens/s that the cost model gives the forwards at {cost_model.SHAPE}; no "
                     "tokens/s of the clock, which read once can't tell an effect from noise")
    return (f"Each row is {ran} on {frame['device_name'].iloc[0]}, n = {frame['n'].max()} problems, rule {rule}; "
            f"{same}. {speed}. Seconds per answer: of one run, from a row's first forward to its last, waiting for a "
            "free row not included. Peak memory is what the run's own process held: resident memory on a CPU, torch's "
            "allocations on a GPU.")


def as_text(frame: pd.DataFrame) -> pd.DataFrame:
    """`table` for people; n is the caption's, and so are the same answers where all are."""
    clock = {"tokens/s": frame["tokens_per_second"].map("{:.0f}".format), "over its smallest batch": [
        interval_text(r.ratio, r.ratio_low, r.ratio_high, 2) for r in frame.itertuples()]} if repeated(frame) else {}
    shown = pd.DataFrame({
        "way": frame["way"], "batch size": frame["batch_size"],
        "forwards run": frame["forwards_run"].map("{:.0f}".format),
        f"{'' if clock else 'predicted '}over k=1 at this batch size": [
            interval_text(r.speedup, r.speed_low if clock else math.nan, r.speed_high if clock else math.nan, 2)
            for r in frame.itertuples()], **clock,
        "seconds per answer (95th percentile)": [f"{mean:.2f} ({most:.2f})" for mean, most in zip(
            frame["latency"], frame["latency_95"], strict=True)],
        "peak memory, MB": (frame["memory"] / 1e6).map("{:.0f}".format),
        "accuracy %": [interval_text(r.accuracy, r.low, r.high, scale=100) for r in frame.itertuples()],
        "same answers": [f"{int(equal)} of {n}" for equal, n in zip(frame["equal"], frame["n"], strict=True)]})
    return shown.drop(columns="same answers") if (frame["equal"] == frame["n"]).all() else shown
