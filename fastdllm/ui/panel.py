"""The configuration panel: choose, run, watch, compare, save what `fastdllm run` takes.

    panel("tiny")          # in a notebook: the controls above, the player below
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import ipywidgets as w
import yaml

from fastdllm import tasks
from fastdllm.lab import atomic
from fastdllm.lab.config.parameters import Parameters
from fastdllm.lab.config.paths import root
from fastdllm.lab.records.record import forwards
from fastdllm.lab.records.steps import Recorder
from fastdllm.model.lm import LM, choose_dtype, load
from fastdllm.stats import number_of
from fastdllm.ui import controls
from fastdllm.ui.asked import Asked
from fastdllm.ui.controls import BackgroundJob, Controls, Live, Status, button, labelled, whole
from fastdllm.ui.player import Player
from fastdllm.ui.problem import DisplayedProblem, fetch, pick
from fastdllm.ui.recording import Recording, of_recorder

OWN = "own prompt"
LAST = 999           # the last problem that may be asked for
REFRESH = 0.25       # seconds between two pictures of a live run
DEAD = "The panel needs JupyterLab with a kernel."
UNKNOWN = "the prompt has no known answer: its accuracy means nothing"


class Panel(Live):
    """The panel as a widget. `run` holds the last run, `player` shows it (and the one kept for comparison)."""

    def __init__(self, model: str | LM = "tiny", prompt: str = "", **settings: object) -> None:
        self.models: dict[str, LM] = {} if isinstance(model, str) else {model.name: model}
        self.run: Recording | None = None
        self.kept: Recording | None = None
        self.problem = DisplayedProblem()                                                  # whose text the prompt is
        self.controls = Controls(**settings)                                    # pyright: ignore
        self.status, self.player = Status(), Player()
        self.stage = w.VBox([w.HTML("<em>Press run.</em>")])
        shared = controls.column_layout()
        self.model = w.Combobox(value=model if isinstance(model, str) else model.name, ensure_option=False,
                                options=["tiny", "Efficient-Large-Model/Fast_dLLM_v2_7B"], description="model",
                                **controls.WHEN_WHOLE, **shared)
        self.task = w.Dropdown(options=[OWN, *tasks.names()], value=OWN if prompt else "arithmetic",
                               description="task", **shared)
        self.index = controls.number("problem", 0, **shared)
        self.prompt = w.Textarea(value=prompt, description="prompt", style=controls.WIDE, **controls.WHEN_WHOLE,
                                 layout=w.Layout(width="auto", height="70px"))
        self.distance = controls.tick("distance to fresh")
        self.live = controls.tick("show while running")
        self.progress = w.IntProgress(0, min=0, max=1, description="tokens", **shared)
        self.go = button("run", self.start, "primary")
        self.halt = button("cancel", self.cancel, "warning")
        self.halt.disabled = True
        self.keep = button("keep to compare", self.keep_run)
        self.name = w.Text("my_run", description="save as", **controls.WHEN_WHOLE, **shared)
        for field in (self.task, self.index, self.prompt, self.name):
            field.add_class(f"fd-in-{str(field.description).replace(' ', '-')}")
        self.job = BackgroundJob(self.status, self._busy)
        self.task.observe(lambda _: self.fill(), "value")
        self.index.observe(lambda _: self.fill(), "value")
        self.prompt.observe(lambda _: self._edited(), "value")
        super().__init__([
            controls.fields([self.model, self.task, self.index]), self.prompt, controls.fields(self.controls.all()),
            controls.row(self.distance, self.live), controls.row(self.go, self.halt, self.keep),
            controls.row(self.name, button("save parameters", self.save)), self.progress, self.status.node,
            self.stage], DEAD)
        self.fill()

    def _busy(self, on: bool) -> None:
        self.go.disabled, self.halt.disabled = on, not on
        self.task.disabled, self.index.disabled = on, on or self.task.value == OWN

    def _edited(self) -> None:
        """A text that is no longer the chosen problem's is an own prompt."""
        if self.prompt.value != self.problem.prompt:
            self.task.value = OWN

    def fill(self) -> None:
        """Put the chosen problem's text into the prompt; a benchmark is loaded in the background."""
        name = str(self.task.value)
        self.index.disabled = name == OWN
        if name == OWN:
            return
        self._pose(DisplayedProblem())
        try:
            index = whole(self.index, 0, LAST)
            if name in tasks.EMBEDDED:
                self._pose(pick(name, index))
        except ValueError as error:
            self.status.message(labelled(error), error=True)
            return
        if name not in tasks.EMBEDDED:
            self.job.start(lambda: self._load(name, index))

    def _load(self, name: str, index: int) -> None:
        self.status.message(f"loading {name} ...")
        fetched = fetch(name, index, self.job.stop)
        if fetched is not None:
            self._pose(fetched)
        self.status.message("" if fetched else "cancelled")

    def _pose(self, problem: DisplayedProblem) -> None:
        self.problem = problem
        self.prompt.value = problem.prompt
        self.status.message("")

    def start(self) -> None:
        """Run in the background; settings that can't be are named at once."""
        try:
            self.parameters()
            asked = self._asked()
        except ValueError as error:
            self.status.message(labelled(error), error=True)
            return
        self.job.start(lambda: self._work(asked))

    def _asked(self) -> Asked:
        name, task = str(self.model.value), str(self.task.value)
        posed = (task, whole(self.index, 0, LAST)) if task in tasks.EMBEDDED and self.problem.id else None
        return Asked(name, self.prompt.value, self.controls.decoding(), self.controls.reuse(),
                     str(self.controls.revision.value), self.distance.value, posed)

    def cancel(self) -> None:
        """Stop between two forwards; what was denoised stays on the stage."""
        self.job.cancel()

    def wait(self, seconds: float | None = None) -> None:
        """Until the run is done (for scripts)."""
        self.job.wait(seconds)

    def _work(self, asked: Asked) -> None:
        name = asked.model
        if name not in self.models:
            self.status.message(f"loading {name} ...")
            self.models = {name: load(name)}             # one at a time: a 7B fills a card
        recorder = Recorder(self.models[name], [asked.prompt_for(self.models[name])], asked.decoding,
                            asked.reuse, asked.revision, distance=asked.distance)
        self.progress.value, self.progress.max = 0, recorder.decoding.max_new_tokens
        began = shown = time.perf_counter()
        count, new = 0, True
        for step in recorder:
            count += sum(step.unmasked)
            if self.job.stop.is_set():
                break
            if time.perf_counter() - shown > REFRESH:
                self.progress.value = min(count, self.progress.max)
                self.status.message(f"{number_of(count, 'token')} in {number_of(forwards(step.nfe), 'forward')}")
                if self.live.value:
                    self._show(of_recorder(recorder), new)
                    new = False
                shown = time.perf_counter()
        self.run = asked.judged(of_recorder(recorder))
        self._show(self.run, new)
        self._conclude(recorder, count, time.perf_counter() - began)

    def _show(self, run: Recording, new: bool = False) -> None:
        """A new run opens at its end; as it grows, a reader who went elsewhere stays there."""
        runs = (self.kept, run) if self.kept else (run,)
        if new:
            self.player.show(*runs, step=max(len(each.steps) for each in runs) - 1)
        else:
            self.player.follow(*runs)
        self.stage.children = (self.player,)

    def _conclude(self, recorder: Recorder, count: int, seconds: float) -> None:
        result = recorder.results.get(0)
        if result is None:
            self.status.message(f"cancelled after {number_of(count, 'token')}")
            return
        self.progress.value = self.progress.max
        nothing = " Nothing was reused: a run without a reuse step." if result.reused_nothing else ""
        self.status.message(f"{number_of(len(result.tokens), 'token')} in "
                            f"{number_of(forwards(result.nfe), 'forward')} and {seconds:.1f} s (with trace), "
                            f"ended by {result.finish}.{nothing}")

    def keep_run(self) -> None:
        """The run on the stage stays there, left of the next ones; pressed again, it leaves."""
        self.kept = None if self.kept is not None or self.run is None else self.run
        self.keep.description = "stop comparing" if self.kept else "keep to compare"
        if self.run is not None:
            self._show(self.run)

    def parameters(self) -> dict[str, object]:
        """The flat parameters of a run with these settings, but for its problem.

        Raises ValueError for what can't be.
        """
        if self.task.value != OWN:
            whole(self.index, 0, LAST)
        if not self.prompt.value.strip():
            raise ValueError("prompt: empty; allowed: some text")
        decoding, reuse, home = self.controls.decoding(), self.controls.reuse(), root()
        policy = Path(reuse.policy)          # an absolute path, or a name
        flat: dict[str, object] = {
            "model": self.model.value, "k": reuse.k, "layers": self.controls.layers.value,
            "policy": str(policy.relative_to(home) if policy.is_relative_to(home) else policy),
            "revision": str(self.controls.revision.value), "threshold": decoding.threshold,
            "max_new_tokens": decoding.max_new_tokens, "small_block": decoding.small_block}
        if decoding.block_size is not None:
            flat["block_size"] = decoding.block_size
        lm = self.models.get(self.model.value)
        if lm is not None and lm.dtype != choose_dtype("auto", lm.device):
            flat["dtype"] = str(lm.dtype).removeprefix("torch.")
        Parameters.of(**flat)
        return flat

    def save(self) -> Path | None:
        """Write params/NAME.yml for `fastdllm run params/NAME.yml`; never over another file of that name.

        Its problem stands beside it in NAME.jsonl, unless it is the task's first one.
        """
        name, folder = self.name.value, root() / "params"
        target, data = folder / f"{name}.yml", folder / f"{name}.jsonl"
        try:
            if not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(f"save as: {name!r}; allowed: letters, digits, _ and -")
            for path in (target, data):
                if path.exists():
                    raise ValueError(f"save as: {name!r}: params/{path.name} exists; allowed: a new name")
            flat, own, alone = self._saved()
            if alone is not None:
                atomic.write(data, json.dumps(alone) + "\n")
                flat["data"] = f"params/{data.name}"
            atomic.write(target, f"# Saved by the configuration panel: fastdllm run params/{target.name}\n"
                        + (f"# Of its result: {UNKNOWN}.\n" if own else "") + yaml.safe_dump(flat, sort_keys=False))
        except (ValueError, OSError) as error:
            self.status.message(labelled(error), error=True)
            return None
        self.status.message(f"saved: fastdllm run params/{target.name}" + (f" ({UNKNOWN})" if own else ""))
        return target

    def _saved(self) -> tuple[dict[str, object], bool, dict[str, str] | None]:
        """The flat parameters, whether the prompt is an own one, and the problem's row (None: the task's first)."""
        flat, task = self.parameters(), str(self.task.value)
        own = task == OWN
        if not own and task not in tasks.EMBEDDED:
            raise ValueError(f"task: {task}: here its problem was one plain message, without the examples and the stop "
                             f"strings of a run; allowed: {OWN!r}, {', '.join(tasks.EMBEDDED)}")
        lm = self.models.get(self.model.value)
        if lm is not None and lm.tokenizer is None:
            raise ValueError(f"model: {lm.name} has no tokenizer, and a run reads texts; allowed: one with a tokenizer")
        flat |= {"task": "arithmetic" if own else task, "limit": 1}
        if own:
            return flat, True, {"question": self.prompt.value, "target": ""}
        if whole(self.index, 0, LAST) == 0:
            return flat, False, None
        return flat, False, {"id": self.problem.id, "question": self.problem.prompt, "target": self.problem.target}


def panel(model: str | LM = "tiny", prompt: str = "", **settings: object) -> Panel:
    """The configuration panel; settings: max_new_tokens, k, layers, policy, revision, threshold."""
    return Panel(model, prompt, **settings)
