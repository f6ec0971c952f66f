import json
import subprocess
import sys

import pytest

from sumzero.cli import main

KEYS = {
    "python",
    "platform",
    "cores",
    "memory_gib",
    "accelerator",
    "communication",
    "attention",
    "slurm",
    "packages",
    "problems",
}
# Hides packages from every finder, as if they had never been installed.
WITHOUT = """
import sys

hidden = set(sys.argv[1].split(","))


class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            return None
        return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)


sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
from sumzero.cli import main

sys.exit(main(["doctor", *sys.argv[2:]]))
"""


def doctor_without(packages, *arguments):
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, ",".join(packages), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_json_is_one_object_with_all_findings(capsys):
    code = main(["doctor", "--json"])
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert captured.out.count("\n") == 1
    assert set(found) == KEYS
    assert found["cores"] >= 1
    assert found["memory_gib"] > 0
    assert found["python"] == sys.version.split()[0]
    assert found["packages"]["torch"]["version"]
    assert found["packages"]["torch"]["for"] == "everything"
    assert code == (2 if found["problems"] else 0)


def test_text_names_every_package_and_what_is_to_mend(capsys):
    code = main(["doctor"])
    text = capsys.readouterr().out
    for name in ("python", "machine", "accelerator", "attention", "torch", "vllm", "sacrebleu"):
        assert f"{name} " in text
    assert ("nothing is missing" in text) == (code == 0)


@pytest.mark.parametrize("form", ["json", "text"])
def test_missing_packages_are_told_with_the_command_that_brings_them(form):
    hidden = ("torch", "deepspeed", "vllm", "peft", "flash_attn")
    done = doctor_without(hidden, *(["--json"] if form == "json" else []))
    assert done.returncode == 2, done.stderr
    needed = {
        "torch (everything) is missing: make install",
        "deepspeed (training) is missing: make install, or pip install 'sumzero[train]'",
        "vllm (generation) is missing: make install (CPU), or pip install 'sumzero[infer]' (GPU)",
    }
    if form == "json":
        found = json.loads(done.stdout)
        assert set(found["problems"]) == needed
        assert {name for name in hidden if found["packages"][name]["version"] is None} == set(
            hidden
        )
        assert found["accelerator"] == "none: torch is missing"
        assert found["packages"]["transformers"]["version"]
    else:
        lines = done.stdout.splitlines()
        assert {line.removeprefix("mend: ") for line in lines if line.startswith("mend")} == needed
        assert "nothing is missing" not in done.stdout
    assert done.stderr == ""
