"""The predictions for the 7B: what their commands would leave on disk is read back, and each is held, failed, undecided
or not measured by it."""

from __future__ import annotations

import pandas as pd
import pytest
from lab_support import ROOT, command, invoke, write_record

from fastdllm.lab.config import grid_file
from fastdllm.lab.records.identity import CurrentFingerprints
from fastdllm.report import prediction_claims as claims
from fastdllm.report import predictions

DATA = ROOT / "tests" / "data" / "tasks" / "gsm8k" / "test.jsonl"
# Values that stand in for the 7B's own: no weights here, and no GPU.
HERE = ("model=tiny", f"data={DATA}", "device=cpu")


def left(folder, experiment, answers, forwards=(3, 3), changes=()):
    """The records that an experiment's command leaves below a folder; answers: right ones of the 4 problems by
    configuration, forwards: full ones of each problem at k=1 and at k>1.
    """
    sets = [f"experiment={experiment.name}", *experiment.changes, *HERE, *changes, f"output={folder}"]
    current = CurrentFingerprints()
    for configuration in grid_file.load_part(predictions.PARAMS, limit=predictions.LIMIT, overrides=sets)[1]:
        problems, _ = current.problems(configuration.parameters)
        metric = current.task(current.resolve(configuration.parameters)).metric
        k = configuration.parameters.reuse.k
        write_record(configuration, current, [
            {"id": problem.id, "output": f"#### {index}", "extracted": {metric: str(index)},
             "correct": {metric: index < answers(configuration.name)}, "tokens": 40,
             "nfe": {"prefill": 1, "full": forwards[k > 1], "small": 6, "commit": 1, "replay": 0},
             "decisions": {"recompute": 80, "reuse": 0, "fallback": 0, "bypass": 0}, "seconds": 0.1,
             "executor": "fast"} for index, problem in enumerate(problems)])


def words(*folders):
    return [one.word for one in predictions.standings(folders)[0]]


def test_without_records_nothing_is_held_and_each_command_is_named(tmp_path):
    shown = command("predictions", tmp_path)
    assert "no record of any" in shown and shown.count("not measured: ") == len(predictions.PREDICTIONS)
    for prediction in predictions.PREDICTIONS:
        assert f"to run: {prediction.experiment.command}\n" in f"{shown}\n"
    status, error = invoke("predictions", tmp_path / "nowhere")
    assert status == 1 and "no such folder; allowed: folders that hold experiments" in error


def test_records_are_found_where_the_commands_write_them_and_decide(tmp_path):
    left(tmp_path, predictions.REFRESH, lambda name: 3)
    assert words(tmp_path) == ["held", *["not measured"] * 6]
    left(tmp_path, predictions.RUN_2, lambda name: 4 if name.endswith("first") else 1)
    left(tmp_path, predictions.SPEED, lambda name: 3)
    assert words(tmp_path)[3] == "failed", "middle and last are 75 points below first"
    assert words(tmp_path)[6] == "undecided", "a CPU's clock decides no speed"
    shown = command("predictions", tmp_path)
    assert "records of tiny" in shown and "k=2: first 4, middle 1, last 1" in shown and "a CPU" in shown


def test_a_prediction_of_two_commands_reads_two_folders(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    left(ours, predictions.REFRESH, lambda name: 3)
    left(theirs, predictions.REPLAY, lambda name: 3, forwards=(3, 1))
    assert words(ours)[5] == words(theirs)[5] == "not measured"
    assert words(ours, theirs)[5] == "held"
    [replay] = [one for one in predictions.standings([theirs])[0] if one.prediction.experiment is predictions.REPLAY]
    assert replay.missing == (predictions.REFRESH.command,)


def test_records_of_other_settings_are_refused_by_name(tmp_path):
    left(tmp_path, predictions.REFRESH, lambda name: 3, changes=["revision=6c8822f"])
    status, error = invoke("predictions", tmp_path)
    assert status == 1 and "revision='6c8822f', not '26d6179'" in error and predictions.REFRESH.command in error


def test_a_problem_differs_in_what_both_sides_kept():
    a = pd.DataFrame({"right": [1, 0], "tokens": [9, 9], "output": ["x", None]}, index=["p", "q"])
    b = pd.DataFrame({"right": [1, 0], "tokens": [9, 9], "output": ["y", "z"]}, index=["p", "q"])
    assert claims.problems_apart(claims.Run(a), claims.Run(b), ["right", "tokens", "output"]).tolist() == [True, False]
    assert not claims.problems_apart(claims.Run(a), claims.Run(b), ["right", "tokens"]).any()


@pytest.mark.parametrize("prediction", predictions.PREDICTIONS, ids=lambda each: each.experiment.name)
def test_what_a_prediction_reads_is_what_its_commands_make(prediction):
    for experiment in prediction.experiments:
        sets = [f"experiment={experiment.name}", *experiment.changes]
        _, made = grid_file.load_part(predictions.PARAMS, limit=predictions.LIMIT, overrides=sets)
        assert set(prediction.reads) <= {each.name for each in made}


def test_replay_that_skips_no_forward_fails():
    run = claims.Run(pd.DataFrame({"right": 1, "tokens": 9, "forwards": 5, "output": "x"}, index=["p", "q"]))
    same = dict.fromkeys(claims.MIDDLE, run)
    assert claims.replay_is_output(same, same).state is False


def test_ten_points_are_ten_points():
    """70 against 80 of 100 is within 10 points, whatever 0.8 is in binary."""
    runs = {right: claims.Run(pd.DataFrame({"right": [1] * right + [0] * (100 - right)})) for right in (69, 70, 80)}
    assert claims.points(runs[80], runs[70]) == -10 and claims.points(runs[80], runs[69]) == -11
