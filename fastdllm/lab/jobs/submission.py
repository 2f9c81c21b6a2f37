"""Submitting: one readable sbatch array script per grid, kept beside the records, and what was submitted.

    executed/<experiment>/slurm/<name>.yml     the grid as it was submitted (later edits of params/ don't touch it)
    executed/<experiment>/slurm/<name>.sh      the script
    executed/<experiment>/slurm/<name>.json    job id and which array task runs which configurations
    executed/<experiment>/slurm/<name>-0.log   what Slurm wrote for array task 0
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fastdllm.lab import atomic
from fastdllm.lab.config import yaml_file
from fastdllm.lab.config.grid import Grid
from fastdllm.lab.config.parameters import OF_GPU_NODES, Slurm
from fastdllm.lab.jobs import slurm
from fastdllm.lab.jobs.plan import RunPlan, Unit
from fastdllm.lab.jobs.script import ArrayTask, render
from fastdllm.lab.records import journal
from fastdllm.settings import Settings
from fastdllm.stats import number_of

FOLDER = "slurm"


class Submission(Settings):
    """What stands in slurm/<name>.json. `tasks[i]` are the paths of the configurations that array index i runs."""

    name: str
    job: int
    submitted: str
    tasks: tuple[tuple[str, ...], ...]
    report_job: int | None = None


@dataclass(frozen=True)
class SubmissionPlan:
    """A submission before it happens: what `--dry-run` prints."""

    name: str
    folder: Path
    script: str
    tasks: tuple[ArrayTask, ...]
    grid: Grid | None = None
    report: str | None = None
    runs: RunPlan | None = None

    @property
    def text(self) -> str:
        """Script by script, and the commands that would submit them."""
        parts = [f"# {self.folder / self.name}.sh", self.script, f"# sbatch {self.folder / self.name}.sh"]
        if self.report is not None:
            parts += ["", f"# {self.folder / self.name}-report.sh", self.report,
                      f"# sbatch --dependency=afterany:JOB {self.folder / self.name}-report.sh"]
        return "\n".join(parts)


def plan_grid(plan: RunPlan, *, report: bool = False) -> SubmissionPlan:
    """A plan's array: one task for each run or shard, which also serves the configurations that share the run.

    Raises ValueError if there is nothing to submit.
    """
    grid = plan.grid
    if not plan.run:
        raise ValueError(
            f"{grid.experiment}: nothing to submit; allowed: a grid with configurations that are neither complete "
            "nor in the queue"
        )
    folder, name = grid.directory / FOLDER, new_name(grid.experiment)
    params = folder / f"{name}.yml"
    tasks = tuple(_task(params, unit) for unit in plan.units())
    served = sum(1 + len(planned.shared_with) for planned in plan.run)
    shards = f" in {len(tasks)} shards" if len(tasks) > len(plan.run) else ""
    title = f"{grid.experiment}: {number_of(len(plan.run), 'run')}{shards} for {number_of(served, 'configuration')}"
    script = render(name, tasks, grid.slurm, folder, ("doctor", str(params), "--offline"), grid.caches, title)
    if not report:
        return SubmissionPlan(name, folder, script, tasks, grid, runs=plan)
    task = ArrayTask("the report", ("grid", "report", str(params)), folder)
    light = grid.slurm.model_copy(update=dict.fromkeys(OF_GPU_NODES))
    after = render(f"{name}-report", (task,), light, folder, (), grid.caches,
                   f"{grid.experiment}: the report, when the grid is through")
    return SubmissionPlan(name, folder, script, tasks, grid, after, plan)


def plan_command(title: str, command: Sequence[str], directory: Path, settings: Slurm,
                 doctor: Sequence[str] = ("doctor", "--offline")) -> SubmissionPlan:
    """A single job, like one notebook: `command` are the arguments of `fastdllm`."""
    folder, name = directory / FOLDER, new_name(directory.name)
    task = ArrayTask(title, tuple(command), directory)
    return SubmissionPlan(name, folder, render(name, (task,), settings, folder, doctor, {}, title), (task,))


def submit(plan: SubmissionPlan) -> Submission:
    """Write the files of a plan, submit it, and note what was submitted. Raises SlurmError with Slurm's words, and
    ValueError for forced runs in shards whose identity only a GPU node could tell.
    """
    script, params = plan.folder / f"{plan.name}.sh", plan.folder / f"{plan.name}.yml"
    if plan.runs is not None:
        plan.runs.start_over(plan.runs.units())
    if plan.grid is not None:
        as_submitted = plan.grid.model_copy(update={"slurm": plan.grid.slurm.model_copy(update={"profile": None})})
        values = as_submitted.model_dump(mode="json", exclude_defaults=True)
        atomic.write(params, yaml_file.dump(values))
    atomic.write(script, plan.script)
    job = slurm.submit(script)
    note = Submission(name=plan.name, job=job, submitted=datetime.now(UTC).isoformat(timespec="seconds"),
                      tasks=tuple(task.configurations for task in plan.tasks))
    _keep(plan.folder, note)
    if plan.report is not None:
        after = plan.folder / f"{plan.name}-report.sh"
        atomic.write(after, plan.report)
        note = note.model_copy(update={"report_job": slurm.submit(after, f"--dependency=afterany:{job}")})
        _keep(plan.folder, note)
    return note


def submissions(directory: Path) -> list[Submission]:
    """What was submitted from an experiment's directory, the oldest first."""
    notes = [Submission(**json.loads(path.read_text(encoding="utf-8")))
             for path in sorted((directory / FOLDER).glob("*.json"))]
    return sorted(notes, key=lambda note: (note.submitted, note.job))


def cell_jobs(directory: Path) -> dict[str, slurm.SlurmJob]:
    """The latest Slurm task of every configuration that was submitted, by its path; forgotten jobs are left out. Of
    several, one for each shard: one that runs, else that waits, else that ended badly.
    """
    latest = {configuration: (note.job, [index for index, own in enumerate(note.tasks) if configuration in own])
              for note in submissions(directory) for configurations in note.tasks for configuration in configurations}
    known = slurm.jobs(job for job, _ in latest.values())
    jobs = {path: [task for index in indexes if (task := known.get((job, index)) or known.get((job, None)))]
            for path, (job, indexes) in latest.items()}
    return {path: min(tasks, key=lambda job: (not job.running, not job.waiting, job.state == "COMPLETED"))
            for path, tasks in jobs.items() if tasks}


def cancel(directory: Path, configurations: set[str] | None = None) -> list[str]:
    """Cancel this experiment's jobs, or only the tasks that run just `configurations`; returns what was cancelled.

    A job is ours if its number was noted at submission and it still has the name that it got then.
    """
    notes = submissions(directory)
    names = slurm.names([number for note in notes for number in (note.job, note.report_job) if number is not None])
    known = slurm.jobs(number for number in names)
    chosen: list[str] = []
    for note in notes:
        if names.get(note.job) == note.name:
            if configurations is None:
                chosen.append(str(note.job))
            else:
                chosen += [
                    job.name
                    for index, own in enumerate(note.tasks)
                    if set(own) & configurations and set(own) <= configurations
                    for job in (known.get((note.job, index)) or known.get((note.job, None)),)
                    if job is not None and not job.over
                ]
        if (
            configurations is None
            and note.report_job is not None
            and names.get(note.report_job) == f"{note.name}-report"
        ):
            chosen.append(str(note.report_job))
    slurm.cancel(chosen)
    return chosen


def job_log(directory: Path, configuration: str) -> Path | None:
    """What Slurm wrote for the latest task of a configuration; None if it was never submitted."""
    for note in reversed(submissions(directory)):
        for index, configurations in enumerate(note.tasks):
            if configuration in configurations:
                return directory / FOLDER / f"{note.name}-{index if len(note.tasks) > 1 else 0}.log"
    return None


def new_name(experiment: str) -> str:
    """`demo-20261121-101500-3f2a`: also the job's name, by which `cancel` knows its own."""
    return f"{experiment}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def _task(params: Path, unit: Unit) -> ArrayTask:
    planned, shard = unit.planned, unit.shard
    configurations = [planned.configuration, *planned.shared_with]
    command = ["grid", "run", str(params), "--task", configurations[0].task]
    for configuration in configurations:
        command += ["--config", configuration.name]
    paths = tuple(configuration.path for configuration in configurations)
    title, directory = ", ".join(paths), configurations[0].directory
    if shard.whole:
        return ArrayTask(title, tuple(command), directory, paths, ("--force",) if planned.forced else ())
    return ArrayTask(f"{title}: shard {shard}", (*command, "--shard", str(shard)), directory, paths,
                     journals=journal.pattern(shard))


def _keep(folder: Path, note: Submission) -> None:
    atomic.write(folder / f"{note.name}.json", note.model_dump_json(indent=1) + "\n")
