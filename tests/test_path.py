"""docs/architecture.md names the files between a params file and a record: they are traced while a tiny grid runs."""

import os
import re
import subprocess
import sys

import lab_support
import pytest
import trace_support
import yaml

from fastdllm.lab.config.paths import PACKAGE

PAGE = PACKAGE.parent / "docs" / "architecture.md"
MOST = 12      # files from the params file to the record


def chapter():
    return re.search(r"^## From a YAML file to a record\n(.+?)^## ", PAGE.read_text(), re.M | re.S)[1]


def named(text):
    """Code spans that are files or rooms of the package."""
    return [span for span in re.findall(r"`([\w/]+(?:\.py|/))`", text) if (PACKAGE / span).exists()]


def path():
    """The files of the numbered list: each line begins with one."""
    return re.findall(r"^\d+\. `([\w/]+\.py)`", chapter(), re.M)


def aside():
    """The files, and the rooms, that the points below the list name."""
    names = named(re.search(r"^- (?:.+\n)+", chapter(), re.M)[0])
    return {name for name in names if name.endswith(".py")}, tuple(name for name in names if name.endswith("/"))


@pytest.fixture(scope="module")
def entered(tmp_path_factory):
    """The files that `fastdllm grid run tiny-grid.yml --limit 2` enters, its worker and its kernel included."""
    home = tmp_path_factory.mktemp("path")
    for name in ("notebooks", "params"):
        (home / name).mkdir()
    lab_support.computing_notebook(home / "notebooks" / "10_cell.ipynb")
    params = lab_support.params(home / "params" / "tiny-grid.yml", lab_support.checkpoint(home / "random"),
                                output=str(home / "executed"), axes={"k": [2], "layers": ["middle"]})
    programs = home / "bin"      # no Slurm and no GPU, wherever this runs
    programs.mkdir()
    environment = {**os.environ, **trace_support.environment(home), "PATH": str(programs), "OMP_NUM_THREADS": "1",
                   "FASTDLLM_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-m", "fastdllm", "grid", "run", str(params), "--limit", "2"], cwd=home,
                          env=environment, capture_output=True, text=True, timeout=540, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (home / "executed/tiny-grid/arithmetic_limit_2/k2_middle/summary.json").is_file()
    assert yaml.safe_load(params.read_text())["experiment"] == "tiny-grid"
    return trace_support.entered(home)


def test_the_list_is_short_and_names_each_file_once():
    files, rooms = aside()
    assert len(set(path())) == len(path()) <= MOST
    assert not files & set(path()) and not [each for each in {*path(), *files} if each.startswith(rooms)]


def test_every_file_of_the_list_is_on_the_way(entered):
    files, rooms = aside()
    assert sorted({*path(), *files} - entered) == [], "named and not entered"
    assert not [room for room in rooms if not any(each.startswith(room) for each in entered)]


def test_no_other_file_is_on_the_way(entered):
    files, rooms = aside()
    assert not {each for each in entered - {*path(), *files} if not each.startswith(rooms)}, "entered and not named"
