"""One run to look at: its forwards, its trace, and what appeared where and when.

    run = record(lm, "How many ...?", reuse=Reuse(k=2, layers="middle"))
    run.save("executed/looking/k2_middle");  run = load("executed/looking/k2_middle")

`fastdllm.explore(run)` plays it, `report.strip.figure(run)` draws it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fastdllm.decode.generate import Prompt
from fastdllm.decode.revisions import Revision
from fastdllm.decode.step import Step
from fastdllm.lab import records
from fastdllm.lab.records import steps as steps_file
from fastdllm.lab.records.steps import Recorder
from fastdllm.model.lm import LM
from fastdllm.settings import Decoding, ExecutorName, Reuse
from fastdllm.tasks.base import Problem, Task

ROLES = ("prompt", "unmasked", "carried", "stop", "cut")      # of a position; "cut": behind the end of the output
CODES = ("", "recompute", "reuse", "fallback", "bypass", "replay")   # "": the layer ran, no wrapper was on it


@dataclass(frozen=True)
class Positions:
    """What every position came to hold, [N] each: prompt, then generated text."""

    token: NDArray[np.int32]
    when: NDArray[np.int32]          # forward that made it visible; -1 prompt; number of forwards: never
    confidence: NDArray[np.float32]  # nan where it was not unmasked
    role: NDArray[np.uint8]          # index in ROLES


@dataclass(frozen=True, eq=False)
class Recording:
    """One row's run. `steps` has a line per forward (F), `trace` one per wrapped layer and forward, or is None."""

    title: str
    steps: pd.DataFrame
    trace: pd.DataFrame | None
    meta: dict[str, Any]
    row: int = 0

    @property
    def prompt(self) -> list[int]:
        """The prompt's token ids; [] where they are not known."""
        return self.meta["prompts"].get(str(self.row), [])

    @property
    def result(self) -> dict[str, Any]:
        """tokens, text, finish, seconds, nfe, decisions; empty for a run that was cancelled."""
        return self.meta["results"].get(str(self.row), {})

    @cached_property
    def positions(self) -> Positions:
        return positions(self)

    @cached_property
    def rejected(self) -> list[tuple[int, int, int]]:
        """Tokens of rejected drafts (policy verify): forward, absolute position, token; [] where none was kept."""
        if "rejected" not in self.steps:
            return []
        return [(int(forward), int(start) + int(offset), int(token)) for forward, start, pairs in
                zip(self.steps["forward"], self.steps["start"], self.steps["rejected"], strict=True)
                for offset, token in pairs]

    @cached_property
    def drafts(self) -> NDArray[np.int32]:
        """[F] how many steps ahead a forward was drafted and accepted (policy verify); 0: the row's own state."""
        return np.asarray(self.steps.get("draft", np.zeros(len(self.steps))), np.int32)

    @cached_property
    def decisions(self) -> NDArray[np.uint8]:
        """[F, layers] index in CODES."""
        codes = np.zeros((len(self.steps), self.meta["layers"]), np.uint8)
        codes[(self.steps["kind"] == "replay").to_numpy()] = CODES.index("replay")
        if self.trace is not None and len(self.trace):
            outside = self.steps["kind"].isin(["prefill", "commit"]).to_numpy()     # never wrapped, so never traced
            wrapped = np.isin(np.arange(self.meta["layers"]), self.trace["layer"].to_numpy())
            codes[outside[:, None] & wrapped[None, :]] = CODES.index("bypass")
            values = self.trace["decision"].map(CODES.index).to_numpy()
            codes[self.trace["forward"].to_numpy(), self.trace["layer"].to_numpy()] = values
        return codes

    def save(self, directory: str | Path) -> Path:
        """Write steps.parquet (and trace.parquet) into a directory; returns it."""
        home = Path(directory)
        home.mkdir(parents=True, exist_ok=True)
        steps_file.write(home / steps_file.STEPS, self.steps, {**self.meta, "title": self.title})
        if self.trace is not None:
            self.trace.to_parquet(home / records.TRACE, index=False)
        return home


def title(reuse: Reuse, revision: str | Revision) -> str:
    """`k2 middle output, fixed`; for k=1 the revision alone is worth naming."""
    name = revision if isinstance(revision, str) else revision.name
    layers = reuse.layers if isinstance(reuse.layers, str) else ",".join(map(str, reuse.layers or ()))
    what = " ".join(filter(None, (f"k{reuse.k}", layers, Path(reuse.policy).stem)))      # policy verify has no layers
    return f"{what}, {name}" if reuse.active else f"k1, {name}"


def of_recorder(recorder: Recorder) -> Recording:
    """Row 0 of a recording, as far as it got."""
    return Recording(title(recorder.reuse, recorder.revision), steps_file.frame(recorder.steps), recorder.trace.frame(),
               recorder.meta())


def record(lm: LM, prompt: Prompt, *, decoding: Decoding = Decoding(), reuse: Reuse = Reuse(),
           revision: str | Revision = "fixed", seed: int = 0, distance: bool = True,
           executor: ExecutorName = "auto",
           on_step: Callable[[Step], bool | None] | None = None) -> Recording:
    """Denoise one prompt and keep every forward. `on_step` may return False to stop.

    `distance=True` also runs each reused layer, to say how far the stand-in is from what it would have
    returned. Raises ValueError for bad input before any work.
    """
    recorder = Recorder(lm, [prompt], decoding, reuse, revision, seed, distance, executor)
    for step in recorder:
        if on_step is not None and on_step(step) is False:
            break
    return of_recorder(recorder)


def judged(run: Recording, task: Task, problem: Problem) -> Recording:
    """The run with the known answer (`target`) and whether its own is right by the task's headline rule (`right`)."""
    right = task.score(problem, run.result["text"])[task.metric].correct if run.result else None
    return replace(run, meta={**run.meta, "target": problem.target, "right": right})


class Rows(Mapping[int, Recording]):
    """The rows, by number, of a run that was saved or of a finished record that kept a trace (`record: {trace: N}`).

    Each file is read once. Raises FileNotFoundError if there is no steps file, ValueError for one that is none.
    """

    def __init__(self, directory: str | Path) -> None:
        home = Path(directory)
        record = records.read(home) if (home / records.SUMMARY).exists() else None
        if record is not None and record.shared_from:
            home = home.with_name(record.shared_from)      # one run under two names
        self.path = home / steps_file.STEPS
        if not self.path.exists():
            raise FileNotFoundError(f"{self.path}: no steps are kept here; a grid keeps them with record: {{trace: N}}")
        self.steps, self.about = steps_file.read(self.path)
        self.trace = pd.read_parquet(home / records.TRACE) if (home / records.TRACE).exists() else None
        self.right: dict[int, bool] | None = None
        if record is not None and (home / records.SAMPLES).exists():
            samples = records.samples(home)
            self.right = {index: bool(correct[record.metric])
                          for index, correct in zip(samples["index"], samples["correct"], strict=True)}
        self.lines: dict[Any, NDArray[np.intp]] = self.steps.groupby("row").indices
        self.traced = {} if self.trace is None else self.trace.groupby("row").indices

    def __iter__(self) -> Iterator[int]:
        return map(int, sorted(self.lines))

    def __len__(self) -> int:
        return len(self.lines)

    def __contains__(self, row: object) -> bool:
        return row in self.lines

    def __getitem__(self, row: int) -> Recording:
        steps = self.steps.iloc[self.lines[row]].reset_index(drop=True)
        trace = None if self.trace is None else self.trace.iloc[self.traced.get(row, [])].reset_index(drop=True)
        about = self.about if self.right is None else {**self.about, "right": self.right.get(row)}
        return Recording(about.get("title") or f"{self.path.parent.name}, row {row}", steps, trace, about, row)


def load(directory: str | Path, row: int = 0) -> Recording:
    """One row of `Rows`. Raises what that raises, and ValueError if it does not hold the row."""
    rows = Rows(directory)
    if row not in rows:
        raise ValueError(f"row={row}: not in {rows.path}; allowed: {', '.join(map(str, rows))}")
    return rows[row]


def positions(run: Recording) -> Positions:
    """Follow every position through the steps: where and when its token appeared, and how."""
    size, mask, prompt, result = run.meta["block"], run.meta["mask_id"], run.prompt, run.result
    steps, total = run.steps, len(run.steps)
    open_ = steps[~steps["kind"].isin(["prefill", "prompt"])]
    length = max([len(prompt), len(prompt) + len(result.get("tokens", [])), *(open_["start"] + size)])
    token, role = np.full(length, mask, np.int32), np.full(length, ROLES.index("unmasked"), np.uint8)
    when, confidence = np.full(length, total, np.int32), np.full(length, np.nan, np.float32)
    token[:len(prompt)], when[:len(prompt)], role[:len(prompt)] = prompt, -1, ROLES.index("prompt")
    for forward, start, tokens, unmasked, sure in zip(open_["forward"], open_["start"], open_["tokens"],
                                                      open_["unmasked"], open_["confidence"], strict=True):
        part = slice(start, start + size)
        fresh = (np.asarray(tokens) != mask) & (when[part] == total)
        seen = np.asarray(unmasked, bool)
        token[part][fresh] = np.asarray(tokens)[fresh]
        confidence[part][fresh & seen] = np.asarray(sure, np.float32)[fresh & seen]
        role[part][fresh & ~seen] = ROLES.index("carried")     # predicted by the prefill or commit before it
        when[part][fresh] = np.where(seen[fresh], forward, max(forward - 1, 0))
    for i, extra in enumerate(result.get("tokens", []), start=len(prompt)):
        if when[i] == total:       # the published loop returns one token that no block ever opened with
            token[i], when[i], role[i] = extra, total - 1, ROLES.index("carried")
    if result:
        end = len(prompt) + len(result["tokens"])
        role[end:] = ROLES.index("cut")
        stops = np.isin(token[len(prompt):end], run.meta["stop_ids"])
        role[len(prompt):end][stops] = ROLES.index("stop")
    return Positions(token, when, confidence, role)


def first_difference(one: Recording, other: Recording) -> int | None:
    """The first forward after which the two texts differ (a token, or only when it appeared); None if never.

    A run that has ended stays as it is while the other goes on.
    """
    last, width = max(len(one.steps), len(other.steps)), max(len(one.positions.token), len(other.positions.token))
    token, when = np.full((2, width), -1), np.full((2, width), last)
    for i, run in enumerate((one, other)):
        places = run.positions
        token[i, :len(places.token)] = places.token
        when[i, :len(places.when)] = np.where(places.when >= len(run.steps), last, places.when)
    differs = (when[0] != when[1]) | ((when[0] < last) & (token[0] != token[1]))
    first = when.min(0)[differs & (when.min(0) >= 0)]
    return int(first.min()) if first.size and first.min() < last else None
