"""`python -m fastdllm.train.card DIRECTORY`: measure a trained checkpoint and write its model card from the numbers."""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdllm import tasks
from fastdllm.decode.generate import generate as decode
from fastdllm.model.lm import LM, load
from fastdllm.settings import Decoding, Reuse
from fastdllm.train.recipe import RECIPES, Recipe
from fastdllm.train.state import CURVE

MEASURED, CARD = "measured.json", "README.md"
MAX_NEW_TOKENS = 160


@dataclass(frozen=True)
class Setting:
    """One row of the card's table."""

    task: str
    threshold: float
    k: int = 1
    revision: str = "fixed"


SETTINGS = (
    *(Setting("arithmetic", threshold) for threshold in (1.0, 0.9, 0.7, 0.5, 0.3)),
    *(Setting("arithmetic", 1.0, k, "26d6179") for k in (2, 3)),
    Setting("arithmetic_wordings", 0.9), Setting("arithmetic_compare", 0.9),
)


def measure(lm: LM, setting: Setting, problems: int, batch_size: int = 64) -> dict[str, Any]:
    """Exact match (strict rule) of one setting on the first `problems` held-out problems, seed 0."""
    task = tasks.get(setting.task)
    chosen = task.problems(problems)
    reuse = Reuse(k=setting.k, layers="middle" if setting.k > 1 else None)
    output = decode(lm, [problem.prompt for problem in chosen], reuse=reuse, revision=setting.revision,
                    decoding=Decoding(threshold=setting.threshold, max_new_tokens=MAX_NEW_TOKENS),
                    batch_size=batch_size)
    correct = sum(task.score(problem, text)[task.metric].correct
                  for text, problem in zip(output.texts, chosen, strict=True))
    tokens = sum(len(row) for row in output.tokens)
    steps = sum(row["full"] + row["small"] for row in output.nfe)
    return {**vars(setting), "problems": problems, "correct": correct, "tokens": tokens, "steps": steps}


def read_curve(path: Path) -> list[dict[str, str]]:
    """Rows of curve.csv."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def table(header: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (header, ("---",) * len(header), *rows)]
    return "\n".join(lines)


def results(measured: list[dict[str, Any]]) -> str:
    """The measured table: accuracy and tokens per denoising step."""
    return table(("task", "threshold", "reuse", "correct", "accuracy", "tokens per step"), [
        (row["task"], row["threshold"],
         "none" if row["k"] == 1 else f"k={row['k']}, middle, revision {row['revision']}",
         f"{row['correct']} of {row['problems']}", f"{100 * row['correct'] / row['problems']:.1f} %",
         f"{row['tokens'] / row['steps']:.2f}") for row in measured])


def curve_table(recipe: Recipe, curve: list[dict[str, str]], each: int = 8) -> str:
    """About `each` rows of every phase of the curve."""
    rows: list[tuple[object, ...]] = []
    for phase in recipe.phases:
        of_phase = [row for row in curve if row["phase"] == phase.name]
        picked = of_phase[::-max(1, len(of_phase) // each)][::-1]
        rows += [(row["phase"], row["step"], row["loss"], row["held_out_loss"],
                  f"{100 * float(row['held_out_hits']):.1f} %") for row in picked]
    return table(("phase", "step", "loss", "held-out loss", "held-out targets hit"), rows)


def write_card(directory: Path, recipe: Recipe, measured: list[dict[str, Any]], made: str) -> None:
    """Write README.md of the checkpoint from its recipe, its curve and what was measured."""
    geometry = recipe.geometry
    template = (Path(__file__).parent / "card.md").read_text(encoding="utf-8")
    phases = table(("phase", "objective", "steps", "problems a step", "peak rate", "final rate", "warm-up"), [
        (p.name, p.objective, p.steps, p.batch_size, p.peak_rate, p.final_rate, p.warmup_steps) for p in recipe.phases])
    text = template.format(
        made=made, geometry=geometry, recipe=recipe, phases=phases, results=results(measured),
        megabytes=f"{(directory / 'model.safetensors').stat().st_size / 1e6:.1f}",
        curve=curve_table(recipe, read_curve(directory / CURVE)),
        problems=f"{sum(p.steps * p.batch_size for p in recipe.phases) / 1e6:.1f}")
    (directory / CARD).write_text(text, encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Measure (unless --keep) and write the card."""
    parser = argparse.ArgumentParser(prog="python -m fastdllm.train.card", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="tiny")
    parser.add_argument("--problems", type=int, default=512)
    parser.add_argument("--made", default="", help="when and on what it was trained, one sentence for the card")
    parser.add_argument("--keep", action="store_true", help="do not measure again what measured.json has")
    given = parser.parse_args(arguments)
    path = given.directory / MEASURED
    kept = json.loads(path.read_text()) if given.keep and path.exists() else {"made": given.made, "rows": []}
    lm = load(given.directory)
    rows = []
    for setting in SETTINGS:
        wanted = {**vars(setting), "problems": given.problems}
        row = next((row for row in kept["rows"] if wanted.items() <= row.items()), None)
        rows.append(row or measure(lm, setting, given.problems))
        print(json.dumps(rows[-1]), flush=True)
    made = given.made or kept["made"]
    path.write_text(json.dumps({"made": made, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    write_card(given.directory, RECIPES[given.recipe], rows, made)


if __name__ == "__main__":
    main()
