"""A model that predicts the mask token itself: no step may unmask nothing and go on for ever."""

import pytest
import torch
from golden_support import GOLDEN

import fastdllm
from fastdllm import Decoding, Reuse, cli
from fastdllm.cli import chat
from fastdllm.model.errors import NothingUnmasked

MASK = 511
DECODING = Decoding(threshold=0.9, mask_id=MASK, stop_ids=(), max_new_tokens=24)


def predict_mask(lm, positions=slice(None)):
    """A hook that makes the mask token the argmax at some of the positions that are read."""
    def hook(logits, _point):
        changed = logits.clone()
        changed[:, positions, MASK] = 1e4
        return changed
    return lm.network.hooks({"logits": hook})


@pytest.mark.parametrize("reuse", [Reuse(), Reuse(k=2, layers="middle"), Reuse(k=2, layers="last", policy="replay")],
                         ids=lambda reuse: f"{reuse.policy}-k{reuse.k}")
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_eager_executor_names_row_block_and_step(golden, golden_prompts, reuse, temperature):
    decoding = DECODING.model_copy(update={"temperature": temperature})
    with predict_mask(golden), pytest.raises(NothingUnmasked, match=(
            r"row 0, block 1, step 0 \(full forward, small block 0\): nothing is unmasked.* mask token 511")):
        fastdllm.generate(golden, [golden_prompts["p33"]], decoding=decoding, reuse=reuse)


@pytest.mark.parametrize(("executor", "threads"), [("fast", 1), ("fast", 2), ("eager", 1)])
def test_every_executor_ends(golden_prompts, executor, threads):
    """The fast one has no hook points: there all logits are zero, and of equals the first is the argmax, token 0."""
    lm = fastdllm.load(GOLDEN, device="cpu")
    with torch.no_grad():
        lm.network.model.norm.weight.zero_()
    decoding = DECODING.model_copy(update={"mask_id": 0})
    prompts = [golden_prompts["p5"], golden_prompts["p33"]]
    with pytest.raises(NothingUnmasked, match=r"row \d, block \d, step 0 .*mask token 0 itself"):
        fastdllm.generate(lm, prompts, decoding=decoding, executor=executor, threads=threads)


def test_a_chat_and_a_command_say_it_in_one_sentence(golden, golden_prompts, capsys, monkeypatch):
    """The chat goes on with the next question, a command ends with status 1; neither shows a traceback."""
    class Talk:
        def ask(self, *_):
            with predict_mask(golden):
                yield from fastdllm.denoise(golden, [golden_prompts["p5"]], decoding=DECODING)

    chat.answer(Talk(), "hello", False)
    assert capsys.readouterr().out.startswith("(row 0, block 0, step 0 (full forward, small block 0): nothing")
    monkeypatch.setattr(cli, "app", lambda: list(Talk().ask()))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1 and capsys.readouterr().err.startswith("fastdllm: row 0, block 0, step 0")


def test_a_step_that_unmasks_something_goes_on(golden, golden_prompts):
    """Where only some predictions are the mask token, those positions stay masked and are never called unmasked."""
    steps = []
    with predict_mask(golden, slice(2, 3)), pytest.raises(NothingUnmasked, match="small block 0"):
        steps += fastdllm.denoise(golden, [golden_prompts["p32"]],
                                  decoding=DECODING.model_copy(update={"threshold": 0.0}))
    first = next(step for step in steps if step.kind == "full")
    assert sum(first.unmasked) == 6 and not first.unmasked[2] and first.tokens[2] == MASK
