"""Pythons that start with everything imported, seconds sooner: each a process of its own, forked from one that has
imported torch, pandas, fastdllm and others, and has done what every process does once (`warm_up`).

`serving` starts the process that forks, once for all workers of a run of the tests; the workers themselves, kernels,
the program `fastdllm` and scripts come from it. `command` is what takes the place of `python`; it hands its standard
streams, environment and directory to the process that forks, passes signals on, and ends with the process that it got,
as that does with it.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

# Not for processes with a Hugging Face cache of their own: transformers reads where it lies when it is imported.
# Nothing that pytest rewrites when it imports it (its plugins), and nothing that a test replaces before it is imported.
# Not matplotlib_inline: it shows figures in the process that imports it, if that is a kernel.
IMPORTED = (
    "torch", "transformers.models.auto", "transformers.activations", "pandas", "matplotlib.pyplot", "scipy.stats",
    "scipy.optimize", "ipykernel.kernelapp", "ipykernel.ipkernel", "ipywidgets", "anywidget", "pydantic",
    "ruamel.yaml", "jinja2", "jaxtyping", "rich.console", "bs4", "safetensors.torch", "tokenizers", "sqlite3",
    "pyarrow.parquet", "pyarrow.dataset",
    "statsmodels.stats.contingency_tables", "statsmodels.stats.multitest", "statsmodels.stats.proportion",
    "statsmodels.formula.api", "papermill", "nbconvert", "typer", "hypothesis", "fastdllm.lab.evaluation.evaluate",
    "fastdllm.decode.generate", "fastdllm.cli", "fastdllm.tasks.arithmetic", "fastdllm.report.cell_report",
    "fastdllm.report.comparison.page", "fastdllm.ui.chat_page", "fastdllm.share.gallery",
    "fastdllm.investigation.collapse.verdict_collapse")
STREAMS = (0, 1, 2)
PATIENCE = 180.0      # seconds that a loaded machine may take for the imports
KILLED = -9
SOCKET = "python"
EXECUTABLE = "FASTDLLM_TEST_EXECUTABLE"      # what is sys.executable in processes that are forked


@contextmanager
def serving() -> Iterator[str]:
    """The directory of the socket at which Pythons are to be had, at once or soon; ended with the block."""
    with TemporaryDirectory(prefix="warm") as directory:      # short: a socket's path has 107 bytes at most
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment.pop("MPLBACKEND", None)
        with subprocess.Popen([sys.executable, __file__, "serve", directory], stdin=subprocess.PIPE, env=environment):
            yield directory


def command(directory: str) -> list[str]:
    """What stands for `python` in a command."""
    return [sys.executable, "-I", "-S", __file__, "join", f"{directory}/{SOCKET}"]


def executable(directory: str, path: Path) -> str:
    """A file that may stand for `sys.executable`: `-m MODULE` starts with everything imported, all else as ever."""
    path.write_text(f'#!/bin/sh\n[ "$1" = -m ] && exec {shlex.join(command(directory))} "$@"\n'
                    f'exec {shlex.quote(sys.executable)} "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def kernels(directory: str, specifications: Path) -> dict[str, str]:
    """The environment of processes whose kernels start warm: a specification named python3 is found before others."""
    specification = specifications / "kernels" / "python3" / "kernel.json"
    specification.parent.mkdir(parents=True)
    specification.write_text(json.dumps({
        "argv": [*command(directory), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python 3", "language": "python", "metadata": {"supported_encryption": ["curve"]},
        "env": {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}}))      # as a kernel sets it for itself
    return {"JUPYTER_PATH": os.pathsep.join(filter(None, [str(specifications), os.environ.get("JUPYTER_PATH")]))}


def serve(directory: str) -> None:
    """Fork a Python for each that asks, as long as standard input stays open."""
    for module in IMPORTED:
        __import__(module)
    warm_up()
    gc.collect()
    gc.freeze()     # stays shared by all
    listen(f"{directory}/{SOCKET}")


def warm_up() -> None:
    """What every process would do for itself: hash the source, read the records that ship, compile layers."""
    import fastdllm
    from fastdllm.lab.jobs import notebook_run
    from fastdllm.lab.records.identity import code_hash
    from fastdllm.report import shipped
    shipped.read()
    code_hash()
    code_hash(rooms=notebook_run.ROOMS, texts=True)
    lm = fastdllm.load("tiny", device="cpu")
    for reuse in (fastdllm.Reuse(), fastdllm.Reuse(k=2, layers="middle")):
        fastdllm.generate(lm, ["1 + 1?"] * 2, decoding=fastdllm.Decoding(max_new_tokens=32), reuse=reuse)


def listen(address: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{address}.new")
        listener.listen(64)
        os.rename(f"{address}.new", address)
        while sys.stdin not in (ready := select.select([listener, sys.stdin], [], [], 0.5)[0]):
            if ready:
                client, _ = listener.accept()
                if os.fork() == 0:
                    listener.close()
                    return python(client)
                client.close()
            reap()


def reap() -> None:
    """Take leave of processes that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def python(client: socket.socket) -> None:
    """Be the Python that a client asked for, with its streams, environment and directory."""
    message, streams, _, _ = socket.recv_fds(client, 1_000_000, len(STREAMS))
    while not message.endswith(b"\n"):
        if not (more := client.recv(1_000_000)):
            return      # the client has gone before it had said all
        message += more
    asked = json.loads(message)
    for stream, target in zip(streams, STREAMS, strict=True):
        os.dup2(stream, target)
        os.close(stream)
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(asked["cwd"])
    surround(asked["environment"])
    threading.Thread(target=obey, args=[client], daemon=True).start()
    status = 1
    try:
        run(asked["arguments"])
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    end(status, client)


def end(status: int, client: socket.socket) -> None:
    """End as Python does, but leave the memory to the system: to take all modules apart costs half a second."""
    threading._shutdown()      # waits for threads
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(ValueError, OSError):      # closed, or nobody reads
            stream.flush()
    client.send(bytes([status & 255]))
    os._exit(status & 255)


def surround(environment: dict[str, str]) -> None:
    """This environment, and what a Python that starts with it makes of it."""
    served = {str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)}
    os.environ.clear()
    os.environ.update(environment)
    sys.executable = environment.get(EXECUTABLE, sys.executable)
    if "JPY_PARENT_PID" in environment:
        os.environ["JPY_PARENT_PID"] = str(os.getppid())      # ours; of the client's end we learn from the client
    if backend := environment.get("MPLBACKEND"):
        sys.modules["matplotlib"].rcParams["backend"] = backend
    own = [each for each in environment.get("PYTHONPATH", "").split(os.pathsep) if each]
    sys.path[:] = [*own, *(each for each in sys.path if each not in {*own, *served})]
    encoding, _, errors = environment.get("PYTHONIOENCODING", "utf-8").partition(":")
    sys.stdin = sys.__stdin__ = open(0, encoding=encoding, errors=errors or "strict", closefd=False)      # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", encoding=encoding, errors=errors or "strict",              # noqa: SIM115
                                       buffering=1 if os.isatty(1) else -1, closefd=False)
    sys.stderr = sys.__stderr__ = open(2, "w", encoding=encoding, errors="backslashreplace",              # noqa: SIM115
                                       buffering=1, closefd=False)


def run(words: list[str]) -> None:
    """What `python WORDS` does: -c CODE or -m MODULE, and what follows."""
    option, what, *arguments = [word for word in words if word != "-u"]
    sys.argv = [option, *arguments]
    if option == "-m":
        sys.path.insert(0, os.getcwd())
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, "")
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), main.__dict__)


def obey(client: socket.socket) -> None:
    """Raise the signals that the client gets, in this process; end it when the client is gone."""
    while number := client.recv(1):
        os.kill(os.getpid(), number[0])
    os.kill(os.getpid(), signal.SIGKILL)


def join(address: str, *arguments: str) -> int:
    """Ask for a Python and live as long as it does; its exit status."""
    parent, until = os.getppid(), time.monotonic() + PATIENCE
    while not os.path.exists(address):
        if time.monotonic() > until:
            sys.exit(f"{address}: no Python is served there")
        time.sleep(0.05)
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        asked = {"arguments": arguments, "cwd": os.getcwd(), "environment": dict(os.environ)}
        message = json.dumps(asked).encode() + b"\n"
        server.sendall(message[socket.send_fds(server, [message], STREAMS):])
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, lambda number, _: server.send(bytes([number])))
        status = KILLED
        while os.getppid() == parent:
            if select.select([server], [], [], 1.0)[0]:
                if not (said := server.recv(1)):
                    break
                status = said[0]
        return status & 255


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        sys.exit(join(*sys.argv[2:]))
