"""One progress line per running configuration: live on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

EVERY = 20.0     # seconds between two lines of a configuration where there is no terminal


class RunProgress:
    """Shows configurations at work. `print_line` prints a line above the bars, or gives it to `log` where there is one.
    """

    def __init__(self, console: Console | None = None, log: Callable[[str], None] | None = None):
        self.log = log
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.bars = Bars(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                         TimeRemainingColumn(), console=self.console, transient=True,
                         disable=not self.console.is_terminal)
        self.tasks: dict[str, TaskID] = {}
        self.said: dict[str, float] = {}

    def start(self) -> None:
        """Show the bars."""
        self.bars.start()

    def stop(self) -> None:
        """Take them away."""
        self.bars.stop()

    def print_line(self, text: str) -> None:
        """One line, above the bars."""
        if self.log is not None:
            self.log(text)
        else:
            self.console.print(text, markup=False)

    def begin(self, name: str, reason: str, log: Path) -> None:
        """A configuration starts; its log can be followed at once."""
        self.print_line(f"▶ {name} ({reason}), log: {log}")
        self.tasks[name] = self.bars.add_task(name, total=None)
        self.said[name] = time.monotonic()

    def update(self, name: str, done: int, total: int) -> None:
        """`done` of `total` problems are finished."""
        if not total:
            return
        self.bars.update(self.tasks[name], completed=done, total=total)
        if not self.console.is_terminal and time.monotonic() - self.said[name] > EVERY:
            self.said[name] = time.monotonic()
            self.print_line(f"  {name}: {done} of {total}")

    def end(self, name: str, state: str, detail: str) -> None:
        """A configuration has ended."""
        self.bars.remove_task(self.tasks.pop(name))
        self.print_line(f"{'✓' if state in ('complete', 'done') else '✗'} {name}: {state} ({detail})")
