"""Which configurations run, which take over a record, which are left alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fastdllm.lab import records
from fastdllm.lab.config.grid import Cell
from fastdllm.lab.jobs import status
from fastdllm.lab.jobs.slurm import Job
from fastdllm.lab.jobs.status import CellState
from fastdllm.lab.records.identity import Today


@dataclass
class Plan:
    """What `run` would do: cells to run (with the reason), names that share a run, cells left alone."""

    run: list[tuple[Cell, str, bool]] = field(default_factory=list)      # cell, reason, forced
    share: list[tuple[Cell, Cell]] = field(default_factory=list)         # (from, to)
    busy: list[CellState] = field(default_factory=list)

    def text(self) -> str:
        """What `--dry-run` prints."""
        lines = [f"would run    {cell.path} ({reason}) -> {cell.directory}" for cell, reason, _ in self.run]
        lines += [f"would share  {to.path} <- {source.name} (the same computation)" for source, to in self.share]
        lines += [f"leaves alone {state.cell.path} ({state.state}: {state.detail})" for state in self.busy]
        return "\n".join(lines) or "nothing to do: everything is complete"


def select(cells: list[Cell], task: str | None = None, config: Iterable[str] = ()) -> list[Cell]:
    """The cells of a task and of some names. Raises ValueError for a name that the grid doesn't have."""
    if task is not None and task not in (known := sorted({cell.task for cell in cells})):
        raise ValueError(f"--task {task!r}; allowed: {', '.join(known)}")
    names = list(dict.fromkeys(cell.name for cell in cells))
    for name in config:
        if name not in names and name not in (cell.path for cell in cells):
            raise ValueError(f"--config {name!r}; allowed: {', '.join(names)}")
    wanted = set(config)
    return [cell for cell in cells if task in (None, cell.task)
            and (not wanted or cell.name in wanted or cell.path in wanted)]


def plan(chosen: list[Cell], every: list[Cell], force: bool | Iterable[str] = False, today: Today | None = None,
         queue: Mapping[str, Job] | None = None) -> Plan:
    """Decide for each computation whether it runs, is taken over from another name, or is left alone.

    `every` are all cells of the grid: one that is complete serves the others that are the same computation.
    `queue` says which cells wait or run in Slurm.
    """
    today = today or Today()
    forced = {cell.path for cell in chosen if force is True
              or (not isinstance(force, bool) and {cell.name, cell.path} & set(force))}
    groups: dict[str, list[Cell]] = {}
    for cell in every:
        if not cell.not_applicable:
            groups.setdefault(f"{cell.directory.parent} {cell.parameters.key()}", []).append(cell)
    wanted, result = {cell.path for cell in chosen}, Plan()
    for members in groups.values():
        asked = [cell for cell in members if cell.path in wanted]
        if not asked:
            continue
        looks = {cell.path: status.look(cell, today, (queue or {}).get(cell.path)) for cell in members}
        if busy := [looks[cell.path] for cell in members if looks[cell.path].state in ("running", "queued")]:
            result.busy += busy
            continue
        force_this = any(cell.path in forced for cell in asked)
        missing = [cell for cell in asked if looks[cell.path].state != "complete"]
        source = next((cell for cell in members if looks[cell.path].state == "complete"), None)
        if force_this or (missing and source is None):
            candidates = [cell for cell in asked if cell.path in forced] or missing
            source = next((cell for cell in candidates if looks[cell.path].state == "partial"), candidates[0])
            look = looks[source.path]
            reason = "forced" if force_this else f"{look.state}{': ' + look.detail if look.detail else ''}"
            result.run.append((source, reason, force_this))
            missing = [cell for cell in members if cell is not source and (cell in asked or follows(cell, source))]
        result.share += [(source, cell) for cell in missing if source is not None and cell is not source]
    return result


def follows(cell: Cell, source: Cell) -> bool:
    """Whether a cell's record is a copy of the source's."""
    try:
        return records.read(cell.directory).shared_from == source.name
    except (FileNotFoundError, ValueError):
        return False
