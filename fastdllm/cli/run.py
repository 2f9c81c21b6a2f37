"""`fastdllm run`: the options, and which of three jobs they mean.

    a configuration        run_configuration.py
    a notebook (.ipynb)    run_notebook.py
    --generation-file      run_generation_file.py
"""

from __future__ import annotations

import json
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
        from fastdllm.cli.run_notebook import run_notebook
        own = [f"{name}={json.dumps(value)}" for name, value in given.items()]      # --layers 3 stays text
        good = run_notebook(what, params, [*(changes or []), *own], experiment, force, submit, profile, dry_run)
    elif submit or params:
        raise ValueError("--submit and --params go with a notebook; allowed: fastdllm grid submit for a grid")
    else:
        from fastdllm.cli.run_configuration import flat_parameters, run_configuration
        flat = {**flat_parameters(what, changes or []), **given}
        if generation_file is not None and revision is not None:
            raise ValueError(f"--revision {revision} beside --generation-file: the file is a revision of its own; "
                             "allowed: one of the two")
        if generation_file is not None or allow_code or own_code:
            from fastdllm.cli.run_generation_file import run_generation_file
            good = run_generation_file(generation_file, allow_code, own_code, flat, experiment, trace, force, dry_run)
        else:
            good = run_configuration(flat, experiment, trace, force, dry_run)
    if not good:
        raise typer.Exit(1)
