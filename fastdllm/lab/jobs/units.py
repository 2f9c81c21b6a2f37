"""What one process or one array task does: a planned run, or a shard of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from fastdllm.lab.config.shard import WHOLE, Shard, split
from fastdllm.lab.jobs.plan import PlannedRun, RunPlan
from fastdllm.lab.records import journal
from fastdllm.lab.records.identity import CurrentFingerprints, identity
from fastdllm.lab.records.locks import RECORD, lock


@dataclass(frozen=True)
class Unit:
    """A planned run, or a shard of it."""

    planned: PlannedRun
    shard: Shard = WHOLE

    @property
    def title(self) -> str:
        """As people see it: `gsm8k/k2_middle`, `gsm8k/k2_middle, shard 2of4`."""
        path = self.planned.configuration.path
        return path if self.shard.whole else f"{path}, shard {self.shard}"


def units(plan: RunPlan, gpus: int = 1) -> list[Unit]:
    """What a plan's runs are executed as, in their order; of a run in shards, those in which a problem is left.

    A plan for one shard has that one of each run, a grid with `shards` so many. Otherwise runs are whole as long as
    each GPU gets equally many; the last ones, fewer than there are GPUs, are split so that all have an equal share.
    """
    if plan.shard is not None:
        return [Unit(planned, plan.shard) for planned in plan.run]
    if plan.grid.shards is not None:
        return [Unit(planned, shard) for planned in plan.run for shard in missing(plan, planned, plan.grid.shards)]
    spare = len(plan.run) % gpus
    whole = len(plan.run) - spare
    return [*map(Unit, plan.run[:whole]), *(
        Unit(planned, shard) for planned in plan.run[whole:]
        for shard in missing(plan, planned, min(gpus // math.gcd(gpus, spare), batches(planned, plan.current))))]


def batches(planned: PlannedRun, current: CurrentFingerprints) -> int:
    """How many batches a run's problems fill: more shards than that would make each forward serve fewer rows."""
    parameters = planned.configuration.parameters
    return -(-current.problems(parameters)[1].n // parameters.batch_size)


def missing(plan: RunPlan, planned: PlannedRun, count: int) -> list[Shard]:
    """The shards of a run in which a problem is left; where none is, the first, which then writes the record."""
    if count == 1 or planned.forced:
        return split(count)
    configuration = planned.configuration
    try:
        n = plan.current.problems(configuration.parameters)[1].n
        own = identity(plan.current.payload(configuration.parameters))
    except (ValueError, OSError):      # only the machine that runs it can tell; what is done there ends at once
        return split(count)
    solved = set(journal.collect(configuration.directory, own, n).done)
    return [shard for shard in split(count) if not solved.issuperset(shard.indexes(n))] or split(count)[:1]


def start_over_all(plan: RunPlan, chosen: Iterable[Unit]) -> None:
    """`start_over` for each run that is to start over and of which some shards are among the chosen. Raises as it does.
    """
    for planned in {unit.planned.configuration.path: unit.planned for unit in chosen if not unit.shard.whole}.values():
        if planned.forced:
            start_over(plan, planned)


def start_over(plan: RunPlan, planned: PlannedRun) -> None:
    """Empty the journals of a run in shards, before the first of them starts: none of them is to find what another one
    solved before. The last good record stays until the new one is whole.

    Raises ValueError if its identity can't be told here (dtype "auto" on a machine without the GPU).
    """
    configuration, current = planned.configuration, plan.current
    parameters, n = current.resolve(configuration.parameters), current.problems(configuration.parameters)[1].n
    own = identity(current.payload(configuration.parameters))
    with lock(configuration.directory / RECORD):
        journal.discard(configuration.directory, own)
        journal.begin(configuration.directory, own, parameters, n)
