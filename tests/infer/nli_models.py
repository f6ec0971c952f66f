"""Small cross-encoders: random ones, and one whose answers are known."""

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

WORDS = """the a cat dog bird sat ran flew slept on under mat hill it was warm cold and then in city
rain fell snow they said nothing more . , ! ? ; - b""".split()  # noqa: SIM905
LABELS = {0: "contradiction", 1: "ENTAILMENT", 2: "neutral"}
SIZE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


def bert_tokenizer(length=64):
    """WordPiece over WORDS, with BERT's frame [CLS] premise [SEP] hypothesis [SEP]."""
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*marks, *dict.fromkeys(WORDS), *(f"##{x}" for x in "abcdefghijklmnopqrstuvwxyz")]
    pieces += [x for x in "abcdefghijklmnopqrstuvwxyz[]" if x not in pieces]
    vocabulary = {piece: id_ for id_, piece in enumerate(pieces)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(mark, vocabulary[mark]) for mark in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=length,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **{f"{x}_token": f"[{x.upper()}]" for x in ("pad", "unk", "cls", "sep", "mask")},
    )


def roberta_tokenizer():
    """Bytes, with RoBERTa's frame <s> premise </s></s> hypothesis </s>."""
    marks = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [*marks, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE({piece: id_ for id_, piece in enumerate(pieces)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )


def write_bert(folder, labels=LABELS):
    """A random BERT; the order of its labels is the caller's."""
    tokenizer = bert_tokenizer()
    torch.manual_seed(0)
    model = BertForSequenceClassification(
        BertConfig(vocab_size=len(tokenizer), **SIZE, initializer_range=0.5, **_named(labels))
    )
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return str(folder)


def write_roberta(folder):
    """A random RoBERTa: positions counted from its padding's, no token types."""
    tokenizer = roberta_tokenizer()
    torch.manual_seed(0)
    size = SIZE | {"max_position_embeddings": 98}
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1}
    model = RobertaForSequenceClassification(
        RobertaConfig(
            vocab_size=len(tokenizer), **size, **ids, initializer_range=0.5, **_named(LABELS)
        )
    )
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return str(folder)


def _named(labels):
    return {"id2label": labels, "label2id": {name: id_ for id_, name in labels.items()}}


SUBJECTS = ("cat", "dog", "bird")


def write_knowing(folder):
    """A BERT whose weights are made so that a premise entails what is said of a subject it names.

    One head looks for subjects in the premise, one in the hypothesis, and three hidden units see
    whether both have found the same one. Each number stands there with either sign, so that its
    norms, made wide, change nothing.
    """
    tokenizer = bert_tokenizer()
    half = 13
    subject, of_type, word, premise, hypothesis, flag = 0, 1, 3, 6, 9, 12
    wide = 1e4
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=2 * half,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=len(SUBJECTS),
        max_position_embeddings=64,
        layer_norm_eps=wide**2,
        **_named(LABELS),
    )
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(wide if "LayerNorm.weight" in name else 0.0)
        embeddings, layer = model.bert.embeddings, model.bert.encoder.layer[0]
        sees, ends = layer.attention.self, layer.attention.output.dense.weight
        for side in (0, 1):
            embeddings.token_type_embeddings.weight[side, of_type + side] = 1
            sees.query.bias[side * half] = 1
            sees.key.weight[side * half, subject] = 50
            sees.key.weight[side * half, of_type + side] = 100
        for at, name in enumerate(SUBJECTS):
            id_ = tokenizer.convert_tokens_to_ids(name)
            embeddings.word_embeddings.weight[id_, [subject, word + at]] = 1
            for side, found in ((0, premise), (1, hypothesis)):
                sees.value.weight[side * half + word + at, word + at] = 1
                ends[found + at, side * half + word + at] = 1
                layer.intermediate.dense.weight[at, found + at] = 20
            layer.intermediate.dense.bias[at] = -23  # less than all of one subject is seen by both
            layer.output.dense.weight[flag, at] = 1
        for table in (embeddings.token_type_embeddings, embeddings.word_embeddings):
            table.weight[:, half:] = -table.weight[:, :half]
        for weight in (ends, layer.output.dense.weight):
            weight[half:] = -weight[:half]
        model.bert.pooler.dense.weight[0, flag] = 1
        model.classifier.weight[1, 0] = 20
        model.classifier.bias[1] = -10
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return str(folder)
