import textwrap
from pathlib import Path
from textwrap import dedent

import pytest

from sumzero.harvest import MAX_SUMMARY_WORDS, docstrings, words_of


@pytest.fixture
def found_in(tmp_path):
    """The docstrings of one source text, by qualified name."""

    def find(source):
        file = tmp_path / "module.py"
        file.write_bytes(source if isinstance(source, bytes) else dedent(source).encode())
        return {found.name: found for found in docstrings("pkg.module", file)}

    return find


def test_a_document_is_signature_body_and_source_without_the_docstring(found_in):
    found = found_in('''
        @decorated
        async def load(path: str, *, limit: int = 3) -> list[str]:
            """Read the rows that may be used.

            Bad ones are skipped. Nothing is kept open.

            Args: none of note.
            """
            # how they come
            with open(path) as lines:
                return list(lines)[:limit]
    ''')["load"]
    assert found.target == "Read the rows that may be used."
    assert found.document == dedent("""\
        def load(path: str, *, limit: int=3) -> list[str]:
        Bad ones are skipped. Nothing is kept open.

        Args: none of note.
        with open(path) as lines:
            return list(lines)[:limit]""")
    assert found.lead == "Bad ones are skipped."
    row = found.row()
    assert row["id"] == "pkg.module:3:load"
    assert (row["document"], row["target"], row["lead"]) == (
        found.document,
        found.target,
        found.lead,
    )


def test_classes_and_methods_are_found_and_functions_inside_functions_are_not(found_in):
    found = found_in('''
        class Store(Base, Other):
            """Keep what was computed before."""

            @property
            def size(self):
                """Tell the number of bytes held."""
                def inner():
                    """Do what nobody outside sees."""
                    return 1
                return inner()

            class Deep:
                """Sit below the others here."""
    ''')
    assert set(found) == {"Store", "Store.size", "Store.Deep"}
    assert found["Store"].document.splitlines()[0] == "class Store(Base, Other):"
    assert "Keep what" not in found["Store"].document


def test_the_decorator_of_the_first_statement_belongs_to_the_source(found_in):
    found = found_in('''
        def wrap(function):
            """Make calls count themselves."""
            @keep_name(function)
            def inner():
                return function()
            return inner
    ''')["wrap"]
    assert "@keep_name(function)\ndef inner():" in found.document


def test_a_definition_that_is_a_docstring_and_nothing_else_has_its_signature(found_in):
    found = found_in('def stop(self):\n    """End it all gracefully."""\n')["stop"]
    assert found.document == "def stop(self):"


@pytest.mark.parametrize(
    "docstring",
    [
        '"""Read the rows\n    that may be used."""',
        '"""Read the rows that may be used.\n    Bad ones are skipped.\n    """',
        '"""Deprecated."""',
        '"""   """',
        '"""' + "word " * (MAX_SUMMARY_WORDS + 1) + '"""',
        '"""Ring the bell \\x07 once."""',
        "0",
        '""',
    ],
    ids=[
        "first paragraph of two lines",
        "no blank line after the summary",
        "one word",
        "blank",
        "too many words",
        "unprintable",
        "no docstring",
        "empty",
    ],
)
def test_what_is_no_one_line_summary_is_refused(found_in, docstring):
    assert found_in(f"def f(rows):\n    {docstring}\n    return rows\n") == {}


def test_a_summary_may_stand_on_the_line_after_the_quotes(found_in):
    found = found_in('def f(x):\n    """\n    Return the rows asked for.\n    """\n    return x\n')
    assert found["f"].target == "Return the rows asked for."


def test_a_summary_of_the_longest_length_is_taken(found_in):
    summary = " ".join(["word"] * MAX_SUMMARY_WORDS)
    assert found_in(f'def f(x):\n    """{summary}"""\n    return x\n')["f"].target == summary


@pytest.mark.parametrize(
    "body",
    [
        'def get_the_name(x):\n    """Get the NAME!"""\n    return get[the](name)',
        'def f(x):\n    """Sort all rows."""\n    raise ValueError("cannot sort all rows here")',
        'def f(x):\n    """Sort all rows.\n\n    To sort all rows, call it.\n    """\n    return x',
        'def f(x): """Sort all rows."""; return x',
    ],
    ids=["as words of the code", "in a message", "in the body", "on one line"],
)
def test_a_summary_that_stands_in_the_document_is_refused(found_in, body):
    assert found_in(body + "\n") == {}


@pytest.mark.parametrize(
    ("name", "body", "lead"),
    [
        ("get_user_name", "", "get user name"),
        ("HTTPServer2", "", "http server 2"),
        ("f", "\n\n    One sentence. And one more.\n    ", "One sentence."),
        ("f", "\n\n    no full stop\n\n    A paragraph.\n    ", "no full stop"),
    ],
)
def test_the_lead_is_the_bodys_first_sentence_or_else_the_names_words(found_in, name, body, lead):
    source = f'def {name}(x):\n    """Return what was asked for.{body}"""\n    return x\n'
    assert found_in(source)[name].lead == lead


@pytest.mark.parametrize(
    ("identifier", "words"),
    [
        ("HTTPServer.get_request_id", "get request id"),
        ("parseXMLFile", "parse xml file"),
        ("__init__", "init"),
        ("_", "_"),
        ("sha256sum", "sha 256 sum"),
    ],
)
def test_an_identifier_falls_into_its_words(identifier, words):
    assert words_of(identifier) == words


def test_lines_are_counted_as_python_counts_them(found_in):
    # A form feed or a line separator in the text ends no line of the source.
    found = found_in('''
        x = "\u2028\x1c"
        \x0c
        def get(a):
            """Return the next whole number."""
            return a + 1

        after = 1
    ''')["get"]
    assert found.document == "def get(a):\nreturn a + 1"


@pytest.mark.parametrize(
    "source",
    [
        b"def broken(:\n",
        b'def f(x):\n    """Return the caf\xe9 asked for."""\n',
        b"x = 1\0\n",
        b"(" * 5000,
        b'def f(x):\n    """Return the thing asked for."""\n    return x\n' + b"#" * 500_000,
    ],
    ids=["syntax error", "not UTF-8", "NUL", "nested beyond reason", "huge"],
)
def test_a_file_that_cannot_be_used_is_skipped(found_in, source):
    assert found_in(source) == {}


def test_a_missing_file_is_skipped(tmp_path):
    assert list(docstrings("gone", tmp_path / "gone.py")) == []


def test_a_strangers_invalid_escape_gives_no_warning(found_in):
    assert set(found_in(b'def f(x):\n    """Match the digits in \\d."""\n    return x\n')) == {"f"}


def test_the_standard_library_has_some():
    rows = list(docstrings("textwrap", Path(textwrap.__file__)))
    assert "Wrap a single paragraph of text, returning a list of wrapped lines." in {
        row.target for row in rows
    }
