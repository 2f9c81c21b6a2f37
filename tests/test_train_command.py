"""`fastdllm train`: killed in mid-run and called again, it goes on from the last save."""

import os
import re
import signal
import subprocess
import sys

import lab_support
import pandas

import fastdllm


def command(root):
    return [sys.executable, "-m", "fastdllm", "train", "--recipe", "smoke", "--out", str(root / "out"),
            "--device", "cpu", "--workers", "0", "--measure-every", "2", "--save-every", "2"]


def test_a_killed_training_goes_on(tmp_path, executable):
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command(tmp_path), stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if "step 6" in line)
        process.kill()
    assert line.startswith("phase pretrain") and process.returncode == -signal.SIGKILL
    again = subprocess.run([executable, *command(tmp_path)[1:]], capture_output=True, text=True, env=environment,
                           check=True)
    said = again.stdout.splitlines()
    phase, steps = re.fullmatch(r"resumed: (pretrain|diffusion) after (\d+) steps", said[0]).groups()
    assert int(steps) % 2 == 0, "saved after every second step"
    assert phase == "diffusion" or int(steps) >= 4, "the save before the one that may have been cut off, at least"
    assert said[-2:] == ["done", f"checkpoint: {tmp_path / 'out'}"]
    curve = pandas.read_csv(tmp_path / "out" / "curve.csv")
    assert list(curve.step) == [2, 4, 6, 8, 10] * 2
    fastdllm.load(tmp_path / "out", device="cpu")


def test_a_wrong_recipe_is_one_sentence(tmp_path):
    text = lab_support.command("train", "--recipe", "large", "--out", tmp_path / "out", code=1)
    assert text == "--recipe 'large'; allowed: tiny, continued, smoke, smol, smol-smoke"
    assert not (tmp_path / "out").exists()
