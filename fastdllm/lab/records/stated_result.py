"""What somebody else's result file states, and what of it could not be read: neither guessed nor swallowed."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from fastdllm import prior_results
from fastdllm.model.files import brief, each_key_once

STAMP = "%Y%m%d_%H%M%S"
CONFIGURATION = re.compile(r"^k(\d+)(?:_(first|middle|last))?(?:_(.+))?$")
# Our name of a setting: the names that others have for it, in files and in model_args.
SETTING_NAMES = {
    "k": ("k", "reuse_k"), "layers": ("layers", "layer_subset"), "model": ("model", "model_path", "pretrained"),
    "shots": ("shots", "num_fewshot"), "block_cache": ("block_cache", "use_block_cache"),
    "small_block": ("small_block", "small_block_size"), "block_size": ("block_size", "bd_size"),
    "max_new_tokens": ("max_new_tokens", "max_gen_toks", "gen_length"), "limit": ("limit",),
    "batch_size": ("batch_size",), "threshold": ("threshold",), "temperature": ("temperature",), "top_p": ("top_p",),
    "dtype": ("dtype", "model_dtype"), "stop_strings": ("stop_strings", "until")}
OURS = {theirs: ours for ours, names in SETTING_NAMES.items() for theirs in names}
LONGEST = 300       # digits of a whole number that can still be one in a table
IRRELEVANT = ("show_speed", "experiment_name", "output_path", "log_samples")      # shape no answer


@dataclass
class Reading:
    """Reads the values of one file one by one and keeps what it had to leave out, or to interpret, by field."""

    skipped: list[str] = field(default_factory=list)
    interpreted: list[str] = field(default_factory=list)

    def skip(self, name: str, value: Any, allowed: str) -> None:
        self.skipped.append(f"{name}={brief(value)}; allowed: {allowed}")

    def number(self, name: str, value: Any, least: float = 0.0) -> float | None:
        """A finite number from `least` up, or a string that holds one; anything else is skipped by name."""
        result = plain_number(value)
        if result is None or result < least:
            self.skip(name, value, f"a number from {least:g} up")
            return None
        return result

    def limit(self, name: str, value: Any) -> float | None:
        """A limit above 0 (below 1: a share of the problems); nothing is evaluated at 0, which is not "all"."""
        result = plain_number(value)
        if result is None or result <= 0:
            self.skip(name, value, "a number above 0, or null for all problems")
            return None
        return result

    def whole(self, name: str, value: Any, least: int = 0) -> int | None:
        """A whole number from `least` up (10.0 is one)."""
        result = plain_number(value)
        if result is None or result < least or result != int(result):
            self.skip(name, value, f"a whole number from {least} up")
            return None
        return int(result)

    def share(self, name: str, value: Any) -> float | None:
        """A share from 0 to 1. What is written as a percentage, or is above 1, is read as one and said to be."""
        percent = isinstance(value, str) and value.strip().endswith("%")
        result = plain_number(value.strip()[:-1] if percent else value)
        if result is None or not 0 <= result <= (100 if percent or result > 1 else 1):
            self.skip(name, value, "a share from 0 to 1, or a percentage")
            return None
        if percent or result > 1:
            self.interpreted.append(f"{name}={brief(value)} is read as {result:g} %")
            return float(f"{result / 100:.15g}")
        if isinstance(value, str):
            self.interpreted.append(f"{name}={brief(value)} is read as the number {result:g}")
        return result


@dataclass(frozen=True)
class StatedResult:
    """One configuration as a file states it. None, and a setting that is absent, mean that it does not say."""

    file: Path
    origin: str                              # "summary" or "lm_eval"
    name: str                                # the folders that name it
    batch: str
    task: str
    config: str
    k: int | None = None
    layers: str | None = None
    limit: float | None = None               # 0: all problems; below 1: a share of them
    n: int | None = None
    metric: str = ""
    accuracy: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    tokens: float | None = None
    seconds: float | None = None
    tokens_per_second: float | None = None
    finished: str | None = None
    commit: str | None = None
    dirty: bool | None = None
    node: str | None = None
    gpu: str | None = None
    torch: str | None = None
    job: str | None = None
    empty: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    group_means: dict[str, float] = field(default_factory=dict)        # "weighted" and "unweighted", of a group's parts
    sample_means: dict[str, tuple[float, int]] = field(default_factory=dict)     # metric: (mean, how many), of samples
    contradictions: tuple[tuple[str, str, str], ...] = ()      # (setting, what the file says, what its folder says)
    skipped: tuple[str, ...] = ()
    interpreted: tuple[str, ...] = ()

    @property
    def whole_limit(self) -> int | None:
        """The limit where it is a number of problems; None where it is none, a share, or not stated."""
        return int(self.limit) if self.limit and float(self.limit).is_integer() else None

    @property
    def problems(self) -> int | None:
        """n as stated, or worked out from the stated limit and the size of a benchmark that we know."""
        if self.n or self.limit is None or not float(self.limit).is_integer() or self.origin != "summary":
            return self.n
        return benchmark_size(self.task, int(self.limit))


@dataclass(frozen=True)
class Location:
    """What the folders of a result say: `name` are those below the top, without what is known by other means."""

    name: str
    batch: str
    task: str
    config: str
    k: int | None
    layers: str | None
    limit: int | None
    rest: str                                # what the configuration's name says beyond k and layers


def benchmark_size(task: str, limit: int) -> int | None:
    """Problems that a benchmark has, or sees at a limit per subtask; None for one that we don't know."""
    return prior_results.problems(task, limit) if task in prior_results.tasks().index else None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ValueError that says what the file holds instead, and for a key with two values."""
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=each_key_once)
    except (ValueError, RecursionError, OSError) as error:      # of JSON, its encoding or its numbers; no plain file
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{type(values).__name__}; allowed: a JSON object")
    return values


def locate(path: Path, top: Path, task: str = "", ignored: tuple[str, ...] = ()) -> Location:
    """.../batch/task[_limit_N]/config/...: from the whole path below `top`.

    `task` is what the file itself says; folders in `ignored` (a model's name) are no part of the configuration.
    A folder such as k2_middle is the configuration; without one, everything behind the task's folder is, or, where no
    folder is named after the task, everything below `top`.
    """
    inner = [part for part in path.relative_to(top).parts[:-1] if part not in ignored]
    folders = [top.resolve().name, *inner]
    at_k = next((i for i in range(len(folders) - 1, -1, -1) if CONFIGURATION.match(folders[i])), None)
    at_task = next((i for i in range(len(folders) - 1, -1, -1) if task and _limited(folders[i])[0] == task), None)
    if at_k is not None:
        start, config, above = at_k, folders[at_k], folders[at_k - 1] if at_k else ""
        batch = folders[at_k - 2] if at_k > 1 else top.resolve().parent.name if at_k == 1 else ""
    elif at_task is not None:
        start, above = at_task + 1, folders[at_task]
        config = "/".join(folders[start:]) or above
        batch = folders[at_task - 1] if at_task else top.resolve().parent.name
    elif task:                       # no folder is the task's: all of them name the configuration
        start, above, config, batch = 0, "", "/".join(inner) or folders[0], folders[0]
    else:
        start, config, above = len(folders) - 1, folders[-1], folders[-2] if inner else ""
        batch = folders[-3] if len(folders) > 2 else top.resolve().parent.name if inner else ""
    named = CONFIGURATION.match(config)
    folder_task, limit = _limited(above)
    rest = [named[3] or "", *folders[start + 1:]] if named else [config]
    name = "/".join(folders[1:start + 1] if at_k is not None else inner)
    return Location(name or folders[-1], batch, task or folder_task, config,
                    int(named[1]) if named else None, named[2] if named else None, limit, "/".join(filter(None, rest)))


def settings_of(values: dict[str, Any]) -> dict[str, Any]:
    """Settings under our names, where a name is known; what shapes no answer and what is null is left out."""
    return {OURS.get(name, name): plain_number(value, value) for name, value in values.items()
            if value is not None and value != "None" and name not in IRRELEVANT}


def plain_number(value: Any, otherwise: Any = None) -> Any:
    """A finite number, or a string that is one ("1", "0.5"); `otherwise` for everything else ("1,000", true)."""
    if isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?\s*", value):
        number = float(value) if re.search(r"[.eE]", value) or len(value) > LONGEST else int(value)
        return number if math.isfinite(number) else otherwise
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return otherwise
    return value if abs(value) <= sys.float_info.max else otherwise      # nan and infinity are not, nor is 10**400


def timestamp(value: Any) -> str | None:
    """Any of the time stamps in use, as 20260119_005418; None where it is none."""
    text = str(value)
    if re.fullmatch(r"\d{8}_\d{6}", text):
        return text
    try:
        return datetime.fromisoformat(re.sub(r"T(\d\d)-(\d\d)-(\d\d)", r"T\1:\2:\3", text)).strftime(STAMP)
    except ValueError:
        return None


def text_or_none(value: Any) -> str | None:
    """Text or a number as text; None where nothing, or no single value, is stated."""
    return str(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) and value != "" else None


def _limited(folder: str) -> tuple[str, int | None]:
    limited = re.match(r"^(.*)_limit_([1-9]\d*)$", folder)
    return (limited[1], int(limited[2])) if limited else (folder, None)
