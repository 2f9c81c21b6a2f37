"""The public calls: `denoise` (every step), `generate_rows` (rows as they finish) and `generate`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Unpack

from fastdllm.decode.loop import Engine
from fastdllm.decode.output import Output
from fastdllm.decode.parallel import rows_in_threads
from fastdllm.decode.prompts import Prompt, check_types, prompt_list, token_ids
from fastdllm.decode.revisions import Revision
from fastdllm.decode.row import Row
from fastdllm.decode.rules import StopStrings, check_prompt, positions_needed, resolve
from fastdllm.decode.step import RowResult, Step
from fastdllm.decode.trace import Trace
from fastdllm.model.lm import LM
from fastdllm.settings import Decoding, Execution, ExecutionKeywords, Reuse, plain_value


def build(lm: LM, prompts: Sequence[Prompt], decoding: Decoding, reuse: Reuse, revision: str | Revision,
          execution: Execution, trace: Trace | None) -> tuple[Engine, list[list[int]]]:
    """One engine for all prompts (whatever `execution.threads`), and their token ids, see `engines`."""
    made, ids = engines(lm, prompts, decoding, reuse, revision, execution.given({"threads": 1}), trace)
    return made[0], ids


def engines(lm: LM, prompts: Sequence[Prompt], decoding: Decoding, reuse: Reuse, revision: str | Revision,
            execution: Execution, trace: Trace | None) -> tuple[list[Engine], list[list[int]]]:
    """Check everything, then lay out caches for the longest prompt; raises ValueError before any work.

    The slots of the batch are dealt to as many engines as there are threads (but each has one at least).
    """
    decoding, reuse, log = decoding or Decoding(), reuse or Reuse(), Trace() if trace is None else trace
    check_types(lm=(lm, LM), decoding=(decoding, Decoding), reuse=(reuse, Reuse), trace=(log, Trace))
    rules = resolve(lm, decoding, reuse, revision)
    prompts = prompt_list(prompts)
    ids = [token_ids(lm, index, prompt) for index, prompt in enumerate(prompts)]
    for index, prompt in enumerate(ids):
        check_prompt(lm, index, prompt, rules)
    positions = max(positions_needed(len(prompt), rules) for prompt in ids)
    slots, threads = min(len(ids), execution.batch_size or len(ids)), execution.threads
    shares = [slots // threads + (i < slots % threads) for i in range(threads)]
    return [Engine(lm, rules, decoding, reuse, share, positions, execution.seed, trace, executor=execution.executor)
            for share in shares if share], ids


def denoise(lm: LM, prompts: Sequence[Prompt], *, decoding: Decoding = Decoding(), reuse: Reuse = Reuse(),
            execution: Execution = Execution(), revision: str | Revision = "fixed", trace: Trace | None = None,
            **keywords: Unpack[ExecutionKeywords]) -> Iterator[Step]:
    """The loop itself: yields a Step for every forward of every row, all in one thread.

    Prompts are texts, conversations or token ids. `execution` says how to run; its fields may also stand here as
    keywords (`batch_size=8`). Its executor "eager" is the reference, layer by layer; "fast" gives the same tokens
    from fewer operations; "auto" takes it wherever it can do what is asked (see `fast.supported`). Nothing is ever
    patched, so the generator may be dropped at any step.
    """
    engine, ids = build(lm, prompts, decoding, reuse, revision, execution.given(keywords), trace)
    yield from engine.steps(iter(enumerate(ids)))


def generate_rows(lm: LM, prompts: Sequence[Prompt], *, decoding: Decoding = Decoding(), reuse: Reuse = Reuse(),
                  execution: Execution = Execution(), revision: str | Revision = "fixed", trace: Trace | None = None,
                  numbers: Sequence[int] | None = None, **keywords: Unpack[ExecutionKeywords]) -> Iterator[RowResult]:
    """Rows as they finish, `execution.batch_size` at a time; the next prompt takes a free slot.

    With `execution.threads` the batch is dealt to as many threads, see `parallel`. `numbers` are the rows' own
    numbers (None: 0, 1, 2 ...), which also seed their sampling: a run that is resumed with the problems that are
    left draws what it would have drawn.
    """
    prompts, numbers = prompt_list(prompts), plain_value(numbers)
    if numbers is not None and len(set(numbers)) != len(prompts):
        raise ValueError(f"numbers: {len(set(numbers))} different ones; "
                         f"allowed: one for each of {len(prompts)} prompts")
    made, ids = engines(lm, prompts, decoding, reuse, revision, execution.given(keywords), trace)
    queue = iter(zip(numbers or range(len(ids)), ids, strict=True))
    if len(made) > 1:
        with closing(rows_in_threads(made, queue)) as rows:      # a caller who stops early ends the threads
            for row in rows:
                yield finish(made[0], row)
        return
    yield from rows_of(made[0], queue)


def rows_of(engine: Engine, prompts: Iterator[tuple[int, list[int]]]) -> Iterator[RowResult]:
    """Drain an engine: its rows as they finish."""
    for _ in engine.steps(prompts):
        while engine.finished:
            yield finish(engine, engine.finished.pop(0))
    while engine.finished:
        yield finish(engine, engine.finished.pop(0))


def finish(engine: Engine, row: Row) -> RowResult:
    """The result of a row that this engine (or one like it) finished, its text cut before a stop string."""
    text, stop = engine.lm.decode(row.generated), engine.rules.find_stop
    return replace(row.result(stop.cut(text) if isinstance(stop, StopStrings) else text),
                   executor=engine.executor_name)


def generate(lm: LM, prompts: Sequence[Prompt], *, decoding: Decoding = Decoding(), reuse: Reuse = Reuse(),
             execution: Execution = Execution(), revision: str | Revision = "fixed",
             trace: bool | Trace | None = False, **keywords: Unpack[ExecutionKeywords]) -> Output:
    """Generate all answers. `trace=True` also returns what every layer did that reuse names (see `Trace`).

    `decoding` says how, `reuse` what stands in for layers, `execution` how to run (batch size, threads, executor,
    seed; each may also stand here as a keyword). Raises ValueError for bad input before any work, and a DecodingError
    during it: NonFiniteLogits naming layer and step, NothingUnmasked for a step that unmasks nothing,
    MissingBlockCache where a revision (6d2a9a8) needs an entry that it never wrote.
    """
    log = Trace() if trace is True else None if trace is None or trace is False else trace
    began = time.perf_counter()
    rows = sorted(generate_rows(lm, prompts, decoding=decoding, reuse=reuse, execution=execution.given(keywords),
                                revision=revision, trace=log), key=lambda result: result.row)
    return Output(texts=[row.text for row in rows], tokens=[row.tokens for row in rows],
                  nfe=[row.nfe for row in rows], trace=log.frame() if log else None, rows=rows,
                  seconds=time.perf_counter() - began, reused_nothing=all(row.reused_nothing for row in rows))
