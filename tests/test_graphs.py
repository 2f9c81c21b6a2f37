"""The fast executor gives the steps of the eager one: uncaptured here, captured and with kernels on a GPU."""

import ast
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import fastdllm
from fastdllm import Decoding, Execution, Reuse
from fastdllm.decode.fast import Fast, runs
from fastdllm.decode.generate import build, generate_rows
from fastdllm.decode.loop import Engine
from fastdllm.decode.policies import BUILT_IN
from fastdllm.decode.revisions import get
from fastdllm.model import attention, attention_parts, kernels, shared_attention
from fastdllm.model.config import ModelConfig
from fastdllm.model.errors import NonFiniteLogits
from fastdllm.model.graphs import buckets, packed
from fastdllm.model.lm import LM
from fastdllm.model.network import Network, rotate
from fastdllm.model.positions import RowPositions
from fastdllm.model.products import Tiling, Workspace, linear
from fastdllm.model.static import TorchOps

GOLDEN = Path(__file__).parent / "golden"
DECODING = Decoding(threshold=0.6, max_new_tokens=40, stop_ids=(510,), mask_id=511)
ROUNDING = 1e-2                   # of kernels in half precision
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def reuses(first: str, middle: str, last: str, apart: str) -> list[Reuse]:
    """No reuse, and every policy of the fast executor, on these layers."""
    return [Reuse(), Reuse(k=2, layers=middle), Reuse(k=3, layers=apart, policy="residual"),
            Reuse(k=2, layers=last, policy="replay"), Reuse(k=2, layers=middle, full_forwards=True),
            Reuse(k=3, layers=first, policy="replay", full_forwards=True)]


REUSES = reuses("first", "middle", "last", "0,3-5,27")      # of 28 layers
SHALLOW = reuses("1", "1-2", "2-3", "0,2-3")                # of the shallow network's four


def prompts(lengths: tuple[int, ...], seed: int = 1) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(500) for _ in range(length)] for length in lengths]


def decode(lm: LM, executor: str, ids: list[list[int]], reuse: Reuse, revision: str, batch: int,
           decoding: Decoding = DECODING):
    """All steps, row by row, and each row's tokens, NFE and decisions."""
    plan, _ = build(lm, ids, decoding, reuse, revision, Execution(batch_size=batch), None)
    engine = Engine(lm, plan.rules, decoding, reuse, len(plan.slots), 160, executor=executor)
    steps = [(s.row, s.kind, s.block, s.tokens, s.unmasked) for s in engine.steps(iter(enumerate(ids)))]
    return (sorted(steps, key=lambda step: step[0]),
            {row.index: (row.generated, row.nfe, row.decisions) for row in engine.finished})


@pytest.mark.parametrize("reuse", SHALLOW, ids=lambda reuse: f"{reuse.policy}-k{reuse.k}-{reuse.full_forwards}")
@pytest.mark.parametrize(("revision", "batch"), [("fixed", 3), ("6c8822f", 1)])
def test_fast_equals_eager(shallow: LM, reuse: Reuse, revision: str, batch: int):
    """Step for step, in float32, rows of unequal length, idle rows in the bucket."""
    ids = prompts((5, 64, 40, 33))
    assert decode(shallow, "fast", ids, reuse, revision, batch) == decode(shallow, "eager", ids, reuse, revision, batch)


@pytest.mark.parametrize("reuse", REUSES[2:4], ids=lambda reuse: reuse.policy)
def test_fast_equals_eager_on_28_layers(golden: LM, reuse: Reuse):
    ids = prompts((40, 33))
    assert decode(golden, "fast", ids, reuse, "fixed", 2) == decode(golden, "eager", ids, reuse, "fixed", 2)


@pytest.mark.parametrize(("reuse", "revision", "word"), [
    (Reuse(k=2, layers="last", policy="token"), "fixed", "policy token"),
    (Reuse(k=2, layers="last"), "8e18baac", "8e18baac"), (Reuse(k=2, layers="last"), "6d2a9a8", "6d2a9a8")])
def test_fast_names_what_it_cannot_do(reuse: Reuse, revision: str, word: str):
    with pytest.raises(ValueError, match=f"executor='fast': .*{word}.*allowed: executor='eager'"):
        decode(fastdllm.load(GOLDEN, device="cpu"), "fast", prompts((5,)), reuse, revision, 1)


def test_auto_takes_the_reference_where_hooks_listen():
    """The fast executor has no points: it is not chosen, refused by name, and stopped by hooks that come too late."""
    lm, called = fastdllm.load(GOLDEN, device="cpu"), []
    quick, _ = decode(lm, "auto", prompts((5,)), Reuse(), "fixed", 1)
    with lm.network.hooks({"layers.3.output": lambda *_: called.append(1)}):
        assert decode(lm, "auto", prompts((5,)), Reuse(), "fixed", 1)[0] == quick and called
        with pytest.raises(ValueError, match=r"executor='fast': hooks listen in at layers\.3\.output"):
            decode(lm, "fast", prompts((5,)), Reuse(), "fixed", 1)
    count = len(called)
    steps = fastdllm.denoise(lm, prompts((5,)), decoding=DECODING)
    next(steps)
    with lm.network.hooks({"layers.3.output": lambda *_: called.append(1)}), pytest.raises(RuntimeError, match="eager"):
        next(steps)
    assert len(called) == count


def test_a_trace_that_has_nothing_to_write_changes_no_executor():
    """Which executor runs is said by name: a trace of a run without reuse finds no layer to write about."""
    lm, ids = fastdllm.load(GOLDEN, device="cpu"), prompts((5,))
    plan, _ = build(lm, ids, DECODING, Reuse(), "fixed", Execution(batch_size=1), fastdllm.Trace())
    assert isinstance(plan.executor, Fast)
    traced, _ = build(lm, ids, DECODING, Reuse(k=2, layers="last"), "fixed", Execution(batch_size=1), fastdllm.Trace())
    assert not isinstance(traced.executor, Fast)
    with pytest.raises(ValueError, match="executor='fast': a trace"):
        build(lm, ids, DECODING, Reuse(k=2, layers="last"), "fixed", Execution(batch_size=1, executor="fast"),
              fastdllm.Trace())


@pytest.mark.parametrize("block", [16, 64])
def test_another_block_size_is_left_to_the_reference(shallow: LM, block: int):
    lm, ids = shallow, prompts((70, 33))
    decoding = DECODING.model_copy(update={"block_size": block})
    with pytest.raises(ValueError, match=f"block_size={block} is not the checkpoint's 32"):
        decode(lm, "fast", ids, Reuse(), "fixed", 2, decoding)
    assert decode(lm, "auto", ids, Reuse(), "fixed", 2, decoding) == \
        decode(lm, "eager", ids, Reuse(), "fixed", 2, decoding)


def test_changed_weights_are_seen():
    """The fast executor's copies of the weights follow a change in place."""
    lm, ids = fastdllm.load(GOLDEN, device="cpu"), prompts((40,))
    before = decode(lm, "fast", ids, Reuse(), "fixed", 1)
    with torch.no_grad():
        lm.network.model.layers[0].mlp.down_proj.weight.mul_(-3)
    after = decode(lm, "fast", ids, Reuse(), "fixed", 1)
    assert after != before and after == decode(lm, "eager", ids, Reuse(), "fixed", 1)


def test_the_fast_executor_s_cache_read_plainly():
    """Whatever order it keeps a head in: what a diagnosis reads is what the reference wrote."""
    lm, (ids,), caches = fastdllm.load(GOLDEN, device="cpu"), prompts((70,)), []
    for executor in ("fast", "eager"):
        plan, _ = build(lm, [ids], DECODING, Reuse(), "fixed", Execution(batch_size=1), None)
        engine = Engine(lm, plan.rules, DECODING, Reuse(), 1, 128, executor=executor)
        for _ in engine.steps(iter([(0, ids)])):
            pass
        caches.append(engine.executor.graphs.ops.plain_cache() if isinstance(engine.executor, Fast)
                      else engine.executor.cache)
    for fast, eager in zip(caches[0].keys + caches[0].values, caches[1].keys + caches[1].values, strict=True):
        assert eager[0, :64].abs().max() > 0.01
        assert error(fast[0, :64], eager[0, :64]) < 1e-4


@pytest.mark.parametrize("reuse", SHALLOW, ids=lambda reuse: f"{reuse.policy}-k{reuse.k}-{reuse.full_forwards}")
def test_threads_change_no_token(shallow: LM, reuse: Reuse):
    ids = prompts((5, 64, 40, 33, 12, 70))
    one, two = (fastdllm.generate(shallow, ids, decoding=DECODING, reuse=reuse, batch_size=4, threads=n)
                for n in (1, 2))
    assert [(row.tokens, row.nfe, row.decisions) for row in one.rows] == \
        [(row.tokens, row.nfe, row.decisions) for row in two.rows]


def test_threads_need_the_fast_executor_and_end_with_the_caller():
    lm, ids = fastdllm.load(GOLDEN, device="cpu"), prompts((5, 64, 40))
    with pytest.raises(ValueError, match="threads=2; allowed: 1 with the eager executor"):
        fastdllm.generate(lm, ids, decoding=DECODING, threads=2, executor="eager")
    with pytest.raises(ValueError, match="threads=0; allowed: 1 or more"):
        fastdllm.generate(lm, ids, decoding=DECODING, threads=0)
    rows = generate_rows(lm, ids, decoding=DECODING, batch_size=2, threads=2)
    assert next(rows).tokens
    rows.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")]
    with torch.no_grad():
        lm.network.lm_head.weight[3] = torch.nan
    with pytest.raises(NonFiniteLogits):
        fastdllm.generate(lm, ids, decoding=DECODING, threads=2)


def test_threads_may_be_the_first_to_compile():
    """TorchScript's compiler is not for two threads at a time: in a fresh process both come to it at once."""
    code = ("import fastdllm; from fastdllm import Decoding; lm = fastdllm.load('tests/golden', device='cpu');"
            "print(fastdllm.generate(lm, [[5, 6], [7, 8, 9]], threads=2, decoding=Decoding(threshold=0.6,"
            " max_new_tokens=8, stop_ids=(510,), mask_id=511)).tokens)")
    done = subprocess.run([sys.executable, "-c", code], cwd=GOLDEN.parents[1], capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 0, done.stderr
    one = fastdllm.generate(fastdllm.load(GOLDEN, device="cpu"), [[5, 6], [7, 8, 9]],
                            decoding=DECODING.model_copy(update={"max_new_tokens": 8}))
    assert ast.literal_eval(done.stdout) == one.tokens


def test_unknown_executor_is_refused():
    with pytest.raises(ValueError, match="executor='quick'; allowed: auto, eager, fast"):
        decode(fastdllm.load(GOLDEN, device="cpu"), "quick", prompts((5,)), Reuse(), "fixed", 1)


def test_runs_and_buckets():
    assert runs((0, 3, 4, 5, 27)) == ((0, 0), (3, 5), (27, 27))
    assert buckets(32)[:4] == [1, 2, 3, 4] and buckets(32)[-1] == 32 and buckets(1) == [1]
    assert all(b <= 1.5 * a for a, b in zip(buckets(32)[1:], buckets(32)[2:], strict=False))
    assert "replay" in BUILT_IN and get("fixed").on_full_block == "refresh"


def random_lm(dtype: torch.dtype, **sizes: int) -> LM:
    """A network of head size 64 on the GPU; the mask is never predicted."""
    values = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 28, "num_attention_heads": 4,
              "num_key_value_heads": 2, "vocab_size": 512, "max_position_embeddings": 1024} | sizes
    torch.manual_seed(0)
    network = Network(ModelConfig(**values)).to("cuda", dtype).requires_grad_(False).eval()
    network.reset_tables()
    with torch.no_grad():
        network.lm_head.weight.mul_(4)[511] = 0
    return LM("random", GOLDEN, network, None, 511, ())


@gpu
@pytest.mark.parametrize("reuse", REUSES, ids=lambda reuse: f"{reuse.policy}-k{reuse.k}-{reuse.full_forwards}")
def test_captured_equals_eager_in_float32(reuse: Reuse):
    lm, ids = random_lm(torch.float32), prompts((5, 64, 40, 33, 96, 70))
    assert decode(lm, "fast", ids, reuse, "fixed", 4) == decode(lm, "eager", ids, reuse, "fixed", 4)


@gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_captured_confidence_is_close_in_half_precision(dtype: torch.dtype):
    """One token a step, until the tokens part: the first confidences agree to rounding."""
    lm, ids = random_lm(dtype), prompts((70,))
    first = []
    for executor in ("fast", "eager"):
        engine, _ = build(lm, ids, DECODING, Reuse(), "fixed", Execution(batch_size=1), None)
        engine = Engine(lm, engine.rules, DECODING, Reuse(), 1, 160, executor=executor)
        first.append(next(s for s in engine.steps(iter(enumerate(ids))) if s.kind == "full"))
    a, b = (torch.tensor(step.confidence).nan_to_num(0) for step in first)
    assert torch.allclose(a, b, rtol=0.1, atol=2e-3)


@gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 8, 24, 64])
@pytest.mark.parametrize("tiling", [Tiling(64, 128), Tiling(32, 64, 4, swap=True),
                                    Tiling(128, 64, 2, 3, 8, prefetch=4), Tiling(64, 64, swap=True, prefetch=2)])
def test_linear_kernel(dtype: torch.dtype, rows: int, tiling: Tiling):
    x, w, r = (torch.randn(*shape, device="cuda").to(dtype) for shape in ((rows, 512), (256, 512), (rows, 256)))
    work, bias = Workspace(x.device, 256), torch.randn(256, device="cuda").to(dtype)
    for _ in range(2):      # the counters must be back at zero
        assert error(linear(x, w, tiling, work, bias=bias), F.linear(x.float(), w.float(), bias.float())) < ROUNDING
        assert error(linear(x, w, tiling, work, residual=r), F.linear(x.float(), w.float()) + r.float()) < ROUNDING
    if tiling.splits == 1:
        gate, up = F.linear(x.float(), w.float()).chunk(2, -1)
        assert error(linear(x, w, tiling, work, gated=True), F.silu(gate) * up) < ROUNDING
        packed = F.linear(x, w)
        assert error(kernels.silu_mul(packed), F.silu(packed[:, :128].float()) * packed[:, 128:].float()) < ROUNDING


@gpu
@pytest.mark.parametrize(("width", "starts", "size"), [(8, (72, 40), 128), (32, (64, 32), 64)])
@pytest.mark.parametrize("split", [True, False])
def test_attention_kernel(width: int, starts: tuple[int, int], size: int, split: bool, monkeypatch):
    heads, kv, ends, slots = 4, 2, torch.tensor([96, 64], device="cuda"), torch.tensor([2, 0], device="cuda")
    keys, values = (torch.randn(3, 160, kv, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    qkv = torch.randn(2, width, (heads + 2 * kv) * size, device="cuda", dtype=torch.bfloat16)
    network = random_lm(torch.bfloat16, hidden_size=heads * size).network
    cos, sin = network.cos.bfloat16(), network.sin.bfloat16()
    want_keys, want_values = keys.clone(), values.clone()
    monkeypatch.setattr(attention, "SPLIT_PROGRAMS", 256 if split else 0)
    scratch = attention_parts.Scratch(keys.device, heads, size, 160)
    where = torch.stack([slots, torch.tensor(starts, device="cuda"), ends], 1)      # strided, as the graphs pass it
    for _ in range(2):      # the counters must be back at zero
        out = attention.attend(qkv, cos, sin, keys, values, *where.unbind(1), heads, scratch)
    split = qkv.view(2, width, heads + 2 * kv, size)
    where = torch.tensor(starts, device="cuda")[:, None] + torch.arange(width, device="cuda")
    turned = rotate(split[:, :, :heads + kv].float(), cos[where, None].float(), sin[where, None].float()).bfloat16()
    for row, (slot, start, end) in enumerate(zip(slots.tolist(), starts, ends.tolist(), strict=True)):
        want_keys[slot, start:start + width] = turned[row, :, heads:]
        want_values[slot, start:start + width] = split[row, :, heads + kv:]
        want = F.scaled_dot_product_attention(
            turned[row, :, :heads].float().transpose(0, 1), want_keys[slot, :end].float().transpose(0, 1),
            want_values[slot, :end].float().transpose(0, 1), enable_gqa=True)
        assert error(out.view(2, width, -1)[row], want.transpose(0, 1).reshape(width, -1)) < ROUNDING
    assert error(keys, want_keys.float()) < ROUNDING
    assert torch.equal(values, want_values)


@gpu
@pytest.mark.parametrize(("width", "heads", "split"), [(8, 14, True), (8, 14, False), (32, 14, True), (4, 6, True),
                                                       (16, 4, False)])
def test_attention_kernel_of_rows_that_share_slots(width: int, heads: int, split: bool, monkeypatch):
    """Rows of one slot see what each of them wrote, up to ends of their own."""
    kv, size, device = 2, 64, torch.device("cuda")
    slots, starts, ends = [2, 0, 2, 2], [256, 40, 256 + width, 100], [256 + 2 * width, 40 + width, 256 + 2 * width, 132]
    torch.manual_seed(0)
    monkeypatch.setattr(shared_attention, "SPLIT_PROGRAMS", 256 if split else 0)
    keys, values = (torch.randn(3, 400, kv, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    qkv = torch.randn(4, width, (heads + 2 * kv) * size, device=device, dtype=torch.bfloat16)
    half = torch.randn(2, 400, size // 2, device=device, dtype=torch.bfloat16)
    cos, sin = half[0].repeat(1, 2), torch.cat([-half[1], half[1]], 1)
    where = torch.tensor([slots, starts, ends, [0] * 4], device=device).T.contiguous()      # strided, as graphs have it
    batch = RowPositions(4, width, *where[:, :3].unbind(1), True)
    want_keys, want_values, scratch = keys.clone(), values.clone(), attention_parts.Scratch(device, heads, size, 400)
    for _ in range(2):      # the counters must be back at zero
        out = shared_attention.attend_shared(qkv, cos, sin, keys, values, batch, heads, scratch)
    parts = qkv.view(4, width, heads + 2 * kv, size)
    positions = torch.tensor(starts, device=device)[:, None] + torch.arange(width, device=device)
    turned = rotate(parts[:, :, :heads + kv].float(), cos[positions][:, :, None].float(),
                    sin[positions][:, :, None].float()).bfloat16()
    for row, (slot, start) in enumerate(zip(slots, starts, strict=True)):
        want_keys[slot, start:start + width] = turned[row, :, heads:]
        want_values[slot, start:start + width] = parts[row, :, heads + kv:]
    for row, (slot, end) in enumerate(zip(slots, ends, strict=True)):
        want = F.scaled_dot_product_attention(
            turned[row, :, :heads].float().transpose(0, 1), want_keys[slot, :end].float().transpose(0, 1),
            want_values[slot, :end].float().transpose(0, 1), enable_gqa=True)
        assert error(out.view(4, width, -1)[row], want.transpose(0, 1).reshape(width, -1)) < ROUNDING
    assert error(keys, want_keys.float()) < ROUNDING and torch.equal(values, want_values)


@gpu
@pytest.mark.parametrize("reuse", [Reuse(), Reuse(k=2, layers="middle")], ids=["k1", "k2"])
@pytest.mark.parametrize("halves_from", [64, 4])
def test_packed_ticks_captured_in_half_precision(reuse: Reuse, halves_from: int):
    """Idle rows, prompts, launches of several kinds and halves under way at once: the confidence of a row's first step,
    up to rounding. In float32 the same path gives all the tokens of each row alone."""
    lm, ids = random_lm(torch.bfloat16), prompts(tuple(range(5, 101, 8)))
    apart, packed = ({}, 0), ({}, 0)
    for packs in (False, True):
        engine, _ = build(lm, ids, Decoding(threshold=1.0, max_new_tokens=40, mask_id=511, stop_ids=()), reuse, "fixed",
                          Execution(batch_size=8, executor="fast"), None)
        engine.executor.packed, engine.turn.halves_from = packs, halves_from if packs else 64
        first = {}
        for step in engine.steps(iter(enumerate(ids))):
            if step.small_block is not None:
                first.setdefault(step.row, torch.tensor(step.confidence))
        assert {row.index for row in engine.finished} == set(range(len(ids)))
        apart, packed = packed, (first, engine.executor.graphs.synchronisations)
    assert packed[1] < 0.7 * apart[1] or halves_from == 4
    for row, confidence in apart[0].items():
        assert torch.allclose(confidence, packed[0][row], atol=0.03, equal_nan=True)


@gpu
def test_packed_ticks_captured_in_float32_are_the_rows_alone():
    """Plain operations on the packed path, idle rows among them."""
    lm, ids = random_lm(torch.float32), prompts((5, 64, 40, 33, 96, 70))
    for reuse in (Reuse(), Reuse(k=2, layers="middle"), Reuse(k=3, layers="last", policy="residual")):
        _, alone = decode(lm, "fast", ids, reuse, "fixed", 1)
        engine, _ = build(lm, ids, DECODING, reuse, "fixed", Execution(batch_size=4, executor="fast"), None)
        engine.executor.packed, engine.turn.halves_from = True, 4
        list(engine.steps(iter(enumerate(ids))))
        assert {row.index: (row.generated, row.nfe, row.decisions) for row in engine.finished} == alone


@gpu
def test_norm_kernel():
    x, weight = (torch.randn(*shape, device="cuda", dtype=torch.bfloat16) for shape in ((5, 3584), (3584,)))
    assert error(kernels.norm(x, weight, 1e-6), F.rms_norm(x.float(), (3584,), weight.float(), 1e-6)) < ROUNDING


@gpu
def test_predict_kernel():
    """Two rows of four positions: argmax, ties to the left, what is unmasked, and nan for what is not finite."""
    logits = torch.randn(8, 10007, device="cuda", dtype=torch.bfloat16)
    logits[2, 77] = logits[2, 9000] = logits[3, 1] = 9
    masked = torch.tensor([[1, 1, 1, 0, 7], [0, 1, 1, 1, 7]], device="cuda")[:, :4] != 0      # rows lie apart
    tokens, bits, reveal = kernels.predict(logits, masked, 0.9).flatten(1)
    confidence = bits.view(torch.float32)
    want = logits.float().softmax(-1)
    assert tokens.long().tolist() == want.argmax(-1).tolist() and tokens[2] == 77
    assert torch.allclose(confidence, want.max(-1).values, rtol=1e-4)
    best = [max(range(3), key=confidence.tolist()[:4].__getitem__), max((5, 6, 7), key=confidence.tolist().__getitem__)]
    assert reveal.nonzero().flatten().tolist() == best
    assert kernels.predict(logits, masked, 0.0)[2].bool().tolist() == masked.tolist()
    logits[1, 3], logits[3, 9] = float("nan"), float("inf")
    bits = kernels.predict(logits, masked, 0.9)[1].flatten()
    assert bits.view(torch.float32).isnan().nonzero().flatten().tolist() == [1, 3]


@gpu
@pytest.mark.parametrize("size", [0, 1, 1024, 5000])
def test_copies_to_and_from_pinned_memory(size):
    there, source = torch.zeros(size, 3, dtype=torch.int64, device="cuda"), torch.randint(99, (size, 3)).pin_memory()
    back = torch.zeros_like(source).pin_memory()
    kernels.copy(source, there)
    kernels.copy(there, back)
    torch.cuda.synchronize()
    assert torch.equal(there.cpu(), source) and torch.equal(back, source)


def test_predictions_keep_every_bit():
    """Tokens and confidence share integers: neither is rounded, and what is not a number stays so."""
    tokens, masked = torch.tensor([[(1 << 24) + 1, 3]]), torch.tensor([[True, False]])
    confidence = torch.tensor([[1 / 3, float("nan")]])
    said = packed(TorchOps.unmask(tokens, confidence, masked, 0.9).numpy())
    assert said[0] == tokens.tolist() and said[2] == masked.tolist()
    assert said[1][0][0] == confidence[0, 0].item() and said[1][0][1] != said[1][0][1]


def error(ours: torch.Tensor, want: torch.Tensor) -> float:
    """Of all elements together, relative to what is wanted."""
    return ((ours.float() - want).norm() / want.norm()).item()
