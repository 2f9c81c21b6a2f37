"""What `generate` returns, and how it shows itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from html import escape

import pandas as pd

from fastdllm.characters import visible
from fastdllm.decode.step import RowResult

SHOWN, LENGTH = 8, 300        # rows, and signs of a text, that a repr shows


@dataclass(frozen=True, repr=False)
class Output:
    """What `generate` returns; lists are in the order of the prompts.

    Shown by itself it says what it cost and how each answer begins; `texts` has them whole.
    """

    texts: list[str]
    tokens: list[list[int]]            # generated part, up to and including the stop token
    nfe: list[dict[str, int]]          # per row, forwards by kind
    trace: pd.DataFrame | None
    rows: list[RowResult]
    seconds: float
    reused_nothing: bool               # k > 1, and no row reused anything

    def summary(self) -> str:
        """What all rows together cost, in one line."""
        count, kinds = sum(map(len, self.tokens)), Counter[str]()
        for each in self.nfe:
            kinds.update(each)
        ran = ", ".join(f"{kind} {number}" for kind, number in kinds.items() if number)
        forwards = sum(number for kind, number in kinds.items() if kind != "replay")
        reused = sum(row.decisions.get("reuse", 0) for row in self.rows)
        speed = f", {count / self.seconds:.0f} tokens/s" if self.seconds else ""
        answers = "1 answer" if len(self.texts) == 1 else f"{len(self.texts)} answers"
        parts = [f"{answers} in {self.seconds:.2f} s: {count} tokens{speed}, NFE {forwards} ({ran})",
                 f"{reused} layer calls reused",
                 f"executor {', '.join(sorted({row.executor for row in self.rows}))}"]
        if self.reused_nothing:
            parts.append("reuse was asked for and nothing was reused")
        if self.trace is not None:
            parts.append(f"trace of {len(self.trace)} layer calls")
        return "; ".join(parts)

    def lines(self) -> list[tuple[str, str]]:
        """For each row that is shown: how it ended and what it cost, and its text, cut where it is long."""
        return [(f"[{index}] {row.finish}, {len(row.tokens)} tokens, NFE "
                 f"{sum(count for kind, count in row.nfe.items() if kind != 'replay')}",
                 visible(text if len(text) <= LENGTH else f"{text[:LENGTH]} ...", lines=True))
                for index, (row, text) in enumerate(zip(self.rows[:SHOWN], self.texts, strict=False))]

    @property
    def rest(self) -> str:
        """That not all rows are shown."""
        return f"... and {len(self.texts) - SHOWN} more in .texts" if len(self.texts) > SHOWN else ""

    def __repr__(self) -> str:
        shown = (f"{head}\n" + "\n".join(f"    {line}" for line in text.splitlines()) for head, text in self.lines())
        return "\n".join(filter(None, [f"Output: {self.summary()}", *shown, self.rest]))

    def _repr_html_(self) -> str:
        rows = "".join(f'<tr><td style="text-align:left;vertical-align:top;white-space:nowrap">{escape(head)}</td>'
                       f'<td style="text-align:left;white-space:pre-wrap">{escape(text)}</td></tr>'
                       for head, text in self.lines())
        return f"<p>{escape(self.summary())}</p><table>{rows}</table>" + (f"<p>{escape(self.rest)}</p>" if self.rest
                                                                          else "")
