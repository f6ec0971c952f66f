import pickle
import re
from dataclasses import asdict

import pytest

from sumzero.config import Data, Source
from sumzero.errors import ConfigError
from sumzero.instructions import (
    bundled,
    bundled_languages,
    instruction_set,
    parse_instructions,
    primary,
)

TASKS = ("summarize", "answer", "translate")
LANGUAGES = ("en", "zh")
EVERY_SET = [(task, language) for task in TASKS for language in LANGUAGES]
THREE = "The cat sat. It slept. It was warm there."  # 3 sentences, 9 words


def source(task="summarize", **values):
    needed = {"answer": {"instruction": "q"}, "translate": {"target_language": "zh"}}
    return Source(**{"path": "train.jsonl", "task": task, **needed.get(task, {}), **values})


def own(**values):
    return {
        "task": "summarize",
        "language": "en",
        "paraphrases": ["Sum up{length}.", "Shorten it."],
        "length": {"one_sentence": " once", "sentences": " in {n}", "words": " below {n}"},
        **values,
    }


@pytest.mark.parametrize(("task", "language"), EVERY_SET)
def test_every_bundled_set_is_whole(task, language):
    found = bundled(task, language)
    assert (found.task, found.language) == (task, language)
    assert len(found.paraphrases) >= 5
    assert (found.length is not None) == (task == "summarize")
    for text in found.paraphrases:
        assert text == text.strip()
        if task == "answer":  # a question cannot run into what is said after it
            assert text.endswith("{question}") or "{question}" in text.splitlines()
    chinese = re.compile("[\u4e00-\u9fff]")
    assert all(bool(chinese.search(text)) == (language == "zh") for text in found.paraphrases)


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_unanswerable_question_has_a_target_and_the_model_is_told_of_it(language):
    found = bundled("answer", language)
    assert found.unanswerable
    say_so = {"en": ("say so", "no answer", "Say so"), "zh": ("说明",)}[language]
    assert any(words in found.paraphrases[0] for words in say_so)


def test_there_are_sets_in_english_and_chinese():
    for task in TASKS:
        assert set(LANGUAGES) <= set(bundled_languages(task))
    assert bundled("summarize", "xx") is None
    assert bundled("summarize", "../summarize_en") is None
    assert bundled("summarize", "zh-CN") is bundled("summarize", "zh")
    assert (primary("zh-Hans"), primary("en_US"), primary("fr")) == ("zh", "en", "fr")


def test_without_length_control_a_target_may_be_asked_for_by_every_paraphrase():
    found = parse_instructions(own(), "here")
    assert found.ways(THREE, length_control=False) == ("Sum up.", "Shorten it.")
    assert found.ways(None, length_control=True) == ("Sum up.", "Shorten it.")


def test_with_length_control_a_target_is_also_asked_for_by_its_own_length():
    found = parse_instructions(own(), "here")
    assert found.ways(THREE, length_control=True) == (
        "Sum up.",
        "Sum up in 3.",
        "Sum up below 10.",
        "Shorten it.",
    )
    assert found.ways("One two three four five.", length_control=True)[1:3] == (
        "Sum up once.",
        "Sum up below 5.",
    )


def test_the_bundled_sets_say_lengths_in_their_language():
    english, chinese = (bundled("summarize", language) for language in LANGUAGES)
    assert english.ways(THREE, length_control=True)[:3] == (
        "Summarize the text above.",
        "Summarize the text above in 3 sentences.",
        "Summarize the text above in at most 10 words.",
    )
    # Chinese has no spaces: characters are counted, 11 here.
    assert chinese.ways("猫坐在垫子上。它睡了。", length_control=True)[:3] == (
        "请概括以上内容。",
        "请用2句话概括以上内容。",
        "请用不超过15个字概括以上内容。",
    )


def test_a_target_language_is_named_in_the_language_of_the_set():
    english, chinese = (bundled("translate", language) for language in LANGUAGES)
    ways = english.ways("x", target_language="zh", length_control=True)
    assert ways[0] == "Translate the text above into Chinese."
    assert len(ways) == len(english.paraphrases)
    assert chinese.inference(target_language="en") == "请将上文翻译成英语。"
    assert english.inference(target_language="Old Norse") == (
        "Translate the text above into Old Norse."
    )


def test_a_question_stays_open_in_what_may_be_asked():
    ways = bundled("answer", "en").ways("x", length_control=True)
    assert len(ways) == len(bundled("answer", "en").paraphrases)
    assert all(way.count("{question}") == 1 for way in ways)


def test_inference_asks_with_the_first_paraphrase():
    found = parse_instructions(own(), "here")
    assert found.inference() == "Sum up."
    assert found.inference(words=12) == "Sum up below 12."
    assert found.inference(sentences=1) == "Sum up once."
    assert found.inference(sentences=4) == "Sum up in 4."


def test_a_length_that_cannot_be_asked_for_is_refused():
    with pytest.raises(ConfigError, match=r"generate\.words, generate\.sentences: ask for one"):
        bundled("summarize", "en").inference(words=9, sentences=2)
    with pytest.raises(ConfigError, match=r'generate\.words: .*"answer" in \'en\' have no'):
        bundled("answer", "en").inference(words=9)


@pytest.mark.parametrize("task", TASKS)
def test_a_source_is_asked_by_the_bundled_set_of_its_task(task):
    assert instruction_set(source(task), Data(), "zh") is bundled(task, "zh")


def test_one_instruction_for_all_comes_in_place_of_the_bundled_set():
    found = instruction_set(source(), Data(instruction="Make it short{length}!"), "en")
    assert found.paraphrases == ("Make it short{length}!",)
    assert found.inference(sentences=1) == "Make it short in one sentence!"
    plain = instruction_set(source(), Data(instruction="Make it short."), "fr")
    assert (plain.language, plain.length) == ("fr", None)
    assert plain.ways(THREE, length_control=True) == ("Make it short.",)
    asked = instruction_set(source("answer"), Data(instruction="Say: {question}"), "en")
    assert asked.unanswerable == bundled("answer", "en").unanswerable
    into = instruction_set(source("translate"), Data(instruction="In {target_language}!"), "zh")
    assert into.inference(target_language="en") == "In 英语!"


FILE = 'task = "summarize"\nlanguage = "en"\nparaphrases = ["Own.", "Mine."]\n'


def test_a_source_s_own_file_counts_before_all_others_for_its_language(tmp_path):
    file = tmp_path / "own.toml"
    file.write_text("\ufeff" + FILE, encoding="utf-8")  # as some editors write it
    data = Data(instruction="Of the settings.")
    assert instruction_set(source(instructions=str(file)), data, "en").paraphrases[0] == "Own."
    others = instruction_set(source(instructions=str(file)), data, "zh")
    assert others.paraphrases == ("Of the settings.",)
    file.write_text(FILE.replace("Own", "Changed and longer"))
    changed = instruction_set(source(instructions=str(file)), Data(), "en")
    assert changed.paraphrases[0] == "Changed and longer."


def test_a_language_without_instructions_is_told_with_what_to_do():
    with pytest.raises(ConfigError) as caught:
        instruction_set(source(), Data(), "fr")
    (line,) = caught.value.problems
    assert line.startswith("train.jsonl: no instructions for task \"summarize\" in language 'fr'")
    assert "there are: en, zh" in line
    assert "recipes/instructions" in line


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file of instructions"),
        ("paraphrases = [", "not valid TOML"),
        (b"\xff\xfe", "not valid TOML"),
        (FILE.replace("summarize", "translate"), "paraphrases.0 'Own.': task \"translate\" needs"),
        (FILE.replace('"en"', '"zh"'), "language: is 'zh', but that of the source train.jsonl is"),
        (FILE + "lenght = 3\n", "lenght: no such key"),
        ('task = "summarize"\nlanguage = "en"\n', "paraphrases: "),
    ],
)
def test_a_file_at_fault_is_named_with_the_key(tmp_path, content, said):
    file = tmp_path / "own.toml"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as caught:
        instruction_set(source(instructions=str(file)), Data(), "en")
    (line,) = caught.value.problems
    assert line.startswith(f"{file}: ")
    assert said in line


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"task": "shorten"}, "here: task: "),
        ({"language": ""}, "here: language: "),
        ({"paraphrases": []}, "here: paraphrases: "),
        ({"paraphrases": "Sum up."}, "here: paraphrases: "),
        ({"paraphrases": ["Sum up{length}.", 3]}, "here: paraphrases.1: "),
        ({"paraphrases": ["Sum up{length}.", ""]}, "here: paraphrases.1: "),
        ({"paraphrases": ["{length}", "Sum up {now}."]}, "'Sum up {now}.': no such slot: {now}"),
        ({"paraphrases": ["{length} {question}"]}, "no such slot: {question}"),
        ({"paraphrases": ["{length} {length}"]}, "a slot stands there twice"),
        ({"paraphrases": ["A{length}", "B", "B"]}, "paraphrases.2 'B': stands there twice"),
        ({"paraphrases": ["A", "B{length}"]}, "paraphrases.0: inference uses it"),
        ({"length": None}, "paraphrases.0 'Sum up{length}.': {length} needs a [length] table"),
        ({"length": {"words": "{n}"}}, "here: length.one_sentence: "),
        (
            {"length": {"one_sentence": " once", "sentences": " some", "words": "{n}"}},
            "here: length: sentences holds {n} once (got ' some')",
        ),
        (
            {"length": {"one_sentence": " {n}", "sentences": "{n}", "words": "{n}"}},
            "here: length: one_sentence has no slots",
        ),
        ({"unanswerable": "No."}, 'unanswerable: task "answer" needs it, and no other'),
        ({"task": "answer", "paraphrases": ["{length}{question}"]}, "unanswerable: task"),
        ({"task": "answer", "unanswerable": "No."}, "needs {question}"),
        ({"task": "translate"}, "needs {target_language}"),
        ({"languages": {"en": "English"}}, 'languages: only task "translate" has it'),
        ({"task": "translate", "languages": {"en": 3}}, "here: languages.en: "),
    ],
)
def test_a_set_that_cannot_serve_is_refused_with_its_key(values, said):
    with pytest.raises(ConfigError) as caught:
        parse_instructions(own(**values), "here")
    assert any(said in line for line in caught.value.problems)
    assert all(line.startswith("here: ") and "\n" not in line for line in caught.value.problems)


def test_the_instruction_of_the_settings_is_named_where_a_slot_is_missing():
    with pytest.raises(ConfigError, match=r"^data\.instruction: .*needs \{question\}"):
        instruction_set(source("answer"), Data(instruction="Sum up."), "en")
    with pytest.raises(ConfigError, match=r"^data\.instruction: .*needs a \[length\] table"):
        instruction_set(source(), Data(instruction="Sum up{length}."), "fr")


def test_braces_that_are_no_slots_stay():
    found = parse_instructions(own(paraphrases=['Sum up{length} as {"text": 1} or {}.']), "here")
    assert found.inference() == 'Sum up as {"text": 1} or {}.'


@pytest.mark.parametrize(("task", "language"), EVERY_SET)
def test_a_set_goes_through_files_and_processes_unchanged(task, language):
    found = bundled(task, language)
    assert parse_instructions(asdict(found), "here") == found
    assert pickle.loads(pickle.dumps(found)) == found
    assert len({found, pickle.loads(pickle.dumps(found))}) == 1


@pytest.mark.parametrize(
    "language", ["\u8bed" * 200, "../summarize_en", "..", "en/", "", "E" * 5000]
)
def test_a_language_of_a_row_names_no_file(language):
    assert bundled("summarize", language) is None
