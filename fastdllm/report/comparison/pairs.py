"""What two records differ in: settings, answers on the same problems with the uncertainty of the difference, cost."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportOptionalSubscript=false, reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
# (pandas' own annotations make every df[...] a union)

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from fastdllm import power, stats
from fastdllm.lab import records
from fastdllm.lab.records import importer
from fastdllm.lab.records.record import Record
from fastdllm.lab.records.steps import STEPS
from fastdllm.report.cell_report import idle
from fastdllm.report.comparison.sides import Side
from fastdllm.report.results import predicted_seconds
from fastdllm.settings import Reuse
from fastdllm.ui import recording

UNKNOWN = "not stated"
DOES_NOTHING = UNUSED, NO_REUSE = "not used", "none: k=1"      # in the place of values that a run never reads
OF_REUSE = tuple(name for name in Reuse.model_fields if name != "k")


@dataclass(frozen=True, eq=False)
class Pair:
    """b held against a, on the problems that both have answers to."""

    a: Side
    b: Side
    rule: str | None = None         # of scoring; None: a's headline where both were scored by it, else each one's own

    @cached_property
    def rules(self) -> tuple[str, str]:
        """The rules that a and b are scored by. Raises ValueError for a rule that one of them lacks."""
        sides = self.a.record, self.b.record
        wanted = self.rule or self.a.record.metric
        if all(wanted in side.accuracy for side in sides):
            return wanted, wanted
        if self.rule is not None:
            common = [rule for rule in sides[0].accuracy if rule in sides[1].accuracy]
            raise ValueError(f"rule={self.rule!r}; allowed: {', '.join(common) or 'none, they share no rule'}")
        return sides[0].metric, sides[1].metric

    @cached_property
    def shared(self) -> pd.DataFrame | None:
        """The problems of both, in a's order: right_a, right_b and COLUMNS with _a and _b; None without single answers.
        """
        tables = self.a.problems, self.b.problems
        if tables[0] is None or tables[1] is None:
            return None
        sides = [table[[rule in correct for correct in table["correct"]]].add_suffix(f"_{letter}")
                 for table, rule, letter in zip(tables, self.rules, "ab", strict=True)]
        joined = sides[0].join(sides[1], how="inner")
        if joined.empty:
            return None
        return joined.assign(**{f"right_{letter}": [correct[rule] for correct in joined[f"correct_{letter}"]]
                                for letter, rule in zip("ab", self.rules, strict=True)})

    @cached_property
    def paired(self) -> stats.Paired | None:
        """Won, lost, the difference b - a with its 95 % interval, exact McNemar p; None without single answers."""
        if self.shared is None:
            return None
        return stats.compare_paired(self.shared["right_a"], self.shared["right_b"])

    @cached_property
    def difference(self) -> tuple[float, float, float]:
        """b - a in points, low, high. Unpaired (Newcombe) where single answers are lost, nan where n is."""
        if self.paired is not None:
            return tuple(100 * value for value in (self.paired.difference, self.paired.low, self.paired.high))
        a, b = (side.record.accuracy[rule] for side, rule in zip((self.a, self.b), self.rules, strict=True))
        if not (a.n and b.n):
            return 100 * (b.value - a.value), math.nan, math.nan
        low, high = stats.difference_unpaired(a.correct, a.n, b.correct, b.n)
        return 100 * (b.value - a.value), 100 * low, 100 * high

    @property
    def settled(self) -> bool:
        """Whether the interval leaves 0 out."""
        _, low, high = self.difference
        return low > 0 or high < 0

    @cached_property
    def needed(self) -> int | None:
        """Problems that would show a difference as large as this one with 80 % power; None where there is none."""
        if self.paired is not None:
            return power.n_needed_paired(self.paired.lost, self.paired.gained, self.paired.n)
        a, b = (side.record.accuracy[rule] for side, rule in zip((self.a, self.b), self.rules, strict=True))
        return power.n_needed(a.value, b.value) if a.value != b.value and a.n and b.n else None

    def turned(self, how: str) -> pd.DataFrame:
        """The problems that b `won` (wrong in a, right in b) or `lost`."""
        if self.shared is None:
            return pd.DataFrame()
        right = "b" if how == "won" else "a"
        wrong = "a" if how == "won" else "b"
        return self.shared[self.shared[f"right_{right}"] & ~self.shared[f"right_{wrong}"]]

    @cached_property
    def first_steps(self) -> pd.DataFrame | None:
        """Where the two leave each other, of the problems that both kept a trace of: id, forward (from 1; missing:
        never), kind. None where there is none.
        """
        if self.shared is None or any(side.home is None or not (side.home / STEPS).is_file()
                                      for side in (self.a, self.b)):
            return None
        lines, rows_a, rows_b = [], recording.Rows(self.a.home), recording.Rows(self.b.home)
        for problem, index_a, index_b in zip(self.shared.index, self.shared["index_a"], self.shared["index_b"],
                                             strict=True):
            if index_a not in rows_a or index_b not in rows_b:      # not among the traced ones
                continue
            one, other = rows_a[int(index_a)], rows_b[int(index_b)]
            at = recording.first_difference(one, other)
            ended = at is not None and at >= len(other.steps)
            lines.append({"id": problem, "forward": None if at is None else at + 1, "kind": "" if at is None else
                          "ended" if ended else other.steps["kind"].iloc[at]})
        return pd.DataFrame(lines).astype({"forward": "Int64"}) if lines else None

    def cautions(self) -> Iterator[str]:
        """What a reader must know before believing the numbers."""
        a, b = self.a.record, self.b.record
        if a.identity == b.identity and a.status == "complete":
            yield "the two are one run under two names"
        if self.rules[0] != self.rules[1]:
            yield f"scored by different rules: {self.rules[0]} against {self.rules[1]}"
        if self.shared is None:
            yield ("single answers are not kept on both sides: the interval is that of two samples, wider than a "
                   "paired one would be")
        elif not len(self.shared) == a.n == b.n:
            yield f"compared on the {stats.number_of(len(self.shared), 'problem')} that both solved, of {a.n} and {b.n}"
        if self.shared is not None:
            hashes = self.shared[["prompt_hash_a", "prompt_hash_b"]].dropna()
            if other := int((hashes["prompt_hash_a"] != hashes["prompt_hash_b"]).sum()):
                yield f"{stats.number_of(other, 'prompt')} worded differently"
        yield f"tokens/s are not compared: {'; '.join(self.why_no_speed())}"

    def why_no_speed(self) -> Iterator[str]:
        """What makes the clocks of the two no measure of each other; a record is one run, so there is always one."""
        a, b = self.a.record, self.b.record
        yield "one run each"
        if on_cpu(a) or on_cpu(b):
            yield "on a CPU, which other programs share"
        for what, one, other in (("executors", a.executor or UNKNOWN, b.executor or UNKNOWN),
                                 ("devices", *(_known(side.environment.device_name) for side in (a, b))),
                                 ("nodes", *(_known(side.environment.node) for side in (a, b))),
                                 ("commits", *(_known(side.code.commit)[:10] for side in (a, b))),
                                 ("batch sizes", stated(a, "batch_size"), stated(b, "batch_size"))):
            if one == other == UNKNOWN and what not in ("nodes", "commits"):
                yield f"the {what} are not stated on either side"
            elif one != other:
                yield f"different {what} ({one} and {other})"

    @property
    def predicted_speed(self) -> float:
        """b's tokens/s over a's, the cost model's for the forwards that were counted; nan where they were not."""
        one, other = (side.record.tokens / (predicted_seconds(side.record) or math.nan) for side in (self.a, self.b))
        return other / one if one else math.nan


def on_cpu(record: Record) -> bool:
    """Whether a run's clock is that of a CPU, which other programs share."""
    return stated(record, "device") == "cpu"


def _known(text: str | None) -> str:
    """Where or by what something ran, in one wording where a record does not state it."""
    return text if text and text != importer.UNKNOWN else UNKNOWN


def stated(record: Record, name: str) -> Any:
    """A parameter's value, or that it is not stated."""
    return record.stated().get(name, UNKNOWN)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two or more records of one task; the first is what the others are held against."""

    sides: tuple[Side, ...]
    rule: str | None = None

    def __post_init__(self) -> None:
        if len(self.sides) < 2:
            raise ValueError(f"{len(self.sides)} record; allowed: two or more")
        if len(names := dict.fromkeys(side.record.task for side in self.sides)) > 1:
            raise ValueError(f"records of {', '.join(names)}; allowed: records of one task")

    @cached_property
    def pairs(self) -> list[Pair]:
        return [Pair(self.sides[0], other, self.rule) for other in self.sides[1:]]

    @cached_property
    def letters(self) -> dict[str, Side]:
        """A, B, C ...: what the sides are called in tables."""
        names = [chr(ord("A") + i) if i < 26 else f"A{i}" for i in range(len(self.sides))]
        return dict(zip(names, self.sides, strict=True))

    @property
    def without_answers(self) -> list[str]:
        """The records of which no single answers are kept, by their letters."""
        return [letter for letter, side in self.letters.items() if side.problems is None]

    def settings(self) -> pd.DataFrame:
        """What the records differ in, one row a name, one column a side: parameters, weights, problems, code, place."""
        values = {letter: facts(side.record) for letter, side in self.letters.items()}
        names = dict.fromkeys(name for each in values.values() for name in each)
        # A fraction in full: tables round, and these are about a difference.
        rows = {name: [repr(value) if isinstance(value := each.get(name, UNKNOWN), float) else value
                       for each in values.values()] for name in names}
        return pd.DataFrame([{"": name, **dict(zip(values, row, strict=True))} for name, row in rows.items()
                             if len({str(value) for value in row}) > 1 and not set(map(str, row)) <= set(DOES_NOTHING)],
                            columns=["", *values])

    def numbers(self) -> pd.DataFrame:
        """One row a record, numbers only: score, cost, and against the first one the difference and what it rests on.

        difference, low, high: points. predicted_speed: tokens/s over the first one's, by the cost model.
        """
        p = stats.holm([pair.paired.p for pair in self.pairs if pair.paired is not None])
        corrected = iter(p)
        rows = []
        for (letter, side), pair in zip(self.letters.items(), [None, *self.pairs], strict=True):
            flat = records.row(side.record)
            rule = self.rule or self.sides[0].record.metric
            rule = rule if rule in side.record.accuracy else side.record.metric
            score = side.record.accuracy[rule]
            forwards, n = flat["forwards_run"] or math.nan, score.n or math.nan
            row = {"letter": letter, "record": side.name, "rule": rule, "accuracy": score.value, "low": score.low,
                   "high": score.high, "n": score.n, "forwards": forwards, "forwards_per_problem": forwards / n,
                   "tokens": flat["tokens"],
                   "tokens_per_forward": flat["tokens"] / forwards,
                   "reused_layer_calls": flat["reuse"] if side.record.decisions else math.nan,
                   "seconds": flat["seconds"], "tokens_per_second": flat["tokens_per_second"],
                   "executor": side.record.executor, "device": side.record.environment.device_name}
            if pair is not None:
                difference, low, high = pair.difference
                row |= {"difference": difference, "difference_low": low, "difference_high": high,
                        "predicted_speed": pair.predicted_speed, "problems_needed": pair.needed,
                        "settled": pair.settled}
                if pair.paired is not None:
                    row |= {"shared": pair.paired.n, "won": pair.paired.gained, "lost": pair.paired.lost,
                            "p": pair.paired.p, "p_holm": float(next(corrected))}
            rows.append(row)
        counts = dict.fromkeys(("shared", "won", "lost", "problems_needed"), "Int64")
        table = pd.DataFrame(rows)
        return table.astype({name: kind for name, kind in counts.items() if name in table})

    def problems(self) -> pd.DataFrame:
        """One row a problem: right, tokens, forwards, output of each record by its letter."""
        parts = []
        for letter, side in self.letters.items():
            if side.problems is None:
                continue
            rule = self.rule if self.rule in side.record.accuracy else side.record.metric
            part = side.problems[["tokens", "forwards", "output"]].assign(
                right=[correct.get(rule) for correct in side.problems["correct"]])
            parts.append(part[["right", "tokens", "forwards", "output"]].add_suffix(f"_{letter}"))
        return pd.concat(parts, axis=1).rename_axis("id").reset_index() if parts else pd.DataFrame(columns=["id"])


def facts(record: Record) -> dict[str, Any]:
    """What a record ran with and on, by the names that people know."""
    where, code = record.environment, record.code
    known = "k" not in record.unknown
    unused = dict.fromkeys(idle(record), UNUSED) if known else {}
    if known and not record.parameters.reuse.active:
        unused |= dict.fromkeys(OF_REUSE, NO_REUSE)
    return {**{name: unused.get(name, value) for name, value in record.stated().items()},
            "weights": record.checkpoint.fingerprint[:12],
            "problems": record.dataset.fingerprint[:12],
            "code": code.hash[:12], "policy file": (code.policy or "none")[:12], "commit": (code.commit or "none")[:12],
            "executor": record.executor or UNKNOWN, "torch": where.torch, "device name": where.device_name,
            "node": where.node, "date": record.day}
