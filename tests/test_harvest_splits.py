"""Which files are harvested, in which order, and how their docstrings are split."""

import sys

from sumzero.harvest import harvest, python_files

COUNTS = {"train": 40, "validation": 8, "test": 8}


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
