"""A small project in which things have run: what publish, gallery and the search for secrets look at."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import lab_support
import nbformat
import pytest

from fastdllm.lab.jobs import notebook_run, worker

REPO = Path(__file__).parents[1]
# Planted in the environment of everything that runs. Letters and digits, so that a search finds every form of them.
SECRETS = {"HF_TOKEN": "hf_PlantedTokenPlantedTokenPlanted01", "AWS_SECRET_ACCESS_KEY": "PlantedAwsSecretPlantedAws02",
           "OPENAI_API_KEY": "sk-PlantedOpenAiKeyPlantedOpenAi03", "CLUSTER_PASSWORD": "PlantedClusterPassword04"}
FAILS = Path(__file__).parent / "slurm" / "fails.py"


def notebook(path: Path, *sources: str) -> Path:
    """A notebook: a parameters cell, then these."""
    first = nbformat.v4.new_code_cell('size: int = 3  # of something', metadata={"tags": ["parameters"]})
    cells = [first, *(nbformat.v4.new_code_cell(source) for source in sources)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.write_text(nbformat.writes(nbformat.v4.new_notebook(cells=cells, metadata=kernel)), encoding="utf-8")
    return path


def project(directory: Path) -> Path:
    """A project with a grid `small` (one cell fails, k=1 is shared), and a notebook with widgets; all of it has run."""
    (directory / "params").mkdir()
    (directory / "notebooks").mkdir()
    shutil.copy(REPO / "notebooks" / "10_cell.ipynb", directory / "notebooks" / "10_cell.ipynb")
    model = lab_support.checkpoint(directory / "model")
    lab_support.params(
        directory / "params" / "small.yml", model, output="executed", limit=2, jobs=2, axes={}, record={"trace": 1},
        hypothesis="Reuse costs nothing.", configs=[
            {"k": 1, "layers": "first"}, {"k": 1, "layers": "middle"}, {"k": 2, "layers": "middle"},
            {"k": 2, "layers": "last", "policy": str(FAILS)}])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        for name, value in {**SECRETS, "OMP_NUM_THREADS": "1"}.items():
            patch.setenv(name, value)
        assert "Completed: 3 / 4" in lab_support.command("grid", "run", "small", code=1)
        path = notebook(directory / "notebooks" / "widgets.ipynb",
                        "import ipywidgets\nipywidgets.IntSlider(value=size, description='steps')",
                        "import anywidget\nclass Word(anywidget.AnyWidget):\n"
                        "    _esm = 'export default {render({el}) { el.id = \"word\"; el.textContent = \"alive\"; }}'\n"
                        "Word()", "from pathlib import Path\nprint(Path.cwd(), Path.home() / 'thesis' / 'notes.txt')")
        assert notebook_run.run_notebook(path, {}, notebook_run.notebook_directory(path, "notebooks"))
    return directory


def leaking(directory: Path) -> Path:
    """A notebook that prints what it should not, executed with the secrets in its environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        source = notebook(directory / "notebooks" / "leak.ipynb",
                          "import os, socket\nprint(dict(os.environ))\nsocket.gethostname()")
        target = directory / "executed" / "leaks" / "leak" / "leak.ipynb"
        worker.execute(source, target, {})
    assert SECRETS["HF_TOKEN"] in json.dumps(json.loads(target.read_text()))
    return target
