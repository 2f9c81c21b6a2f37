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
from fastdllm.report import figures, tables
from fastdllm.report.results import Results

BEGIN, END = "<!-- demo: begin -->", "<!-- demo: end -->"
PICTURE, VERDICT = "docs/images/demo.png", "docs/images/verdict.png"
NOTEBOOK = "executed/published/notebooks/20_verdict/20_verdict.ipynb"


def line(row: dict[Any, Any]) -> str:
    """One configuration as a line of the table."""
    interval = f"{row['accuracy']:.1%} ({row['low']:.1%} to {row['high']:.1%})"
    speed = f"{row['tokens_per_second']:.0f}" + ("" if row["k"] == 1 else f" ({row['speedup']:.2f}x)")
    return f"| {row['config']} | {interval} | {speed} | {row['nfe']:.0f} | {row['tokens_per_forward']:.2f} |"


def block(table: pd.DataFrame, device: str) -> str:
    """The text between the markers."""
    head = (f"| configuration | accuracy (95 % interval, n = {int(table['n'].iloc[0])}) | tokens/s (against k1) | "
            "forwards | tokens per forward |\n| --- | --- | --- | --- | --- |")
    where = (
        f"*Embedded checkpoint, task `arithmetic`, batch {int(table['batch_size'].iloc[0])}, {device}, one "
        "configuration at a time. k1 is one run under three names.*"
    )
    picture = f"![Accuracy and tokens/s of the 3x3 grid]({PICTURE})\n"
    return "\n".join([BEGIN, picture, head, *(line(row) for row in table.to_dict("records")), "", where, "",
                      sentence(table), END])


def sentence(table: pd.DataFrame) -> str:
    """What the table says of the criterion that the grid was made for."""
    reused = table[table["k"] > 1]
    lost = 100 * (table.loc[table["k"] == 1, "accuracy"].iloc[0] - reused["accuracy"])
    alike = reused.groupby("k")[["accuracy", "nfe", "tokens"]].nunique().to_numpy().max() == 1
    subsets = " For each k the three subsets have the same accuracy, tokens and forwards." if alike else ""
    layers = ModelConfig.from_file(files_of.find("tiny") / "config.json").num_hidden_layers
    calls = (layers * table["nfe"] - table["reuse"]).groupby(table["k"]).first()
    saved = ", ".join(f"{1 - calls[k] / calls[1]:.1%} at k={k}" for k in calls.index if k > 1)
    return (f"Reuse loses {lost.min():.1f} to {lost.max():.1f} points and runs at {reused['speedup'].min():.2f}x to "
            f"{reused['speedup'].max():.2f}x; worth having would be more than 1.2x at fewer than 5 points.{subsets} "
            "Little can be gained: full forwards never reuse, and other tokens take more forwards; what is saved of "
            f"all layer calls is {saved}.")


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
    figures.grid_figure(table, "Skipping 12 of 28 layers on the embedded checkpoint").savefig(root() / PICTURE, dpi=110)
    (root() / VERDICT).write_bytes(verdict_picture())
    atomic.write(readme, made)


if __name__ == "__main__":
    refresh()
