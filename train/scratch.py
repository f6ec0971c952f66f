"""Makes the small model of `model.path = "scratch"`: Qwen3 architecture, tokenizer, template.

The tokenizer is byte-level BPE trained on the training split: any text can be encoded, and comes
back. Attention starts as mimetic initialisation has it (Trockman and Kolter 2023, arXiv
2305.09828): queries match keys of the same token, and the output projection undoes the value
projection, so that a head begins by copying what it attends to. Summaries copy; from random
projections a model of this size needs about twice the steps to learn to. docs/numerics.md has what
was tried and measured.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention
from transformers.utils.logging import disable_progress_bar

from sumzero.config import RunConfig, Scratch, Source
from sumzero.errors import DataError
from sumzero.readers import digest
from sumzero.records import Record, read
from sumzero.runfile import as_dict
from sumzero.runfolder import atomic_folder, read_jsonl, write_jsonl

END_OF_TEXT, END_OF_TURN = "<|endoftext|>", "<|end|>"
ROLES = ("system", "user", "assistant")
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_INITIAL_RANGE = 0.05  # standard deviation of embeddings and MLPs
_COPYING = 8.0  # scale of the product of value and output projection
_MADE_FROM = "made_from.jsonl"
_MAX_CHARACTERS = 4000  # of a document that the tokenizer is trained on


def make_scratch_model(config: RunConfig, sources: Sequence[Source], folder: Path) -> None:
    """Writes model and tokenizer to `folder`, unless those of the same settings are there.

    Raises DataError where the sources have no usable record.
    """
    made_from: dict[str, Any] = {
        "scratch": as_dict(config.model.scratch),
        "seed": config.seed,
        "positions": max(config.data.max_length, 64),
        "sources": [[as_dict(source), digest(source)] for source in sources],
    }
    if read_jsonl(folder / _MADE_FROM) == [made_from]:
        return
    tokenizer = train_tokenizer(_texts(sources), config.model.scratch.vocab_size)
    if len(tokenizer) < 260:
        raise DataError(f"{sources[0].path}: no text to train a tokenizer on")
    model = initial_model(config.model.scratch, tokenizer, made_from["positions"], config.seed)
    disable_progress_bar()  # of one file that is written at once
    with atomic_folder(folder) as partial:
        tokenizer.save_pretrained(partial)
        model.save_pretrained(partial)
        write_jsonl(partial / _MADE_FROM, [made_from])


def train_tokenizer(texts: Iterator[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a chat template of one control token a turn's end."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, END_OF_TURN, *(f"<|{role}|>" for role in ROLES)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=sys.stderr.isatty(),
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END_OF_TURN,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def initial_model(
    shape: Scratch, tokenizer: PreTrainedTokenizerFast, positions: int, seed: int
) -> Qwen3ForCausalLM:
    """Random weights in float32; the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=len(tokenizer),
                hidden_size=shape.hidden_size,
                num_hidden_layers=shape.num_layers,
                num_attention_heads=shape.num_heads,
                num_key_value_heads=shape.num_kv_heads,
                head_dim=shape.hidden_size // shape.num_heads,
                intermediate_size=shape.intermediate_size,
                max_position_embeddings=positions,
                tie_word_embeddings=True,
                initializer_range=_INITIAL_RANGE,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                bos_token_id=None,
            )
        )
        with torch.no_grad():
            for layer in model.model.layers:
                _begin_by_copying(layer.self_attn, shape)
    return model


def _begin_by_copying(attention: Qwen3Attention, shape: Scratch) -> None:
    """Equal query and key projections; output projection = (value projection)^T, head by head."""
    head, hidden = shape.hidden_size // shape.num_heads, shape.hidden_size
    key, value = (
        torch.nn.init.orthogonal_(torch.empty(shape.num_kv_heads * head, hidden)) for _ in range(2)
    )

    def to_query_heads(weight: torch.Tensor) -> torch.Tensor:
        by_head = weight.view(shape.num_kv_heads, 1, head, hidden)
        repeats = shape.num_heads // shape.num_kv_heads
        return by_head.expand(-1, repeats, -1, -1).reshape(-1, hidden)

    attention.k_proj.weight.copy_(key)
    attention.q_proj.weight.copy_(to_query_heads(key))
    attention.v_proj.weight.copy_(value * _COPYING**0.5)
    attention.o_proj.weight.copy_(to_query_heads(value).T * _COPYING**0.5)


def _texts(sources: Sequence[Source]) -> Iterator[str]:
    for source in sources:
        for row in read(source, need_targets=True):
            if isinstance(row, Record):
                yield row.document[:_MAX_CHARACTERS]
                yield from row.targets
