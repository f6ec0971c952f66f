"""The models that are timed: their shapes, and the floating-point operations of a step.

    FLOPs of forward and backward = 6 x parameters of the layers' matrices x tokens
                                  + 12 x layers x heads x head size x attended pairs
                                  + 6 x hidden x vocabulary x positions with a head

A multiply-add is 2, the backward pass twice the forward one. Pairs are counted causally, so a
segment of l tokens has l^2 / 2; published figures that count l^2 come out higher for the same
speed. Embeddings, norms and what recomputation repeats are not counted. MFU divides by the time of
a whole step, the optimizer included, and by the device's peak.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """Geometry of a Qwen3 decoder; `intermediate` is the width of its MLP."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocab: int
    tied: bool

    def config(self) -> dict[str, Any]:
        """Arguments of transformers' Qwen3Config.

        Weights have a standard deviation of 1 / sqrt(hidden), at which each layer moves the hidden
        state about as far as it is long: a wrong mask or position shows in the loss.
        """
        return {
            "num_hidden_layers": self.layers,
            "hidden_size": self.hidden,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_size,
            "intermediate_size": self.intermediate,
            "vocab_size": self.vocab,
            "tie_word_embeddings": self.tied,
            "initializer_range": self.hidden**-0.5,
        }


# https://huggingface.co/Qwen: config.json of Qwen3-0.6B, Qwen3-1.7B and Qwen3-8B.
SHAPES = {
    "0.6B": Shape(28, 1024, 16, 8, 128, 3072, 151_936, tied=True),
    "1.7B": Shape(28, 2048, 16, 8, 128, 6144, 151_936, tied=True),
    "8B": Shape(36, 4096, 32, 8, 128, 12_288, 151_936, tied=False),
}
QUICK = Shape(2, 256, 4, 2, 64, 768, 8192, tied=True)


@dataclass(frozen=True)
class Span:
    """A segment: `length` tokens behind a prefix of `prefix`.

    In the last layer its last `queries` tokens pass through more than the key and value matrices.
    """

    length: int
    prefix: int
    queries: int


def step_flops(shape: Shape, spans: Sequence[Span], head_positions: int) -> float:
    """Floating-point operations of forward and backward over the spans; see the module."""
    heads_width, kv_width = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    keys_values = 2 * shape.hidden * kv_width
    rest = 2 * shape.hidden * heads_width + 3 * shape.hidden * shape.intermediate
    tokens = sum(span.length for span in spans)
    queries = sum(span.queries for span in spans)
    full = shape.layers - 1
    matrices = (full + 1) * keys_values * tokens + rest * (full * tokens + queries)
    pairs = full * sum(_pairs(span, span.length) for span in spans)
    pairs += sum(_pairs(span, span.queries) for span in spans)
    head = shape.hidden * shape.vocab * head_positions
    return 6 * matrices + 12 * heads_width * pairs + 6 * head


def _pairs(span: Span, queries: int) -> float:
    """Of the last `queries` tokens with what they see: the area below the diagonal."""
    return queries * (span.prefix + span.length - queries / 2)
