"""Sentences that data decide: a claim has a text for when it holds, for when it does not, for when it can't be told.

    @claim(holds="All {n} answers are right.", fails="{wrong} of {n} answers are wrong.", unknown="Nothing was asked.")
    def all_right(frame):
        return None if frame.empty else bool(frame.right.all()), {"n": len(frame), "wrong": (~frame.right).sum()}

    verdict([all_right(frame)], details="...")

The decorated function is the predicate: it returns True, False or None, and the numbers that the texts name. No
verdict states anything that does not come out of one, so that the opposite can stand there too.
"""

# pyright: reportArgumentType=false
# (pandas' own annotations make every df[...] a union)

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

Decision = tuple[Any, Mapping[str, Any]]      # True or False (numpy's too) or None, and the numbers
MOST_WORDS = 120      # of a verdict, before the fold


@dataclass(frozen=True)
class Judged:
    """A claim held against data. state: True, False, or None where the data can't tell."""

    claim: str
    state: bool | None
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Claim:
    """A predicate on measured data, and what is said in each case. Call it with the data."""

    name: str
    decide: Callable[..., Decision]
    holds: str
    fails: str
    unknown: str

    def __call__(self, *data: Any) -> Judged:
        state, values = self.decide(*data)
        # numpy's own booleans are neither True nor False to `is`
        state = None if state is None else bool(state)
        text = self.unknown if state is None else self.holds if state else self.fails
        return Judged(self.name, state, text.format(**values))


def claim(*, holds: str, fails: str, unknown: str) -> Callable[[Callable[..., Decision]], Claim]:
    """Make a claim of its predicate; the texts are format strings over the numbers that it returns."""
    return lambda decide: Claim(decide.__name__, decide, holds, fails, unknown)


def told(which: Claim, *cases: Sequence[Any]) -> Judged:
    """A claim on the first of several sets of data that can tell; on the first one if none can."""
    judged = [which(*data) for data in cases]
    return next((one for one in judged if one.state is not None), judged[0])


def verdict(claims: Iterable[Judged | str], details: Iterable[str] = ()) -> str:
    """Markdown: the claims, one paragraph each, then the details behind a fold. Text is for plain measurements."""
    text = "\n\n".join(str(judged) for judged in claims)
    folded = "\n\n".join(part for part in details if part)
    return f"{text}\n\n<details><summary>Details</summary>\n\n{folded}\n\n</details>" if folded else text


def words_before_fold(markdown: str) -> int:
    """Words that a reader sees before opening anything."""
    return len(re.findall(r"\w[\w.,'/%+-]*", markdown.split("<details", 1)[0]))


@dataclass(frozen=True)
class RunLabel:
    """What a set of records is of: stands beside every number that comes from it."""

    model: str
    task: str
    metric: str
    n: int
    unit: str = "problems"
    device: str = ""
    date: str = ""
    code: str = ""      # of shipped records: which commit ran

    @classmethod
    def of(cls, frame: pd.DataFrame) -> RunLabel:
        """From `records.frame`; what differs between the rows is named with all its values."""
        def every(column: str) -> str:
            return ", ".join(dict.fromkeys(str(value) for value in frame[column])) if column in frame else ""
        return cls(every("model"), every("task"), every("metric"), int(frame["n"].max()), device=every("device_name"),
                   code=every("code"),
                   date=max((str(day)[:10] for day in frame["date"]), default="") if "date" in frame else "")

    def __str__(self) -> str:
        parts = (self.model, self.task, f"n = {self.n} {self.unit}", f"rule {self.metric}" if self.metric else "",
                 self.device, self.code, self.date)
        return ", ".join(part for part in parts if part)
