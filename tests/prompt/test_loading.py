import pytest

from sumzero.errors import DataError
from sumzero.loading import load_tokenizer
from sumzero.prompt import PromptRenderer


def test_a_tokenizer_is_loaded_from_a_model_folder(model_folder, tokenizer):
    loaded = load_tokenizer(str(model_folder))
    assert loaded.chat_template == tokenizer.chat_template
    assert loaded.get_vocab() == tokenizer.get_vocab()
    text = "The cat — 猫 <|im_end|>"
    assert PromptRenderer(loaded).encode_text([text]) == (
        PromptRenderer(tokenizer).encode_text([text])
    )


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match="the model folder has no tokenizer"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("path", ["/no/such/folder", "./nowhere", "../nowhere", "a/b/c", "~/m"])
def test_a_path_that_leads_nowhere_is_called_a_folder_not_a_download(path):
    with pytest.raises(DataError) as caught:
        load_tokenizer(path)
    assert str(caught.value) == f"{path}: no such model folder"


def test_a_hub_name_that_cannot_be_had_is_one_line():
    with pytest.raises(DataError) as caught:
        load_tokenizer("nobody/no-such-model")
    assert str(caught.value).startswith("nobody/no-such-model: no tokenizer can be loaded: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"model": 3}'])
def test_a_damaged_tokenizer_is_told_with_its_folder(tmp_path, name, content, make):
    make("chatml").save_pretrained(tmp_path)
    (tmp_path / name).write_text(content)
    if name == "tokenizer_config.json" and content.startswith("{") and content.endswith("}"):
        (tmp_path / "tokenizer.json").unlink()  # alone, such settings say nothing
    with pytest.raises(DataError, match=r"no tokenizer can be loaded: .+") as caught:
        load_tokenizer(str(tmp_path))
    assert str(caught.value).startswith(f"{tmp_path}: ")


def test_a_tokenizer_without_a_chat_template_is_refused_with_what_to_do(tmp_path, make_byte_level):
    make_byte_level(None, ["</s>"], eos_token="</s>").save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"no chat template; put a chat_template\.jinja"):
        load_tokenizer(str(tmp_path))
