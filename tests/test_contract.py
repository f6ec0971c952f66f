import json
import re
import shutil
from dataclasses import replace

import pytest
from tokenizers import normalizers

from sumzero.config import Data, Generate, Source
from sumzero.contract import FILE, VERSION, make_contract, open_contract, write_contract
from sumzero.errors import DataError, RunError
from sumzero.instructions import bundled
from sumzero.loading import load_tokenizer
from sumzero.prompt import PromptRenderer

TRAIN = Source(path="train.jsonl")
DATA = Data(
    train=(TRAIN,),
    instruction="Summarize „it“ in one line.",
    max_length=300,
    max_prompt=200,
    truncation="middle",
)
ANSWER = Source(path="questions.jsonl", task="answer", instruction="question")
TRANSLATE = Source(path="pairs.jsonl", task="translate", target_language="zh")


@pytest.fixture
def export(tmp_path, tokenizer):
    """An export folder: tokenizer and contract, as training leaves them."""
    tokenizer.save_pretrained(tmp_path)
    renderer = PromptRenderer(load_tokenizer(str(tmp_path)), DATA.truncation)
    write_contract(tmp_path, make_contract(renderer, DATA))
    return tmp_path


def change(export, **values):
    held = json.loads((export / FILE).read_text(encoding="utf-8"))
    (export / FILE).write_text(json.dumps({**held, **values}), encoding="utf-8")


def refusal(export):
    with pytest.raises(RunError) as caught:
        open_contract(export)
    message = str(caught.value)
    assert message.startswith(str(export))
    assert "\n" not in message
    return message


def test_what_was_promised_is_what_is_opened(export, tokenizer):
    contract, renderer = open_contract(export)
    training = PromptRenderer(tokenizer, DATA.truncation)
    assert contract == make_contract(training, DATA)
    assert (contract.max_length, contract.max_prompt) == (300, 200)
    assert contract.asked(TRAIN, "en", Data(), Generate()) == DATA.instruction
    assert renderer.truncation.rule == "middle"
    assert renderer.stop_ids == contract.stop_ids == training.stop_ids
    (ids,) = training.encode_text(["The cat <|im_end|> sat. 猫"])
    asked = training.ask(DATA.instruction)
    assert renderer.prompt(ids, 300, renderer.ask(DATA.instruction)) == (
        training.prompt(ids, 300, asked)
    )


def test_an_export_may_be_moved(export, tmp_path_factory):
    moved = tmp_path_factory.mktemp("elsewhere") / "export"
    shutil.copytree(export, moved)
    assert open_contract(moved)[0] == open_contract(export)[0]


def test_the_probes_hold_the_ids_of_whole_prompts(export):
    contract, renderer = open_contract(export)
    assert len(contract.probes) >= 4
    for probe in contract.probes:
        assert probe["document"].strip() in renderer.tokenizer.decode(probe["ids"])
        assert "Summarize „it“ in one line." in renderer.tokenizer.decode(probe["ids"])


def test_the_digest_changes_with_every_promise(tokenizer):
    renderers = [PromptRenderer(tokenizer), PromptRenderer(tokenizer, "middle")]
    changes = [
        {},
        {"max_length": 301},
        {"max_prompt": 201},
        {"length_control": True},
        {"instruction": "Another instruction."},
        {"instruction": None},
        {"train": (TRAIN, TRANSLATE), "instruction": None},
        {"train": (replace(TRAIN, language="zh"),), "instruction": None},
    ]
    settings = [replace(DATA, **change) for change in changes]
    digests = {make_contract(one, data).digest() for one in renderers for data in settings}
    assert len(digests) == len(renderers) * len(settings)
    assert make_contract(PromptRenderer(tokenizer), DATA).digest() in digests


def test_sets_of_several_tasks_and_languages_come_back_and_each_is_probed(export, tokenizer):
    train = (TRAIN, replace(TRAIN, language="zh"), ANSWER, TRANSLATE, replace(TRAIN, weight=2.0))
    data = Data(train=train, max_length=300)
    made = make_contract(PromptRenderer(tokenizer), data)
    write_contract(export, made)
    contract, renderer = open_contract(export)
    assert contract == made
    assert [(one.task, one.language) for one in contract.instructions] == [
        ("summarize", "en"),
        ("summarize", "zh"),
        ("answer", "en"),
        ("translate", "en"),
    ]
    assert contract.instructions[0] == bundled("summarize", "en")
    read = [renderer.tokenizer.decode(probe["ids"]) for probe in contract.probes]
    assert "Summarize the text above." in read[0]
    assert "请概括以上内容。" in read[1]
    assert "Question: The cat sat on the mat." in read[2]
    assert "Translate the text above into English." in read[3]


def test_rows_with_languages_of_their_own_may_meet_every_bundled_set(tokenizer):
    data = Data(train=(replace(TRAIN, language_column="lang"),))
    held = make_contract(PromptRenderer(tokenizer), data).instructions
    assert {one.language for one in held} >= {"en", "zh"}


def test_a_changed_chat_template_is_named(export):
    tokenizer = load_tokenizer(str(export))
    tokenizer.chat_template = "Hello. " + tokenizer.chat_template
    tokenizer.save_pretrained(export)
    message = refusal(export)
    assert "differs: template_digest, probes." in message
    assert "run `sumzero export` again" in message


def test_the_first_token_of_a_probe_that_differs_is_told(export):
    tokenizer = load_tokenizer(str(export))
    head = PromptRenderer(tokenizer).head_ids
    tokenizer.chat_template = "Hello. " + tokenizer.chat_template
    tokenizer.save_pretrained(export)
    was = f"{head[0]} ({tokenizer.convert_ids_to_tokens(head[0])})"
    told = rf"Probe 1 differs from token 1 on: \d+ \(.+\) in place of {re.escape(was)}\."
    assert re.search(told, refusal(export))


def test_another_normalizer_is_named_and_what_it_changes(export):
    tokenizer = load_tokenizer(str(export))
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.save_pretrained(export)
    message = refusal(export)
    assert "differs: tokenizer_digest, probes." in message
    assert re.search(r"Probe 1 differs from token \d+ on: \d+ \(", message)


def test_an_added_token_is_named_even_where_no_probe_meets_it(export):
    tokenizer = load_tokenizer(str(export))
    assert tokenizer.add_tokens(["<new>"], special_tokens=True) == 1
    tokenizer.save_pretrained(export)
    assert "differs: tokenizer_digest." in refusal(export)


def test_another_end_token_is_named(export):
    tokenizer = load_tokenizer(str(export))
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.save_pretrained(export)
    assert "stop_ids" in refusal(export)


@pytest.mark.parametrize("unknown", [10**6, -1, "9"])
def test_a_stop_id_that_is_not_in_the_vocabulary_is_named(export, unknown):
    held = json.loads((export / FILE).read_text(encoding="utf-8"))["stop_ids"]
    change(export, stop_ids=[*held, unknown])
    assert f"stop id {unknown} is not in the tokenizer's vocabulary" in refusal(export)


@pytest.mark.parametrize("key", ["vocab_size", "text_config"])
def test_a_model_that_cannot_generate_the_stop_ids_is_refused(export, key):
    stop = max(open_contract(export)[0].stop_ids)
    for size in (stop + 1, stop):
        about = {"text_config": {"vocab_size": size}} if key == "text_config" else {key: size}
        (export / "config.json").write_text(json.dumps(about))
        if size > stop:
            open_contract(export)
    assert f"stop id {stop} is not in the model's vocabulary of {stop}" in refusal(export)


def test_a_changed_instruction_is_named_by_the_probes_it_does_not_give(export):
    (held,) = json.loads((export / FILE).read_text(encoding="utf-8"))["instructions"]
    change(export, instructions=[{**held, "paraphrases": ["Translate it."]}])
    assert "differs: probes." in refusal(export)


@pytest.mark.parametrize("name", ["tokenizer_digest", "template_digest", "stop_ids", "probes"])
def test_what_was_changed_in_the_file_is_named(export, name):
    change(export, **{name: []})
    assert f"differs: {name}." in refusal(export)


def test_a_missing_contract_names_the_stage_that_writes_it(export):
    (export / FILE).unlink()
    assert refusal(export) == f"{export / FILE} is missing; run `sumzero export` first"


@pytest.mark.parametrize("version", [VERSION + 1, None, "1", [1]])
def test_another_version_is_refused(export, version):
    change(export, version=version)
    assert f"version {version}, this sumzero reads {VERSION}" in refusal(export)


@pytest.mark.parametrize("content", [b"", b'{"version": 1', b"\xff\xfe", b"contract"])
def test_damaged_json_is_told(export, content):
    (export / FILE).write_bytes(content)
    assert "is damaged" in refusal(export)


@pytest.mark.parametrize("content", ["[]", "3", "null", "{}"])
def test_json_that_is_no_contract_is_refused(export, content):
    (export / FILE).write_text(content)
    assert f"version None, this sumzero reads {VERSION}" in refusal(export)


def test_a_key_that_is_not_known_is_named(export):
    change(export, temperature=0.5)
    assert "damaged" in refusal(export)
    assert "'temperature'" in refusal(export)


def test_a_key_that_is_missing_is_named(export):
    held = json.loads((export / FILE).read_text(encoding="utf-8"))
    del held["max_prompt"]
    (export / FILE).write_text(json.dumps(held), encoding="utf-8")
    assert "'max_prompt'" in refusal(export)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("instructions", []),
        ("instructions", [3]),
        ("instructions", [{"task": "summarize", "language": "en", "paraphrases": []}]),
        ("length_control", "yes"),
        ("truncation", "tail"),
        ("truncation", None),
        ("max_length", "300"),
        ("max_length", 0),
        ("max_prompt", -1),
    ],
)
def test_a_value_that_no_export_writes_is_named(export, name, value):
    change(export, **{name: value})
    assert re.search(rf"damaged: {name}(\.0)?: ", refusal(export))


def test_a_missing_tokenizer_is_told(export):
    (export / "tokenizer.json").unlink()
    (export / "tokenizer_config.json").unlink()
    with pytest.raises(DataError, match="has no tokenizer"):
        open_contract(export)
