"""The configuration panel: choose, run, watch, compare, save what `fastdllm run` takes.

    panel("tiny")          # in a notebook: the controls above, the player below
"""

from __future__ import annotations

import time
from pathlib import Path

import ipywidgets as w
import yaml

from fastdllm import tasks
from fastdllm.decode.generate import Prompt
from fastdllm.lab import files
from fastdllm.lab.parameters import Parameters, root
from fastdllm.lab.records import forwards
from fastdllm.lab.steps import Recorder
from fastdllm.model.lm import LM, load
from fastdllm.report.form import EXPECTED, WIDE, Controls, Job, Status, button
from fastdllm.report.player import Run, of_recorder
from fastdllm.report.widgets import Player

OWN = "own prompt"
REFRESH = 0.25       # seconds between two pictures of a live run


class Panel(w.VBox):
    """The panel as a widget. `run` holds the last run, `player` shows it (and the one kept for comparison)."""

    def __init__(self, model: str | LM = "tiny", prompt: str = "", **settings: object) -> None:
        self.models: dict[str, LM] = {} if isinstance(model, str) else {model.name: model}
        self.run: Run | None = None
        self.kept: Run | None = None
        self.controls = Controls(**settings)                                    # pyright: ignore
        self.status, self.player = Status(), Player()
        wide = w.Layout(width="635px")
        self.model = w.Combobox(value=model if isinstance(model, str) else model.name, ensure_option=False,
                                options=["tiny", "Efficient-Large-Model/Fast_dLLM_v2_7B"], description="model",
                                style=WIDE, layout=wide)
        self.task = w.Dropdown(options=[OWN, *tasks.names()], value=OWN if prompt else "arithmetic",
                               description="task", style=WIDE, layout=w.Layout(width="310px"))
        self.index = w.BoundedIntText(0, min=0, max=100_000, description="problem", style=WIDE,
                                      layout=w.Layout(width="310px"))
        self.prompt = w.Textarea(value=prompt, description="prompt", style=WIDE,
                                 layout=w.Layout(width="635px", height="70px"))
        self.prompt.add_class("fd-in-prompt")
        self.distance = w.Checkbox(True, description="measure the distance to fresh", indent=False)
        self.live = w.Checkbox(True, description="show while running", indent=False)
        self.progress = w.IntProgress(0, min=0, max=1, description="tokens", style=WIDE, layout=wide)
        self.go = button("run", self.start, "primary")
        self.halt = button("cancel", self.cancel, "warning")
        self.halt.disabled = True
        self.keep = button("keep to compare", self.keep_run)
        self.name = w.Text("my_run", description="save as", style=WIDE, layout=w.Layout(width="310px"))
        self.job = Job(self.status, self._busy)
        self.task.observe(lambda _: self.fill(), "value")
        self.index.observe(lambda _: self.fill(), "value")
        grid = w.GridBox(self.controls.all(), layout=w.Layout(grid_template_columns="320px 320px"))
        super().__init__([
            self.model, w.HBox([self.task, self.index]), self.prompt, grid, w.HBox([self.distance, self.live]),
            w.HBox([self.go, self.halt, self.keep]), w.HBox([self.name, button("save parameters", self.save)]),
            self.progress, self.status.node, self.player])
        if not prompt:
            self.fill()

    def _busy(self, on: bool) -> None:
        self.go.disabled, self.halt.disabled = on, not on

    def fill(self) -> None:
        """Put the chosen problem's text into the prompt."""
        if self.task.value == OWN:
            return
        try:
            problems = tasks.get(str(self.task.value)).problems(limit=self.index.value + 1)
            prompt = problems[min(self.index.value, len(problems) - 1)].prompt
        except (*EXPECTED, ImportError) as error:
            self.status.say(f"{self.task.value}: {error}", error=True)
            return
        self.prompt.value = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        self.status.say("")

    def start(self) -> None:
        """Run in the background; settings that can't be are named at once."""
        try:
            self.parameters()
        except ValueError as error:
            self.status.say(str(error), error=True)
            return
        self.job.start(self._work)

    def cancel(self) -> None:
        """Stop between two forwards; what was denoised stays on the stage."""
        self.job.cancel()

    def wait(self, seconds: float | None = None) -> None:
        """Until the run is done (for scripts)."""
        self.job.wait(seconds)

    def _work(self) -> None:
        name = self.model.value
        if name not in self.models:
            self.status.say(f"loading {name} ...")
            self.models = {name: load(name)}             # one at a time: a 7B fills a card
        recorder = Recorder(self.models[name], [self._prompt(self.models[name])], self.controls.decoding(),
                            self.controls.reuse(), self.controls.revision.value, distance=self.distance.value)
        self.progress.value, self.progress.max = 0, recorder.decoding.max_new_tokens
        began = shown = time.perf_counter()
        count = 0
        for step in recorder:
            count += sum(step.unmasked)
            if self.job.stop.is_set():
                break
            if time.perf_counter() - shown > REFRESH:
                self.progress.value = min(count, self.progress.max)
                self.status.say(f"{count} tokens in {forwards(step.nfe)} forwards")
                if self.live.value:
                    self._show(of_recorder(recorder))
                shown = time.perf_counter()
        self.run = of_recorder(recorder)
        self._show(self.run)
        self._conclude(recorder, count, time.perf_counter() - began)

    def _prompt(self, lm: LM) -> Prompt:
        """The text; for a checkpoint without a tokenizer, token ids."""
        if lm.tokenizer is not None:
            return self.prompt.value
        words = self.prompt.value.replace(",", " ").split()
        if not all(word.isdigit() for word in words):
            raise ValueError(f"prompt: {lm.name} has no tokenizer; allowed: token ids, like 5 6 7")
        return [int(word) for word in words]

    def _show(self, run: Run) -> None:
        runs = (self.kept, run) if self.kept else (run,)
        self.player.show(*runs, step=max(0, len(run.steps) - 1))

    def _conclude(self, recorder: Recorder, count: int, seconds: float) -> None:
        result = recorder.results.get(0)
        if result is None:
            self.status.say(f"cancelled after {count} tokens")
            return
        self.progress.value = self.progress.max
        nothing = " Nothing was reused: a run without a reuse step." if result.reused_nothing else ""
        self.status.say(f"{len(result.tokens)} tokens in {forwards(result.nfe)} forwards and {seconds:.1f} s "
                        f"(with trace), ended by {result.finish}.{nothing}")

    def keep_run(self) -> None:
        """The run on the stage stays there, left of the next ones; pressed again, it leaves."""
        self.kept = None if self.kept is not None or self.run is None else self.run
        self.keep.description = "stop comparing" if self.kept else "keep to compare"
        if self.run is not None:
            self._show(self.run)

    def parameters(self) -> dict[str, object]:
        """The flat parameters of a run with these settings. Raises ValueError for what can't be."""
        decoding, reuse = self.controls.decoding(), self.controls.reuse()
        flat: dict[str, object] = {
            "model": self.model.value, "task": "arithmetic" if self.task.value == OWN else self.task.value,
            "limit": self.index.value + 1, "k": reuse.k, "layers": self.controls.layers.value,
            "policy": reuse.policy, "revision": self.controls.revision.value, "threshold": decoding.threshold,
            "max_new_tokens": decoding.max_new_tokens, "small_block": decoding.small_block}
        Parameters.of(**flat)
        return flat

    def save(self) -> Path | None:
        """Write params/NAME.yml for `fastdllm run params/NAME.yml`; never over another file of that name."""
        target = root() / "params" / f"{self.name.value}.yml"
        try:
            if not self.name.value.replace("_", "").replace("-", "").isalnum():
                raise ValueError(f"save as {self.name.value!r}; allowed: letters, digits, _ and -")
            if target.exists():
                raise ValueError(f"save as {self.name.value!r}: params/{target.name} exists; allowed: a new name")
            files.write(target, "# Saved by the configuration panel: fastdllm run params/" + target.name + "\n"
                        + yaml.safe_dump(self.parameters(), sort_keys=False))
        except (ValueError, OSError) as error:
            self.status.say(str(error), error=True)
            return None
        self.status.say(f"saved: fastdllm run params/{target.name}")
        return target


def panel(model: str | LM = "tiny", prompt: str = "", **settings: object) -> Panel:
    """The configuration panel; settings: max_new_tokens, k, layers, policy, revision, threshold."""
    return Panel(model, prompt, **settings)
