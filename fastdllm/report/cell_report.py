"""One record as tables and figures: what the configuration's notebook shows."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fastdllm import stats
from fastdllm.characters import visible
from fastdllm.display import claim as claims
from fastdllm.display.claim import Decision, claim
from fastdllm.display.figures import BLUE, GREY, RED, bars, interval, styled
from fastdllm.display.tables import Html
from fastdllm.lab import records
from fastdllm.lab.config.computation import asks_for_similarity
from fastdllm.lab.records.identity import CurrentFingerprints
from fastdllm.lab.records.record import Record
from fastdllm.report.verify_costs import relative_time
from fastdllm.report.wrong_answers import explore
from fastdllm.ui import strip
from fastdllm.ui.recording import Recording

WORDS = "word-break:normal;overflow-wrap:anywhere"       # Jupyter's own style breaks answers within words


def applying(record: Record) -> list[str]:
    """The extraction rules that apply, the headline rule first: one that reads no answer at all says nothing."""
    return [record.metric, *(rule for rule, a in record.accuracy.items() if rule != record.metric and a.correct)]


def scores(record: Record) -> Html:
    """One row per extraction rule that applies: correct of n, share, 95 % Wilson interval; the headline rule first."""
    rules = applying(record)
    rows = [{"rule": rule + (" (headline)" if rule == record.metric else ""), "correct": f"{a.correct} of {a.n}",
             "accuracy": f"{a.value:.1%}", "95 % interval": stats.span(a.low, a.high, ".1%")}
            for rule in rules for a in (record.accuracy[rule],)]
    unread = [rule for rule in record.accuracy if rule not in rules]
    return Html(pd.DataFrame(rows), f"No answer has the form that {', '.join(unread)} reads." if unread else "")


def costs(record: Record) -> Html:
    """Tokens, forwards by kind, layer decisions, seconds; what did not happen is left out."""
    row = records.row(record)
    values: dict[str, Any] = {
        "tokens": row["tokens"], "forwards": row["nfe"], "tokens per forward": f"{row['tokens_per_forward']:.2f}",
        **{f"{kind} forwards": count for kind, count in record.nfe.items() if count},
        **_drafts(record, row),
        **{f"layer calls: {kind}": count for kind, count in record.decisions.items() if count},
        "seconds (no loading, no warm-up)": f"{record.seconds:.2f}",
        f"tokens/s (batch {record.parameters.batch_size}, n = {record.n}, one run)": f"{record.tokens_per_second:.0f}",
        "loading, warm-up": f"{record.load_seconds:.2f} s, {record.warmup_seconds:.2f} s",
        "empty answers": record.empty,
        "ended by": ", ".join(f"{how} {count}" for how, count in record.finish.items() if count)}
    if record.sessions > 1:
        values["interrupted and resumed"] = f"{record.sessions - 1} times"
    return _pairs("cost", values)


def _drafts(record: Record, row: dict[str, Any]) -> dict[str, Any]:
    """Policy verify: forwards that ran, and drafts by depth and kind. row: `records.row`."""
    if record.forwards_run is None:
        return {}
    offered, share = row["drafts_offered"], row["acceptance"]
    return {"forwards run (k=1 needs those above)": row["forwards_run"],
            "states verified in them, drafts too": row["states_verified"],
            "predicted tokens/s over k=1's (one prompt at a time, by what a pass of so many tokens costs at the 7B's "
            "shape on an H100)": f"{1 / relative_time(record):.2f}",
            "drafts accepted": f"{row['drafts_accepted']} of {offered}" + (f", {100 * share:.0f} %" if offered else ""),
            **{f"drafts at depth {draft.depth}, {draft.kind}: accepted": f"{draft.accepted} of {draft.offered}"
               for draft in record.drafts}}


def identity(record: Record) -> Html:
    """What makes this run this run, and where it ran."""
    code, where = record.code, record.environment
    return _pairs("this run", {
        "identity": record.identity[:16],
        "checkpoint": f"{record.checkpoint.name} {record.checkpoint.fingerprint[:16]}",
        "data": f"{Path(record.dataset.name).name} {record.dataset.fingerprint[:16]}, "
                f"{stats.number_of(record.dataset.n, 'problem')}",
        "code": f"{code.version} {code.hash[:16]}" + (f", commit {code.commit[:12]}" if code.commit else "")
                + (" with changes" if code.dirty else ""),
        "policy file": (code.policy or "")[:16], "date": record.date, "author": record.author,
        "python, torch, transformers": f"{where.python}, {where.torch}, {where.transformers}",
        "device": f"{record.parameters.device}: {where.device_name}", "platform": where.platform,
        "executor": record.executor or "not recorded",
        "node": where.node, "Slurm job": where.slurm_job or ""})


def parameters(record: Record) -> Html:
    """Every parameter that has a value and acts, in plain words (of an imported record: every stated one)."""
    unused = idle(record)
    stated = {name: value for name, value in record.stated().items() if name not in unused}
    unset = [name for name, value in stated.items() if value is None or value == "" or value == () or value == []]
    shown = {name: _written(value) for name, value in stated.items() if name not in unset}
    return _pairs("parameter", shown, f"At their defaults, or none: {', '.join(unset)}." if unset else "")


def idle(record: Record) -> set[str]:
    """The parameters that do nothing in this run: no reuse and drafts have no layers, few policies read `similarity`.
    """
    reuse, decoding = record.parameters.reuse, record.parameters.decoding
    return {*(() if reuse.active else ("layers", "policy", "full_forwards")), *(("layers",) if reuse.drafts else ()),
            *(() if reuse.active and asks_for_similarity(reuse) else ("similarity",)),
            *(() if decoding.temperature else ("top_p", "seed"))}


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _pairs(what: str, values: dict[str, Any], caption: str = "") -> Html:
    """A table of two columns; what has no value is left out."""
    rows = [(name, str(value)) for name, value in values.items() if str(value)]
    return Html(pd.DataFrame(rows, columns=[what, "value"]), caption)


@styled
def figure(record: Record, samples: pd.DataFrame) -> Figure:
    """Accuracy by the rules that apply, forwards by kind, length of right and wrong answers."""
    drawn, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3))
    rules = applying(record)
    for at, rule in enumerate(rules):
        a = record.accuracy[rule]
        interval(left, at, 100 * a.value, 100 * a.low, 100 * a.high, upright=True, marker="o",
                 color=BLUE if rule == record.metric else GREY)
    left.set(title=f"accuracy %, 95 % interval, n = {record.n}", xlim=(-0.5, len(rules) - 0.5))
    left.margins(y=0.25)        # not from 0: the interval is to be seen
    left.set_xticks(range(len(rules)), rules)
    kinds = {kind: count for kind, count in record.nfe.items() if count}
    middle.set_yticks(range(len(kinds)), kinds)
    bars(middle, list(kinds.values()), [str(count) for count in kinds.values()], [BLUE] * len(kinds))
    middle.invert_yaxis()
    middle.set(title="forwards by kind")
    correct = np.array([each[record.metric] for each in samples["correct"]], dtype=bool)
    right.hist([samples["tokens"][correct], samples["tokens"][~correct]], stacked=True, bins=20, color=[BLUE, RED],
               label=["right", "wrong"])
    right.set(title="answers by their tokens", xlabel="tokens", ylabel="answers")
    right.margins(y=0.3)
    right.legend(loc="upper right", ncols=2)
    return drawn


def figure_caption(record: Record, samples: pd.DataFrame) -> str:
    """Under `figure`: the score, the commonest forward, and how long answers are."""
    kind = max(record.nfe, key=lambda name: record.nfe[name])
    return (f"Left: {record.headline.value:.1%} under the headline rule *{record.metric}*. Middle: most forwards are "
            f"{kind} ones, {record.nfe[kind]} of {record.forwards}. Right: the median answer has "
            f"{samples['tokens'].median():.0f} tokens; long wrong ones ran away.")


def trace_caption(trace: pd.DataFrame, row: int = 0) -> str:
    """Under `trace_figure`."""
    one = trace[trace["row"] == row]["decision"]
    return (f"A column is a forward, a line a layer; {(one == 'reuse').mean():.0%} of the {len(one)} wrapped calls of "
            "this problem were reused, and a reused layer did not run.")


def trace_summary(trace: pd.DataFrame) -> Html:
    """Layer calls by forward kind and decision; for reused ones the median number of changed positions."""
    counts = trace.pivot_table(index="kind", columns="decision", values="layer", aggfunc="size", fill_value=0)
    counts = counts.rename(columns="layer calls: {}".format)
    reused = trace[trace["decision"] == "reuse"].groupby("kind")["changed"].median()
    if len(reused):
        counts["changed positions (median)"] = [f"{reused[kind]:g}" if kind in reused else "nothing reused"
                                                for kind in counts.index]
    return Html(counts.reset_index().rename(columns={"kind": "forward"}))


@styled
def trace_figure(run: Recording) -> Figure:
    """Decision map of one decoded problem, drawn as the player draws it: layer 0 on top, forwards to the right."""
    drawn, axes = plt.subplots(figsize=(11, 3.4))
    strip.draw_map(axes, run, 0, min(len(run.steps), strip.WINDOW))
    return drawn


def samples_html(record: Record, samples: pd.DataFrame, count: int = 3) -> str:
    """Some wrong and some right answers, as HTML: prompt, target, output, what each rule extracted."""
    problems, _ = CurrentFingerprints().problems(record.parameters)
    rows: list[dict[str, Any]] = samples.to_dict("records")      # pyright: ignore[reportAssignmentType]
    right = [row for row in rows if row["correct"][record.metric]]
    wrong = [row for row in rows if not row["correct"][record.metric]]
    parts = []
    for row in wrong[:count] + right[:count]:
        problem = problems[row["index"]]
        prompt = problem.prompt if isinstance(problem.prompt, str) else problem.prompt[-1]["content"]
        mark = "right" if row["correct"][record.metric] else "wrong"
        rules = ", ".join(f"{rule}: {value}" for rule, value in row["extracted"].items() if value is not None)
        parts.append(f"<details open><summary><b>{mark}</b> · {escape(row['id'])} · {row['tokens']} tokens · "
                     f"target {escape(visible(problem.target[:80]))} · "
                     f"extracted {escape(visible(rules or 'nothing'))}</summary>"
                     f"<pre style='white-space:pre-wrap;{WORDS}'>{escape(visible(prompt[-600:], lines=True))}</pre>"
                     f"<pre style='white-space:pre-wrap;{WORDS};border-left:3px solid #888;padding-left:8px'>"
                     f"{escape(visible(row['output'][:1200], lines=True))}</pre>"
                     f"<p>step by step: <code>{escape(explore(record, row['id']))}</code></p></details>")
    return "\n".join(parts)


@claim(holds="{share:.0%} of the {calls} wrapped layer calls were reused.",
       fails="**Reuse was asked for (k={k}) and nothing was reused**: this is plain decoding under another name.",
       unknown="Nothing was to be reused (k=1).")
def reuse_acted(record: Record) -> Decision:
    """Whether a configuration with k >= 2 reused anything."""
    calls, reused, k = sum(record.decisions.values()), record.decisions.get("reuse", 0), record.parameters.reuse.k
    if k == 1:
        return None, {}
    return reused + record.nfe.get("replay", 0) > 0, {"calls": calls, "share": reused / max(calls, 1), "k": k}


@claim(holds="Every answer ended by itself.",
       fails="{capped} of {n} answers ran into the length cap: they count as they stand.",
       unknown="How the answers ended is not recorded.")
def answers_ended(record: Record) -> Decision:
    """Whether an answer was cut at `max_new_tokens`."""
    capped = record.finish.get("length", 0)
    return (capped == 0 if record.finish else None), {"capped": capped, "n": record.n}


def verdict(record: Record) -> str:
    """The answer (Markdown): accuracy with its interval, cost, whether reuse acted, and what would change it."""
    row, a = records.row(record), record.headline
    score = (f"**{record.config}** on {record.task}: **{a.value:.1%}** of {stats.number_of(a.n, 'problem')} (95 % "
             f"Wilson interval {stats.span(a.low, a.high, '.1%')}) at {row['tokens_per_forward']:.2f} tokens a forward "
             f"and {record.tokens_per_second:.0f} tokens/s (batch {record.parameters.batch_size}, one run on "
             f"{record.environment.device_name}, without loading and warm-up).")
    return claims.verdict([score, reuse_acted(record), answers_ended(record)],
                          [f"Rule *{record.metric}*. More problems narrow the interval; a comparison with another "
                           "configuration needs the same problems (the report pairs them), and tokens/s compare on "
                           "one machine only."])
