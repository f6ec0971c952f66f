"""What README.md and its Chinese twin say: commands are run, figures are those that were saved."""

import importlib.util
import json
import re
import shlex
from pathlib import Path

import pytest

from sumzero.cli import _parser, main
from sumzero.demo import settings, verdict
from sumzero.runfile import load

ROOT = Path(__file__).parents[1]
FILES = ("README.md", "README.zh-CN.md")
PROGRAMS = ("git", "make", "source", "pip", "sumzero", "deepspeed", "sbatch")
# What the README's commands run on here: a small model, few records, no vLLM.
ADDED = {
    "doctor": [],
    "prepare": ["model.path={model}", "model.dtype=float32", "data.max_length=512"],
    "plan": [],
    "generate": ["--engine=echo"],
    "score": [],
    "compare": ["--system-b=echo"],
    "report": [],
    "status": [],
}
# Those that need vLLM, a training or a cluster, and the test that runs them.
ELSEWHERE = {
    "demo": "tests/test_demo.py",
    "run": "tests/test_pipeline.py",
    "export": "tests/train/test_export_by_launcher.py",
    "explain": "tests/infer/test_explain.py",
    "serve": "tests/infer/test_serve.py",
    "submit": "tests/slurm/test_submit.py",
}


def _text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def _commands(name):
    """The commands of indented blocks, as lists of words without comments."""
    lines = re.findall(rf"^    ((?:{'|'.join(PROGRAMS)}) .*)", _text(name), re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def _of_sumzero():
    return [words[1:] for words in _commands("README.md") if words[0] == "sumzero"]


def _table(name):
    """The rows of measured numbers: cells, and the script and result that the last one names."""
    for line in _text(name).splitlines():
        found = re.search(r'\[(\w+)\]\(benchmarks/\1\.py "(.+)"\)', line)
        if found:
            yield [cell.strip().strip("`") for cell in line.split("|")[1:-2]], *found.groups()


def _saved(script, result, peer, unit):
    """The newest saved result, at full size, whose name begins so, beside this peer."""
    unit = "bytes" if unit == "GB" else unit
    lines = (ROOT / "benchmarks" / "results" / f"{script}.jsonl").read_text().splitlines()
    for line in map(json.loads, reversed(lines)):
        for row in line["results"] if not line["quick"] else ():
            beside = re.sub(r" \(.*\)$", "", row["peer"] or "")
            same = row["name"].startswith(result) and (beside, row["unit"]) == (peer, unit)
            if same and row["value"] is not None:
                return line["device"], row
    raise AssertionError(f"{script} has no result {result!r} in {unit} beside {peer!r}")


def _agrees(shown, saved):
    """Whether a figure is the saved one, rounded to as many places as it is shown with."""
    number = re.match(r"[\d,]+(\.\d+)?", shown)[0].replace(",", "")
    if "." in number:
        return abs(float(number) - saved) <= 0.5001 * 10 ** -len(number.partition(".")[2])
    zeros = len(number) - len(number.rstrip("0"))
    return abs(float(number) - saved) <= 0.5001 * 10**zeros


def test_both_languages_have_the_same_commands_and_code():
    english, chinese = map(_commands, FILES)
    assert len(english) > 20
    assert english == chinese
    blocks = [re.findall(r"^    (?:from|with|    ).*", _text(name), re.MULTILINE) for name in FILES]
    assert blocks[0] == blocks[1]
    tables = [[(cells[1:-1], *more) for cells, *more in _table(name)] for name in FILES]
    assert tables[0] == tables[1]


@pytest.mark.parametrize("words", _of_sumzero(), ids=" ".join)
def test_a_command_is_one_of_sumzero_s_with_options_and_settings_that_there_are(words):
    options, more = _parser().parse_known_args(words)
    assert not [word for word in more if word.startswith("-")]
    name = words[0]
    if name not in ADDED:
        assert re.search(rf'"{name}"|sumzero\.{name} import', _text(ELSEWHERE[name]))
    if name == "demo":
        settings(options.data, [*options.overrides, *more])
    if getattr(options, "run", "").startswith("recipes/"):
        load(ROOT / options.run, [*options.overrides, *more])


def test_the_other_commands_name_what_there_is():
    targets = re.findall(r"^(\w[\w-]*):", _text("Makefile"), re.MULTILINE)
    for words in _commands("README.md"):
        if words[0] == "make":
            assert words[1] in targets
        elif words[0] == "deepspeed":
            assert importlib.util.find_spec(words[words.index("--module") + 1])
        elif words[0] == "sbatch":
            assert (ROOT / next(word for word in words if word.endswith(".sbatch"))).is_file()
        elif words[0] == "pip":
            assert f"\n{words[2].strip('.[]')} = [" in _text("pyproject.toml")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the recipes and with the files that the commands name."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    for name, count in (("train", 12), ("dev", 4), ("test", 4)):
        rows = [
            {"id": f"{name}{n}", "document": f"The {name} cat sat on mat {n}. It was warm."}
            | {"target": "A cat sat.", "summary": "A cat sat.", "references": ["A cat sat.", "It."]}
            for n in range(count)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_that_need_no_gpu_run_one_after_the_other(here, model_folder, capsys):
    ran = [words for words in _of_sumzero() if words[0] in ADDED]
    assert {words[0] for words in ran} == set(ADDED)
    for words in ran:
        # A baseline is made without any engine.
        added = (
            [] if words[:1] + words[2:] == ["generate", "--system", "lead1"] else ADDED[words[0]]
        )
        assert main([*words, *(word.format(model=model_folder) for word in added)]) == 0, words
    said = capsys.readouterr().out
    assert "lead1" in said
    assert "zero3" in said  # sumzero plan
    assert (here / "runs" / "scitldr" / "report.html").is_file()
    assert {folder.name for folder in (here / "runs").iterdir()} == {"scitldr", "full_8b_zero3"}


@pytest.mark.parametrize("name", FILES)
def test_measured_numbers_are_those_that_were_saved(name):
    rows = list(_table(name))
    assert len(rows) > 15
    for (_, ours, peer, theirs, ratio, machine), script, result in rows:
        unit = ours.split()[1]
        device, saved = _saved(script, result, peer, unit)
        assert machine in device
        scale = 1e9 if unit == "GB" else 1
        assert _agrees(ours, saved["value"] / scale), (result, saved)
        if peer:
            assert _agrees(theirs, saved["peer_value"] / scale), (result, saved)
            assert _agrees(ratio, saved["ratio"]), (result, saved)


@pytest.mark.parametrize(("name", "times"), [("README.md", " times"), ("README.zh-CN.md", " 倍")])
def test_what_the_introduction_claims_stands_in_the_table(name, times):
    introduction = _text(name).partition("\n## ")[0]
    claimed = re.findall(rf"([\d.]+){times}", introduction)
    assert len(claimed) >= 4
    assert set(claimed) <= {cells[4] for cells, *_ in _table(name)}
    assert set(re.findall(r"[\d.]+ s\b", introduction)) <= {cells[1] for cells, *_ in _table(name)}


@pytest.mark.parametrize("name", FILES)
def test_the_demo_s_sentence_fits_its_table(name):
    found = re.findall(r"^    (lead1|untrained|finetuned) +(.+)", _text(name), re.MULTILINE)
    values = {system: re.findall(r"([\d.]+) ±", line) for system, line in found}
    scores = {
        system: {"metrics": {"rougeL": {"value": float(of[2])}}} for system, of in values.items()
    }
    assert f"\n    {verdict({'systems': scores})[1]}\n" in _text(name)
