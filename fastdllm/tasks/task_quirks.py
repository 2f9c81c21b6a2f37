"""What single benchmarks need: GPQA's order of choices, MATH's boxed answers, IFEval's sentences."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import datasets

from fastdllm.tasks import answers
from fastdllm.tasks.base import Score


def shuffled_choices(rows: datasets.Dataset) -> datasets.Dataset:
    """GPQA's four answers in an order that depends on the row's position and nothing else."""
    rng = random.Random(42)
    shuffled = []
    for row in rows.to_list():
        texts = [clean(row[key]) for key in ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3",
                                             "Correct Answer")]
        right = texts[-1]
        rng.shuffle(texts)
        shuffled.append({**row, **{f"choice{i}": text for i, text in enumerate(texts, start=1)},
                         "answer": f"({'ABCD'[texts.index(right)]})"})
    return datasets.Dataset.from_list(shuffled)


def clean(text: str | None) -> str:
    """An answer's text without the source's markup, as the harness has it."""
    return " " if text is None else text.strip().replace(" [title]", ". ").replace("  ", " ")


def math_score(output: str, target: str) -> Score:
    r"""What the last \boxed{} holds, equal to the target as the harness compares expressions."""
    from lm_eval.tasks.minerva_math.utils import is_equiv, normalize_final_answer
    content = answers.boxed(output)
    return Score(content, content is not None and is_equiv(normalize_final_answer(content), target))


NEED_SENTENCES = ("length_constraints:number_sentences", "change_case:capital_word_frequency")


def check_sentences(docs: Iterable[dict[str, Any]]) -> None:
    """Raise ValueError if a row needs nltk's punkt_tab and it isn't there: scoring would fail after the run."""
    import nltk
    needy = [doc["key"] for doc in docs if set(doc["instruction_id_list"]) & set(NEED_SENTENCES)]
    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError as error:
        if needy:
            raise ValueError(f"task=ifeval: {len(needy)} problems (the first: key {needy[0]}) need nltk's punkt_tab to "
                             "count sentences; allowed: python -m nltk.downloader punkt_tab on a machine with network "
                             "and NLTK_DATA pointing there, or data without them") from error
