"""One record as tables and figures: what the configuration's notebook shows."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from fastdllm.display import claim as claims
from fastdllm.display.claim import Decision, claim
from fastdllm.lab import records
from fastdllm.lab.records.identity import CurrentFingerprints
from fastdllm.lab.records.record import Record

DECISIONS = {"recompute": "#0072B2", "reuse": "#E69F00", "fallback": "#D55E00", "bypass": "#BBBBBB"}   # Okabe-Ito
RIGHT, WRONG = "#0072B2", "#D55E00"


def scores(record: Record) -> pd.DataFrame:
    """One row per extraction rule: correct of n, share, 95 % Wilson interval; the headline rule first."""
    rules = sorted(record.accuracy, key=lambda rule: rule != record.metric)
    rows = [{"rule": rule + (" (headline)" if rule == record.metric else ""), "correct": f"{a.correct} of {a.n}",
             "accuracy": f"{a.value:.1%}", "95 % interval": f"{a.low:.1%} to {a.high:.1%}"}
            for rule in rules for a in (record.accuracy[rule],)]
    return pd.DataFrame(rows).set_index("rule")


def costs(record: Record) -> pd.DataFrame:
    """Tokens, forwards by kind, layer decisions, seconds."""
    row = records.row(record)
    values: dict[str, Any] = {
        "tokens": row["tokens"], "forwards": row["nfe"], "tokens per forward": f"{row['tokens_per_forward']:.2f}",
        **{f"{kind} forwards": count for kind, count in record.nfe.items()},
        **_drafts(record),
        **{f"layer calls: {kind}": count for kind, count in record.decisions.items()},
        "seconds (no loading, no warm-up)": f"{record.seconds:.2f}", "tokens/s": f"{record.tokens_per_second:.0f}",
        "loading, warm-up": f"{record.load_seconds:.2f} s, {record.warmup_seconds:.2f} s",
        "answers that are empty": record.empty,
        "ended by": ", ".join(f"{how} {count}" for how, count in record.finish.items() if count),
        "sessions": record.sessions}
    return _column(values)


def _drafts(record: Record) -> dict[str, Any]:
    """Policy verify: forwards that ran, and drafts by depth and kind."""
    if record.forwards_run is None:
        return {}
    return {"forwards run (k=1 needs those above)": record.forwards_run,
            **{f"drafts at depth {draft.depth}, {draft.kind}: accepted": f"{draft.accepted} of {draft.offered}"
               for draft in record.drafts}}


def identity(record: Record) -> pd.DataFrame:
    """What makes this run this run, and where it ran."""
    code, where = record.code, record.environment
    return _column({
        "identity": record.identity, "checkpoint": f"{record.checkpoint.name} {record.checkpoint.fingerprint[:16]}",
        "data": f"{Path(record.dataset.name).name} {record.dataset.fingerprint[:16]}, {record.dataset.n} problems",
        "code": f"{code.version} {code.hash[:16]}, commit {(code.commit or 'none')[:12]}"
                + (" with changes" if code.dirty else ""),
        "policy file": (code.policy or "none")[:16], "date": record.date, "author": record.author,
        "python, torch, transformers": f"{where.python}, {where.torch}, {where.transformers}",
        "device": f"{record.parameters.device}: {where.device_name}", "platform": where.platform,
        "executor": record.executor or "not recorded", "node": where.node, "Slurm job": where.slurm_job or "none"})


def parameters(record: Record) -> pd.DataFrame:
    """Every resolved parameter (of an imported record: every stated one)."""
    return _column({name: repr(value) for name, value in record.stated().items()})


def _column(values: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame({"": [str(value) for value in values.values()]}, index=list(values))


def figure(record: Record, samples: pd.DataFrame) -> Figure:
    """Accuracy by rule, forwards by kind, length of right and wrong answers."""
    drawn, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 2.8), layout="constrained")
    for at, (rule, a) in enumerate(sorted(record.accuracy.items(), key=lambda item: item[0] != record.metric)):
        left.errorbar(at, 100 * a.value, yerr=[[100 * (a.value - a.low)], [100 * (a.high - a.value)]], fmt="o",
                      color=RIGHT if rule == record.metric else "#888888", capsize=4)
    left.set(title="accuracy, 95 % interval", ylabel="%", ylim=(0, 103), xlim=(-0.5, len(record.accuracy) - 0.5))
    left.set_xticks(range(len(record.accuracy)), sorted(record.accuracy, key=lambda rule: rule != record.metric))
    kinds = {kind: count for kind, count in record.nfe.items() if count}
    bars = middle.barh(list(kinds), list(kinds.values()), color=RIGHT)
    middle.bar_label(bars, padding=3)
    middle.margins(x=0.2)
    middle.invert_yaxis()
    middle.set(title="forwards by kind")
    correct = np.array([each[record.metric] for each in samples["correct"]], dtype=bool)
    right.hist([samples["tokens"][correct], samples["tokens"][~correct]], stacked=True, bins=20, color=[RIGHT, WRONG],
               label=["right", "wrong"])
    right.set(title="tokens per answer")
    right.legend(frameon=False)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    plt.close(drawn)      # a notebook shows what is returned; it would show an open figure again
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


def trace_summary(trace: pd.DataFrame) -> pd.DataFrame:
    """Layer calls by forward kind and decision; for reused ones the median number of changed positions."""
    counts = trace.pivot_table(index="kind", columns="decision", values="layer", aggfunc="size", fill_value=0)
    reused = trace[trace["decision"] == "reuse"]
    if len(reused):
        counts["changed positions (median)"] = reused.groupby("kind")["changed"].median()
    return counts


def trace_figure(trace: pd.DataFrame, row: int = 0) -> Figure:
    """Decision map of one problem: layers upwards, forwards to the right."""
    one = trace[trace["row"] == row]
    codes = {decision: number for number, decision in enumerate(DECISIONS)}
    coded = one.assign(code=[codes[decision] for decision in one["decision"]])
    table = coded.pivot_table(index="layer", columns="forward", values="code")
    drawn, axes = plt.subplots(figsize=(11, 2.8), layout="constrained")
    _map(axes, table)
    axes.legend(handles=[Patch(color=color, label=name) for name, color in DECISIONS.items()], ncols=4, frameon=False,
                loc="lower left", bbox_to_anchor=(0, 1))
    axes.set_xlabel(f"forward of problem {row}")
    axes.set_ylabel("layer")
    plt.close(drawn)
    return drawn


def _map(axes: Axes, table: pd.DataFrame) -> None:
    axes.pcolormesh(table.columns.to_numpy(), table.index.to_numpy(), table.to_numpy(),
                    cmap=ListedColormap(list(DECISIONS.values())), vmin=-0.5, vmax=len(DECISIONS) - 0.5)


def explore(record: Record, problem: str) -> str:
    """The command that shows how a problem of this record was decoded."""
    folder = record.task + (f"_limit_{record.limit}" if record.limit else "")
    return f"fastdllm explore {record.experiment}/{folder}/{record.config} --problem {problem}"


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
        rules = ", ".join(f"{rule}: {value}" for rule, value in row["extracted"].items())
        parts.append(f"<details open><summary><b>{mark}</b> · {escape(row['id'])} · {row['tokens']} tokens · "
                     f"target {escape(problem.target[:80])} · extracted {escape(rules)}</summary>"
                     f"<pre style='white-space:pre-wrap'>{escape(prompt[-600:])}</pre>"
                     f"<pre style='white-space:pre-wrap;border-left:3px solid #888;padding-left:8px'>"
                     f"{escape(row['output'][:1200])}</pre><p>step by step: <code>{escape(explore(record, row['id']))}"
                     "</code></p></details>")
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
    score = (f"**{record.config}** on {record.task}: **{a.value:.1%}** of {a.n} problems (95 % Wilson interval "
             f"{a.low:.1%} to {a.high:.1%}) at {row['tokens_per_forward']:.2f} tokens a forward and "
             f"{record.tokens_per_second:.0f} tokens/s without loading and warm-up.")
    return claims.verdict([score, reuse_acted(record), answers_ended(record)],
                          [f"Rule *{record.metric}*. More problems narrow the interval; a comparison with another "
                           "configuration needs the same problems (the report pairs them), and tokens/s compare on "
                           "one machine only."])
