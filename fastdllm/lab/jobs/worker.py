"""One notebook in a process of its own: `python -m fastdllm.lab.jobs.worker`, the job as JSON on standard input.

It holds the configuration's lock, marks a failure and renames what is finished. Standard input stays open as long
as the process that started it lives: when that dies, so does this one, and its kernel with it. A shard of a
configuration has a worker of its own, lab/evaluation/shard_worker.py, which is run in the same way.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastdllm.lab import atomic
from fastdllm.lab.config.paths import root
from fastdllm.lab.config.shard import WHOLE, Shard
from fastdllm.lab.jobs import marks
from fastdllm.lab.jobs.marks import NotebookFailed
from fastdllm.lab.jobs.notebooks import check
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
        return execute_job(job)
    return guarded(directory, WHOLE, clean_and_execute)


def execute_job(job: Work) -> int:
    """Execute the notebook of a job. Raises what `execute` raises."""
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
            marks.clear(directory, shard)
            atomic.write(directory / shard.file(marks.OPEN), json.dumps({"pid": os.getpid(), "began": time.time()}))
            try:
                with marks.failure_kept(directory, shard):
                    return do()
            finally:
                (directory / shard.file(marks.OPEN)).unlink(missing_ok=True)
    except (Locked, NotebookFailed) as error:
        print(error, file=sys.stderr)
        return LOCKED if isinstance(error, Locked) else FAILED


def execute(notebook: Path, output: Path, parameters: dict[str, Any], cwd: Path | None = None) -> None:
    """Run a notebook with papermill; `output` appears whole when it has succeeded.

    A failed notebook is kept as `NAME.failed.ipynb`, with its traceback, and NotebookFailed is raised; Locked if it
    failed because another process works on its configuration. Raises ValueError before anything starts for parameters
    that the notebook doesn't have.
    """
    values = check(notebook, parameters)
    from papermill.exceptions import PapermillExecutionError
    part = output.with_name(f"{output.stem}.{os.getpid()}.part.ipynb")
    failed = output.with_name(f"{output.stem}.failed.ipynb")
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        _run(notebook, part, values, cwd or root())
    except PapermillExecutionError as error:
        atomic.move(part, failed)
        if error.ename == Locked.__name__:
            raise Locked(error.evalue) from error
        raise NotebookFailed(_last_line(error), _cell_name(notebook, failed), error.ename) from error
    with part.open("rb") as handle:
        os.fsync(handle.fileno())
    atomic.move(part, output)
    failed.unlink(missing_ok=True)


def _run(notebook: Path, part: Path, values: dict[str, Any], cwd: Path, tries: int = 3) -> None:
    import papermill
    import zmq
    from traitlets.config import Config
    logging.getLogger("papermill").addFilter(told)
    # ipc kernels of two processes mix up their sockets; tcp is encrypted where the kernel can be
    kernel = {"transport": "tcp", "transport_encryption": "auto" if zmq.has("curve") else "disabled"}
    try:
        papermill.execute_notebook(
            str(notebook), str(part), parameters=values, cwd=str(cwd), progress_bar=False, log_output=True,
            config=Config(KernelManager=kernel))
    except RuntimeError as error:       # the kernel is dead: out of memory, or another process was faster at its port
        if "before replying" not in str(error) or tries == 1:
            raise NotebookFailed(str(error).strip(), "(the kernel)", type(error).__name__) from error
        _run(notebook, part, values, cwd, tries - 1)


def told(line: logging.LogRecord) -> bool:
    """Whether a line of papermill's is worth a log: it warns of each parameter whose declaration it can't read, all of
    which `check` has read (docs/architecture.md)."""
    return not line.getMessage().startswith("Passed unknown parameter")


def _last_line(error: Any) -> str:
    text = f"{error.ename}: {error.evalue}".strip()
    return re.sub(r"\x1b\[[0-9;]*m", "", text.splitlines()[0] if text else "unknown error")


def _cell_name(notebook: Path, failed: Path) -> str:
    """The name of the cell that failed: its `name` in the metadata, else its first line."""
    for cell in json.loads(failed.read_text(encoding="utf-8"))["cells"]:
        if any(output.get("output_type") == "error" for output in cell.get("outputs", [])):
            first = next(iter("".join(cell["source"]).strip().splitlines()), "")
            return cell["metadata"].get("name") or first[:60] or str(cell.get("id"))
    return f"{notebook.stem}: unknown"


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
