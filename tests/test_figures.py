"""Every figure of the suite, drawn from small data: no text lies upon another one, none leaves the canvas."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import cache
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from report_support import fill, modules_that_show

import fastdllm
from fastdllm import Decoding, Reuse, stats
from fastdllm.display import figures as house
from fastdllm.investigation.collapse import phase6, phase6_figures, real_model, similarity
from fastdllm.investigation.speed import batching, gpu_measurements, pareto, sweeps, throughput
from fastdllm.lab import records
from fastdllm.lab.config.grid import Grid
from fastdllm.report import cell_report, figures, shipped, summary_tables, tables
from fastdllm.report.audit import sources
from fastdllm.report.results import Results
from fastdllm.ui import recording, strip

GPU = "benchmarks/results/h200_2026-11-21.json"
PRODUCTS = "benchmarks/results/h200_products_2026-11-21.json"
WAYS = (("k=1", 1.0), ("k=2 output middle", 1.05), ("k=3 output middle", 1.12), ("k=3 verify", 1.31))
REVISIONS = ("8e18baac", "6c8822f", "26d6179")


def written(figure: Figure) -> list[Text]:
    """The texts of a figure that can be seen, those of ticks outside the axes' limits left out."""
    figure.draw_without_rendering()
    hidden = {id(label) for axis in figure.findobj(Axis) for label in axis.get_ticklabels(which="both")
              if not inside(axis, label)}
    return [text for text in figure.findobj(Text)
            if text.get_text().strip() and text.get_visible() and id(text) not in hidden and shown(text)]


def inside(axis: Axis, label: Text) -> bool:
    low, high = sorted(axis.get_view_interval())
    at = label.get_position()[0 if axis.axis_name == "x" else 1]
    return low - 1e-9 <= at <= high + 1e-9


def shown(text: Text) -> bool:
    return text.axes is None or (text.axes.get_visible() and (text.axes.axison or text in text.axes.texts))


def faults(figure: Figure) -> list[str]:
    """What can't be read: pairs of texts that lie upon each other, and texts that leave the canvas."""
    boxes = [(text.get_text(), text.get_window_extent()) for text in written(figure)]
    width, height = figure.get_size_inches() * figure.dpi
    out = [f"{name!r} leaves the canvas" for name, box in boxes
           if min(box.x0, box.y0, width - box.x1, height - box.y1) < 2]
    return out + [f"{one!r} lies upon {other!r}" for (one, a), (other, b) in combinations(boxes, 2)
                  if min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1]


@cache
def lm():
    return fastdllm.load("tiny")


@cache
def traced():
    ids = phase6.prompts(lm(), "arithmetic", 2)
    return phase6.traced(lm(), ids, Decoding(threshold=0.9, max_new_tokens=64), Reuse(k=3, layers="middle"),
                         "6c8822f", distance=True)


@cache
def run():
    return recording.record(lm(), phase6.prompts(lm(), "arithmetic", 1)[0],
                            decoding=Decoding(threshold=0.9, max_new_tokens=48), reuse=Reuse(k=2, layers="middle"))


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Results:
    made = Grid(experiment="x", output=str(tmp_path_factory.mktemp("x")), limit=60,
                axes={"k": [1, 2, 3], "layers": ["first", "middle", "last"]})
    fill(made, lambda c: (0.95 - 0.01 * c.parameters.reuse.k * (1 + ["first", "middle", "last"].index(
        str(c.parameters.reuse.layers))), 0.02, 60))
    return Results.of(made)


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """No reuse at thresholds that score alike (labels that used to pile up), and every policy."""
    configs = [{"k": 1, "layers": "middle", "threshold": t} for t in (0.5, 0.7, 0.8, 0.9, 0.95, 1.0)]
    configs += [{"k": k, "layers": "middle", "policy": policy, "threshold": 0.9} for k in (2, 3)
                for policy in ("output", "residual", "token", "adaptive", "replay")]
    configs += [{"k": k, "policy": "verify", "threshold": 0.9} for k in (2, 3)]
    made = Grid(experiment="f", output=str(tmp_path_factory.mktemp("f")), limit=60, configs=configs)
    fill(made)
    return Results.of(made)


def accuracies(names: tuple[str, ...] = REVISIONS, n: int = 10) -> pd.DataFrame:
    rows = [(name, k, layers, 0.8) for name in names for k in (1, 2, 3) for layers in ("first", "middle", "last")]
    low, high = stats.wilson(8, 10)
    return pd.DataFrame(rows, columns=["name", "k", "layers", "accuracy"]).assign(low=low, high=high, n=n)


def measured() -> tuple[pd.DataFrame, pd.DataFrame]:
    return gpu_measurements.forwards(GPU), pd.DataFrame(gpu_measurements.read(PRODUCTS)["products"])


def published() -> pd.DataFrame:
    return sources.published().rows


# One way at least to draw each function that returns a figure.
DRAWN: dict[Callable[..., Figure], Callable[[Results, Results], list[Figure]]] = {
    figures.grid_figure: lambda grid, front: [
        figures.grid_figure(tables.grid_table(grid), "a title"), figures.grid_figure(tables.grid_table(front)),
        figures.grid_figure(summary_tables.published_table("jan_full", "gsm8k")), figures.grid_figure(
            tables.grid_table(front).assign(config=lambda table: table["config"] + "_26d6179+full_block_every_k=1"))],
    figures.runs_figure: lambda grid, front: [figures.runs_figure(published())],
    figures.nodes_figure: lambda grid, front: [figures.nodes_figure(published())],
    cell_report.figure: lambda grid, front: [cell_report.figure(
        record, records.samples(state.configuration.directory)) for state, record in grid.recorded[-1:]],
    cell_report.trace_figure: lambda grid, front: [cell_report.trace_figure(run())],
    strip.figure: lambda grid, front: [strip.figure(run()), strip.figure(run(), mark=4)],
    pareto.figure: lambda grid, front: [pareto.figure(pareto.table(front))],
    sweeps.threshold_figure: lambda grid, front: [sweeps.threshold_figure(thresholds(front))],
    batching.figure: lambda grid, front: [batching.figure(pd.concat([pd.DataFrame({
        "way": way, "batch_size": [1, 4, 16, 32], "tokens_per_second": [314.0, 442, 604, 563], "speedup": speedup,
        "runs": runs, "forwards_run": [2100, 2100, 2100, 2000],
        "latency": [0.2, 0.5, 1.3, 2.7], "latency_95": [0.2, 0.7, 1.8, 3.8], "memory": [4.9e8, 5e8, 5.6e8, 6.3e8],
        "memory_of": "process", "n": 96}) for way, speedup in WAYS[:ways]])) for ways in (1, 4) for runs in (1, 3)],
    throughput.ceilings: lambda grid, front: [throughput.ceilings(throughput.mixes(1, 0.9))],
    throughput.january_figure: lambda grid, front: [throughput.january_figure(throughput.january())],
    gpu_measurements.roofline: lambda grid, front: [gpu_measurements.roofline(*measured())],
    phase6_figures.denoise_figure: lambda grid, front: [phase6_figures.denoise_figure(block(), lm())],
    phase6_figures.revisions_figure: lambda grid, front: [
        phase6_figures.revisions_figure(accuracies(), "a title"), phase6_figures.revisions_figure(
            accuracies(REVISIONS[:1]).query("k > 1"), "without k=1", published=accuracies(REVISIONS[:1]))],
    phase6_figures.layer_step_figure: lambda grid, front: [phase6_figures.layer_step_figure(traced())],
    phase6_figures.served_figure: lambda grid, front: [phase6_figures.served_figure(pd.concat(
        [phase6.staleness(traced()).assign(name=name) for name in REVISIONS[1:]]))],
    phase6_figures.distance_figure: lambda grid, front: [phase6_figures.distance_figure(traced())],
    phase6_figures.cache_figure: lambda grid, front: [phase6_figures.cache_figure(cached(8)),
                                                      phase6_figures.cache_figure(cached(0, 8)),
                                                      phase6_figures.cache_figure(cached(0))],
    real_model.run_1_figure: lambda grid, front: [real_model.run_1_figure(real_model.run_1(shipped.read()))],
    phase6_figures.power_figure: lambda grid, front: [phase6_figures.power_figure(
        [(0.96, 0.49, "here: 96% against 49%"), (0.7, 0.1, "log: 70 % against 10 %"), (0.737, 0.672, "January")],
        [5, 10, 50, 200, 1319], [10, 1319])],
    phase6_figures.similarity_figure: lambda grid, front: [
        phase6_figures.similarity_figure(alike(), "position"), phase6_figures.similarity_figure(alike(), "step"),
        phase6_figures.similarity_figure(alike(), "position", "residual")],
}


@pytest.fixture(scope="module")
def figures_of(grid: Results, front: Results) -> Callable[[Callable[..., Figure]], list[Figure]]:
    """The figures of a drawing function, drawn once for all tests of them."""
    return cache(lambda draw: DRAWN[draw](grid, front))


def thresholds(front: Results) -> pd.DataFrame:
    plain = [state for state, record in front.recorded if record.parameters.reuse.k == 1]
    return sweeps.threshold_table(Results(front.grid, plain))


def block() -> list:
    steps = list(fastdllm.denoise(lm(), [phase6.prompts(lm(), "arithmetic", 1)[0]],
                                  decoding=Decoding(threshold=0.9, max_new_tokens=48)))
    first = next(step.block for step in steps if step.small_block is not None)
    return [step for step in steps if step.block == first]


def cached(*values: int) -> pd.DataFrame:
    """Differences of 28 layers x 12 forwards that take these values in turn."""
    return pd.DataFrame([{"prompt": 0, "layer": layer, "forward": forward, "reused": 8 <= layer < 20,
                          "positions": values[(layer + forward) % len(values)]}
                         for layer in range(28) for forward in range(12)])


@cache
def alike() -> pd.DataFrame:
    return similarity.similarity(lm(), phase6.prompts(lm(), "arithmetic", 1),
                                 Decoding(threshold=1.0, max_new_tokens=32))


def drawing_functions() -> set[Callable[..., Figure]]:
    return {function for module in modules_that_show()
            for name, function in inspect.getmembers(module, inspect.isfunction)
            if function.__module__ == module.__name__ and not name.startswith("_")
            and inspect.signature(function).return_annotation in ("Figure", Figure)}


def test_every_figure_is_tried_here() -> None:
    assert drawing_functions() == set(DRAWN)


@pytest.mark.parametrize("draw", DRAWN, ids=lambda each: f"{each.__module__.rsplit('.', 1)[-1]}.{each.__name__}")
def test_every_text_of_a_figure_can_be_read(
        draw: Callable[..., Figure], figures_of: Callable[[Callable[..., Figure]], list[Figure]]) -> None:
    for figure in figures_of(draw):
        assert faults(figure) == []
        assert figure.get_facecolor() == (1, 1, 1, 1), "a figure stands on a white ground on a dark page too"


UNITS = re.compile(r"%|/s\b|\bMB\b|\bms\b|seconds|token|forward|step|position|layer|block|batch size|problems|answers|"
                   r"confidence|speed-up|cosine|distance|FLOP|share|over those of")


def unnamed(figure: Figure) -> list[str]:
    """Axes with numbers on them that nothing names, names without a unit or without what is counted, and accuracies
    without their n. A panel's title may name its y axis."""
    wrong = []
    for axes in figure.axes:
        for axis, sharing in ((axes.xaxis, axes.get_shared_x_axes()), (axes.yaxis, axes.get_shared_y_axes())):
            ticks = [label.get_text() for label in axis.get_ticklabels() if inside(axis, label)]
            numbers = axis.get_visible() and axes.axison and all(
                re.fullmatch(r"[-\u2212\d.]+|\$.*\$", text) for text in ticks if text) and any(ticks)
            others = [other for other in figure.axes if other is axes or sharing.joined(axes, other)]
            said = " ".join([*(other.get_xlabel() if axis is axes.xaxis else other.get_ylabel() for other in others),
                             *(axes.get_title(loc) for loc in ("left", "center", "right")),
                             figure.get_suptitle()])
            if numbers and not UNITS.search(said):
                wrong.append(f"{axis.axis_name}: {ticks[:3]} of {said!r}")
            if numbers and "accuracy" in said and not re.search(r"(?s)%.*n = |n = .*%", said):
                wrong.append(f"{axis.axis_name}: {said!r}")
    return wrong


@pytest.mark.parametrize("draw", DRAWN, ids=lambda each: f"{each.__module__.rsplit('.', 1)[-1]}.{each.__name__}")
def test_every_axis_says_what_is_counted_in_which_unit(
        draw: Callable[..., Figure], figures_of: Callable[[Callable[..., Figure]], list[Figure]]) -> None:
    for figure in figures_of(draw):
        assert unnamed(figure) == []


def test_the_measure_sees_an_axis_without_a_name_and_an_accuracy_without_its_n() -> None:
    figure = Figure()
    axes = figure.subplots()
    axes.plot([1, 2], [3, 4])
    axes.set(xlabel="batch size")
    assert unnamed(figure)[0].startswith("y: ")
    axes.set(ylabel="accuracy %")
    assert len(unnamed(figure)) == 1 and "accuracy" in unnamed(figure)[0]
    axes.set(ylabel="accuracy %, 95 % interval, n = 64")
    assert unnamed(figure) == []


@pytest.mark.parametrize(("labels", "fault"), [
    ([(0.5, 0.5, "one"), (0.51, 0.5, "two")], "lies upon"), ([(0.99, 0.5, "a long label")], "leaves the canvas"),
    ([(0.2, 0.5, "one"), (0.6, 0.5, "two")], "")])
def test_the_measure_sees_piles_and_clipped_labels(labels: list[tuple[float, float, str]], fault: str) -> None:
    figure = Figure(figsize=(4, 2))
    for x, y, label in labels:
        figure.text(x, y, label)
    seen = faults(figure)
    assert bool(seen) == bool(fault) and fault in " ".join(seen)


def test_a_batch_sweep_shows_tokens_per_second_only_where_each_ran_three_times(
        figures_of: Callable[[Callable[..., Figure]], list[Figure]]) -> None:
    once, repeated = figures_of(batching.figure)[2:]
    titles = [[axes.get_title("left") for axes in figure.axes[:2]] for figure in (once, repeated)]
    assert titles == [["forwards run, of all answers", "predicted tokens/s over those of k=1 at this batch size"],
                      ["tokens/s, mean of the runs", "tokens/s over those of k=1 at this batch size"]]
    names = [[text.get_text() for text in figure.axes[0].get_legend().get_texts()] for figure in (once, repeated)]
    assert ("if rows cost nothing" not in names[0]) and "if rows cost nothing" in names[1]
    assert all(len(each) == len(figure.axes[0].lines) for each, figure in zip(names, (once, repeated), strict=True))


def test_points_of_january_stand_by_their_node() -> None:
    axes = throughput.january_figure(throughput.january()).axes[0]
    off = [abs(x - round(x)) for line in axes.lines for x in line.get_xdata()]
    assert len(off) == 9 and max(off) < 0.1


def test_boxes_of_distances_have_the_colours_of_the_suite(
        figures_of: Callable[[Callable[..., Figure]], list[Figure]]) -> None:
    [figure] = figures_of(phase6_figures.distance_figure)
    right = figure.axes[1]
    assert right.patches and {house.BLUE} == {line.get_color() for line in right.lines}


def test_a_figure_function_leaves_no_open_figure() -> None:
    before = plt.get_fignums()
    throughput.january_figure(throughput.january())
    assert plt.get_fignums() == before


def test_an_interval_that_is_not_known_is_not_drawn() -> None:
    figure = Figure()
    axes = figure.subplots()
    house.interval(axes, 0, 1.0, np.nan, np.nan)
    assert axes.containers[0].has_xerr is False
