"""The sbatch script of an array, from job.sh.j2.

No variable of the environment is written: a token reaches the node by the environment that sbatch passes on, or by the
hub's own login file.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from fastdllm.lab.config.parameters import Slurm
from fastdllm.lab.config.paths import root
from fastdllm.lab.config.shard import WHOLE
from fastdllm.lab.records import journal
from fastdllm.version import __version__


@dataclass(frozen=True)
class ArrayTask:
    """One array task: arguments of `fastdllm` and the directory in which it keeps unfinished samples, in files of the
    names `journals` (a shell pattern).

    `configurations` are complete when it is done, a shard's when all its tasks are; `first` are arguments that hold for
    the first start only (--force).
    """

    title: str
    command: tuple[str, ...]
    directory: Path
    configurations: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    journals: str = journal.pattern(WHOLE)


def render(name: str, tasks: Sequence[ArrayTask], settings: Slurm, folder: Path, doctor: Sequence[str],
           caches: dict[str, str], title: str) -> str:
    """The script's text. Raises ValueError if the signal would come before the configuration has any time."""
    if settings.signal_seconds >= seconds(settings.time):
        raise ValueError(f"slurm.signal_seconds={settings.signal_seconds}; "
                         f"allowed: less than slurm.time={settings.time}")
    environment = Environment(loader=PackageLoader("fastdllm.lab.jobs", "."),
                              undefined=StrictUndefined, autoescape=False,
                              keep_trailing_newline=True)
    environment.filters["quote"] = lambda value: shlex.quote(str(value))
    environment.filters["short"] = lambda value: str(value).removeprefix(f"{root()}/")    # the script works there
    log = folder / f"{name}-{'%a' if len(tasks) > 1 else '0'}.log"
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return environment.get_template("job.sh.j2").render(
        name=name, tasks=tasks, slurm=settings, doctor=doctor, caches=caches, log=log, root=root(), date=date,
        python=sys.executable, version=__version__, title=" ".join(title.split()))


def seconds(time: str) -> int:
    """Seconds of a Slurm time: minutes, MM:SS, H:MM:SS, D-H, D-H:MM or D-H:MM:SS."""
    days, dash, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    hours, minutes, secs = [*parts, 0, 0][:3] if dash or len(parts) == 3 else [0, *parts, 0][:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + secs
