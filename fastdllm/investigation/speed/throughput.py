"""Throughput, taken apart: what a forward costs, what reuse can save at most, and what happened in January."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportReturnType=false

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import fastdllm
from fastdllm import Decoding, Reuse, prior_results
from fastdllm.display import figures as house
from fastdllm.display.figures import BLUE, COLORS, GREY, ORANGE, styled
from fastdllm.display.progress import progress
from fastdllm.report import cost_model
from fastdllm.report.cost_model import LAYERS, SHAPE_7B
from fastdllm.tasks import get

BY_K = {1: "D", 2: "o", 3: "s"}      # markers
SETTINGS = [("k=1", "fixed", Reuse())] + [
    (f"k={k} {policy}", "fixed", Reuse(k=k, layers="middle", policy=policy))
    for policy in ("output", "replay") for k in (2, 3)] + [
    (f"k={k} of January", "8e18baac", Reuse(k=k, layers="middle")) for k in (2, 3)] + [
    ("k=1 of January", "8e18baac", Reuse())]


def mixes(problems: int, threshold: float, model: str = "tiny") -> pd.DataFrame:
    """Forwards by kind that `problems` held-out problems need here, for k = 1, 2, 3 and January's code, and the
    predicted time of the same forwards at the 7B shape. January's skipped layers ran: they save nothing there.
    """
    lm = fastdllm.load(model)
    prompts = [problem.prompt for problem in get("arithmetic").problems(problems)]
    rows = []
    for name, revision, reuse in progress(SETTINGS, "configurations counted"):
        out = fastdllm.generate(lm, prompts, decoding=Decoding(threshold=threshold, max_new_tokens=128), reuse=reuse,
                                revision=revision, batch_size=16)
        total = {kind: sum(row[kind] for row in out.nfe) for kind in out.nfe[0]}
        calls = sum(row.decisions["reuse"] for row in out.rows)
        saved = calls / LAYERS if revision == "fixed" and reuse.policy != "replay" else 0.0
        mix = cost_model.Mix(total["full"], total["small"], total["commit"] + total["prefill"], reused_small=saved)
        replayed = total["replay"] * cost_model.REPLAY_SECONDS
        tokens = sum(map(len, out.tokens))
        rows.append({"run": name, "tokens": tokens, **total, "layer calls reused": calls,
                     "reused_share": (saved or total["replay"]) / max(1, sum(total.values())),
                     "h200": cost_model.run_seconds(cost_model.H200, SHAPE_7B, mix) + replayed,
                     "rtx": cost_model.run_seconds(cost_model.RTX_6000, SHAPE_7B, mix) + replayed})
    table = pd.DataFrame(rows)
    for card in ("h200", "rtx"):
        table[f"{card}_speed"] = table["tokens"] / table[card]
    table.attrs = {"problems": problems, "threshold": threshold}
    return table


def january() -> pd.DataFrame:
    """January's nine GSM8K configurations with their node, and the ratio to k=1 on the same node where there is one."""
    table = prior_results.results()
    table = table[(table["batch"] == "jan_full") & (table["task"] == "gsm8k")].reset_index(drop=True)
    base = table[table["k"] == 1].set_index("node")["tokens_per_s"]
    table["ratio"] = table["tokens_per_s"] / table["node"].map(base)
    return table


@styled
def ceilings(table: pd.DataFrame) -> Figure:
    """Largest possible speed-up against the share of forwards that reuse 12 of 28 layers, and where the runs lie."""
    drawn, axis = plt.subplots(figsize=(7.5, 4.2))
    share = np.linspace(0, 0.7, 50)
    axis.plot(share, [cost_model.ceiling(SHAPE_7B, value) for value in share], color=GREY,
              label="12 of 28 layers skipped: only bytes count")
    axis.plot(share, 1 / (1 - share), color=GREY, linestyle="--", label="whole forward skipped (replay)")
    base = table.loc[table["run"] == "k=1", "h200_speed"].iloc[0]
    reused = (table["layer calls reused"] + table["replay"] > 0) & ~table["run"].str.contains("January")
    for row in table[reused].itertuples():
        axis.plot(row.reused_share, row.h200_speed / base, BY_K[3 if "k=3" in row.run else 2], label=row.run,
                  color=BLUE if "output" in row.run else ORANGE, linestyle="", markersize=7)
    axis.axhline(1, color=GREY, linewidth=0.7)
    axis.set(xlabel="share of forwards that reuse", ylabel="speed-up in tokens/s (predicted, H200)", ylim=(0.85, 2.0))
    drawn.legend(loc="outside lower center", ncols=3)
    return drawn


def predictions(table: pd.DataFrame) -> pd.DataFrame:
    """The mixes as text, with predicted tokens/s."""
    base = table[table["run"] == "k=1"].iloc[0]
    return pd.DataFrame({
        "run": table["run"], "tokens": table["tokens"], "full forwards": table["full"],
        "small forwards": table["small"], "commit forwards": table["commit"], "replayed": table["replay"],
        "layer calls reused": table["layer calls reused"],
        "H200 tokens/s": table["h200_speed"].map("{:.0f}".format),
        "against k=1": (table["h200_speed"] / base["h200_speed"]).map("{:.2f}x".format),
        "RTX 6000 tokens/s": table["rtx_speed"].map("{:.0f}".format)})


@styled
def january_figure(table: pd.DataFrame) -> Figure:
    """January's tokens/s by node: what was compared with what."""
    drawn, axis = plt.subplots(figsize=(7.5, 4))
    nodes = sorted(table["node"].unique())
    beside = {"first": -0.05, "middle": 0.0, "last": 0.05}      # equal speeds stay visible beside each other
    for row in table.itertuples():
        axis.plot(nodes.index(row.node) + beside[row.layers], row.tokens_per_s, BY_K[row.k], color=COLORS[row.layers],
                  markersize=7)
    axis.set_xticks(range(len(nodes)), nodes)
    axis.set(ylabel="tokens/s (GSM8K, n = 1319, one run each)", ylim=(0, 1.15 * table["tokens_per_s"].max()),
             xlim=(-0.5, len(nodes) - 0.5))
    house.keys(drawn, [*((f"k={k}", marker, "#999999") for k, marker in BY_K.items()),
                       *((name, "o", COLORS[name]) for name in beside)])
    return drawn
