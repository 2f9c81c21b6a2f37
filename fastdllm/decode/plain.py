"""One step of every row again and again: what the engine does without drafts (with them: decode/verify.py)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from fastdllm.decode.executor import Executor
from fastdllm.decode.policies import PLAIN, OutputPolicy, ReusePlan
from fastdllm.decode.row import Row
from fastdllm.decode.step import Forward, Prediction, Step

HALVES_FROM = 64        # rows of a batch: two launches of half of them cost no more than one of all


class Work(NamedTuple):
    """One state of one row that a tick runs forward."""

    row: Row
    forward: Forward
    plan: ReusePlan

    def take(self, prediction: Prediction) -> None:
        """Let the row go on."""
        self.row.forwards_run += not self.plan.skip
        self.row.take(self.forward, prediction, replayed=self.plan.skip)

    def told(self, prediction: Prediction) -> Step:
        """The step that the row took."""
        return self.row.told(self.forward, prediction, replayed=self.plan.skip)


@dataclass(frozen=True, slots=True)
class Flight:
    """Work that was launched: each landing waits for the predictions of the work with these indices."""

    work: list[Work]
    landings: list[tuple[list[int], Callable[[], list[Prediction]]]]


class Plain:
    """One step of every row. Work that can run together (equal `Executor.key`: the same kind of forward, and layers
    that run alike) is one batch.

    While a GPU runs a batch its caller is told of the steps before, and has time for texts and files. Of large batches
    a tick also takes in what one half came to while the device runs the other.
    """

    def __init__(self, executor: Executor, policy: OutputPolicy | None, halves_from: int = HALVES_FROM):
        self.executor, self.policy, self.halves_from = executor, policy, halves_from
        self.flights: deque[Flight] = deque()
        self.untold: list[tuple[Work, Prediction]] = []

    def tick(self, rows: list[Row]) -> Iterator[Step]:
        """Schedule work, run it, and let the rows take in what was predicted."""
        self._begin(rows)
        yield from self.rest()
        landed = self._land(self.flights.popleft(), rows)
        if self.executor.overlaps:
            self.untold += landed
        else:
            yield from (item.told(prediction) for item, prediction in landed)

    def rest(self) -> Iterator[Step]:
        """Steps that were taken and not told of yet."""
        untold, self.untold = self.untold, []
        return (item.told(prediction) for item, prediction in untold)

    def _begin(self, rows: list[Row]) -> None:
        """Launch what no flight carries yet, all of it or by halves."""
        if len(rows) < self.halves_from or not self.executor.overlaps:
            if not self.flights:
                self._launch(rows)
        elif self.flights:
            away = {id(item.row) for flight in self.flights for item in flight.work}
            self._launch([row for row in rows if id(row) not in away])
        else:
            self._launch(rows[::2])
            self._launch(rows[1::2])

    def _work(self, row: Row, forward: Forward) -> Work:
        """What a row needs now, and what the policy makes of it."""
        denoising = forward.small_block is not None
        return Work(row, forward, self.policy.plan(forward) if self.policy and denoising else PLAIN)

    def _launch(self, rows: list[Row]) -> None:
        """Begin a flight of what these rows need, batch by batch."""
        if not rows:
            return
        work = [self._work(row, row.next()) for row in rows]
        batches: dict[tuple[object, ...], list[int]] = {}
        for index, item in enumerate(work):
            batches.setdefault(self.executor.key(item.forward, item.plan), []).append(index)
        self.flights.append(Flight(work, [(batch, self.executor.launch([work[i].forward for i in batch],
                                                                       [work[i].plan for i in batch]))
                                          for batch in batches.values()]))

    def _land(self, flight: Flight, rows: list[Row]) -> Iterator[tuple[Work, Prediction]]:
        """Work that was taken in, in order; a row that was abandoned on its way takes in nothing."""
        predictions = dict[int, Prediction]()
        for batch, landing in flight.landings:
            predictions.update(zip(batch, landing(), strict=True))
        alive = {id(row) for row in rows}
        for index, item in enumerate(flight.work):
            if id(item.row) in alive:
                item.take(predictions[index])
                yield item, predictions[index]
