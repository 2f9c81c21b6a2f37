"""Kernels that start with other people's libraries imported, seconds sooner: each an ipykernel in a process of its own,
forked from one that has imported torch, pandas and others. Nothing of fastdllm is imported before a notebook does it.

A kernel specification named python3, found before the installed one, starts this file; it hands its standard streams,
environment and directory to the process that forks, passes signals on, and ends with the kernel, as the kernel does
with it.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

# Not for kernels with a Hugging Face cache of their own: transformers reads where it lies when it is imported.
IMPORTED = ("torch", "transformers.models.auto", "pandas", "matplotlib.pyplot", "scipy.stats", "scipy.optimize",
            "ipykernel.kernelapp", "ipykernel.ipkernel", "ipywidgets", "anywidget", "pydantic", "ruamel.yaml",
            "jinja2", "jaxtyping", "rich.console", "bs4", "safetensors.torch", "tokenizers",
            "statsmodels.stats.contingency_tables", "statsmodels.stats.multitest", "statsmodels.stats.proportion",
            "statsmodels.formula.api")
# As a kernel sets it for itself; and what is read when torch is imported, so that a kernel's own value comes too late.
SERVER = {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "OMP_NUM_THREADS": "1"}
STREAMS = (0, 1, 2)


@contextmanager
def serving(directory: Path) -> Iterator[dict[str, str]]:
    """The environment of processes whose kernels start warm; ended with the block."""
    specification = directory / "kernels" / "python3" / "kernel.json"
    specification.parent.mkdir(parents=True)
    with (TemporaryDirectory(prefix="kernels") as short,      # a socket's path has 107 bytes at most
          subprocess.Popen([sys.executable, __file__, "serve", f"{short}/socket"], stdin=subprocess.PIPE,
                           env=os.environ | SERVER) as server):
        address = Path(short) / "socket"
        command = [sys.executable, "-I", "-S", __file__, "join", str(address), "-f", "{connection_file}"]
        specification.write_text(json.dumps({"argv": command, "display_name": "Python 3", "language": "python",
                                             "metadata": {"supported_encryption": ["curve"]}}))
        while not address.exists():
            assert server.poll() is None, "the server of warm kernels did not start"
            time.sleep(0.1)
        yield {"JUPYTER_PATH": os.pathsep.join([str(directory), *filter(None, [os.environ.get("JUPYTER_PATH")])])}


def serve(address: str) -> None:
    """Fork a kernel for each that asks, as long as standard input stays open."""
    for name in IMPORTED:
        __import__(name)
    gc.freeze()     # stays shared by all kernels
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{address}.new")
        listener.listen()
        os.rename(f"{address}.new", address)
        while sys.stdin not in (ready := select.select([listener, sys.stdin], [], [], 0.5)[0]):
            if ready:
                client, _ = listener.accept()
                if os.fork() == 0:
                    listener.close()
                    return kernel(client)
                client.close()
            reap()
    return None


def reap() -> None:
    """Take leave of kernels that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def kernel(client: socket.socket) -> None:
    """Be the kernel that a client asked for, with its streams, environment and directory."""
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
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.environ["JPY_PARENT_PID"] = str(os.getppid())      # ours; of the client's end we learn from the client
    own = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    sys.path[:] = [*own, *(each for each in sys.path[1:] if each not in own)]
    sys.argv = ["ipykernel_launcher", *asked["arguments"]]
    threading.Thread(target=obey, args=[client], daemon=True).start()
    from ipykernel import kernelapp
    kernelapp.launch_new_instance()


def obey(client: socket.socket) -> None:
    """Raise the signals that the client gets, in this process; end it when the client is gone."""
    while number := client.recv(1):
        os.kill(os.getpid(), number[0])
    os.kill(os.getpid(), signal.SIGKILL)


def join(address: str, *arguments: str) -> None:
    """Ask for a kernel and live as long as it does."""
    parent = os.getppid()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        asked = {"arguments": arguments, "cwd": os.getcwd(), "environment": dict(os.environ)}
        message = json.dumps(asked).encode() + b"\n"
        server.sendall(message[socket.send_fds(server, [message], STREAMS):])
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, lambda number, _: server.send(bytes([number])))
        while os.getppid() == parent and not select.select([server], [], [], 1.0)[0]:
            pass


if __name__ == "__main__":
    {"serve": serve, "join": join}[sys.argv[1]](*sys.argv[2:])
