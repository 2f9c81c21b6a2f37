"""A conversation: answers that stream as blocks commit, the prefix cache kept between turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fastdllm.decode.generate import finish
from fastdllm.decode.loop import Engine
from fastdllm.decode.rules import check_prompt, positions_needed, resolve
from fastdllm.decode.step import RowResult, Step
from fastdllm.decode.trace import Trace
from fastdllm.lab import records
from fastdllm.lab.records import steps as steps_file
from fastdllm.model.lm import LM
from fastdllm.settings import Decoding, Reuse
from fastdllm.stats import number_of
from fastdllm.ui.recording import Recording, title

EMBEDDED = "tiny"   # this checkpoint was trained on single questions; a second turn is nothing that it knows
ABOUT = ("tiny, the embedded checkpoint, knows the generated arithmetic word problems that it was trained on and "
         "nothing else. It was trained on single questions")
SMOL = ("smol answers grade-school word problems as in GSM8K, about one in seven of them right, and nothing else; it "
        "does not chat")
SPARE = 4096        # positions that a conversation may grow by before its cache is laid out anew


def ability(name: str) -> str:
    """What a checkpoint can do, in a sentence without its full stop: the first line of chat and app."""
    known = {EMBEDDED: ABOUT, "smol": SMOL}
    return known.get(name, f"{name}: nothing is known here of what it can do; its card says what it was trained for")


@dataclass(frozen=True)
class AnswerProgress:
    """Where an answer stands after a step."""

    text: str                  # final so far: committed blocks, everything at the end
    step: Step
    tokens: int                # in `text`
    special: int               # generated beside them: stop token, padding and other special tokens, not in the text
    seconds: float
    nfe: dict[str, int]
    kept: int                  # prompt tokens whose keys were in the prefix cache already

    @property
    def forwards(self) -> int:
        """Forwards that ran."""
        return records.forwards(self.nfe)

    def speed(self) -> str:
        """tokens/s, NFE by kind, tokens per forward, as one line."""
        kinds = ", ".join(f"{kind} {count}" for kind, count in self.nfe.items() if count)
        kept = f"; {self.kept} prompt tokens from the prefix cache" if self.kept else ""
        special = f" and {self.special} special (no text)" if self.special > 1 else ""      # a stop token goes unsaid
        return (f"{number_of(self.tokens, 'token')}{special}, {self.tokens / max(self.seconds, 1e-9):.1f} tokens/s, "
                f"NFE {self.forwards} ({kinds}), {self.tokens / max(self.forwards, 1):.2f} tokens per forward{kept}")


class Conversation:
    """Multi-turn chat with one model. Settings may change between turns."""

    def __init__(self, lm: LM, decoding: Decoding = Decoding(), reuse: Reuse = Reuse(), revision: str = "fixed",
                 trace: bool = False):
        if lm.tokenizer is None:
            raise ValueError(f"model: {lm.name} has no tokenizer files; allowed: a checkpoint with a tokenizer")
        resolve(lm, decoding, reuse, revision)
        self.lm, self.decoding, self.reuse, self.revision = lm, decoding, reuse, revision
        self.trace = Trace() if trace else None     # of the last answer
        self.messages: list[dict[str, str]] = []    # what the model sees
        self.earlier: list[dict[str, str]] = []     # said before, and no longer seen by the model
        self.steps: list[Step] = []                 # of the last answer
        self.ids: list[int] = []                    # its prompt
        self.result: RowResult | None = None
        self.turn = 0
        self._said: list[int] = []                  # all tokens so far, as the model saw and wrote them
        self._stop = self._stop_of_template()
        self._engine: Engine | None = None
        self._made_for: tuple[object, ...] = ()
        self._positions = 0

    def clear(self) -> None:
        """Forget what was said, and the last answer's steps."""
        self.messages, self.earlier, self._said = [], [], []
        self.steps, self.ids, self.result = [], [], None

    def _stop_of_template(self) -> int | None:
        """The stop token that the chat template puts behind an answer; None if it is none of the checkpoint's."""
        tokenizer, said = self.lm.tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        text = str(tokenizer.apply_chat_template(said, tokenize=False)) if tokenizer else ""
        ends = {text.rfind(str(tokenizer.decode([stop]))): stop for stop in self.lm.stop_ids} if tokenizer else {}
        return ends[max(ends)] if max(ends, default=-1) >= 0 else None

    def _encode(self, messages: list[dict[str, str]], said: list[int]) -> list[int]:
        """A conversation as token ids. What was answered stands as it was generated, not encoded anew, so that
        the prefix cache holds it; only what the template puts behind it is encoded."""
        tokenizer = self.lm.tokenizer
        if tokenizer is None or self._stop is None or not said:
            return self.lm.encode(messages)
        stop = str(tokenizer.decode([self._stop]))
        head = str(tokenizer.apply_chat_template(messages[:-1], tokenize=False))
        full = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        if not full.startswith(head) or stop not in head:        # a template that rewrites earlier turns
            return self.lm.encode(messages)
        rest = head[head.rindex(stop) + len(stop):] + full[len(head):]
        return said + list(tokenizer.encode(rest, add_special_tokens=False))

    def engine(self, ids: list[int]) -> Engine:
        """The engine that holds the prefix; a new one if settings changed or the conversation outgrew it."""
        rules = resolve(self.lm, self.decoding, self.reuse, self.revision)
        check_prompt(self.lm, 0, ids, rules)
        need, wanted = positions_needed(len(ids), rules), (self.decoding, self.reuse, self.revision)
        if self._engine is None or self._made_for != wanted or need > self._positions:
            whole = self.lm.config.max_position_embeddings // rules.block * rules.block
            self._positions = max(need, min(whole, need + SPARE))
            self._engine = Engine(self.lm, rules, self.decoding, self.reuse, 1, self._positions, trace=self.trace,
                                  keep_prefix=True)
            self._made_for = wanted
        return self._engine

    def ask(
        self, text: str, cancelled: Callable[[], bool] = lambda: False, alone: bool = False
    ) -> Iterator[AnswerProgress]:
        """Take a message, and answer it while the result is iterated over: one Progress per forward.

        `alone`: the model sees nothing of what was said before. A cancelled answer stays in the conversation as far
        as it got. Raises ValueError, at once and with nothing changed, for an empty message, or a conversation that
        has become too long for the model.
        """
        if not text.strip():
            raise ValueError("message: empty; allowed: some text")
        messages = [*([] if alone else self.messages), {"role": "user", "content": text}]
        ids = self._encode(messages, [] if alone else self._said)
        engine = self.engine(ids)
        if alone:
            self.earlier = self.earlier + self.messages
        self.messages, self.ids = messages, ids
        self.steps, self.result, self.turn = [], None, self.turn + 1
        if self.trace:
            self.trace.rows.clear()
        return self._answer(engine, cancelled)

    def _answer(self, engine: Engine, cancelled: Callable[[], bool]) -> Iterator[AnswerProgress]:
        said, answered, began, kept = "", [], time.perf_counter(), -1
        special = set(self.lm.tokenizer.all_special_ids) if self.lm.tokenizer else set()
        try:
            for step in engine.steps(iter([(self.turn, self.ids)])):
                self.steps.append(step)
                row = engine.slots[0]
                if row is None:
                    raise RuntimeError("the answer's row is gone while it is being written")
                if kept < 0:
                    kept = step.start if step.kind == "prefill" else row.prefix
                if row.finish:
                    self.result = finish(engine, row)
                    said, answered = self.result.text, self.result.tokens
                elif step.kind == "commit":
                    answered = (row.generated or row.tokens[row.length:])[:row.prefix - row.length]
                    said = self.lm.decode(answered)
                shown = sum(token not in special for token in answered)
                yield AnswerProgress(said, step, shown, len(answered) - shown, time.perf_counter() - began, step.nfe,
                                     kept)
                if not row.finish and cancelled():
                    break
        finally:
            engine.abandon()
            engine.finished.clear()
            self.messages.append({"role": "assistant", "content": said})
            self._said = [*self.ids, *answered]
            if self._stop is not None and answered[-1:] not in [[stop] for stop in self.lm.stop_ids]:
                self._said.append(self._stop)

    def ending(self) -> str:
        """How the last answer ended, where not by itself: stopped, or cut at the cap on new tokens."""
        if self.result is None:
            return "stopped"
        cut = self.result.finish == "length"
        return f"cut off: max_new_tokens={self.decoding.max_new_tokens} is reached" if cut else ""

    def run(self) -> Recording:
        """The last answer, for the player."""
        results = {self.turn: self.result} if self.result else {}
        about = steps_file.meta(self.lm, {self.turn: self.ids}, self.steps, self.decoding, self.reuse, self.revision,
                                results)
        return Recording(title(self.reuse, self.revision), steps_file.frame(self.steps),
                   self.trace.frame() if self.trace else None, about, self.turn)


class Streamed:
    """What of a growing text was not printed yet; a character whose bytes are incomplete waits."""

    def __init__(self) -> None:
        self.printed = ""

    def new(self, text: str, last: bool = False) -> str:
        """The part to print now."""
        ready = text if last else text.rstrip("\ufffd")
        if not ready.startswith(self.printed):       # never seen with byte-level tokenizers; print nothing twice
            return ""
        fresh, self.printed = ready[len(self.printed):], ready
        return fresh
