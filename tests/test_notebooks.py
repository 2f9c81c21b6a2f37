"""Every notebook runs with its small parameters in a real kernel and ends in a verdict."""

import json
from pathlib import Path

import pytest

from fastdllm.lab.jobs import notebooks, suite

ROOT = Path(__file__).parent.parent
ENTRIES = suite.entries(smoke=True)


@pytest.fixture(scope="session")
def executed(tmp_path_factory):
    """Records of all notebooks: a grid that several read is run once, as it is for a reader."""
    return tmp_path_factory.mktemp("records") / "executed"


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry.path.stem for entry in ENTRIES])
def test_smoke(entry, tmp_path, executed):
    declared, parameters = notebooks.declared(entry.path), dict(entry.parameters)
    if "output" in declared:
        parameters["output"] = str(executed)
    output = tmp_path / entry.path.name
    notebooks.execute(entry.path, output, parameters)
    cells = json.loads(output.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code if "".join(cell["source"]).strip())
    assert not any(out.get("output_type") == "error" for cell in code for out in cell["outputs"])
    last = json.dumps(code[-1]["outputs"])
    assert len(last) > 80, "the last cell says nothing"


def test_every_notebook_has_small_parameters():
    small = {path.stem for path in (ROOT / "params" / "smoke").glob("*.yml")}
    missing = [entry.path.stem for entry in ENTRIES if notebooks.declared(entry.path) and entry.path.stem not in small]
    assert missing in ([], ["07_audit"]), "these would run at full size in the tests"
