"""Where things lie: the project, what ran, a policy's file."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from fastdllm.errors import did_you_mean
from fastdllm.lab.atomic import sha256
from fastdllm.settings import POLICIES

HOME = "FASTDLLM_HOME"
PACKAGE = Path(__file__).resolve().parents[2]
CHECKOUT = PACKAGE.parent                   # of an installed package: site-packages, which is no project
SHIPPED = ("params", "notebooks")           # in the wheel below fastdllm/shipped (pyproject.toml)


def expand(path: str) -> str:
    """`~` and `$VAR` replaced. Raises ValueError naming a variable that is not set."""
    expanded = os.path.expandvars(os.path.expanduser(path))
    if "$" in expanded:
        name = expanded[expanded.index("$"):].split("/")[0]
        raise ValueError(f"{path!r}: {name} is not set; allowed: variables of the environment")
    return expanded


def policy_path(policy: str, folder: Path | None = None) -> str:
    """A policy file by absolute path, looked up from here, in `folder`, then as `look_up` does; a built-in one's name.

    Raises ValueError for a file that is not there, and for a name that is none of a policy.
    """
    if policy in POLICIES:
        return policy
    beside = [folder / policy] if folder else []
    for file in (Path(expand(policy)), *beside, *filter(None, [look_up(policy)])):
        if policy.endswith(".py") and file.is_file():
            return str(file.resolve())
    missing = ": no such file" if policy.endswith(".py") else ""
    raise ValueError(f"policy={policy!r}{missing}; {did_you_mean(policy, POLICIES)}allowed: {', '.join(POLICIES)}, or "
                     "a Python file")


def root() -> Path:
    """The project: where `executed/` is written, and where params/ and notebooks/ are looked up first.

    $FASTDLLM_HOME where it is set; else the nearest directory from the working directory upwards that holds notebooks/
    and params/; else the checkout around the package; of an installed package the working directory itself.
    Raises ValueError for a FASTDLLM_HOME that is no directory.
    """
    if home := os.environ.get(HOME):
        if not Path(expand(home)).is_dir():
            raise ValueError(f"{HOME}={home!r}: no such directory; allowed: one that is there, or not set")
        return Path(expand(home)).resolve()
    here = Path.cwd()
    for directory in (here, *here.parents):
        if is_project(directory):
            return directory
    return CHECKOUT if is_project(CHECKOUT) else here


def is_project(directory: Path) -> bool:
    """Whether a directory holds notebooks/ and params/."""
    return (directory / "notebooks").is_dir() and (directory / "params").is_dir()


def shipped() -> Path:
    """What the package brings: params/ and notebooks/ of the checkout around it, or those in the installed package."""
    return CHECKOUT if is_project(CHECKOUT) else PACKAGE / "shipped"


def look_up(name: str | Path) -> Path | None:
    """A file or directory of the project, else of what the package brings; None where neither has it."""
    return next((home / name for home in (root(), shipped()) if (home / name).exists()), None)


def listed(folder: str, pattern: str) -> list[Path]:
    """The files of a folder like params/, by name: the project's, and those that the package brings besides."""
    files = {path.name: path for home in (shipped(), root()) for path in (home / folder).glob(pattern)}
    return [files[name] for name in sorted(files)]


def copy_shipped(directory: Path) -> list[Path]:
    """Copy params/ and notebooks/ into a directory, to be changed there; returns what was written.

    Raises ValueError if it holds one of them already: nothing is overwritten.
    """
    targets = [directory / name for name in SHIPPED]
    if there := [str(target) for target in targets if target.exists()]:
        raise ValueError(f"{', '.join(there)}: exists; allowed: a directory without {' and '.join(SHIPPED)}")
    for name, target in zip(SHIPPED, targets, strict=True):
        shutil.copytree(shipped() / name, target, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    return targets


def short(path: Path) -> str:
    """A path as seen from the project: what is written for others names no machine's folders."""
    return str(path.relative_to(root())) if path.is_relative_to(root()) else path.name


def to_open(path: Path) -> str:
    """A path as it is typed where one stands: from the working directory if it lies below, else whole."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def short_name(path: str) -> str:
    """A path's last part, and behind it six digits of the whole, so that a/x and b/x have names of their own.

    A path inside the project, or inside what the package brings, counts from there: the name is the same on every
    machine. Names without a folder, like that of an embedded checkpoint, stay as they are.
    """
    if "/" not in path:
        return path
    file = Path(path).expanduser()
    within = next((home for home in (root(), shipped()) if file.resolve().is_relative_to(home)), None)
    whole = str(file.resolve().relative_to(within)) if within else path
    return f"{file.stem if file.suffix == '.py' else file.name}-{sha256(whole)[:6]}"


def executed() -> Path:
    """Where everything that ran lies."""
    return root() / "executed"
