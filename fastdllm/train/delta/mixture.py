"""What the small real model is shown: GSM8K's problems as they are, with other numbers or names, and drills.

Every step's examples depend on (seed, phase, step) and nothing else. Each asks for one of two forms of answer, by the
last line of the prompt; a prompt that says nothing is answered in words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from fastdllm.tasks.word_problems import EQUATIONS, INSTRUCTIONS, QUESTION, WORDS
from fastdllm.train.delta.drills import drill
from fastdllm.train.delta.gsm8k import WordProblem
from fastdllm.train.delta.names import Names
from fastdllm.train.delta.packing import Example
from fastdllm.train.delta.perturb import Ambiguous, Template, template
from fastdllm.train.tokenizer import STOP, chat_prompt

UNTOLD = "Answer:"               # the benchmark's own last line
PREFIXED_SHARE = 0.8             # of the prompts open with QUESTION
UNTOLD_SHARE = 0.2               # of those that want words don't say so


@dataclass(frozen=True)
class Shares:
    """How often a draw is what."""

    drills: float            # of all
    original: float = 0.2    # of the problems: their own numbers
    renamed: float = 0.75    # of the problems with a name that can be swapped
    equations: float = 0.5   # of all answers; a problem without annotations is answered in words


def prompt(question: str, form: str, rng: np.random.Generator) -> str:
    """The user message that asks for `form`: mostly as the benchmark's tasks ask, sometimes as a chat would."""
    prefixed = rng.random() < PREFIXED_SHARE
    untold = form == WORDS and rng.random() < UNTOLD_SHARE
    last = (UNTOLD if prefixed else "") if untold else INSTRUCTIONS[form]
    return f"{QUESTION if prefixed else ''}{question}" + (f"\n{last}" if last else "")


def encode(tokenizer: Tokenizer, message: str, answer: str) -> Example:
    """Prompt and answer in the chat template."""
    prompt_ids, answer_ids = (np.array(tokenizer.encode(text, add_special_tokens=False).ids, np.int32)
                              for text in (chat_prompt(message), answer + STOP))
    return Example(prompt_ids, answer_ids)


class Mixture:
    """An endless source of examples from the problems of the training split."""

    def __init__(self, problems: Sequence[WordProblem], tokenizer: Tokenizer, window: int) -> None:
        self.problems, self.tokenizer, self.window = problems, tokenizer, window
        self.names = Names(problems)
        self.templates = [_template(problem) for problem in problems]

    def problem(self, shares: Shares, rng: np.random.Generator) -> WordProblem:
        """One draw: a drill, or a problem, perhaps with other numbers and another name."""
        if rng.random() < shares.drills:
            return drill(rng)
        index = int(rng.integers(len(self.problems)))
        chosen, form = self.problems[index], self.templates[index]
        if form is not None and rng.random() >= shares.original:
            chosen = form.redraw(rng) or chosen
        return self.names.swap(chosen, rng) if rng.random() < shares.renamed else chosen

    def examples(self, shares: Shares, rng: np.random.Generator) -> Iterator[Example]:
        """Examples that fit the window, without end."""
        while True:
            problem = self.problem(shares, rng)
            form = EQUATIONS if problem.steps and rng.random() < shares.equations else WORDS
            example = encode(self.tokenizer, prompt(problem.question, form, rng), problem.written(form))
            if len(example.prompt) + len(example.answer) <= self.window:
                yield example


def _template(problem: WordProblem) -> Template | None:
    try:
        return template(problem)
    except Ambiguous:
        return None
