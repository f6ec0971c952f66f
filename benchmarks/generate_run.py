"""What bench_generate generates with and for: a run with a random model, and prompts of texts."""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import ROOT

SHARED = ROOT.parent / "shared" / "data"
SHAPE = {"hidden_size": 512, "num_layers": 8, "num_heads": 8, "intermediate_size": 1536}
QUICK_SHAPE = {"hidden_size": 256, "num_layers": 4, "num_heads": 4, "intermediate_size": 768}
VOCABULARY, POSITIONS = 8192, 1024
_SURE = 4.0  # the head's scale: likeliest tokens are likelier than rounding can change


@dataclass(frozen=True)
class Prompts:
    """Token ids of prompts, and how many tokens each is to be continued by."""

    ids: list[list[int]]
    lengths: list[int]


def texts(count: int) -> Iterator[str]:
    """Documents: abstracts of papers where they are beside the repository, else made-up words."""
    for name in ("scitldr_train700", "scitldr_dev150"):
        file = SHARED / f"{name}.jsonl"
        if file.is_file():
            rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
            documents = [row["document"] for row in rows]
            yield from documents[:count]
            count = max(0, count - len(documents))
    choose = random.Random(0)
    words = [f"{a}{b}" for a in "bcdfghjklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er")]
    for _ in range(count):
        yield " ".join(choose.choices(words, k=choose.randint(100, 300))) + "."


def write_run(folder: Path, shape: dict[str, int], rows: int, new_tokens: int) -> Path:
    """A run with records and an export; every summary has `new_tokens`. Returns the run file."""
    import torch

    from sumzero.config import Data, Scratch, Source
    from sumzero.contract import make_contract, write_contract
    from sumzero.prompt import PromptRenderer
    from sumzero.train.scratch import initial_model, train_tokenizer

    documents = list(texts(rows))
    with (folder / "test.jsonl").open("w", encoding="utf-8") as out:
        for number, text in enumerate(documents):
            out.write(json.dumps({"id": f"row-{number}", "document": text}) + "\n")
    scratch = Scratch(**shape, vocab_size=VOCABULARY)
    tokenizer = train_tokenizer(iter(documents), VOCABULARY)
    export = folder / "runs" / "run" / "export"
    model = initial_model(scratch, tokenizer, positions=POSITIONS, seed=0).float()
    torch.manual_seed(0)
    model.lm_head.weight = torch.nn.Parameter(_SURE * torch.randn_like(model.lm_head.weight))
    model.config.tie_word_embeddings = False
    model.save_pretrained(export)
    tokenizer.save_pretrained(export)
    data = Data(train=(Source(path="train"),), max_length=POSITIONS)
    write_contract(export, make_contract(PromptRenderer(tokenizer, data.truncation), data))
    run = folder / "run.toml"
    run.write_text(
        f"""
        runs = "{folder}/runs"
        data.test.path = "{folder}/test.jsonl"
        [generate]
        max_new_tokens = {new_tokens}
        min_new_tokens = {new_tokens}
        dtype = "float32"
        cpu_kv_cache_gib = 1.0
        """,
        encoding="utf-8",
    )
    return run


def prompts_of(run: Path, new_tokens: int) -> list[list[int]]:
    """The ids that `sumzero generate` gives the engine for the records of the run."""
    from sumzero.config import Source
    from sumzero.contract import open_contract
    from sumzero.infer.questions import asking, each_record, question_ids
    from sumzero.runfile import load
    from sumzero.runfolder import RunFolder

    config = load(str(run))
    contract, renderer = open_contract(RunFolder.of(config).export)
    asked = asking(config, contract)
    limit = contract.prompt_limit(new_tokens)

    def ids(record: Any, source: Source) -> list[int]:
        document = renderer.encode_text([record.document])[0]
        question = question_ids(renderer, asked(record, source), record.instruction)
        prompt = renderer.prompt(document, limit, question)
        assert prompt is not None
        return prompt.ids

    return [ids(*pair) for pair in each_record(config.data.test, need_targets=False)]


def write_adapter(folder: Path, run: Path, seed: int) -> Path:
    """Random adapters of rank 16 for all linear layers of the run's model."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(run.parent / "runs" / "run" / "export")
    torch.manual_seed(seed)
    settings = LoraConfig(
        r=16, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False
    )
    get_peft_model(model, settings).save_pretrained(folder)
    return folder


def ragged(count: int) -> list[int]:
    """Lengths of outputs: log-normal, 48 in the mean, at most 192."""
    import numpy as np

    sigma = 0.75
    drawn = np.random.default_rng(0).lognormal(np.log(48) - sigma**2 / 2, sigma, count)
    return [int(length) for length in drawn.clip(4, 192)]


def questions(run: Path, documents: int, each: int) -> list[list[int]]:
    """Prompts of `each` questions about every document, one after the other: QMSum's, or words."""
    from sumzero.contract import open_contract

    _, renderer = open_contract(run.parent / "runs" / "run" / "export")
    file = SHARED / "qmsum_train120.jsonl"
    if file.is_file():
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        asked = [row["query"] for row in rows]
        about = [row["document"] for row in rows[:documents]]
    else:
        asked, about = [f"What is {x}?" for x in range(120)], list(texts(documents))
    made = []
    for number, text in enumerate(about):
        for index in range(each):
            question = renderer.ask(asked[(number + 7 * index) % len(asked)])
            prompt = renderer.prompt(renderer.encode_text([text])[0], POSITIONS - 16, question)
            assert prompt is not None
            made.append(prompt.ids)
    return made


def write_copier(folder: Path, run: Path) -> int:
    """A model of the same shape that says, after each token, the one with the next number.

    Attention and MLPs compute as ever and add nothing; so what it says is known beforehand. Returns
    the size of its vocabulary.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(run.parent / "runs" / "run" / "export")
    torch.manual_seed(0)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        vectors = torch.randn_like(model.model.embed_tokens.weight)
        model.model.embed_tokens.weight.copy_(vectors)
        model.lm_head.weight.copy_(vectors.roll(1, 0))
    model.save_pretrained(folder)
    return len(vectors)


def copied(vocabulary: int, count: int, tokens: int, piece: int, share: float) -> Prompts:
    """Prompts to `write_copier`'s model of 400 random tokens with pieces of what it will say.

    `share` of the summary of `tokens` stands in the prompt, in pieces of `piece` tokens that are
    in no order; the rest is nowhere.
    """
    choose = random.Random(1)
    made = []
    for _ in range(count):
        first = choose.randrange(vocabulary // 2 - tokens)
        said = range(first, first + tokens + 1)
        pieces = [list(said[at : at + piece]) for at in range(0, tokens, piece)]
        there = choose.sample(pieces, round(share * len(pieces)))
        filler = choose.choices(range(vocabulary // 2 + 1, vocabulary), k=400 - tokens)
        # Single tokens of the filler stand between the pieces, so that none goes on in another.
        parts: list[Sequence[int]] = [filler[len(there) :]]
        parts += [[*one, other] for one, other in zip(there, filler, strict=False)]
        choose.shuffle(parts)
        made.append([id_ for part in parts for id_ in part] + [first])
    return Prompts(made, [tokens] * count)
