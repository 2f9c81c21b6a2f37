"""Autoregressive decoding as `benchmarks/bench_autoregressive.py` measured it: what 2.54x would have to beat."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportReturnType=false

from __future__ import annotations

import pandas as pd

from fastdllm import prior_results
from fastdllm.lab import atomic
from fastdllm.lab.config.paths import look_up

COLUMNS = ("implementation", "batch", "ms_per_token", "tokens_per_second", "share_of_bound", "device", "dtype", "shape")
MISSING = "not measured"


def read(path: str) -> pd.DataFrame:
    """One row per measurement (columns `COLUMNS`, NaN where one was left out); none if there is no such file."""
    file = look_up(path)
    return pd.DataFrame(atomic.json_lines(file) if file else []).reindex(columns=list(COLUMNS))


def claimed() -> float:
    """The published speed-up over Qwen2.5-7B."""
    return float(prior_results.claims("claim").set_index("id").loc["claim_throughput", "value"])


def needed(measured: pd.DataFrame, runs: pd.DataFrame, device: str, batch: int) -> float:
    """Tokens a forward with which block diffusion reaches the claimed speed-up over the fastest autoregressive decoding
    at the same batch on the same card; NaN where one of the two is not measured.

    `runs` (gpu_measurements.runs) made one token a forward; at f tokens a forward it would make f times as many.
    """
    alike = measured[(measured["batch"] == batch) & (measured["device"] == device) & (measured["shape"] == "7B")]
    ours = runs[(runs["executor"] == "fast") & (runs["k"] == 1) & (runs["batch"] == batch)]
    return claimed() * alike["tokens_per_second"].max() / ours["tokens_per_second"].max()      # of nothing: NaN


def as_text(measured: pd.DataFrame, runs: pd.DataFrame, device: str) -> pd.DataFrame:
    """The measurements as text, batch by batch, beside what block diffusion would need where that was measured."""
    if measured.empty:
        return pd.DataFrame([{"decoding": "autoregressive", "tokens/s": MISSING}])
    rows, several = [], len(set(measured["device"])) > 1
    for row in measured.sort_values(["batch", "implementation"]).to_dict("records"):
        known = row["tokens_per_second"] == row["tokens_per_second"]
        factor = needed(measured, runs, device, row["batch"])
        rows.append({
            "decoding": row["implementation"], "batch": row["batch"],
            "ms a token": f"{row['ms_per_token']:.2f}" if known else MISSING,
            "tokens/s": f"{row['tokens_per_second']:.0f}" if known else MISSING,
            "of the bound": f"{row['share_of_bound']:.0%}" if known else MISSING,
            **({"on": row["device"]} if several else {}),
            f"tokens a forward for {claimed():g}x": f"{factor:.2f}" if factor == factor else MISSING})
    table, needs = pd.DataFrame(rows), f"tokens a forward for {claimed():g}x"
    return table.drop(columns=needs) if set(table[needs]) == {MISSING} else table


def caption(measured: pd.DataFrame, table: pd.DataFrame) -> str:
    """Of `as_text`, which is `table`: what its columns are, as far as it has them."""
    on = set(measured["device"]) if len(measured) else set()
    needed_too = any(name.startswith("tokens a forward") for name in table)
    what = (f"; {claimed():g}x: how many tokens a forward block diffusion must unmask to be so many times as fast as "
            "the fastest of them at the same batch") if needed_too else ""
    return ("Autoregressive decoding of the same shape, greedy, by our engine and by transformers' generate"
            f"{f', on an {on.pop()}' if len(on) == 1 else ''}{what}")
