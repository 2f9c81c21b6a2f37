"""Which switch of the historical code turns a good decoder into a bad one? (F of the log's checklist)

Both decoders are opaque: only what a probe sees of them counts (lab/instrument/probe.py). The search composes
candidates from the table of switches. It first finds the combination that behaves as the good one
does, then walks from there to the bad one, always going on from the candidate that agrees with it
longest, so that single causes are found in a few short runs and all combinations are tried before
"none of the known switches" is said. A candidate is dropped at its first differing forward.
"""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import pandas as pd

from fastdllm.decode.generate import build
from fastdllm.decode.revisions import CHOICES, Revision
from fastdllm.decode.rules import resolve
from fastdllm.display.progress import progress
from fastdllm.lab.instrument.probe import (
    OBSERVABLES,
    Decoder,
    ForwardObservation,
    Observed,
    Probe,
    Run,
    differences,
    observe,
)
from fastdllm.model.lm import LM
from fastdllm.model.network import Network
from fastdllm.settings import Decoding, Execution, Reuse

Choices = Mapping[str, tuple[object, ...]]
Combination = tuple[object, ...]
ONE_BY_ONE = Execution(batch_size=1, executor="eager")
# Fault 4 shows in lockstep batches only; our loop has none, so that there is nothing to search for.
ROWWISE: Choices = {switch: values for switch, values in CHOICES.items() if switch != "trim_caches"}


def row_decoder(lm: LM, revision: str | Revision, reuse: Reuse, decoding: Decoding) -> Decoder:
    """Our loop under a revision, as an opaque decoder: rows one after the other, layer by layer.

    Raises ValueError for settings that don't fit the revision.
    """
    resolve(lm, decoding, reuse, revision)

    def decode(prompts: list[list[int]]) -> Iterator[list[list[int]] | None]:
        engine, ids = build(lm, prompts, decoding, reuse, revision, ONE_BY_ONE, None)
        for _ in engine.steps(iter(enumerate(ids))):
            yield None
        yield [row.generated for row in sorted(engine.finished, key=lambda row: row.index)]
    return decode


@dataclass(frozen=True)
class Divergence:
    """Where two runs first differ, and in which observables from there on."""

    group: int                     # index of the prompt (or of the prompts that ran together)
    forward: int                   # index of the forward; behind the last one: the output
    observables: tuple[str, ...]   # that differ at this forward
    good: ForwardObservation | None
    bad: ForwardObservation | None

    def __str__(self) -> str:
        where = self.bad or self.good
        return f"prompt {self.group}, {where or f'forward {self.forward}: the end'}, in {', '.join(self.observables)}"


def compare(a: Observed, b: Observed) -> tuple[Divergence | None, dict[str, int]]:
    """The first divergence of two runs, and how many forwards (or outputs) differ in each observable."""
    first: Divergence | None = None
    counts: dict[str, int] = dict.fromkeys(OBSERVABLES, 0)
    for group, (ours, theirs) in enumerate(zip(a.seen, b.seen, strict=True)):
        for index, (x, y) in enumerate(itertools.zip_longest(ours, theirs)):
            observables = differences(x, y)
            for name in observables:
                counts[name] += 1
            if observables and first is None:
                first = Divergence(group, index, observables, x, y)
        ends = tuple(name for name, same in (("output tokens", a.tokens[group] == b.tokens[group]),
                                             ("outcome", a.outcome[group] == b.outcome[group])) if not same)
        for name in ends:
            counts[name] += 1
        if ends and first is None:
            first = Divergence(group, len(ours), ends, None, None)
    return first, counts


@dataclass(frozen=True)
class BisectionResult:
    """What the bisection found. `changes` maps a switch to (value in good, value in bad); None: no known switch."""

    changes: dict[str, tuple[object, object]] | None
    tokens_by: dict[str, tuple[object, object]] | None   # the smallest part of `changes` that makes the bad tokens
    parting: Divergence | None                           # of good and bad; None: nothing separates them
    separates: tuple[str, ...]                           # observables that differ anywhere
    tried: int
    combinations: int
    outcome: str                                         # how the bad decoder ended: "ended", or what it raised
    table: pd.DataFrame = field(compare=False)           # one row per candidate that a reader may want to check


class Search:
    """Runs candidates on the given prompts, each once and no further than needed."""

    def __init__(self, candidate: Callable[[Revision], Decoder], groups: list[list[list[int]]], network: Network,
                 choices: Choices):
        self.candidate, self.groups, self.network = candidate, groups, network
        self.choices, self.tried = choices, 0

    def decoder(self, combination: Combination) -> Decoder | None:
        """The candidate; None for a combination that does not go with the settings."""
        revision = replace(Revision("candidate"), **dict(zip(self.choices, combination, strict=True)))    # pyright: ignore
        try:
            return self.candidate(revision)
        except ValueError:      # as upstream termination with less than one block of new tokens
            return None

    def agreement(self, combination: Combination, target: Observed) -> tuple[int, tuple[str, ...]]:
        """Forwards for which a candidate behaves as the target, and the observables in which it then differs."""
        self.tried += 1
        decoder, agreed = self.decoder(combination), 0
        if decoder is None:
            return 0, ("outcome",)
        for group, prompts in enumerate(self.groups):
            expected, run = target.seen[group], Run(decoder, prompts)
            with Probe(self.network) as probe:
                checked = 0
                for _ in itertools.chain(run, [None]):      # once more when the run has ended
                    for theirs, ours in itertools.zip_longest(expected[checked:len(probe.seen)], probe.seen[checked:]):
                        if observables := differences(theirs, ours):
                            return agreed + checked, observables
                        checked += 1
            if checked < len(expected):
                return agreed + checked, ("forwards", "outcome")
            wrong = (("output tokens",) * (run.tokens != target.tokens[group])
                     + ("outcome",) * (run.outcome != target.outcome[group]))
            if wrong:
                return agreed + len(expected), wrong
            agreed += len(expected)
        return agreed, ()

    def find(self, target: Observed, start: Combination) -> Combination | None:
        """Best first: the combination that behaves as the target in everything, nearest to `start`; or None."""
        heap: list[tuple[int, int, int, Combination]] = []
        seen, order = {start}, itertools.count()

        def visit(combination: Combination) -> bool:
            length, wrong = self.agreement(combination, target)
            distance = sum(a != b for a, b in zip(combination, start, strict=True))
            heapq.heappush(heap, (-length, distance, next(order), combination))
            return not wrong

        if visit(start):
            return start
        while heap:
            *_, combination = heapq.heappop(heap)
            for neighbour in neighbours(combination, self.choices):
                if neighbour not in seen:
                    seen.add(neighbour)
                    if visit(neighbour):
                        return self._shrink(neighbour, start, target)
        return None

    def _shrink(self, combination: Combination, start: Combination, target: Observed) -> Combination:
        """Undo every change that the target's behaviour does not need."""
        for switch, value in enumerate(start):
            fewer = (*combination[:switch], value, *combination[switch + 1:])
            if fewer != combination and not self.agreement(fewer, target)[1]:
                combination = fewer
        return combination

    def run(self, combination: Combination) -> Observed:
        """A candidate's whole run."""
        decoder = self.decoder(combination)
        if decoder is None:
            return Observed([[] for _ in self.groups], [[] for _ in self.groups], ["not allowed"] * len(self.groups))
        return observe(decoder, self.groups, self.network)


def neighbours(combination: Combination, choices: Choices) -> list[Combination]:
    """All combinations that differ in one switch."""
    return [(*combination[:switch], value, *combination[switch + 1:])
            for switch, values in enumerate(choices.values()) for value in values if value != combination[switch]]


def bisect(good: Decoder, bad: Decoder, candidate: Callable[[Revision], Decoder], prompts: Sequence[list[int]],
           network: Network, *, choices: Choices = ROWWISE, together: bool = False,
           tabulate: bool = True) -> BisectionResult:
    """Name the switch, or the interaction of switches, that makes `bad` of `good`.

    candidate: makes a decoder of a combination of switches. together: all prompts in one call (lockstep
    decoders); otherwise one call for each. tabulate: also run the candidates of the table that a reader
    checks the verdict with.
    """
    groups = [list(prompts)] if together else [[prompt] for prompt in prompts]
    first, second = (observe(decoder, groups, network) for decoder in (good, bad))
    parting, counts = compare(first, second)
    separates = tuple(name for name in OBSERVABLES if counts[name])
    search = Search(candidate, groups, network, choices)
    total = math.prod(len(values) for values in choices.values())
    outcome = ", ".join(sorted(set(second.outcome)))
    if parting is None:
        return BisectionResult({}, {}, None, (), 0, total, outcome, pd.DataFrame())
    defaults = tuple(Revision().switches()[switch] for switch in choices)
    base = search.find(first, defaults)
    target = search.find(second, defaults if base is None else base)
    if base is None or target is None:
        lost = {"bad": second} if base else {"good": first}
        ways = [base or defaults, *neighbours(base or defaults, choices)] if tabulate else []
        return BisectionResult(None, None, parting, separates, search.tried, total, outcome, table(search, lost, ways))
    changed = [switch for switch in range(len(base)) if base[switch] != target[switch]]
    tokens_by = smallest(search, base, target, changed, second) if counts["output tokens"] + counts["outcome"] else []
    ways = [base, target, *(swap(base, target, [switch]) for switch in changed),
            *(swap(target, base, [switch]) for switch in changed)]
    names = list(choices)
    return BisectionResult({names[s]: (base[s], target[s]) for s in changed},
                   None if tokens_by is None else {names[s]: (base[s], target[s]) for s in tokens_by},
                   parting, separates, search.tried, total, outcome,
                   table(search, {"good": first, "bad": second}, list(dict.fromkeys(ways)) if tabulate else []))


def bisect_subsets(lm: LM, prompts: Sequence[list[int]], good: str, bad: str, decoding: Decoding, k: int,
                   subsets: Sequence[str]) -> list[tuple[str, BisectionResult]]:
    """Two revisions of our own loop, bisected for each subset of layers by itself: (subset, result)."""
    results = []
    for layers in progress(subsets, "subsets bisected"):
        decoder = partial(row_decoder, lm, reuse=Reuse(k=k, layers=layers), decoding=decoding)
        results.append((layers, bisect(decoder(good), decoder(bad), decoder, prompts, lm.network)))
    return results


def swap(combination: Combination, other: Combination, switches: Sequence[int]) -> Combination:
    """`combination` with the values that `other` has for some switches (by index)."""
    return tuple(other[s] if s in switches else value for s, value in enumerate(combination))


def smallest(search: Search, base: Combination, target: Combination, changed: list[int],
             bad: Observed) -> list[int] | None:
    """The fewest of the changed switches that make the bad decoder's tokens (and outcome) out of the good one."""
    for size in range(1, len(changed) + 1):
        for switches in itertools.combinations(changed, size):
            run = search.run(swap(base, target, switches))
            if (run.tokens, run.outcome) == (bad.tokens, bad.outcome):
                return list(switches)
    return None


def table(search: Search, targets: Mapping[str, Observed], combinations: Sequence[Combination]) -> pd.DataFrame:
    """One row per candidate: its switches, what it reused, where it parts from each target, in what ("": agreement)."""
    rows = []
    for combination in combinations:
        run = search.run(combination)
        row = dict(zip(search.choices, combination, strict=True))
        row |= {"outcome": ", ".join(sorted(set(run.outcome))),
                "layer calls reused": sum(call.reused for seen in run.seen for one in seen for call in one.calls)}
        for name, target in targets.items():
            parting, counts = compare(target, run)
            row[f"parts from {name}"] = "" if parting is None else f"prompt {parting.group}, forward {parting.forward}"
            row[f"differs from {name} in"] = ", ".join(o for o in OBSERVABLES if counts[o])
            row[f"tokens of {name}"] = run.tokens == target.tokens
        rows.append(row)
    return pd.DataFrame(rows)
