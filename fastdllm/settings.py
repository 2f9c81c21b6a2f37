"""The words of a run: how to decode and what to reuse. Frozen, validated, part of a run's identity."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath
from typing import Annotated, Any, Literal, Protocol, TypedDict, get_args, runtime_checkable

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError, PydanticKnownError

from fastdllm.errors import SettingsError

POLICIES = ("output", "residual", "token", "adaptive", "replay", "verify")
SUBSETS = ("first", "middle", "last")
SUBSET_SIZE = 12


class Settings(BaseModel):
    """Base of all settings: immutable, unknown keys refused, errors that name field, value and what is allowed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """A class's help lists its fields, which Python's own help does not."""
        lines = [*filter(None, [cls.__doc__]), ""]
        for name, field in cls.model_fields.items():
            default = "" if field.is_required() else f" = {field.get_default(call_default_factory=True)!r}"
            lines.append(f"    {name}{default}" + (f"  ({field.description})" if field.description else ""))
        cls.__doc__ = "\n".join(lines)

    @field_validator("*", mode="before")
    @classmethod
    def _plain_and_no_number_in_disguise(cls, value: Any, info: ValidationInfo) -> Any:
        """Numbers of numpy, arrays, tensors and ranges are taken as Python's own, a path as text; `k: true` is not 1,
        `block_cache: 0` is not false, and "010" is neither 8 nor 10: only a number is one."""
        value = plain_value(value)
        kinds = set(_kinds(cls.model_fields[str(info.field_name)].annotation))
        items = value if isinstance(value, (list, tuple)) else [value]
        if kinds & {int, float} and any(type(item) in (bool, str) and type(item) not in kinds for item in items):
            raise PydanticCustomError("float_type" if float in kinds else "int_type", "not a number")
        if bool in kinds and type(value) not in kinds and (type(value) in (int, float) or value in ("0", "1")):
            raise PydanticCustomError("bool_type", "not a switch")
        return value

    def __init__(self, **values: Any) -> None:
        """Raises ValueError (`SettingsError`) for an unknown field or a value that can't be."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingsError(type(self), error) from error


@runtime_checkable
class Array(Protocol):
    """numpy's arrays and scalars, torch's tensors, pandas' columns."""

    def tolist(self) -> Any: ...


def plain_value(value: Any) -> Any:
    """Python's own numbers and lists for those of numpy and torch, a list for a range, text for a path."""
    if isinstance(value, Array):
        return value.tolist()
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, range):
        return list(value)
    return type(value)(map(plain_value, value)) if type(value) in (list, tuple) else value


def whole_number(value: Any) -> Any:
    """A token id is a whole number, and 1.0 is not one."""
    if isinstance(value, (bool, float)):
        raise PydanticKnownError("int_type")
    return value


TokenId = Annotated[int, BeforeValidator(whole_number)]
ExecutorName = Literal["auto", "eager", "fast"]      # auto: fast wherever it can do what is asked


def _kinds(annotation: Any) -> Iterator[Any]:
    """The types that an annotation is made of: `int | None` and `tuple[int, ...]` hold int."""
    if inner := get_args(annotation):
        for part in inner:
            yield from _kinds(part)
    else:
        yield annotation


class Decoding(Settings):
    """How a block is denoised (docs/decoding.md; upstream's defaults where it has any)."""

    threshold: float = Field(default=0.9, ge=0.0, le=1.0, description="a probability, 0 to 1; 1.0: one token a step")
    max_new_tokens: int = Field(default=256, ge=1, description="at least 1 generated token")
    block_size: int | None = Field(default=None, ge=1, description="None: the checkpoint's bd_size")
    small_block: int = Field(default=8, ge=1, description="a divisor of the block size")
    block_cache: bool = Field(default=True, description="False: every step is a plain full forward")
    temperature: float = Field(default=0.0, ge=0.0, description="0: argmax")
    top_p: float = Field(default=0.95, gt=0.0, le=1.0, description="used at temperature > 0 only")
    mask_id: TokenId | None = Field(default=None, ge=0, description="None: the checkpoint's")
    stop_ids: tuple[TokenId, ...] | None = Field(default=None, description="None: the checkpoint's; []: none")
    stop_strings: tuple[str, ...] = Field(default=(), description="text that ends an answer, checked after every step")

    @model_validator(mode="after")
    def _fits(self) -> Decoding:
        if self.block_size is not None:
            fit(self.small_block, self.block_size)
        if any(stop < 0 for stop in self.stop_ids or ()):
            raise ValueError(f"stop_ids={self.stop_ids}; allowed: token ids from 0 up")
        if "" in self.stop_strings:
            raise ValueError(f"stop_strings={self.stop_strings}; allowed: non-empty strings")
        return self


def fit(small_block: int, block: int) -> None:
    """Raise ValueError for a small block that doesn't divide the block."""
    if block % small_block:
        raise ValueError(f"small_block={small_block}; allowed: a divisor of the block size {block}")


def _layers(value: Any) -> Any:
    """Lists become tuples; strings are checked for their form here, for their range by `layer_indices`."""
    if value is None or isinstance(value, str):
        if isinstance(value, str):
            parse_layers(value)
        return value
    if not isinstance(value, (list, tuple)) or any(isinstance(v, bool) or not isinstance(v, int) for v in value):
        raise ValueError(f"layers={value!r}; allowed: first, middle, last, a range like '8-19', or a list of indices")
    _distinct(list(value), value)
    return tuple(value)


def _distinct(indices: list[int], given: Any) -> None:
    if not indices or len(set(indices)) != len(indices) or min(indices) < 0:
        raise ValueError(f"layers={given!r}; allowed: one or more different layer indices from 0 up")


def parse_layers(text: str) -> list[int] | None:
    """Indices of a range or comma list ('8-19', '0,2,4-6'); None for a named subset."""
    if text in SUBSETS:
        return None
    indices: list[int] = []
    for part in text.split(","):
        ends = part.strip().split("-")
        if len(ends) > 2 or not all(end.isdigit() for end in ends):
            raise ValueError(f"layers={text!r}; allowed: first, middle, last, a range like '8-19', "
                             "or a list of indices")
        indices += range(int(ends[0]), int(ends[-1]) + 1)
    _distinct(indices, text)
    return indices


class Reuse(Settings):
    """What is reused, and when: on a step with `step % k != 0` the chosen layers do not run (docs/decoding.md)."""

    k: int = Field(default=1, ge=1, description="a whole number from 1 up; 1: no reuse; policy verify: k - 1 drafts")
    layers: Annotated[str | tuple[int, ...] | None, BeforeValidator(_layers)] = Field(
        default=None, description="first, middle, last, a range like '8-19', or a list of indices; needed for k > 1, "
                                  "but for policy verify, which skips none")
    policy: str = Field(default="output", description=f"{', '.join(POLICIES)}, or the path of a Python file")
    full_forwards: bool = Field(default=False, description="True: full forwards may reuse too; their skipped layers "
                                                           "keep their block-cache entries")
    similarity: float = Field(default=0.95, ge=-1.0, le=1.0, description="policy adaptive: reuse from this cosine on")

    @model_validator(mode="after")
    def _complete(self) -> Reuse:
        if self.k > 1 and self.layers is None and self.policy != "verify":
            raise ValueError(f"layers=None with k={self.k}; allowed: first, middle, last, a range like '8-19', "
                             "or a list of indices")
        if self.policy not in POLICIES and not self.policy.endswith(".py"):
            raise ValueError(f"policy={self.policy!r}; allowed: {', '.join(POLICIES)}, or a Python file")
        if self.drafts and self.full_forwards:
            raise ValueError("full_forwards=True with policy='verify', which skips no layer; allowed: "
                             "full_forwards=False")
        return self

    @property
    def active(self) -> bool:
        """Whether anything can be reused at all."""
        return self.k > 1

    @property
    def drafts(self) -> int:
        """How many steps ahead policy `verify` drafts; 0 for all others."""
        return self.k - 1 if self.policy == "verify" else 0

    def check(self, decoding: Decoding) -> None:
        """Raise ValueError for a way of decoding in which nothing could be reused, or not without loss."""
        if self.drafts and decoding.temperature > 0:
            raise ValueError(f"policy='verify' with temperature={decoding.temperature}: a draft can be checked only "
                             "where nothing is drawn; allowed: temperature=0, or k=1")
        if self.active and not self.drafts and not decoding.block_cache:
            raise ValueError(f"k={self.k} with block_cache=False: every step would be a full forward and nothing "
                             "could be reused; allowed: block_cache=True, k=1, or policy='verify'")

    def layer_indices(self, layer_count: int, first_subset: str = "1-12") -> tuple[int, ...]:
        """The chosen layers of a network with `layer_count` layers; () if none were chosen.

        Twelve layers each: first starts behind layer 0, middle is centred, last ends with the final
        layer (28 layers: 1..12, 8..19, 16..27). `first_subset="1-11"` is bug 3 of the log.
        """
        if self.layers is None or self.drafts:
            return ()
        if isinstance(self.layers, str) and self.layers in SUBSETS:
            start = {"first": 1, "middle": (layer_count - SUBSET_SIZE) // 2, "last": layer_count - SUBSET_SIZE}
            size = SUBSET_SIZE - (first_subset == "1-11" and self.layers == "first")
            chosen = tuple(range(start[self.layers], start[self.layers] + size))
        else:
            chosen = tuple(sorted(parse_layers(self.layers) or () if isinstance(self.layers, str) else self.layers))
        if not chosen or min(chosen) < 0 or max(chosen) >= layer_count:
            raise ValueError(f"Reuse.layers={self.layers!r}; allowed: layer indices from 0 to {layer_count - 1}")
        return chosen


class Execution(Settings):
    """How a run is executed. Only `seed` is meant to change the tokens, and at temperature > 0 only."""

    seed: int = Field(default=0, ge=0, description="each row draws from (seed, its number) at temperature > 0")
    batch_size: int | None = Field(default=None, ge=1, description="rows denoised together; None: all at once")
    threads: int = Field(default=1, ge=1, description="the batch is dealt to so many; on a CPU, fast executor only")
    executor: ExecutorName = Field(
        default="auto", description="eager: the reference, layer by layer; fast: the same tokens from captured graphs; "
                                    "auto: fast wherever it can do what is asked")

    def given(self, keywords: ExecutionKeywords) -> Execution:
        """These settings with single fields replaced by keywords of a call. Raises ValueError for an unknown one."""
        return Execution(**{**self.model_dump(exclude_unset=True), **keywords}) if keywords else self


class ExecutionKeywords(TypedDict, total=False):
    """The fields of `Execution` as keywords of a call: `generate(lm, prompts, batch_size=8)`."""

    seed: int
    batch_size: int | None
    threads: int
    executor: ExecutorName
