"""The policies that lie beside the notebooks run as a reader would run them."""

import math
import shutil
from pathlib import Path

import pytest

import fastdllm
from fastdllm import Decoding, Reuse
from fastdllm.report import cost_model

FOLDER = Path(__file__).parent.parent / "notebooks" / "policies"
DECODING = Decoding(threshold=1.0, mask_id=511, stop_ids=(), max_new_tokens=20)
POLICIES = ("topk_tokens", "refresh_least_similar")


def steps(golden, prompts, policy, k=2, folder=FOLDER, **settings):
    reuse = Reuse(k=k, layers="middle", policy=str(folder / f"{policy}.py"), **settings)
    return list(fastdllm.denoise(golden, prompts, decoding=DECODING, reuse=reuse, executor="eager"))


def confidences(made):
    return [value for step in made for value in step.confidence if value == value]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("settings", [{}, {"full_forwards": True}, {"k": 4}])
def test_partial_policies_give_finite_answers_in_a_batch_and_alone(golden, golden_prompts, policy, settings):
    prompts = [golden_prompts["p33"], golden_prompts["p40"]]
    made = steps(golden, prompts, policy, **settings)
    assert confidences(made) and all(math.isfinite(value) and 0 < value <= 1 for value in confidences(made))
    alone = [step.tokens for step in steps(golden, prompts[:1], policy, **settings)]
    assert [step.tokens for step in made if step.row == 0] == alone


def test_all_positions_computed_is_k1_and_fewer_is_not(golden, golden_prompts, tmp_path):
    for name in POLICIES:
        shutil.copy(FOLDER / f"{name}.py", tmp_path)
    (tmp_path / "everything.py").write_text(
        "from topk_tokens import Policy as TopkTokens\nclass Policy(TopkTokens):\n    share = 1.0\n")
    prompts = [golden_prompts["p33"]]
    plain = confidences(fastdllm.denoise(golden, prompts, decoding=DECODING, executor="eager"))
    assert confidences(steps(golden, prompts, "everything", folder=tmp_path)) == pytest.approx(plain, rel=1e-4)
    parted = [confidences(steps(golden, prompts, name)) for name in POLICIES]
    assert all(one != pytest.approx(plain, rel=1e-3) for one in parted)
    assert parted[0] != pytest.approx(parted[1], rel=1e-3)


@pytest.mark.parametrize("policy", POLICIES)
def test_partial_policies_are_predicted_to_save_nothing(policy):
    """They read all weights of the layers of which they compute some positions."""
    nfe, path = {"prefill": 1, "full": 10, "small": 20, "commit": 2}, str(FOLDER / f"{policy}.py")
    plain = cost_model.predicted_seconds(nfe, 0, path, "fixed")
    assert cost_model.predicted_seconds(nfe, 120, path, "fixed") == plain
    assert cost_model.predicted_seconds(nfe, 120, "output", "fixed") < plain
