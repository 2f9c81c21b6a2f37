"""From a wrong answer in a report to its player: the first ones of each configuration, and the command that plays one.
"""

from __future__ import annotations

import pandas as pd

from fastdllm.display.tables import Html
from fastdllm.lab.records.record import Record
from fastdllm.report.results import Results
from fastdllm.stats import number_of

SHOWN = 3       # problems of each configuration
CAPTION = ("the first wrong answers of each configuration whose single answers are kept; the command plays the first "
           "of them step by step, and `--problem` takes another one's name")


def explore(record: Record, problem: str) -> str:
    """The command that shows how a problem of this record was decoded."""
    folder = record.task + (f"_limit_{record.limit}" if record.limit else "")
    return f"fastdllm explore {record.experiment}/{folder}/{record.config} --problem {problem}"


def table(results: Results) -> pd.DataFrame:
    """One row for each configuration that is known to have answered wrong: task, config, how many of n, the first
    SHOWN problems by id, and the command for the first.
    """
    rows = []
    for state, record in results.recorded:
        answers = results.outcomes[str(state.configuration.directory)]
        if answers is None or not (wrong := [name for name, right in zip(answers.ids, answers.correct, strict=True)
                                             if not right]):
            continue
        more = ", ..." if len(wrong) > SHOWN else ""
        rows.append({"task": record.task, "config": record.config, "wrong": f"{len(wrong)} of {len(answers.ids)}",
                     "problems": ", ".join(wrong[:SHOWN]) + more, "step by step": f"`{explore(record, wrong[0])}`"})
    return pd.DataFrame(rows)


def shown(results: Results) -> Html | None:
    """The table behind a fold; None where no wrong answer is known."""
    rows = table(results)
    return None if rows.empty else Html(
        rows, CAPTION, f"Wrong answers of {number_of(len(rows), 'configuration')}, and the command that plays one")
