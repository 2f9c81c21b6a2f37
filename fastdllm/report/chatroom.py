"""The chat as a page: conversation, live denoising, sliders, speed figures. Notebook 18, and `fastdllm app`."""

from __future__ import annotations

import html
import time

import ipywidgets as w

from fastdllm.model.lm import LM
from fastdllm.report.chat import ABOUT, EMBEDDED, Conversation, Progress
from fastdllm.report.form import Controls, Job, Message, Status, button
from fastdllm.report.widgets import Player

REFRESH = 0.25       # seconds between two pictures of a live answer


class Chatroom(w.VBox):
    """A conversation with the player below it. `conversation` may be driven from code as well."""

    def __init__(self, lm: LM, **settings: object) -> None:
        self.controls = Controls(**{"k": 1, "max_new_tokens": 192, **settings})         # pyright: ignore
        self.conversation = Conversation(lm, self.controls.decoding(), self.controls.reuse(),
                                         self.controls.revision.value, trace=True)
        self.last: Progress | None = None            # where the last answer stands
        self.status, self.player = Status(), Player()
        self.talk = w.HTML(layout=w.Layout(min_height="60px", max_height="320px", overflow="auto"))
        self.talk.add_class("fd-log")
        self.message = Message()
        self.message.add_class("fd-message")
        self.message.observe(lambda _: self.send(), "sent")
        single = lm.name == EMBEDDED        # it was trained on single questions
        self.about = f" {ABOUT}." if single else ""
        self.forget = w.Checkbox(single, description="each question stands alone", indent=False)
        self.halt = button("stop", self.stop, "warning")
        self.halt.disabled = True
        self.live = w.Checkbox(True, description="show the denoising live", indent=False)
        self.job = Job(self.status, self._busy)
        grid = w.GridBox(self.controls.all(), layout=w.Layout(grid_template_columns="320px 320px"))
        switches = w.HBox([self.halt, button("clear", self.clear), self.forget, self.live])
        super().__init__([self.talk, self.message, switches, self.status.node, grid, self.player])
        self._draw()

    def _busy(self, on: bool) -> None:
        self.message.busy, self.halt.disabled = on, not on

    def _draw(self, pending: str = "") -> None:
        lines = [*self.conversation.messages]
        if pending:
            lines.append({"role": "assistant", "content": pending + " …"})
        self.talk.value = "".join(
            f"<p style='margin:2px 0'><b>{'You' if line['role'] == 'user' else 'Model'}:</b> "
            f"<span style='white-space:pre-wrap'>{html.escape(line['content'])}</span></p>" for line in lines) or \
            f"<em>Nothing said yet.{self.about}</em>"

    def send(self) -> None:
        """Answer the message, in the background."""
        text = self.message.text
        if self.job.running:
            self.status.say("an answer is being written; stop it first")
            return
        try:
            chat = self.conversation
            chat.decoding, chat.reuse = self.controls.decoding(), self.controls.reuse()
            chat.revision = self.controls.revision.value
        except ValueError as error:
            self.status.say(str(error), error=True)
            return
        if self.forget.value:
            chat.clear()
        self.job.start(lambda: self._answer(text))

    def _answer(self, text: str) -> None:
        shown = 0.0
        for progress in self.conversation.ask(text, self.job.stop.is_set):
            self.last = progress
            if time.perf_counter() - shown > REFRESH:
                shown = time.perf_counter()
                self._draw(progress.text or " ")
                self.status.say(progress.speed())
                if self.live.value:
                    self._show()
        self._draw()
        self._show()
        if self.last is not None:
            ending = self.conversation.ending()
            self.status.say(self.last.speed() + (f" ({ending})" if ending else ""))

    def ask(self, text: str) -> None:
        """Answer at once, in the foreground (for scripts and the notebook's first question)."""
        self._answer(text)

    def _show(self) -> None:
        run = self.conversation.run()
        self.player.show(run, step=max(0, len(run.steps) - 1))

    def stop(self) -> None:
        """Stop the answer between two forwards."""
        self.job.cancel()

    def clear(self) -> None:
        """Forget the conversation."""
        if self.job.running:
            self.status.say("an answer is being written; stop it first")
            return
        self.conversation.clear()
        self._draw()
        self.status.say("")

    def wait(self, seconds: float | None = None) -> None:
        """Until the answer is written (for scripts)."""
        self.job.wait(seconds)
