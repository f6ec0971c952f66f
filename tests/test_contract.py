import json
import shutil

import pytest

from sumzero.config import Data
from sumzero.contract import FILE, VERSION, make_contract, open_contract, write_contract
from sumzero.errors import DataError, RunError
from sumzero.prompt import PromptRenderer, load_tokenizer

DATA = Data(
    instruction="Summarize „it“ in one line.", max_length=300, max_prompt=200, truncation="middle"
)


@pytest.fixture
def export(tmp_path, tokenizer):
    """An export folder: tokenizer and contract, as training leaves them."""
    tokenizer.save_pretrained(tmp_path)
    renderer = PromptRenderer(load_tokenizer(str(tmp_path)), DATA.instruction, DATA.truncation)
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
    training = PromptRenderer(tokenizer, DATA.instruction, DATA.truncation)
    assert contract == make_contract(training, DATA)
    assert (contract.max_length, contract.max_prompt) == (300, 200)
    assert (renderer.instruction, renderer.truncation.rule) == (DATA.instruction, "middle")
    assert renderer.stop_ids == contract.stop_ids == training.stop_ids
    (ids,) = training.encode_text(["The cat <|im_end|> sat. 猫"])
    assert renderer.prompt(ids, 300) == training.prompt(ids, 300)


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
    renderers = [
        PromptRenderer(tokenizer, DATA.instruction),
        PromptRenderer(tokenizer, "Another instruction."),
        PromptRenderer(tokenizer, DATA.instruction, "middle"),
    ]
    limits = [DATA, Data(max_length=301, max_prompt=200), Data(max_length=300, max_prompt=201)]
    digests = {make_contract(renderer, data).digest() for renderer in renderers for data in limits}
    assert len(digests) == 9
    assert make_contract(renderers[0], DATA).digest() in digests


def test_a_changed_chat_template_is_named(export):
    tokenizer = load_tokenizer(str(export))
    tokenizer.chat_template = "Hello. " + tokenizer.chat_template
    tokenizer.save_pretrained(export)
    message = refusal(export)
    assert "differs: template_digest, probes." in message
    assert "run `sumzero export` again" in message


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


def test_a_changed_instruction_is_named_by_the_probes_it_does_not_give(export):
    change(export, instruction="Translate it.")
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
        ("instruction", 3),
        ("truncation", "tail"),
        ("truncation", None),
        ("max_length", "300"),
        ("max_length", 0),
        ("max_prompt", -1),
    ],
)
def test_a_value_that_no_export_writes_is_named(export, name, value):
    change(export, **{name: value})
    assert f"damaged: {name}: " in refusal(export)


def test_a_missing_tokenizer_is_told(export):
    (export / "tokenizer.json").unlink()
    (export / "tokenizer_config.json").unlink()
    with pytest.raises(DataError, match="has no tokenizer"):
        open_contract(export)
