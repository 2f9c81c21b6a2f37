"""A comparison as one HTML file that loads nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from fastdllm.characters import visible
from fastdllm.display.notebook_html import SIGNS
from fastdllm.display.tables import begin_alike, cell
from fastdllm.lab import atomic
from fastdllm.lab.records.importer import UNKNOWN
from fastdllm.lab.records.record import Record
from fastdllm.report.comparison import text
from fastdllm.report.comparison.pairs import Comparison, Pair
from fastdllm.tasks import Problem

MOST = 200          # problems that a page shows of each kind: who wants more reads them as data
OPEN = 20           # of these, before a fold
SCORES = ("accuracy with its 95 % interval; forwards: of the network, over all n problems; layer calls reused: what a "
          "layer returned without running")


def write(comparison: Comparison, path: Path) -> Path:
    """Write the page; returns its path."""
    wordings = text.problem_texts(comparison)
    letters = list(comparison.letters)[1:]
    parts = [{"letter": letter, "lines": list(text.lines(pair, letter)),
              "turned": [{"how": how, "count": len(pair.turned(how)), "problems": problems(pair, how, wordings)}
                         for how in ("lost", "won")]}
             for letter, pair in zip(letters, comparison.pairs, strict=True)]
    environment = Environment(loader=PackageLoader("fastdllm.report.comparison", "."), autoescape=True,
                              undefined=StrictUndefined)
    named = {letter: {"name": side.shown, "ran": ran(side.record)} for letter, side in comparison.letters.items()}
    settings, scores = comparison.settings(), text.table(comparison)
    body = environment.get_template("page.html.j2").render(
        title=title(comparison), sides=named, parts=parts, most=MOST, open=OPEN,
        tables=[(heading, kind, list(table.columns), [list(map(cell, row)) for row in table.to_numpy().tolist()], below)
                for heading, kind, table, below in (("What differs", "", settings, ""),
                                                    ("Scores and costs", "numbers", scores, SCORES))],
        signs=SIGNS.read_text(encoding="utf-8"))
    atomic.write(path, body)
    return path


def title(comparison: Comparison) -> str:
    """The names of the sides, what they have in common said once: `demo/arithmetic: k1_first, k2_middle`."""
    parts = [side.shown.split("/") for side in comparison.sides]
    alike = begin_alike([part[:-1] for part in parts])
    shared = "/".join(parts[0][:alike])
    return (f"{shared}: " if shared else "") + ", ".join("/".join(part[alike if shared else 0:]) for part in parts)


def ran(record: Record) -> str:
    """When, where and by what code a record was made, as far as it says."""
    device = record.environment.device_name
    return ", ".join(filter(None, (record.day, "" if device == UNKNOWN else device,
                                   f"commit {record.code.commit[:9]}" if record.code.commit else "")))


def problems(pair: Pair, how: str, wordings: dict[str, Problem]) -> list[dict[str, object]]:
    """The problems that turned, with both answers."""
    rows = []
    for problem, row in pair.turned(how).head(MOST).iterrows():
        wording = wordings.get(str(problem))
        rows.append({"id": problem, "asked": visible(text.asked(wording), lines=True) if wording else "",
                     "target": visible(wording.target) if wording else "", "explore": text.explore(pair, str(problem)),
                     "a": kept(row["output_a"]), "b": kept(row["output_b"])})
    return rows


def kept(output: object) -> str:
    """An answer as the page shows it; records may hold none."""
    return visible(output, lines=True) if isinstance(output, str) else "(no text is kept)"
