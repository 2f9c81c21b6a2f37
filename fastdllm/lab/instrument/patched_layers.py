"""A reuse policy in a decoder that is not ours, by patching the `forward` of its layers for one forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from fastdllm.decode.layer_reuse import LayerReuse
from fastdllm.decode.policies import Original


@contextmanager
def patched(layers: Sequence[nn.Module], reuse: LayerReuse) -> Iterator[None]:
    """The policy's layers answer by `reuse` until the block ends; then each has its own `forward` again.

    `layers` are all layers of the decoder (as they stand in `model.model.layers`). Each takes the hidden states
    first and returns them, alone or first in a tuple.
    """
    saved: list[tuple[nn.Module, Any]] = []
    try:
        for index in reuse.policy.layers:
            layer = layers[index]
            saved.append((layer, layer.__dict__.get("forward")))
            layer.forward = _stand_in(index, layer.forward, reuse)
        yield
    finally:
        for layer, before in saved:
            if before is None:
                del layer.forward
            else:
                layer.forward = before


def _stand_in(index: int, forward: Callable[..., Any], reuse: LayerReuse) -> Callable[..., Any]:
    def answer(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        original = ForeignLayer(lambda values: forward(values, *args, **kwargs))
        output = reuse.answer(index, hidden, original)
        return (output,) if original.returns_tuple else output
    return answer


class ForeignLayer(Original):
    """A layer that can only be called whole, and of whose caches nothing is known."""

    def __init__(self, call: Callable[[Tensor], Any]):
        self.call = call
        self.returns_tuple = False      # as Hugging Face layers of some versions do; a reused layer is never asked

    def whole(self, hidden: Tensor) -> Tensor:
        output = self.call(hidden)
        self.returns_tuple = isinstance(output, tuple)
        return output[0] if self.returns_tuple else output
