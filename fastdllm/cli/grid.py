"""`fastdllm grid`: an experiment's configurations, seen, run, submitted, followed and reported."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastdllm.cli import options
from fastdllm.cli.interrupted import REPORT, counting, saying

if TYPE_CHECKING:
    from fastdllm.lab.config.grid import Configuration, Grid
    from fastdllm.lab.jobs.plan import RunPlan
    from fastdllm.lab.jobs.preflight import Cost
    from fastdllm.lab.jobs.slurm import SlurmJob

app = typer.Typer(
    no_args_is_help=True, cls=options.Group,
    help="Grids of runs: params/*.yml, one configuration for each combination of the axes.",
    epilog=(
        "Examples: [bold]fastdllm grid status[/bold] (the default grid, layer_reuse) · "
        "[bold]fastdllm grid run demo[/bold] · [bold]fastdllm grid run layer_reuse_7b --task gsm8k --limit 10[/bold] · "
        "[bold]fastdllm grid run demo --config k2_middle --force[/bold] · "
        "[bold]fastdllm grid submit layer_reuse_7b --dry-run[/bold] · [bold]fastdllm grid logs demo k2_middle -f[/bold]"
    ),
)

PARAMS = typer.Argument(help="A YAML file, or the name of one in params/ (default: layer_reuse).",
                        show_default=False)
NAMES = typer.Argument(help="With --force: only these configurations start over.", show_default=False)
TASK = typer.Option("--task", help="Only this task of the grid; a task that it lacks replaces its own.")
LIMIT = typer.Option("--limit", min=1, help="At most so many problems (per subtask); kept apart in _limit_N.")
CONFIG = typer.Option("--config", help="Only this configuration, like k2_middle (may be given again).")
SET = typer.Option("--set", help="Change a value, like decoding.threshold=0.8 or axes.k=[1,2].")
FORCE = options.flag("--force", help="Start over, also where complete; names may follow.")
FORCED = typer.Option("--force-config", help="Start this configuration over (may be given again).")
DRY = options.flag("--dry-run", help="Print exactly what would happen, and do nothing.")
JOBS = typer.Option("--jobs", min=1, help="Configurations at once (default: what cores, memory and GPUs hold).")
SHARDS = typer.Option("--shards", min=1, help="Split each configuration into so many parts, each a process or an array "
                                              "task of its own (default here: only to keep all GPUs busy).")
SHARD = typer.Option("--shard", help="Only this part of each configuration, like 2of4; other machines do the others.")


def options_text(params: str | None, task: str | None, limit: int | None, config: list[str] | None,
                 changes: list[str] | None) -> str:
    """The options that mean the same configurations again, as they are typed."""
    words = [*([params] if params else []), *(["--task", task] if task else []),
             *(["--limit", str(limit)] if limit else [])]
    words += [word for name in config or [] for word in ("--config", name)]
    words += [word for change in changes or [] for word in ("--set", change)]
    return shlex.join(words)


def read(params: str | None, task: str | None, limit: int | None, config: list[str] | None,
         changes: list[str] | None) -> tuple[Grid, list[Configuration]]:
    """The grid and the configurations that are meant; the grid's caches go into this program's environment."""
    import os

    from fastdllm.lab.config import grid_file
    return grid_file.load_part(params, task, limit, config or (), changes or (), os.environ)


def forced(params: str | None, names: list[str] | None, force: bool,
           config: list[str] | None) -> tuple[str | None, bool | list[str]]:
    """`--force [NAME]`: the params file, and what starts over (everything, or some names)."""
    from fastdllm.lab.config import grid_file
    names = [*(names or []), *(config or [])]
    if force and params is not None:
        try:
            grid_file.find(params)
        except ValueError:      # `grid run --force k2_middle`: the default grid
            params, names = None, [params, *names]
    if names and not (force or config):
        raise ValueError(
            f"{' '.join(names)}: names stand behind --force only; allowed: --config NAME to choose configurations"
        )
    return params, names or force


def queue(grid: Grid) -> dict[str, SlurmJob]:
    """Where Slurm has the grid's configurations; empty without Slurm, and inside a job, which runs its own."""
    import os

    from fastdllm.lab.jobs import slurm
    if not slurm.available() or "SLURM_JOB_ID" in os.environ:
        return {}
    from fastdllm.lab.jobs.submission import cell_jobs
    return cell_jobs(grid.directory)


def planned(params: str | None, names: list[str] | None, task: str | None, limit: int | None, config: list[str] | None,
            changes: list[str] | None, force: bool, force_config: list[str] | None, shards: int | None,
            shard: str | None = None) -> tuple[RunPlan, list[Configuration]]:
    """The plan of `run` and `submit`, and the configurations that were asked for."""
    from fastdllm.lab.config import grid_file
    from fastdllm.lab.config.shard import Shard
    from fastdllm.lab.jobs import plan as plans
    part = None if shard is None else Shard.parse(shard)
    params, over = forced(params, names, force, force_config)
    changes = [*(changes or []), *([] if shards is None else [f"shards={shards}"])]
    grid, configurations = read(params, task, limit, config, changes)
    if not isinstance(over, bool):
        grid_file.select(configurations, None, over)      # an unknown name is an error
    return plans.plan(grid, configurations, over, queue=queue(grid), shard=part), configurations


def preview(plan: RunPlan, text: str, costs: frozenset[Cost]) -> None:
    """What `--dry-run` prints: the text, or on stderr what would be refused before anything starts."""
    refused = [check for check in plan.checks(costs) if check.ok is False]
    for check in refused:
        typer.echo(f"would be refused: {check.name}: {check.text}", err=True)
    if not refused:
        typer.echo(text)


@app.command(cls=options.GridCommand)
def status(params: Annotated[str | None, PARAMS] = None, task: Annotated[str | None, TASK] = None,
           limit: Annotated[int | None, LIMIT] = None, config: Annotated[list[str] | None, CONFIG] = None,
           changes: Annotated[list[str] | None, SET] = None) -> None:
    """Show all: complete, stale (and why), partial, failed, running, queued, pending. Status 0: all complete."""
    from fastdllm.lab.jobs import status as states
    from fastdllm.lab.records import external_code
    from fastdllm.lab.records.identity import CurrentFingerprints
    grid, configurations = read(params, task, limit, config, changes)
    current = CurrentFingerprints()
    ours = states.states(configurations, current, queue(grid))
    others = [states.state_of(configuration, current)
              for configuration in external_code.configurations(configurations, config or ())]
    typer.echo(states.text(ours, others))
    if not states.all_complete(ours):
        raise typer.Exit(1)


@app.command(cls=options.GridCommand)
def run(params: Annotated[str | None, PARAMS] = None, names: Annotated[list[str] | None, NAMES] = None,
        task: Annotated[str | None, TASK] = None, limit: Annotated[int | None, LIMIT] = None,
        config: Annotated[list[str] | None, CONFIG] = None, force: Annotated[bool, FORCE] = False,
        force_config: Annotated[list[str] | None, FORCED] = None, dry_run: Annotated[bool, DRY] = False,
        jobs: Annotated[int | None, JOBS] = None, shards: Annotated[int | None, SHARDS] = None,
        shard: Annotated[str | None, SHARD] = None, changes: Annotated[list[str] | None, SET] = None) -> None:
    """Run what is missing on this machine, on all its GPUs; partial configurations go on at the next unsolved problem.
    """
    from fastdllm.lab.jobs import preflight, runner
    from fastdllm.lab.jobs import status as states
    plan, configurations = planned(params, names, task, limit, config, changes, force, force_config, shards, shard)
    if dry_run:
        preview(plan, plan.text(), preflight.STARTED)
        return
    with counting([planned.configuration for planned in plan.run]):
        good = runner.run(plan, jobs)
    after = states.states(configurations, jobs=queue(plan.grid))
    typer.echo(states.text(after))
    typer.echo(f"records: {plan.grid.directory}")
    if not (good and (shard or states.all_complete(after))):
        raise typer.Exit(1)


@app.command(cls=options.GridCommand)
def submit(params: Annotated[str | None, PARAMS] = None, names: Annotated[list[str] | None, NAMES] = None,
           task: Annotated[str | None, TASK] = None, limit: Annotated[int | None, LIMIT] = None,
           config: Annotated[list[str] | None, CONFIG] = None, force: Annotated[bool, FORCE] = False,
           force_config: Annotated[list[str] | None, FORCED] = None, dry_run: Annotated[bool, DRY] = False,
           report: Annotated[bool, options.flag("--dependency", "--report", help="Run the report after the grid, as a "
                                                "job that depends on it.")] = False,
           shards: Annotated[int | None, SHARDS] = None, changes: Annotated[list[str] | None, SET] = None) -> None:
    """Submit what is missing to Slurm, as one array; what is queued or running already is left alone."""
    from fastdllm.lab.jobs import preflight, runner, submission
    from fastdllm.stats import number_of
    plan, _ = planned(params, names, task, limit, config, changes, force, force_config, shards)
    for state in plan.busy:
        typer.echo(f"left alone: {state.configuration.path} ({state.state}: {state.detail})")
    again = options_text(params, task, limit, config, changes)
    follow = f"follow it with: {' '.join(filter(None, ['fastdllm grid status', again]))}"
    if dry_run and plan.run:
        preview(plan, f"{submission.plan_grid(plan, report=report).text}\n# {follow}", preflight.SUBMITTED)
        return
    plan.preflight(preflight.SUBMITTED)
    if not dry_run:
        runner.copy_complete(plan)
    if not plan.run:
        typer.echo("nothing to submit: everything is complete or under way")
        return
    note = submission.submit(submission.plan_grid(plan, report=report))
    typer.echo(f"submitted job {note.job}: {number_of(len(note.tasks), 'array task')}; {follow}")


@app.command(cls=options.GridCommand)
def cancel(params: Annotated[str | None, PARAMS] = None, task: Annotated[str | None, TASK] = None,
           limit: Annotated[int | None, LIMIT] = None, config: Annotated[list[str] | None, CONFIG] = None,
           changes: Annotated[list[str] | None, SET] = None) -> None:
    """Cancel this grid's Slurm jobs and no others; finished samples are kept."""
    from fastdllm.lab.jobs import submission
    grid, configurations = read(params, task, limit, config, changes)
    chosen = {configuration.path for configuration in configurations} if task or limit or config else None
    gone = submission.cancel(grid.directory, chosen)
    typer.echo(f"cancelled: {', '.join(gone)}" if gone else "nothing to cancel")


@app.command(cls=options.GridCommand)
def logs(params: Annotated[str, typer.Argument(help="A grid, or the configuration's name in the default grid.")],
         name: Annotated[str | None, typer.Argument(help="The configuration, like k2_middle.")] = None,
         follow: Annotated[bool, options.flag("-f", "--follow", help="Go on as the log grows, until Ctrl-C.")] = False,
         task: Annotated[str | None, TASK] = None, limit: Annotated[int | None, LIMIT] = None,
         changes: Annotated[list[str] | None, SET] = None) -> None:
    """Print a configuration's log, wherever the configuration runs, and its path."""
    from fastdllm.lab.jobs import logs as cell_logs
    grid, configurations = read(None if name is None else params, task, limit, [name or params], changes)
    for configuration in configurations:
        cell_logs.show(configuration, grid, follow)


@app.command(cls=options.GridCommand)
def report(params: Annotated[str | None, PARAMS] = None, task: Annotated[str | None, TASK] = None,
           limit: Annotated[int | None, LIMIT] = None, changes: Annotated[list[str] | None, SET] = None) -> None:
    """Table, figures, criteria and audit of a grid, as a notebook and HTML; names the file to open.

    Beside the records; with --task, --limit or --set in a folder of its own below reports/.
    """
    from fastdllm.report.grid_report import write
    grid, _ = read(params, task, limit, None, changes)
    with saying(REPORT):
        typer.echo(write(grid.of_task(task) if task else grid))


@app.command(cls=options.GridCommand)
def new(name: Annotated[str, typer.Argument(help="The new experiment's name.")],
        source: Annotated[str, typer.Option("--from", help="The grid to start from.")] = "layer_reuse") -> None:
    """Make a new params file from another one."""
    from fastdllm.lab.config import grid_file
    typer.echo(f"wrote {grid_file.new(name, source)}")


@app.command(cls=options.GridCommand)
def table(params: Annotated[str | None, PARAMS] = None, task: Annotated[str | None, TASK] = None,
          limit: Annotated[int | None, LIMIT] = None, config: Annotated[list[str] | None, CONFIG] = None,
          changes: Annotated[list[str] | None, SET] = None,
          csv: Annotated[Path | None, typer.Option(help="Also write all rows and columns to this CSV file.")] = None,
          parquet: Annotated[Path | None, typer.Option(help="The same as Parquet.")] = None) -> None:
    """Print the table of a grid: accuracy, points lost and speed-up with their 95 % intervals.

    Of a grid that never ran here, the records that ship with the project, where there are any. A grid of thresholds and
    reuse: each reuse against the best plain threshold that is at least as fast. Below it the
    shipped records of the same model and settings on GSM8K, where there are any.
    """
    from fastdllm.display.tables import Html, as_text
    from fastdllm.report import plain_control, shipped_beside, tables
    from fastdllm.report.content import COUNTS, caption
    from fastdllm.report.results import Results
    grid, configurations = read(params, task, limit, config, changes)
    results = Results.own_or_shipped(grid, configurations).required()
    rows = tables.grid_table(results)
    if results.shipped:
        typer.echo(f"{results.shipped}\n")
    if plain_control.applies(rows):
        rows = plain_control.against_plain(results, rows)
        typer.echo(Html(plain_control.as_text(rows), plain_control.caption(rows)).markdown())
    else:
        shown = as_text(rows)
        typer.echo(Html(shown.loc[:, ~shown.columns.str.fullmatch(COUNTS)], caption(rows)).markdown())
    if beside := shipped_beside.markdown(results):
        typer.echo(f"\n{beside}")
    data = rows.drop(columns=list(tables.HERE))
    if csv is not None:
        options.save_table(data, csv)
    if parquet is not None:
        options.save_table(data, parquet, parquet=True)
