"""`fastdllm app`: the chat notebook as a web page, on this machine only, behind a token."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastdllm.cli import options

EXAMPLES = ("Examples: [bold]fastdllm app[/bold] · [bold]fastdllm app --port 9000 --model ./my_checkpoint[/bold] · "
            "from another machine: [bold]ssh -L 8866:127.0.0.1:8866 HOST[/bold], then open the printed address")


def app(model: Annotated[str, typer.Option(help=options.MODEL)] = "tiny",
        port: Annotated[int, typer.Option(help="Port on this machine.", min=1, max=65535)] = 8866,
        notebook: Annotated[str, typer.Option(help="The notebook that is served.")] = "18_chat.ipynb",
        dry_run: Annotated[bool, options.flag("--dry-run", help="Print what would be served.")] = False) -> None:
    """Serve the chat (conversation, live denoising, sliders) as a page, without a notebook around it."""
    import tempfile

    from fastdllm.lab.jobs import notebooks
    from fastdllm.ui.chat_app import HOST, check, free, prepare, serve
    source = notebooks.find(notebook)
    free(port)
    check(model, fetch=not dry_run)
    if dry_run:
        typer.echo(f"would serve {source.name} with model {model} on http://{HOST}:{port}")
        return
    with tempfile.TemporaryDirectory() as folder:
        serve(prepare(source, model, Path(folder)), port)
