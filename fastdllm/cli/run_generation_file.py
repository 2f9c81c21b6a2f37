"""`fastdllm run --generation-file FILE.py --allow-code`: the user's own loop under our tasks, records and traces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from fastdllm.cli.interrupted import counting

if TYPE_CHECKING:
    from fastdllm.lab.config.parameters import Parameters


def check(parameters: Parameters) -> None:
    """Raises ValueError for parameters of which a file's own loop knows nothing, before anything is loaded."""
    from fastdllm.lab.config.computation import generative
    from fastdllm.lab.instrument.generation_file import check_reuse
    values = parameters.flat()
    for name, allowed, why in (("revision", "fixed", "the file is a revision of its own; allowed: fixed, the default"),
                               ("batch_size", 1, "it runs one prompt at a time; allowed: 1"),
                               ("engine", "diffusion", "the file is the engine; allowed: diffusion"),
                               ("executor", "auto", "its forwards run layer by layer; allowed: auto, the default")):
        if values[name] != allowed:
            raise ValueError(f"{name}={values[name]!r} with --generation-file: {why}")
    if not generative(parameters.task):
        raise ValueError(f"task={parameters.task!r} with --generation-file: it is scored by likelihood, nothing is "
                         "generated; allowed: a generative task")
    check_reuse(parameters.reuse)


def run_generation_file(path: str | None, allow_code: bool, own_code: bool, flat: dict[str, Any], experiment: str,
                        trace: int, force: bool, dry_run: bool) -> bool:
    """Evaluate a configuration with the file in the loop's place, one problem at a time, as it was used.

    Raises ValueError for options that don't go together, and whatever the file raises.
    """
    from dataclasses import replace

    from fastdllm.lab.config import single
    from fastdllm.lab.evaluation.evaluate import evaluate
    from fastdllm.lab.evaluation.prepare import PreparedRun
    from fastdllm.lab.instrument import generation_file
    from fastdllm.lab.jobs import marks
    if path is None:
        raise ValueError("--allow-code and --own-code without --generation-file; allowed: with one, or neither")
    if own_code and trace:
        raise ValueError(f"--trace {trace} with --own-code: the layers are not ours; allowed: --trace 0")
    [planned] = single.grid_of({"batch_size": 1, **flat}, experiment, trace).configurations()
    check(planned.parameters)
    file = generation_file.load(path, allow_code, own_code)
    name = f"{planned.name}_{file.path.stem}" + ("_own_code" if own_code else "")
    configuration = replace(planned, name=name, directory=planned.directory.with_name(name))
    if dry_run:
        typer.echo(f"would run    {file.path} (SHA-256 {file.sha256[:12]}) -> {configuration.directory}")
        return True
    marks.clear(configuration.directory)
    run = PreparedRun(configuration, force, file)
    with counting([configuration]), marks.failure_kept(configuration.directory):
        record = evaluate(run, log=typer.echo)
    typer.echo(f"{record.score()}, NFE {record.forwards} {record.nfe}\nrecord: {configuration.directory}")
    return True
