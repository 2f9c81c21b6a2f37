"""`fastdllm run`: one configuration, or one notebook."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = ("Examples: [bold]fastdllm run --k 2 --layers middle --limit 50[/bold] · "
            "[bold]fastdllm run --task gsm8k --threshold 0.8 --set batch_size=8[/bold] · "
            "[bold]fastdllm run my_configuration.yml[/bold] (flat parameters, as the configuration panel saves them) · "
            "[bold]fastdllm run notebooks/00_tour.ipynb --params params/my_tour.yml[/bold] · "
            "[bold]fastdllm run --k 2 --layers middle --generation-file old.py --allow-code[/bold] · "
            "[bold]fastdllm run --model DIR --generation-file old.py --allow-code --own-code[/bold]")


def run(what: Annotated[str | None, typer.Argument(help="A notebook (.ipynb), or a YAML file of flat parameters; "
                                                        "nothing: one configuration from the options.")] = None,
        params: Annotated[str | None, typer.Option("--params", help="YAML file of a notebook's parameters.")] = None,
        k: Annotated[int | None, typer.Option(help="Reuse on steps with step % k != 0; 1: no reuse.")] = None,
        layers: Annotated[str | None, typer.Option(help="first, middle, last, 8-19, or 1,2,5.")] = None,
        policy: Annotated[str | None, typer.Option(help="output, residual, token, adaptive, replay, or a .py.")] = None,
        revision: Annotated[str | None, typer.Option(help="Of the historical code: fixed, 26d6179 ...")] = None,
        threshold: Annotated[float | None, typer.Option(help="Confidence above which a token is unmasked.")] = None,
        task: Annotated[str | None, typer.Option(help="arithmetic, gsm8k ...")] = None,
        limit: Annotated[int | None, typer.Option(min=1, help="At most so many problems per subtask.")] = None,
        model: Annotated[str | None, typer.Option(help="tiny, a directory, or a hub id.")] = None,
        changes: Annotated[list[str] | None, typer.Option("--set", help="Any other parameter, as key=value.")] = None,
        experiment: Annotated[str, typer.Option(help="Directory under executed/.")] = "single",
        trace: Annotated[int, typer.Option(min=0, help="Trace so many problems.")] = 0,
        force: Annotated[bool, typer.Option("--force", help="Start over, also where complete.")] = False,
        generation_file: Annotated[str | None, typer.Option(help="Your own old generation_functions.py, in the loop's "
                                                                 "place; needs --allow-code.")] = None,
        allow_code: Annotated[bool, typer.Option("--allow-code", help="Run that file, with your rights.")] = False,
        own_code: Annotated[bool, typer.Option("--own-code", help="With both: the checkpoint's own modelling code in "
                                                                  "our network's place.")] = False,
        submit: Annotated[bool, typer.Option("--submit", help="A notebook: as a Slurm job.")] = False,
        profile: Annotated[str, typer.Option(help="Slurm profile for --submit.")] = "generic",
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would happen.")] = False) -> None:
    """Run one configuration or one notebook, with the record, the log and the resuming of a grid's configuration."""
    options = {"k": k, "layers": layers, "policy": policy, "revision": revision, "threshold": threshold, "task": task,
               "limit": limit, "model": model}
    given = {name: value for name, value in options.items() if value is not None}
    if what is not None and what.endswith(".ipynb"):
        own = [f"{name}={json.dumps(value)}" for name, value in given.items()]      # --layers 3 stays text
        good = _notebook(what, params, [*(changes or []), *own], experiment, force, submit, profile, dry_run)
    else:
        if submit or params:
            raise ValueError("--submit and --params go with a notebook; allowed: fastdllm grid submit for a grid")
        if generation_file is not None or allow_code or own_code:
            _generation_file(generation_file, allow_code, own_code, {**_changed(what, changes or []), **given},
                             experiment, trace, force, dry_run)
            return
        good = _configuration(what, given, changes or [], experiment, trace, force, dry_run)
    if not good:
        raise typer.Exit(1)


def _configuration(what: str | None, given: dict[str, object], changes: list[str], experiment: str, trace: int,
                   force: bool, dry_run: bool) -> bool:
    from fastdllm.lab.config import single, yaml_file
    from fastdllm.lab.jobs import doctor, runner
    from fastdllm.lab.jobs import plan as plans
    from fastdllm.lab.jobs import status as states
    file = yaml_file.read(Path(what)) if what else yaml_file.of_options()
    grid = single.grid_of({**file.set(changes).values, **given}, experiment, trace)
    configurations = grid.configurations()
    reuse = configurations[0].parameters.reuse
    if reuse.layers is not None and not reuse.active:
        typer.echo("k=1: every layer is computed at every step, the layers named have no effect; --k 2 reuses them")
    if dry_run:
        typer.echo(plans.plan(configurations, configurations, force).text())
        return True
    if to_run := [
        configuration.parameters for configuration, _, _ in plans.plan(configurations, configurations, force).run
    ]:
        doctor.refuse(to_run, grid.directory)
    good = runner.run(grid, configurations, force, jobs=1)
    found = states.states(configurations)
    typer.echo(states.text(found))
    typer.echo(f"record: {configurations[0].directory}")
    return good and states.all_complete(found)


def _changed(what: str | None, changes: list[str]) -> dict[str, object]:
    """Flat parameters of a file (or of nothing) with --set applied."""
    from fastdllm.lab.config import yaml_file
    file = yaml_file.read(Path(what)) if what else yaml_file.of_options()
    return file.set(changes).values


def _generation_file(path: str | None, allow_code: bool, own_code: bool, flat: dict[str, object], experiment: str,
                     trace: int, force: bool, dry_run: bool) -> None:
    """The user's generation file under the same tasks, records and traces; one problem at a time, as it was used."""
    from fastdllm.lab.config import single
    from fastdllm.lab.evaluation.evaluate import evaluate
    from fastdllm.lab.instrument import generation_file
    from fastdllm.lab.jobs import status
    from fastdllm.lab.records import external_code, locks
    if path is None:
        raise ValueError("--allow-code and --own-code without --generation-file; allowed: with one, or neither")
    if own_code and trace:
        raise ValueError(f"--trace {trace} with --own-code: the layers are not ours; allowed: --trace 0")
    [configuration] = single.grid_of({**flat, "batch_size": 1}, experiment).configurations()
    file = generation_file.load(path, allow_code, own_code)
    directory = configuration.directory.with_name(
        f"{configuration.name}_{file.path.stem}" + ("_own_code" if own_code else "")
    )
    if dry_run:
        typer.echo(f"would run    {file.path} (SHA-256 {file.sha256[:12]}) -> {directory}")
        return
    status.clear(directory)
    try:
        record = evaluate(
            configuration.parameters,
            directory,
            experiment=experiment,
            config=directory.name,
            trace=trace,
            force=force,
            generation=file,
            log=typer.echo,
        )
    except locks.Locked:
        raise
    except Exception as error:      # the file may raise anything
        if external_code.read(directory):
            status.fail(directory, f"{type(error).__name__}: {error}")
        raise
    typer.echo(f"{record.score()}, NFE {record.forwards} {record.nfe}\nrecord: {directory}")


def _notebook(what: str, params: str | None, changes: list[str], experiment: str, force: bool, submit: bool,
              profile: str, dry_run: bool) -> bool:
    from fastdllm.lab.jobs import notebook_run, notebooks
    notebook = notebooks.find(what)
    values = notebook_run.read_parameters(notebook, params, changes)
    experiment = "notebooks" if experiment == "single" else experiment
    directory = notebook_run.notebook_directory(notebook, experiment, Path(params).stem if params else "")
    if submit:
        return _submit(notebook, params, changes, experiment, directory, force, profile, dry_run)
    if dry_run:
        typer.echo(f"would run {notebook.name} with {values or 'its own parameters'} -> {directory / notebook.name}")
        return True
    return notebook_run.run_notebook(notebook, values, directory, force)


def _submit(path: Path, params: str | None, changes: list[str], experiment: str, target: Path, force: bool,
            profile: str, dry_run: bool) -> bool:
    from fastdllm.lab.config import grid_file
    from fastdllm.lab.jobs import submission
    command = ["run", str(path), "--experiment", experiment]
    if params:
        command += ["--params", str(Path(params).resolve())]
    for change in changes:
        command += ["--set", change]
    prepared = submission.plan_command(path.stem, [*command, *(["--force"] if force else [])], target,
                                       grid_file.slurm_profile(profile))
    if dry_run:
        typer.echo(prepared.text)
    else:
        typer.echo(f"submitted job {submission.submit(prepared).job}: {path.name} -> {target}")
    return True
