"""Every command of README and docs runs as it stands there; so does every Python block, page by page.

A ```bash block may stand behind a comment of its page: `<!-- not run: REASON -->` (the subcommands and options are then
checked against --help), or `<!-- status 1: REASON -->` (what the last command's exit status is to be).
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import get_args

import lab_support
import pytest

from fastdllm.decode.policies import Original, OutputPolicy, ReusePlan
from fastdllm.decode.step import DECISIONS, KINDS, Forward
from fastdllm.decode.store import Source, Store
from fastdllm.model.files import PATTERNS
from fastdllm.settings import POLICIES, ExecutorName

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^(?:<!-- (?P<mark>[^\n]*) -->\n)?```(?P<language>bash|python)\n(?P<code>.*?)^```$",
                   re.MULTILINE | re.DOTALL)
MARK = re.compile(r"(not run|status (?P<status>\d+)): \w")
INLINE = re.compile(r"`(fastdllm [a-z][^`\n]*)`")
PROGRAM = re.compile(r"(\.venv/bin/)?fastdllm ")
# What the pages name and this machine can't be asked to run, and what stands in for it.
ELSEWHERE = {
    "make": "test_make_targets_of_the_pages_exist; CI calls make test, which calls make setup",
    "sbatch": "tests/test_slurm_jupyterlab.py submits the script to a Slurm of its own",
    "cat jupyterlab-": "what that script wrote",
    "git clone ": "a network", ".venv/bin/python -m pip install ": "a network", "export HF_HOME=": "no command",
    ".venv/bin/hf download ": "test_the_download_command_takes_its_patterns", "srun --gres=": "a cluster",
    ". .venv/bin/activate": "no command", '.venv/bin/python -c "import torch;': "a GPU"}
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


def marked(page, language):
    """(mark, code) of each block of a language; the mark is "" where none stands before it."""
    return [(match["mark"] or "", match["code"]) for match in FENCE.finditer(page.read_text())
            if match["language"] == language]


def blocks(page, language):
    return [code for _, code in marked(page, language)]


def commands(code):
    """Lines of a bash block without comments, continuation lines joined."""
    joined = code.replace("\\\n", " ")
    return [line.split(" # ")[0].strip() for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def run_here():
    """Each command once, wherever it stands: (page, command, status)."""
    seen = {}
    for page in PAGES:
        for mark, code in marked(page, "bash"):
            if mark.startswith("not run: "):
                continue
            match = MARK.match(mark)
            status = int(match["status"]) if match else 0
            for command in commands(code):
                seen.setdefault(command, (page.name, status))
    return [(page, command, status) for command, (page, status) in seen.items()]


def named():
    """Lines that a block names and that are not run."""
    return [command for page in PAGES for mark, code in marked(page, "bash") if mark.startswith("not run: ")
            for command in commands(code)]


def not_run():
    """Every `fastdllm` command that is named, in a block or in a sentence, and not run."""
    inline = [said for page in PAGES for said in INLINE.findall(FENCE.sub("", page.read_text()))]
    lines = {line.removeprefix(".venv/bin/") for line in named() + inline if PROGRAM.match(line)}
    return sorted(lines - {command for _, command, _ in run_here()})


@pytest.fixture(scope="module")
def project(tmp_path_factory, warm_workers):
    """A copy of what commands read, so that they write elsewhere; `fastdllm` is the one under test.

    Kernels and programs start with libraries imported. A configuration's notebook computes here and draws nothing:
    its figures are seen to in test_notebooks and test_log.
    """
    home = tmp_path_factory.mktemp("project")
    for name in ("notebooks", "params"):
        shutil.copytree(ROOT / name, home / name)
    lab_support.computing_notebook(home / "notebooks" / "10_cell.ipynb")
    (home / "bin").mkdir()
    program = home / "bin" / "fastdllm"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m fastdllm "$@"\n')
    program.chmod(0o755)
    return home


def ended(command, home, programs):
    """A command, from the project's root as a reader would; a shell reads what is more than `fastdllm WORDS`."""
    path = f"{home / 'bin'}:{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}"
    environment = {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
                   "COLUMNS": "200"}
    words = shlex.split(command)
    if PROGRAM.match(command) and not set(command) & set("|&;<>$*"):
        return programs.fastdllm(*words[1:], cwd=home, **environment)
    return subprocess.run(["bash", "-c", command], cwd=home, env={**os.environ, **environment}, capture_output=True,
                          text=True, timeout=540, check=False, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python_blocks_run_in_order(page, project, programs):
    done = programs.script("\n".join(blocks(page, "python")), project)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(("page", "command", "status"), run_here(), ids=lambda value: str(value)[:60])
def test_commands_run(page, command, status, project, programs):
    """Files that a page's Python makes are made first."""
    code = "\n".join(blocks(next(path for path in PAGES if path.name == page), "python"))
    for name in re.findall(r'Path\("([\w/]+\.py)"\)\.write_text', code):
        if name in command and not (project / name).exists():
            assert programs.script(blocks(ROOT / "docs" / page, "python")[0], project).returncode == 0
    done = ended(command, project, programs)
    assert done.returncode == status, f"{page}: {command}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"


@pytest.mark.parametrize("command", not_run(), ids=lambda value: str(value)[:60])
def test_commands_that_need_more_are_spelled_right(command):
    """Subcommand and options exist, by the program's own --help."""
    words = command[command.index("fastdllm ") + len("fastdllm "):].split()
    subcommand = words[:2] if words[0] in ("grid", "lm-eval") else words[:1]
    shown = lab_support.command(*subcommand, "--help")
    for option in (word.split("=")[0] for word in words if word.startswith("-")):
        assert option in shown, f"{command}: {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_nothing_is_skipped_silently(page):
    """Code stands in bash and python blocks only; a block that is not run says why, and its lines are known here."""
    opened = re.findall(r"^```(.+)$", page.read_text(), re.MULTILINE)
    assert set(opened) <= {"bash", "python", "text", "bibtex"}      # text: what a block printed
    code = [language for language in opened if language in ("bash", "python")]
    assert len(code) == len(FENCE.findall(page.read_text()))
    for mark, _ in marked(page, "bash"):
        assert not mark or MARK.match(mark) or mark.startswith("demo: "), mark
    for line in named():
        assert PROGRAM.match(line) or line.startswith(tuple(ELSEWHERE)), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("kind", [OutputPolicy, Original, ReusePlan, Forward, Source, Store])
def test_the_page_on_policies_names_all_that_a_policy_is_handed(kind):
    names = {name for name in (*vars(kind), *vars(kind).get("__annotations__", ())) if not name.startswith("_")}
    names -= {"of", "key", "plain"} if kind in (Source, ReusePlan) else {"layers"}      # what only the engine calls
    prose = re.sub(r"```.*?```", "", (ROOT / "docs" / "add_a_policy.md").read_text(), flags=re.DOTALL)
    told = set(re.findall(r"\w+", " ".join(re.findall(r"`[^`]+`", prose))))
    assert names - told == set()


def test_the_suite_s_own_words_are_in_the_glossary():
    """Those of settings and records, and those that stand over columns and in sentences of README and reports."""
    text = (ROOT / "docs" / "glossary.md").read_text()
    told = " ".join(re.findall(r"\*+([^*]+)\*+", text))
    own = [*KINDS, *DECISIONS, *POLICIES, *get_args(ExecutorName), "strict", "control threshold", "bound", "NFE",
           "pass", "packed tick", "tick", "draft", "depth", "cap", "runaway", "AUP", "cost model", "predicted",
           "replayed", "points lost", "points won over it", "layer calls reused", "criterion", "on the front",
           "first differing forward", "two-tier caching", "collapse", "refresh", "slot", "January, Run 1, Run 2",
           "revision", "copy bandwidth"]
    assert [word for word in own if word.lower() not in told.lower()] == []


def test_readme_lists_every_notebook_and_page():
    text = (ROOT / "README.md").read_text()
    for path in [*(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "docs").glob("*.md")]:
        assert path.relative_to(ROOT).as_posix() in text, path.name


def test_make_targets_of_the_pages_exist():
    made = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    said = {name for page in PAGES for name in re.findall(r"(?:`|^)make ([a-z]+)\b", page.read_text(), re.MULTILINE)}
    assert said and said <= made, said - made


def test_the_download_command_takes_its_patterns():
    """Offline it fails, but says first if it ignores a pattern, which it does where one stands behind another."""
    [command] = [line for line in named() if "hf download" in line]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}

    def message(line):
        words = shlex.split(line.removeprefix(".venv/bin/"))
        done = subprocess.run([str(Path(sys.prefix) / "bin" / words[0]), *words[1:], "--dry-run"], env=offline,
                              capture_output=True, text=True, timeout=120, check=False)
        return done.stdout + done.stderr

    assert "gnoring" not in message(command)
    assert "gnoring" in message(command.replace('" --include "', '" "'))
    words = shlex.split(command)
    assert [word for option, word in pairwise(words) if option == "--include"] == list(PATTERNS)


def test_the_speeds_of_the_page_are_those_of_the_benchmark():
    page = (ROOT / "docs" / "speed.md").read_text()
    runs = json.loads((ROOT / re.search(r"benchmarks/results/cpu_[0-9-]+\.json", page)[0]).read_text())
    plain = max(runs["runs"][name]["tokens_per_second"] for name in ("plain 1", "plain 1, all cores"))
    rows = re.findall(r"^\| batch (\d+)[^|]*\| (\d+) \| (\d+) \| ([\d.]+) \| ", page, re.MULTILINE)
    assert [row[0] for row in rows] == ["1", "16", "32"]
    for batch, prompts, speed, ratio in rows:
        measured = runs["runs"][f"ours {batch}"]["tokens_per_second"]
        assert int(speed) == round(measured) and float(ratio) == round(measured / plain, 1)
        assert int(prompts) == runs["settings"]["prompts" if batch == "1" else "in_batches"]
    assert f"| 24 | {plain:.0f} |" in page
