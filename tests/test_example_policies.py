"""The policies that lie beside the notebooks run as a reader would run them."""

import math
import shutil
from pathlib import Path

import pytest
import torch

import fastdllm
from fastdllm import Decoding, Reuse
from fastdllm.decode import revisions
from fastdllm.decode.policies import AdaptivePolicy, Original, policy_class
from fastdllm.decode.step import Forward
from fastdllm.report import cost_model

FOLDER = Path(__file__).parent.parent / "notebooks" / "policies"
DECODING = Decoding(threshold=1.0, mask_id=511, stop_ids=(), max_new_tokens=20)
PARTIAL = ("topk_tokens", "refresh_least_similar")
POLICIES = (*PARTIAL, "layer_average")


def steps(golden, prompts, policy, k=2, folder=FOLDER, **settings):
    reuse = Reuse(k=k, layers="middle", policy=str(folder / f"{policy}.py"), **settings)
    return list(fastdllm.denoise(golden, prompts, decoding=DECODING, reuse=reuse, executor="eager"))


def confidences(made):
    return [value for step in made for value in step.confidence if value == value]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("settings", [{}, {"full_forwards": True}, {"k": 4}])
def test_policies_give_finite_answers_in_a_batch_and_alone(golden, golden_prompts, policy, settings):
    prompts = [golden_prompts["p33"], golden_prompts["p40"]]
    made = steps(golden, prompts, policy, **settings)
    assert confidences(made) and all(math.isfinite(value) and 0 < value <= 1 for value in confidences(made))
    alone = [step.tokens for step in steps(golden, prompts[:1], policy, **settings)]
    assert [step.tokens for step in made if step.row == 0] == alone


def test_all_positions_computed_is_k1_and_fewer_is_not(golden, golden_prompts, tmp_path):
    for name in PARTIAL:
        shutil.copy(FOLDER / f"{name}.py", tmp_path)
    (tmp_path / "everything.py").write_text(
        "from topk_tokens import Policy as TopkTokens\nclass Policy(TopkTokens):\n    share = 1.0\n")
    prompts = [golden_prompts["p33"]]
    plain = confidences(fastdllm.denoise(golden, prompts, decoding=DECODING, executor="eager"))
    assert confidences(steps(golden, prompts, "everything", folder=tmp_path)) == pytest.approx(plain, rel=1e-4)
    parted = [confidences(steps(golden, prompts, name)) for name in PARTIAL]
    assert all(one != pytest.approx(plain, rel=1e-3) for one in parted)
    assert parted[0] != pytest.approx(parted[1], rel=1e-3)


@pytest.mark.parametrize("policy", PARTIAL)
def test_partial_policies_are_predicted_to_save_nothing(policy):
    """They read all weights of the layers of which they compute some positions."""
    nfe, path = {"prefill": 1, "full": 10, "small": 20, "commit": 2}, str(FOLDER / f"{policy}.py")
    plain = cost_model.predicted_seconds(nfe, 0, path, "fixed")
    assert cost_model.predicted_seconds(nfe, 120, path, "fixed") == plain
    assert cost_model.predicted_seconds(nfe, 120, "output", "fixed") < plain


@pytest.mark.parametrize("settings", [{}, {"full_forwards": True}, {"k": 4}])
def test_all_layers_skipped_is_residual_and_none_is_k1(golden, golden_prompts, tmp_path, settings):
    shutil.copy(FOLDER / "layer_average.py", tmp_path)
    for name, threshold in (("always", -1.0), ("never", 1.1)):
        (tmp_path / f"{name}.py").write_text(
            f"from layer_average import Policy as Average\nclass Policy(Average):\n    threshold = {threshold}\n")
    prompts = [golden_prompts["p33"], golden_prompts["p40"]]
    always, never = (confidences(steps(golden, prompts, name, folder=tmp_path, **settings))
                     for name in ("always", "never"))
    residual = Reuse(**{"k": 2, **settings}, layers="middle", policy="residual")
    made = confidences(fastdllm.denoise(golden, prompts, decoding=DECODING, reuse=residual, executor="eager"))
    plain = confidences(fastdllm.denoise(golden, prompts, decoding=DECODING, executor="eager"))
    assert always == pytest.approx(made, rel=1e-5) and always != pytest.approx(plain, rel=1e-3)
    assert never == pytest.approx(plain, rel=1e-5)


class Turned(Original):
    """A layer that turns its input by a right angle."""

    def whole(self, hidden):
        return hidden.flip(-1) * torch.tensor([-1.0, 1.0])


def test_layer_average_lets_small_changes_add_up_and_adaptive_does_not():
    """An input that turns by 8 degrees a step, whose cosine to the one before is 0.99."""
    decided = {}
    for name, kind in (("layer_average", policy_class(str(FOLDER / "layer_average.py"))), ("adaptive", AdaptivePolicy)):
        policy = kind(Reuse(k=100, layers="0-0", similarity=0.97), revisions.get("fixed"), (0,), 1, 4)
        decided[name] = []
        for step in range(6):
            angle = torch.tensor(8 * step).deg2rad()
            hidden = torch.stack([angle.cos(), angle.sin()]).expand(1, 4, 2)
            forward = Forward(0, 0, step, "small", 0, 0, step, 0, (1,) * 4, 4, (0,), (True,) * 4, 0)
            output, decisions = policy.run(0, hidden, [forward], policy.plan(forward), Turned())
            decided[name] += decisions
            if name == "layer_average":
                assert torch.allclose(output - hidden, torch.tensor([-1.0, 1.0]), atol=1e-6), "added as in step 0"
    assert decided == {"layer_average": ["recompute"] + 5 * ["reuse"],
                       "adaptive": ["recompute", "reuse"] * 3}
