"""The README's table and pictures, from what is published: python -m tools.readme

The table is that of `make demo`, the picture of the verdict the first figure of the executed notebook.
Numbers in the README come from records and from nowhere else; a test compares them with executed/published/.
"""

from __future__ import annotations

import base64
import re
from typing import Any

import nbformat
import pandas as pd

from fastdllm.lab import atomic
from fastdllm.lab.config import grid_file
from fastdllm.lab.config.paths import root
from fastdllm.model import files as files_of
from fastdllm.model.config import ModelConfig
from fastdllm.report import cost_model, figures, tables
from fastdllm.report.results import Results

BEGIN, END = "<!-- demo: begin -->", "<!-- demo: end -->"
PICTURE, VERDICT = "docs/images/demo.png", "docs/images/verdict.png"
NOTEBOOK = "executed/published/notebooks/20_verdict/20_verdict.ipynb"


def line(row: dict[Any, Any], base: float) -> str:
    """Configurations of one computation as a line of the table; `base`: the forwards of k=1."""
    interval = f"{row['accuracy']:.1%} ({row['low']:.1%} to {row['high']:.1%})"
    forwards = f"{row['nfe']:.0f}" + ("" if row["k"] == 1 else f" ({row['nfe'] / base - 1:+.0%})")
    speed = "1" if row["k"] == 1 else f"{row['speedup']:.2f}x"
    return f"| {row['name']} | {interval} | {forwards} | {row['tokens_per_forward']:.2f} | {speed} |"


def block(table: pd.DataFrame, device: str) -> str:
    """The text between the markers."""
    n, rows = int(table["n"].iloc[0]), figures.merged(alike(table), "computation")
    head = (f"| configuration | accuracy (95 % interval, n = {n}) | forwards (against k1) | tokens per forward | "
            "predicted speed-up |\n| --- | --- | --- | --- | --- |")
    where = (f"*Embedded checkpoint, task `arithmetic`, rule `{table['metric'].iloc[0]}`, n = {n} problems, {device}. "
             f"Speed-up: tokens/s against k1 that the cost model gives these forwards at {cost_model.SHAPE}; the clock "
             "of a shared CPU can't tell, and no clock's figure stands here.*")
    picture = f"![Accuracy and forwards of the 3x3 grid]({PICTURE})\n"
    base = float(table.loc[table["k"] == 1, "nfe"].iloc[0])
    return "\n".join([BEGIN, picture, head, *(line(row, base) for row in rows.to_dict("records")), "", where, "",
                      sentence(table), END])


def alike(table: pd.DataFrame) -> pd.DataFrame:
    """The table with one name in `computation` for configurations with the same k, answers right, tokens, forwards."""
    return table.assign(computation=table[["k", "correct", "tokens", "nfe"]].astype(int).agg(tuple, axis=1).map(str))


def sentence(table: pd.DataFrame) -> str:
    """What the table says of the criterion that the grid was made for."""
    reused = table[table["k"] > 1]
    lost = 100 * (table.loc[table["k"] == 1, "accuracy"].iloc[0] - reused["accuracy"])
    one = reused.groupby("k")[["accuracy", "nfe", "tokens"]].nunique().to_numpy().max() == 1
    subsets = " For each k the three subsets have the same accuracy, tokens and forwards." if one else ""
    layers = ModelConfig.from_file(files_of.find("tiny") / "config.json").num_hidden_layers
    calls = (layers * table["nfe"] - table["reuse"]).groupby(table["k"]).first()
    saved = ", ".join(f"{1 - calls[k] / calls[1]:.1%} at k={k}" for k in calls.index if k > 1)
    speeds = " to ".join(dict.fromkeys(f"{value:.2f}x" for value in (reused["speedup"].min(), reused["speedup"].max())))
    return (f"Reuse loses {lost.min():.1f} to {lost.max():.1f} points for a predicted {speeds}; worth having would be "
            f"more than 1.2x at fewer than 5 points.{subsets} Little can be gained: full forwards never reuse, and "
            f"other tokens take more forwards; what is saved of all layer calls is {saved}.")


def verdict_picture() -> bytes:
    """The first figure of the published verdict, as PNG. Raises ValueError if it has none."""
    for cell in nbformat.read(root() / NOTEBOOK, as_version=4).cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                return base64.b64decode(output.data["image/png"])
    raise ValueError(f"{NOTEBOOK}: no figure in it; allowed: after `make notebooks` and `make publish`")


def refresh() -> None:
    """Rewrite the block and the pictures. Raises ValueError unless all configurations of the demo grid are complete."""
    results = Results.of(grid_file.load("demo"))
    if results.missing:
        raise ValueError(f"demo: {len(results.missing)} configurations are not complete; allowed: after `make demo`")
    table, readme = tables.grid_table(results), root() / "README.md"
    device = f"{results.records[0].environment.device_name}"
    text = readme.read_text(encoding="utf-8")
    made = re.sub(f"{BEGIN}.*?{END}", lambda _: block(table, device), text, flags=re.DOTALL)
    drawn = figures.grid_figure(alike(table), "Skipping 12 of 28 layers on the embedded checkpoint")
    drawn.savefig(root() / PICTURE, dpi=110)
    (root() / VERDICT).write_bytes(verdict_picture())
    atomic.write(readme, made)


if __name__ == "__main__":
    refresh()
