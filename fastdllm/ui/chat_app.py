"""The chat notebook as a web page, on this machine only, behind a token."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent / "templates"     # `app` there extends Voila's `lab`
HOST = "127.0.0.1"      # not "localhost": that may also be ::1, where the port can be another server's
# The page shows what this machine has: templates name fonts of other hosts, which a machine without network lacks.
POLICY = ("default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
          "style-src 'self' 'unsafe-inline' data: blob:; frame-ancestors 'self'")
TOKENIZER = ("tokenizer.json", "vocab.json")        # one of them has to be there
UNUSED = 300            # seconds after which a kernel without a page goes, where the page could not say that it closed


def free(port: int) -> None:
    """Raises ValueError if nothing can listen there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)     # a server that has just ended is no hindrance
        try:
            probe.bind((HOST, port))
        except PermissionError as error:
            raise ValueError(f"port={port} needs more rights; allowed: --port N, 1024 or more") from error
        except OSError as error:
            raise ValueError(f"port={port} is taken; allowed: a free port, --port N") from error


def check(model: str, fetch: bool) -> None:
    """Look for the checkpoint's files. Raises ValueError for what is missing; a hub id that is not on this machine is
    fetched or, without `fetch`, taken at its word."""
    from fastdllm.lab.config import geometry
    from fastdllm.model import files
    path = Path(model).expanduser()
    hub = model.count("/") == 1 and not (path.is_absolute() or path.is_dir() or model.startswith("."))
    if hub and not fetch and geometry.of(model) is None:
        return
    geometry.check_model(model)
    directory = files.find(model)
    files.weight_files(directory)
    if geometry.of(str(directory)) is None or not any((directory / name).is_file() for name in TOKENIZER):
        raise ValueError(f"model={model}: {directory} lacks config.json or a tokenizer; allowed: a checkpoint "
                         "with both")


def serve(page: Path, port: int) -> None:
    """Serve the page until Ctrl-C. Raises SystemExit if the port was taken meanwhile."""
    import secrets

    from traitlets.config import Config
    from voila.app import Voila
    token = secrets.token_urlsafe(24)

    class Page(Voila):
        """Voila with our template, and with an address that is not printed before it leads here."""

        def launch_browser(self) -> None:       # Voila calls it once it listens
            print(f"http://{HOST}:{port}/?token={token}\nCtrl-C ends it.", flush=True)

        def setup_template_dirs(self) -> None:
            """Voila looks for templates where Jupyter is installed; ours stands in the package, before its own."""
            super().setup_template_dirs()
            self.template_paths = [str(TEMPLATES / "app"), *self.template_paths]

    # Settings as objects: a command line can be read by everyone on the machine. The list of places to read others
    # from, which may be code, is empty; by default the working directory is one of them.
    server = Page(config=Config({
        "Voila": {"token": token, "ip": HOST, "port": port, "port_retries": 0, "config_file_paths": [],
                  "connection_dir_root": str(page.parent), "log_level": "WARN",
                  "tornado_settings": {"headers": {"Content-Security-Policy": POLICY}}},
        "VoilaConfiguration": {"show_tracebacks": True, "prelaunch_hook": give_cookie},
        "MappingKernelManager": {"cull_idle_timeout": UNUSED, "cull_interval": 30, "default_kernel_name": "python3"}}))
    server.initialize([str(page)])
    server.start()


def give_cookie(handler: Any, **_: object) -> None:
    """A page that closes ends its kernel with a request that must return the _xsrf cookie. Voila checks the cookie
    but never sets it; tornado does where the token is read."""
    _ = handler.xsrf_token


def prepare(source: Path, model: str, folder: Path) -> Path:
    """A copy of the notebook with `model` as its parameter."""
    import nbformat
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook
    target = folder / "chat.ipynb"
    local = str(Path(model).resolve()) if Path(model).is_dir() else model
    nbformat.write(parameterize_notebook(load_notebook_node(str(source)), {"model": local}), target)
    return target
