"""One problem of a task, as the panel poses it.

A benchmark is loaded in a process of its own: that takes seconds, silences standard output meanwhile, and retries for
half a minute where the hub can't be reached, unless HF_HUB_OFFLINE was set before the hub's library was imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass

from fastdllm import tasks
from fastdllm.lab.jobs.checks import reachable

POLL = 0.2           # seconds between two looks at whether the loading is to stop


@dataclass(frozen=True)
class DisplayedProblem:
    """A problem's text and known answer; `id` is "" for no problem."""

    id: str = ""
    prompt: str = ""
    target: str = ""


def pick(task: str, index: int) -> DisplayedProblem:
    """Problem `index` of a task. Raises ValueError for an index or data that aren't there."""
    problems = tasks.get(task).problems(limit=index + 1)
    if index >= len(problems):
        raise ValueError(f"problem: {index} of {task}; allowed: 0 to {len(problems) - 1}")
    prompt = problems[index].prompt
    return DisplayedProblem(
        problems[index].id, prompt if isinstance(prompt, str) else prompt[-1]["content"], problems[index].target
    )


def fetch(task: str, index: int, stop: threading.Event) -> DisplayedProblem | None:
    """`pick` in a process of its own; None if `stop` was set meanwhile. Raises ValueError with what went wrong."""
    offline = {} if reachable() else {"HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen([sys.executable, "-m", __name__, task, str(index)], env={**os.environ, **offline},
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while True:
        try:
            out, err = process.communicate(timeout=POLL)
        except subprocess.TimeoutExpired:
            if stop.is_set():
                process.kill()
            continue
        if stop.is_set():
            return None
        if process.returncode:
            raise ValueError((err.splitlines() or [f"loading {task} ended with {process.returncode}"])[-1])
        return DisplayedProblem(**json.loads(out.splitlines()[-1]))


def main(task: str, index: str) -> None:
    """What that process does: one line of JSON, or what is wrong as the last line of standard error."""
    try:
        print(json.dumps(asdict(pick(task, int(index)))))
    except (ValueError, ImportError) as error:
        sys.exit(" ".join(str(error).split()))


if __name__ == "__main__":
    main(*sys.argv[1:])
