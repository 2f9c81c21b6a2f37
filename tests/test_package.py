"""What is built and installed works without a checkout around it."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import typer
from lab_support import ROOT, command, invoke
from typer.main import get_command

from fastdllm.cli import app
from fastdllm.lab.config import paths
from fastdllm.model.files import embedded
from fastdllm.settings import POLICIES

PROJECT = {"FASTDLLM_HOME", "PYTHONPATH"}       # what would lead an installed package back to a checkout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The Python of an environment that holds the wheel, and the libraries of this one."""
    pytest.importorskip("hatchling")
    home = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", str(ROOT), "--no-build-isolation", "--no-deps", "-q", "-w", str(home)], check=True)
    venv.create(home / "env", with_pip=False)
    python = home / "env" / "bin" / "python"
    [site] = (home / "env" / "lib").glob("python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    [wheel] = home.glob("*.whl")
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", "--no-index", "-q", str(wheel)], check=True)
    return python


def run(python, folder, *arguments, code=0, **environment):
    """What the installed `fastdllm ARGUMENTS` prints in a folder."""
    own = {name: value for name, value in os.environ.items() if name not in PROJECT}
    done = subprocess.run([python, "-m", "fastdllm", *map(str, arguments)], cwd=folder, env={**own, **environment},
                          capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_an_installed_package_runs_a_grid_in_any_directory(installed, tmp_path):
    text = run(installed, tmp_path, "grid", "run", "demo", "--limit", 1, "--config", "k1_first")
    assert "Completed: 1 / 1" in text
    home = tmp_path / "executed" / "demo" / "arithmetic_limit_1" / "k1_first"
    record = json.loads((home / "summary.json").read_text())
    assert record["n"] == 1 and record["code"]["commit"] is None
    assert (home / "10_cell.ipynb").is_file()
    assert "Completed: 1 / 1" in run(installed, tmp_path, "grid", "status", "demo", "--limit", 1, "--config",
                                     "k1_first")
    assert {path.name for path in tmp_path.iterdir()} == {"executed"}


def test_what_an_installed_package_brings_is_copied_out_to_be_changed(installed, tmp_path):
    assert "notebooks" in run(installed, tmp_path, "new", "mine")
    mine = tmp_path / "mine"
    assert {path.name for path in mine.iterdir()} == {"params", "notebooks"}
    (mine / "params" / "own.yml").write_text((mine / "params" / "demo.yml").read_text().replace("demo", "own"))
    text = run(installed, mine / "notebooks", "grid", "run", "own", "--limit", 1, "--config", "k1_first", "--dry-run")
    assert str(mine / "executed" / "own") in text       # the project above the working directory
    assert "exists" in run(installed, tmp_path, "new", "mine", code=1)


def test_output_goes_where_the_environment_says(installed, tmp_path):
    (tmp_path / "home").mkdir()
    text = run(installed, tmp_path, "run", "--limit", 1, "--dry-run", FASTDLLM_HOME=str(tmp_path / "home"))
    assert str(tmp_path / "home" / "executed" / "single") in text
    assert "no such directory" in run(installed, tmp_path, "run", "--dry-run", code=1, FASTDLLM_HOME="nowhere")


def test_a_checkout_is_its_own_project_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FASTDLLM_HOME", raising=False)
    assert paths.root() == paths.shipped() == ROOT


def test_a_project_of_ones_own_finds_what_the_package_brings_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command("new", tmp_path)
    (tmp_path / "params" / "demo.yml").unlink()
    (tmp_path / "params" / "baseline.yml").write_text("")
    assert paths.root() == tmp_path
    assert paths.look_up("params/demo.yml") == ROOT / "params" / "demo.yml"
    assert paths.look_up("params/baseline.yml") == tmp_path / "params" / "baseline.yml"
    names = [path.name for path in paths.listed("params", "*.yml")]
    assert "demo.yml" in names and names.count("baseline.yml") == 1
    assert paths.look_up("params/nothing.yml") is None


@pytest.mark.parametrize(("arguments", "near"), [
    (("grid", "status", "dmeo"), "demo"), (("grid", "status", "demo", "--config", "k2_midle"), "k2_middle"),
    (("grid", "status", "demo", "--task", "arithmetik"), "arithmetic"), (("run", "00_toor"), "00_tour"),
    (("run", "dmeo"), "demo"), (("run", "--task", "gsm9k", "--dry-run"), "gsm8k"),
    (("run", "00_tour.ipnb"), "00_tour"), (("fetch", "smoll"), "smol"), (("gird",), "grid"),
    (("run", "--set", "threshld=0.8"), "threshold"), (("run", "--set", "batchsize=8"), "batch_size"),
    (("run", "--revision", "26d617"), "26d6179"), (("grid", "status", "demo", "--set", "revision=26d617"), "26d6179"),
    (("grid", "run", "demo", "--set", "thresold=0.8"), "threshold"),
    (("grid", "run", "demo", "--set", "axes.thresold=[0.8]"), "threshold"),
    (("grid", "run", "demo", "--set", "decoding.thresold=0.8"), "threshold"),
    (("grid", "run", "demo", "--set", "batchsize=8"), "batch_size"),
    (("grid", "run", "demo", "--set", "slurm.acount=me"), "account"),
    (("chat", "--model", "smoll"), "smol"), (("chat", "--revision", "26d617"), "26d6179"),
    (("bench", "--model", "smoll"), "smol"), (("doctor", "--offline", "--model", "smoll"), "smol"),
    (("app", "--model", "tinny", "--dry-run"), "tiny")])
def test_a_name_with_a_slip_is_answered_with_the_one_that_was_meant(arguments, near):
    status, text = invoke(*arguments)
    assert status != 0
    assert near in text.lower().split("did you mean")[1].split("?")[0], text


def test_a_task_with_a_slip_is_named_by_the_option_that_was_typed():
    text = command("grid", "report", "demo", "--task", "aritmetic", code=1)
    assert "--task 'aritmetic'; did you mean arithmetic?" in text and "--set" not in text


def test_a_dry_run_that_would_be_refused_says_so_alone():
    text = command("run", "--model", "smoll", "--dry-run")
    assert text.startswith("would be refused: checkpoint: ") and "did you mean smol?" in text
    assert "would run" not in text


@pytest.mark.parametrize("name", ["run", "chat", "doctor", "bench", "app"])
def test_help_names_every_policy_and_every_embedded_checkpoint(name):
    options = {option.name: option.help for option in get_command(app).commands[name].params}
    assert all(model in options["model"] for model in embedded())
    assert all(policy in options["policy"] for policy in POLICIES if "policy" in options)


def test_run_finds_by_name_what_grid_finds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command("new", tmp_path)
    (tmp_path / "params" / "mine.yml").write_text("k: 2\nlayers: middle\nlimit: 1\n")
    assert "k2_middle" in command("run", "mine", "--dry-run")
    assert "00_tour.ipynb" in command("run", "00_tour", "--dry-run")
    status, text = invoke("run", "demo")
    assert status == 1 and "fastdllm grid run demo" in text
    status, text = invoke("grid", "run", "mine")
    assert status == 1 and "fastdllm run mine" in text


def test_the_version_is_printed():
    from fastdllm import __version__
    assert __version__ in command("--version")


def commands(group, name=()):
    """The words of each command below a group of commands, and of the group."""
    yield name
    for each, inner in getattr(group, "commands", {}).items():
        yield from commands(inner, (*name, each))


@pytest.mark.parametrize("name", list(commands(typer.main.get_command(app))), ids=" ".join)
def test_a_switch_is_shown_as_a_flag(name):
    text = command(*name, "--help")
    assert "--help" in text and "bool" not in text.lower()


def test_a_path_to_open_leads_there_from_where_one_stands(tmp_path, monkeypatch):
    for home, printed in ((tmp_path, "a/b.html"), (tmp_path / "a", "b.html"), (ROOT, str(tmp_path / "a" / "b.html"))):
        home.mkdir(exist_ok=True)
        monkeypatch.chdir(home)
        assert paths.to_open(tmp_path / "a" / "b.html") == printed


def test_paths_below_the_project_are_named_from_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command("new", tmp_path)
    own, brought = (home / "notebooks" / "policies" / "frozen_slice.py" for home in (tmp_path, ROOT))
    assert paths.short_name(str(own)) == paths.short_name(str(brought))
    assert paths.policy_path("notebooks/policies/frozen_slice.py") == str(own)
    Path(own).unlink()
    assert paths.policy_path("notebooks/policies/frozen_slice.py") == str(brought)
