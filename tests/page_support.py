"""What a reader of a page asks of each number: of what is it, of how many, in which unit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from bs4 import BeautifulSoup

ACCURACY = re.compile(r"\b(accuracy|right|correct|strict|flexible|boxed|score|points)\b")
POINTS = re.compile(r"\bpoints\b")
SPEED = re.compile(r"tokens/s\b")
TIME = re.compile(r"\b(time|latency|duration|took)\b")
FIGURE = re.compile(r"^[<>≤+\u2212-]?\s*[\d.,  ]+x?( \[.*\]| \(.*\))?$")        # a bare number, maybe with its interval
COUNT = re.compile(r"\bn = \d|\b\d+ (problems|answers|decodes|prompts|questions)\b|\bof \d+\b")


@dataclass(frozen=True)
class ShownTable:
    """A table of a page as text: headings, cells by row, and what is said beside it."""

    heads: list[str]
    rows: list[list[str]]
    said: str

    def column(self, index: int) -> list[str]:
        return [row[index] for row in self.rows if row[index].strip()]


def tables(cells: list[dict[str, Any]]) -> list[ShownTable]:
    """The tables of an executed notebook's cells, each with its caption and the sentences of its cell and the next."""
    shown = []
    for index, cell in enumerate(cells):
        if cell["cell_type"] != "code":
            continue
        beside = ["".join(cell["source"]) for cell in cells[index + 1:index + 2] if cell["cell_type"] == "markdown"]
        for number, output in enumerate(cell["outputs"]):
            page = "".join(output.get("data", {}).get("text/html", ""))
            after = ["".join(out.get("data", {}).get("text/markdown", "")) for out in cell["outputs"][number:][1:2]]
            soup = BeautifulSoup(page, "html.parser")
            caption = [node.get_text(" ") for node in soup.select(".fdc")]
            for table in soup.select("table.fd"):
                heads = [" ".join(head.get_text(" ").split()) for head in table.select("th")]
                rows = [[node.get_text(" ") for node in row.select("td")] for row in table.select("tbody tr")]
                sentences = [line for text in [*caption, *after, *beside] for line in text.splitlines()
                             if not line.startswith("#")]       # a heading is no caption
                shown.append(ShownTable(heads, rows, " ".join(sentences)))
    return shown


def bare(table: ShownTable) -> list[str]:
    """What of a table has no unit, no n, no batch size, or nothing that says what its rows are."""
    wrong, every = [], " ".join([*table.heads, table.said])
    scores = [index for index, head in enumerate(table.heads) if ACCURACY.search(head.lower())]
    for index in scores:
        head, cells = table.heads[index], table.column(index)
        numbers = [cell for cell in cells if FIGURE.match(cell)]
        if numbers and not re.search(r"%|percent|\bpoints\b|\bof \d+|problems|answers|values", head):
            wrong.append(f"{head}: {numbers[0]} has no unit")
    values = [cell for index in scores for cell in table.column(index)]
    counted = "n" in table.heads or "problems" in table.heads or COUNT.search(every) or any(
        COUNT.search(cell) for row in table.rows for cell in row)
    if any(re.search(r"\d", cell) for cell in values) and not counted:
        wrong.append(f"{', '.join(table.heads[index] for index in scores)}: of how many problems")
    if any(SPEED.search(head) for head in table.heads) and "batch" not in every.lower():
        wrong.append("tokens/s: at which batch size")
    wrong += [f"{head}: a time without its unit" for head in table.heads
              if TIME.search(head) and not re.search(r"\b(s|ms|seconds|minutes|hours)\b", head)]
    if not table.said.strip():
        wrong.append(f"{', '.join(table.heads)}: nothing says what this table is")
    return wrong
