"""Small parts that the panel and the chat share: settings controls, a background job, status lines."""

from __future__ import annotations

import html
import re
import sys
import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as w
import traitlets
from IPython.display import HTML, display
from torch import OutOfMemoryError

from fastdllm.decode.revisions import REVISIONS
from fastdllm.errors import message
from fastdllm.lab.config.paths import policy_path
from fastdllm.model.errors import DecodingError
from fastdllm.settings import POLICIES, SUBSETS, Decoding, Reuse

WIDE = {"description_width": "95px"}
EXPECTED = (ValueError, DecodingError, MemoryError, OutOfMemoryError, OSError)      # what a run may come to
MODELS_OWN = "model's own"
OWN_POLICY = "a file of your own"
LABELS = {"prompts[0]": "prompt", "max_new_tokens": "new tokens", "small_block": "small block", "block_size": "block"}
MOST = 100_000       # new tokens
# A change is told when it is whole, not key by key: from a field whose first change a busy kernel has not taken yet,
# ipywidgets holds back the later ones, and a button pressed meanwhile would find half a value.
WHEN_WHOLE = {"continuous_update": False}


class Controls:
    """Threshold, block sizes and reuse as widgets; `decoding()` and `reuse()` read and check them."""

    def __init__(self, max_new_tokens: int = 128, k: int = 2, layers: str = "middle", policy: str = "output",
                 revision: str = "fixed", threshold: float = 0.9):
        shared = column_layout()
        self.threshold = w.FloatSlider(threshold, min=0, max=1, step=0.01, description="threshold", **WHEN_WHOLE,
                                       **shared)
        self.max_new_tokens = number("new tokens", max_new_tokens, **shared)
        self.small_block = w.Dropdown(options=[4, 8, 16, 32], value=8, description="small block", **shared)
        self.block = w.Dropdown(options=[MODELS_OWN, 8, 16, 32, 64], value=MODELS_OWN, description="block", **shared)
        self.k = w.IntSlider(k, min=1, max=6, description="k", **WHEN_WHOLE, **shared)
        self.layers = w.Combobox(value=layers, options=list(SUBSETS), description="layers", ensure_option=False,
                                 placeholder="first, middle, last, 8-19", **WHEN_WHOLE, **shared)
        own = policy not in POLICIES
        self.policy = w.Dropdown(options=[*POLICIES, OWN_POLICY], value=OWN_POLICY if own else policy,
                                 description="policy", **shared)
        self.policy_file = w.Text(value=policy if own else "", description="its file", placeholder="my_policy.py",
                                  disabled=not own, **WHEN_WHOLE, **shared)
        self.policy.observe(lambda _: setattr(self.policy_file, "disabled", self.policy.value != OWN_POLICY), "value")
        self.revision = w.Dropdown(options=list(dict.fromkeys([*REVISIONS, revision])), value=revision,
                                   description="revision", **shared)
        for control in self.all():
            control.add_class(f"fd-in-{str(control.description).replace(' ', '-')}")

    def all(self) -> list[Any]:
        """Every control, in reading order."""
        return [self.threshold, self.small_block, self.block, self.max_new_tokens, self.k, self.layers, self.policy,
                self.policy_file, self.revision]

    def decoding(self) -> Decoding:
        """Raises ValueError for what can't be."""
        block = self.block.value
        return Decoding(threshold=round(self.threshold.value, 6), small_block=int(self.small_block.value or 8),
                        max_new_tokens=whole(self.max_new_tokens, 1, MOST),
                        block_size=None if block in (None, MODELS_OWN) else int(block))

    def reuse(self) -> Reuse:
        """Raises ValueError for what can't be. A policy file is looked for, and run when the run begins."""
        policy = self.policy_file.value.strip() if self.policy.value == OWN_POLICY else str(self.policy.value)
        if not policy:
            raise ValueError("its file: empty; allowed: the path of a policy of your own, like my_policy.py")
        return Reuse(k=self.k.value, layers=self.layers.value or None, policy=policy_path(policy))


def column_layout() -> dict[str, Any]:
    """Style and layout of the controls in `fields`; they share the layout, each of which a saved notebook holds."""
    # ipywidgets gives every widget margins of 2 px
    return {"style": WIDE, "layout": w.Layout(width="auto", max_width="calc(100% - 4px)")}


def fields(controls: Sequence[Any]) -> w.GridBox:
    """Controls in as many columns as the page has room for."""
    columns = "repeat(auto-fit, minmax(min(300px, 100%), 1fr))"
    return w.GridBox(controls, layout=w.Layout(width="100%", grid_template_columns=columns))


def row(*widgets: Any) -> w.HBox:
    """Widgets side by side, in further lines where the page is narrow."""
    return w.HBox(widgets, layout=w.Layout(flex_flow="row wrap"))


def tick(label: str) -> w.Checkbox:
    """A box that is ticked, as wide as its text."""
    return w.Checkbox(True, description=label, indent=False,
                      layout=w.Layout(width="auto", max_width="calc(100% - 18px)", margin="2px 16px 2px 2px"))


def number(label: str, value: float, **shared: Any) -> w.FloatText:
    """A field for a whole number, checked by `whole`: ipywidgets' own would turn 3.7 into 37 as it is typed."""
    return w.FloatText(value, step=1, description=label, **WHEN_WHOLE, **shared)


def whole(field: w.FloatText, low: int, high: int) -> int:
    """The number in a field. Raises ValueError naming the field as it is labelled."""
    value = float(field.value)
    if not value.is_integer() or not low <= value <= high:
        raise ValueError(f"{field.description}: {value:.15g}; allowed: a whole number from {low} to {high}")
    return int(value)


def labelled(error: BaseException) -> str:
    """An error's message with the names that stand beside the fields, and without the classes behind them."""
    text = message(error) if isinstance(error, ValueError) else str(error)
    text = re.sub(r"\b(?:Decoding|Reuse|Parameters)\.(?=\w)", "", text)
    for name, label in LABELS.items():
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", label, text)
    return text or type(error).__name__


class Live(w.VBox):
    """A column of widgets; `sentence` stands in its place in a page without a kernel, where widgets are dead."""

    def __init__(self, children: Sequence[Any], sentence: str) -> None:
        self.anchor, self.sentence = f"fd-{uuid.uuid4().hex[:12]}", sentence
        hides = w.HTML(f"<style>#{self.anchor} {{ display: none }}</style>", layout=w.Layout(display="none"))
        super().__init__([*children, hides])
        self.add_class("fd-live")      # by which a page without a kernel knows what to leave out

    def _ipython_display_(self) -> None:
        """The sentence first, then the widgets, which hide it where they come to life."""
        display(HTML(f'<p id="{self.anchor}" class="fd-dead"><em>{html.escape(self.sentence)}</em></p>'))
        display(self._repr_mimebundle_(), raw=True)


class Message(anywidget.AnyWidget):
    """A line of text to send. ipywidgets' Text tells of Enter before it tells of the last keys."""

    _esm = Path(__file__).parent / "message.js"
    _css = Path(__file__).parent / "player.css"
    text = traitlets.Unicode().tag(sync=True)
    sent = traitlets.Int(0).tag(sync=True)        # counts the sendings
    taken = traitlets.Int(0).tag(sync=True)       # the last sending that was accepted: it leaves the field
    busy = traitlets.Bool(False).tag(sync=True)

    def submit(self, text: str) -> None:
        """What the button does."""
        self.text, self.sent = text, self.sent + 1


class Status:
    """One line that says what is going on, or what went wrong."""

    def __init__(self) -> None:
        self.node = w.HTML(layout=w.Layout(margin="2px 0"))
        self.node.add_class("fd-status")

    def message(self, text: str, error: bool = False) -> None:
        """Show a line of plain text; an error stands out by a word and by weight, not by colour alone."""
        body = html.escape(text)
        self.node.value = f"<b>Error:</b> <b>{body}</b>" if error else body


class BackgroundJob:
    """One piece of work at a time, in a thread, so that buttons keep working; `cancelled` asks it to stop."""

    def __init__(self, status: Status, busy: Callable[[bool], None]):
        self.status, self.busy = status, busy
        self.stop = threading.Event()
        self.thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        return self.thread is not None and self.thread.is_alive()

    def start(self, work: Callable[[], None]) -> None:
        """Begin, unless something still runs."""
        if self.running:
            self.status.message("still running; cancel it first")
            return
        self.stop.clear()
        self.busy(True)
        self.thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self.thread.start()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except EXPECTED as error:
            self.status.message(labelled(error), error=True)
        finally:
            unexpected = sys.exception()      # a policy file may raise anything; the traceback goes its own way
            if unexpected is not None:
                self.status.message(f"{type(unexpected).__name__}: {unexpected}", error=True)
            self.busy(False)

    def cancel(self) -> None:
        """Ask the work to stop; it does so between two forwards."""
        self.stop.set()

    def wait(self, seconds: float | None = None) -> None:
        """Until the work is done (for tests and scripts)."""
        if self.thread is not None:
            self.thread.join(seconds)


def button(text: str, act: Callable[[], object], style: str = "", name: str = "") -> w.Button:
    """A button that calls `act`; `name` becomes the CSS class fd-NAME."""
    made = w.Button(description=text, button_style=style, layout=w.Layout(width="auto"))
    made.on_click(lambda _: act())
    made.add_class(f"fd-{name or text.lower().replace(' ', '-')}")
    return made
