"""What `benchmarks/bench_gpu.py` measured on a GPU, beside the cost model's predictions."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportReturnType=false

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from fastdllm import stats
from fastdllm.display.figures import BLUE, GREEN, GREY, ORANGE, styled
from fastdllm.display.tables import interval_text
from fastdllm.lab.config.paths import look_up
from fastdllm.report import cost_model
from fastdllm.report.cost_model import SHAPE_7B

LOOKS = {"small": (BLUE, "o"), "full": (ORANGE, "s"), "commit": (GREEN, "^")}
COLUMNS = ["executor", "network", "variant", "note", "batch", "k", "policy", "full_forwards", "tokens", "seconds",
           "tokens_per_second", "nfe", "reused", "ms_by_kind"]
LOOPS = {"PlainNetwork": "plain loop", "ModulesNetwork": "plain loop on transformers' modules"}
PREFIX = 256          # tokens of the prompt at batch 1


def read(path: str) -> dict[str, Any]:
    """A JSON file; relative paths are the project's, or lead into what the package brings."""
    return json.loads((look_up(path) or Path(path)).read_text(encoding="utf-8"))


def part(path: str, dtype: str) -> tuple[dict[str, Any], cost_model.Card]:
    """What was measured in one dtype, and the card with the bandwidth of that run. Raises ValueError for another."""
    report = read(path)
    by_dtype = {each["dtype"].removeprefix("torch."): each for each in report["dtypes"]}
    if dtype not in by_dtype:
        raise ValueError(f"dtype={dtype!r}; allowed: {', '.join(by_dtype)}")
    card = cost_model.Card(report["device"], by_dtype[dtype]["copy_bandwidth"], cost_model.H200.flops,
                           cost_model.H200.kernel_seconds, cost_model.H200.host_seconds)
    return by_dtype[dtype], card


def forwards(path: str, dtype: str = "bfloat16") -> pd.DataFrame:
    """Captured forwards: kind, layers, batch, ms, bytes, share_of_copy, predicted_ms."""
    measured, card = part(path, dtype)
    table = pd.DataFrame(measured["forwards"])
    table["predicted_ms"] = [
        1e3 * cost_model.forward_seconds(card, SHAPE_7B, layers=row.layers, rows=row.batch,
                                    width=8 if row.kind == "small" else 32, read=1 if row.kind == "commit" else 8)
        for row in table.itertuples()]
    table["positions"] = table["batch"] * np.where(table["kind"] == "small", 8, 32)
    table.attrs = {"device": card.name, "copy": card.bandwidth}
    return table


def runs(path: str, dtype: str = "bfloat16") -> pd.DataFrame:
    """Whole runs, ours and the plain loop's, with their ratio to the plain loop of the same run at the same batch;
    for ours at batch 1 also the time that the cost model predicts from the forwards.
    """
    measured, card = part(path, dtype)
    table = pd.DataFrame(measured["runs"]).reindex(columns=COLUMNS)
    plain = table[(table["network"] == "PlainNetwork") & (table["k"] == 1) & table["note"].isna()]
    base = {batch: rows["tokens_per_second"].iloc[0] for batch, rows in plain.groupby("batch")}
    table["ratio"] = table["tokens_per_second"] / table["batch"].map(base)
    table["predicted"] = [predicted(run, card) if run["executor"] == "fast" and run["batch"] == 1 else None
                          for run in measured["runs"]]
    table["off"] = table["predicted"] / table["seconds"] - 1
    return table


def predicted(run: dict[str, Any], card: cost_model.Card) -> float:
    """Seconds that the cost model gives the forwards of a run at batch 1."""
    nfe, reused = run["nfe"], run["reused"]
    mix = cost_model.Mix(nfe["full"], nfe["small"], nfe["commit"], reused.get("full", 0), reused.get("small", 0))
    prefill = cost_model.forward_seconds(card, SHAPE_7B, rows=PREFIX // 32, read=1, visible=PREFIX) + card.host_seconds
    return (cost_model.run_seconds(card, SHAPE_7B, mix, visible=PREFIX + 32) + nfe["prefill"] * prefill
            + nfe["replay"] * cost_model.REPLAY_SECONDS)


@styled
def roofline(table: pd.DataFrame, products: pd.DataFrame) -> Figure:
    """Attained TFLOP/s against FLOPs per byte: forwards and single products under the card's two ceilings."""
    drawn, axis = plt.subplots(figsize=(7.5, 4.4))
    bandwidth = table.attrs["copy"]
    x = np.logspace(0.5, 3.2, 50)
    axis.plot(x, np.minimum(x * bandwidth, cost_model.H200.flops) / 1e12, color=GREY,
              label=f"copy bandwidth {bandwidth / 1e12:.2f} TB/s, {cost_model.H200.flops / 1e12:.0f} TFLOP/s")
    for kind, (color, marker) in LOOKS.items():
        rows = table[table["kind"] == kind]
        flops = np.array([cost_model.forward_flops(SHAPE_7B, r.layers, r.positions, 8 * r.batch)
                          for r in rows.itertuples()])
        axis.scatter(flops / rows["bytes"], flops / rows["ms"] / 1e9, color=color, marker=marker, zorder=3,
                     label=f"{kind} forward")
    time = products[["cublas_us", "kernel_us"]].min(axis=1)
    work = products["bytes"] * products["rows"]          # 2 FLOPs a weight of 2 bytes and row
    axis.scatter(work / products["bytes"], work / time / 1e6, color="none", edgecolor=GREY, label="single products")
    axis.set(xscale="log", yscale="log", xlabel="FLOPs per byte read", ylabel="TFLOP/s")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(ScalarFormatter())
    axis.yaxis.set_minor_formatter(NullFormatter())
    drawn.legend(loc="outside lower center", ncols=3)
    return drawn


def anatomy(table: pd.DataFrame) -> pd.DataFrame:
    """Measured forwards as text, beside the bytes' own time and the prediction."""
    floor = 1e3 * table["bytes"] / table.attrs["copy"]
    return pd.DataFrame({
        "forward": table["kind"], "layers": table["layers"], "batch": table["batch"],
        "GB read": (table["bytes"] / 1e9).map("{:.2f}".format), "bytes alone, ms": floor.map("{:.2f}".format),
        "measured, ms": table["ms"].map("{:.2f}".format), "share of copy": table["share_of_copy"].map("{:.0%}".format),
        "predicted, ms": table["predicted_ms"].map("{:.2f}".format),
        "off by": (table["predicted_ms"] / table["ms"] - 1).map("{:+.0%}".format)})


def end_to_end(table: pd.DataFrame) -> pd.DataFrame:
    """Measured runs as text. Runs of the plain loop with each forward timed only lend their milliseconds."""
    timed = table["executor"].eq("reference") & table["ms_by_kind"].map(bool)
    lent = {network: rows["ms_by_kind"].iloc[0] for network, rows in table[timed].groupby("network")}
    rows = []
    for run in table[~timed].to_dict("records"):
        ours, alone = run["executor"] != "reference", run["batch"] == 1 and run["k"] == 1
        times: dict[str, float] = run["ms_by_kind"] if ours and run["batch"] == 1 else (
            lent[run["network"]] if alone and not ours else {})
        kinds = [kind for kind in ("full", "small", "commit", "replay") if kind in times]
        policy = f"{run['policy']}{', full forwards too' if run['full_forwards'] else ''}" if ours else (
            "January's code" if run["variant"] == "old" else "output")
        rows.append({
            "loop": f"ours, {run['executor']}" if ours else LOOPS[run["network"]]
            + (", rows of like length together" if isinstance(run["note"], str) else ""),
            "batch": run["batch"], "k": run["k"], "reuse": policy if run["k"] > 1 else "",
            "tokens/s": f"{run['tokens_per_second']:.0f}", "against plain": f"{run['ratio']:.2f}x",
            "predicted tokens/s": f"{run['tokens'] / run['predicted']:.0f}" if run["predicted"] > 0 else "",
            "ms a step": ", ".join(f"{kind} {times[kind]:.2f}" for kind in kinds)})
    return pd.DataFrame(rows)


def dtypes(table: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of the embedded checkpoint on a GPU by dtype, as text with 95 % Wilson intervals."""
    counts = zip(table["correct"], table["n"], strict=True)
    return pd.DataFrame({
        "dtype": table["dtype"], "threshold": table["threshold"], "n": table["n"],
        "accuracy %": [interval_text(right / n, *stats.wilson(right, n), scale=100) for right, n in counts],
        "tokens": table["tokens"], "on": table["gpu"], "checkpoint": table["checkpoint"]})
