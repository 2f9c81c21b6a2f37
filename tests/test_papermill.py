"""papermill with care: parameters are checked first, output is whole or absent, the failing cell is named."""

import json
import logging

import nbformat
import pytest
from jupyter_client.kernelspec import NoSuchKernel
from nbformat.v4 import new_code_cell, new_notebook

from fastdllm.lab.config.parameters import Parameters
from fastdllm.lab.config.paths import root
from fastdllm.lab.jobs import marks, notebook_run, notebooks, worker
from fastdllm.settings import POLICIES


def notebook(path, *sources, parameters="x: int = 1  # a number\ny: float = 0.5\nz: str = 'a'\non: bool = True\n"):
    cells = [new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    cells += [new_code_cell(source, metadata={"name": name}) for name, source in sources]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def test_parameters_are_read_without_running_anything(tmp_path):
    known = notebooks.declared(notebook(tmp_path / "n.ipynb"))
    assert {name: (each.type, each.default) for name, each in known.items()} == {
        "x": ("int", 1), "y": ("float", 0.5), "z": ("str", "a"), "on": ("bool", True)}
    with pytest.raises(ValueError, match="allowed: a literal value"):
        notebooks.declared(notebook(tmp_path / "m.ipynb", parameters="x: int = open('/etc/passwd')"))


@pytest.mark.parametrize(("line", "default"), [
    ('x: str = "fixed+run_skipped=true"', "fixed+run_skipped=true"), ("x: int = 2  # step % k != 0", 2),
    ("x: int | None = None", None), ('x: str = "a # b"  # a text', "a # b"),
    ('x: list[str] = ["a",\n  "b"]', ["a", "b"])])
def test_a_parameter_is_read_as_python_reads_it(tmp_path, line, default):
    """papermill's own inspection leaves some of them out, or takes another default."""
    assert notebooks.declared(notebook(tmp_path / "n.ipynb", parameters=line))["x"].default == default


@pytest.mark.parametrize("annotation", ["int | None", "Optional[int]", "'int | None'", '"Optional[int]"'])
def test_a_parameter_that_may_be_none_is_still_of_its_type(tmp_path, annotation):
    path = notebook(tmp_path / "n.ipynb", parameters=f"x: {annotation} = None\ny: 'int' = 1")
    assert [notebooks.check(path, {"x": value}) for value in (None, 3)] == [{"x": None}, {"x": 3}]
    for name, value in (("x", "a"), ("x", True), ("y", None)):
        with pytest.raises(ValueError, match=f"{name}={value!r}; allowed: int"):
            notebooks.check(path, {name: value})


@pytest.mark.parametrize("line", ["import os", "print(1)", "x = y = 1", "x, y = 1, 2", "x: int", "x += 1",
                                  "if True: x = 1", "%matplotlib inline"])
def test_a_parameters_cell_holds_nothing_else(tmp_path, line):
    with pytest.raises(ValueError, match=r"(?s)n\.ipynb: parameters cell holds `.+`; allowed: name: type = literal"):
        notebooks.declared(notebook(tmp_path / "n.ipynb", parameters=f"k: int = 1\n{line}"))


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b"name: value"])
def test_a_file_that_is_no_notebook_is_named(tmp_path, content):
    (tmp_path / "n.ipynb").write_bytes(content)
    with pytest.raises(ValueError, match=r"n\.ipynb: not a notebook"):
        notebooks.declared(tmp_path / "n.ipynb")


@pytest.mark.parametrize(("values", "message"), [
    ({"w": 1}, "w=1 is unknown; allowed: x, y, z, on"), ({"x": 1.5}, "x=1.5; allowed: int"),
    ({"x": True}, "x=True; allowed: int"), ({"z": 3}, "z=3; allowed: str"), ({"on": 1}, "on=1; allowed: bool"),
    ({"y": "0.5"}, "y='0.5'; allowed: float")])
def test_wrong_parameters_are_refused_before_anything_starts(tmp_path, values, message):
    path = notebook(tmp_path / "n.ipynb", ("run", "x"))
    with pytest.raises(ValueError, match=message):
        worker.execute(path, tmp_path / "out" / "n.ipynb", values)
    assert not (tmp_path / "out").exists()


def test_every_shipped_notebook_declares_its_parameters():
    for path in sorted((root() / "notebooks").glob("*.ipynb")):
        known = notebooks.declared(path)
        assert all(each.type in notebooks.TYPES for each in known.values()), path.name
        content = json.loads(path.read_text())
        assert not any(cell.get("outputs") for cell in content["cells"]), f"{path.name} carries outputs"


def test_the_comments_of_parameters_name_what_is_allowed():
    allowed = {"model": str(Parameters.model_fields["model"].description),
               "policy": f"{', '.join(POLICIES)}, or a .py file"}
    seen = set()
    for path in sorted((root() / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        [own] = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
        for line in "".join(own["source"]).splitlines():
            name, comment = line.partition(":")[0], line.partition("  # ")[2]
            if name in allowed:
                seen.add(name)
                assert comment == allowed[name], f"{path.name}: {line}"
    assert seen == set(allowed)


def test_cell_notebook_takes_the_parameters_of_a_run():
    from fastdllm.lab.config import grid_file
    from fastdllm.lab.config.grid import Configuration
    grid = grid_file.load("demo")
    for configuration in grid.configurations():
        assert set(configuration.flat()) == set(notebooks.declared(notebooks.find(grid.notebook)))
        notebooks.check(notebooks.find(grid.notebook), configuration.flat())
        assert Configuration.of(configuration.flat()) == configuration


def test_papermill_warns_of_no_parameter_that_it_cannot_read(tmp_path, caplog):
    """Its pattern leaves out `x`; ours has read it, and the notebook takes it."""
    path = notebook(tmp_path / "n.ipynb", ("run", "print(x + y)"), parameters="x: int | None = None\ny: int = 1\n")
    caplog.set_level(logging.INFO, "papermill")
    worker.execute(path, tmp_path / "out" / "n.ipynb", {"x": 2, "y": 3})
    assert notebooks.printed(tmp_path / "out" / "n.ipynb", "run") == "5"
    said = [line.getMessage() for line in caplog.records if line.name == "papermill"]
    assert said and not any("parameter" in line for line in said)


def test_output_is_whole_or_absent_and_the_failing_cell_is_named(tmp_path):
    boom = "if x == 3:\n    raise KeyError('gone')"
    path = notebook(tmp_path / "n.ipynb", ("double", "print(2 * x)"), ("boom", boom))
    output = tmp_path / "out" / "n.ipynb"
    worker.execute(path, output, {"x": 4, "y": 1})
    done = nbformat.read(output, 4)
    assert notebooks.printed(output, "double") == "8"
    assert any("8" in out.get("text", "") for cell in done.cells for out in cell.get("outputs", []))
    before = output.read_bytes()
    with pytest.raises(marks.NotebookFailed, match="boom") as failure:
        worker.execute(path, output, {"x": 3})
    assert (failure.value.where, failure.value.ename) == ("boom", "KeyError")
    assert output.read_bytes() == before      # the last good copy stays
    assert "Traceback" in (tmp_path / "out" / "n.failed.ipynb").read_text()
    assert sorted(each.name for each in output.parent.iterdir()) == ["n.failed.ipynb", "n.ipynb"]


def test_whatever_ends_a_run_marks_the_cell_failed(tmp_path):
    """Not only an error in a notebook's cell: here the kernel that it names is not installed."""
    path = notebook(tmp_path / "n.ipynb", ("run", "x"))
    content = json.loads(path.read_text())
    content["metadata"]["kernelspec"]["name"] = "gone"
    path.write_text(json.dumps(content))
    directory = tmp_path / "out"
    with pytest.raises(NoSuchKernel):
        worker.work(worker.Work(str(path), str(directory / "n.ipynb"), {}, str(tmp_path)))
    failure = json.loads((directory / marks.FAILED).read_text())
    assert failure["error"].startswith("NoSuchKernel: ") and "gone" in failure["error"]
    assert not (directory / marks.OPEN).exists() and not (directory / "n.ipynb").exists()


def test_any_notebook_runs_once_and_again_when_it_changed(tmp_path, capsys):
    path = notebook(tmp_path / "n.ipynb", ("run", "print(x)"))
    assert notebook_run.run_notebook(path, {"x": 2}, tmp_path / "out")
    assert notebook_run.run_notebook(path, {"x": 2}, tmp_path / "out")
    assert "complete already" in capsys.readouterr().out
    own = notebook_run.notebook_identity(path, {"x": 2})
    assert notebook_run.notebook_identity(path, {"x": 3}) != own
    notebook(path, ("run", "print(x)  # a comment"))
    assert notebook_run.notebook_identity(path, {"x": 2}) == own
    notebook(path, ("run", "print(x + 1)"))
    assert notebook_run.notebook_identity(path, {"x": 2}) != own


def test_parameters_of_a_notebook_from_a_file(tmp_path):
    path = notebook(tmp_path / "n.ipynb")
    (tmp_path / "p.yml").write_text("x: 3\ny: 1\n")
    assert notebook_run.read_parameters(path, str(tmp_path / "p.yml"), ["z=b"]) == {"x": 3, "y": 1.0, "z": "b"}
    (tmp_path / "p.yml").write_text("x: 3\nzork: 1\n")
    with pytest.raises(ValueError, match=r"p.yml, line 2, zork: n.ipynb has no such parameter; allowed: x, y"):
        notebook_run.read_parameters(path, str(tmp_path / "p.yml"), [])
