"""One notebook in a process of its own: `python -m fastdllm.lab.jobs.worker`, the job as JSON on standard input.

It holds the configuration's lock, marks a failure and renames what is finished. Standard input stays open as long
as the process that started it lives: when that dies, so does this one, and its kernel with it.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastdllm.lab import atomic
from fastdllm.lab.jobs import status
from fastdllm.lab.jobs.notebooks import NotebookFailed, execute
from fastdllm.lab.records.locks import Locked, lock

DONE, FAILED, LOCKED = 0, 1, 75      # exit status


@dataclass(frozen=True)
class Work:
    """A notebook, its parameters, and where the executed copy goes (its directory is the configuration's)."""

    notebook: str
    output: str
    parameters: dict[str, Any]
    cwd: str

    def dumps(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))


def work(job: Work) -> int:
    """Run the job under the configuration's lock; the exit status says how it ended. Only a kill leaves OPEN behind."""
    output = Path(job.output)
    directory = output.parent
    try:
        with lock(directory / status.RUN_LOCK, wait=5.0):
            for leftover in directory.glob("*.part*"):
                leftover.unlink()
            status.clear(directory)
            began = time.time()
            atomic.write(directory / status.OPEN, json.dumps({"pid": os.getpid(), "began": began}))
            try:
                execute(Path(job.notebook), output, job.parameters, Path(job.cwd))
                print(f"finished in {time.time() - began:.1f} s: {output}")
                result = DONE
            except NotebookFailed as failure:
                result = LOCKED if failure.ename == Locked.__name__ else FAILED
                if result == FAILED:
                    status.fail(directory, failure.error, failure.where)
                print(failure, file=sys.stderr)
            except Exception as error:      # whatever ended it, the configuration says so
                message = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
                status.fail(directory, message)
                traceback.print_exc()
                print(message, file=sys.stderr)
                result = FAILED
            (directory / status.OPEN).unlink()
            return result
    except Locked as error:
        print(error, file=sys.stderr)
        return LOCKED


def die_with_parent() -> None:
    """End this process when the one that started it is gone: its end of our standard input closes."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Read a job, run it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("traitlets").setLevel(logging.WARNING)
    job = Work(**json.loads(sys.stdin.readline()))
    threading.Thread(target=die_with_parent, daemon=True).start()
    raise SystemExit(work(job))


if __name__ == "__main__":
    main()
