"""A to D of the log's checklist: the suspects, each heard on what its notebook measured."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from fastdllm import stats
from fastdllm.display.claim import Decision, Judged, RunLabel, claim, verdict
from fastdllm.investigation.collapse.phase6 import Phase6Results, foreign_by_prompt, losses

COLLAPSE = 20.0      # points: what the success criterion calls catastrophic
MORE = "More problems, or another checkpoint, may say otherwise."


def list_differences(table: pd.DataFrame) -> str:
    """One line per comparison of `phase6.compare`: points, relative to the baseline, corrected p."""
    return "\n".join(
        f"- k{row.k} {row.layers}: {stats.say_difference(row.points, row.low, row.high, int(row.n))}; "
        f"{row.relative:+.0%} of the baseline's right answers; p = {row.p_holm:.2g} after Holm over {len(table)}"
        for row in table.itertuples()) or "- nothing to compare"


# -- A: does replace_position reach the layers?

@claim(holds="**Yes: in all {n} reused layer calls of small forwards the served values are the ones that the layer had "
             "computed for these very positions** ({sliced} sliced out of a whole block).",
       fails="**No: in {wrong} of {n} reused layer calls of small forwards the served values belong to other "
             "positions.**",
       unknown="**Can't be told: no small forward reused anything on these prompts.**")
def slices_are_right(slices: pd.DataFrame) -> Decision:
    """slices: `inspection.slices`."""
    if slices.empty:
        return None, {}
    return slices.right.all(), {"n": len(slices), "wrong": int((~slices.right.astype(bool)).sum()),
                                "sliced": int((slices["stored by"] == "full").sum())}


@claim(holds="The published code slices the same way: {right} of {n} cases recorded from it are reproduced to the "
             "token, {frozen} with a slice frozen at 0.",
       fails="The published code may slice otherwise: {right} of {n} cases recorded from it are reproduced to the "
             "token, {frozen} with a slice frozen at 0.",
       unknown="The published code's slices are not tested here: no recorded case was replayed.")
def published_code_slices_alike(golden: pd.DataFrame, frozen: pd.DataFrame) -> Decision:
    """golden, frozen: `inspection.golden_cases` with the right slice and with the frozen one."""
    if golden.empty or frozen.empty:
        return None, {}
    right, wrong = int(golden.reproduced.sum()), int(frozen.reproduced.sum())
    return right == len(golden) and wrong < len(frozen), {"right": right, "n": len(golden), "frozen": wrong}


@claim(holds="A frozen slice hurts the subsets alike (by {least:.1f} to {most:.1f} points at the same k), so it can't "
             "explain a collapse of middle and last alone.",
       fails="A frozen slice hurts `{worst}` more than `{best}` (k={k}: {low:+.1f} against {high:+.1f} points), so it "
             "could explain a collapse of some subsets alone.",
       unknown="Whether a frozen slice hurts all subsets alike can't be told: only one subset was compared.")
def frozen_slice_hurts_alike(table: pd.DataFrame) -> Decision:
    """table: `phase6.against`, frozen against right; unlike are two subsets whose intervals leave each other out."""
    if not any(rows.layers.str.split(" = ").str.len().sum() > 1 for _, rows in table.groupby("k")):
        return None, {}
    for k, rows in table.groupby("k"):
        low, high = rows.loc[rows.points.idxmin()], rows.loc[rows.points.idxmax()]
        if low.high < high.low:
            return False, {"k": k, "worst": low.layers, "best": high.layers, "low": low.points, "high": high.points}
    return True, {"least": float((-table.points).min()), "most": float((-table.points).max())}


def replace_position(slices: pd.DataFrame, golden: pd.DataFrame, frozen: pd.DataFrame, table: pd.DataFrame,
                     label: RunLabel) -> str:
    """What reached the layers, here and in the published code; what a frozen slice would do."""
    return verdict([slices_are_right(slices), published_code_slices_alike(golden, frozen),
                    frozen_slice_hurts_alike(table)],
                   [f"Slice frozen at 0 against the right one ({label}):", list_differences(table)])


# -- B: do periodic full-block forwards rescue middle and last?

@claim(holds="**Periodic full-block forwards change the accuracy in {hit} of {m} comparisons** (most: k{k} {layers}, "
             "{points:+.1f} points).",
       fails="**No difference found (0 of {m} comparisons)**; gains up to {most:.1f} points are not excluded.",
       unknown="**Nothing to compare: no configuration ran with and without them.**")
def full_blocks_change_accuracy(table: pd.DataFrame) -> Decision:
    """table: `phase6.against`, with them against without."""
    if table.empty:
        return None, {}
    hit, extreme = table[table.p_holm < 0.05], table.loc[table.points.abs().idxmax()]
    return len(hit) > 0, {"hit": len(hit), "m": len(table), "k": extreme.k, "layers": extreme.layers,
                          "points": extreme.points, "most": max(0.0, float(table.high.max()))}


@claim(holds="Without them `26d6179` does collapse: {hit} of {m} comparisons with k=1 surely lose more than 20 points "
             "(most: k{k} {layers}, {lost:.1f} points, {relative:.0%} of the right answers).",
       fails="There is no collapse to rescue: without them no configuration loses 20 points against k=1 (most: k{k} "
             "{layers}, {lost:.1f} points, {relative:.0%} of the right answers).",
       unknown="Whether there is a collapse to rescue can't be told from these problems (or k=1 did not run).")
def there_is_a_collapse(table: pd.DataFrame) -> Decision:
    """table: `phase6.losses` of a revision."""
    if table.empty:
        return None, {}
    hit, worst = table[table.high < -COLLAPSE], table.loc[table.points.idxmin()]
    state = True if len(hit) else False if (table.low > -COLLAPSE).all() else None
    return state, {"hit": len(hit), "m": len(table), "k": worst.k, "layers": worst.layers, "lost": -worst.points,
                   "relative": -worst.relative}


def full_blocks(results: Phase6Results, table: pd.DataFrame, stale: pd.DataFrame) -> str:
    """Table: with periodic full forwards against without; stale: `stale_summary`, without and with."""
    without, with_ = (results.reusing(r) for r in ("26d6179", "26d6179+full_block_every_k=true"))
    cost = (f"Periodic full forwards cost {with_.nfe_full.sum() / without.nfe_full.sum():.2f} times the full forwards "
            f"and {with_.nfe.sum() / without.nfe.sum():.2f} times all forwards. ") if len(without) else ""
    age = "; ".join(f"`{row['revision']}`: {row['age in forwards']:.2f} forwards old, "
                    f"{row['from another small block']:.0%} from another small block"
                    for row in stale.to_dict("records") if row["reusing"])
    return verdict([full_blocks_change_accuracy(table), there_is_a_collapse(losses(results, "26d6179"))],
                   [f"{RunLabel.of(results.frame)}. {cost}What was reused: {age or 'nothing on these prompts'}.",
                    list_differences(table), "Without them, against k=1:",
                    list_differences(losses(results, "26d6179")), MORE])


# -- C: was running the skipped layers load-bearing?

@claim(holds="**Running the skipped layers was load-bearing: {decodes} of {n} decodes and {answers} of {asked} answers "
             "change with it.**",
       fails="**Running the skipped layers changes nothing that is read: {n} of {n} decodes have the same tokens, and "
             "none of {asked} answers over the grid differs.**",
       unknown="**Can't be told: nothing was reused on these prompts.**")
def skipped_layers_matter(same: Sequence[bool], differences: pd.DataFrame, table: pd.DataFrame) -> Decision:
    """same: whether the tokens agree, per decode; table: `phase6.against`, with skipped layers run against without."""
    if not differences.reused.any():
        return None, {}
    decodes, answers = len(same) - sum(same), int(table.lost.sum() + table.gained.sum())
    return decodes + answers > 0, {"decodes": decodes, "n": len(same), "answers": answers, "asked": int(table.n.sum())}


@claim(holds="Block-cache entries differ in layer {hit} alone, the first reused one: only it sees new input, the "
             "others would compute what they have stored already.",
       fails="Block-cache entries differ in layers {hit}, not in the first reused one ({first}) alone.",
       unknown="Which block-cache entries it changes can't be told: none differs on these prompts.")
def only_the_first_reused_layer_differs(differences: pd.DataFrame) -> Decision:
    """differences: `inspection.cache_differences` of the two runs."""
    touched, reused = differences[differences.positions > 0], differences[differences.reused]
    if touched.empty or reused.empty:
        return None, {}
    first = int(reused.layer.min())
    return set(touched.layer) == {first}, {"hit": ", ".join(map(str, sorted(set(touched.layer)))), "first": first}


def skipped_layers(differences: pd.DataFrame, same: Sequence[bool], results: Phase6Results,
                   table: pd.DataFrame) -> str:
    """Differences: of one subset; same: per prompt and subset, whether the tokens agree."""
    touched = differences[differences.positions > 0].groupby(["prompt", "forward"]).ngroups
    return verdict([skipped_layers_matter(same, differences, table), only_the_first_reused_layer_differs(differences)],
                   [f"Entries differ after {touched} of {differences.groupby(['prompt', 'forward']).ngroups} forwards. "
                    "An entry can only matter if it is read before it is overwritten: in this loop a small forward "
                    "writes all of its own positions first, and the next small block begins with a full forward.",
                    f"Skipped layers run against not run ({RunLabel.of(results.frame)}):", list_differences(table),
                    "A decode whose tokens differ would overturn this."])


# -- D: what was served where?

@claim(holds="**`{name}`: {strange} of {n} reusing forwards ({low:.0%} to {high:.0%}, drawn by prompt) served what had "
             "been computed for another small block or block.**",
       fails="**`{name}`: none of {n} reusing forwards of {prompts} prompts served what had been computed for another "
             "small block** (95 % sure: fewer than {high:.0%}, counting prompts).",
       unknown="**`{name}`: nothing was reused on these prompts.**")
def serves_elsewhere(name: str, served: pd.DataFrame) -> Decision:
    """served: `phase6.staleness` of a trace. Forwards of a prompt are alike: the interval draws whole prompts."""
    if served.empty:
        return None, {"name": name}
    by_prompt = foreign_by_prompt(served)
    share, low, high = stats.share_by_cluster(by_prompt["sum"], by_prompt["size"])
    return share > 0, {"name": name, "strange": int(by_prompt["sum"].sum()), "n": len(served), "low": low,
                       "high": high, "prompts": len(by_prompt)}


def served_numbers(trace: pd.DataFrame, served: pd.DataFrame, name: str) -> str:
    """Calls by decision, age, changed positions and distance to a fresh output, as one line."""
    counts = trace.decision.value_counts()
    calls = ", ".join(f"{counts.get(d, 0)} {d}" for d in ("recompute", "reuse", "fallback", "bypass"))
    if served.empty:
        return f"- `{name}`: layer calls {calls}"
    distance = trace[trace.decision == "reuse"].groupby("layer").distance.median()
    later = f", at most {distance.iloc[1:].max():.3f} in the later ones" if len(distance) > 1 else ""
    return (f"- `{name}`: layer calls {calls}; what was served was {served.age.mean():.2f} forwards old (at most "
            f"{int(served.age.max())}), {served.changed.mean():.2f} of "
            f"{int((served.slice_stop - served.slice_start).iloc[0])} positions had changed since; median distance to "
            f"a fresh output {distance.iloc[0]:.3f} in the first reused layer{later}")


def instrumentation(traces: dict[str, pd.DataFrame], served: dict[str, pd.DataFrame]) -> str:
    """Traces and `phase6.staleness` of them, by revision."""
    heads: list[Judged] = [serves_elsewhere(name, served[name]) for name in traces]
    return verdict(heads, ["\n".join(served_numbers(traces[name], served[name], name) for name in traces),
                           "Later layers see only what the first reused one serves, so theirs is no distance of "
                           "their own."])
