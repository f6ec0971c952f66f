"""Harvests (code, one-line summary) records from the docstrings of installed Python code.

PEP 257 asks every docstring to begin with a one-line summary: real, human-written summaries that
lie on every machine. Files are parsed with `ast`; nothing is imported or run. One pass, about 200
files a second on one core; files are visited in an order fixed by the hash of their module's name,
and the pass stops as soon as each split has its share.

document = signature, docstring body after the summary, source without the docstring
target   = the summary line
lead     = the body's first sentence, or the identifier's words (the baseline to beat)
"""

import ast
import hashlib
import inspect
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from sumzero.sentences import first_sentence

MAX_SUMMARY_WORDS = 30
MAX_LINES = 100  # of a definition: a line does not sum up more
# Generated parsers and tables, and test suites, hold few docstrings and take long to parse.
_MAX_FILE_BYTES = 400_000
_SKIPPED_FOLDERS = {"test", "tests", "testing", "__pycache__", "lib2to3", "idlelib", "pip"}


@dataclass(frozen=True)
class Docstring:
    """One documented function or class. `module` is a dotted path, `name` a qualified name."""

    module: str
    name: str
    line: int
    document: str
    target: str
    lead: str

    def row(self) -> dict[str, str]:
        """The JSONL row of this docstring."""
        return {
            "id": f"{self.module}:{self.line}:{self.name}",
            "document": self.document,
            "target": self.target,
            "lead": self.lead,
        }


def python_files(roots: list[Path] | None = None) -> list[tuple[str, Path]]:
    """(module, file) of every importable source file under `roots`, ordered by hash of the module.

    `roots` defaults to the standard library and site-packages of this interpreter.
    """
    if roots is None:
        paths = sysconfig.get_paths()
        roots = [Path(paths["stdlib"]), Path(paths["purelib"])]
    found: dict[str, Path] = {}
    for root in roots:
        for file in root.rglob("*.py"):
            parts = file.relative_to(root).with_suffix("").parts
            if "site-packages" in parts or not _SKIPPED_FOLDERS.isdisjoint(parts):
                continue
            module = ".".join(parts).removesuffix(".__init__")
            found.setdefault(module, file)
    return sorted(found.items(), key=lambda item: _digest(item[0]))


def docstrings(module: str, file: Path) -> Iterator[Docstring]:
    """The usable docstrings of one file; none where the file cannot be read or parsed."""
    try:
        if file.stat().st_size > _MAX_FILE_BYTES:
            return
        source = file.read_text(encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a stranger's invalid escape sequence
            tree = ast.parse(source)
    except (OSError, UnicodeDecodeError, SyntaxError, ValueError, RecursionError):
        return
    lines = source.split("\n")  # as `ast` counts them: a form feed ends no line
    for name, node in _definitions(tree, ""):
        text = ast.get_docstring(node, clean=True)
        docstring = text and _docstring(module, name, node, text, lines)
        if docstring:
            yield docstring


def harvest(
    counts: dict[str, int], roots: list[Path] | None = None, processes: int = 1
) -> Iterator[tuple[str, Docstring]]:
    """Yields (split, docstring) until each split of `counts` holds that many, or no file is left.

    A module belongs to one split by its hash. Documents and summaries that were seen before, in
    any split, are dropped, so nothing in one split stands in another. `processes` parse files; the
    result does not depend on their number.
    """
    left = dict(counts)
    seen: set[str] = set()
    with _parser(processes) as parse:
        for of_file in parse(_parse, python_files(roots)):
            for docstring in of_file:
                split = _split(docstring.module, counts)
                keys = {_digest(docstring.document), _digest(_normal(docstring.target))}
                if left[split] == 0 or not seen.isdisjoint(keys):
                    continue
                seen |= keys
                left[split] -= 1
                yield split, docstring
            if not any(left.values()):
                return


def words_of(identifier: str) -> str:
    """`HTTPServer.get_request_id` -> `get request id`: the words of an identifier's last part."""
    last = identifier.rsplit(".", 1)[-1]
    return " ".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", last)).lower() or last


@contextmanager
def _parser(processes: int) -> Iterator[Callable[..., Iterable[list[Docstring]]]]:
    if processes == 1:
        yield map
    else:
        # Not by fork: the parent may have threads.
        with get_context("spawn").Pool(processes) as pool:
            yield partial(pool.imap, chunksize=16)


def _parse(module_and_file: tuple[str, Path]) -> list[Docstring]:
    return list(docstrings(*module_and_file))


_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _definitions(tree: ast.AST, prefix: str) -> Iterator[tuple[str, _Definition]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, _Definition):
            name = f"{prefix}{node.name}"
            yield name, node
            if isinstance(node, ast.ClassDef):
                yield from _definitions(node, f"{name}.")


def _docstring(
    module: str, name: str, node: _Definition, text: str, lines: list[str]
) -> Docstring | None:
    if (node.end_lineno or node.lineno) - node.lineno >= MAX_LINES:
        return None
    summary, _, body = text.partition("\n")
    summary, body = summary.strip(), body.lstrip(" ")
    if body and not body.startswith("\n"):
        return None  # the first paragraph runs on: its first line is no summary
    num_words = len(summary.split())
    if not 2 <= num_words <= MAX_SUMMARY_WORDS or not summary.isprintable():
        return None
    body = body.strip()
    code = inspect.cleandoc("\n".join(_source_lines(node, lines)))
    document = "\n".join(part for part in (_signature(node), body, code) if part)
    if _normal(summary) in _normal(document):
        return None
    lead = first_sentence(body) if body else words_of(name)
    return Docstring(module, name, node.lineno, document, summary, lead or words_of(name))


def _source_lines(node: _Definition, lines: list[str]) -> list[str]:
    if len(node.body) < 2:
        return []
    start = node.body[1]
    decorators = getattr(start, "decorator_list", [])
    first = min([start.lineno, *(decorator.lineno for decorator in decorators)])
    # cleandoc treats the first line apart, so an empty one goes before.
    return ["", *lines[first - 1 : node.end_lineno]]


def _signature(node: _Definition) -> str:
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        return f"class {node.name}({bases}):" if bases else f"class {node.name}:"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"def {node.name}({ast.unparse(node.args)}){returns}:"


def _normal(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


def _split(module: str, counts: dict[str, int]) -> str:
    """The split of a module: its hash, cut in proportion to `counts`."""
    position = int(_digest("split:" + module)[:12], 16) / 16**12 * sum(counts.values())
    for split, count in counts.items():
        if position < count:
            return split
        position -= count
    return next(iter(counts))
