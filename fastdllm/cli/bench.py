"""`fastdllm bench`: how fast is this machine, and how long would a grid take on it?"""

from __future__ import annotations

import time
from typing import Annotated

import typer

from fastdllm.cli import options

EXAMPLES = ("Examples: [bold]fastdllm bench[/bold] (the 7B's shape on a GPU, the embedded checkpoint's on a CPU) · "
            "[bold]fastdllm bench gsm8k_7b[/bold] (and so many minutes a configuration of this grid) · "
            "[bold]fastdllm bench demo --device cpu[/bold]")


def bench(params: Annotated[str | None, typer.Argument(help="A grid: its times and memory on this device.")] = None,
          model: Annotated[str | None, typer.Option(help=f"Of this shape: {options.MODEL}")] = None,
          device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
          dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
          seconds: Annotated[float, typer.Option(min=0, help="What would end later is left out.")] = 150.0) -> None:
    """Measure this device in under three minutes: bandwidth, ms by kind of forward and rows, share of the bound, and
    what a grid would take. Random weights: nothing is fetched.
    """
    from fastdllm.investigation.speed import bench as speed
    from fastdllm.lab.config import geometry, grid_file
    from fastdllm.model.lm import choose_device, choose_dtype
    grid = grid_file.load(params) if params else None
    card = choose_device(device or (grid.device if grid else "auto"))
    number = choose_dtype(dtype or (grid.dtype if grid else "auto"), card)
    default = "Efficient-Large-Model/Fast_dLLM_v2_7B" if card.type == "cuda" else "tiny"
    name = model or (grid.model if grid else default)
    geometry.check_model(name)
    shape = speed.shape_of(name, grid.model_revision if grid and model is None else None)
    shown, measured, began = 0, None, time.monotonic()
    for measured in speed.measure(shape, card, number, seconds=seconds):
        if not shown:
            typer.echo(f"{measured.name}, shape of {name}, {str(number).removeprefix('torch.')}: copies at "
                       f"{measured.bandwidth / 1e9:.0f} GB/s, multiplies at {measured.flops / 1e12:.2f} TFLOP/s\n\n"
                       "forward  rows        ms  ms a row  of the bound")
        for each in measured.forwards[shown:]:
            typer.echo(f"{each.kind:8s} {each.rows:4d} {each.ms:9.2f} {each.ms / each.rows:9.3f} {each.share:13.0%}")
        shown = len(measured.forwards)
    typer.echo(f"\nMeasured in {time.monotonic() - began:.0f} seconds. A forward's time is the median of several, with "
               "the host's work; its bound the larger of bytes over the copy's rate and arithmetic over the product's.")
    if grid is not None and measured is not None:
        typer.echo("")
        for prediction in speed.predictions(measured, shape, grid.configurations()):
            typer.echo(prediction.line())
