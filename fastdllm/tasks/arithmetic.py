"""Generated arithmetic word problems: the task of the embedded checkpoint.

Five families (chain, compare, shop, rate, box), two to five steps, every number and result in 1..999, a worked
answer that ends in `#### N`. Three splits:

- `train` and `test` share their wordings and are apart by a hash of the question: one in eight is held out.
- `wordings` is written in sentences that neither of the other two ever uses (`fastdllm.tasks.templates`).

A problem depends on (split, seed, index) only: the generator draws nothing but `random.Random.random()`, the one
method that Python promises to keep, and no built-in hash is used.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from fastdllm.tasks.families import FAMILIES, MIXTURE
from fastdllm.tasks.problem_writer import ProblemDraft, Unfit

SPLITS = ("train", "test", "wordings")
HELD_OUT_IN = 8  # one question in so many belongs to the test split
SHORTEST_QUESTION = 85  # characters: with the chat template a prompt fills one block of 32 tokens, and
LONGEST_PROBLEM = 318   # characters of the question and 1.5 times those of the answer: all fits in five blocks


@dataclass(frozen=True)
class WordProblem:
    """One word problem. `answer` is the worked text, whose last line is `#### target`."""

    id: str
    question: str
    answer: str
    target: str


def held_out(question: str) -> bool:
    """Whether a question written in the trained wordings belongs to the test split."""
    return zlib.crc32(question.encode()) % HELD_OUT_IN == 0


def stream(split: str, seed: int, families: Sequence[str] = MIXTURE) -> Iterator[WordProblem]:
    """Endlessly many different problems of a split; the same ones for the same arguments, everywhere.

    Each is of a family drawn from `families` (one named twice is drawn twice as often).
    """
    if split not in SPLITS:
        raise ValueError(f"split: {split!r} is not one of {', '.join(SPLITS)}")
    unknown = sorted(set(families) - set(FAMILIES))
    if unknown or not families:
        raise ValueError(f"families: {unknown or 'none'} given; allowed: one or more of {', '.join(FAMILIES)}")
    rng = random.Random(f"fastdllm arithmetic {split} {seed}")
    seen: set[str] = set()
    while True:
        draft = ProblemDraft(rng, split == "wordings")
        try:
            FAMILIES[draft.pick(families)](draft)
        except Unfit:
            continue
        question = " ".join(sentence[0].upper() + sentence[1:] for sentence in draft.sentences)
        answer = "\n".join([*draft.lines, f"#### {draft.result}"])
        fits = len(question) >= SHORTEST_QUESTION and len(question) + 1.5 * len(answer) <= LONGEST_PROBLEM
        if not fits or question in seen or (split != "wordings" and held_out(question) != (split == "test")):
            continue
        seen.add(question)
        yield WordProblem(f"{split}-{seed}-{len(seen) - 1:05d}", question, answer, str(draft.result))


def generate(split: str, n: int, seed: int = 0, families: Sequence[str] = MIXTURE) -> list[WordProblem]:
    """The first `n` problems of `stream(split, seed, families)`."""
    if n < 0:
        raise ValueError(f"n: {n} is not a number of problems; it must be 0 or more")
    return list(islice(stream(split, seed, families), n))
