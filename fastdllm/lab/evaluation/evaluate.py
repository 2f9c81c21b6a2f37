"""One run, from prompts to its record. This is what the configuration's notebook calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdllm.lab import atomic, records
from fastdllm.lab.config.parameters import Parameters
from fastdllm.lab.evaluation import summary
from fastdllm.lab.records import journal
from fastdllm.lab.records.external_code import NOTE, ExternalCode
from fastdllm.lab.records.identity import CurrentFingerprints, identity, payload, policy_hash
from fastdllm.lab.records.locks import lock
from fastdllm.lab.records.record import Record
from fastdllm.tasks import Problem, Task
from fastdllm.tasks.answers import stopped_by

if TYPE_CHECKING:
    from fastdllm.lab.instrument.generation_file import GenerationFile
    from fastdllm.model.lm import LM

WARM_UP_TOKENS = 64      # two blocks: every kind of forward runs once before the clock does
REPORT_SECONDS = 5.0


@dataclass
class Clock:
    """Seconds without loading and warm-up; what is not decoding is not counted."""

    load: float = 0.0
    warm_up: float = 0.0


def evaluate(parameters: Parameters, directory: Path, *, experiment: str = "interactive", config: str = "",
             author: str = "", trace: int = 0, token_ids: bool = True, force: bool = False,
             generation: GenerationFile | None = None, log: Callable[[str], None] = print) -> Record:
    """Run what is missing of one configuration and return its record.

    A record whose identity is today's is returned as it is; finished samples of an interrupted run are kept and
    the rest is run. `trace` problems are decoded once more with a trace, untimed. `force` starts over; the last
    good record stays until the new one is whole.

    Raises ValueError before the model is loaded for parameters, data or a checkpoint that can't be had; Locked if
    another process works on the configuration; ValueError if k > 1 and no problem reused anything.
    """
    directory = Path(directory)
    current = CurrentFingerprints()
    task = current.task(parameters)
    refuse(parameters, task)
    resolved = current.resolve(parameters)
    problems, dataset = current.problems(parameters)
    checkpoint = current.checkpoint(parameters)
    ran = external_code_of(generation, parameters)
    policy = policy_hash(resolved.reuse) if ran is None else ran.policy()
    own = identity(payload(resolved, checkpoint, dataset, current.code, policy, current.torch))
    if not force and (found := complete(directory, own)):
        log(f"complete already: identity {own[:12]}, {found.n} problems")
        return found
    with lock(directory / ".samples.lock", wait=5.0):
        if not force and (found := complete(directory, own)):      # another process finished it while we waited
            return found
        if force:
            journal.path_of(directory, own).unlink(missing_ok=True)
        keep_policy_file(resolved, directory)
        if ran:
            ran.keep(directory)
        else:
            (directory / NOTE).unlink(missing_ok=True)
        run = journal.begin(directory, own, resolved, len(problems))
        clock = Clock()
        lm = None
        if len(run.done) < len(problems) or trace:
            if run.done:
                log(f"resuming at problem {len(run.done) + 1} of {len(problems)}")
            lm = load(resolved, parameters.device, checkpoint.fingerprint, clock)
            generation = generation.on(lm) if generation else None
            with threads_for(lm):
                solve(lm, resolved, task, problems, run, clock, token_ids, log, generation)
        notes = summary.peak_memory(resolved.device) if lm is not None else {}
        notes |= write_trace(lm, resolved, problems[:trace], run, directory, generation) if trace else {}
        record = summary.summarise(
            run, resolved, task, dataset, own, experiment=experiment, config=config or "run", author=author,
            checkpoint=checkpoint, code=summary.code(current.code, policy), environment=summary.environment(resolved),
            load_seconds=clock.load, warmup_seconds=clock.warm_up, notes=notes)
        return finish(directory, run, record)


def refuse(parameters: Parameters, task: Task) -> None:
    """Reuse that can't act is refused before it runs (docs/decoding.md); Parameters refuses the rest."""
    if parameters.reuse.active and not task.generative:
        raise ValueError(f"reuse.k={parameters.reuse.k} on {task.name}, which is scored by likelihood in one forward: "
                         "nothing to reuse; allowed: k=1, or a generative task")


def external_code_of(generation: GenerationFile | None, parameters: Parameters) -> ExternalCode | None:
    """The note on code that is not ours."""
    if generation is None:
        return None
    return ExternalCode(file=str(generation.path), own_code=generation.own_code, parameters=parameters)


def complete(directory: Path, own: str) -> Record | None:
    """The record, if it is this run's and whole."""
    if not (directory / records.SUMMARY).exists() or journal.path_of(directory, own).exists():
        return None
    record = records.read(directory)
    return record if record.identity == own and record.status == "complete" else None


def keep_policy_file(parameters: Parameters, directory: Path) -> None:
    """A policy's own file is copied beside the record, under its name."""
    if parameters.reuse.active and parameters.reuse.policy.endswith(".py"):
        source = Path(parameters.reuse.policy)
        atomic.write(directory / source.name, source.read_bytes())


def load(parameters: Parameters, device: str, fingerprint: str, clock: Clock) -> Any:
    """The model of a run. Raises ValueError if its files changed since the identity was taken."""
    from fastdllm.model.lm import load as load_model
    lm = load_model(parameters.model, revision=parameters.model_revision, device=device, dtype=parameters.dtype)
    if lm.fingerprint != fingerprint:
        raise ValueError(f"model: {parameters.model} changed while it was being loaded; allowed: a checkpoint at rest")
    clock.load = lm.load_seconds
    return lm


def solve(lm: Any, parameters: Parameters, task: Task, problems: list[Problem], run: journal.Journal, clock: Clock,
          token_ids: bool, log: Callable[[str], None], generation: GenerationFile | None = None) -> None:
    """Decode and score the problems that are left, each on disk as soon as it is finished."""
    left = [index for index in range(len(problems)) if index not in run.done]
    if not left:
        return
    batch = parameters.batch_size if parameters.device == "cuda" else 2      # a GPU's graphs know one batch size
    clock.warm_up = warm_up(lm, parameters, task, [problems[index] for index in left[:batch]], generation)
    reported = began = time.perf_counter()
    base, session, correct = run.seconds, run.sessions, sum(s["correct"][task.metric] for s in run.done.values())
    elapsed, results = 0.0, rows(lm, parameters, task, [problems[index] for index in left], left, generation)
    while True:
        began = time.perf_counter()
        result = next(results, None)
        elapsed += time.perf_counter() - began
        if result is None:
            break
        sample = scored(result, problems[result.row], task, lm, token_ids, parameters.decoding.stop_strings)
        run.add({**sample, "session": session, "elapsed": base + elapsed})
        correct += sample["correct"][task.metric]
        if time.perf_counter() - reported > REPORT_SECONDS or len(run.done) == len(problems):
            reported = time.perf_counter()
            tokens = sum(s["tokens"] for s in run.done.values())
            log(f"{len(run.done)} of {len(problems)} problems, {correct} correct, {tokens / run.seconds:.0f} tokens/s")


def rows(lm: Any, parameters: Parameters, task: Task, problems: list[Problem], numbers: list[int],
         generation: GenerationFile | None = None) -> Iterator[Any]:
    """RowResults as they finish; which loop runs depends on the task, the engine and the user's generation file."""
    if generation is not None and task.generative:
        from fastdllm.lab.instrument import generation_file
        return generation_file.generate_rows(lm, [problem.prompt for problem in problems], file=generation,
                                             decoding=parameters.decoding, reuse=parameters.reuse, numbers=numbers)
    if not task.generative:
        from fastdllm.tasks.likelihood import score_rows
        return score_rows(lm, problems, batch_size=parameters.batch_size, engine=parameters.engine, numbers=numbers)
    prompts = [problem.prompt for problem in problems]
    if parameters.engine == "autoregressive":
        from fastdllm.decode import autoregressive
        return autoregressive.generate_rows(lm, prompts, decoding=parameters.decoding,
                                            execution=parameters.execution, numbers=numbers)
    from fastdllm.decode import generate_rows
    return generate_rows(lm, prompts, decoding=parameters.decoding, reuse=parameters.reuse,
                         execution=parameters.execution, revision=parameters.revision, numbers=numbers)


def warm_up(lm: Any, parameters: Parameters, task: Task, problems: list[Problem],
            generation: GenerationFile | None = None) -> float:
    """Two blocks of some problems, thrown away: seconds."""
    began = time.perf_counter()
    short = min(WARM_UP_TOKENS, parameters.decoding.max_new_tokens)
    shortened = parameters.model_copy(update={
        "decoding": parameters.decoding.model_copy(update={"max_new_tokens": short})})
    for _ in rows(lm, shortened, task, problems, list(range(len(problems))), generation):
        pass
    return time.perf_counter() - began


def scored(result: Any, problem: Problem, task: Task, lm: Any, token_ids: bool,
           strings: tuple[str, ...] = ()) -> dict[str, Any]:
    """One sample as it stands in samples.jsonl; `strings` are the run's stop strings."""
    scores = task.score(problem, result.text)
    sample = {
        "id": problem.id, "index": result.row, "subtask": problem.subtask,
        "prompt_hash": atomic.sha256(atomic.canonical(problem.prompt)), "output": result.text,
        "extracted": {rule: score.extracted for rule, score in scores.items()},
        "correct": {rule: score.correct for rule, score in scores.items()},
        "tokens": len(result.tokens), "nfe": result.nfe, "decisions": result.decisions, "finish": result.finish,
        "reused_nothing": result.reused_nothing, "seconds": round(result.seconds, 6)}
    if result.finish == "stop_string":
        sample["stop_string"] = stopped_by(lm.decode(result.tokens), strings)
    if parts := {rule: list(score.parts) for rule, score in scores.items() if score.parts}:
        sample["parts"] = parts
    return sample | ({"token_ids": list(result.tokens)} if token_ids else {})


def write_trace(lm: Any, parameters: Parameters, problems: list[Problem], run: journal.Journal,
                directory: Path, generation: GenerationFile | None = None) -> dict[str, Any]:
    """Decode some problems again with a trace; notes how many gave the tokens of the timed run."""
    if not problems or parameters.engine != "diffusion" or parameters.reuse.layers is None:
        return {}
    if generation is not None:
        from fastdllm.lab.instrument import generation_file
        prompts, outputs = zip(*((problem.prompt, run.done[row]["output"]) for row, problem in enumerate(problems)),
                               strict=True)
        same = generation_file.write_trace(lm, generation, prompts, parameters.decoding, parameters.reuse,
                                           list(outputs), directory / records.TRACE)
        return {"traced": len(problems), "traced_same_output": same}
    from fastdllm.lab.records.steps import STEPS, Recorder
    recorder = Recorder(lm, [problem.prompt for problem in problems], parameters.decoding, parameters.reuse,
                        parameters.revision, parameters.seed)
    for _ in recorder:
        pass
    same = sum(result.text == run.done[row]["output"] for row, result in recorder.results.items())
    part = directory / (records.TRACE + ".part")
    recorder.trace.write(part)
    atomic.move(part, directory / records.TRACE)
    recorder.write(directory / STEPS)
    return {"traced": len(problems), "traced_same_output": same}


def finish(directory: Path, run: journal.Journal, record: Record) -> Record:
    """Samples, then the record, then the unfinished samples go: a crash in between leaves it unfinished."""
    text = "".join(atomic.canonical(sample) + "\n" for sample in run.samples())
    atomic.write(directory / records.SAMPLES, text)
    record = records.write(directory, record.model_copy(update={"samples_sha256": atomic.sha256(text)}))
    for leftover in directory.glob("partial-*.jsonl"):
        leftover.unlink()
    return record


@contextmanager
def threads_for(lm: LM) -> Iterator[None]:
    """One torch thread for a small network on a CPU: its operations are too short to be shared by two cores."""
    from fastdllm.decode.parallel import torch_threads
    from fastdllm.model import cpu
    with torch_threads(1) if cpu.usable(lm.network) else nullcontext():
        yield
