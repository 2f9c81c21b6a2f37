"""`fastdllm run NOTEBOOK.ipynb`: one notebook, on this machine or as a Slurm job."""

from __future__ import annotations

from pathlib import Path

import typer

from fastdllm.cli.interrupted import saying


def run_notebook(notebook: Path, params: str | None, changes: list[str], experiment: str, force: bool, submit: bool,
                 profile: str, dry_run: bool) -> bool:
    """Execute a notebook, submit it, or with `dry_run` say what would happen; whether it was done."""
    from fastdllm.lab.jobs import notebook_run
    notebook = notebook.resolve()
    values = notebook_run.read_parameters(notebook, params, changes)
    experiment = "notebooks" if experiment == "single" else experiment
    directory = notebook_run.notebook_directory(notebook, experiment, Path(params).stem if params else "")
    if submit:
        command = ["run", str(notebook), "--experiment", experiment]
        if params:
            command += ["--params", str(Path(params).resolve())]
        for change in changes:
            command += ["--set", change]
        return _submit(notebook, [*command, *(["--force"] if force else [])], directory, profile, dry_run)
    if dry_run:
        typer.echo(f"would run {notebook.name} with {values or 'its own parameters'} -> {directory / notebook.name}")
        return True
    with saying(f"no copy of {notebook.name} is kept, but all samples of the grids that it runs; the same command "
                "begins it again"):
        return notebook_run.run_notebook(notebook, values, directory, force)


def _submit(notebook: Path, command: list[str], directory: Path, profile: str, dry_run: bool) -> bool:
    """The notebook's run as a job; `command` are the arguments of `fastdllm`."""
    from fastdllm.lab.config import grid_file
    from fastdllm.lab.jobs import submission
    prepared = submission.plan_command(notebook.stem, command, directory, grid_file.slurm_profile(profile))
    if dry_run:
        typer.echo(prepared.text)
    else:
        typer.echo(f"submitted job {submission.submit(prepared).job}: {notebook.name} -> {directory}")
    return True
