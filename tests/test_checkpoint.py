"""Checkpoints: every name and shape is checked, nothing is unpickled, and files survive a round trip."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import fastdllm
from fastdllm.model.checkpoint import Undrawn, load_network, places, save
from fastdllm.model.config import ModelConfig
from fastdllm.model.network import Network
from tests.conftest import GOLDEN

CPU = torch.device("cpu")


@pytest.fixture
def copy(tmp_path):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / name, tmp_path)
    return tmp_path


def edit(directory, change):
    weights = load_file(directory / "model.safetensors")
    change(weights)
    save_file(weights, directory / "model.safetensors")


def test_round_trip_keeps_every_tensor(tmp_path):
    network = load_network(GOLDEN, CPU, torch.float32)
    save(network, tmp_path)
    ours, theirs = load_file(tmp_path / "model.safetensors"), load_file(GOLDEN / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_names_are_those_of_the_published_7b():
    config = ModelConfig.from_file(GOLDEN / "config.json")
    assert len(places(config)) == 28 * 12 + 3
    assert "model.layers.27.self_attn.k_proj.bias" in places(config)


def test_sharded_checkpoint_equals_single_file(copy):
    weights = load_file(copy / "model.safetensors")
    names = sorted(weights)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, part in shards.items():
        save_file({name: weights[name] for name in part}, copy / shard)
    (copy / "model.safetensors").unlink()
    index = {"weight_map": {name: shard for shard, part in shards.items() for name in part}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    one, two = (load_network(path, CPU, torch.float32) for path in (GOLDEN, copy))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    (copy / "b.safetensors").unlink()
    with pytest.raises(ValueError, match=r"shard b\.safetensors .*missing"):
        load_network(copy, CPU, torch.float32)


def test_tied_head_loads(tmp_path):
    values = json.loads((GOLDEN / "config.json").read_text())
    config = ModelConfig.from_dict({**values, "tie_word_embeddings": True, "num_hidden_layers": 2})
    torch.manual_seed(0)
    save(Network(config), tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    network = load_network(tmp_path, CPU, torch.float32)
    assert network.lm_head.weight.data_ptr() == network.model.embed_tokens.weight.data_ptr()
    assert network.lm_head.weight.abs().sum() > 0


@pytest.mark.parametrize(("change", "words"), [
    (lambda w: w.pop("model.layers.3.mlp.up_proj.weight"), "missing model.layers.3.mlp.up_proj.weight"),
    (lambda w: w.update({"model.extra": torch.zeros(1)}), "superfluous model.extra"),
    (lambda w: w.update({"lm_head.weight": torch.zeros(511, 64)}), r"misshapen lm_head.weight \[511, 64\].*\[512, 64"),
])
def test_wrong_tensors_are_named(copy, change, words):
    edit(copy, change)
    with pytest.raises(ValueError, match=words):
        load_network(copy, CPU, torch.float32)


def test_truncated_file(copy):
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"model\.safetensors: cannot be read.*100000 bytes"):
        load_network(copy, CPU, torch.float32)


def test_pickle_checkpoint_is_not_opened(copy):
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin.*run code.*safetensors"):
        fastdllm.load(copy, device="cpu")


@pytest.mark.parametrize(("key", "value", "words"), [
    ("architectures", ["LlamaForCausalLM"], r"architectures=.*Llama.*Fast_dLLM"),
    ("rope_scaling", {"type": "yarn"}, "rope_scaling"),
    ("hidden_act", "gelu", "hidden_act"),
    ("num_key_value_heads", 3, "num_key_value_heads=3"),
    ("hidden_size", None, "hidden_size"),
])
def test_other_architectures_are_refused(copy, key, value, words):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(ValueError, match=words):
        fastdllm.load(copy, device="cpu")


def test_no_checkpoint_there(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        fastdllm.load(tmp_path, device="cpu")
    with pytest.raises(ValueError, match=r"'no/such/place'.*allowed.*tiny"):
        fastdllm.load("no/such/place", device="cpu")


def test_wrong_dtype_and_device():
    with pytest.raises(ValueError, match=r"dtype='int8'.*float32"):
        fastdllm.load(GOLDEN, device="cpu", dtype="int8")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"device='cuda'.*no usable GPU"):
            fastdllm.load(GOLDEN, device="cuda")


def test_weights_are_never_twice_in_memory(tmp_path):
    """Loading a larger checkpoint raises the peak by the weights once, not twice (in a process of its own)."""
    import subprocess
    import sys
    values = json.loads((GOLDEN / "config.json").read_text())
    big = ModelConfig.from_dict({**values, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8,
                                 "num_attention_heads": 8, "vocab_size": 8192})
    with Undrawn():
        network = Network(big)
    size = sum(p.numel() for p in network.parameters()) * 2
    save(network, tmp_path)
    code = ("import resource, sys, torch; from fastdllm.model.checkpoint import load_network;"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
            "net = load_network(sys.argv[1], torch.device('cpu'), torch.bfloat16);"
            "status = open('/proc/self/status').read();"
            "anon = int(status.split('RssAnon:')[1].split()[0]); print(before, anon)")
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    anonymous = int(out.stdout.split()[1]) * 1024      # mapped file pages are not counted: they can be dropped
    base = subprocess.run([sys.executable, "-c", code.replace("net = load_network(sys.argv[1], torch.device('cpu'), "
                          "torch.bfloat16);", "")], capture_output=True, text=True, check=True)
    grown = anonymous - int(base.stdout.split()[1]) * 1024
    assert size < grown < 1.35 * size
