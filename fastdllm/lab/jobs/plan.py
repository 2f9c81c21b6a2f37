"""The one plan of `run`, `grid run` and `grid submit`: made once, judged once, then carried out as it stands.

`plan` says what becomes of each computation, `RunPlan.preflight` whether it can be done here, `RunPlan.units` what one
process or one array task does of it. `runner.run` starts the units on this machine, `submission.plan_grid` hands them
to Slurm.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from fastdllm.lab import records
from fastdllm.lab.config.grid import Configuration, Grid
from fastdllm.lab.config.shard import WHOLE, Shard, split
from fastdllm.lab.jobs import preflight, status
from fastdllm.lab.jobs.slurm import SlurmJob
from fastdllm.lab.jobs.status import ConfigurationState
from fastdllm.lab.records import journal, locks
from fastdllm.lab.records.identity import CurrentFingerprints, identity


@dataclass(frozen=True)
class PlannedRun:
    """A configuration that runs: why, whether from the start (`forced`), and whose record it also becomes."""

    configuration: Configuration
    reason: str
    forced: bool = False
    shared_with: tuple[Configuration, ...] = ()


@dataclass(frozen=True)
class Unit:
    """What one process or one array task does: a planned run, or a shard of it."""

    planned: PlannedRun
    shard: Shard = WHOLE

    @property
    def title(self) -> str:
        """As people see it: `gsm8k/k2_middle`, `gsm8k/k2_middle, shard 2of4`."""
        path = self.planned.configuration.path
        return path if self.shard.whole else f"{path}, shard {self.shard}"


@dataclass
class RunPlan:
    """What happens to a grid's configurations: those that run, records that are copied, what is left alone.

    `copy` holds (from, to): the first is complete, and the second is the same computation under another name. `shard`:
    only this part of each run, others elsewhere. `current` is what it was planned by.
    """

    grid: Grid
    run: list[PlannedRun] = field(default_factory=list)
    copy: list[tuple[Configuration, Configuration]] = field(default_factory=list)
    busy: list[ConfigurationState] = field(default_factory=list)
    shard: Shard | None = None
    current: CurrentFingerprints = field(default_factory=CurrentFingerprints)

    def checks(self, costs: frozenset[preflight.Cost]) -> Iterator[preflight.Check]:
        """What its runs need, as far as the costs may be paid; nothing if nothing runs."""
        if self.run:
            yield preflight.notebook(self.grid.notebook, (each.configuration.flat(each.forced) for each in self.run))
            yield from preflight.preflight([planned.configuration.parameters for planned in self.run],
                                           self.grid.directory, costs)

    def preflight(self, costs: frozenset[preflight.Cost] = preflight.STARTED) -> None:
        """Raise ValueError for what its runs would fail for, each in its own time, before any of them starts."""
        wrong = [f"{check.name}: {check.text}" for check in self.checks(costs) if check.ok is False]
        if wrong:
            raise ValueError("\n".join([*wrong, "nothing was started; fastdllm doctor checks again"]))

    def units(self, gpus: int = 1) -> list[Unit]:
        """What the runs are executed as, in their order; of a run in shards, those in which a problem is left.

        A plan for one shard has that one of each run, a grid with `shards` so many. Otherwise runs are whole as long as
        each GPU gets equally many; the last ones, fewer than there are GPUs, are split so that all have an equal share.
        """
        if self.shard is not None:
            return [Unit(planned, self.shard) for planned in self.run]
        if self.grid.shards is not None:
            return [Unit(planned, shard) for planned in self.run for shard in self._missing(planned, self.grid.shards)]
        spare = len(self.run) % gpus
        whole = len(self.run) - spare
        return [*map(Unit, self.run[:whole]), *(
            Unit(planned, shard) for planned in self.run[whole:]
            for shard in self._missing(planned, min(gpus // math.gcd(gpus, spare), self._batches(planned))))]

    def _batches(self, planned: PlannedRun) -> int:
        """How many batches a run's problems fill: more shards than that would make each forward serve fewer rows."""
        parameters = planned.configuration.parameters
        return -(-self.current.problems(parameters)[1].n // parameters.batch_size)

    def _missing(self, planned: PlannedRun, count: int) -> list[Shard]:
        """The shards of a run in which a problem is left; where none is, the first, which then writes the record."""
        if count == 1 or planned.forced:
            return split(count)
        configuration = planned.configuration
        try:
            n = self.current.problems(configuration.parameters)[1].n
            own = identity(self.current.payload(configuration.parameters))
        except (ValueError, OSError):      # only the machine that runs it can tell; what is done there ends at once
            return split(count)
        solved = set(journal.collect(configuration.directory, own, n).done)
        return [shard for shard in split(count) if not solved.issuperset(shard.indexes(n))] or split(count)[:1]

    def start_over(self, chosen: Iterable[Unit]) -> None:
        """Empty the journals of the runs in shards that are to start over, before the first of their shards starts:
        none of them is to find what another one solved before. The last good record stays until the new one is whole.

        Raises ValueError if an identity can't be told here (dtype "auto" on a machine without the GPU).
        """
        sharded = {unit.planned.configuration.path: unit.planned for unit in chosen if not unit.shard.whole}
        for configuration in (planned.configuration for planned in sharded.values() if planned.forced):
            parameters, directory = self.current.resolve(configuration.parameters), configuration.directory
            own = identity(self.current.payload(configuration.parameters))
            with locks.lock(directory / locks.RECORD):
                journal.discard(directory, own)
                journal.begin(directory, own, parameters, self.current.problems(configuration.parameters)[1].n)

    def text(self) -> str:
        """What `--dry-run` prints."""
        lines, shards = [], self.grid.shards or 1
        part = f"shard {self.shard} of " if self.shard else f"in {shards} shards " if shards > 1 else ""
        for planned in self.run:
            lines.append(f"would run    {part}{planned.configuration.path} ({planned.reason}) -> "
                         f"{planned.configuration.directory}")
            lines += [f"would share  {to.path} <- {planned.configuration.name} (the same computation)"
                      for to in planned.shared_with]
        lines += [f"would share  {to.path} <- {source.name} (the same computation)" for source, to in self.copy]
        lines += [f"leaves alone {state.configuration.path} ({state.state}: {state.detail})" for state in self.busy]
        return "\n".join(lines) or "nothing to do: everything is complete"


def plan(grid: Grid, chosen: list[Configuration] | None = None, force: bool | Iterable[str] = False,
         current: CurrentFingerprints | None = None, queue: Mapping[str, SlurmJob] | None = None,
         shard: Shard | None = None) -> RunPlan:
    """Decide for each computation of the grid whether it runs, is copied from another name, or is left alone.

    `chosen` are the configurations that were asked for (None: all); one that is complete serves the others that are
    the same computation, chosen or not. `force` names what starts over (True: all that is chosen). `queue` says which
    configurations wait or run in Slurm. `shard`: only this part of each; other parts may be at work. Raises ValueError
    for a shard that is to start over by itself.
    """
    if shard is not None and force:
        raise ValueError(f"--force with --shard {shard}; allowed: --force with --shards, all of them at once")
    current = current or CurrentFingerprints()
    every, result = grid.configurations(), RunPlan(grid, shard=shard, current=current)
    chosen, queue = every if chosen is None else chosen, queue or {}
    wanted = {configuration.path for configuration in chosen}
    forced = {configuration.path for configuration in chosen if force is True
              or (not isinstance(force, bool) and {configuration.name, configuration.path} & set(force))}
    for members in computations(every):
        asked = [configuration for configuration in members if configuration.path in wanted]
        if not asked:
            continue
        states = {configuration.path: status.state_of(configuration, current, queue.get(configuration.path))
                  for configuration in members}
        if busy := [state for state in states.values() if state.state in ("running", "queued")
                    and not (shard and status.only_others(state.configuration.directory, shard))]:
            result.busy += busy
            continue
        again = [configuration for configuration in asked if configuration.path in forced]
        missing = [configuration for configuration in asked if states[configuration.path].state != "complete"]
        complete = next((each for each in members if states[each.path].state == "complete"), None)
        if again or (missing and complete is None):
            result.run.append(_planned(members, asked, again, again or missing, states))
        elif complete is not None:
            result.copy += [(complete, configuration) for configuration in missing]
    return result


def _planned(members: list[Configuration], asked: list[Configuration], again: list[Configuration],
             candidates: list[Configuration], states: Mapping[str, ConfigurationState]) -> PlannedRun:
    """Which of the names of one computation runs: one that has begun, else the first."""
    chosen = next((each for each in candidates if states[each.path].state == "partial"), candidates[0])
    state = states[chosen.path]
    reason = "forced" if again else f"{state.state}{': ' + state.detail if state.detail else ''}"
    shared_with = tuple(each for each in members if each is not chosen and (each in asked or follows(each, chosen)))
    return PlannedRun(chosen, reason, bool(again), shared_with)


def computations(configurations: Iterable[Configuration]) -> list[list[Configuration]]:
    """The configurations that run, those that are the same computation together."""
    groups: dict[str, list[Configuration]] = {}
    for configuration in configurations:
        if not configuration.not_applicable:
            key = f"{configuration.directory.parent} {configuration.parameters.key()}"
            groups.setdefault(key, []).append(configuration)
    return list(groups.values())


def follows(configuration: Configuration, source: Configuration) -> bool:
    """Whether a configuration's record is a copy of the source's."""
    try:
        return records.read(configuration.directory).shared_from == source.name
    except (FileNotFoundError, ValueError):
        return False
