"""The geometry of a checkpoint, read from its config.json."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fastdllm.model.files import read_json

ARCHITECTURES = {"Fast_dLLM_QwenForCausalLM": "Fast_dLLM_Qwen", "Qwen2ForCausalLM": "qwen2"}
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
         "vocab_size", "max_position_embeddings", "bd_size")
REQUIRED = SIZES[:-2]
TEXT = "text_config"
# What a section on rotary positions may say: nothing that changes them.
ROPE_TYPES, ROPE_SECTIONS = ("rope_type", "type"), ("rope_scaling", "rope_parameters")
ROPE_NEUTRAL = {"factor": 1, "partial_rotary_factor": 1}
ROPE_HARMLESS = (*ROPE_TYPES, "rope_theta", "original_max_position_embeddings")
# Keys of features that the network lacks, and the values that mean "without".
LACKING = {"use_sliding_window": False, "hidden_act": "silu", "partial_rotary_factor": 1, "quantization_config": None}


@dataclass(frozen=True)
class ModelConfig:
    """Geometry of a Qwen2.5-style decoder, under the keys of Hugging Face's config.json, with its defaults.

    `bd_size` is the block size of the block diffusion (32 for Fast-dLLM v2); a plain causal
    checkpoint has none and gets 1: every token is its own block. Raises ValueError for a value that can't be.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    max_position_embeddings: int = 32768
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    bd_size: int = 32
    tie_word_embeddings: bool = False
    bos_token_id: int | tuple[int, ...] | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | tuple[int, ...] | None = None
    mask_token_id: int | tuple[int, ...] | None = None
    architecture: str = "Fast_dLLM_QwenForCausalLM"
    extra: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in SIZES:
            value = self.__dict__[name]
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name}={value!r}; allowed: a whole number from 1 up")
        for name in ("rms_norm_eps", "rope_theta"):
            value = self.__dict__[name]
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < float("inf"):
                raise ValueError(f"{name}={value!r}; allowed: a number above 0")
        if not isinstance(self.tie_word_embeddings, bool):
            raise ValueError(f"tie_word_embeddings={self.tie_word_embeddings!r}; allowed: true or false")
        for name in ("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id"):
            token_ids(name, self.__dict__[name])
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size={self.hidden_size}; "
                             f"allowed: a multiple of num_attention_heads={self.num_attention_heads}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(f"num_key_value_heads={self.num_key_value_heads}; "
                             f"allowed: a divisor of num_attention_heads={self.num_attention_heads}")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def from_dict(cls, values: dict[str, Any], file: str | Path = "config.json") -> ModelConfig:
        """Read the dictionary of a config.json; an absent key, or null, has Hugging Face's default.

        Raises ValueError naming `file` for another architecture, a missing size, two values for one thing, or a
        feature that the network lacks (rope scaling, partial rotary, sliding window, quantised weights ...), at the
        top or inside `text_config`.
        """
        try:
            return cls._read(values)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error

    @classmethod
    def _read(cls, values: dict[str, Any]) -> ModelConfig:
        named = values.get("architectures")
        architecture = named[0] if isinstance(named, list) and len(named) == 1 else None
        if architecture not in ARCHITECTURES:
            raise ValueError(f"architectures={named!r}; allowed: one of {sorted(ARCHITECTURES)}, in a list")
        known = {name for name in cls.__dataclass_fields__ if name not in ("architecture", "extra")}
        fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value
                                  for key, value in values.items() if key in known and value is not None}
        if values.get("num_key_value_heads", 0) is None and "num_attention_heads" in fields:
            fields["num_key_value_heads"] = fields["num_attention_heads"]       # null: as many as query heads
        missing = [name for name in REQUIRED if name not in fields]
        if missing:
            raise ValueError(f"{', '.join(missing)} missing; allowed: whole numbers from 1 up")
        for prefix, part in sections(values):
            for key, without in LACKING.items():
                if part.get(key, without) not in (without, None):
                    raise ValueError(f"{prefix}{key}={part[key]!r}; allowed: {without!r}, the network has nothing else")
            if any(kind != "full_attention" for kind in part.get("layer_types") or ()):
                raise ValueError(f"{prefix}layer_types={part['layer_types']!r}; "
                                 "allowed: 'full_attention' for every layer")
        fields |= rope(values)
        if architecture == "Qwen2ForCausalLM":
            fields.setdefault("bd_size", 1)
        config = cls(**fields, architecture=architecture,
                     extra={key: value for key, value in values.items() if key not in known})
        for prefix, part in sections(values):
            if (width := part.get("head_dim")) not in (None, config.head_dim):
                raise ValueError(f"{prefix}head_dim={width!r}; "
                                 f"allowed: {config.head_dim} (hidden_size / num_attention_heads)")
            for key in known & part.keys():
                value = tuple(part[key]) if isinstance(part[key], list) else part[key]
                if prefix and value not in (None, config.__dict__[key]):
                    raise ValueError(f"{prefix}{key}={part[key]!r}; allowed: {config.__dict__[key]!r}, as outside it")
        return config

    @classmethod
    def from_file(cls, path: str | Path) -> ModelConfig:
        """Read config.json at `path`; ValueError if it is not JSON or not a config we can run."""
        return cls.from_dict(read_json(Path(path)), path)

    def to_dict(self) -> dict[str, Any]:
        """The dictionary for config.json, in the key style of the published 7B."""
        values = {key: value for key, value in asdict(self).items()
                  if key not in ("architecture", "extra") and value is not None}
        return {"architectures": [self.architecture], "model_type": ARCHITECTURES[self.architecture],
                "hidden_act": "silu", "rope_scaling": None, "sliding_window": None, "use_sliding_window": False,
                "use_cache": True, "attention_dropout": 0.0, "torch_dtype": "bfloat16",
                **{k: v for k, v in self.extra.items() if k not in ("architectures", "model_type")}, **values}


def token_ids(name: str, value: Any) -> tuple[int, ...]:
    """The ids of a key that may hold one id, a list of them, or null. Raises ValueError for anything else."""
    ids = () if value is None else tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if any(isinstance(token, bool) or not isinstance(token, int) for token in ids):
        raise ValueError(f"{name}={value!r}; allowed: a token id, a list of token ids, or null")
    return ids


def rope(values: dict[str, Any]) -> dict[str, Any]:
    """`rope_theta` as the configuration has it, wherever it stands ({}: nowhere).

    Transformers 4 writes it at the top, 5 into rope_parameters, there also by kind of layer. Raises ValueError for
    scaled or partial rotary positions in any nesting, and for two values of rope_theta.
    """
    theta = [(f"{prefix}rope_theta", part["rope_theta"]) for prefix, part in sections(values)
             if part.get("rope_theta") is not None]
    read = [(f"{prefix}{section}", part.get(section)) for prefix, part in sections(values) for section in ROPE_SECTIONS]
    for written, content in read:
        for key, value in leaves(written, content):
            name = key.rpartition(".")[2]
            if name in ROPE_TYPES and value != "default":
                raise ValueError(f"{key}={value!r}; allowed: 'default' or null (unscaled rotary positions)")
            if name in ROPE_NEUTRAL and value != ROPE_NEUTRAL[name]:
                raise ValueError(f"{key}={value!r}; allowed: {ROPE_NEUTRAL[name]} or null (unscaled, on all of a head)")
            if name not in (*ROPE_HARMLESS, *ROPE_NEUTRAL):
                raise ValueError(f"{key}={value!r}; allowed: {', '.join((*ROPE_HARMLESS, *ROPE_NEUTRAL))}")
            if name == "rope_theta":
                theta.append((key, value))
    if any(value != theta[0][1] for _, value in theta):
        said = " and ".join(f"{key}={value!r}" for key, value in theta)
        raise ValueError(f"{said} can't both be right; allowed: one value of rope_theta")
    return {"rope_theta": theta[0][1]} if theta else {}


def sections(values: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """What may name a feature, each with the prefix of its keys: the top, and `text_config`, where models of several
    kinds of input keep what the language model is. Raises ValueError for a `text_config` that is none.
    """
    text = values.get(TEXT)
    if text is not None and not isinstance(text, dict):
        raise ValueError(f"{TEXT}={text!r}; allowed: an object, or null")
    return [("", values), (f"{TEXT}.", text or {})]


def leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything inside nested sections but null."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(f"{key}.{name}", inner)
    elif value is not None:
        yield key, value
