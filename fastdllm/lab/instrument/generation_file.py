"""Run a user's own old `generation_functions.py`, unchanged, under our tasks, records and traces.

The file is code and runs with the user's rights: only a path that the user names is loaded, and only
with `allow_code=True` (`--allow-code`). The same holds for a checkpoint's own modelling code.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import MethodType
from typing import Any

import pandas as pd
import torch
from torch import nn

from fastdllm.decode import userfile
from fastdllm.decode.loop import row_generator
from fastdllm.decode.prompts import Prompt, token_ids
from fastdllm.decode.rules import check_prompt, resolve
from fastdllm.decode.rules import stops as stops_of
from fastdllm.decode.step import DECISIONS, KINDS, RowResult
from fastdllm.decode.trace import COLUMNS, WHOLE
from fastdllm.lab import atomic
from fastdllm.lab.atomic import sha256
from fastdllm.lab.instrument.probe import Decoder, ForwardObservation, Probe
from fastdllm.lab.instrument.published_model import PublishedModel
from fastdllm.lab.instrument.work_count import WorkCount
from fastdllm.lab.records.external_code import modelling_code
from fastdllm.model.config import token_ids as special_ids
from fastdllm.model.lm import LM
from fastdllm.settings import SUBSETS, Decoding, Reuse, plain_value

Sampler = Callable[..., Any]      # rows by prompt, see `returned_row`
NEVER = -1      # a stop token that no model emits


@dataclass(frozen=True)
class GenerationFile:
    """A loaded file: its `batch_sample`, what identifies it, and the model that takes our network's place, if any."""

    path: Path
    batch_sample: Sampler
    sha256: str
    own_code: bool = False              # the checkpoint's own modelling code is asked for
    model: nn.Module | None = None      # and, once the checkpoint is loaded, here

    def on(self, lm: LM) -> GenerationFile:
        """Ready for a checkpoint: with its own modelling code, where that was asked for."""
        return replace(self, model=own_code(lm, allow_code=True)) if self.own_code else self


@dataclass(frozen=True)
class Special:
    """What a published loop asks of a tokenizer."""

    pad_token_id: int
    eos_token_id: int
    mask_token_id: int


def load(path: str | Path, allow_code: bool = False, own_code: bool = False) -> GenerationFile:
    """Load a generation file: a function `batch_sample`, or one class that has it.

    Raises ValueError without `allow_code`, for a missing file, and if there is no `batch_sample`.
    """
    path = Path(path).expanduser()
    _permit(allow_code, f"--generation-file {path}")
    module = userfile.load(path, f"--generation-file {path}", "a Python file with batch_sample")
    batch_sample = vars(module).get("batch_sample")
    if batch_sample is None:
        holders = [value for value in vars(module).values()
                   if isinstance(value, type) and value.__module__ == module.__name__ and "batch_sample" in vars(value)]
        if len(holders) != 1:
            raise ValueError(f"--generation-file {path}: {len(holders)} classes with batch_sample; "
                             "allowed: a function batch_sample, or one class that has it")
        batch_sample = vars(holders[0])["batch_sample"]
    if not callable(batch_sample):
        raise ValueError(f"--generation-file {path}: batch_sample is a {type(batch_sample).__name__}; allowed: a "
                         "function whose first argument is the model")
    return GenerationFile(path.resolve(), batch_sample, sha256(path.read_bytes()), own_code)


def _permit(allow_code: bool, what: str) -> None:
    if not allow_code:
        raise ValueError(f"{what}: runs code that is not ours; allowed: with --allow-code, if you trust it")


def own_code(lm: LM, allow_code: bool = False) -> nn.Module:
    """The checkpoint's own modelling code in the place of our network (`trust_remote_code`).

    Its layers are not ours, so there is no trace. Raises ValueError without `allow_code`.
    """
    _permit(allow_code, f"the modelling code of {lm.name}")
    modelling_code(lm.path)
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(str(lm.path), trust_remote_code=True, dtype=lm.dtype)
    return nn.Module.to(model, lm.device).eval()


def check_reuse(reuse: Reuse) -> None:
    """Raises ValueError for reuse that a published loop has no words for."""
    if reuse.active and (reuse.layers not in SUBSETS or reuse.policy != "output" or reuse.full_forwards):
        raise ValueError(f"Reuse.layers={reuse.layers!r}, policy={reuse.policy!r}, full_forwards="
                         f"{reuse.full_forwards}; allowed with a generation file: {', '.join(SUBSETS)}, policy output "
                         "and full_forwards False")


def call(file: GenerationFile, model: Any, lm: LM, prompts: list[list[int]], decoding: Decoding,
         reuse: Reuse) -> list[list[int]]:
    """One call of the file's `batch_sample` for all prompts; the tokens of each prompt's `answer`.

    At k=1 the file decodes without reuse; `reuse_k` and `layer_subset` are given to a file that asks for them. The
    published loop knows one stop token: of the checkpoint's several it is the first, the tokenizer's own.

    Raises ValueError for settings or prompts that don't fit, as our loop with a revision does, for settings that the
    file's signature has no parameter for, and for what the file returns if it is no rows.
    """
    rules = resolve(lm, decoding, reuse, "upstream")
    for index, prompt in enumerate(prompts):
        check_prompt(lm, index, prompt, rules)
    check_reuse(reuse)
    if len(stops := stop_ids(lm, decoding)) > 1:
        raise ValueError(f"Decoding: the stop tokens {stops}, of stop_ids and stop_strings; allowed with a generation "
                         "file: at most one")
    mask, stop = rules.mask_id, stops[0] if stops else NEVER
    pad = next(iter(special_ids("pad_token_id", lm.config.pad_token_id)), max(stop, 0))
    lengths = [len(prompt) for prompt in prompts]
    ids = torch.full((len(prompts), max(lengths)), mask, device=lm.device)
    for row, prompt in enumerate(prompts):
        ids[row, :len(prompt)] = torch.tensor(prompt, device=lm.device)
    values: dict[str, Any] = {
        "input_ids": ids, "tokenizer": Special(pad, stop, mask), "block_size": rules.block,
        "max_new_tokens": decoding.max_new_tokens, "small_block_size": decoding.small_block, "min_len": min(lengths),
        "seq_len": torch.tensor(lengths, device=lm.device), "mask_id": mask, "threshold": decoding.threshold,
        "stop_token": stop, "use_block_cache": decoding.block_cache, "top_p": decoding.top_p,
        "temperature": decoding.temperature}
    parameters = inspect.signature(file.batch_sample).parameters
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    reusing = {"reuse_k": reuse.k, "layer_subset": reuse.layers if reuse.active else None}
    values |= {name: value for name, value in reusing.items() if reuse.active or takes_all or name in parameters}
    unknown = [] if takes_all else sorted(set(values) - set(parameters))
    if unknown:
        raise ValueError(f"{file.path.name}: batch_sample has no parameter {', '.join(unknown)}; allowed: "
                         f"{', '.join(list(parameters)[1:])}")
    try:
        rows = MethodType(file.batch_sample, model)(**values)
    except SystemExit as error:
        raise ValueError(f"{file.path.name}: batch_sample ends the process (exit status {error.code!r}); allowed: one "
                         "that returns rows, or raises an error") from error
    padding = None if len(prompts) == 1 else pad      # in lockstep a finished row waits, padded, for the others
    return [answer(returned_row(file, rows, index, prompt), len(prompt), rules.block, stop, mask, padding)
            for index, prompt in enumerate(prompts)]


def returned_row(file: GenerationFile, rows: Any, index: int, prompt: list[int]) -> list[int]:
    """The tokens of a prompt's row. Raises ValueError for what is none: the prompt's ids and what was generated."""
    try:
        row = plain_value(rows[index])
    except (TypeError, LookupError):
        row = None
    if not isinstance(row, list) or row[:len(prompt)] != prompt or not all(type(token) is int for token in row):
        what = f"{str(row)[:60]} as row {index}" if row is not None else f"a {type(rows).__name__} without row {index}"
        raise ValueError(f"{file.path.name}: batch_sample returned {what}; allowed: for each row a tensor or list of "
                         "token ids that begins with the prompt's")
    return row


def stop_ids(lm: LM, decoding: Decoding) -> list[int]:
    """The stop tokens a file is to know: those asked for, or the tokenizer's own, and stop strings that are tokens."""
    asked = tuple(lm.stop_ids if decoding.stop_ids is None else decoding.stop_ids)
    own = asked[:1] if decoding.stop_ids is None else asked
    return sorted({*own, *stops_of(lm, decoding)[0].difference(asked)})


def answer(row: list[int], length: int, block: int, stop: int, mask: int, padding: int | None = None) -> list[int]:
    """The generated tokens of a returned row, counted as a revision's are (`Row`, upstream termination).

    `length` is the prompt's. What a loop returns ends before any mask. A loop that noticed the stop token ends with
    its block, and what lies behind the token is no output. A loop that did not notice it (a token that a commit
    carries over) ran on: it returns one token more than whole blocks, and all of them are its output. In lockstep
    such a row may also be a finished one that waited for others, where only `padding` lies behind the stop token.
    """
    tokens = row[length:]
    tokens = tokens[:tokens.index(mask)] if mask in tokens else tokens
    if stop not in tokens:
        return tokens
    end = tokens.index(stop) + 1
    ran_on = len(row) % block == 1 and not (padding is not None and set(tokens[end:]) <= {padding})
    return tokens if ran_on else tokens[:end]


def decoder(file: GenerationFile, lm: LM, decoding: Decoding, reuse: Reuse) -> Decoder:
    """The file as an opaque decoder, for a comparison or a bisection; all prompts of a call run in lockstep."""
    def decode(prompts: list[list[int]]) -> Iterator[list[list[int]]]:
        yield call(file, PublishedModel(lm.network), lm, prompts, decoding, reuse)
    return decode


def generate_rows(lm: LM, prompts: Sequence[Prompt], *, file: GenerationFile, decoding: Decoding = Decoding(),
                  reuse: Reuse = Reuse(), seed: int = 0, traces: list[pd.DataFrame] | None = None,
                  numbers: Sequence[int] | None = None) -> Iterator[RowResult]:
    """Rows as they finish, one prompt at a time, as the published runs did: what `decode.generate_rows` yields.

    `seed` and a row's number seed what is drawn at temperature > 0. The text ends before a stop string, which the
    loop itself knows nothing of. `decisions` count calls of the layers that reuse names: a layer whose result goes on
    is a recompute, one that did not run or whose result was discarded a reuse (`WorkCount`). With `traces`, a probe
    looks at every forward and each row's trace is appended; the rows' `seconds` then contain the looking and are no
    measure of the file. With `own_code` the model is not ours: neither forwards nor layer calls are counted, and the
    row's `executor` is "own code".
    """
    find_stop, stops = stops_of(lm, decoding)[1], stop_ids(lm, decoding)
    wanted = reuse.layer_indices(lm.config.num_hidden_layers)
    for index, prompt in enumerate(prompts):
        ids, number = token_ids(lm, index, prompt), index if numbers is None else numbers[index]
        work = WorkCount(wanted)
        began = time.perf_counter()
        if file.model is not None:
            tokens = seeded_call(file, file.model, lm, ids, decoding, reuse, seed, number)
        else:
            ours = PublishedModel(lm.network, work.forward, row_generator(lm.device, seed, number), work.layer)
            with nullcontext() if traces is None else Probe(lm.network) as probe:
                tokens = seeded_call(file, ours, lm, ids, decoding, reuse, seed, number)
            if traces is not None and probe is not None:
                traces.append(trace(probe.seen, index, lm, decoding, reuse))
        seconds = time.perf_counter() - began
        nfe = {kind: work.forwards[kind] for kind in KINDS} | {"replay": 0}
        text = lm.decode(tokens)
        yield RowResult(row=number, tokens=tokens, text=find_stop.cut(text) if find_stop else text, nfe=nfe,
                        decisions={decision: work.decisions[decision] for decision in DECISIONS},
                        finish="stop" if tokens and tokens[-1] in stops else "length",
                        reused_nothing=reuse.active and file.model is None and not work.decisions["reuse"],
                        seconds=seconds, steps=nfe["full"] + nfe["small"],
                        executor="eager" if file.model is None else "own code")


def seeded_call(file: GenerationFile, model: Any, lm: LM, ids: list[int], decoding: Decoding, reuse: Reuse, seed: int,
                number: int) -> list[int]:
    """`call` for one prompt; what the file draws by itself, from torch's global generator, comes from the seed too."""
    with torch.random.fork_rng([lm.device] if lm.device.type == "cuda" else []):
        torch.manual_seed(row_generator(torch.device("cpu"), seed, number).initial_seed())
        return call(file, model, lm, [ids], decoding, reuse)[0]


def write_trace(lm: LM, file: GenerationFile, prompts: Sequence[Prompt], decoding: Decoding, reuse: Reuse, seed: int,
                outputs: list[str], path: Path) -> int:
    """Decode again and write the trace as Parquet; how many rows gave `outputs` again."""
    traces: list[pd.DataFrame] = []
    rows = list(generate_rows(lm, prompts, file=file, decoding=decoding, reuse=reuse, seed=seed, traces=traces))
    with atomic.replacing(path) as part:
        pd.concat(traces, ignore_index=True).to_parquet(part, index=False)
    return sum(row.text == output for row, output in zip(rows, outputs, strict=True))


def trace(seen: list[ForwardObservation], row: int, lm: LM, decoding: Decoding, reuse: Reuse) -> pd.DataFrame:
    """The trace table (decode/trace.py) of one row as a probe saw it; the layers that reuse names."""
    mask = decoding.mask_id if decoding.mask_id is not None else lm.mask_id
    wanted = reuse.layer_indices(lm.config.num_hidden_layers)
    steps: list[tuple[int | None, int | None]] = []      # small block and step of every forward
    block, step, rows = -1, 0, []
    for s in seen:
        if s.kind not in ("full", "small"):
            steps.append((None, None))
            continue
        block, step = (s.block, step) if s.block == block else (s.block, 0)
        masked = [at for at, token in enumerate(s.tokens[0], s.replace_position or 0) if token == mask]
        steps.append((masked[0] // decoding.small_block if masked else None, step))     # without one: only a look
        step += 1
    for s, (small_block, at) in zip(seen, steps, strict=True):
        if at is None:
            continue
        width = len(s.tokens[0])
        for layer in wanted:
            call_ = s.calls[layer]
            ran = "ran, its result discarded" if call_.ran and call_.reused else "ran" if call_.ran else "did not run"
            head = (row, s.index, s.block, small_block, at, s.kind, layer, "reuse" if call_.reused else "recompute",
                    f"seen from outside: {ran}", f"1x{width}x{lm.config.hidden_size}")
            if call_.source is None:
                rows.append((*head, *(None,) * 6, s.replace_position, None, None, None, float("nan")))
                continue
            origin, start = seen[call_.source[0]], call_.source[1]
            theirs = origin.tokens[0][start:start + width]
            rows.append((*head, f"1x{len(origin.tokens[0])}x{lm.config.hidden_size}", origin.kind, origin.block,
                         *steps[origin.index], origin.index, s.replace_position, start, start + width,
                         sum(a != b for a, b in zip(theirs, s.tokens[0], strict=True)), float("nan")))
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype(dict.fromkeys(WHOLE, "Int64")).astype({"distance": "float64"})
