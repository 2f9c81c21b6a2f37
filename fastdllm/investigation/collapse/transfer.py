"""What of all this holds for the 7B, which was not run here: three lists, and the predictions that anyone with its
weights can check (report/predictions.py), beside what the real model says of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from fastdllm.display.claim import Judged
from fastdllm.report.predictions import PREDICTIONS

BY_ARGUMENT = (
    ("Under refresh (`26d6179`, `fixed`) output reuse of contiguous layers gives the same tokens whichever they are, "
     "in exact arithmetic", "a proof (notebook 06); it asks for no weights"),
    ("`replay`, which skips the whole forward, gives the tokens of `output` reuse", "the same proof"),
    ("Under `26d6179` no small block is served another one's outputs", "every small block begins with a full forward, "
     "which refreshes what is stored"),
    ("Under `6c8822f` stored outputs come from small forwards alone, so that another small block's are served",
     "full forwards bypass the wrappers, which is the code's doing and not the model's"),
    ("At batch 1 skipping 12 of 28 layers gains at most 1.25x at k=2", "they are 39.6 % of the bytes that a forward of "
     "the 7B reads (notebook 13)"),
)
WITHOUT_A_MODEL = (
    ("Run 2's nine accuracies are Run 1's to the digit, while tokens and times changed", "published table; audit rule "
     "`copied_accuracy`"),
    ("Run 2's subsets have 3572 tokens three times and 70, 10 and 10 %: one computation has one score", "published "
     "table; audit rule `equal_tokens`"),
    ("Run 1's table mixes three commits; `first` never ran on the one that collapsed", "published table; audit rule "
     "`mixed_code`"),
    ("Run 1's collapsed cells are 9 and 10 tokens more than whole blocks: 9 and 10 of 10 answers ran into the cap",
     "token totals modulo 32 (notebook 07)"),
    ("Ten problems leave 70 % anywhere from 40 to 89 %, and see a fall from 70 to 10 % in two of three draws",
     "Wilson's interval and Fisher's exact test (notebook 05)"),
)
NOT = (
    ("How much accuracy reuse costs, in points or in shares of the right answers", "January's 7B lost 7 points of 80 "
     "at k=2; smaller models lose other shares"),
    ("Which threshold is safe", "it is the confidence of one network on one task"),
    ("The mix of full, small and commit forwards, and with it the speed-up below the ceiling", "it follows from how "
     "many tokens a step unmasks"),
    ("How many answers run into the length cap when reuse breaks them", "it depends on whether a broken answer ends"),
    ("How often half precision tips an answer over", "margins between tokens, and the card's kernels"),
)


def lists() -> dict[str, pd.DataFrame]:
    """Title -> what holds, and why, one row a statement."""
    titles = {"Carries over to the 7B by argument": BY_ARGUMENT, "Needs no model at all": WITHOUT_A_MODEL,
              "Does not carry over": NOT}
    return {title: pd.DataFrame(rows, columns=["statement", "why"]) for title, rows in titles.items()}


def predictions(judged: Mapping[str, Judged]) -> pd.DataFrame:
    """The predictions, what would contradict each, the command that checks it on the 7B, and how it stands on the real
    model. judged: claims by name, held against the shipped records.
    """
    words = {True: "holds", False: "does not hold", None: "not known yet"}
    return pd.DataFrame([{
        "statement": prediction.statement, "contradicted by": prediction.contradicted_by,
        "on the real model": words[judged[prediction.on_smol].state] if prediction.on_smol in judged else "not tested",
        "check on the 7B": prediction.experiment.command} for prediction in PREDICTIONS])
