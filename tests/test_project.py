"""The project's own files agree with one another and with the house (README)."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from functools import cache
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from tools import architecture

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ORDER = ("tools", "__main__", "cli", "investigation", "share", "report", "ui", "display", "lab", "train", "tasks",
         "decode", "model", "settings", "prior_results", "stats", "power", "errors", "characters", "version")
REMOTE = "fastdllm/lab/instrument/generation_file.py"      # the one place that may run code of a checkpoint
SOURCES = sorted([*(ROOT / "fastdllm").rglob("*.py"), *(ROOT / "tools").glob("*.py")])
# Rooms below the face: fastdllm/__init__.py is made of them.
FACELESS = ORDER[ORDER.index("train"):]


def pins():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_lock_is_inside_the_ranges_and_complete():
    locked = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins().items()}
    wanted = [Requirement(text) for text in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]]
    for requirement in wanted:
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        assert name in locked, f"{name} is not locked"
        assert Version(locked[name]) in requirement.specifier, f"{name} {locked[name]} is outside {requirement}"
    assert locked["torch"] == "2.13.0"
    assert not any("+" in version for version in locked.values()), "a local version tag would exclude other builds"


# Programs that are run or that others load, and never imported: JupyterLab and the kernel that it starts.
APPLICATIONS = {"jupyterlab", "ipykernel"}


def test_what_is_declared_is_imported_and_what_is_imported_is_declared():
    elsewhere = {"fastdllm", "tools", "triton", *sys.stdlib_module_names}      # triton comes with torch's CUDA build
    used = {name.split(".")[0] for path in SOURCES for name, _ in imports(path)} - elsewhere
    installed = packages_distributions()       # reads what is installed anew at each call
    distributions = {re.sub(r"[-_.]+", "-", each).lower() for name in used for each in installed[name]}
    distributions.discard("ruamel-yaml-clib")      # a part of ruamel.yaml, in the same package
    declared = {re.sub(r"[-_.]+", "-", Requirement(text).name).lower()
                for text in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]}
    assert distributions <= declared, distributions - declared
    needed = {re.sub(r"[-_.]+", "-", Requirement(text).name).lower() for text in PROJECT["dependencies"]}
    assert needed - distributions <= APPLICATIONS, needed - distributions - APPLICATIONS


def test_environment_yml_is_valid_and_agrees():
    from rattler import MatchSpec
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert set(environment) == {"name", "channels", "dependencies"}
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    specs = {MatchSpec(entry).name.normalized: entry for entry in conda}
    assert specs["python"] == f"python{PROJECT['requires-python']}" and "pip" in specs
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip == ["-c requirements.lock", "-e .[test]"]


def imports(path):
    """(names imported from the package as dotted paths, line): `from fastdllm import lab` gives fastdllm.lab."""
    return imports_below(ROOT, path)


@cache      # each file is asked for by several tests
def imports_below(root, path):
    return [*read_imports(root, path)]


def read_imports(root, path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                own = path.relative_to(root).with_suffix("").parts[:-node.level]
                base = ".".join([*own, *filter(None, [node.module])])
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and called(node.func).endswith(("import_module", "__import__")):
            yield from ((arg.value, node.lineno) for arg in node.args[:1] if isinstance(arg, ast.Constant))


def called(function):
    """The last word of what a call calls; "" where that is not a name."""
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def room(name):
    """The room of a dotted name, or None for what is not ours."""
    parts = name.split(".")
    if parts[0] == "tools":
        return "tools"
    if parts[0] != "fastdllm":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in ORDER else "face"      # a name of fastdllm/__init__.py


def module(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def upward(path):
    """The imports of a file that run up the list of rooms, or from a library room to the package's face."""
    own = ORDER.index(room(module(path)))
    for name, line in imports(path):
        other = room(name)
        if other == "face" and ORDER[own] in FACELESS:
            yield f"{path.relative_to(ROOT)}:{line}: the package's face ({name})"
        elif other not in (None, "face") and ORDER.index(other) < own:
            yield f"{path.relative_to(ROOT)}:{line}: {name} lies above {ORDER[own]}"


def test_imports_point_down():
    assert not [line for path in SOURCES if path != ROOT / "fastdllm/__init__.py" for line in upward(path)]


@pytest.mark.parametrize("line", [
    "from fastdllm import lab", "import fastdllm.lab.atomic", "from fastdllm.lab import atomic",
    "from ..lab import atomic", "from fastdllm import generate", "import_module('fastdllm.lab')",
    "def f():\n    from fastdllm.lab.atomic import write"])
def test_every_form_of_import_is_seen(line, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "fastdllm/tasks").mkdir(parents=True)
    path = tmp_path / "fastdllm/tasks/new.py"
    path.write_text(line + "\n")
    assert list(upward(path)), line


def test_no_file_imports_itself_by_way_of_others():
    """No circle among the package's files, imports inside functions included."""
    graph = {}
    known = {module(path).removesuffix(".__init__") for path in SOURCES}
    for path in SOURCES:
        own = module(path).removesuffix(".__init__")
        targets = {name if name in known else name.rpartition(".")[0] for name, _ in imports(path)}
        graph[own] = {target for target in targets if target in known and target not in ("fastdllm", own)}
    TopologicalSorter(graph).prepare()      # raises CycleError


def test_the_picture_of_the_rooms_is_that_of_the_imports():
    """python -m tools.architecture draws it anew."""
    assert (ROOT / architecture.PICTURE).read_text() == architecture.svg(architecture.graph(ROOT / "fastdllm"))


def test_the_picture_has_a_line_for_an_import_and_none_for_what_follows(tmp_path):
    for name, line in {"report/a": "from fastdllm import lab", "lab/records/b": "from fastdllm.tasks import get",
                       "report/c": "import fastdllm.lab.records.b\nfrom fastdllm.tasks.base import Task"}.items():
        path = tmp_path / f"fastdllm/{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(line + "\n")
    edges = architecture.graph(tmp_path / "fastdllm")
    assert edges == {("report", "lab.records"), ("report", "tasks"), ("lab.records", "tasks")}
    assert architecture.reduced(edges) == {("report", "lab.records"), ("lab.records", "tasks")}
    with pytest.raises(ValueError, match="tasks imports report, which stands above it"):
        architecture.svg({("tasks", "report")})


def test_the_pages_for_those_who_carry_on_name_files_that_are_there():
    for page in ("CONTRIBUTING.md", "docs/architecture.md"):
        paths = re.findall(r"`((?:fastdllm|tools|params|lab|cli|decode)/[\w/]+(?:\.\w+|/))`", (ROOT / page).read_text())
        assert paths
        for path in paths:
            assert (ROOT / path).exists() or (ROOT / "fastdllm" / path).exists(), f"{page}: {path}"


def test_a_commit_is_checked_by_the_programs_that_are_locked():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    programs = {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in hooks}
    assert programs == {"ruff", "nbstripout"} <= set(pins())


def test_nothing_is_unpickled():
    for path in SOURCES:
        assert not {name.split(".")[0] for name, _ in imports(path)} & {"pickle", "cloudpickle", "dill"}, path


def test_no_machine_paths_and_no_unsafe_yaml():
    places = "|".join("/" + place + "/" for place in ("work", "farm", "root", "opt"))
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in tracked:
        if name.endswith((".py", ".md", ".yml", ".toml", ".sh", ".ipynb", ".json", "Makefile", ".cfg", ".csv")):
            text = (ROOT / name).read_text(errors="replace")
            assert not re.search(places, text), f"{name} holds a path of a machine"
            if name.endswith(".py") and name != "tests/test_project.py":
                assert "yaml.load(" not in text, name
                assert all('typ="safe"' in call for call in re.findall(r"YAML\(.*", text)), name
                assert "trust_remote_code=True" not in text or name == REMOTE, name


def test_ruff_finds_nothing():
    """`make lint` also runs pyright, which takes a minute."""
    pytest.importorskip("ruff")
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


def test_remote_code_runs_behind_permission_only(golden):
    """The one place that may run a checkpoint's code asks first."""
    from fastdllm.lab.instrument.generation_file import own_code
    with pytest.raises(ValueError, match="--allow-code"):
        own_code(golden)


def test_source_notebooks_carry_no_outputs_and_have_parameters():
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert notebooks
    for path in notebooks:
        cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
        assert not any(cell["outputs"] or cell["execution_count"] for cell in cells), path.name
        assert any("parameters" in cell["metadata"].get("tags", []) for cell in cells), path.name
        definitions = sum(len(re.findall(r"^\s*(?:def|class) ", "".join(cell["source"]), re.M)) for cell in cells)
        assert definitions <= 1, f"{path.name}: {definitions} definitions belong in fastdllm/"


def test_published_showcase_is_small():
    files = [path for path in (ROOT / "executed" / "published").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12e6
    for path in files:
        assert path.suffix != ".ipynb" or path.stat().st_size <= 400_000, path.name
        assert path.name not in ("samples.jsonl", "trace.parquet"), path


def test_tests_that_share_a_fixture_run_in_one_worker():
    from tests.conftest import unit
    share = {unit(f"tests/{name}.py::test_x[1]") for name in ("test_publish", "test_gallery", "test_secrets")}
    assert len(share) == 1
    assert unit("tests/test_slurm.py::test_a") == unit("tests/test_slurm_jupyterlab.py::test_b") != share.pop()
    assert unit("tests/test_notebooks.py::test_smoke[a]") != unit("tests/test_notebooks.py::test_smoke[b]")


def test_help_is_a_reference():
    import pydoc

    import fastdllm
    text = pydoc.render_doc(fastdllm, renderer=pydoc.plaintext)
    for name in fastdllm.__all__:
        assert re.search(rf"^    (class )?{name}\b", text, re.MULTILINE), name
    for settings in (fastdllm.Decoding, fastdllm.Reuse):
        for name, field in settings.model_fields.items():
            assert f"{name} = {field.default!r}  ({field.description})" in text, name


@pytest.mark.parametrize("name", ["cli", "decode", "model", "report", "tasks", "lab/config", "lab/jobs", "lab/records"])
def test_a_room_of_many_files_says_what_each_is_for(name):
    """Its docstring lists them by job: every file once, and none that is not there."""
    text = ast.get_docstring(ast.parse((ROOT / "fastdllm" / name / "__init__.py").read_text()))
    listed = [file for line in re.findall(r"^- .+?: (.+)$", text, re.MULTILINE) for file in line.split(", ")]
    assert sorted(listed) == sorted(path.stem for path in (ROOT / "fastdllm" / name).glob("[!_]*.py"))
