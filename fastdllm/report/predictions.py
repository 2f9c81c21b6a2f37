"""Predictions for the 7B, written down before anyone checked them; and how they stand by records of it.

Each names the command that makes its records (`fastdllm grid run gsm8k_7b ...`) and a claim that decides it. Records
are looked for where that command writes them, so that what is read is what was asked for.
"""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from fastdllm.display.claim import Claim, Judged
from fastdllm.lab import records
from fastdllm.lab.config import grid_file
from fastdllm.lab.records.record import Record
from fastdllm.report import prediction_claims as claims
from fastdllm.report import shipped
from fastdllm.report.comparison import sides
from fastdllm.report.prediction_claims import Run

PARAMS, LIMIT = "gsm8k_7b", 100         # every command is this grid on its first problems


@dataclass(frozen=True)
class Experiment:
    """The grid with some values changed: what one command runs. `names`: the configurations that a prediction reads."""

    name: str
    changes: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        sets = [f"experiment={self.name}", *self.changes]
        return f"fastdllm grid run {PARAMS} {' '.join(f'--set {each}' for each in sets)} --limit {LIMIT}"

    def read(self, folders: Sequence[Path]) -> tuple[dict[str, Run], list[str]]:
        """Its records below the first of these folders that holds one, and the names of their checkpoints.

        Raises ValueError for a record of other settings than the command's, and for one without single answers.
        """
        cells: dict[str, Run] = {}
        models: list[str] = []
        for folder in folders:
            sets = [f"experiment={self.name}", *self.changes, f"output={folder.resolve()}"]
            for configuration in grid_file.load_part(PARAMS, limit=LIMIT, overrides=sets)[1]:
                if configuration.name in cells or not (configuration.directory / records.SUMMARY).is_file():
                    continue
                side = sides.find(str(configuration.directory))
                wanted, ran = (shipped.settings_of({**flat, "model": "", "layers": flat["layers"] or ""}) for flat in
                               (configuration.parameters.flat(), side.record.parameters.flat()))
                if not shipped.fits(wanted, ran):
                    told = [f"{name}={b!r}, not {a!r}" for name, a, b in zip(shipped.SETTINGS, wanted, ran, strict=True)
                            if a != b]
                    raise ValueError(f"{configuration.directory}: {', '.join(told)}; allowed: what `{self.command}` "
                                     "runs")
                if side.problems is None:
                    raise ValueError(f"{configuration.directory}: no samples of single problems; allowed: a record "
                                     "with samples.jsonl or problems.csv")
                cells[configuration.name] = run_of(side.record, side.problems)
                models.append(side.record.checkpoint.name)
        return cells, models


def run_of(record: Record, problems: pd.DataFrame) -> Run:
    """A record for predictions, its answers right by its headline rule."""
    right = [int(correct[record.metric]) for correct in problems["correct"]]
    clock = f"{record.environment.device_name}, {record.executor}, batch {record.parameters.batch_size}"
    return Run(problems[["tokens", "forwards", "seconds", "output"]].assign(right=right),
               record.finish.get("length", 0), "" if record.parameters.device == "cpu" else clock)


REFRESH = Experiment("7b_refresh", ("revision=26d6179", "dtype=float32"))
BYPASS = Experiment("7b_bypass", ("revision=6c8822f",))
RUN_1 = Experiment("7b_run1", ("revision=6f96d95-dirty", "axes.layers=[first]"))
RUN_2 = Experiment("7b_run2", ("revision=26d6179",))
CAP = Experiment("7b_cap", ("revision=6c8822f", "decoding.threshold=1.0"))
REPLAY = Experiment("7b_replay", ("revision=26d6179", "dtype=float32", "reuse.policy=replay", "axes.layers=[middle]"))
SPEED = Experiment("7b_speed")


@dataclass(frozen=True)
class Prediction:
    """decided_by: the claim, called with the cells of `experiment` and then of `beside`, another prediction's.
    reads: the configurations of each that it needs, by name. on_smol: the claim that decides the same on the real
    model's shipped records, by name; "" where none does.
    """

    statement: str
    contradicted_by: str
    decided_by: Claim
    reads: tuple[str, ...]
    experiment: Experiment
    beside: Experiment | None = None
    on_smol: str = ""

    @property
    def experiments(self) -> tuple[Experiment, ...]:
        return (self.experiment, *([self.beside] if self.beside else []))


PREDICTIONS = (
    Prediction("`26d6179`, float32: `first`, `middle`, `last` agree in answer, tokens and forwards, but for rounding",
               "more than one problem in 100 whose tokens differ",
               claims.subsets_agree, claims.REUSING, REFRESH, on_smol="subsets_agree_but_for_rounding"),
    Prediction("`6c8822f`: `first` collapses with `middle` and `last`, to less than half of k=1's right answers",
               "`first` within 10 points of k=1",
               claims.bypass_spares_no_subset, claims.WITH_BASE, BYPASS, on_smol="run_1_comes_back"),
    Prediction("On its own commit, `6f96d95-dirty`, Run 1's `first` keeps clearly more than on `6c8822f` (January's 7B "
               "kept 92 and 84 %)", "`first` no better than on `6c8822f`",
               claims.first_was_spared_on_its_own_commit, claims.FIRST, RUN_1, BYPASS, on_smol="run_1_comes_back"),
    Prediction("Run 2's code has no collapse: on `26d6179` in float16 `middle` and `last` stay within 10 points of "
               "`first`", f"a gap of more than 10 points at n = {LIMIT}",
               claims.no_subset_collapses, claims.REUSING, RUN_2),
    Prediction("Under `6c8822f` most answers of the 7B run into the length cap, as in the log, at threshold 1.0 too",
               "fewer than half of the answers",
               claims.most_answers_run_to_the_cap, claims.WITH_BASE, CAP, on_smol="answers_run_to_the_cap"),
    Prediction("`replay` scores what `output` reuse scores, and skips the forward",
               "more than one problem in 100 whose tokens differ from those of the first prediction",
               claims.replay_is_output, claims.MIDDLE, REPLAY, REFRESH),
    Prediction("At batch 1 k=2 runs at 1.25x k=1 or less, whatever the subset",
               "more than 1.25x with its whole interval",
               claims.two_is_at_most_a_quarter_faster, claims.SPEEDS, SPEED))


@dataclass(frozen=True)
class Standing:
    """A prediction and what records say of it. missing: the commands of which not all records are there."""

    prediction: Prediction
    judged: Judged
    missing: tuple[str, ...] = field(default=())

    @property
    def word(self) -> str:
        """held, failed, undecided (measured, and neither), or not measured."""
        if self.judged.state is not None:
            return "held" if self.judged.state else "failed"
        return "not measured" if self.missing else "undecided"


def standings(folders: Sequence[Path]) -> tuple[list[Standing], list[str]]:
    """Every prediction held against the records below these folders, and the names of the checkpoints that made them.

    Raises what `Experiment.read` raises, and ValueError for a folder that is none.
    """
    if lost := [str(folder) for folder in folders if not folder.is_dir()]:
        raise ValueError(f"{', '.join(lost)}: no such folder; allowed: folders that hold experiments, like executed")
    every = dict.fromkeys(each for prediction in PREDICTIONS for each in prediction.experiments)
    read = {experiment: experiment.read(folders) for experiment in every}
    models = list(dict.fromkeys(name for _, names in read.values() for name in names))
    return [Standing(prediction, prediction.decided_by(*(read[each][0] for each in prediction.experiments)),
                     tuple(each.command for each in prediction.experiments
                           if claims.absent(read[each][0], prediction.reads)))
            for prediction in PREDICTIONS], models


def text(found: Sequence[Standing], models: Sequence[str]) -> str:
    """What `fastdllm predictions` prints: each prediction, how it stands and by what, and the commands still to run."""
    lines = [f"records of {', '.join(models)}" if models else "no record of any of these commands here"]
    for number, one in enumerate(found, 1):
        lines += [f"{number}. {one.word}: {one.prediction.statement}",
                  f"   contradicted by: {one.prediction.contradicted_by}", f"   {one.judged}"]
        lines += [f"   to run: {command}" for command in one.missing]
    return "\n".join(lines)
