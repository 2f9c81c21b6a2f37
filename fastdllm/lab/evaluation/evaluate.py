"""One run, from prompts to its record: `evaluate` reads from top to bottom, and the rest in the order it is called."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdllm.lab import atomic, records
from fastdllm.lab.config.parameters import Parameters
from fastdllm.lab.config.shard import WHOLE, Shard
from fastdllm.lab.evaluation.prepare import PreparedRun, ResolvedRun, resolve
from fastdllm.lab.records import journal, provenance
from fastdllm.lab.records.external_code import NOTE, keep_source
from fastdllm.lab.records.journal import Journal
from fastdllm.lab.records.locks import RECORD, SAMPLES, Locked, at_work, lock, shard_lock
from fastdllm.lab.records.record import Record, summarise
from fastdllm.tasks import Problem, Task
from fastdllm.tasks.answers import stopped_by

if TYPE_CHECKING:
    from fastdllm.lab.instrument.generation_file import GenerationFile
    from fastdllm.model.lm import LM

WARM_UP_TOKENS = 64      # two blocks: every kind of forward runs once before the clock does
REPORT_SECONDS = 5.0
PATIENCE = 5.0           # seconds that a run waits for another one to end
AT_THE_END = 600.0       # and that a finished shard waits for one that begins, ends or writes


def evaluate(prepared: PreparedRun, log: Callable[[str], None] = print) -> Record:
    """Run what is missing of one configuration and return its record.

    A record whose identity is today's is returned as it is; finished samples of an interrupted run are kept and the
    rest is run. Raises ValueError before the model is loaded for parameters, data or a checkpoint that can't be had;
    Locked if another process works on the configuration; ValueError if k > 1 and no problem reused anything.
    """
    record = evaluate_shard(prepared, WHOLE, log)
    assert record is not None      # the whole run has no other shard to wait for
    return record


def evaluate_shard(prepared: PreparedRun, shard: Shard, log: Callable[[str], None] = print) -> Record | None:
    """Run what is missing of a configuration's shard; the record if there is one now, None if other shards go on.

    Who ends last writes it: a shard that ends finds, under the record's lock, another one at work and leaves the
    record to it, or finds all problems solved. Raises what `evaluate` raises; Locked also for another split, ValueError
    for `force`, since shards don't start over one by one (lab/jobs/plan.py, `start_over`).
    """
    if prepared.force and not shard.whole:
        raise ValueError(f"force=True with shard {shard}; allowed: the whole run, or all its shards at once "
                         "(fastdllm grid run --shards N --force)")
    run = resolve(prepared)
    with ExitStack() as own:
        done = begin(run, shard, own, log)
        if isinstance(done, Record):
            return done
        loaded = load(run) if done.left else None
        if loaded is not None:
            solve(run, loaded, done, log)
        with lock(prepared.directory / RECORD, wait=AT_THE_END):
            samples = journal.collect(prepared.directory, run.identity, len(run.problems))
            if set(at_work(prepared.directory, SAMPLES)) - {shard} or len(samples.done) < len(run.problems):
                own.close()      # before the record's lock is free: the next one sees that nobody is left here
                return None
            if prepared.configuration.record.trace and loaded is None:
                loaded = load(run)
            return postprocess(run, loaded, samples)


def begin(run: ResolvedRun, shard: Shard, own: ExitStack, log: Callable[[str], None]) -> Record | Journal:
    """The record, if it is complete; else the shard's journal, its lock held by `own`."""
    directory, until = run.prepared.directory, time.monotonic() + PATIENCE
    while True:
        try:
            with lock(directory / RECORD, wait=PATIENCE):
                if record := complete(run):
                    log(f"complete already: identity {run.identity[:12]}, {record.n} problems")
                    return record
                own.enter_context(shard_lock(directory, shard))
                return schedule(run, shard, log)
        except Locked:
            if time.monotonic() > until:
                raise
        time.sleep(0.1)      # another process may finish it


def complete(run: ResolvedRun) -> Record | None:
    """The record, if it is this run's and whole, and if the run is not to start over."""
    directory = run.prepared.directory
    unfinished = bool(journal.paths(directory, run.identity)) or not (directory / records.SUMMARY).exists()
    if run.prepared.force or unfinished:
        return None
    record = records.read(directory)
    return record if record.identity == run.identity and record.status == "complete" else None


# -- schedule

def schedule(run: ResolvedRun, shard: Shard, log: Callable[[str], None]) -> Journal:
    """The journal of the run: what is solved already. Code that is not the package's is copied beside it."""
    directory, reuse = run.prepared.directory, run.parameters.reuse
    if run.prepared.force:
        journal.discard(directory, run.identity)
    if reuse.active and reuse.policy.endswith(".py"):
        keep_source(Path(reuse.policy), directory)
    if run.external:
        run.external.keep(directory)
    else:
        (directory / NOTE).unlink(missing_ok=True)
    done = journal.begin(directory, run.identity, run.parameters, len(run.problems), shard, provenance.node())
    if solved := len(shard.indexes(done.n)) - len(done.left):
        log(f"resuming at problem {solved + 1} of {len(shard.indexes(done.n))}")
    return done


# -- run

@dataclass
class Loaded:
    """The model in memory, the generation file on it, and seconds that are not decoding and so are not counted."""

    lm: LM
    generation: GenerationFile | None = None
    load_seconds: float = 0.0
    warmup_seconds: float = 0.0


def load(run: ResolvedRun) -> Loaded:
    """The model of a run. Raises ValueError if its files changed since the identity was taken."""
    from fastdllm.model.lm import load as load_model
    given, generation = run.prepared.parameters, run.prepared.generation
    lm = load_model(given.model, revision=given.model_revision, device=given.device, dtype=run.parameters.dtype)
    if lm.fingerprint != run.checkpoint.fingerprint:
        raise ValueError(f"model: {given.model} changed while it was being loaded; allowed: a checkpoint at rest")
    return Loaded(lm, generation.on(lm) if generation else None, lm.load_seconds)


def solve(run: ResolvedRun, loaded: Loaded, done: Journal, log: Callable[[str], None]) -> None:
    """Decode and score the problems that are left, each on disk as soon as it is finished."""
    left, keep = done.left, run.prepared.configuration.record
    with threads_for(loaded.lm):
        loaded.warmup_seconds = warm_up(run, loaded, left)
        elapsed, base, session, reported = 0.0, done.seconds, done.sessions, time.perf_counter()
        results = rows(run, loaded, run.parameters, left)
        while True:
            began = time.perf_counter()
            result = next(results, None)
            elapsed += time.perf_counter() - began
            if result is None:
                break
            sample = scored(result, run.problems[result.row], run.task, loaded.lm, keep.token_ids,
                            run.parameters.decoding.stop_strings)
            done.add({**sample, "session": session, "elapsed": base + elapsed})
            if time.perf_counter() - reported > REPORT_SECONDS:
                reported = time.perf_counter()
                log(progress(run, done))
        log(progress(run, done))


def progress(run: ResolvedRun, done: Journal) -> str:
    """How far a run is, in a line of its log."""
    samples = done.done.values()
    tokens, correct = sum(each["tokens"] for each in samples), sum(each["correct"][run.task.metric] for each in samples)
    own = len(done.shard.indexes(done.n))
    return (f"{own - len(done.left)} of {own} problems, {correct} of {len(samples)} correct, "
            f"{tokens / done.seconds:.0f} tokens/s")


def warm_up(run: ResolvedRun, loaded: Loaded, left: list[int]) -> float:
    """Two blocks of the first problems, thrown away: seconds."""
    began, decoding = time.perf_counter(), run.parameters.decoding
    count = run.parameters.batch_size if run.parameters.device == "cuda" else 2     # a GPU's graphs know one batch size
    short = decoding.model_copy(update={"max_new_tokens": min(WARM_UP_TOKENS, decoding.max_new_tokens)})
    for _ in rows(run, loaded, run.parameters.model_copy(update={"decoding": short}), left[:count]):
        pass
    return time.perf_counter() - began


def rows(run: ResolvedRun, loaded: Loaded, parameters: Parameters, numbers: list[int]) -> Iterator[Any]:
    """RowResults of these problems as they finish; which loop runs depends on the task, the engine and the user's
    generation file."""
    lm, problems = loaded.lm, [run.problems[number] for number in numbers]
    if not run.task.generative:
        from fastdllm.tasks.likelihood import score_rows
        return score_rows(lm, problems, batch_size=parameters.batch_size, engine=parameters.engine, numbers=numbers)
    prompts, decoding, reuse = [problem.prompt for problem in problems], parameters.decoding, parameters.reuse
    if loaded.generation is not None:
        from fastdllm.lab.instrument import generation_file
        return generation_file.generate_rows(lm, prompts, file=loaded.generation, decoding=decoding, reuse=reuse,
                                             seed=parameters.seed, numbers=numbers)
    if parameters.engine == "autoregressive":
        from fastdllm.decode import autoregressive
        return autoregressive.generate_rows(lm, prompts, decoding=decoding, execution=parameters.execution,
                                            numbers=numbers)
    from fastdllm.decode.generate import generate_rows
    return generate_rows(lm, prompts, decoding=decoding, reuse=reuse, execution=parameters.execution,
                         revision=parameters.revision, numbers=numbers)


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
        "reused_nothing": result.reused_nothing, "executor": result.executor, "seconds": round(result.seconds, 6)}
    if result.drafts:
        sample |= {"forwards_run": result.forwards_run, "drafts": [asdict(draft) for draft in result.drafts]}
    if result.finish == "stop_string":
        sample["stop_string"] = stopped_by(lm.decode(result.tokens), strings)
    if parts := {rule: list(score.parts) for rule, score in scores.items() if score.parts}:
        sample["parts"] = parts
    return sample | ({"token_ids": list(result.tokens)} if token_ids else {})


@contextmanager
def threads_for(lm: LM) -> Iterator[None]:
    """One torch thread for a small network on a CPU: its operations are too short to be shared by two cores."""
    from fastdllm.decode.threads import torch_threads
    from fastdllm.model import cpu
    with torch_threads(1) if cpu.usable(lm.network) else nullcontext():
        yield


# -- postprocess

def postprocess(run: ResolvedRun, loaded: Loaded | None, done: Journal) -> Record:
    """The record of the samples in the journals, written; the journals go. Of a run in shards, `seconds` is their sum,
    what one device would take; environment, load and warm-up are of the shard that ended last, `node` names all.

    Raises ValueError if k > 1 and no problem reused anything.
    """
    prepared, configuration = run.prepared, run.prepared.configuration
    notes: dict[str, Any] = {}
    if loaded is not None:
        notes |= provenance.peak_memory(run.parameters.device) | write_trace(run, loaded, done)
    record = summarise(
        done, run.parameters, run.task, run.dataset, run.identity, experiment=configuration.experiment,
        config=configuration.name, author=configuration.author, checkpoint=run.checkpoint,
        code=provenance.code(run.code, run.policy), environment=provenance.environment(run.parameters, done.nodes),
        load_seconds=loaded.load_seconds if loaded else 0.0, warmup_seconds=loaded.warmup_seconds if loaded else 0.0,
        notes=notes, shards=done.split)
    return finish(prepared.directory, done, record)


def write_trace(run: ResolvedRun, loaded: Loaded, done: Journal) -> dict[str, Any]:
    """Decode some problems again with a trace; notes how many gave the tokens of the timed run."""
    parameters, directory = run.parameters, run.prepared.directory
    problems = run.problems[:run.prepared.configuration.record.trace]
    if not problems or parameters.engine != "diffusion" or parameters.reuse.layers is None:
        return {}
    prompts, outputs = [each.prompt for each in problems], [done.done[row]["output"] for row in range(len(problems))]
    if loaded.generation is not None:
        from fastdllm.lab.instrument import generation_file
        same = generation_file.write_trace(loaded.lm, loaded.generation, prompts, parameters.decoding, parameters.reuse,
                                           parameters.seed, outputs, directory / records.TRACE)
    else:
        from fastdllm.lab.records import steps
        same = steps.write_trace(loaded.lm, prompts, parameters, outputs, directory)
    return {"traced": len(problems), "traced_same_output": same}


def finish(directory: Path, done: Journal, record: Record) -> Record:
    """Samples, then the record, then the unfinished samples go: a crash in between leaves it unfinished."""
    text = "".join(atomic.canonical(sample) + "\n" for sample in done.samples())
    atomic.write(directory / records.SAMPLES, text)
    record = records.write(directory, record.model_copy(update={"samples_sha256": atomic.sha256(text)}))
    for leftover in journal.paths(directory):
        leftover.unlink()
    return record
