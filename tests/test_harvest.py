import sys
import textwrap
from pathlib import Path
from textwrap import dedent

import pytest

from sumzero.harvest import MAX_SUMMARY_WORDS, docstrings, harvest, python_files, words_of

COUNTS = {"train": 40, "validation": 8, "test": 8}


@pytest.fixture
def found_in(tmp_path):
    """The docstrings of one source text, by qualified name."""

    def find(source):
        file = tmp_path / "module.py"
        file.write_bytes(source if isinstance(source, bytes) else dedent(source).encode())
        return {found.name: found for found in docstrings("pkg.module", file)}

    return find


def package(root, modules):
    """Writes {dotted path: source}; every function of them is usable."""
    for module, source in modules.items():
        file = root.joinpath(*module.split(".")).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source, encoding="utf-8")
    return [root]


def numbered(count, functions=3):
    """Modules of functions whose documents and summaries are all different."""
    function = (
        'def f{0}_{1}(x):\n    """Return item {0} times {1}."""\n    return x * {0} * {1}\n\n'
    )
    return {
        f"pkg.part{i}": "".join(function.format(i, j) for j in range(functions))
        for i in range(count)
    }


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


def test_nothing_is_imported_or_run(tmp_path):
    trap = tmp_path / "trap"
    source = f'open({str(trap)!r}, "w")\nraise SystemExit\n' + next(iter(numbered(1).values()))
    roots = package(tmp_path, {"pkg_that_must_not_run.__init__": source})
    before = set(sys.modules)
    assert len(list(harvest({"train": 9}, roots))) == 3
    assert not trap.exists()
    assert set(sys.modules) == before


def test_files_get_their_module_names_and_test_suites_are_left_out(tmp_path):
    good = ["top", "pkg.__init__", "pkg.part", "pkg.deep.part"]
    left_out = ["pkg.tests.part", "test.part", "pkg.testing.part", "site-packages.other"]
    roots = package(tmp_path, {name: "" for name in good + left_out})
    (tmp_path / "pkg" / "data.txt").write_text("def f(): pass")
    assert {module for module, _ in python_files(roots)} == {
        "top",
        "pkg",
        "pkg.part",
        "pkg.deep.part",
    }


def test_of_two_roots_with_one_module_the_first_counts(tmp_path):
    roots = [*package(tmp_path / "a", {"pkg.x": ""}), *package(tmp_path / "b", {"pkg.x": ""})]
    assert python_files(roots) == [("pkg.x", tmp_path / "a" / "pkg" / "x.py")]


def test_the_order_is_the_same_however_the_files_lie_and_however_many_processes_read(tmp_path):
    modules = numbered(30)
    one = package(tmp_path / "one", modules)
    halves = [dict(list(modules.items())[start::2]) for start in (1, 0)]
    two = [*package(tmp_path / "odd", halves[0]), *package(tmp_path / "even", halves[1])]
    first = list(harvest(COUNTS, one))
    assert first == list(harvest(COUNTS, two))
    assert first == list(harvest(COUNTS, one, processes=2))


def test_each_split_gets_its_count_and_no_more(tmp_path):
    roots = package(tmp_path, numbered(60))
    splits = [split for split, _ in harvest(COUNTS, roots)]
    assert {split: splits.count(split) for split in COUNTS} == COUNTS


def test_too_few_files_give_what_there_is(tmp_path):
    roots = package(tmp_path, numbered(4))
    assert len(list(harvest({"train": 900, "test": 100}, roots))) == 12


def test_no_module_is_in_two_splits(tmp_path):
    roots = package(tmp_path, numbered(60))
    modules = {}
    for split, row in harvest(COUNTS, roots):
        modules.setdefault(row.module, set()).add(split)
    assert {len(splits) for splits in modules.values()} == {1}


def test_documents_and_summaries_stand_once_over_all_splits(tmp_path):
    modules = numbered(40, functions=1)
    copy = 'def copied(x):\n    """{}"""\n    return x + "{}"\n'
    for i in range(40):
        modules[f"pkg.same_summary{i}"] = copy.format("Return the one and only.", i)
        modules[f"pkg.same_document{i}"] = copy.format(f"Return what is number {i}.", "same")
        modules[f"pkg.same_but_for_marks{i}"] = copy.format("return the ONE, and only", -i - 1)
    rows = [row for _, row in harvest({"train": 500, "test": 500}, package(tmp_path, modules))]
    assert len({row.document for row in rows}) == len(rows) == 40 + 2
    assert sum(row.name == "copied" for row in rows) == 2


def test_the_standard_library_has_some():
    rows = list(docstrings("textwrap", Path(textwrap.__file__)))
    assert "Wrap a single paragraph of text, returning a list of wrapped lines." in {
        row.target for row in rows
    }
