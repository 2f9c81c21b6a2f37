"""`fastdllm app`: the chat notebook as a web page, on this machine only, behind a token."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = ("Examples: [bold]fastdllm app[/bold] · [bold]fastdllm app --port 9000 --model ./my_checkpoint[/bold] · "
            "from another machine: [bold]ssh -L 8866:localhost:8866 HOST[/bold], then open the printed address")


def app(model: Annotated[str, typer.Option(help="tiny, a directory, or a hub id.")] = "tiny",
        port: Annotated[int, typer.Option(help="Port on localhost.", min=1, max=65535)] = 8866,
        notebook: Annotated[str, typer.Option(help="The notebook that is served.")] = "18_chat.ipynb",
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be served.")] = False) -> None:
    """Serve the chat (conversation, live denoising, sliders) as a page, without a notebook around it."""
    import json
    import secrets
    import subprocess
    import sys
    import tempfile

    from fastdllm.lab import notebooks
    source = notebooks.find(notebook)
    if dry_run:
        typer.echo(f"would serve {source.name} with model {model} on http://localhost:{port}")
        return
    token = secrets.token_urlsafe(24)
    with tempfile.TemporaryDirectory() as folder:
        page = prepare(source, model, Path(folder))
        # A command line can be read by everyone on the machine, this folder by its owner only. Voila would also read
        # a configuration, which may be code, from the working directory.
        (Path(folder) / "voila.json").write_text(json.dumps({"Voila": {"token": token}}), encoding="utf-8")
        command = [sys.executable, "-m", "voila", str(page), f"--port={port}", "--Voila.ip=127.0.0.1", "--no-browser",
                   f"--Voila.config_file_paths={folder}", "--VoilaConfiguration.show_tracebacks=True",
                   "--MappingKernelManager.cull_idle_timeout=900", "--MappingKernelManager.cull_interval=60",
                   "--MappingKernelManager.default_kernel_name=python3"]
        print(f"http://localhost:{port}/?token={token}\nCtrl-C ends it.", flush=True)
        process = subprocess.Popen(command)
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.terminate()
            code = 0 if process.wait(20) is not None else 1
    if code:
        raise typer.Exit(code)


def prepare(source: Path, model: str, folder: Path) -> Path:
    """A copy of the notebook with `model` as its parameter."""
    import nbformat
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook
    target = folder / "chat.ipynb"
    local = str(Path(model).resolve()) if Path(model).is_dir() else model
    nbformat.write(parameterize_notebook(load_notebook_node(str(source)), {"model": local}), target)
    return target
