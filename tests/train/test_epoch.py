"""What an epoch sees, in which words, and how many steps a run has."""

import time
from collections import Counter, OrderedDict
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sumzero.errors import ConfigError
from sumzero.train.batches import family, make_batch

ANSWER = {"task": "answer", "document": "context", "instruction": "question"}
ROWS = [{"id": n, "document": f"A cat sat {n}.", "target": "A cat."} for n in range(30)]


def _prompts(run, epoch):
    return {name: prompt for piece in run.texts(epoch) for name, prompt, _ in piece}


def _seen(run, epoch):
    """How often an epoch has each record."""
    return Counter(name for piece in run.pieces(epoch) for name, _, _ in piece)


def _questions(count, words="Who sat there?"):
    return [
        {"id": n, "context": "The cat sat on the mat. " * 4, "question": words, "target": f"{n}"}
        for n in range(count)
    ]


def test_records_are_asked_in_other_words_each_epoch_and_the_same_again_in_a_rerun(prepared):
    run, rerun = prepared(ROWS), prepared(ROWS)
    epochs = [_prompts(run, epoch) for epoch in range(3)]
    for one, other in pairwise(epochs):
        assert sum(one[name] != other[name] for name in one) > len(ROWS) / 2
    assert [_prompts(rerun, epoch) for epoch in range(3)] == epochs
    assert _prompts(prepared(ROWS, seed=1), 0) != epochs[0]


def test_sources_are_seen_as_often_as_they_weigh(prepared, tmp_path):
    weights = {"a": 2.0, "b": 0.5, "c": 1.5, "d": 0.1}
    sources = []
    for name, weight in weights.items():
        rows = [row | {"id": f"{name}{row['id']}"} for row in ROWS]
        file = prepared.write(tmp_path / f"{name}.jsonl", rows)
        sources.append({"path": str(file), "weight": weight})
    run = prepared(train=sources)
    epochs = [_seen(run, epoch) for epoch in range(4)]
    for seen in epochs:
        assert {name: sum(n for id_, n in seen.items() if id_[0] == name) for name in weights} == {
            name: weight * len(ROWS) for name, weight in weights.items()
        }
        assert {n for id_, n in seen.items() if id_[0] == "a"} == {2}
        assert {n for id_, n in seen.items() if id_[0] == "c"} == {1, 2}
    for name in "bc":  # other examples each epoch
        picked = {frozenset(x for x in seen.items() if x[0][0] == name) for seen in epochs}
        assert len(picked) == len(epochs)
    assert [_seen(run, epoch) for epoch in range(4)] == epochs


def test_what_is_drawn_and_how_it_is_asked_do_not_go_together(prepared):
    rows = [{"id": n, "document": f"{n}.", "target": "Cat."} for n in range(80)]
    run = prepared(rows, source={"weight": 0.5})
    asked = Counter(prompt.partition("\n\n")[2] for prompt in _prompts(run, 0).values())
    assert len(asked) == len(run.store.template.ways[0])


def test_weights_that_leave_nothing_to_learn_are_refused(prepared):
    with pytest.raises(ConfigError, match="epoch 0 has no example"):
        prepared(ROWS[:4], source={"weight": 0.1})


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("limit", [130, 200, 2048])
def test_a_family_that_is_too_long_is_split_and_no_branch_is_lost(prepared, limit, share):
    run = prepared(_questions(25), source=ANSWER, max_length=limit, share_documents=share)
    for epoch in range(2):
        pieces = run.pieces(epoch)  # none is longer than the limit
        assert _seen(run, epoch) == {str(n): 1 for n in range(25)}
        answers = [run.renderer.tokenizer.decode(x[2]) for piece in pieces for x in piece]
        assert sorted(answers) == sorted(f"{n}<|end|>" for n in range(25))
        if share and limit == 2048:
            assert len(pieces) == 1
        if share and limit < 2048:
            assert 1 < len(pieces) < 25
        if not share:
            assert len(pieces) == 25


def test_what_a_prompt_reads_as_does_not_depend_on_sharing(prepared):
    rows = [*_questions(5), {"context": "Rain.", "question": "What?", "target": ["Rain", "Wet"]}]
    shared = prepared(rows, source=ANSWER)
    apart = prepared(rows, source=ANSWER, share_documents=False)
    assert sorted(chain(*shared.texts())) == sorted(chain(*apart.texts()))
    assert shared.epochs().tokens_without_sharing() == apart.report["plan"]["tokens"]


texts = st.integers(1, 40).map(lambda n: "cat sat " * n)
rows = st.lists(
    st.fixed_dictionaries(
        {
            "context": st.sampled_from(["The mat. " * 20, "Rain. " * 3]) | texts,
            "question": texts,
            "target": st.lists(texts, min_size=1, max_size=3, unique=True),
        }
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60)
@given(rows, st.booleans(), st.booleans(), st.sampled_from(["token", "target"]))
def test_the_plan_counts_what_the_batches_hold(prepared, rows, is_question, share, loss_weight):
    source = ANSWER if is_question else {"document": "context"}
    run = prepared(
        rows,
        source=source,
        training={"loss_weight": loss_weight},
        share_documents=share,
        duplicates="keep",
        max_length=300,
    )
    epochs = run.epochs()
    layout = epochs.epoch(0).layout
    for piece in range(len(layout.pieces)):
        batch = make_batch([family(epochs.store, layout, piece)], 0, loss_weight)
        pairs = 0
        for length, prefix in zip(batch.lengths, batch.prefix_of, strict=True):
            before = batch.lengths[prefix] if prefix >= 0 else 0
            pairs += length * before + length * (length + 1) // 2
        assert layout.pieces.tokens[piece] == batch.input_ids.shape[1]
        assert layout.pieces.pairs[piece] == pairs
        assert layout.pieces.supervised[piece] == len(batch.labels)
        assert layout.pieces.weight[piece] == pytest.approx(float(batch.weights.sum()), rel=1e-5)


@pytest.fixture(scope="module")
def ten_steps(prepared):
    """An epoch of ten steps, of an example each."""
    rows = [{"id": n, "document": f"{n} cats.", "target": "Cats."} for n in range(10)]
    return prepared(rows, max_length=32, instruction="Sum up.", training={"bins_per_step": 1})


@pytest.mark.parametrize(
    ("training", "steps"),
    [
        ({"epochs": 1.0}, 10),
        ({"epochs": 3.0}, 30),
        ({"epochs": 0.5}, 5),
        ({"epochs": 1.1}, 11),
        ({"epochs": 2.25}, 23),
        ({"epochs": 3.0, "max_steps": 17}, 17),
        ({"epochs": 1.0, "max_steps": 100}, 10),
        ({"epochs": 1000.0, "max_steps": 10}, 10),
    ],
)
def test_steps_of_a_run(ten_steps, training, steps):
    epochs = ten_steps.epochs(**training)
    assert epochs.epoch(0).plan.num_steps == 10
    assert epochs.num_steps == steps
    where = [epochs.locate(step) for step in range(steps)]
    assert [(epoch.number, index) for epoch, index in where] == [
        divmod(step, 10) for step in range(steps)
    ]


def test_the_digest_tells_of_all_that_is_learnt_when(prepared, ten_steps):
    digest = ten_steps.epochs().digest
    assert ten_steps.epochs().digest == digest
    assert ten_steps.epochs(epochs=2.0).digest != digest
    assert ten_steps.epochs(bins_per_step=2).digest != digest
    source = {"path": ten_steps.config.data.train[0].path}
    same = {"max_length": 32, "instruction": "Sum up.", "training": {"bins_per_step": 1}}
    assert prepared(train=source, **same).epochs().digest == digest
    for change in ({"max_length": 33}, {"train": {**source, "weight": 1.5}}, {"seed": 1}):
        assert prepared(**{"train": source, **same, **change}).epochs().digest != digest, change


def test_the_digest_tells_paraphrases_of_one_length_apart(prepared, tmp_path):
    """Plans of equal lengths are equal, and what is learnt is not."""
    file = tmp_path / "words.toml"
    file.write_text('task = "summarize"\nlanguage = "en"\nparaphrases = ["A.", "B."]\n')
    digests = {}
    for name in "abcdef":
        row = {"id": name, "document": "A cat.", "target": "Cat."}
        run = prepared([row], source={"instructions": str(file)})
        (((_, prompt, _),),) = run.texts()
        digests.setdefault(prompt, set()).add(run.epochs(epochs=1.0).digest)
    assert len(digests) == 2
    assert not set.intersection(*digests.values())


def test_an_epoch_asked_for_again_is_the_same(ten_steps):
    epochs = ten_steps.epochs()
    first = epochs.epoch(0)
    assert epochs.epoch(0) is first
    for number in (1, 2, 3):
        epochs.epoch(number)
    again = epochs.epoch(0)
    assert again.plan.digest == first.plan.digest
    assert np.array_equal(again.layout.paraphrase, first.layout.paraphrase)


class Yielding(OrderedDict):
    """Lets another thread go on after each look, which it does seldom by itself."""

    def __contains__(self, key):
        found = super().__contains__(key)
        time.sleep(0)
        return found


def test_threads_may_ask_for_epochs_at_once(ten_steps):
    """One builds batches ahead while another looks up what a step was made of."""
    epochs = ten_steps.epochs(epochs=4.0)
    want = [epochs.epoch(number).plan.digest for number in range(4)]
    epochs._recent = Yielding()
    asked = np.random.default_rng(0).integers(4, size=400).tolist()  # more than are kept
    with ThreadPoolExecutor(8) as threads:
        found = [one.plan.digest for one in threads.map(epochs.epoch, asked)]
    assert found == [want[number] for number in asked]
