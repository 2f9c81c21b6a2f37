"""The chat as a page: conversation, live denoising, sliders, speed figures. Notebook 18, and `fastdllm app`."""

from __future__ import annotations

import html
import time

import ipywidgets as w

from fastdllm.characters import visible
from fastdllm.model.lm import LM
from fastdllm.ui.controls import BackgroundJob, Controls, Live, Message, Status, button, fields, labelled, row
from fastdllm.ui.conversation import EMBEDDED, AnswerProgress, Conversation, ability
from fastdllm.ui.player import Player

REFRESH = 0.25       # seconds between two pictures of a live answer
BUSY = "an answer is being written; stop it first"
DIVIDER = ("<div class='fd-unseen' style='border-bottom: 1px solid; opacity: .6; font-size: smaller; margin: 4px 0'>"
           "above: not seen by the model</div>")


class ChatPage(Live):
    """A conversation with the player below it. `conversation` may be driven from code as well."""

    def __init__(self, lm: LM, **settings: object) -> None:
        self.controls = Controls(**{"k": 1, "max_new_tokens": 192, **settings})         # pyright: ignore
        self.conversation = Conversation(lm, self.controls.decoding(), self.controls.reuse(),
                                         str(self.controls.revision.value), trace=True)
        self.last: AnswerProgress | None = None            # where the last answer stands
        self.status, self.player = Status(), Player()
        # Drawn from its end on: the newest line stays in view, and who scrolled back stays there.
        self.talk = w.HTML(layout=w.Layout(max_height="320px", overflow="auto", flex_flow="column-reverse"))
        self.talk.layout.display, self.talk.layout.flex = "flex", "0 0 auto"
        self.talk.add_class("fd-log")
        self.message = Message()
        self.message.add_class("fd-message")
        self.message.observe(lambda _: self.send(), "sent")
        single = lm.name == EMBEDDED        # it was trained on single questions
        self.about = w.HTML(f"<b>{html.escape(ability(lm.name))}.</b>", layout=w.Layout(flex="0 0 auto"))
        self.about.add_class("fd-about")
        whole = w.Layout(width="auto", max_width="100%", flex="0 0 auto", margin="2px 12px 2px 2px")
        self.alone = w.Checkbox(single, description="each question stands alone", indent=False, layout=whole)
        self.live = w.Checkbox(True, description="show the denoising live", indent=False, layout=whole)
        self.halt, self.empty = button("stop", self.stop, "warning"), button("clear", self.clear)
        for node in (self.halt, self.empty):
            node.layout.flex = "0 0 auto"
        self.job = BackgroundJob(self.status, self._busy)
        switches = row(self.halt, self.empty, self.alone, self.live)
        below = w.Accordion([fields(self.controls.all())], titles=("settings",))
        below.add_class("fd-settings")
        super().__init__([self.about, self.talk, self.message, switches, self.status.node, self.player, below],
                         "The chat needs JupyterLab with a kernel, or fastdllm app.")
        self._busy(False)
        self._draw()

    def _busy(self, on: bool) -> None:
        self.message.busy = self.empty.disabled = on
        self.halt.disabled = not on

    def _draw(self, pending: str = "") -> None:
        chat = self.conversation
        tail = [{"role": "assistant", "content": pending + " …"}] if pending else []
        parts = ["".join(map(line, chat.earlier)), "".join(map(line, [*chat.messages, *tail]))]
        self.talk.value = DIVIDER.join(filter(None, parts)) or "<em>Nothing said yet.</em>"

    def send(self) -> None:
        """Answer the message, in the background. A message that can't be asked stays in its field."""
        if self.job.running:
            self.status.message(BUSY)
            return
        chat, number = self.conversation, self.message.sent
        try:
            chat.decoding, chat.reuse = self.controls.decoding(), self.controls.reuse()
            chat.revision = str(self.controls.revision.value)
        except ValueError as error:
            self.status.message(labelled(error), error=True)
            return
        text = self.message.text
        self.job.start(lambda: self._answer(text, number))

    def _answer(self, text: str, number: int) -> None:
        answer = self.conversation.ask(text, self.job.stop.is_set, self.alone.value)
        self.message.taken = number
        self.last = None
        self._draw(" ")
        self.status.message("answering")
        drawn, fresh = time.perf_counter(), True
        try:
            for progress in answer:
                self.last = progress
                if time.perf_counter() - drawn > REFRESH:
                    drawn = time.perf_counter()
                    self._draw(progress.text or " ")
                    self.status.message(progress.speed())
                    if self.live.value:
                        self._show(fresh)
                        fresh = False
        finally:            # an answer that fails stays as far as it got
            self._draw()
        self._show(fresh)
        if self.last is not None:
            ending = self.conversation.ending()
            self.status.message(self.last.speed() + (f" ({ending})" if ending else ""))

    def ask(self, text: str) -> None:
        """Answer at once, in the foreground (for scripts and the notebook's first question)."""
        self._answer(text, self.message.taken)

    def _show(self, fresh: bool) -> None:
        """The answer so far; a new answer opens at its end, and later pictures leave the reader where they are."""
        run = self.conversation.run()
        if fresh:
            self.player.show(run, step=max(0, len(run.steps) - 1))
        else:
            self.player.follow(run)

    def stop(self) -> None:
        """Stop the answer between two forwards."""
        self.job.cancel()

    def clear(self) -> None:
        """Forget the conversation, and take it off the page."""
        if self.job.running:
            self.status.message(BUSY)
            return
        self.conversation.clear()
        self.last = None
        self._draw()
        self.player.show(step=0)
        self.status.message("")

    def wait(self, seconds: float | None = None) -> None:
        """Until the answer is written (for scripts)."""
        self.job.wait(seconds)


def line(message: dict[str, str]) -> str:
    """A message as a paragraph of the log."""
    said = html.escape(visible(message["content"], lines=True))
    return (f"<p style='margin: 2px 0; overflow-wrap: anywhere'><b>{'You' if message['role'] == 'user' else 'Model'}:"
            f"</b> <span style='white-space: pre-wrap'>{said}</span></p>")
