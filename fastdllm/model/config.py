"""The geometry of a checkpoint, read from its config.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ARCHITECTURES = {"Fast_dLLM_QwenForCausalLM": "Fast_dLLM_Qwen", "Qwen2ForCausalLM": "qwen2"}


@dataclass(frozen=True)
class ModelConfig:
    """Geometry of a Qwen2.5-style decoder, under the keys of Hugging Face's config.json.

    `bd_size` is the block size of the block diffusion (32 for Fast-dLLM v2); a plain causal
    checkpoint has none and gets 1: every token is its own block.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    bd_size: int = 32
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    mask_token_id: int | None = None
    architecture: str = "Fast_dLLM_QwenForCausalLM"
    extra: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                 "num_key_value_heads", "vocab_size", "max_position_embeddings", "bd_size")
        for name in sizes:
            value = self.__dict__[name]
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"config.json: {name}={value!r}; allowed: a whole number from 1 up")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"config.json: hidden_size={self.hidden_size}; "
                             f"allowed: a multiple of num_attention_heads={self.num_attention_heads}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(f"config.json: num_key_value_heads={self.num_key_value_heads}; "
                             f"allowed: a divisor of num_attention_heads={self.num_attention_heads}")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Read the dictionary of a config.json.

        Raises ValueError for another architecture, a missing key, or a feature the network lacks
        (rope scaling, sliding window, another activation).
        """
        architecture = (values.get("architectures") or [None])[0]
        if architecture not in ARCHITECTURES:
            raise ValueError(f"config.json: architectures={values.get('architectures')!r}; "
                             f"allowed: one of {sorted(ARCHITECTURES)}")
        rope = values.get("rope_parameters") or {}      # transformers 5 writes rope_theta in here
        scaling = values.get("rope_scaling")
        if scaling or rope.get("rope_type", "default") != "default":
            raise ValueError(f"config.json: rope_scaling={scaling or rope!r}; allowed: null")
        if values.get("use_sliding_window"):
            raise ValueError("config.json: use_sliding_window=true; allowed: false")
        if values.get("hidden_act", "silu") != "silu":
            raise ValueError(f"config.json: hidden_act={values['hidden_act']!r}; allowed: 'silu'")
        known = {name for name in cls.__dataclass_fields__ if name not in ("architecture", "extra")}
        found = {key: value for key, value in values.items() if key in known}
        if "rope_theta" in rope:
            found["rope_theta"] = rope["rope_theta"]
        if architecture == "Qwen2ForCausalLM":
            found.setdefault("bd_size", 1)
        required = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                    "num_key_value_heads", "vocab_size", "max_position_embeddings")
        missing = [name for name in required if name not in found]
        if missing:
            raise ValueError(f"config.json: {', '.join(missing)} missing; allowed: whole numbers from 1 up")
        return cls(**found, architecture=architecture,
                   extra={key: value for key, value in values.items() if key not in known})

    @classmethod
    def from_file(cls, path: str | Path) -> ModelConfig:
        """Read config.json at `path`; ValueError if it is not JSON or not a config we can run."""
        path = Path(path)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: not valid JSON ({error}); allowed: a Hugging Face config.json") from error
        return cls.from_dict(values)

    def to_dict(self) -> dict[str, Any]:
        """The dictionary for config.json, in the key style of the published 7B."""
        values = {key: value for key, value in asdict(self).items()
                  if key not in ("architecture", "extra") and value is not None}
        return {"architectures": [self.architecture], "model_type": ARCHITECTURES[self.architecture],
                "hidden_act": "silu", "rope_scaling": None, "sliding_window": None, "use_sliding_window": False,
                "use_cache": True, "attention_dropout": 0.0, "torch_dtype": "bfloat16",
                **{k: v for k, v in self.extra.items() if k not in ("architectures", "model_type")}, **values}
