"""Throughput, taken apart: what a forward costs, what reuse can save at most, and what happened in January."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportReturnType=false

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import fastdllm
from fastdllm import Decoding, Reuse
from fastdllm.lab.gridfile import root
from fastdllm.report import costs, published
from fastdllm.report.pareto import LAYERS, SHAPE_7B
from fastdllm.report.plots import COLORS, GREY, MARKERS, style
from fastdllm.tasks import get

BLUE, ORANGE = "#0072B2", "#E69F00"
SETTINGS = [("k=1", "fixed", Reuse())] + [
    (f"k={k} {policy}", "fixed", Reuse(k=k, layers="middle", policy=policy))
    for policy in ("output", "replay") for k in (2, 3)] + [
    (f"k={k} of January", "8e18baac", Reuse(k=k, layers="middle")) for k in (2, 3)] + [
    ("k=1 of January", "8e18baac", Reuse())]


def measured(path: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Forwards and products measured on a GPU (`benchmarks/results`), with the cost model's prediction in ms."""
    report = json.loads((Path(path) if Path(path).is_absolute() else root() / path).read_text(encoding="utf-8"))
    forwards, products = pd.DataFrame(report["forwards"]), pd.DataFrame(report["products"])
    card = costs.Card(report["device"], report["copy_bandwidth"], costs.H200.flops, costs.H200.kernel_seconds, 0.0)
    forwards["predicted_ms"] = [
        1e3 * costs.forward_seconds(card, SHAPE_7B, layers=row.layers, rows=row.batch,
                                    width=8 if row.kind == "small" else 32, read=1 if row.kind == "commit" else 8)
        for row in forwards.itertuples()]
    forwards["positions"] = forwards["batch"] * np.where(forwards["kind"] == "small", 8, 32)
    forwards.attrs = products.attrs = {"device": report["device"], "date": report["date"],
                                       "copy": report["copy_bandwidth"],
                                       "missing": list(report.get("not_measured", []))}
    return forwards, products


def mixes(problems: int, threshold: float, model: str = "tiny") -> pd.DataFrame:
    """Forwards by kind that `problems` held-out problems need here, for k = 1, 2, 3 and January's code, and the
    predicted time of the same forwards at the 7B shape. January's skipped layers ran: they save nothing there.
    """
    lm = fastdllm.load(model)
    prompts = [problem.prompt for problem in get("arithmetic").problems(problems)]
    rows = []
    for name, revision, reuse in SETTINGS:
        out = fastdllm.generate(lm, prompts, decoding=Decoding(threshold=threshold, max_new_tokens=128), reuse=reuse,
                                revision=revision, batch_size=16)
        total = {kind: sum(row[kind] for row in out.nfe) for kind in out.nfe[0]}
        calls = sum(row.decisions["reuse"] for row in out.rows)
        saved = calls / LAYERS if revision == "fixed" and reuse.policy != "replay" else 0.0
        mix = costs.Mix(total["full"], total["small"], total["commit"] + total["prefill"], reused_small=saved)
        tokens = sum(map(len, out.tokens))
        rows.append({"run": name, "tokens": tokens, **total, "layer calls reused": calls,
                     "reused_share": (saved or total["replay"]) / max(1, sum(total.values())),
                     "h200": costs.run_seconds(costs.H200, SHAPE_7B, mix) + total["replay"] * 0.05e-3,
                     "rtx": costs.run_seconds(costs.RTX_6000, SHAPE_7B, mix) + total["replay"] * 0.05e-3})
    table = pd.DataFrame(rows)
    for card in ("h200", "rtx"):
        table[f"{card}_speed"] = table["tokens"] / table[card]
    table.attrs = {"problems": problems, "threshold": threshold}
    return table


def january() -> pd.DataFrame:
    """January's nine GSM8K cells with their node, and the ratio to k=1 on the same node where there is one."""
    table = published.results()
    table = table[(table["batch"] == "jan_full") & (table["task"] == "gsm8k")].reset_index(drop=True)
    base = table[table["k"] == 1].set_index("node")["tokens_per_s"]
    table["ratio"] = table["tokens_per_s"] / table["node"].map(base)
    return table


def roofline(forwards: pd.DataFrame, products: pd.DataFrame) -> Figure:
    """Attained TFLOP/s against FLOPs per byte: forwards and single products under the card's two ceilings."""
    drawn, axis = plt.subplots(figsize=(7.5, 4.4), layout="constrained")
    bandwidth = forwards.attrs["copy"]
    x = np.logspace(0.5, 3.2, 50)
    axis.plot(x, np.minimum(x * bandwidth, costs.H200.flops) / 1e12, color=GREY,
              label=f"copy bandwidth {bandwidth / 1e12:.2f} TB/s, {costs.H200.flops / 1e12:.0f} TFLOP/s")
    for kind, color, marker in (("small", BLUE, "o"), ("full", ORANGE, "s"), ("commit", "#009E73", "^")):
        part = forwards[forwards["kind"] == kind]
        flops = np.array([costs.forward_flops(SHAPE_7B, r.layers, r.positions, 8 * r.batch) for r in part.itertuples()])
        axis.scatter(flops / part["bytes"], flops / part["ms"] / 1e9, color=color, marker=marker, zorder=3,
                     label=f"{kind} forward")
    time = products[["cublas_us", "kernel_us"]].min(axis=1)
    work = products["bytes"] * products["rows"]          # 2 FLOPs a weight of 2 bytes and row
    axis.scatter(work / products["bytes"], work / time / 1e6, color="none", edgecolor=GREY, label="single products")
    axis.set(xscale="log", yscale="log", xlabel="FLOPs per byte read", ylabel="TFLOP/s")
    axis.legend(frameon=False, fontsize=8.5)
    style(axis).grid(axis="y", color="#dddddd", linewidth=0.7)
    return drawn


def anatomy(forwards: pd.DataFrame) -> pd.DataFrame:
    """Measured forwards as text, beside the bytes' own time and the prediction."""
    floor = 1e3 * forwards["bytes"] / forwards.attrs["copy"]
    return pd.DataFrame({
        "forward": forwards["kind"], "layers": forwards["layers"], "batch": forwards["batch"],
        "GB read": (forwards["bytes"] / 1e9).map("{:.2f}".format), "bytes alone, ms": floor.map("{:.2f}".format),
        "measured, ms": forwards["ms"].map("{:.2f}".format),
        "share of copy": forwards["share_of_copy"].map("{:.0%}".format),
        "predicted, ms": forwards["predicted_ms"].map("{:.2f}".format),
        "off by": (forwards["predicted_ms"] / forwards["ms"] - 1).map("{:+.0%}".format)})


def ceilings(table: pd.DataFrame) -> Figure:
    """Largest possible speed-up against the share of forwards that reuse 12 of 28 layers, and where the runs lie."""
    drawn, axis = plt.subplots(figsize=(7, 3.8), layout="constrained")
    share = np.linspace(0, 0.7, 50)
    axis.plot(share, [costs.ceiling(SHAPE_7B, value) for value in share], color=GREY,
              label="12 of 28 layers skipped: only bytes count")
    axis.plot(share, 1 / (1 - share), color=GREY, linestyle="--", label="whole forward skipped (replay)")
    base = table.loc[table["run"] == "k=1", "h200_speed"].iloc[0]
    reused = (table["layer calls reused"] + table["replay"] > 0) & ~table["run"].str.contains("January")
    for row in table[reused].itertuples():
        axis.scatter(row.reused_share, row.h200_speed / base, color=BLUE if "output" in row.run else ORANGE, zorder=3)
        axis.annotate(row.run, (row.reused_share, row.h200_speed / base), xytext=(6, -10), textcoords="offset points",
                      fontsize=8.5)
    axis.axhline(1, color=GREY, linewidth=0.7)
    axis.set(xlabel="share of forwards that reuse", ylabel="speed-up in tokens/s", ylim=(0.85, 2.0))
    axis.legend(frameon=False, fontsize=8.5)
    style(axis)
    return drawn


def predictions(table: pd.DataFrame) -> pd.DataFrame:
    """The mixes as text, with predicted tokens/s."""
    base = table[table["run"] == "k=1"].iloc[0]
    return pd.DataFrame({
        "run": table["run"], "tokens": table["tokens"], "full": table["full"], "small": table["small"],
        "commit": table["commit"], "replayed": table["replay"], "layer calls reused": table["layer calls reused"],
        "H200 tokens/s": table["h200_speed"].map("{:.0f}".format),
        "against k=1": (table["h200_speed"] / base["h200_speed"]).map("{:.2f}x".format),
        "RTX 6000 tokens/s": table["rtx_speed"].map("{:.0f}".format)})


def january_figure(table: pd.DataFrame) -> Figure:
    """January's tokens/s by node: what was compared with what."""
    drawn, axis = plt.subplots(figsize=(7.5, 3.6), layout="constrained")
    nodes = sorted(table["node"].unique())
    for row in table.itertuples():
        at = nodes.index(row.node) + {1: -0.2, 2: 0.0, 3: 0.2}[row.k]
        axis.scatter(at, row.tokens_per_s, color=COLORS[row.layers], marker=MARKERS[row.layers], zorder=3)
        axis.annotate(f"k{row.k}", (at, row.tokens_per_s), xytext=(6, -3), textcoords="offset points", fontsize=8)
    for layers in ("first", "middle", "last"):
        axis.scatter([], [], color=COLORS[layers], marker=MARKERS[layers], label=layers)
    axis.set_xticks(range(len(nodes)), nodes)
    axis.set(ylabel="tokens/s (GSM8K, 1319 problems)", ylim=(0, 1.15 * table["tokens_per_s"].max()),
             xlim=(-0.5, len(nodes) - 0.5))
    axis.legend(frameon=False, loc="lower left")
    style(axis).grid(axis="y", color="#dddddd", linewidth=0.7)
    return drawn


def verdict(forwards: pd.DataFrame, table: pd.DataFrame, cells: pd.DataFrame) -> str:
    """What the figures say; Markdown."""
    rows = table.set_index("run")
    one = forwards[(forwards["batch"] == 1) & (forwards["layers"] == 28)].groupby("kind")["share_of_copy"].mean()
    off = (forwards["predicted_ms"] / forwards["ms"] - 1).abs()
    single = off[forwards["batch"] == 1].max()

    def speed(run: str) -> float:
        return rows.loc[run, "h200_speed"] / rows.loc["k=1", "h200_speed"]

    def forwards_per_token(run: str) -> float:
        return rows.loc[run, ["full", "small"]].sum() / rows.loc[run, "tokens"]
    same = cells.loc[(cells["k"] > 1) & cells["ratio"].notna(), "ratio"]
    first = cells.loc[cells["k"] == 1, "tokens_per_s"]
    missing = f" Not measured there: {', '.join(forwards.attrs['missing'])}." if forwards.attrs["missing"] else ""
    return (
        f"**Time of a token.** On the {forwards.attrs['device']} a forward of the 7B shape at batch 1 runs at "
        f"{one['full']:.0%} (full) and {one['small']:.0%} (small) of the copy bandwidth: it costs little more than "
        f"reading the weights. The cost model, one constant of it fitted to such forwards, is off by {single:.0%} at "
        f"most at batch 1 and by {off.max():.0%} in batches; the host's {1e3 * costs.H200.host_seconds:g} ms a step "
        f"are assumed.{missing}\n\n"
        f"**Ceiling.** 12 of 28 layers are {1 - 1 / costs.ceiling(SHAPE_7B, 1.0):.1%} of a forward's bytes. At the "
        f"mix measured here (n = {table.attrs['problems']}, threshold {table.attrs['threshold']:g}) the prediction "
        f"is {speed('k=2 output'):.2f}x for k=2 and {speed('k=3 output'):.2f}x for k=3 with `output`, "
        f"{speed('k=2 replay'):.2f}x and {speed('k=3 replay'):.2f}x with `replay`.\n\n"
        f"**January.** On the same node k>1 ran at {same.min():.2f} to {same.max():.2f} times k=1's tokens/s. In that "
        f"code the skipped layers ran all the same, so no time could be saved, and what the wrappers added is lost; "
        f"the number of forwards hardly changed, here {forwards_per_token('k=2 of January'):.2f} per token at k=2 "
        f"against {forwards_per_token('k=1 of January'):.2f} at k=1. Each k>1 stood on one node, and k=1's own three "
        f"cells, the same computation, span {first.min():.1f} to {first.max():.1f} tokens/s: how much of the rest is "
        "the node can't be told from nine runs.")
