"""The held-out loss is the exact mean over tokens, by task, however records are laid out."""

from dataclasses import dataclass

import pytest
import torch

from sumzero.kernels.packed_attention import NAME
from sumzero.kernels.segments import Backends
from sumzero.ranks import Ranks
from sumzero.train.evaluation import Evaluation
from sumzero.train.examples import store_file
from sumzero.train.store import TokenStore
from sumzero.train.supervised import SupervisedLM

from .tiny_models import tiny_model

QUESTIONS = [
    {"id": n, "document": f"{n} " + "the dog ran. " * n, "question": "who?", "target": ["dog", "a"]}
    for n in range(9)
]
SUMMARIES = [
    {"id": n, "document": "a cat sat. " * (n + 1), "target": f"cat {n}."} for n in range(7)
]


@dataclass
class Alone:
    """What an evaluation needs of an engine, of one process."""

    model: torch.nn.Module
    device = torch.device("cpu")

    @staticmethod
    def gather(values):
        return values[None]


@pytest.fixture(scope="module")
def run(prepared, tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("evaluation")
    answers = prepared.write(folder / "answers.jsonl", QUESTIONS)
    summaries = prepared.write(folder / "summaries.jsonl", SUMMARIES)
    validation = [
        {"path": str(summaries)},
        {"path": str(answers), "task": "answer", "instruction": "question"},
    ]
    return prepared(SUMMARIES, folder=folder, validation=validation, max_length=160)


@pytest.fixture(scope="module")
def model(tokenizer):
    lm = tiny_model("llama", vocab_size=len(tokenizer)).eval()
    lm.config._attn_implementation = NAME
    return Alone(SupervisedLM(lm, Backends("sdpa", "sdpa")))


def test_it_is_the_mean_over_the_tokens_of_each_task(run, model):
    store = TokenStore(store_file(run.folder, "validation"))
    evaluation = Evaluation(store, run.config)
    assert evaluation.tokens.keys() == {"answer", "summarize"}
    found = evaluation.losses(model, Ranks(), 0)

    sums = {"answer": 0.0, "summarize": 0.0}
    counts = dict.fromkeys(sums, 0)
    layout = evaluation._layout
    for piece in range(len(layout.pieces)):
        task = "answer" if store.source[layout.example[piece]] == 1 else "summarize"
        batch = evaluation._batch([piece], 0)
        with torch.no_grad():
            sums[task] += float(model.model(batch))
        counts[task] += len(batch.labels)
    assert counts == evaluation.tokens
    for task, total in sums.items():
        assert found[task] == pytest.approx(total / counts[task], rel=1e-6)
    everything = sum(sums.values()) / sum(counts.values())
    assert found["loss"] == pytest.approx(everything, rel=1e-6)


@pytest.mark.parametrize("world", [2, 3, 50])
def test_ranks_share_it(run, model, world):
    evaluation = Evaluation(TokenStore(store_file(run.folder, "validation")), run.config)
    alone = evaluation.losses(model, Ranks(), 0)
    parts = [evaluation.losses(model, Ranks(rank, world), 0) for rank in range(world)]
    for key, value in alone.items():
        assert sum(part[key] for part in parts) == pytest.approx(value, rel=1e-12)


def test_the_model_is_in_training_again_afterwards(run, model):
    model.model.train()
    Evaluation(TokenStore(store_file(run.folder, "validation")), run.config).losses(
        model, Ranks(), 0
    )
    assert model.model.training
    model.model.eval()
