"""The shipped JupyterLab job on a real Slurm: it comes up behind its token, says how to reach it, and goes."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from browser import status, until
from slurm import cluster

pytestmark = [pytest.mark.skipif(bool(cluster.missing()), reason=cluster.missing()), pytest.mark.timeout(600)]
SCRIPT = Path(__file__).parent.parent / "params" / "slurm" / "jupyterlab.sbatch"


def test_jupyterlab_job(tmp_path):
    shutil.copy(SCRIPT, tmp_path)
    with cluster.slurm():
        environment = {**os.environ, "FASTDLLM_PYTHON": sys.executable,
                       "FASTDLLM_JUPYTER_OPTIONS": "--allow-root" if os.getuid() == 0 else ""}
        done = subprocess.run(["sbatch", "--parsable", "--gres=none", "--mem=400M", "--cpus-per-task=1", SCRIPT.name],
                              cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        job = done.stdout.strip()
        note = tmp_path / f"jupyterlab-{job}.txt"
        text = until(lambda: note.exists() and note.read_text())
        assert note.stat().st_mode & 0o077 == 0, "the token is the owner's alone"
        port = re.search(r"-L (\d+):localhost:\1 ", text)[1]
        token = re.search(r"token=(\S+)", text)[1]
        until(lambda: status(f"http://localhost:{port}/api/status?token={token}") == 200)
        until(lambda: status(f"http://localhost:{port}/api/status") == 403)
        log = (tmp_path / f"jupyterlab-{job}.log").read_text()
        assert note.name in log and token not in log
        subprocess.run(["scancel", job], check=True)
        until(lambda: not note.exists())
        until(lambda: status(f"http://localhost:{port}/api/status") == 0)
