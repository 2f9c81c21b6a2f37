"""One notebook in a process of its own: `python -m fastdllm.lab.jobs.worker`, the job as JSON on standard input.

It holds the configuration's lock, marks a failure and renames what is finished. Standard input stays open as long
as the process that started it lives: when that dies, so does this one, and its kernel with it. A shard of a
configuration has a worker of its own, lab/evaluation/shard_worker.py, which is run in the same way.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastdllm.lab import atomic
from fastdllm.lab.config.shard import WHOLE, Shard
from fastdllm.lab.jobs import status
from fastdllm.lab.jobs.notebooks import NotebookFailed, execute
from fastdllm.lab.records import locks
from fastdllm.lab.records.locks import Locked, lock

DONE, FAILED, LOCKED, OTHERS_GO_ON = 0, 1, 75, 76      # exit status; the last: a shard is done, and its run is not


@dataclass(frozen=True)
class Work:
    """A notebook, its parameters, and where the executed copy goes (its directory is the configuration's).

    `shard` is the part of the problems to solve, like 2of4; of a shard that is not the last to end no notebook runs.
    """

    notebook: str
    output: str
    parameters: dict[str, Any]
    cwd: str
    shard: str = str(WHOLE)

    def dumps(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))


def work(job: Work) -> int:
    """Execute the notebook under the configuration's lock, what a kill left behind removed first; the exit status."""
    directory = Path(job.output).parent

    def clean_and_execute() -> int:
        for leftover in directory.glob("*.part*"):
            leftover.unlink()
        return execute_notebook(job)
    return guarded(directory, WHOLE, clean_and_execute)


def execute_notebook(job: Work) -> int:
    """The notebook of a job; NotebookFailed if it fails."""
    began = time.time()
    execute(Path(job.notebook), Path(job.output), job.parameters, Path(job.cwd))
    print(f"finished in {time.time() - began:.1f} s: {job.output}")
    return DONE


def guarded(directory: Path, shard: Shard, do: Callable[[], int]) -> int:
    """What `do` returns, done under the run lock of a shard; whatever ends it, the configuration says so.

    Only a kill leaves OPEN behind. What ends it besides the notebook's own errors (no such kernel, a full disk) goes on
    to the caller.
    """
    try:
        with lock(directory / shard.file(locks.RUN), wait=5.0):
            status.clear(directory, shard)
            atomic.write(directory / shard.file(status.OPEN), json.dumps({"pid": os.getpid(), "began": time.time()}))
            try:
                with status.failure_kept(directory, shard):
                    return do()
            finally:
                (directory / shard.file(status.OPEN)).unlink(missing_ok=True)
    except (Locked, NotebookFailed) as error:
        print(error, file=sys.stderr)
        return LOCKED if isinstance(error, Locked) else FAILED


def die_with_parent() -> None:
    """End this process when the one that started it is gone: its end of our standard input closes."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)


def main(work: Callable[[Work], int] = work) -> None:
    """Read a job, run it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("traitlets").setLevel(logging.WARNING)
    job = Work(**json.loads(sys.stdin.readline()))
    threading.Thread(target=die_with_parent, daemon=True).start()
    raise SystemExit(work(job))


if __name__ == "__main__":
    main()
