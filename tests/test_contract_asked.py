"""What a contract has test records asked, by task, language and length."""

from dataclasses import replace

import pytest

from sumzero.config import Data, Generate, Source
from sumzero.contract import make_contract
from sumzero.errors import ConfigError
from sumzero.instructions import bundled
from sumzero.prompt import PromptRenderer

TRAIN = Source(path="train.jsonl")
ANSWER = Source(path="questions.jsonl", task="answer", instruction="question")
TRANSLATE = Source(path="pairs.jsonl", task="translate", target_language="zh")


@pytest.fixture
def made(tokenizer):
    """Makes the contract of training sources and data settings."""
    return lambda *train, **values: make_contract(
        PromptRenderer(tokenizer), Data(train=train, **values)
    )


def test_a_test_source_is_asked_as_its_task_and_language_were_trained(made, caplog):
    own = "Of the settings."
    contract = made(TRAIN, replace(TRAIN, language="zh"), TRANSLATE)
    changed = Data(instruction=own)  # since training: what was trained counts
    assert contract.asked(TRAIN, "en", changed, Generate()) == "Summarize the text above."
    assert contract.asked(TRAIN, "zh-CN", changed, Generate()) == "请概括以上内容。"
    french = replace(TRANSLATE, target_language="fr")
    assert contract.asked(french, "en", changed, Generate()) == (
        "Translate the text above into French."
    )
    assert caplog.text == ""


def test_what_was_not_trained_is_asked_in_the_source_s_own_words_with_a_warning(made, caplog):
    contract = made(TRAIN)
    asked = contract.asked(ANSWER, "en", Data(), Generate())
    assert asked == bundled("answer", "en").paraphrases[0]
    assert contract.asked(TRAIN, "zh", Data(), Generate()) == "请概括以上内容。"
    assert [record.getMessage() for record in caplog.records] == [
        "questions.jsonl: the model was not trained on task \"answer\" in language 'en'",
        "train.jsonl: the model was not trained on task \"summarize\" in language 'zh'",
    ]
    with pytest.raises(ConfigError, match="no instructions for task"):
        contract.asked(TRAIN, "fr", Data(), Generate())


def test_of_two_sets_for_one_task_a_source_is_asked_by_its_own(made, tmp_path):
    file = tmp_path / "own.toml"
    file.write_text('task = "summarize"\nlanguage = "en"\nparaphrases = ["Own."]\n')
    own = replace(TRAIN, instructions=str(file))
    contract = made(TRAIN, own)
    assert contract.asked(own, "en", Data(), Generate()) == "Own."
    assert contract.asked(TRAIN, "en", Data(), Generate()) == "Summarize the text above."


def test_a_length_is_asked_for_only_of_a_model_that_was_trained_for_it(made):
    trained, untrained = made(TRAIN, length_control=True), made(TRAIN)
    assert trained.asked(TRAIN, "en", Data(), Generate(words=20)) == (
        "Summarize the text above in at most 20 words."
    )
    assert trained.asked(TRAIN, "en", Data(), Generate(sentences=1)) == (
        "Summarize the text above in one sentence."
    )
    for key in ("words", "sentences"):
        with pytest.raises(ConfigError, match=rf"^generate\.{key}: .*data\.length_control"):
            untrained.asked(TRAIN, "en", Data(), Generate(**{key: 2}))
