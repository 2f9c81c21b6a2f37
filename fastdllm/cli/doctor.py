"""`fastdllm doctor`: is this machine fit for a run?"""

from __future__ import annotations

from typing import Annotated

import typer

EXAMPLES = ("Examples: [bold]fastdllm doctor[/bold] · [bold]fastdllm doctor layer_reuse_7b[/bold] (its needs) · "
            "[bold]fastdllm doctor --task gpqa_main_n_shot[/bold] (gated data) · "
            "[bold]fastdllm doctor --model Efficient-Large-Model/Fast_dLLM_v2_7B --device cuda --dtype bfloat16[/bold]")


def doctor(
    params: Annotated[str | None, typer.Argument(help="A grid: all that it needs is checked.")] = None,
    task: Annotated[str | None, typer.Option(help="Can this task's problems be had?")] = None,
    model: Annotated[str | None, typer.Option(help="tiny, a directory, or a hub id.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="What a job asks before it starts: no network, no data, no weights.")
    ] = False,
) -> None:
    """Check device, dtype, versions, driver, Slurm, hub login, checkpoint and data. Status 0: a run would start."""
    import os

    from fastdllm.lab.config.parameters import Parameters
    from fastdllm.lab.config.paths import root
    from fastdllm.lab.jobs import doctor as lab
    from fastdllm.lab.jobs import plan as plans
    if not offline and not lab.reachable():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")       # before the hub's library is imported: no minutes of retries
    options = {"task": task, "model": model, "device": device, "dtype": dtype}
    given = {name: value for name, value in options.items() if value is not None}
    if params is None:
        runs, output = [Parameters.of(**given)], root() / "executed"
    else:
        from fastdllm.lab.config import grid_file
        grid = grid_file.load(params)
        os.environ.update(grid.caches)
        configurations = plans.select(grid.configurations(), task)
        runs = list({configuration.parameters.key(): Parameters.of(**{**configuration.parameters.flat(), **given})
                     for configuration in configurations if not configuration.not_applicable}.values())
        output = grid.directory
        for name in sorted({configuration.task for configuration in configurations} - {run.task for run in runs}):
            reason = next(
                configuration.not_applicable for configuration in configurations if configuration.task == name
            )
            typer.echo(f"– task        {name} does not run: {reason}")
        if not runs:
            raise typer.Exit(1)
    checks = []
    for check in lab.examine(runs, output, offline=offline):
        checks.append(check)
        if not offline or check.ok is False:
            typer.echo(str(check))
    if not lab.healthy(checks):
        raise typer.Exit(1)
    typer.echo("fit for this run")
