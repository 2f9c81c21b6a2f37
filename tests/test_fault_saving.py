"""Killed at the moment the executed notebook is saved."""

import json
import os
import signal
import subprocess
import sys

import lab_support
import pytest

from fastdllm.lab import records
from fastdllm.lab.config import grid_file
from fastdllm.lab.config.paths import PACKAGE
from fastdllm.lab.jobs import notebooks, status, worker
from fastdllm.lab.jobs import plan as plans
from fastdllm.lab.records.identity import CurrentFingerprints

pytestmark = pytest.mark.usefixtures("warm_kernels")
DIES_AT_THE_RENAME = """
import os, signal
from fastdllm.lab import atomic as files
from fastdllm.lab.jobs import worker
move = files.move
def die(part, target):
    if target.suffix == ".ipynb":
        os.kill(os.getpid(), signal.SIGKILL)
    move(part, target)
files.move = die
worker.main()
"""


def test_killed_while_the_notebook_is_saved(tmp_path):
    """kill -9 of the worker when the temporary notebook is whole and not yet renamed: the record is there already."""
    model = lab_support.checkpoint(tmp_path / "random")
    grid = grid_file.load(lab_support.params(tmp_path / "g.yml", model, axes={}, configs=[{"k": 2, "layers": "middle"}],
                                            limit=1))
    [configuration], current, plan = grid.configurations(), CurrentFingerprints(), plans.plan(grid)
    notebook = notebooks.find(grid.notebook)
    job = worker.Work(
        str(notebook),
        str(configuration.directory / notebook.name),
        plan.run[0].configuration.flat(),
        str(tmp_path),
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PACKAGE.parent)}
    with subprocess.Popen([sys.executable, "-c", DIES_AT_THE_RENAME], stdin=subprocess.PIPE, text=True,
                          env=environment, stderr=subprocess.DEVNULL) as process:
        process.stdin.write(job.dumps() + "\n")
        process.stdin.flush()      # left open: the worker ends with the process that started it
        process.wait(timeout=240)
    assert process.returncode == -signal.SIGKILL
    [part] = configuration.directory.glob("*.part.ipynb")
    assert all(each["execution_count"] for each in json.loads(part.read_text())["cells"] if each["cell_type"] == "code")
    assert not (configuration.directory / notebook.name).exists()
    before = records.read(configuration.directory)
    assert status.state_of(configuration, current).state == "partial"  # no notebook: not complete, though the record is
    assert worker.work(job) == worker.DONE
    assert status.state_of(configuration, current).state == "complete"
    assert records.read(configuration.directory) == before      # nothing was decoded again
    assert (configuration.directory / notebook.name).exists() and not list(configuration.directory.glob("*.part*"))
