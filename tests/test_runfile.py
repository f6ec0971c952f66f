import pytest
from hypothesis import given
from hypothesis import strategies as st

from sumzero.config import RunConfig, Source
from sumzero.errors import ConfigError
from sumzero.runfile import load


def problems(file, *overrides):
    with pytest.raises(ConfigError) as caught:
        load(file, overrides)
    return caught.value.problems


def test_overrides_change_numbers_texts_and_lists(run_file):
    config = load(
        run_file("[train]\nlr = 1.0\nclip = 2.0"),
        [
            "train.lr=1e-4",
            "seed=3",
            "train.gradient_checkpointing=true",
            "train.betas=[0.5, 0.6]",
            "data.instruction=Say it = shortly.",
            'runs="quoted"',
            "name=plain",
        ],
    )
    assert (config.train.lr, config.train.clip, config.seed) == (1e-4, 2.0, 3)
    assert config.train.gradient_checkpointing is True
    assert config.train.betas == (0.5, 0.6)
    assert config.data.instruction == "Say it = shortly."
    assert (config.runs, config.name) == ("quoted", "plain")


def test_of_two_overrides_of_a_key_the_later_counts(run_file):
    assert load(run_file("seed = 1"), ["seed=2", "seed=3"]).seed == 3


def test_an_override_can_begin_a_section_that_the_file_lacks(run_file):
    config = load(run_file(""), ["data.test.path=held out.jsonl", "data.test.targets=refs"])
    assert config.data.test == (Source(path="held out.jsonl", targets="refs"),)


@pytest.mark.parametrize("override", ["seed", "", "=3", "train..lr=1", ".seed=1", "train.=1"])
def test_an_override_of_another_form_is_shown_with_the_right_form(run_file, override):
    (problem,) = problems(run_file(""), override)
    assert problem == f"override {override!r}: write it as section.key=value"


def test_an_override_below_a_plain_value_is_refused(run_file):
    (problem,) = problems(run_file("seed = 1"), "seed.deep=2")
    assert problem == "override 'seed.deep=2': seed is not a section"


def test_a_missing_file_says_where_examples_are(tmp_path):
    assert problems(tmp_path / "no.toml") == [
        f"{tmp_path / 'no.toml'}: no such run file or folder; recipes/ has examples"
    ]


def test_a_folder_is_no_run_file(tmp_path):
    (problem,) = problems(tmp_path)
    assert problem == f"{tmp_path}: cannot be read (Is a directory)"


def test_a_path_through_a_file_is_told_apart_from_a_bug(run_file):
    path = run_file("") / "deeper.toml"
    assert problems(path) == [f"{path}: cannot be read (Not a directory)"]


@pytest.mark.parametrize(
    ("text", "where"), [("seed = \n", "line 1"), ("seed = 1\n[train\n", "line 2"), ("a=1\na=2", "")]
)
def test_bad_toml_is_told_with_its_line(run_file, text, where):
    file = run_file(text)
    (problem,) = problems(file)
    assert problem.startswith(f"{file}: not valid TOML: ")
    assert where in problem


def test_a_file_that_is_not_utf_8_is_refused(run_file):
    (problem,) = problems(run_file(b"name = '\xff'"))
    assert "not a TOML file" in problem


def test_a_byte_order_mark_is_no_fault(run_file):
    assert load(run_file(b"\xef\xbb\xbfseed = 5\r\n")).seed == 5


@given(st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode("utf-8")))
def test_whatever_the_file_holds_is_settings_or_a_config_error(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "fuzz.toml"
    file.write_bytes(content)
    try:
        found = load(file)
    except ConfigError as error:
        found = error
    if isinstance(found, ConfigError):
        assert found.problems
        assert all(problem.startswith(f"{file}: ") for problem in found.problems)
    else:
        assert isinstance(found, RunConfig)


@given(
    key=st.sampled_from(["seed", "name", "train", "train.lr", "data.train.path", "x.y", "a b"]),
    value=st.text(max_size=20) | st.sampled_from(["[" * 5000, "{a=1}", "1e999", '"\\u0000"']),
)
def test_whatever_an_override_says_is_settings_or_a_config_error(tmp_path_factory, key, value):
    file = tmp_path_factory.getbasetemp() / "empty.toml"
    file.write_bytes(b"")
    try:
        found = load(file, [f"{key}={value}"])
    except ConfigError as error:
        found = error
    assert isinstance(found, RunConfig) or found.problems


SEVERAL = "[[data.train]]\npath = 'a'\n[[data.train]]\npath = 'b'\n"


def test_an_override_names_one_of_several_sources_by_its_number(run_file):
    config = load(run_file(SEVERAL), ["data.train.1.path=c", "data.train.0.weight=2"])
    assert [(source.path, source.weight) for source in config.data.train] == [
        ("a", 2.0),
        ("c", 1.0),
    ]


def test_a_lone_source_needs_no_number_however_it_is_written(run_file):
    for text in ("data.train.path = 'a'", "[[data.train]]\npath = 'a'"):
        assert [s.path for s in load(run_file(text), ["data.train.path=b"]).data.train] == ["b"]


@pytest.mark.parametrize("override", ["data.train.path=c", "data.train.2.path=c", "data.train.0=c"])
def test_an_override_that_fits_none_of_several_sources_says_how(run_file, override):
    (problem,) = problems(run_file(SEVERAL), override)
    assert problem.startswith(f"override {override!r}: there are 2 sources; name one by its number")
