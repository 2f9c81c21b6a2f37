"""`fastdllm run [FILE.yml]`: one configuration, planned and run as a grid of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from fastdllm.cli.interrupted import counting


def flat_parameters(file: Path | None, changes: list[str]) -> dict[str, Any]:
    """Flat parameters of a YAML file (None: of nothing) with `key=value` changes.

    Raises ValueError naming the line, and for a grid.
    """
    from fastdllm.lab.config import yaml_file
    start = yaml_file.read(file) if file else yaml_file.of_options()
    if "experiment" in start.values:
        raise ValueError(f"{start.where(('experiment',))}: a grid of runs; allowed: flat parameters of one run, or "
                         f"fastdllm grid run {start.path.stem}")
    return start.set(changes).values


def run_configuration(flat: dict[str, Any], experiment: str, trace: int, force: bool, dry_run: bool) -> bool:
    """Run what is missing of one configuration, or with `dry_run` say what that is; whether it is complete."""
    from fastdllm.cli.grid import preview
    from fastdllm.lab.config import single
    from fastdllm.lab.jobs import preflight, runner
    from fastdllm.lab.jobs import status as states
    from fastdllm.lab.jobs.plan import plan
    grid = single.grid_of(flat, experiment, trace)
    [configuration] = grid.configurations()
    reuse = configuration.parameters.reuse
    if reuse.layers is not None and not reuse.active:
        typer.echo("k=1: every layer is computed at every step, the layers named have no effect; --k 2 reuses them")
    to_do = plan(grid, force=force)
    if dry_run:
        preview(to_do, to_do.text(), preflight.STARTED)
        return True
    with counting([configuration]):
        good = runner.run(to_do, jobs=1)
    after = states.states([configuration])
    typer.echo(states.text(after))
    typer.echo(f"record: {configuration.directory}")
    if states.all_complete(after):
        typer.echo(f"its report: fastdllm report {configuration.experiment}/{configuration.path}")
    return good and states.all_complete(after)
