"""Talking to Slurm: submit a script, ask for the states of jobs, cancel.

States come from `squeue` while a job is in the queue, then from `sacct` where there is accounting, and else from
`scontrol show job`, which knows a job for some minutes after its end (MinJobAge).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED")
RUNNING = ("RUNNING", "COMPLETING", "CONFIGURING", "SIGNALING", "STAGE_OUT")
TIMEOUT = 30    # seconds that Slurm may take to answer


@dataclass(frozen=True)
class SlurmJob:
    """One task of an array (or a plain job, task None) as Slurm sees it."""

    id: int
    task: int | None
    state: str
    node: str = ""
    elapsed: str = ""
    reason: str = ""
    exit_code: str = ""

    @property
    def name(self) -> str:
        """As `scancel` takes it: 12 or 12_3."""
        return str(self.id) if self.task is None else f"{self.id}_{self.task}"

    @property
    def waiting(self) -> bool:
        return self.state in WAITING

    @property
    def running(self) -> bool:
        return self.state in RUNNING

    @property
    def over(self) -> bool:
        return not (self.waiting or self.running)


class SlurmError(ValueError):
    """Slurm said no, or did not answer; the message is its own."""


def available() -> bool:
    """Whether this machine has Slurm's commands."""
    return shutil.which("sbatch") is not None


def ask(*command: str) -> str:
    """The output of one of Slurm's commands. Raises SlurmError with what it said."""
    if shutil.which(command[0]) is None:
        raise SlurmError(f"{command[0]} is not on this machine; allowed: a login node of a Slurm cluster")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"{command[0]} did not answer within {TIMEOUT} s; allowed: trying again") from error
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}"
        raise SlurmError(f"{command[0]}: {said}")
    return done.stdout


def submit(script: Path, *options: str) -> int:
    """Submit a script; returns the job id."""
    return int(ask("sbatch", "--parsable", *options, str(script)).strip().split(";")[0])


def jobs(ids: Iterable[int]) -> dict[tuple[int, int | None], SlurmJob]:
    """What Slurm knows of these jobs: by job id and array index. Forgotten ones are left out."""
    wanted = sorted(set(ids))
    if not wanted or not available():
        return {}
    known = {(job.id, job.task): job for job in [*_accounted(wanted), *_queued(wanted)]}    # the queue knows best
    if missing := [job for job in wanted if not any(number == job for number, _ in known)]:
        known |= {(job.id, job.task): job for job in _shown(missing)}
    elif partly := {job.id for job in known.values() if not job.over}:    # tasks that have left the queue
        known = {(job.id, job.task): job for job in _shown(sorted(partly))} | known
    return known


def names(ids: Iterable[int]) -> dict[int, str]:
    """The names of jobs that are still in the queue."""
    lines = [line.split("|", 1) for line in _squeue(sorted(set(ids)), "%F|%j")]
    return {int(number): name for number, name in lines}


def cancel(ids: Iterable[str]) -> None:
    """Cancel exactly these jobs or tasks."""
    if chosen := list(ids):
        ask("scancel", *chosen)


def _squeue(ids: list[int], form: str) -> list[str]:
    if not ids:
        return []
    try:
        return ask("squeue", "--noheader", "--array", f"--jobs={','.join(map(str, ids))}", "-o", form).splitlines()
    except SlurmError as error:
        if "Invalid job id" in str(error):      # all have left the queue
            return []
        raise


def _queued(ids: list[int]) -> list[SlurmJob]:
    listed = []
    for line in _squeue(ids, "%F|%K|%T|%N|%M|%r"):
        number, task, state, node, elapsed, reason = line.split("|", 5)
        listed.append(SlurmJob(int(number), _index(task), state, node, elapsed, _value(reason)))
    return listed


def _accounted(ids: list[int]) -> list[SlurmJob]:
    """From sacct; nothing where there is no accounting."""
    if shutil.which("sacct") is None:
        return []
    try:
        text = ask("sacct", "-X", "-n", "-P", "-j", ",".join(map(str, ids)), "-o",
                   "JobID,State,NodeList,Elapsed,Reason,ExitCode")
    except SlurmError:
        return []      # "accounting storage is disabled": scontrol is asked instead
    listed = []
    for line in text.splitlines():
        name, state, node, elapsed, reason, code = line.split("|")
        number, _, task = name.partition("_")
        if number.isdigit() and "[" not in task:
            listed.append(
                SlurmJob(int(number), _index(task), state.split()[0], _value(node), elapsed, _value(reason), code)
            )
    return listed


def _shown(ids: list[int]) -> list[SlurmJob]:
    """From `scontrol show job`, one line a job."""
    listed = []
    for job in ids:
        try:
            text = ask("scontrol", "--oneliner", "show", "job", str(job))
        except SlurmError as error:
            if "Invalid job id" in str(error):
                continue
            raise
        for line in text.splitlines():
            fields = dict(re.findall(r"(\w+)=(\S*)", line))
            task = _index(fields.get("ArrayTaskId", ""))
            if "ArrayTaskId" in fields and task is None:
                continue                        # "3-8": the part of the array that has not begun; squeue has it
            listed.append(SlurmJob(int(fields.get("ArrayJobId", fields["JobId"])), task, fields["JobState"],
                             _value(fields.get("NodeList", "")), fields.get("RunTime", ""),
                             _value(fields.get("Reason", "")), fields.get("ExitCode", "")))
    return listed


def _index(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def _value(text: str) -> str:
    return "" if text in ("None", "(null)", "None assigned") else text
