"""`fastdllm gallery`: executed/ as one static site that opens from the file system.

An index table over experiments and configurations, every executed notebook as a page, downloads of notebook and record.
Nothing is loaded from elsewhere. Hosts, users, paths and secrets are left out unless told otherwise.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from fastdllm.display.tables import interval_text, marked
from fastdllm.lab import records
from fastdllm.lab.config.grid import Grid
from fastdllm.lab.config.paths import executed
from fastdllm.lab.jobs.status import ConfigurationState
from fastdllm.lab.records.identity import CurrentFingerprints
from fastdllm.lab.records.record import Record
from fastdllm.report import cost_model, figures, hypotheses, shipped, tables
from fastdllm.report.results import Results, predicted_seconds
from fastdllm.share import bundle, inventory
from fastdllm.share import notebook_pages as pages
from fastdllm.share.bundle import Item
from fastdllm.share.inventory import Experiment
from fastdllm.share.redact import Redactor, read_notebook, redactor
from fastdllm.stats import number_of, span
from fastdllm.version import __version__

DPI = 96        # of the headline figures
LINES = 30      # of configurations in one of them: it fits a screen
ZIP_LIMIT = 20_000_000      # bytes: what a collaborator's mailbox takes
# What a reader came for stands first: a window of 1200 pixels shows it without scrolling.
# `wide` ones leave a narrow window.
COLUMNS = (("State", ""), ("Configuration", ""), ("Accuracy", "number"), ("n", "number"),
           ("Predicted tokens/s", "number"), ("Tokens/forward", "number"), ("k", "number"), ("Layers", "wide"),
           ("Policy", "wide"), ("Revision", "wide"), ("Experiment", ""), ("Node", "wide"), ("Date", "number wide"))


@dataclass(frozen=True)
class Site:
    """A written gallery. `notes` say what a reader will miss."""

    folder: Path
    pages: int
    size: int
    notes: tuple[str, ...]

    @property
    def index(self) -> Path:
        return self.folder / "index.html"


@dataclass
class SiteDraft:
    """The files of a site while it is being made."""

    redactor: Redactor | None
    writer: pages.Writer = field(default_factory=pages.Writer)
    items: list[Item] = field(default_factory=list)

    def add(self, path: Path, content: str | bytes) -> str:
        """One file; returns its address relative to the index."""
        self.items.append(Item(path, content.encode() if isinstance(content, str) else content))
        return path.as_posix()

    def read(self, path: Path) -> dict[str, Any]:
        """A notebook as it may be shown."""
        notebook = read_notebook(path)
        return self.redactor.notebook(notebook) if self.redactor else notebook

    def notebook(self, notebook: dict[str, Any], name: str, folder: Path, title: str,
                 facts: Iterable[tuple[str, str]] = (), record: str = "") -> tuple[str, str]:
        """The page and the download of a notebook from `read`; returns both addresses."""
        describe_figures(notebook)
        body = self.writer.page(notebook, title, "../" * len(folder.parts), f"{name}.ipynb", facts, record)
        text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
        return self.add(folder / f"{name}.html", body), self.add(folder / f"{name}.ipynb", text)

    def text(self, text: str) -> str:
        return self.redactor.output(text) if self.redactor else text


def build(names: list[str] | None = None, output: Path | None = None, *, redact: bool = True,
          folder: Path | None = None, log: Callable[[str], None] = lambda _: None) -> Site:
    """Make the site; `log` gets a line for each experiment.

    Raises ValueError for an unknown experiment, or if there is nothing to show.
    """
    folder = folder or executed()
    current, shown = CurrentFingerprints(), []
    for experiment in inventory.experiments(folder, names):
        grid = inventory.grid_of(experiment.name)
        shown.append((experiment, grid, inventory.configuration_states(experiment.directory, current, grid),
                      inventory.notebook_runs(experiment.directory)))
    if not any(cells or runs for _, _, cells, runs in shown):
        raise ValueError(f"{folder}: nothing to show; allowed: a folder with records or executed notebooks")
    nodes = [cell.record.environment.node for _, _, cells, _ in shown for cell in cells if cell.record]
    draft = SiteDraft(redactor(folder, nodes) if redact else None)
    cells, sections = [], []
    for experiment, grid, states, runs in shown:
        name, shipped = experiment.key, experiment.shipped
        log(f"{name}{' (shipped with the project)' if shipped else ''}: "
            f"{number_of(len(states), 'configuration')}, {number_of(len(runs), 'notebook')}")
        own = [_configuration(draft, experiment, state) for state in states]
        notebooks = []
        for run in runs:
            page_path = Path("notebooks") / name / run.path.parent.relative_to(experiment.directory)
            content = draft.read(run.path)
            page, notebook = draft.notebook(content, run.path.stem, page_path, f"{name}: {run.name}")
            short = "/".join(dict.fromkeys(run.name.split("/")))       # 00_tour, not 00_tour/00_tour
            notebooks.append({"name": short, "page": page, "notebook": notebook, "problem": run.problem,
                              "question": draft.text(question(content))})
        sections.append({"name": experiment.name, "shipped": shipped, "cells": own, "notebooks": notebooks,
                         "same_problem": same_problem([page["problem"] for page in notebooks]),
                         "hypothesis": draft.text(grid.hypothesis) if grid else "",
                         "outcome": _outcome(experiment),
                         "figure": _headline(draft, experiment, grid, states),
                         "complete": sum(cell["state"] == "complete" for cell in own)})
        cells += own
    applicable = [cell for cell in cells if cell["state"] != "not applicable"]
    index = _templates().get_template("index.html.j2").render(
        title="Fast-dLLM layer reuse: " + (", ".join(names) if names else "all experiments"), experiments=sections,
        cells=cells, notebooks=[page for section in sections for page in section["notebooks"]], columns=COLUMNS,
        states=sorted({cell["state"] for cell in cells}), redacted=redact, version=__version__,
        complete=sum(cell["state"] == "complete" for cell in applicable), applicable=len(applicable),
        date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", span=span, shape=cost_model.SHAPE)
    draft.add(Path("index.html"), index)
    for asset, content in draft.writer.assets().items():
        draft.add(Path("assets") / asset, content)
    target = output or folder / inventory.GALLERY
    if target.exists() and any(target.iterdir()) and not (target / "assets" / "gallery.css").exists():
        raise ValueError(f"output={str(target)!r} holds other files; allowed: a new or empty directory, or a gallery")
    target.parent.mkdir(parents=True, exist_ok=True)
    bundle.write(draft.items, target)
    count = sum(item.path.suffix == ".html" for item in draft.items)
    return Site(target, count, sum(len(item.content) for item in draft.items), tuple(draft.writer.notes))


def describe_figures(notebook: dict[str, Any]) -> None:
    """Give every figure of a notebook a text for those who don't see it: its number and what it stands under."""
    heading, count = "", 0
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            lines = [line.strip("# *") for line in source.splitlines() if line.startswith("#")]
            heading = lines[-1] if lines else heading
        for output in cell.get("outputs", []):
            for kind in set(output.get("data", {})) & {"image/png", "image/jpeg"}:
                count += 1
                known = output.setdefault("metadata", {}).setdefault(kind, {})
                known.setdefault("alt", f"Figure {count}" + (f": {heading}" if heading else ""))


def pack(site: Site) -> Path:
    """The site as one zip beside it. Raises ValueError if it is larger than a mailbox takes."""
    target = site.folder.with_name(f"{site.folder.name}.zip")
    part = target.with_name(f"{target.name}.part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in sorted(site.folder.rglob("*")):
            if path.is_file():
                archive.write(path, Path(site.folder.name) / path.relative_to(site.folder))
    if part.stat().st_size > ZIP_LIMIT:
        size = part.stat().st_size
        part.unlink()
        raise ValueError(f"{target}: {size / 1e6:.0f} MB; allowed: {ZIP_LIMIT // 10**6} MB, so name fewer experiments")
    part.rename(target)
    return target


def question(notebook: dict[str, Any]) -> str:
    """What a notebook asks: its title where that is a question, else the first question of its opening, else its title.
    """
    opening = next(("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown"), "")
    title, _, rest = opening.partition("\n")
    title = title.lstrip("# ").strip()
    asked = [sentence for sentence in re.split(r"(?<=[.?])\s+", rest.strip()) if sentence.endswith("?")]
    return title if title.endswith("?") or not asked else asked[0]


def same_problem(problems: list[str]) -> str:
    """What all of several notebooks have, to be said once instead of in every line; "" where they differ."""
    return problems[0] if len(problems) > 1 and len(set(problems)) == 1 else ""


def _outcome(experiment: Experiment) -> str:
    """Whether the hypothesis of an experiment that ships held, where one number decides it; else ""."""
    if not experiment.shipped or experiment.name not in hypotheses.DECIDED_BY:
        return ""
    return str(hypotheses.judged(experiment.name, shipped.read(experiment.directory)))


def _headline(draft: SiteDraft, experiment: Experiment, grid: Grid | None,
              states: list[ConfigurationState]) -> dict[str, Any]:
    """The experiment in one figure, with its size, so that nothing moves when it is loaded, and what of it is left out
    for its length; {} where fewer than two configurations have a record.
    """
    results = Results(grid or Grid(experiment=experiment.name), states)
    if len(results.recorded) < 2:
        return {}
    table = tables.grid_table(results)
    drawn, picture = figures.grid_figure(table.head(LINES)), io.BytesIO()
    drawn.savefig(picture, format="png", dpi=DPI)
    width, height = (round(DPI * inches) for inches in drawn.get_size_inches())
    return {"address": draft.add(Path("assets") / f"{experiment.key.replace('/', '-')}.png", picture.getvalue()),
            "width": width, "height": height,
            "part": f"The first {LINES} of {len(table)} configurations." if len(table) > LINES else ""}


def _configuration(draft: SiteDraft, experiment: Experiment, state: ConfigurationState) -> dict[str, Any]:
    """One row of the index; adds the cell's pages and downloads."""
    configuration, reuse = state.configuration, state.configuration.parameters.reuse
    record = draft.redactor.record(state.record) if state.record and draft.redactor else state.record
    row = records.row(record) | {"predicted": predicted_speed(record)} if record else None
    page_path = Path("cells") / experiment.key / configuration.directory.parent.name / configuration.directory.name
    entry: dict[str, Any] = {
        "state": state.state, "mark": state.mark, "detail": draft.text(state.detail), "experiment": experiment.name,
        "shipped": experiment.shipped,
        "task": configuration.directory.parent.name, "config": configuration.name, "row": row,
        "k": figure(row["k"]) if row else str(reuse.k), "page": "", "notebook": "", "record": "", "traceback": "",
        "revision": configuration.parameters.revision,
        **{name: (row and row[name]) or "" for name in ("layers", "policy", "node")}}
    if not reuse.active:
        entry["policy"] = entry["layers"] = ""        # nothing is reused: no layers, by no policy
    if state.shared_with:
        entry["detail"] = "; ".join(filter(None, [entry["detail"], f"same run as {state.shared_with}"]))
    if record:
        content = {**record.content(), "checksum": record.checksum}
        entry["record"] = draft.add(page_path / records.SUMMARY,
                                    json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    facts = _facts(state, row)
    title = f"{experiment.key}: {configuration.path}"
    for path in bundle.executed_notebooks(configuration.directory):
        entry["page"], entry["notebook"] = draft.notebook(draft.read(path), path.stem, page_path, title, facts,
                                                           records.SUMMARY if record else "")
    if record and record.shared_from and not entry["page"]:      # the page of the run that it shares
        for path in bundle.executed_notebooks(configuration.directory.with_name(record.shared_from)):
            entry["page"] = (page_path.with_name(record.shared_from) / path.name).with_suffix(".html").as_posix()
    for path in sorted(configuration.directory.glob("*.failed.ipynb")):
        entry["traceback"], _ = draft.notebook(draft.read(path), path.stem, page_path, f"{title} (failed)", facts)
    return entry


def _facts(state: ConfigurationState, row: dict[str, Any] | None) -> list[tuple[str, str]]:
    if row is None:
        return [("state", state.state)]
    return [("state", state.state),
            (row["metric"], interval_text(row["accuracy"], row["low"], row["high"], scale=100, unit="%")),
            ("n", figure(row["n"])), ("forwards", figure(row["nfe"])),
            (f"tokens/s (batch {figure(row['batch_size'])}, one run)", figure(row["tokens_per_second"])),
            ("node", row["node"]),
            ("identity", row["identity"][:12])]


def _templates() -> Environment:
    made = Environment(loader=PackageLoader("fastdllm.share", "static"), autoescape=True, undefined=StrictUndefined)
    made.filters["breakable"], made.filters["figure"], made.filters["code"] = breakable, figure, code
    return made


def predicted_speed(record: Record) -> float:
    """Tokens/s that the cost model gives a record's forwards; NaN where it does not count them."""
    return record.tokens / (predicted_seconds(record) or math.nan)


def figure(number: float, form: str = ".0f") -> str:
    """A number for people; "–" where an imported record's source does not state it."""
    return "–" if number != number else format(number, form)


def code(text: str) -> Markup:
    """What stands between backticks as code."""
    return Markup(marked(text))


def breakable(name: str) -> Markup:
    """A name that may go on in the next line behind _, + and the slash of Tokens/forward: columns stay narrow."""
    return Markup(re.sub(r"([_+]|/(?=forward))", r"\1<wbr>", str(escape(name))))
