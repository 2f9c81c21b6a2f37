"""Chains or trees of drafts, on the states of k=1: `python -m benchmarks.bench_drafts`, for the small real model
`... --model smol --task gsm8k_words --data test.jsonl --limit 8 --most 128`.

Every prompt is decoded once by k=1. At each of its states the guesses that old logits allow are held against the state
that came next, so that any shape of drafts can be counted afterwards, in passes. Prints one JSON object a line:

    candidates   how often the first guess of the next state is right, and how often each other candidate is right where
                 the first is wrong
    passes       passes that so many drafted rows need for all forwards of k=1: as a chain, or with the last row of the
                 chain given up for a second candidate at depth 1

So with two rows a chain of depth 2 stands beside a tree of two candidates, with three rows a chain of depth 3 beside
one draft behind the first of two candidates. `any` is a tree whose second candidate is always the right one of those
tried, if one is: a bound that no choice passes.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import fastdllm
from fastdllm import Decoding, Execution, Reuse, tasks
from fastdllm.decode.drafts import Memory, OldLogits, chain, drafted
from fastdllm.decode.generate import build
from fastdllm.decode.row import Row
from fastdllm.decode.step import Forward, Prediction
from fastdllm.decode.verify import PASS_TOKENS
from fastdllm.model.lm import LM

MOST_ROWS = 3
CANDIDATES = ("one more", "one fewer", "nearer of these", "next position", "second token")


@dataclass(frozen=True)
class Moment:
    """A row of k=1 before one of its forwards, and what was predicted for each position of its text last."""

    row: Row
    memory: Memory
    second: dict[int, int]             # the second best token of each position


class Nothing:
    """A drafter that drafts nothing: `verify` is then k=1, and reads every token all the same."""

    def guess(self, forward: Forward, memory: Memory) -> None:
        return None

    def second(self, forward: Forward, memory: Memory) -> None:
        return None


def moments(lm: LM, ids: list[list[int]], decoding: Decoding) -> Iterator[list[Moment]]:
    """Each prompt's states, one after another."""
    how = Execution(executor="eager", batch_size=1)
    engine, _ = build(lm, ids, decoding, Reuse(k=2, policy="verify"), "fixed", how, None)
    turn: Any = engine.turn
    turn.drafter = Nothing()
    seen: list[torch.Tensor] = []
    with lm.network.hooks({"logits": lambda logits, _point: seen.append(logits)}):
        for index, prompt in enumerate(ids):
            mine, second = [Moment(Row(index, 0, prompt, engine.rules), Memory(), {})], dict[int, int]()
            for _ in engine.steps(iter([(index, prompt)])):
                row = turn.live[0].row
                before = mine[-1].row.next()
                if before.kind != "prefill":
                    others = seen[-1][0].topk(2).indices[:, 1].tolist()
                    second |= dict(enumerate(others, before.start + 1))
                memory = Memory()
                memory.predicted |= turn.live[0].memory.predicted
                if not row.finish:
                    mine.append(Moment(row.fork(), memory, dict(second)))
                seen.clear()
            yield mine


def candidates(moment: Moment, threshold: float) -> dict[str, Prediction]:
    """What else the next state may be than the first guess; empty where there is no first guess."""
    forward, memory = moment.row.next(), moment.memory
    first = drafted(moment.row, OldLogits(threshold).guess(forward, memory))
    if first is None:
        return {}
    if forward.kind == "commit":
        return {"first": first, "second token": Prediction((moment.second[forward.end],), first.confidence)}
    order = sorted((i for i, masked in enumerate(forward.masked) if masked), key=lambda i: (-first.confidence[i], i))
    count, block = sum(first.unmask), forward.start - (forward.replace_position or 0)

    def of(chosen: list[int]) -> Prediction:
        return Prediction(first.tokens, first.confidence, tuple(i in chosen for i in range(len(forward.masked))))
    guesses = {"first": first}
    if count < len(order):
        guesses["one more"] = of(order[:count + 1])
        guesses["next position"] = of([*order[:count - 1], order[count]])
    if count > 1:
        guesses["one fewer"] = of(order[:count - 1])
    near = {name: abs(first.confidence[order[at]] - threshold)
            for name, at in (("one more", count), ("one fewer", count - 1)) if name in guesses}
    if near:
        guesses["nearer of these"] = guesses[min(near, key=lambda name: near[name])]
    last = order[count - 1]
    tokens = list(first.tokens)
    tokens[last] = moment.second[block + forward.offset + last]
    guesses["second token"] = Prediction(tuple(tokens), first.confidence, first.unmask)
    return {name: guess for name, guess in guesses.items() if drafted(moment.row, guess)}


@dataclass(frozen=True)
class Outcome:
    """At one state: whether something was drafted, how many drafts of a chain are right, and which candidates are."""

    offered: bool
    chain: int
    right: frozenset[str]


def outcomes(mine: list[Moment], threshold: float) -> list[Outcome]:
    """What drafting comes to at each state of a prompt. A second candidate must fit beside the first (PASS_TOKENS)."""
    actual, drafter = [moment.row.next() for moment in mine], OldLogits(threshold)
    results = []
    for index, moment in enumerate(mine):
        line = [draft.forward for draft in chain(moment.row, drafter, moment.memory, MOST_ROWS, PASS_TOKENS)[1:]]
        length = 0
        while length < len(line) and actual[index + 1 + length:][:1] == [line[length]]:
            length += 1
        right, denoised = set[str](), actual[index].kind != "prefill"
        for name, guess in (candidates(moment, threshold) if line and denoised else {}).items():
            twin = moment.row.fork()
            twin.apply(actual[index], guess)
            if not twin.finish and [twin.next()] == actual[index + 1:][:1] and (
                    name == "first" or actual[index].width + line[0].width + twin.next().width <= PASS_TOKENS):
                right.add(name)
        results.append(Outcome(bool(line) and denoised, length, frozenset(right)))
    return results


def passes(results: list[Outcome], rows: int, second: str | None) -> int:
    """Passes for a prompt's forwards with `rows` drafts: a chain, or with a second candidate in place of the last."""
    at = count = 0
    while at < len(results):
        each = results[at]
        gained = min(each.chain, rows - (second is not None))
        if not gained and second is not None:
            gained = int(bool(each.right) if second == "any" else second in each.right)
        at, count = at + 1 + gained, count + 1
    return count


def measure(lm: LM, ids: list[list[int]], decoding: Decoding) -> Iterator[dict[str, Any]]:
    """Candidates and passes of all prompts together."""
    about = {"model": lm.name, "n": len(ids), "threshold": decoding.threshold}
    texts = [outcomes(mine, decoding.threshold) for mine in moments(lm, ids, decoding)]
    every = [each for results in texts for each in results]
    offered = [each for each in every if each.offered]
    wrong = [each for each in offered if "first" not in each.right]
    counts = Counter(name for each in wrong for name in each.right)
    yield {"part": "candidates", **about, "forwards": len(every), "offered": len(offered),
           "first right": len(offered) - len(wrong),
           "right where the first is wrong": {name: counts[name] for name in CANDIDATES}
           | {"any": sum(bool(each.right) for each in wrong)}}
    for rows in range(1, MOST_ROWS + 1):
        line = {"chain": sum(passes(results, rows, None) for results in texts)}
        if rows > 1:
            line |= {name: sum(passes(results, rows, name) for results in texts) for name in (*CANDIDATES, "any")}
        yield {"part": "passes", **about, "rows": rows, "forwards": len(every), **line}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--task", default="arithmetic")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--most", type=int, default=256)
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.9, 1.0])
    options = parser.parse_args()
    torch.set_num_threads(1)
    lm = fastdllm.load(options.model, device="cpu", dtype="float32")
    ids = [lm.encode(problem.prompt) for problem in tasks.get(options.task).problems(options.limit, options.data)]
    for threshold in options.thresholds:
        for line in measure(lm, ids, Decoding(threshold=threshold, max_new_tokens=options.most)):
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
