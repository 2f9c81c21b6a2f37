"""The steps file: what `denoise` yielded, as a table. With the trace it is all that the player needs.

`steps.parquet` lies beside `trace.parquet`. Its metadata hold what the numbers mean (prompt ids, token
texts, mask and stop ids, settings, results), so that a run can be looked at without its model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from fastdllm.decode.generate import Prompt, build, finish
from fastdllm.decode.revisions import Revision
from fastdllm.decode.rules import resolve
from fastdllm.decode.step import KINDS, RowResult, Step
from fastdllm.decode.trace import Trace
from fastdllm.lab import atomic
from fastdllm.lab.config.parameters import Parameters
from fastdllm.lab.records.record import TRACE
from fastdllm.model.lm import LM
from fastdllm.settings import Decoding, Execution, ExecutorName, Reuse

STEPS = "steps.parquet"
NFE = (*KINDS, "replay")
COLUMNS = ("row", "forward", "block", "small_block", "step", "kind", "start", "tokens", "unmasked", "confidence",
           "draft", "rejected", *(f"nfe_{kind}" for kind in NFE))
KEY = b"fastdllm"


@dataclass(eq=False)
class Recorder:
    """Keeps every step, the trace and the results of some prompts: `for step in recorder: ...`.

    Stopping early is fine; rows that did not end have no result. `distance=True` also runs each reused layer,
    to say how far the stand-in is from what it would have returned. Raises ValueError for bad input at once.
    """

    lm: LM
    prompts: Sequence[Prompt]
    decoding: Decoding
    reuse: Reuse
    revision: str | Revision = "fixed"
    seed: int = 0
    distance: bool = False
    executor: ExecutorName = "auto"
    steps: list[Step] = field(default_factory=list)
    results: dict[int, RowResult] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.trace = Trace(distance=self.distance)
        self.engine, self.ids = build(self.lm, self.prompts, self.decoding, self.reuse, self.revision,
                                      Execution(seed=self.seed, batch_size=1, executor=self.executor), self.trace)

    def __iter__(self) -> Iterator[Step]:
        for step in self.engine.steps(iter(enumerate(self.ids))):
            self.steps.append(step)
            self._collect()
            yield step
        self._collect()

    def _collect(self) -> None:
        while self.engine.finished:
            row = self.engine.finished.pop(0)
            self.results[row.index] = finish(self.engine, row)

    def meta(self) -> dict[str, Any]:
        """What the numbers of the steps so far mean."""
        return meta(self.lm, dict(enumerate(self.ids)), self.steps, self.decoding, self.reuse, self.revision,
                    self.results)

    def write(self, path: Path) -> None:
        """Write the steps so far as a steps file."""
        write(path, frame(self.steps), self.meta())


def write_trace(lm: LM, prompts: Sequence[Prompt], parameters: Parameters, outputs: Sequence[str],
                directory: Path) -> int:
    """Decode prompts once more, one by one, and write trace and steps; how many gave the texts of the timed run.

    On the eager executor where the run asked for it; the fast one looks into no layer of a policy.
    """
    recorder = Recorder(lm, prompts, parameters.decoding, parameters.reuse, parameters.revision, parameters.seed,
                        executor="eager" if parameters.executor == "eager" else "auto")
    for _ in recorder:
        pass
    with atomic.replacing(directory / TRACE) as part:
        recorder.trace.write(part)
    recorder.write(directory / STEPS)
    return sum(result.text == outputs[row] for row, result in recorder.results.items())


def frame(steps: Iterable[Step]) -> pd.DataFrame:
    """One line per forward of each row: `forward` is its index in the row, as in the trace; nfe_* so far.

    tokens, unmasked and confidence are lists of the block's size. With policy verify, `draft` says how many steps ahead
    a state was drafted (0: not at all), and `rejected` which offset and token of the draft after it were wrong.
    """
    count: dict[int, int] = {}
    lines = []
    for step in steps:
        forward = count.get(step.row, 0)
        count[step.row] = forward + 1
        lines.append((step.row, forward, step.block, step.small_block, step.step, step.kind, step.start,
                      list(step.tokens), list(step.unmasked), list(step.confidence),
                      step.draft, [list(pair) for pair in step.rejected],
                      *(step.nfe.get(kind, 0) for kind in NFE)))
    return pd.DataFrame(lines, columns=list(COLUMNS)).astype({"small_block": "Int64", "step": "Int64"})


def meta(lm: LM, prompts: Mapping[int, Sequence[int]], steps: Sequence[Step], decoding: Decoding, reuse: Reuse,
         revision: str | Revision, results: Mapping[int, RowResult]) -> dict[str, Any]:
    """What the numbers of a steps table mean, as plain JSON values. `results` may lack unfinished rows."""
    rules = resolve(lm, decoding, reuse, revision)
    used = {token for ids in prompts.values() for token in ids} | {rules.mask_id}
    used |= {token for step in steps for token in (*step.tokens, *(wrong for _, wrong in step.rejected))}
    used |= {token for result in results.values() for token in result.tokens}
    return {
        "model": lm.name, "layers": lm.config.num_hidden_layers, "block": rules.block, "small": rules.small,
        "mask_id": rules.mask_id, "stop_ids": sorted(rules.stop_ids), "max_new_tokens": decoding.max_new_tokens,
        "decoding": decoding.model_dump(mode="json"), "reuse": reuse.model_dump(mode="json"),
        "revision": revision if isinstance(revision, str) else revision.name,
        "prompts": {str(row): list(map(int, ids)) for row, ids in prompts.items()},
        "pieces": {str(token): piece(lm, token) for token in sorted(used)},
        "results": {str(row): {"tokens": result.tokens, "text": result.text, "finish": result.finish,
                               "seconds": result.seconds, "nfe": result.nfe, "decisions": result.decisions,
                               "forwards_run": result.forwards_run}
                    for row, result in results.items()},
    }


def piece(lm: LM, token: int) -> str:
    """One token as text, special tokens included; its id where there is no tokenizer."""
    return str(token) if lm.tokenizer is None else str(lm.tokenizer.decode([token], skip_special_tokens=False))


def write(path: Path, table: pd.DataFrame, about: dict[str, Any]) -> None:
    """Write a steps table and its meaning as one Parquet file, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    table_ = pa.Table.from_pandas(table, preserve_index=False)
    known = table_.schema.metadata or {}
    with atomic.replacing(path) as part:
        pq.write_table(table_.replace_schema_metadata({**known, KEY: json.dumps(about).encode()}), part)


def read(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A steps table and its meaning. Raises ValueError for a Parquet file that `write` did not write."""
    import pyarrow.parquet as pq
    table = pq.read_table(path)
    if KEY not in (table.schema.metadata or {}):
        raise ValueError(f"{path}: not a steps file; allowed: a {STEPS} that a run wrote")
    steps = table.to_pandas()
    return steps.astype({"small_block": "Int64", "step": "Int64"}), json.loads(table.schema.metadata[KEY])
