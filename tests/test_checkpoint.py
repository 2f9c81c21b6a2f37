"""Checkpoints: every name and shape is checked, nothing is unpickled, and files survive a round trip."""

import json
import shutil
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from golden_support import GOLDEN
from safetensors.torch import load_file, save_file

import fastdllm
from fastdllm.lab.jobs import preflight
from fastdllm.model.checkpoint import Undrawn, load_network, save, tensor_locations
from fastdllm.model.config import ModelConfig
from fastdllm.model.files import EMBEDDED, PATTERNS, READ, find, fingerprint
from fastdllm.model.lm import check
from fastdllm.model.network import Network

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


@pytest.mark.parametrize("key", ["torch_dtype", "dtype"])     # of transformers 4, and of 5
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_saved_checkpoint_names_the_dtype_of_its_weights(tmp_path, key, dtype):
    values = json.loads((GOLDEN / "config.json").read_text())
    values.pop("torch_dtype")
    with Undrawn():
        network = Network(ModelConfig.from_dict({**values, key: "float64", "vocab_size": 8, "num_hidden_layers": 1}))
    save(network, tmp_path, dtype)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["torch_dtype"] == str(dtype).removeprefix("torch.") and "dtype" not in written
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {dtype}


def test_names_are_those_of_the_published_7b():
    config = ModelConfig.from_file(GOLDEN / "config.json")
    assert len(tensor_locations(config)) == 28 * 12 + 3
    assert "model.layers.27.self_attn.k_proj.bias" in tensor_locations(config)


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
    # The index decides: what else lies in a shard, an old copy of a tensor among it, is not read.
    save_file({**{name: weights[name] for name in shards["a.safetensors"]}, "junk": torch.zeros(1),
               **{name: weights[name] + 1 for name in shards["b.safetensors"]}}, copy / "a.safetensors")
    index["metadata"] = {"total_size": "1", "total_parameters": 7, "note": ["anything"]}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    again = load_network(copy, CPU, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    for wrong, words in (({"weight_map": {**index["weight_map"], names[1]: "a.safetensors", "lost": "b.safetensors"}},
                          "lost is in b.safetensors; it is not in that file"),
                         ({"weight_map": {names[0]: ["a.safetensors"]}}, "not a safetensors index"),
                         ({"weight_map": {names[0]: "../a.safetensors"}}, r"'\.\./a\.safetensors'; allowed"),
                         ([], "list; allowed: a JSON object")):
        (copy / "model.safetensors.index.json").write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=words):
            load_network(copy, CPU, torch.float32)
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copy(GOLDEN / "model.safetensors", copy)
    with pytest.raises(ValueError, match=r"holds both model\.safetensors and .*index"):
        load_network(copy, CPU, torch.float32)
    (copy / "model.safetensors").unlink()
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
    embedding = load_file(tmp_path / "model.safetensors")["model.embed_tokens.weight"]
    edit(tmp_path, lambda w: w.update({"lm_head.weight": embedding.clone()}))
    assert torch.equal(load_network(tmp_path, CPU, torch.float32).lm_head.weight, network.lm_head.weight)
    edit(tmp_path, lambda w: w.update({"lm_head.weight": embedding + 1}))
    for load in (lambda: load_network(tmp_path, CPU, torch.float32), lambda: check(tmp_path)):
        with pytest.raises(ValueError, match=r"tie_word_embeddings=true, but lm_head.weight of .* differs"):
            load()


def test_buffers_of_old_transformers_are_harmless(copy):
    before = load_network(copy, CPU, torch.float32).state_dict()
    edit(copy, lambda w: w.update({f"model.{where}rotary_emb.inv_freq": torch.ones(8)
                                   for where in ("", "layers.0.self_attn.", "layers.27.self_attn.")}))
    after = load_network(copy, CPU, torch.float32).state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize(("change", "words"), [
    (lambda w: w.pop("model.layers.3.mlp.up_proj.weight"), "missing model.layers.3.mlp.up_proj.weight"),
    (lambda w: w.update({"model.extra": torch.zeros(1)}), "superfluous model.extra"),
    (lambda w: w.pop("lm_head.weight"), "missing lm_head.weight .*tie_word_embeddings"),
    (lambda w: w.update({"model.norm.weight": torch.zeros(64, dtype=torch.int8)}), "norm.weight is I8, allowed: F32"),
    (lambda w: w.update({"model.rotary_emb.inv_freq2": torch.zeros(1)}), "superfluous model.rotary_emb.inv_freq2"),
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
    ("hidden_size", True, "hidden_size=True"),
    ("head_dim", 32, "head_dim=32; allowed: 16"),
    ("rope_theta", "1e6", "rope_theta='1e6'.*number"),
    ("rms_norm_eps", 0, "rms_norm_eps=0"),
    ("tie_word_embeddings", "false", "tie_word_embeddings='false'"),
    ("eos_token_id", "510", "eos_token_id='510'.*list"),
    ("quantization_config", {"quant_method": "gptq"}, "quantization_config=.*gptq"),
    ("layer_types", ["sliding_attention"] * 28, "layer_types=.*sliding"),
    ("partial_rotary_factor", 0.5, "partial_rotary_factor=0.5"),
    ("rope_scaling", {"rope_type": "yarn", "factor": 4.0}, "rope_scaling.rope_type='yarn'"),
    ("rope_scaling", "yarn", "rope_scaling='yarn'"),
    ("rope_scaling", {"rope_type": "default", "type": "linear"}, "rope_scaling.type='linear'"),
    ("rope_scaling", {"type": "default", "mrope_section": [2, 3, 3]}, "rope_scaling.mrope_section"),
    ("rope_parameters", {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
     "rope_parameters.partial_rotary_factor=0.25"),
    ("rope_parameters", {"full_attention": {"rope_type": "yarn", "rope_theta": 1e6}},
     "rope_parameters.full_attention.rope_type='yarn'"),
    ("rope_parameters", {"rope_type": "default", "rope_theta": 10000.0},
     r"rope_theta=1000000.0 and rope_parameters.rope_theta=10000.0 can't both be right"),
    ("text_config", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
     "text_config.rope_scaling.rope_type='yarn'"),
    ("text_config", {"rope_parameters": {"full_attention": {"factor": 2.0}}},
     "text_config.rope_parameters.full_attention.factor=2.0"),
    ("text_config", {"rope_theta": 10000.0}, r"rope_theta=1000000.0 and text_config.rope_theta=10000.0 can't both"),
    ("text_config", {"use_sliding_window": True}, "text_config.use_sliding_window=True; allowed: False"),
    ("text_config", {"partial_rotary_factor": 0.5}, "text_config.partial_rotary_factor=0.5"),
    ("text_config", {"quantization_config": {"quant_method": "gptq"}}, "text_config.quantization_config=.*gptq"),
    ("text_config", {"layer_types": ["sliding_attention"]}, "text_config.layer_types=.*sliding"),
    ("text_config", {"head_dim": 32}, "text_config.head_dim=32; allowed: 16"),
    ("text_config", {"num_hidden_layers": 4}, "text_config.num_hidden_layers=4; allowed: 28"),
    ("text_config", "yarn", "text_config='yarn'; allowed: an object"),
])
def test_other_architectures_are_refused(copy, key, value, words):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(ValueError, match=words) as error:
        fastdllm.load(copy, device="cpu")
    assert str(error.value).startswith(f"{copy / 'config.json'}: ")


def configured(copy, **changes):
    """Write config.json with some keys changed; None removes a key."""
    values = {**json.loads((copy / "config.json").read_text()), **changes}
    (copy / "config.json").write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def test_absent_keys_have_the_defaults_of_hugging_face(copy):
    configured(copy, rope_theta=None, tie_word_embeddings=None, rms_norm_eps=None, max_position_embeddings=None)
    config = ModelConfig.from_file(copy / "config.json")
    assert (config.rope_theta, config.tie_word_embeddings, config.rms_norm_eps) == (10000.0, False, 1e-6)
    assert config.max_position_embeddings == 32768
    values = json.loads((copy / "config.json").read_text())
    assert ModelConfig.from_dict({**values, "num_key_value_heads": None}).num_key_value_heads == 4
    theirs = pytest.importorskip("transformers").Qwen2Config()
    assert theirs.rope_parameters["rope_theta"] == config.rope_theta
    assert (theirs.tie_word_embeddings, theirs.rms_norm_eps) == (False, 1e-6)


@pytest.mark.parametrize("rope", [
    {"rope_scaling": {"rope_type": "default"}}, {"rope_scaling": {"type": "default", "factor": 1.0}},
    {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 1000000}},
    {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e6}}},
    {"rope_scaling": {}, "rope_parameters": {"rope_theta": 1e6, "partial_rotary_factor": 1.0}},
    {"text_config": {}}, {"not_a_number": float("nan")},
    {"text_config": {"rope_theta": 1e6, "rope_scaling": None, "num_hidden_layers": 28}},
    {"rope_theta": None, "text_config": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}}])
def test_unscaled_positions_are_taken_however_they_are_written(copy, rope):
    configured(copy, **rope)
    assert ModelConfig.from_file(copy / "config.json").rope_theta == 1e6


def test_stop_ids_of_all_sources_are_united(copy):
    configured(copy, eos_token_id=[510, 509])
    assert fastdllm.load(copy, device="cpu").stop_ids == (510, 509)
    configured(copy, eos_token_id=510, mask_token_id=[511])
    (copy / "generation_config.json").write_text('{"eos_token_id": [508, 510]}')
    lm = fastdllm.load(copy, device="cpu")
    assert (lm.stop_ids, lm.mask_id) == ((510, 508), 511)


def test_config_json_names_what_the_tokenizer_does_not(copy):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(EMBEDDED / "tiny" / name, copy)
    written = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps({**written, "eos_token": None, "mask_token": None}))
    configured(copy, mask_token_id=511)
    lm = fastdllm.load(copy, device="cpu")
    assert lm.tokenizer.eos_token is lm.tokenizer.mask_token is None
    assert (lm.stop_ids, lm.mask_id) == ((510,), 511)


@pytest.mark.parametrize(("files", "words"), [
    ({"config.json": {"mask_token_id": 500}}, r"config.json: mask_token_id=\[500\], tokenizer: mask_token.*\[511\]"),
    ({"config.json": {"eos_token_id": 508}}, r"tokenizer: eos_token.*\[510\], config.json: eos_token_id=\[508\]"),
    ({"generation_config.json": {"eos_token_id": [1, 2]}}, r"config.json: eos_token_id=\[1, 2\] have nothing"),
    ({"generation_config.json": {"eos_token_id": [510, 700]}}, r"\[510, 700\]; allowed: ids from 0 to 511"),
    ({"generation_config.json": {"eos_token_id": "<|im_end|>"}}, r"generation_config.json: eos_token_id='<\|im_end"),
    ({"generation_config.json": "none"}, "generation_config.json: not valid JSON"),
    ({"generation_config.json": '{"eos_token_id": 510, "eos_token_id": [509]}'},
     r"generation_config.json: eos_token_id=510 and \[509\] in one object"),
    ({"tokenizer_config.json": '{"a":' * 100_000}, "tokenizer_config.json: not valid JSON"),
    ({"config.json": "[" * 100_000}, "config.json: not valid JSON"),
    ({"tokenizer_config.json": "[1]"}, "tokenizer_config.json: list; allowed: a JSON object"),
    ({"tokenizer.json": "{}"}, "can't load the tokenizer.*written by transformers 9.9"),
    ({"tokenizer_config.json": {"tokenizer_class": "TokenizerOf2031"}, "tokenizer.json": "{}"}, "TokenizerOf2031"),
])
def test_files_that_contradict_each_other_or_can_not_be_read(copy, files, words):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(EMBEDDED / "tiny" / name, copy)
    configured(copy, transformers_version="9.9")
    for name, content in files.items():
        before = json.loads((copy / name).read_text()) if (copy / name).exists() else {}
        (copy / name).write_text(content if isinstance(content, str) else json.dumps({**before, **content}))
    for load in (lambda: fastdllm.load(copy, device="cpu"), lambda: check(copy)):
        with pytest.raises(ValueError, match=words) as error:
            load()
        assert str(copy) in str(error.value)


def test_text_that_is_no_utf8_names_the_file(copy):
    (copy / "config.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ValueError, match=r"config\.json: not valid JSON.*utf-8"):
        fastdllm.load(copy, device="cpu")


def test_a_chat_template_that_is_missing_or_fails_names_the_directory(copy):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(EMBEDDED / "tiny" / name, copy)
    written = json.loads((copy / "tokenizer_config.json").read_text())
    del written["chat_template"]
    (copy / "tokenizer_config.json").write_text(json.dumps(written))
    with pytest.raises(ValueError, match=f"{copy}: no chat template"):
        fastdllm.load(copy, device="cpu").encode("2 + 3")
    for template in ("{{ raise_exception('users only') }}", "{% for m in messages %}"):
        (copy / "chat_template.jinja").write_text(template)
        with pytest.raises(ValueError, match=f"{copy}: the chat template can't render"):
            fastdllm.load(copy, device="cpu").encode("2 + 3")
        with pytest.raises(ValueError, match="the chat template can't render"):
            check(copy)


@pytest.mark.parametrize(("name", "content"), [
    ("chat_template.jinja", "{% for m in messages %}"), ("tokenizer.json", "{}"), ("generation_config.json", "x"),
    ("config.json", '{"architectures": ["Qwen2ForCausalLM"]}'), ("model.safetensors", "x" * 99)])
def test_the_doctor_says_fit_only_of_what_loads(copy, name, content):
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(EMBEDDED / "tiny" / file, copy)
    assert preflight.checkpoint(str(copy), None).ok
    (copy / name).write_text(content)
    check = preflight.checkpoint(str(copy), None)
    assert check.ok is False and str(copy) in check.text


def test_every_file_that_is_read_enters_the_fingerprint(copy):
    seen = {fingerprint(copy)}
    for name in (*READ[1:-1], "additional_chat_templates/tool.jinja"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text("{}")
        seen.add(fingerprint(copy))
    assert len(seen) == len(READ)
    fetched = [name for name in READ if any(fnmatch(name, pattern) for pattern in PATTERNS)]
    assert fetched == list(READ)
    (copy / "README.md").write_text("not read")
    assert fingerprint(copy) in seen


def test_the_bare_name_is_the_embedded_checkpoint_and_a_path_is_a_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find("tiny") == EMBEDDED / "tiny"
    for name in ("./tiny", "tiny/", Path("tiny"), "./tiny/"):
        with pytest.raises(ValueError, match="is no directory"):
            find(name)
    (tmp_path / "tiny").mkdir()
    assert find("tiny") == EMBEDDED / "tiny"
    for name in ("./tiny", "tiny/", Path("tiny"), tmp_path / "tiny", "./tiny/"):
        assert find(name).resolve() == tmp_path / "tiny"


def test_only_a_name_or_a_path_is_a_checkpoint():
    for name in (None, 7, b"tiny", ["tiny"]):
        with pytest.raises(ValueError, match=r"allowed: .*'tiny'.*, a checkpoint directory, or a hub id"):
            find(name)


@pytest.mark.parametrize("name", ["./x", "$NOPE/x", "../x", "~/x", "a b/c",
                                  "x//y", "a/b/", "", "--help/x", "a" * 99 + "/b",
                                  "a" * 5000, "b/" * 5000, "a\0b", "~no such user/x"])
def test_what_is_no_hub_id_ends_in_our_error(name):
    with pytest.raises(ValueError, match="model: "):
        find(name)


def test_no_checkpoint_there(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        fastdllm.load(tmp_path, device="cpu")
    with pytest.raises(ValueError, match=r"'no/such/place'.*allowed.*tiny"):
        fastdllm.load("no/such/place", device="cpu")


def test_wrong_dtype_and_device():
    with pytest.raises(ValueError, match=r"dtype='int8'.*float32"):
        fastdllm.load(GOLDEN, device="cpu", dtype="int8")
    for device in ("gpu", "cpu:x", "mps", "meta", "cuda:-1", "", None, 3.5):
        with pytest.raises(ValueError, match=r"device=.*allowed: 'auto', 'cpu'|no usable GPU"):
            fastdllm.load(GOLDEN, device=device)
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


def test_a_checkpoint_shows_itself_in_a_few_lines(tiny):
    """What it is, and where it runs; not the network's 28 layers one by one."""
    shown = repr(tiny)
    assert len(shown.splitlines()) <= 4 and max(map(len, shown.splitlines())) < 160
    for part in ("tiny", "million parameters", "float32 on cpu", "blocks of 32", "28 layers", str(tiny.path),
                 f"mask token {tiny.mask_id}", tiny.fingerprint[:12]):
        assert part in shown
    assert "no tokenizer" in repr(replace(tiny, tokenizer=None)) and "no tokenizer" not in shown
