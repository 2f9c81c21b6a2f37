"""Where things lie: the project, what ran, a policy's file."""

from __future__ import annotations

from pathlib import Path

from fastdllm.lab.atomic import sha256
from fastdllm.settings import POLICIES


def expand(path: str) -> str:
    """`~` and `$VAR` replaced. Raises ValueError naming a variable that is not set."""
    import os
    expanded = os.path.expandvars(os.path.expanduser(path))
    if "$" in expanded:
        name = expanded[expanded.index("$"):].split("/")[0]
        raise ValueError(f"{path!r}: {name} is not set; allowed: variables of the environment")
    return expanded


def policy_path(policy: str, folder: Path | None = None) -> str:
    """A policy file by absolute path, looked up from here, in `folder`, then in the project; a built-in one's name.

    Raises ValueError for a file that is not there, and for a name that is none of a policy.
    """
    if policy in POLICIES:
        return policy
    for file in (Path(expand(policy)), *([folder / policy] if folder else []), root() / policy):
        if policy.endswith(".py") and file.is_file():
            return str(file.resolve())
    missing = ": no such file" if policy.endswith(".py") else ""
    raise ValueError(f"policy={policy!r}{missing}; allowed: {', '.join(POLICIES)}, or a Python file")


def root() -> Path:
    """The project: the nearest directory above the working directory that holds notebooks/ and params/."""
    here = Path.cwd()
    for directory in (here, *here.parents):
        if (directory / "notebooks").is_dir() and (directory / "params").is_dir():
            return directory
    return Path(__file__).resolve().parents[3]


def short(path: Path) -> str:
    """A path as seen from the project: what is written for others names no machine's folders."""
    return str(path.relative_to(root())) if path.is_relative_to(root()) else path.name


def short_name(path: str) -> str:
    """A path's last part, and behind it six digits of the whole, so that a/x and b/x have names of their own.

    A path inside the project counts from there: the name is the same on every machine. Names without a folder, like
    that of an embedded checkpoint, stay as they are.
    """
    if "/" not in path:
        return path
    file = Path(path).expanduser()
    whole = str(file.resolve().relative_to(root())) if file.resolve().is_relative_to(root()) else path
    return f"{file.stem if file.suffix == '.py' else file.name}-{sha256(whole)[:6]}"


def executed() -> Path:
    """Where everything that ran lies."""
    return root() / "executed"
