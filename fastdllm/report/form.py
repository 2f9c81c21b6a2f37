"""Small parts that the panel and the chat share: settings controls, a background job, status lines."""

from __future__ import annotations

import html
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as w
import traitlets

from fastdllm.decode.revisions import REVISIONS
from fastdllm.settings import POLICIES, SUBSETS, Decoding, Reuse

WIDE = {"description_width": "95px"}
EXPECTED = (ValueError, ArithmeticError, RuntimeError, MemoryError, OSError)     # what a run may fail with


class Controls:
    """Threshold, block sizes and reuse as widgets; `decoding()` and `reuse()` read and check them."""

    def __init__(self, max_new_tokens: int = 128, k: int = 2, layers: str = "middle", policy: str = "output",
                 revision: str = "fixed", threshold: float = 0.9):
        def place(**extra: Any) -> dict[str, Any]:
            return {"style": WIDE, "layout": w.Layout(width="310px"), **extra}
        self.threshold = w.FloatSlider(threshold, min=0, max=1, step=0.01, description="threshold", **place())
        self.max_new_tokens = w.BoundedIntText(max_new_tokens, min=1, max=100_000, description="new tokens", **place())
        self.small_block = w.Dropdown(options=[4, 8, 16, 32], value=8, description="small block", **place())
        self.k = w.IntSlider(k, min=1, max=6, description="k", **place())
        self.layers = w.Combobox(value=layers, options=list(SUBSETS), description="layers", ensure_option=False,
                                 placeholder="first, middle, last, 8-19", **place())
        self.policy = w.Dropdown(options=list(POLICIES), value=policy, description="policy", **place())
        self.revision = w.Combobox(value=revision, options=list(REVISIONS), description="revision",
                                   ensure_option=False, **place())
        for control in self.all():
            control.add_class(f"fd-in-{str(control.description).replace(' ', '-')}")

    def all(self) -> list[Any]:
        """Every control, in reading order."""
        return [self.threshold, self.small_block, self.max_new_tokens, self.k, self.layers, self.policy, self.revision]

    def decoding(self) -> Decoding:
        """Raises ValueError for what can't be."""
        return Decoding(threshold=round(self.threshold.value, 6), max_new_tokens=self.max_new_tokens.value,
                        small_block=int(self.small_block.value or 8))

    def reuse(self) -> Reuse:
        """Raises ValueError for what can't be."""
        return Reuse(k=self.k.value, layers=self.layers.value or None, policy=str(self.policy.value))


class Message(anywidget.AnyWidget):
    """A line of text to send. ipywidgets' Text tells of Enter before it tells of the last keys."""

    _esm = Path(__file__).parent / "message.js"
    _css = Path(__file__).parent / "player.css"
    text = traitlets.Unicode().tag(sync=True)
    sent = traitlets.Int(0).tag(sync=True)        # counts the sendings
    busy = traitlets.Bool(False).tag(sync=True)

    def submit(self, text: str) -> None:
        """What the button does."""
        self.text, self.sent = text, self.sent + 1


class Status:
    """One line that says what is going on, or what went wrong."""

    def __init__(self) -> None:
        self.node = w.HTML(layout=w.Layout(margin="2px 0"))
        self.node.add_class("fd-status")

    def say(self, text: str, error: bool = False) -> None:
        """Show a line of plain text; an error stands out by a word and by weight, not by colour alone."""
        body = html.escape(text)
        self.node.value = f"<b>Error:</b> <b>{body}</b>" if error else body


class Job:
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
            self.status.say("still running; cancel it first")
            return
        self.stop.clear()
        self.busy(True)
        self.thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self.thread.start()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except EXPECTED as error:
            self.status.say(str(error) or type(error).__name__, error=True)
        finally:
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
