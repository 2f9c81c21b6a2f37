"""Several engines in threads over one queue of prompts: on a CPU a batch can use every core.

One operation of a small network is too short to be shared between cores, but half of the rows are
work enough for each. Rows are independent, so their tokens are what they are in one engine.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from fastdllm.decode.loop import Engine
from fastdllm.decode.row import Row
from fastdllm.decode.threads import torch_threads


class Shared:
    """An iterator of prompts that several threads may draw from; `close` makes it end."""

    def __init__(self, prompts: Iterator[tuple[int, list[int]]]):
        self.prompts, self.lock, self.closed = prompts, threading.Lock(), False

    def __iter__(self) -> Shared:
        return self

    def __next__(self) -> tuple[int, list[int]]:
        with self.lock:
            if self.closed:
                raise StopIteration
            return next(self.prompts)

    def close(self) -> None:
        self.closed = True


def rows_in_threads(engines: list[Engine], prompts: Iterator[tuple[int, list[int]]]) -> Generator[Row]:
    """Finished rows of all engines, each of which runs in a thread of its own with one torch thread.

    Raises ValueError for engines that are not fast ones (a trace is written and a policy's layers are run by one
    thread), and whatever an engine raises.
    """
    if not all(engine.executor_name == "fast" for engine in engines):
        raise ValueError(f"threads={len(engines)}; allowed: 1 with the eager executor (a trace, sampling, or a policy "
                         "or revision that the fast one does not do)")
    shared, done = Shared(prompts), SimpleQueue[Row | None]()

    def work(engine: Engine) -> None:
        try:
            for _ in engine.steps(shared):
                while engine.finished:
                    done.put(engine.finished.pop(0))
                if shared.closed:
                    return
            while engine.finished:
                done.put(engine.finished.pop(0))
        finally:
            done.put(None)

    with torch_threads(1), ThreadPoolExecutor(len(engines)) as pool:
        workers = [pool.submit(work, engine) for engine in engines]
        try:
            running = len(workers)
            while running:
                row = done.get()
                running -= row is None
                if row is not None:
                    yield row
            for worker in workers:
                worker.result()
        finally:
            shared.close()
