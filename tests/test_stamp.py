import pytest
from hypothesis import given
from hypothesis import strategies as st

from sumzero.stamp import is_ours, stamped


@given(text=st.text(st.characters(blacklist_characters="\r"), max_size=50))
def test_what_was_stamped_is_ours(tmp_path_factory, text):
    file = tmp_path_factory.getbasetemp() / "README.md"
    file.write_bytes(stamped(text).encode("utf-8", "replace"))
    assert is_ours(file)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("line", "lines"),
        lambda text: text + "\nMore.\n",
        lambda text: "More.\n" + text,
        lambda text: text.splitlines()[0],
        lambda text: "",
        lambda text: text.replace("sumzero wrote", "sumzero did write"),
    ],
)
def test_what_was_changed_is_the_users(tmp_path, change):
    file = tmp_path / "README.md"
    file.write_text(change(stamped("# A\n\nA line.\n")))
    assert not is_ours(file)


def test_line_ends_and_space_at_the_end_are_no_change(tmp_path):
    file = tmp_path / "README.md"
    file.write_bytes(stamped("# A\n\nA line.\n").replace("\n", "\r\n").encode() + b"\r\n\r\n")
    assert is_ours(file)


def test_what_is_no_text_is_the_users(tmp_path):
    file = tmp_path / "README.md"
    file.write_bytes(b"\xff\xfe\0")
    assert not is_ours(file)
