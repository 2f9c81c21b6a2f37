"""`fastdllm doctor`: is this machine fit for a run?"""

from __future__ import annotations

from typing import Annotated

import typer

from fastdllm.cli import options

EXAMPLES = ("Examples: [bold]fastdllm doctor[/bold] · [bold]fastdllm doctor layer_reuse_7b[/bold] (its needs) · "
            "[bold]fastdllm doctor --task gpqa_main_n_shot[/bold] (gated data) · "
            "[bold]fastdllm doctor --model Efficient-Large-Model/Fast_dLLM_v2_7B --device cuda --dtype bfloat16[/bold]")


def doctor(
    params: Annotated[str | None, typer.Argument(help="A grid: all that it needs is checked.")] = None,
    task: Annotated[str | None, typer.Option(help="Can this task's problems be had?")] = None,
    model: Annotated[str | None, typer.Option(help=options.MODEL)] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
    offline: Annotated[
        bool, options.flag("--offline", help="What a job asks before it starts: no network, no data, no weights.")
    ] = False,
) -> None:
    """Check device, dtype, versions, driver, Slurm, hub login, checkpoint and data. Status 0: a run would start."""
    import os
    from itertools import chain

    from fastdllm.lab.config.parameters import Parameters
    from fastdllm.lab.config.paths import root
    from fastdllm.lab.jobs import checks, plan, preflight
    if not offline and not checks.reachable():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")       # before the hub's library is imported: no minutes of retries
    options = {"task": task, "model": model, "device": device, "dtype": dtype}
    given = {name: value for name, value in options.items() if value is not None}
    if params is None:
        runs, output = [Parameters.of(**given)], root() / "executed"
    else:
        from fastdllm.lab.config import grid_file
        grid = grid_file.load(params, environment=os.environ)
        configurations = grid_file.select(grid.configurations(), task)
        runs = [Parameters.of(**{**same[0].parameters.flat(), **given}) for same in plan.computations(configurations)]
        output = grid.directory
        idle = {configuration.task: configuration.not_applicable for configuration in reversed(configurations)}
        for name in sorted(set(idle) - {run.task for run in runs}):
            typer.echo(f"– task        {name} does not run: {idle[name]}")
        if not runs:
            raise typer.Exit(1)
    asked = (preflight.preflight(runs, output, preflight.ON_THE_NODE) if offline
             else chain(preflight.machine(), preflight.preflight(runs, output)))
    good = True
    for check in asked:
        good &= check.ok is not False
        if not offline or check.ok is False:
            typer.echo(str(check))
    if not good:
        raise typer.Exit(1)
    typer.echo("fit for this run")
