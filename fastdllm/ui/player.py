"""The debugger: `explore(run)` plays the denoising beside the layer x step decision map.

The widget works in JupyterLab, Notebook and Voila, and needs no kernel once it is drawn. In a static
page, where widgets are dead, the same content stands as a figure (`strip.figure`) in its place.
"""

from __future__ import annotations

import base64
import html
import io
import math
import uuid
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import pandas as pd
import traitlets
from IPython.display import HTML

from fastdllm.characters import visible
from fastdllm.decode.generate import Output
from fastdllm.display.notebook_html import SIGNS
from fastdllm.lab.records.steps import NFE
from fastdllm.ui.recording import Recording, load

HERE = Path(__file__).parent
DETAILS = ("decision", "reason", "input_shape", "cache_shape", "served_kind", "served_block", "served_small_block",
           "served_step", "served_forward", "replace_position", "slice_start", "slice_stop", "changed")


class Player(anywidget.AnyWidget):
    """Plays one run, or two side by side. Keys: arrows (step, layer), space, Home, End, PageUp, PageDown, d, D."""

    _esm = "\n".join((HERE / name).read_text(encoding="utf-8") for name in ("player_panes.js", "player.js"))
    _css = SIGNS.read_text(encoding="utf-8") + (HERE / "player.css").read_text(encoding="utf-8")
    runs = traitlets.List().tag(sync=True)             # payloads, see `payload`
    step = traitlets.Int(0).tag(sync=True)             # the selected forward
    layer = traitlets.Int(0).tag(sync=True)            # the selected layer
    playing = traitlets.Bool(False).tag(sync=True)
    driver = traitlets.Unicode().tag(sync=True)        # the view that keeps the time while it plays
    rate = traitlets.Float(4.0).tag(sync=True)         # forwards a second
    anchor = traitlets.Unicode().tag(sync=True)        # names the static figure that the live widget hides

    def __init__(self, *runs: Recording, step: int = 0, **options: Any) -> None:
        self.shown: tuple[Recording, ...] = ()
        super().__init__(anchor=f"fd-{uuid.uuid4().hex[:12]}", **options)
        self.show(*runs, step=step)

    def show(self, *runs: Recording, step: int | None = None) -> None:
        """Put other runs on the stage; `step` None: stay where it is, at most at the end."""
        self.shown = runs
        last = max((len(run.steps) for run in runs), default=1) - 1
        with self.hold_sync():
            self.runs = [payload(run) for run in runs]
            self.step = max(0, min(last, self.step if step is None else step))
            if runs and step is not None:
                used = np.flatnonzero((runs[0].decisions > 1).any(0))
                self.layer = int(used[0]) if len(used) else 0

    def follow(self, *runs: Recording) -> None:
        """The same runs, grown: a reader at the last forward stays at the last one, any other where they are."""
        at_the_end = self.step >= max((len(run.steps) for run in self.shown), default=0) - 1
        with self.hold_sync():
            self.show(*runs)
            if at_the_end:
                self.step = max((len(run.steps) for run in runs), default=1) - 1

    def static(self) -> HTML:
        """What is on the stage as figures, for pages without a kernel; hidden where the widget is alive."""
        return HTML(f'<div id="{self.anchor}">{image(*self.shown)}</div>')

    def _ipython_display_(self) -> None:
        """The figure first, then the widget, which hides the figure where it comes to life."""
        from IPython.display import display
        if self.shown:
            display(self.static())
        bundle = self._repr_mimebundle_()
        display(bundle[0] if isinstance(bundle, tuple) else bundle, raw=True)


def image(*runs: Recording) -> str:
    """The runs as figures, in an HTML img tag each."""
    from fastdllm.ui import strip
    tags = []
    for run, drawn in zip(runs, strip.figures(*runs), strict=True):
        buffer = io.BytesIO()
        drawn.savefig(buffer, format="png", dpi=80, bbox_inches="tight")
        coded = base64.b64encode(buffer.getvalue()).decode()
        tags.append(f'<img style="max-width:100%" alt="{html.escape(strip.described(run))}" '
                    f'src="data:image/png;base64,{coded}">')
    return "".join(tags)


def payload(run: Recording) -> dict[str, Any]:
    """A run as the widget takes it: arrays as bytes (little endian), texts once per token."""
    steps, places = run.steps, run.positions
    confidence = np.array(steps["confidence"].tolist(), np.float32).reshape(len(steps), run.meta["block"])
    looked = np.where(np.isnan(confidence), 255, np.rint(np.nan_to_num(confidence) * 200)).astype(np.uint8)
    rows, index, distance = details(run)
    return {
        "title": run.title, "forwards": len(steps), "layers": run.meta["layers"], "block": run.meta["block"],
        "small": run.meta["small"], "mask": run.meta["mask_id"], "prompt": len(run.prompt),
        "finish": run.result.get("finish", ""), "target": run.meta.get("target", ""), "right": run.meta.get("right"),
        "kinds": steps["kind"].tolist(), "start": packed(steps["start"], np.int32),
        "small_block": packed(steps["small_block"].fillna(-1), np.int32),
        "block_step": packed(steps["step"].fillna(-1), np.int32),
        "nfe": packed(steps[[f"nfe_{kind}" for kind in NFE]], np.int32), "nfe_kinds": list(NFE),
        "draft": packed(run.drafts, np.int32),
        "rejected": packed(np.array(run.rejected, np.int32).reshape(-1, 3), np.int32),      # forward, position, token
        "token": packed(places.token, np.int32), "when": packed(places.when, np.int32),
        "confidence": packed(places.confidence, np.float32), "role": packed(places.role, np.uint8),
        "looked": looked.tobytes(), "decisions": run.decisions.tobytes(), "detail_columns": list(DETAILS),
        "detail_rows": rows, "detail": index.tobytes(), "distance": distance.tobytes(),
        "pieces": {token: visible(text) for token, text in run.meta["pieces"].items()},
    }


def packed(values: Any, dtype: Any) -> bytes:
    """An array's bytes in the given type."""
    return np.ascontiguousarray(np.asarray(values), dtype=dtype).tobytes()


def details(run: Recording) -> tuple[list[list[Any]], np.ndarray, np.ndarray]:
    """What the trace says of a cell: the different rows of DETAILS, their index [F, layers] (-1: none), distances."""
    shape = (len(run.steps), run.meta["layers"])
    index, distance = np.full(shape, -1, np.int32), np.full(shape, math.nan, np.float32)
    if run.trace is None or run.trace.empty:
        return [], index, distance
    columns = run.trace[list(DETAILS)]
    group = columns.groupby(list(DETAILS), dropna=False, sort=False).ngroup().to_numpy()
    cell = run.trace["forward"].to_numpy(), run.trace["layer"].to_numpy()
    index[cell], distance[cell] = group, run.trace["distance"].to_numpy(np.float32)
    first = np.unique(group, return_index=True)[1]
    rows = columns.iloc[first].astype(object).to_numpy().tolist()
    return [[None if pd.isna(value) else value for value in row] for row in rows], index, distance


TRACE_COLUMNS = ("row", "forward", "layer", "decision", "block", "small_block", "step", "kind")


def opened(source: Any, row: int = 0) -> Recording:
    """A Run from a Run, a directory or a trace; ValueError for anything else."""
    if isinstance(source, Recording):
        return source
    if isinstance(source, str | Path):
        return load(source, row)
    trace = source.trace if isinstance(source, Output) else source
    if not isinstance(trace, pd.DataFrame):
        raise ValueError(f"run={type(source).__name__}; allowed: a Run, the directory of one, a trace "
                         "(DataFrame), or an Output made with trace=True")
    if trace.empty or not set(TRACE_COLUMNS) <= set(trace.columns):
        raise ValueError(f"run: a frame of {len(trace)} rows, columns {', '.join(map(str, trace.columns)) or '-'}; "
                         f"allowed: a trace with at least one wrapped layer call ({', '.join(TRACE_COLUMNS)})")
    if row not in (held := sorted(set(trace["row"]))):
        raise ValueError(f"row={row!r}: not in the trace; allowed: {', '.join(map(str, held))}")
    return from_trace(trace.query("row == @row").reset_index(drop=True))


def from_trace(trace: pd.DataFrame) -> Recording:
    """The decision map alone: a trace tells what the layers did, not which tokens appeared."""
    heads = trace.drop_duplicates("forward").set_index("forward")[["block", "small_block", "step", "kind"]]
    table = heads.reindex(range(int(trace["forward"].to_numpy().max()) + 1)).reset_index()
    table["kind"] = table["kind"].fillna("not traced")
    table = table.assign(row=0, start=0, **dict.fromkeys((f"nfe_{kind}" for kind in NFE), 0))
    for column in ("tokens", "unmasked", "confidence"):
        table[column] = [[] for _ in range(len(table))]
    about = {"model": "", "layers": int(trace["layer"].to_numpy().max()) + 1, "block": 0, "small": 0, "mask_id": -1,
             "stop_ids": [], "prompts": {}, "pieces": {}, "results": {}}
    return Recording("trace only: no steps were kept", table, trace, about)


def explore(run: Any, other: Any = None, *, row: int = 0, step: int = 0) -> Player:
    """The debugger for a run (a `Recording`, its directory, a record with a trace, or a trace), or for two at a time.

    `row` picks the problem of a record, `step` the forward to open at (from 0, as in the trace; the player shows the
    count from 1). Live on a model: `explore(record(lm, prompt, ...))`, or `panel(lm)`.
    Raises ValueError naming what is allowed, FileNotFoundError for a record without steps.
    """
    if not isinstance(step, int) or step < 0:
        raise ValueError(f"step={step!r}; allowed: a forward, counted from 0")
    runs = (run,) if other is None else (run, other)
    return Player(*(opened(source, row) for source in runs), step=step)
