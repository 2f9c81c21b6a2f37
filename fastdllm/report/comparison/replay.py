"""A problem of a record, to be looked at: its kept steps, or decoded again with a trace by the record's settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from fastdllm.errors import did_you_mean
from fastdllm.lab.config.parameters import Parameters
from fastdllm.lab.records import external_code
from fastdllm.lab.records.identity import CurrentFingerprints, changes, identity, payload_of
from fastdllm.lab.records.steps import STEPS
from fastdllm.report.comparison.sides import Side
from fastdllm.tasks import Problem
from fastdllm.ui import recording
from fastdllm.ui.recording import Recording


@dataclass(frozen=True)
class Replay:
    """One problem of one record as a recording; `notes` say where it comes from and what of it is not as it was."""

    side: Side
    problem: Problem
    recording: Recording
    notes: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """Right or wrong by the record's rule, as the record has it."""
        if self.side.problems is None or self.problem.id not in self.side.problems.index:
            return "not kept"
        correct = self.side.problems.loc[self.problem.id, "correct"]
        return "right" if correct.get(self.side.record.metric) else "wrong"


def replay(side: Side, problem: str, log: Callable[[str], None] = lambda _: None, data: Path | None = None) -> Replay:
    """The recording of a problem, named by its id or its number from 0. `data` stands for the record's own file.

    Kept steps are played as they are; otherwise the problem is decoded again, here and now. Raises ValueError for a
    record that can't be decoded again (imported, another engine, code that is not ours), for an unknown problem, and
    for data that are missing or not those of the run.
    """
    record, current = side.record, CurrentFingerprints()
    if record.status == "imported":
        raise ValueError(f"{side.name}: imported, its settings are not all known; allowed: a record of this suite")
    parameters = with_kept_policy(record.parameters, side.home)
    if data is not None:
        parameters = parameters.model_copy(update={"data": str(data)})
    elif side.absent_data:
        raise ValueError(f"{side.name}: {side.absent_data}; allowed: --data PATH")
    problems, dataset = current.problems(parameters)
    if data is not None and dataset.fingerprint != record.dataset.fingerprint:
        raise ValueError(f"--data {data}: {dataset.n} problems, fingerprint {dataset.fingerprint[:12]}; allowed: those "
                         f"of {side.name}: {record.dataset.n}, fingerprint {record.dataset.fingerprint[:12]}")
    number = number_of(problem, [each.id for each in problems])
    if side.home is not None and (side.home / STEPS).is_file() and number in (rows := recording.Rows(side.home)):
        kept = named(rows[number], side, problems[number])
        return Replay(side, problems[number], kept, ("as it was recorded with the run",))
    if parameters.engine != "diffusion" or not current.task(parameters).generative:
        raise ValueError(f"{side.name}: engine={parameters.engine}, task={record.task}: no denoising to play; allowed: "
                         "a record of the diffusion engine on a generative task")
    if side.home is not None and external_code.read(side.home):
        raise ValueError(f"{side.name}: a generation file ran, not our loop; allowed: a record of the suite's own loop")
    now = current.payload(parameters, record.parameters)
    notes = ["decoded again, with a trace, on the eager executor" + (
        f" (the run was on the {record.executor} one)" if record.executor not in ("", "eager") else "")]
    if identity(now) != record.identity:
        notes.append(f"the run's identity is no longer today's: {', '.join(changes(payload_of(record), now))}")
    from fastdllm.model.lm import load
    log(f"{side.name}: decoding {problems[number].id} again")
    lm = load(parameters.model, revision=parameters.model_revision, dtype=record.parameters.dtype)
    run = recording.record(lm, problems[number].prompt, decoding=record.parameters.decoding, reuse=parameters.reuse,
                           revision=parameters.revision, seed=parameters.seed, executor="eager")
    notes.append(agreement(side, problems[number].id, run.result["text"]))
    if parameters.decoding.temperature > 0:
        notes.append("temperature > 0: row 0's draws, not those that the problem had in the run")
    return Replay(side, problems[number], named(run, side, problems[number]), tuple(notes))


def named(run: Recording, side: Side, problem: Problem) -> Recording:
    """The recording under its record's configuration, with the known answer, and the record's verdict where its text is
    this one (a record without texts knows no verdict of a text)."""
    right = None
    if side.problems is not None and problem.id in side.problems.index:
        kept = side.problems.loc[problem.id]
        same = isinstance(kept["output"], str) and kept["output"] == run.result.get("text", kept["output"])
        right = kept["correct"].get(side.record.metric) if same else None
    return replace(run, title=side.record.config, meta={**run.meta, "target": problem.target, "right": right})


def with_kept_policy(parameters: Parameters, home: Path | None) -> Parameters:
    """A policy's own file where it was; where it is gone, the copy beside the record."""
    policy = parameters.reuse.policy
    if not policy.endswith(".py") or Path(policy).is_file() or home is None or not (home / Path(policy).name).is_file():
        return parameters
    reuse = parameters.reuse.model_copy(update={"policy": str(home / Path(policy).name)})
    return parameters.model_copy(update={"reuse": reuse})


def number_of(problem: str, ids: list[str]) -> int:
    """A problem's number, from its id or from itself. Raises ValueError for one that the record has not."""
    if problem in ids:
        return ids.index(problem)
    if problem.isdecimal() and int(problem) < len(ids):
        return int(problem)
    raise ValueError(f"--problem {problem}: not in the record; {did_you_mean(problem, ids)}allowed: 0 to "
                     f"{len(ids) - 1}, or an id like {ids[0]}")


def agreement(side: Side, problem: str, text: str) -> str:
    """Whether decoding again gave the record's text."""
    if side.problems is None or problem not in side.problems.index:
        return "the record keeps no text to compare with"
    kept = side.problems.loc[problem, "output"]
    if not isinstance(kept, str):
        return "the record keeps no text to compare with"
    return "the text is the record's" if kept == text else "the text is not the record's"
