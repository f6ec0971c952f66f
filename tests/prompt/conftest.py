"""Tokenizers of every kind that models have, small and made here, each with a chat template."""

import json
import string
from functools import cache

import pytest
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from sumzero.prompt import PromptRenderer

LETTERS = string.ascii_letters + string.digits + string.punctuation
CORPUS = [
    "The cat sat on the mat. It was warm.\n\nAnother  paragraph, with two spaces.",
    "def get_name(x):\n    return x  # <b>bold</b>",
    " ".join(LETTERS),
] * 3
CHATML = (
    "<|im_start|>system\nBe brief.<|im_end|>\n"
    "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{{ turn.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = (
    "{% for turn in messages %}<|im_start|>{{ turn.role }}\n"
    "{% if turn.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ turn.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% else %}<think>\nWell, {% endif %}"
    "{% endif %}"
)
HEADERS = (
    "{{ bos_token }}{% for turn in messages %}"
    "<|header|>{{ turn.role }}<|end_header|>\n\n{{ turn.content | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|header|>assistant<|end_header|>\n\n{% endif %}"
)
PLAIN = (
    "{% for turn in messages %}{{ turn.role }}: {{ turn.content }}\n"
    "{% if turn.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def byte_level(special, extra=(), **model):
    bpe = Tokenizer(models.BPE(**model))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False),
    )
    bpe.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    bpe.add_tokens([AddedToken(token, normalized=False) for token in extra])
    return bpe


def fast(backend, template, **special):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=False, **special
    )
    tokenizer.chat_template = template
    return tokenizer


def chatml():
    """Qwen's way: control tokens behind the vocabulary, some of them not marked as special."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    backend = byte_level(special, ["<tool_call>", "</tool_call>"])
    return fast(backend, CHATML, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def thinking():
    """Qwen3's way: an empty thinking block is part of the prompt where thinking is off."""
    backend = byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], ["<think>", "</think>"])
    return fast(backend, THINKING, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def headers():
    """Llama 3's way: a BOS from the template and from the tokenizer, and an end apart from EOS."""
    special = ["<|begin|>", "<|header|>", "<|end_header|>", "<|eot|>", "<|end|>"]
    backend = byte_level(special, ignore_merges=True)
    backend.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", backend.token_to_id("<|begin|>"))]
    )
    return fast(backend, HEADERS, bos_token="<|begin|>", eos_token="<|end|>")


def learned():
    """A vocabulary whose merges build a control token, from text that was full of it."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        ["a<|end|>b", "c<|end|>d", "<|end|>\n"] * 20,
        trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False),
    )
    assert bpe.encode("x<|end|>y").tokens[1] == "<|end|>"
    bpe.add_special_tokens([AddedToken("<|end|>", normalized=False)])
    return fast(bpe, PLAIN, eos_token="<|end|>")


def byte_fallback():
    """Gemma's way: bytes for unknown characters, line breaks and runs of spaces as added tokens."""
    bpe = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    bpe.normalizer = normalizers.Replace(" ", "\u2581")
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    control = ["<unk>", "<eos>", "<turn>", "</turn>"]
    pieces = [*control, *(f"<0x{byte:02X}>" for byte in range(256))]
    bpe.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=420, special_tokens=pieces, show_progress=False)
    )
    state = json.loads(bpe.to_str())
    state["added_tokens"] = [row for row in state["added_tokens"] if row["content"] in control]
    bpe = Tokenizer.from_str(json.dumps(state))
    assert bpe.token_to_id("\n") is not None
    bpe.add_tokens([AddedToken(run, normalized=False) for run in ("\n", "\n\n", "\u2581\u2581")])
    template = (
        "{% for turn in messages %}<turn>{{ turn.role }}\n{{ turn.content }}</turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
    )
    return fast(bpe, template, eos_token="<eos>", unk_token="<unk>")


def unigram():
    """The sentence-piece way: control tokens are pieces of the vocabulary, and likely ones."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.train_from_iterator(
        CORPUS,
        trainers.UnigramTrainer(
            vocab_size=150,
            special_tokens=["<unk>", "</s>", "[TURN]", "[NOTE]"],
            unk_token="<unk>",
            initial_alphabet=list(LETTERS),
            show_progress=False,
        ),
    )
    state = json.loads(backend.to_str())
    (note,) = (row for row in state["added_tokens"] if row["content"] == "[NOTE]")
    note["special"] = False  # as Qwen has its thinking and tool marks
    backend = Tokenizer.from_str(json.dumps(state))
    template = (
        "{% for turn in messages %}[TURN]{{ turn.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}[TURN]{% endif %}"
    )
    return fast(backend, template, eos_token="</s>", unk_token="<unk>")


def word_piece(eos="[SEP]"):
    """BERT's way: whole words in brackets are pieces, and unknown words are one token."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.WordPiece()
    backend.train_from_iterator(
        CORPUS,
        trainers.WordPieceTrainer(
            vocab_size=300, special_tokens=["[UNK]", "[SEP]", "[TURN]"], show_progress=False
        ),
    )
    template = (
        "{% for turn in messages %}[TURN] {{ turn.content }} [SEP]{% endfor %}"
        "{% if add_generation_prompt %}[TURN] {% endif %}"
    )
    return fast(backend, template, eos_token=eos, unk_token="[UNK]")


def word_prefix(scheme="normalizer"):
    """Llama 2's way: a space before each text, also after a control token, as pieces have it."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    if scheme == "normalizer":
        steps = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        backend.normalizer = normalizers.Sequence(steps)
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    fallback = [decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), *fallback])
    control = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    pieces = [*control, *(f"<0x{byte:02X}>" for byte in range(256))]
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=420, special_tokens=pieces, show_progress=False)
    )
    state = json.loads(backend.to_str())
    state["added_tokens"] = [row for row in state["added_tokens"] if row["content"] in control]
    template = (
        "{{ bos_token }}{% for turn in messages %}{% if turn.role == 'user' %}"
        "[INST] {{ turn.content }}[/INST]{% else %} {{ turn.content }}{{ eos_token }}{% endif %}"
        "{% endfor %}"
    )
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return fast(Tokenizer.from_str(json.dumps(state)), template, **special)


MAKERS = {
    "chatml": chatml,
    "thinking": thinking,
    "headers": headers,
    "learned": learned,
    "byte_fallback": byte_fallback,
    "unigram": unigram,
    "word_piece": word_piece,
    "word_prefix": word_prefix,
}


@pytest.fixture(scope="session")
def make():
    """Makes a new tokenizer by name: make("chatml"), make("word_piece", eos="[UNK]")."""
    return lambda name, **how: MAKERS[name](**how)


@pytest.fixture(scope="session")
def make_byte_level():
    """Makes a byte-level tokenizer: make_byte_level(template, special, extra, eos_token=...)."""

    def made(template, special, extra=(), **names):
        return fast(byte_level(list(special), list(extra)), template, **names)

    return made


@pytest.fixture(scope="session")
def renderer_of():
    """The renderer of a tokenizer by name, and truncation rule; each is made once."""
    return cache(lambda name, rule="head": PromptRenderer(MAKERS[name](), rule))
