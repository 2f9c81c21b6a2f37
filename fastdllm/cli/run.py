"""`fastdllm run`: the options, and which of three jobs they mean.

    a configuration        run_configuration.py
    a notebook (.ipynb)    run_notebook.py
    --generation-file      run_generation_file.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fastdllm.cli import options

EXAMPLES = ("Examples: [bold]fastdllm run --k 2 --layers middle --limit 50[/bold] · "
            "[bold]fastdllm run --task gsm8k --threshold 0.8 --set batch_size=8[/bold] · "
            "[bold]fastdllm run my_configuration.yml[/bold] (flat parameters, as the configuration panel saves them) · "
            "[bold]fastdllm run notebooks/00_tour.ipynb --params params/my_tour.yml[/bold] · "
            "[bold]fastdllm run --k 2 --layers middle --generation-file old.py --allow-code[/bold] · "
            "[bold]fastdllm run --model DIR --generation-file old.py --allow-code --own-code[/bold]")


def resolve(what: str) -> Path:
    """A notebook or a YAML file, by path or by the name of one in notebooks/ or params/ (with or without its ending).

    Raises ValueError that lists the names.
    """
    from fastdllm.errors import did_you_mean
    from fastdllm.lab.config.paths import expand, listed, look_up
    path = Path(expand(what))
    named = (Path("notebooks", f"{path.stem}.ipynb"), Path("params", f"{path.stem}.yml"))
    by_name = [look_up(each) for each in named if path.suffix in ("", each.suffix)] if path.parent == Path(".") else []
    for file in (path, *filter(None, by_name)):
        if file.is_file():
            return file
    known = [file.stem for folder, ending in (("notebooks", "*.ipynb"), ("params", "*.yml"))
             for file in listed(folder, ending)]
    raise ValueError(f"{what}: no such file; {did_you_mean(path.stem, known)}allowed: a notebook (.ipynb), a YAML file "
                     f"of flat parameters, or one of {', '.join(known)}")


def run(what: Annotated[str | None, typer.Argument(help="A notebook, or a YAML file of flat parameters, by path or "
                                                        "by its name in notebooks/ or params/; nothing: one "
                                                        "configuration from the options.")] = None,
        params: Annotated[str | None, typer.Option("--params", help="YAML file of a notebook's parameters.")] = None,
        k: Annotated[int | None, typer.Option(help="Reuse on steps with step % k != 0; 1: no reuse.")] = None,
        layers: Annotated[str | None, typer.Option(help="first, middle, last, 8-19, or 1,2,5.")] = None,
        policy: Annotated[str | None, typer.Option(help=options.POLICY)] = None,
        revision: Annotated[str | None, typer.Option(help="Of the historical code: fixed, 26d6179 ...")] = None,
        threshold: Annotated[float | None, typer.Option(help="Confidence above which a token is unmasked.")] = None,
        task: Annotated[str | None, typer.Option(help="arithmetic, gsm8k ...")] = None,
        limit: Annotated[int | None, typer.Option(min=1, help="At most so many problems per subtask.")] = None,
        model: Annotated[str | None, typer.Option(help=options.MODEL)] = None,
        changes: Annotated[list[str] | None, typer.Option("--set", help="Any other parameter, as key=value.")] = None,
        experiment: Annotated[str, typer.Option(help="Directory under executed/.")] = "single",
        trace: Annotated[int, typer.Option(min=0, help="Trace so many problems.")] = 0,
        force: Annotated[bool, options.flag("--force", help="Start over, also where complete.")] = False,
        generation_file: Annotated[str | None, typer.Option(help="Your own old generation_functions.py, in the loop's "
                                                                 "place; needs --allow-code.")] = None,
        allow_code: Annotated[bool, options.flag("--allow-code", help="Run that file, with your rights.")] = False,
        own_code: Annotated[bool, options.flag("--own-code", help="With both: the checkpoint's own modelling code in "
                                                                  "our network's place.")] = False,
        submit: Annotated[bool, options.flag("--submit", help="A notebook: as a Slurm job.")] = False,
        profile: Annotated[str, typer.Option(help="Slurm profile for --submit.")] = "generic",
        dry_run: Annotated[bool, options.flag("--dry-run", help="Print what would happen.")] = False) -> None:
    """Run one configuration or one notebook, with the record, the log and the resuming of a grid's configuration."""
    named = {"k": k, "layers": layers, "policy": policy, "revision": revision, "threshold": threshold, "task": task,
             "limit": limit, "model": model}
    given = {name: value for name, value in named.items() if value is not None}
    file = None if what is None else resolve(what)
    if file is not None and file.suffix == ".ipynb":
        from fastdllm.cli.run_notebook import run_notebook
        own = [f"{name}={json.dumps(value)}" for name, value in given.items()]      # --layers 3 stays text
        good = run_notebook(file, params, [*(changes or []), *own], experiment, force, submit, profile, dry_run)
    elif submit or params:
        raise ValueError("--submit and --params go with a notebook; allowed: fastdllm grid submit for a grid")
    else:
        from fastdllm.cli.run_configuration import flat_parameters, run_configuration
        flat = {**flat_parameters(file, changes or []), **given}
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
