"""Word problems about someone else: the first name that opens a question swapped for another one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import numpy as np

from fastdllm.train.delta.gsm8k import WordProblem

SHE, HE = "she", "he"
_PRONOUNS = {SHE: re.compile(r"\b(she|her|hers)\b", re.IGNORECASE), HE: re.compile(r"\b(he|his|him)\b", re.IGNORECASE)}
_FIRST_WORD = re.compile(r"([A-Z][a-z]{2,9})(?:'s)? ")
# Words that open a question and are no names (some of them stand before "she" or "he" more than once).
_NO_NAMES = """
    The There Each Every Two Three Four Five Six Seven Eight Nine Ten Some All Half One During After Before When While
    Last Yesterday Today This That For From Its His Her Their They She How What Out Over Once Since Tickets Monday
    Tuesday Wednesday Thursday Friday Saturday Sunday Mrs Grandma Grandpa Mom Dad Mother Father Coach Farmer Uncle Aunt
    Jars Assume Suppose Currently Initially Originally Only Both Twice Given Calculate Find Another Apples Chickens
    Students Everyone Someone People Not Most Many Because Next Just Eggs Using Working With Without Lucky Old New
    York San Los"""
NO_NAMES = frozenset(_NO_NAMES.split())


def opening_name(question: str) -> str | None:
    """The capitalised word that opens the question, unless it is known to be no name."""
    first_word = _FIRST_WORD.match(question)
    return first_word[1] if first_word and first_word[1] not in NO_NAMES else None


def pronoun(question: str) -> str | None:
    """"she" or "he" where only one of the two is spoken of."""
    spoken_of = [word for word, pattern in _PRONOUNS.items() if pattern.search(question)]
    return spoken_of[0] if len(spoken_of) == 1 else None


class Names:
    """The names that open questions, by pronoun, and how they are swapped."""

    def __init__(self, problems: Iterable[WordProblem]) -> None:
        seen = {SHE: Counter[str](), HE: Counter[str]()}
        for problem in problems:
            name, who = opening_name(problem.question), pronoun(problem.question)
            if name and who:
                seen[who][name] += 1
        self.known: dict[str, list[str]] = {}
        for who, other in ((SHE, HE), (HE, SHE)):
            self.known[who] = sorted(name for name, count in seen[who].items()
                                     if count >= 2 and count > 5 * seen[other][name])

    def swap(self, problem: WordProblem, rng: np.random.Generator) -> WordProblem:
        """The problem about someone else of the same pronoun; itself where that is not clear."""
        name, who = opening_name(problem.question), pronoun(problem.question)
        if name is None or who is None or name not in self.known[who]:
            return problem
        new = self.known[who][int(rng.integers(len(self.known[who])))]
        if re.search(rf"\b{new}\b", problem.question):
            return problem
        old = re.compile(rf"\b{name}\b")
        return WordProblem(old.sub(new, problem.question), old.sub(new, problem.answer))
