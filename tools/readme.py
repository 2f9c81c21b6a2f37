"""The README's tables and pictures, from what is published: python -m tools.readme

The first table is the real model's, out of the shipped records; then comes that of `make demo`, and further down the
real model's under each code of the log. The picture of the
verdict is the first figure of the executed notebook, with the sentence under it. Numbers in the README come from
records and from nowhere else; a test compares them with executed/published/.
"""

from __future__ import annotations

import base64
import itertools
from dataclasses import replace
from typing import Any

import nbformat
import pandas as pd

from fastdllm import prior_results, stats
from fastdllm.display.tables import Html
from fastdllm.investigation.collapse import phase6, real_model, verdict_real_model
from fastdllm.lab import atomic
from fastdllm.lab.config import grid_file
from fastdllm.lab.config.paths import root
from fastdllm.model import files as files_of
from fastdllm.model.config import ModelConfig
from fastdllm.report import cost_model, figures, hypotheses, shipped, tables
from fastdllm.report.results import Results

BEGIN, END = "<!-- demo: begin -->", "<!-- demo: end -->"
REAL = ("<!-- real: begin -->", "<!-- real: end -->")
SHOWN = ("<!-- verdict: begin -->", "<!-- verdict: end -->")
OTHER_CODES = ("<!-- codes: begin -->", "<!-- codes: end -->")
CODES = ("26d6179", "6c8822f", "8e18baac")
LATEST = CODES[0]
JANUARY, RUN_2 = "jan_full", "feb16_run2"        # tables of the log
GRID = [(1, ""), *((k, layers) for k in (2, 3) for layers in ("first", "middle", "last"))]
EVERYWHERE = CODES[:2]       # the codes of the table of all benchmarks: reuse as it works, and as it collapses
PICTURE, VERDICT = "docs/images/demo.png", "docs/images/verdict.png"
NOTEBOOK = "executed/published/notebooks/20_verdict/20_verdict.ipynb"


def real_block(records: shipped.ShippedRecords) -> str:
    """The real model's grid beside January's table of the 7B, as published, between its markers."""
    have = real_model.results(records)
    head = "| configuration | small real model | 7B, as published |\n|" + " --- |" * 3
    where = ("*Right answers in % (95 % interval) on GSM8K's test problems. Small real model: SmolLM2-135M made a "
             "block-diffusion model (`smol`), in words, output reuse in the code that works, threshold "
             f"{real_model.THRESHOLD:g}, {real_model.DTYPE}; {shipped.label(at(have, LATEST).frame)} "
             "([a line a problem](executed/published)). 7B: a table of the research log, n = "
             f"{published(JANUARY)['n'].iloc[0]}; it states no intervals. Another model, another level, the same "
             "question.*")
    lines = [f"| {name(k, layers)} | {cell(have, LATEST, k, layers)} | {' / '.join(log_of(JANUARY, k, layers))} |"
             for k, layers in GRID]
    return "\n".join([REAL[0], head, *lines, "", where, *kept(have), REAL[1]])


def codes_block(records: shipped.ShippedRecords, absent: pd.DataFrame) -> str:
    """The same grid under each code of the log, and all other benchmarks, between its markers.

    absent: `shipped.missing`. Cells that did not run say so, and their command stands below.
    """
    have, cells = real_model.results(records), real_model.run_1(records)
    head = ("| configuration | " + " | ".join(f"`{code}`" for code in CODES)
            + " | Run 2, 7B, n = 10 |\n|" + " --- |" * (len(CODES) + 2))
    said = [one.text for one in verdict_real_model.mystery(records, cells) if one.state is not None]
    where = ("*`smol` as in [the first table](#what-reuse-costs), under three commits of the log: right answers in % "
             f"(95 % interval); {shipped.label(have.frame)}. Run 2 is the log's (`f7f4c2c0`), on the 7B.*")
    lines = [f"| {name(k, layers)} | " + " | ".join([*(cell(have, code, k, layers) for code in CODES),
                                                     " / ".join(log_of(RUN_2, k, layers))]) + " |"
             for k, layers in GRID]
    every = real_model.overview(records.where(model="smol", policy="output"))
    every = every.loc[every["code"].isin(EVERYWHERE), :]
    return "\n".join([OTHER_CODES[0], head, *lines, "", where, "", *(f"- {text}" for text in said), "",
                      f"Every benchmark of `smol` that ships under {' and '.join(f'`{code}`' for code in EVERYWHERE)}, "
                      "output reuse: right answers in % of n, over the subsets that ran (other codes: "
                      "[executed/published](executed/published)):",
                      "", Html(every).markdown(), "", *failed_hypotheses(records), shipped.not_run(absent),
                      OTHER_CODES[1]])


def failed_hypotheses(records: shipped.ShippedRecords) -> list[str]:
    """A line and an empty one for each grid of these records whose hypothesis failed."""
    found = [(name, hypotheses.judged(name, records)) for name in hypotheses.DECIDED_BY]
    return [line for name, one in found if one is not None and one.state is False
            for line in (f"`{name}`: \"{' '.join(grid_file.load(name).hypothesis.split())}\" {one}", "")]


def name(k: int, layers: str) -> str:
    """A configuration of the grid; k=1 is one run under three names."""
    return f"k{k} {layers}".rstrip()


def cell(have: phase6.Phase6Results, code: str, k: int, layers: str) -> str:
    """Right answers of the real model in a configuration, or that it did not run."""
    return real_model.accuracy_text(real_model.measured(have, {"revision": code, "k": k, "layers": layers}))


def log_of(batch: str, k: int, layers: str) -> list[str]:
    """Right answers in %, as a table of the log has them; several where it has several of k=1."""
    rows = published(batch).query("k == @k and (k == 1 or layers == @layers)")
    return list(dict.fromkeys(f"{100 * value:.1f}" for value in rows["accuracy"]))


def published(batch: str) -> pd.DataFrame:
    """A table of the log on GSM8K."""
    return prior_results.results().query("task == 'gsm8k' and batch == @batch")


def at(have: phase6.Phase6Results, code: str) -> phase6.Phase6Results:
    """The results of one code."""
    return replace(have, frame=have.frame[have.frame["revision"] == code])


def kept(have: phase6.Phase6Results) -> list[str]:
    """What reuse leaves of k=1's right answers, as a sentence; nothing where too little ran."""
    base = real_model.measured(have, {"revision": LATEST, "k": 1, "layers": ""})
    reusing = have.reusing(LATEST)
    if not base["path"] or reusing.empty:
        return []
    shares = [f"{stats.least_to_most(round(100 * rows['correct'] / base['correct']))} % as many at k={k}"
              for k, rows in reusing.groupby("k")]
    return ["", f"k=1 has {base['correct']:.0f} right answers of {base['n']:.0f}; reuse has {' and '.join(shares)}, "
                f"over {', '.join(f'`{layers}`' for layers in reusing['layers'].unique())}."]


def line(row: dict[Any, Any], base: float) -> str:
    """Configurations of one computation as a line of the table; `base`: the forwards of k=1."""
    interval = f"{row['accuracy']:.1%} ({stats.span(row['low'], row['high'], '.1%')})"
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


def verdict_figure() -> tuple[bytes, str, str]:
    """The first figure of the published verdict: PNG, text for those who don't see it, and the sentence under it.

    Raises ValueError if it has none.
    """
    for cell in nbformat.read(root() / NOTEBOOK, as_version=4).cells:
        outputs = cell.get("outputs", [])
        for output, below in itertools.zip_longest(outputs, outputs[1:], fillvalue={}):
            if "image/png" in output.get("data", {}):
                alt = output.get("metadata", {}).get("image/png", {}).get("alt", "The first figure of the verdict")
                caption = below.get("data", {}).get("text/markdown", "")
                return base64.b64decode(output["data"]["image/png"]), alt, caption
    raise ValueError(f"{NOTEBOOK}: no figure in it; allowed: after `make notebooks` and `make publish`")


def verdict_block() -> str:
    """The verdict's figure with its sentence, between its markers."""
    _, alt, below = verdict_figure()
    return "\n".join([SHOWN[0], f"![{alt}]({VERDICT})", *(["", " ".join(below.split())] if below else []), SHOWN[1]])


def between(text: str, markers: tuple[str, str], block: str) -> str:
    """The text with this block in the place of what stands between the markers. Raises ValueError without them."""
    begin, end = (text.find(marker) for marker in markers)
    if not 0 <= begin < end:
        raise ValueError(f"README.md: no {' ... '.join(markers)}; allowed: both, in this order")
    return text[:begin] + block + text[end + len(markers[1]):]


def refresh() -> None:
    """Rewrite the blocks and the pictures. Raises ValueError unless all of the demo grid is complete."""
    results = Results.of(grid_file.load("demo"))
    if results.missing:
        raise ValueError(f"demo: {len(results.missing)} configurations are not complete; allowed: after `make demo`")
    table, readme = tables.grid_table(results), root() / "README.md"
    device = f"{results.records[0].environment.device_name}"
    text = readme.read_text(encoding="utf-8")
    records = shipped.read()
    made = between(text, (BEGIN, END), block(table, device))
    made = between(made, REAL, real_block(records))
    made = between(made, OTHER_CODES, codes_block(records, shipped.missing(records)))
    made = between(made, SHOWN, verdict_block())
    drawn = figures.grid_figure(alike(table), "Skipping 12 of 28 layers on the embedded checkpoint")
    drawn.savefig(root() / PICTURE, dpi=110)
    (root() / VERDICT).write_bytes(verdict_figure()[0])
    atomic.write(readme, made)


if __name__ == "__main__":
    refresh()
