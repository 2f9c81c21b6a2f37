"""The open points of the log: what the published figures say about each, and what the embedded checkpoint can add."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false, reportOptionalMemberAccess=false
# (pandas' own annotations make every df[...] a union)

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import pandas as pd
from scipy.stats import binomtest

from fastdllm import prior_results, stats
from fastdllm.decode.generate import finish, generate
from fastdllm.decode.loop import Engine
from fastdllm.decode.rules import positions_needed, resolve
from fastdllm.display.progress import progress
from fastdllm.display.tables import interval_text, whole
from fastdllm.model.lm import LM
from fastdllm.report.audit.evidence import STAMP
from fastdllm.settings import SUBSETS, Decoding, Reuse
from fastdllm.tasks import Problem, Task

BLOCK = 32
WHERE = ["gpu", "torch", "date", "checkpoint"]      # of measured rows; one value for all, so the caption's
REVISIONS, KS = ("8e18baac", "26d6179"), (2, 3)      # of the totals over the subsets that the benchmarks measure
MODULE_CASES = (("float32", False), ("float16", False), ("float16", True), ("bfloat16", False), ("bfloat16", True))


def published_gap(batch: str = "jan_full", task: str = "gsm8k") -> dict[str, float]:
    """The published score against the measured k=1: both, the interval, and how likely the measured count would be."""
    row = prior_results.results().query("batch == @batch and task == @task and k == 1").iloc[0]
    low, high = stats.wilson(int(row["correct"]), int(row["n"]))
    score = prior_results.scores()[task]
    return {"published": score, "measured": row["accuracy"], "n": int(row["n"]), "low": low, "high": high,
            "p": float(binomtest(int(row["correct"]), int(row["n"]), score).pvalue)}


def baseline_variants(lm: LM, task: Task, problems: Sequence[Problem], thresholds: Iterable[float], *,
                      batch_size: int = 32) -> pd.DataFrame:
    """k=1 under each threshold, and with the published stop rule, scored by every extraction rule.

    The last three columns compare with the first variant on the same problems under the headline rule.
    """
    cases = [(f"threshold {value}", value, "fixed") for value in thresholds]
    cases.append((f"published stop rule, threshold {cases[0][1]}", cases[0][1], "upstream"))
    rows, reference = [], None
    for name, threshold, revision in progress(cases, "variants of k=1 decoded"):
        settings = Decoding(threshold=threshold, max_new_tokens=task.max_new_tokens, stop_strings=task.stop_strings)
        output = generate(lm, [problem.prompt for problem in problems], decoding=settings, revision=revision,
                          batch_size=batch_size)
        scores = [task.score(problem, text) for problem, text in zip(problems, output.texts, strict=True)]
        right = [float(score[task.metric].correct) for score in scores]
        reference = right if reference is None else reference
        pair = stats.compare_paired(reference, right)
        row: dict = {"variant": name, "n": len(problems)}
        for rule in scores[0]:
            count = sum(score[rule].correct for score in scores)
            row[f"{rule} %"] = interval_text(count / len(problems), *stats.wilson(count, len(problems)), scale=100)
        difference = interval_text(pair.difference, pair.low, pair.high, scale=100)
        rows.append(row | {"points against the first": difference, "McNemar p": f"{pair.p:.2g}",
                           "tokens": sum(len(tokens) for tokens in output.tokens)})
    return pd.DataFrame(rows)


def totals_by_subset(lm: LM, prompts: Sequence[list[int]], ks: Iterable[int], decoding: Decoding, *,
                     revisions: Iterable[str] = REVISIONS, batch_size: int = 32) -> pd.DataFrame:
    """Token totals over the subsets, one row per revision and k, and how many outputs differ from `first`'s.

    Runs on the eager executor, layer by layer as the published code does.
    """
    rows = []
    cases = list(itertools.product(revisions, ks))
    for revision, k in progress(cases, "revisions and k decoded"):
        outputs = [_eager(lm, prompts, decoding, Reuse(k=k, layers=layers), revision, batch_size) for layers in SUBSETS]
        rows.append({"dtype": str(lm.dtype).removeprefix("torch."), "device": lm.device.type, "revision": revision,
                     "k": k, "n": len(prompts), "threshold": decoding.threshold,
                     **{f"tokens {name}": sum(len(row) for row in output)
                        for name, output in zip(SUBSETS, outputs, strict=True)},
                     "outputs differing, middle": sum(a != b for a, b in zip(outputs[0], outputs[1], strict=True)),
                     "outputs differing, last": sum(a != b for a, b in zip(outputs[0], outputs[2], strict=True))})
    return pd.DataFrame(rows)


def totals_as_text(table: pd.DataFrame) -> pd.DataFrame:
    """Such totals for people: those of the three subsets in one column, said once where they are equal; runs that
    differ in autocast alone share a row. What is the caption's (WHERE) is left out.
    """
    if table.empty:
        return table
    shown = table.drop(columns=WHERE, errors="ignore").copy()
    tokens, differ = [f"tokens {name}" for name in SUBSETS], [f"outputs differing, {name}" for name in SUBSETS[1:]]
    shown["tokens (first, middle, last)"] = [", ".join(map(str, dict.fromkeys(row) if len(set(row)) == 1 else row))
                                             for row in shown[tokens].to_numpy()]
    shown["differ from first's: middle, last"] = [f"{a}, {b}" for a, b in shown[differ].to_numpy()]
    shown = shown.drop(columns=[*tokens, *differ])
    if "autocast" not in shown:
        return shown
    rest = [name for name in shown if name != "autocast"]
    said = shown.assign(autocast=shown["autocast"].map({True: "yes", False: "no"}))
    return said.groupby(rest, sort=False, dropna=False)["autocast"].agg(", ".join).reset_index()[list(shown)]


def _eager(lm: LM, prompts: Sequence[list[int]], decoding: Decoding, reuse: Reuse, revision: str,
           batch_size: int) -> list[list[int]]:
    """Generated tokens by prompt."""
    rules = resolve(lm, decoding, reuse, revision)
    positions = max(positions_needed(len(prompt), rules) for prompt in prompts)
    engine = Engine(lm, rules, decoding, reuse, min(batch_size, len(prompts)), positions, executor="eager")
    for _ in engine.steps(iter(enumerate(prompts))):
        pass
    done = sorted((finish(engine, row) for row in engine.finished), key=lambda result: result.row)
    return [result.tokens for result in done]


def where(table: pd.DataFrame) -> str:
    """On which card, torch, day and checkpoint the measured rows are, for a caption; "" where none was measured."""
    named = [", ".join(map(str, dict.fromkeys(table[name].dropna()))) for name in WHERE if name in table]
    return f" ({'; '.join(filter(None, named))})" if any(named) else ""


def not_measured(modules: pd.DataFrame) -> str:
    """What of `benchmarks.half_precision_modules` did not run, as the end of a caption; "" where all did.

    modules: `prior_results.half_precision_modules`.
    """
    measured = set(modules[["dtype", "autocast", "revision", "k"]].itertuples(index=False, name=None))
    missing = []
    for dtype, autocast in MODULE_CASES:
        case = f"{dtype} under autocast" if autocast else dtype
        left = [f"{case} at {revision}, k={k}" for revision in REVISIONS for k in KS
                if (dtype, autocast, revision, k) not in measured]
        missing += [case] if len(left) == len(REVISIONS) * len(KS) else left
    return f"; not measured: {'; '.join(missing)}" if missing else ""


def january_totals() -> pd.DataFrame:
    """January's token totals by subset, read in blocks: a difference of 32 m + e is e more samples at the length cap.

    Under the published stop rule a finished sample has a whole number of blocks less its prompt's share, a capped one
    has one token more. e is known modulo 32 and written as the nearest to 0.
    """
    rows = prior_results.results().query("batch == 'jan_full' and task == 'gsm8k' and k > 1")
    table = []
    for _, part in rows.groupby("k"):
        first = part[part["layers"] == "first"].iloc[0]
        for row in part.itertuples():
            apart = int(row.tokens - first["tokens"])
            extra = (apart + BLOCK // 2) % BLOCK - BLOCK // 2
            table.append({"config": row.config, "tokens": whole(row.tokens), "right answers": row.correct,
                          "tokens more than first": whole(apart), "blocks": (apart - extra) // BLOCK,
                          "more samples at the cap": extra})
    return pd.DataFrame(table)


def loading_gaps(batch: str = "feb16_run2") -> pd.DataFrame:
    """A sequential run's time stamps against its seconds: what passes between two runs and is in no throughput."""
    rows = prior_results.results().query("batch == @batch").copy()
    rows["at"] = pd.to_datetime(rows["finished"], format=STAMP)
    rows = rows.sort_values("at")
    rows["seconds since the one before"] = rows["at"].diff().dt.total_seconds()
    rows["of these in no throughput"] = rows["seconds since the one before"] - rows["seconds"]
    rows["finished"] = rows["at"].dt.strftime("%Y-%m-%d %H:%M:%S")
    return rows[["config", "finished", "seconds", "seconds since the one before",
                 "of these in no throughput"]].dropna().round(1)


def subsets_published() -> pd.DataFrame:
    """Every published table: the best and the worst subset at each k, and whether the difference is visible."""
    table = []
    rows = prior_results.results().query("k > 1 and task != 'mmlu'")
    for (batch, task, limit, k), part in rows.groupby(["batch", "task", "limit", "k"], sort=False):
        best, worst = part.loc[part["accuracy"].idxmax()], part.loc[part["accuracy"].idxmin()]
        low, high = stats.difference_unpaired(worst["correct"], worst["n"], best["correct"], best["n"])
        middle = part[part["layers"] == "middle"].iloc[0]
        table.append({"table": f"{batch} {task}" + (f" limit {limit}" if limit else ""), "k": k, "n": best["n"],
                      "best": best["layers"], "worst": worst["layers"],
                      "middle is best": "yes" if middle["accuracy"] == best["accuracy"] else "no",
                      "best - worst, points": interval_text(best["accuracy"] - worst["accuracy"], low, high, scale=100),
                      "interval low": 100 * low, "fastest": part.loc[part["tokens_per_s"].idxmax(), "layers"]})
    return pd.DataFrame(table)


def untestable() -> pd.DataFrame:
    """Published claims and scores that nothing on the embedded checkpoint can test, with what is missing."""
    rows = prior_results.claims()
    rows = rows[rows["testable"].str.startswith(("no", "on ")) & rows["kind"].isin(["claim", "score", "score_1.5b"])]
    statements = [f"{r.subject}: {r.value} {r.unit}" if r.kind != "claim" else r.parameter for r in rows.itertuples()]
    missing = ["another model and its training" if value == "no" else f"a run {value}" for value in rows["testable"]]
    return pd.DataFrame({"claim": statements, "source": rows["source"], "what is missing": missing,
                         "note": rows["note"]})
