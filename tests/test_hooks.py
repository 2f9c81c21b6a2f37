"""Hook points: seen in order, by name, replaceable, and gone when the block ends."""

import pytest
import torch

import fastdllm
from fastdllm import Decoding, Reuse

DECODING = Decoding(threshold=1.0, mask_id=511, stop_ids=(), max_new_tokens=12)
REUSE = Reuse(k=2, layers="8-9")


@pytest.fixture
def forward(golden, golden_prompts):
    """One prefill of the golden network: hidden states and logits."""
    def run():
        cache = golden.network.new_cache(1, 32)
        context = golden.network.context(cache, "prefill", (0,), [0], 32, [32])
        with torch.inference_mode():
            hidden = golden.network(torch.tensor([golden_prompts["p32"]]), context, cache)
            return hidden, golden.network.logits(hidden)
    return run


def test_points_come_in_the_order_of_the_forward(golden, forward):
    seen = []
    with golden.network.hooks({"*": lambda value, point: seen.append((point.name, point.layer, tuple(value.shape)))}):
        forward()
    assert seen[0] == ("tokens", None, (1, 32)) and seen[-1] == ("logits", None, (1, 32, 512))
    for layer in range(28):
        assert seen[1 + 4 * layer:5 + 4 * layer] == [
            (f"layers.{layer}.{part}", layer, (1, 32, 64)) for part in ("input", "attention", "mlp", "output")]
    assert len(seen) == 2 + 4 * 28


def test_what_a_hook_returns_goes_on(golden, forward):
    plain, logits = forward()
    with golden.network.hooks({"layers.27.output": lambda value, _: torch.zeros_like(value)}):
        assert not forward()[0].any()
    with golden.network.hooks({"logits": lambda value, _: value + 1}):
        assert torch.equal(forward()[1], logits + 1)
    with golden.network.hooks({"tokens": lambda value, _: value.flip(1)}):
        assert not torch.equal(forward()[0], plain)
    assert torch.equal(forward()[0], plain)


def test_hooks_at_one_point_are_called_in_order(golden, forward):
    plain, _ = forward()
    with (golden.network.hooks({"layers.27.output": lambda value, _: value * 2}),
          golden.network.hooks({"layers.2?.output": lambda value, point: value + 1 if point.layer == 27 else None})):
        assert torch.equal(forward()[0], plain * 2 + 1)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_hooks_are_gone_after_an_error(golden, forward, error):
    """Raised by the hook itself, and in the block around it."""
    plain, _ = forward()

    def explode(*_):
        raise error
    with pytest.raises(error), golden.network.hooks({"layers.*.mlp": explode, "logits": explode}):
        forward()
    with pytest.raises(error), golden.network.hooks({"layers.3.output": lambda value, _: value * 0}):
        raise error
    assert torch.equal(forward()[0], plain)
    assert not golden.network.hook_points.listeners


@pytest.mark.parametrize("name", ["layer.3.output", "layers.28.output", "layers.3", "embed", "layers.*.head"])
def test_an_unknown_point_is_refused_by_name(golden, name):
    with (pytest.raises(ValueError, match=rf"hooks: '{name.replace('*', '.')}'; allowed: tokens.*logits"),
          golden.network.hooks({name: lambda *_: None, "logits": lambda *_: None})):
        pass
    assert not golden.network.hook_points.listeners


def test_a_reused_layer_has_an_output_and_computes_nothing(golden, golden_prompts):
    """With a policy at work: what goes on is the stand-in, attention and MLP are passed by, no layer is patched."""
    calls, outputs = [], {}

    def keep(value, point):
        calls.append((point.context.kind, point.name))
        if point.name == "layers.9.output":
            outputs.setdefault(len(outputs), value.clone())

    traced = fastdllm.Trace()
    with golden.network.hooks({"layers.9.*": keep}):
        fastdllm.generate(golden, [golden_prompts["p5"]], decoding=DECODING, reuse=REUSE, trace=traced)
    frame = traced.frame()
    frame = frame[frame.layer == 9]
    counts = {part: sum(name == f"layers.9.{part}" for _, name in calls) for part in ("input", "mlp", "output")}
    assert counts["input"] == counts["output"] == counts["mlp"] + (frame.decision == "reuse").sum()
    served = frame[(frame.decision == "reuse") & (frame.kind == "small")].iloc[0]
    stored, start = outputs[int(served.served_forward)], int(served.slice_start)
    assert torch.equal(outputs[int(served.forward)], stored[:, start:int(served.slice_stop)])
