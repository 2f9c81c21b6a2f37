"""A comparison as text: what differs, who is better and how sure that is, problems that turned, where, at what cost."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOptionalMemberAccess=false, reportGeneralTypeIssues=false
# (pandas' own annotations make every df[...] a union)

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import pandas as pd

from fastdllm import stats
from fastdllm.display.tables import Html, interval_text, p_text, whole
from fastdllm.lab.records.identity import CurrentFingerprints
from fastdllm.report import cost_model
from fastdllm.report.comparison.pairs import Comparison, Pair
from fastdllm.report.comparison.sides import Side
from fastdllm.tasks import Problem

WIDTH = 58          # columns of each text, side by side
LINES = 14          # of a text, at most
CLOCK = "tokens/s (one run each)"


def of(comparison: Comparison, show: int = 3) -> str:
    """The whole comparison, `show` problems won and lost for each record."""
    parts = ["\n".join(f"{letter}: {side.name}" for letter, side in comparison.letters.items()),
             heading("What differs", Html(comparison.settings()).markdown()),
             heading("Scores and costs", Html(table(comparison)).markdown())]
    wordings = problem_texts(comparison)
    for letter, pair in zip(list(comparison.letters)[1:], comparison.pairs, strict=True):
        parts.append(heading(f"{letter} against A", "\n".join(lines(pair, letter))))
        for how in ("lost", "won"):
            turned = pair.turned(how)
            if show and len(turned) and not turned[["output_a", "output_b"]].isna().all(axis=None):
                shown = (side_by_side(pair, letter, problem, wordings.get(problem)) for problem in turned.index[:show])
                parts.append("\n\n".join([f"{how.capitalize()}: {min(show, len(turned))} of {len(turned)}", *shown]))
    return "\n\n".join(parts)


def heading(title: str, body: str) -> str:
    """A titled part."""
    return f"{title}\n{'-' * len(title)}\n{body}"


def table(comparison: Comparison) -> pd.DataFrame:
    """The numbers as text. A clock that was read once can't tell: the speed is the cost model's where it has one."""
    rows, numbers = [], comparison.numbers()
    rules = numbers["rule"].unique()
    accuracy = f"accuracy %, {rules[0]}" if len(rules) == 1 else "accuracy %"
    for row in numbers.to_dict("records"):
        rows.append({
            "": row["letter"], **({"rule": row["rule"]} if len(rules) > 1 else {}),
            accuracy: interval_text(row["accuracy"], row["low"], row["high"], scale=100),
            "n": whole(row["n"]), "forwards": whole(row["forwards"]),
            "forwards / problem": interval_text(row["forwards_per_problem"], float("nan"), float("nan")),
            "tokens / forward": interval_text(row["tokens_per_forward"], float("nan"), float("nan"), 2),
            "layer calls reused": whole(row["reused_layer_calls"]),
            CLOCK: interval_text(row["tokens_per_second"], float("nan"), float("nan")),
            "predicted tokens/s against A": "–" if row.get("predicted_speed") is None else interval_text(
                row["predicted_speed"], float("nan"), float("nan"), 2),
            "executor": row["executor"] or "not stated"})
    shown = pd.DataFrame(rows)
    if numbers["predicted_speed"].notna().any():
        shown = shown.drop(columns=CLOCK)
    return shown.loc[:, shown.ne("–").any()]        # what no record states is no column


def lines(pair: Pair, letter: str) -> Iterator[str]:
    """What one record is against the first: the difference, what would settle it, cost, where they part, cautions."""
    yield verdict(pair, letter)
    if pair.paired is not None:
        p = p_text(pair.paired.p)
        yield (f"won {pair.paired.gained} (wrong in A, right in {letter}), lost {pair.paired.lost}; exact McNemar "
               f"p {p if p.startswith('<') else f'= {p}'}")
    yield needed(pair)
    yield cost(pair, letter)
    if pair.first_steps is not None:
        parted = pair.first_steps["forward"].dropna()
        where = (f"at forward {', '.join(map(str, parted[:8]))}{' ...' if len(parted) > 8 else ''} (counted from 1)"
                 if len(parted) else "nowhere")
        traced = stats.number_of(len(pair.first_steps), "traced problem")
        yield f"first differing step: in {len(parted)} of {traced}, {where}"
    for caution in pair.cautions():
        yield f"note: {caution}"
    if pair.shared is not None and (turned := [*pair.turned("lost").index, *pair.turned("won").index]):
        yield f"to see a problem decoded side by side: {explore(pair, turned[0])}"
        absent = {side.record.dataset.fingerprint: side.absent_data for side in (pair.b, pair.a) if side.absent_data}
        for data in absent.values():
            yield f"for --data: {data}"


def verdict(pair: Pair, letter: str) -> str:
    """The difference in one sentence."""
    n = pair.paired.n if pair.paired else pair.b.record.headline.n
    difference, low, high = pair.difference
    kind = "on the same problems" if pair.paired else "as two samples"
    return f"{letter} - A, {pair.rules[1]}, {kind}: {stats.say_difference(difference, low, high, n)}"


def needed(pair: Pair) -> str:
    """How many problems would settle it."""
    if pair.settled:
        return "settled: the interval leaves 0 out"
    if pair.needed is None:
        return "no number of problems can be named: nothing here points either way"
    return (f"not settled: about {whole(pair.needed)} problems would show a difference as large as this one with 80 % "
            "power")


def cost(pair: Pair, letter: str) -> str:
    """What the same problems cost: forwards, tokens, and the tokens/s that the cost model gives them."""
    parts = []
    if pair.shared is not None:
        for name, title in (("forwards", "forwards"), ("tokens", "tokens")):
            kept = pair.shared[[f"{name}_a", f"{name}_b"]].dropna()
            if len(kept) and kept[f"{name}_a"].sum():
                parts.append(f"{title} {kept[f'{name}_b'].sum() / kept[f'{name}_a'].sum():.2f} times A's")
    if pair.predicted_speed == pair.predicted_speed:
        parts.append(f"predicted tokens/s {pair.predicted_speed:.2f} times A's (the cost model's for these forwards: "
                     f"{cost_model.SHAPE})")
    return f"cost of {letter}: " + ("; ".join(parts) or "not stated on both sides")


def explore(pair: Pair, problem: str) -> str:
    """The command that decodes one problem again on both sides and plays them beside each other."""
    data = " --data PATH" if pair.a.absent_data or pair.b.absent_data else ""
    return f"fastdllm explore {pair.a.name} {pair.b.name} --problem {problem}{data}"


def problem_texts(comparison: Comparison) -> dict[str, Problem]:
    """The problems by id, where they can be had here and are the ones of a record; {} else."""
    for side in comparison.sides:
        if (problems := _problems(side)) is not None:
            return problems
    return {}


def _problems(side: Side) -> dict[str, Problem] | None:
    if side.record.status == "imported":
        return None
    try:
        problems, dataset = CurrentFingerprints().problems(side.record.parameters)
    except (ValueError, OSError):       # no data on this machine: the comparison does without their wording
        return None
    same = dataset.fingerprint == side.record.dataset.fingerprint
    return {problem.id: problem for problem in problems} if same else None


def asked(problem: Problem) -> str:
    """What a problem asks."""
    return problem.prompt if isinstance(problem.prompt, str) else problem.prompt[-1]["content"]


def side_by_side(pair: Pair, name: str, problem: str, wording: Problem | None) -> str:
    """A problem: what it asks, what is right, and both answers beside each other."""
    row = pair.shared.loc[problem]
    head = [f"{problem}" + (f" (right: {wording.target[:80]})" if wording else "")]
    if wording:
        head += textwrap.wrap(asked(wording), 2 * WIDTH + 3)[:6]
    columns = []
    for letter in "ab":
        mark = "right" if row[f"right_{letter}"] else "wrong"
        text = row[f"output_{letter}"] if isinstance(row[f"output_{letter}"], str) else "(no text is kept)"
        wrapped = [piece for line in text.splitlines() for piece in textwrap.wrap(line, WIDTH) or [""]]
        cut = [*wrapped[:LINES], *(["..."] if len(wrapped) > LINES else [])]
        columns.append([f"{'A' if letter == 'a' else name}: {mark}", *cut])
    height = max(map(len, columns))
    left, right = ([*column, *[""] * (height - len(column))] for column in columns)
    return "\n".join([*head, *(f"{one:<{WIDTH}} | {other}".rstrip() for one, other in zip(left, right, strict=True))])
