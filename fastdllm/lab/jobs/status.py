"""What state every configuration of a grid is in."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from fastdllm.lab import records
from fastdllm.lab.config.grid import Configuration
from fastdllm.lab.config.shard import Shard
from fastdllm.lab.jobs import marks
from fastdllm.lab.jobs.slurm import SlurmJob
from fastdllm.lab.records import external_code, journal, locks
from fastdllm.lab.records.identity import CurrentFingerprints, changes, identity, payload_of
from fastdllm.lab.records.record import Record

State = Literal["complete", "stale", "partial", "failed", "running", "queued", "not applicable", "pending", "imported"]
MARKS = {"complete": "✓", "running": "▶", "queued": "…", "not applicable": "–"}


@dataclass(frozen=True)
class ConfigurationState:
    """A configuration and how it stands. `shared_with`: whose run this one shares (k=1 under three names)."""

    configuration: Configuration
    state: State
    detail: str = ""
    record: Record | None = None
    shared_with: str | None = None

    @property
    def mark(self) -> str:
        return MARKS.get(self.state, "✗")

    def line(self) -> str:
        """One line for people: mark, name, state, detail."""
        notes = [self.state, *([self.detail] if self.detail else []),
                 *([f"shared with {self.shared_with}"] if self.shared_with else [])]
        return f"  {self.mark} {self.configuration.name}" + ("" if notes == ["complete"] else f" ({'; '.join(notes)})")


def states(
    configurations: list[Configuration],
    current: CurrentFingerprints | None = None,
    jobs: Mapping[str, SlurmJob] | None = None,
) -> list[ConfigurationState]:
    """The state of every configuration. `jobs` maps a configuration's path to its place in a queue.

    Data, checkpoint and code are looked at only where there is something to compare them with.
    """
    current, jobs = current or CurrentFingerprints(), jobs or {}
    first: dict[str, Configuration] = {}
    result = []
    for configuration in configurations:
        owner = first.setdefault(f"{configuration.directory.parent} {configuration.parameters.key()}", configuration)
        state = state_of(configuration, current, jobs.get(configuration.path))
        result.append(
            state if owner is configuration or configuration.not_applicable else replace(state, shared_with=owner.name)
        )
    return result


def state_of(
    configuration: Configuration, current: CurrentFingerprints, job: SlurmJob | None = None
) -> ConfigurationState:
    """The state of one configuration, by itself."""
    if configuration.not_applicable:
        return ConfigurationState(configuration, "not applicable", configuration.not_applicable)
    directory = configuration.directory
    if not directory.is_dir():
        return _waiting(configuration, job) or _after(ConfigurationState(configuration, "pending"), job)
    if at_work := locks.at_work(directory):
        return ConfigurationState(configuration, "running", _running(directory, at_work, job))
    if waiting := _waiting(configuration, job):
        return waiting
    if errors := list(filter(None, map(marks.last_error, Shard.files(directory, marks.FAILED)))):
        return ConfigurationState(configuration, "failed", "; ".join(errors))
    return _after(_recorded(configuration, current), job)


def _recorded(configuration: Configuration, current: CurrentFingerprints) -> ConfigurationState:
    """Complete, stale, imported, partial or pending: what the files say against what would run today."""
    directory = configuration.directory
    has_record = (directory / records.SUMMARY).exists()
    partials = journal.paths(directory)
    if not has_record and not partials:
        return ConfigurationState(configuration, "pending")
    record = None
    if has_record:
        try:
            record = records.read(directory)
        except (ValueError, OSError) as error:
            return ConfigurationState(configuration, "failed", str(error))
        if record.status == "imported":
            return ConfigurationState(configuration, "imported", f"from {record.source or 'elsewhere'}", record)
    try:
        ran = external_code.read(directory)
        now = current.payload(configuration.parameters, record.parameters if record else None,
                            ran.policy(directory) if ran else None)
    except (ValueError, OSError) as error:
        return ConfigurationState(configuration, "stale", f"cannot be checked here: {error}", record)
    if journal.paths(directory, identity(now)) or Shard.files(directory, marks.OPEN):
        try:
            standing = journal.standing(directory, identity(now))
        except (ValueError, OSError) as error:
            return ConfigurationState(configuration, "failed", str(error), record)
        return ConfigurationState(configuration, "partial", _unfinished(standing, record, identity(now)), record)
    if record is None:
        return ConfigurationState(configuration, "stale", f"unfinished run of {_of_partial(partials[0], now)}")
    then = payload_of(record)
    if identity(then) != record.identity:
        return ConfigurationState(
            configuration, "failed", "the record's identity does not follow from its content", record
        )
    if record.identity != identity(now):
        return ConfigurationState(configuration, "stale", f"changed: {', '.join(changes(then, now))}", record)
    return ConfigurationState(configuration, "complete", "", record)


def _unfinished(standing: journal.Standing, record: Record | None, now: str) -> str:
    """How far an interrupted run is: in its problems, or in what comes after the last one."""
    if standing.n:
        return f"{standing}" + ("; the record is still to be written" if standing.done == standing.n else "")
    if record is not None and record.identity == now:
        return f"all {record.n} problems are in the record; its notebook is still to be finished"
    return "interrupted before the first problem"


def _of_partial(path: Path, now: dict[str, Any]) -> str:
    """What an unfinished run of another configuration differs in."""
    try:
        with path.open(encoding="utf-8") as lines:
            then = json.loads(lines.readline())["parameters"]
    except (OSError, ValueError, KeyError, TypeError):
        return "another configuration"
    different = [name for name, value in now["parameters"].items() if then.get(name) != value]
    return f"another configuration ({', '.join(different) or 'other code, data or checkpoint'})"


def _waiting(configuration: Configuration, job: SlurmJob | None) -> ConfigurationState | None:
    if job is None or job.over:
        return None
    about = ", ".join(part for part in (f"job {job.name}", job.node, job.elapsed, job.reason) if part)
    return ConfigurationState(configuration, "running" if job.running else "queued", about)


def _after(state: ConfigurationState, job: SlurmJob | None) -> ConfigurationState:
    """A job that ended badly explains why its configuration isn't complete."""
    if job is None or not job.over or job.state == "COMPLETED" or state.state not in ("pending", "partial"):
        return state
    ended = f"job {job.name} ended: {job.state}" + (f" on {job.node}" if job.node else "")
    if state.state == "pending":
        return replace(state, state="failed", detail=ended)
    return replace(state, detail=f"{state.detail}; {ended}")


def _running(directory: Path, at_work: dict[Shard, dict[str, Any]], job: SlurmJob | None) -> str:
    try:
        standing = journal.standing(directory)
        done = f"; {standing}" if standing.n else ""
    except (ValueError, OSError) as error:      # it names the file; the other configurations are shown
        done = f"; {error}"
    parts = sorted(shard for shard in at_work if not shard.whole)
    about = f"job {job.name}, {job.node}, {job.elapsed}" if job and job.running else locks.describe(
        next(iter(at_work.values())))
    shards = f"; at work: shard {', '.join(map(str, parts))}" if parts else ""
    return f"{about}{done}{shards}"


def only_others(directory: Path, shard: Shard) -> bool:
    """Whether none but other shards of the same split are at work."""
    return all(other.count == shard.count and other != shard for other in locks.at_work(directory))


def text(states: list[ConfigurationState], others: list[ConfigurationState] | None = None) -> str:
    """The page that `grid status` prints, ending in `Completed: 2 / 9`; `others` are shown and not counted."""
    rule, lines = "=" * 77, []
    group = ""
    for state in states:
        configuration = state.configuration
        if configuration.directory.parent.name != group:
            group = configuration.directory.parent.name
            lines += [rule, f"Experiment Status: {configuration.experiment} / {group}", rule]
        lines.append(state.line())
    if others:
        lines += [rule, "Runs of code that is not ours (not counted):", rule]
        lines += [state.line() for state in others]
    applicable = [state for state in states if state.state != "not applicable"]
    done = sum(state.state == "complete" for state in applicable)
    return "\n".join([*lines, rule, f"Completed: {done} / {len(applicable)}", rule])


def kept(configurations: list[Configuration], wait: float = 0.0) -> str:
    """What an interrupted run leaves: `43 of 150 samples kept; the same command goes on`.

    A kernel lives a moment longer than its worker: after `wait` seconds in which one is still at work (or another
    program is), it is `at least 43 of 150`.
    """
    until = time.monotonic() + wait
    while (busy := any(locks.at_work(each.directory) for each in configurations)) and time.monotonic() < until:
        time.sleep(locks.POLL)
    done, sizes = 0, [0]
    for configuration in configurations:
        by_run = (list(map(journal.progress, own)) for own in journal.runs(configuration.directory))
        counts = [(sum(each for each, _ in shards), max(n for _, n in shards)) for shards in by_run]
        if (configuration.directory / records.SUMMARY).exists() and not counts:
            counts = _of_record(configuration.directory)
        finished, size = max(counts, default=(0, 0))
        done, sizes = done + finished, [*sizes, size]
    # A run that has not begun has as many problems as the others of its grid, as far as is known without its data.
    total = sum(size or max(sizes) for size in sizes[1:])
    if not total:
        return "the same command begins again"
    return f"{'at least ' if busy else ''}{done} of {total} samples kept; the same command goes on"


def _of_record(directory: Path) -> list[tuple[int, int]]:
    """What a finished configuration has: its n, of as many. Nothing where the record is damaged: it runs again."""
    try:
        record = records.read(directory)
    except (ValueError, OSError):
        return []
    return [(record.n, record.n)] if record.status == "complete" else []


def all_complete(states: list[ConfigurationState]) -> bool:
    """Whether every applicable configuration is complete (False if none applies)."""
    applicable = [state.state for state in states if state.state != "not applicable"]
    return bool(applicable) and all(state == "complete" for state in applicable)
