"""What the configuration panel is asked to run."""

from __future__ import annotations

from dataclasses import dataclass

from fastdllm import tasks
from fastdllm.decode.generate import Prompt
from fastdllm.model.lm import LM
from fastdllm.settings import Decoding, Reuse
from fastdllm.ui.recording import Recording, judged


@dataclass(frozen=True)
class Asked:
    """What was set when the run began: what is changed afterwards is for the next one."""

    model: str
    prompt: str
    decoding: Decoding
    reuse: Reuse
    revision: str
    distance: bool
    posed: tuple[str, int] | None       # the embedded task whose problem of this index the prompt is

    def prompt_for(self, lm: LM) -> Prompt:
        """The text; for a checkpoint without a tokenizer, token ids. Raises ValueError for what is neither."""
        if lm.tokenizer is not None:
            return self.prompt
        words = self.prompt.replace(",", " ").split()
        if not all(word.isdigit() for word in words):
            raise ValueError(f"prompt: {lm.name} has no tokenizer; allowed: token ids, like 5 6 7")
        return [int(word) for word in words]

    def judged(self, run: Recording) -> Recording:
        """With the known answer, where the prompt is an embedded task's problem."""
        if self.posed is None:
            return run
        name, index = self.posed
        task = tasks.get(name)
        return judged(run, task, task.problems(limit=index + 1)[index])
