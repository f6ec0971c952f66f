"""The documents: their links, commands, settings, messages and pages are those of the code."""

import ast
import contextlib
import importlib.util
import io
import json
import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml

from sumzero import cli
from sumzero.config_reference import reference
from sumzero.train.store import TokenStore

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ALL = sorted(
    file
    for folder in (".", "docs", "slurm", "ds_configs", "recipes")
    for file in (ROOT / folder).glob("*.md")
)
PAGES = [file for file in ALL if file.name != "CHANGELOG.md"]  # which tells of what has been
SOURCES = [
    file
    for folder in ("src/sumzero", "train", "infer", "kernels")
    for file in (ROOT / folder).glob("*.py")
]
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
FILES = (".py", ".sbatch", ".jsonl", ".json", ".toml", ".csv", ".md", ".arrow")
OURS = re.compile(
    r"(?<![\w/.])(?:src/sumzero|tests|train|infer|kernels|benchmarks|slurm|ds_configs|recipes|docs)"
    r"/[a-z0-9_/]+\.(?:py|md|sbatch|sh|toml|jsonl?|txt)\b"
)
SETTING = re.compile(r"(?:model|data|train|generate|endpoint|score|explain)(?:\.[a-z_0-9]+)+")


def _name(file):
    return str(file.relative_to(ROOT))


def _prose(file):
    """The text without its blocks of code."""
    text = re.sub(r"(?ms)^```.*?^```$", "", file.read_text(encoding="utf-8"))
    return re.sub(r"(?m)^ {4}.*$", "", text)


def _anchors(file):
    """As GitHub and MkDocs make them of headings."""
    headings = re.findall(r"(?m)^#+ (.*)$", _prose(file))
    return {re.sub(r"[^\w\- ]", "", line).strip().lower().replace(" ", "-") for line in headings}


def test_the_reference_of_settings_is_that_of_the_code():
    written = (DOCS / "config.md").read_text(encoding="utf-8")
    assert written == reference(), "run `make docs/config.md`"


def test_every_setting_is_explained():
    rows = re.findall(r"(?m)^\| `[\w.]+` \|.*\| (.*) \|$", reference())
    assert len(rows) > 90
    assert all(rows)


@pytest.mark.parametrize("file", ALL, ids=_name)
def test_every_link_leads_somewhere(file):
    targets = [link for link in LINK.findall(_prose(file)) if "://" not in link]
    broken = []
    for target in targets:
        path, _, anchor = target.partition("#")
        to = (file.parent / path) if path else file
        if not to.exists() or (anchor and anchor not in _anchors(to)):
            broken.append(target)
    assert broken == []


def _commands():
    """Each `sumzero` command of the documents, with the page it stands on."""
    for file in PAGES:
        text = file.read_text(encoding="utf-8").replace("\\\n", " ")
        for block in re.findall(r"(?m)^ {4}(.*)$|^(sumzero .*)$", text):
            line = (block[0] or block[1]).strip()
            if line.startswith("sumzero "):
                yield pytest.param(line, id=f"{_name(file)}:{line[:70]}")


@cache
def _parser():
    return cli._parser()


@pytest.mark.parametrize("line", [*_commands()])
def test_every_command_is_one_that_the_program_takes(line):
    words = shlex.split(re.sub(r"\[[^\]]*\]", "", line), comments=True)[1:]
    words = [word for word in words if word not in ("…", "...") and not word.startswith("$")]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options, more = _parser().parse_known_args(words)
    except SystemExit:
        pytest.fail(said.getvalue())
    assert not [word for word in more if "=" not in word or word.startswith("-")]
    given = [*getattr(options, "overrides", []), *more]
    keys = [word.partition("=")[0] for word in given if "=" in word]
    assert [key for key in keys if not _is_setting(key)] == []


@cache
def _settings():
    return set(re.findall(r"(?m)^\| `([\w.]+)` \|", reference()))


def _is_setting(key):
    """Whether a key, with the number of a source or without, is a setting or a section."""
    key = re.sub(r"^data\.(?:train|validation|test)(?:\.\d+)?", "data.train", key)
    settings = _settings()
    return key in settings | {"data.train"} or any(one.startswith(f"{key}.") for one in settings)


@pytest.mark.parametrize("file", PAGES, ids=_name)
def test_every_setting_that_is_named_exists(file):
    named = re.findall(r"`([^`\n]+)`", _prose(file))
    found = {key.partition("=")[0].strip() for key in named}
    keys = {key for key in found if SETTING.fullmatch(key) and not key.endswith(FILES)}
    assert {key for key in keys if not _is_setting(key)} == set()


@pytest.mark.parametrize("file", PAGES, ids=_name)
def test_every_file_of_ours_that_is_named_exists(file):
    named = set(OURS.findall(file.read_text(encoding="utf-8")))
    assert {path for path in named if not (ROOT / path).is_file()} == set()


def test_claims_of_exactness_that_name_their_test_are_listed_in_numerics():
    listed = (DOCS / "numerics.md").read_text(encoding="utf-8")
    not_numbers = {"numerics", "security", "cluster", "troubleshooting", "report"}
    named = {
        test
        for file in [ROOT / "README.md", *DOCS.glob("*.md")]
        if file.stem not in not_numbers
        for test in re.findall(r"tests/(?:train|infer|kernels)/\w+\.py", file.read_text("utf-8"))
    }
    assert {test for test in named if f"`{test}`" not in listed} == set()


def test_every_row_of_numerics_names_its_test():
    text = (DOCS / "numerics.md").read_text(encoding="utf-8")
    rows = re.findall(r"(?m)^\| (.*) \| (.*) \|$", text[: text.index("## The loss")])
    claims = [row for row in rows if row[0] != "claim" and not row[0].startswith("-")]
    assert len(claims) > 30
    named = re.compile(r"`tests/[\w/]+(?:\.py)?`")
    assert [claim for claim, test in claims if not named.search(test)] == []


_DIFFERS = "…|[0-9]+| does | are "  # the verb by the number before it


@cache
def _said_by_the_code():
    """The fixed parts of all strings."""
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in SOURCES]
    return "\n".join(
        node.value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _messages():
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    return re.findall(r"(?m)^ {4}(?:sumzero|mend): (.*)$", text)


@pytest.mark.parametrize("message", _messages())
def test_a_message_of_ours_is_one_that_the_code_has(message):
    parts = [part.strip(" ;,.():") for part in re.split(_DIFFERS, message)]
    words = [part for part in parts if len(part) > 3]
    assert words
    assert [part for part in words if part not in _said_by_the_code()] == []


def test_no_code_that_comes_with_a_model_is_run():
    text = "\n".join(file.read_text(encoding="utf-8") for file in SOURCES)
    given = re.findall(r"trust_remote_code\"?[=:]\s*(\w+)", text)
    assert len(given) > 5
    assert set(given) == {"False"}


def test_the_citation_is_of_this_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == project["version"]
    assert cited["license"] == project["license"]
    assert cited["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(cited)
    heading = rf"(?m)^## (?:\[?{re.escape(project['version'])}\]?|\[?Unreleased\]?)"
    assert re.search(heading, (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed")
def test_the_pages_are_built_without_a_warning_and_load_nothing_from_elsewhere(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "-q", "-d", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 25
    loaded = re.compile(r"<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//[^>]*>")
    assert [tag for page in pages for tag in loaded.findall(page.read_text("utf-8"))] == []


def test_the_tour_has_the_tokens_that_its_run_makes(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert cli.main(["prepare", "docs/tour.toml", "--processes=1", f"runs={tmp_path}"]) == 0
    rows = TokenStore(tmp_path / "tour" / "data" / "train.arrow")
    number = next(row for row in range(len(rows)) if "bridge" in rows.identities(row))
    tour = (DOCS / "tour.md").read_text(encoding="utf-8")
    document, _, (target,) = rows.row(number)
    tokens = [*map(str, document)]
    assert f"[{', '.join(tokens[:10])}, ...]`: {len(tokens)} tokens" in tour
    assert f"[[{', '.join(map(str, target))}]]" in tour
    line = (DOCS / "tour.jsonl").read_text(encoding="utf-8").splitlines()[2]
    assert json.loads(line) == json.loads(re.search(r'(?s)\{"id": "bridge".*?\}', tour)[0])
