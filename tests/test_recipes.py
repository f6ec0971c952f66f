"""Every recipe loads, and the commands in its head are what the program takes.

Each small one is prepared as written from rows in the columns that it names, generated for and
scored; some are trained for two steps and exported. The large ones are prepared with a tiny
tokenizer and planned, with the shape of their model, for the GPUs that their heads name.
"""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from sumzero import ds_configs
from sumzero.cli import _parser, main
from sumzero.contract import open_contract
from sumzero.demo import settings, with_paths
from sumzero.infer.generate import generate
from sumzero.infer.score import score
from sumzero.pipeline import export, prepare
from sumzero.runfile import load
from sumzero.runfolder import RunFolder, write_jsonl

from .train.trainings import Forks

ROOT = Path(__file__).parents[1]
RECIPES = {file.stem: file for file in sorted((ROOT / "recipes").glob("*.toml"))}
QWEN_8B = {
    **{"vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 12288, "head_dim": 128},
    **{"num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8},
    **{"model_type": "qwen3", "max_position_embeddings": 40960, "tie_word_embeddings": False},
}
LLAMA_70B = {
    **{"vocab_size": 128256, "hidden_size": 8192, "intermediate_size": 28672},
    **{"num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8},
    **{"model_type": "llama", "max_position_embeddings": 131072},
}
LARGE = {"lora_8b": QWEN_8B, "full_8b_zero3": QWEN_8B, "full_70b_zeropp": LLAMA_70B}
GPUS = {"full_8b_zero3": ("8",)}  # beside those of the planner's command in the head
# Of these two steps are made: another task each, a length that is asked for, shared bins.
TRAINED = ("chinese_summary", "long_documents", "qa", "translate")


def text(number, words=60):
    """One that is like no other."""
    return " ".join(f"Word{(number * 31 + k) * 7919 % 100000} is {k % 5}." for k in range(words))


def chinese(number):
    return "".join(f"第{(number * 31 + k) * 7919 % 10007}种方法是好的。" for k in range(12))


def plain(number):
    return {"document": text(number), "target": f"It is {number}."}


def documented(number):
    return {"document": text(number), "lead": f"Word {number}.", "target": f"Word {number}."}


def paper(number):
    return {"document": text(number), "summary": f"It is {number}.", "references": ["It.", "Is."]}


def chat(number):
    return {"dialogue": f"Ann: {text(number, 5)}\r\nBob: Yes!", "summary": f"Ann asks {number}."}


def article(number):
    return {"article": text(number), "highlights": f"One is {number} .\nTwo is .\nSo is three ."}


def asked_meeting(number):  # two questions a meeting
    document, query = text(number // 2), f"What was said of {number % 2}?"
    return {"document": document, "query": query, "summary": f"That it is {number}."}


def question(number):  # every third has no answer
    answers = [{"answer_start": 0, "text": f"Word{number}"}] if number % 3 else []
    return {"context": text(number // 4), "question": f"Which is {number}?", "answers": answers}


def pair(number):
    return {"source": text(number, 5), "target": chinese(number)}


def abstract(number):
    return {"document": chinese(number), "summary": f"第{number}种方法的研究"}


def story(number):  # of more tokens than there is room for
    asked = {"query": "What is the plot?", "summary": f"They win {number} times."}
    return {"document": text(number, 1200), **asked, "references": ["They win.", "They go home."]}


# Of each small recipe what makes its rows.
SMALL = {
    "chinese_summary": abstract,
    "demo": documented,
    "dialogue": chat,
    "long_documents": story,
    "news": article,
    "qa": question,
    "query_focused": asked_meeting,
    "scitldr": paper,
    "translate": pair,
}


def write_rows(folder, row, counts):
    """Files of such rows; returns the overrides that name them, and keep the run there."""
    for split, numbers in counts.items():
        write_jsonl(folder / f"{split}.jsonl", [{"id": str(n), **row(n)} for n in numbers])
    paths = [f"data.{split}.path={folder}/{split}.jsonl" for split in counts]
    return [f"runs={folder}/runs", *paths]


def head(name):
    """The comment that a recipe begins with."""
    return RECIPES[name].read_text(encoding="utf-8").partition("\n\n")[0]


def commands(name):
    """The commands that a head ends with, each as a list of arguments."""
    lines = head(name).rpartition("\n#\n")[2].replace("\\\n#", "").splitlines()
    return [shlex.split(line[1:], comments=True) for line in lines]


def test_the_recipes_of_every_task_and_size_are_there():
    assert RECIPES.keys() == SMALL.keys() | LARGE.keys() | {"mixed_tasks"}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_loads_and_its_head_says_what_it_needs_and_what_to_expect(name):
    config = load(RECIPES[name])
    assert config.name == name
    presets = Path(ds_configs.__file__).parent.glob("*.json")
    assert config.train.deepspeed in {preset.stem for preset in presets}
    assert 0 < head(name).index("\n# Needs: ") < head(name).index("\n# Expect: ")


@pytest.mark.parametrize("name", RECIPES)
def test_the_commands_of_a_head_are_what_the_program_takes(name):
    runs = {"demo"} if name == "demo" else set()  # that a command before has begun
    found = commands(name)
    assert found
    for program, *arguments in found:
        if program == "sumzero":
            options, more = _parser().parse_known_args(arguments)
            run, overrides = getattr(options, "run", None), [*options.overrides, *more]
        elif program == "deepspeed":
            assert (arguments[0], *arguments[2:4]) == ("--num_gpus", "--module", "sumzero.train")
            run, overrides = arguments[4], arguments[5:]
        else:
            script = next(n for n, one in enumerate(arguments) if one.endswith(".sbatch"))
            assert program == "sbatch"
            assert all(one.startswith("--") for one in arguments[:script])
            assert (ROOT / arguments[script]).is_file()
            run, overrides = arguments[script + 1], arguments[script + 2 :]
        if run is None:
            settings(None if "--data" not in arguments else "my.jsonl", overrides)
        elif run.startswith("recipes/"):
            assert ROOT / run == RECIPES[name]
            runs.add(load(ROOT / run, overrides).name)
        else:
            assert run.removesuffix("/config.toml").removeprefix("runs/") in runs


def test_the_demo_runs_its_recipe():
    config, recipe = settings(None, []), load(RECIPES["demo"])
    assert config == recipe
    placed = with_paths(config, Path("runs/demo/records"))
    paths = {split: getattr(placed.data, split)[0].path for split in ("train", "test")}
    assert paths == {split: getattr(recipe.data, split)[0].path for split in ("train", "test")}
    assert settings("my.jsonl", []).data.max_prompt is None
    assert replace(settings("my.jsonl", []), data=recipe.data) == recipe


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    forks = Forks(tmp_path_factory.mktemp("recipes"))
    yield forks
    forks.close()


@pytest.mark.parametrize("name", SMALL)
def test_a_small_recipe_runs_as_written(name, request, tmp_path):
    counts = {"train": range(24), "test": range(100, 104)}
    overrides = [*write_rows(tmp_path, SMALL[name], counts), "train.max_steps=2"]
    config = load(RECIPES[name], overrides)
    report = prepare(config, 1)
    assert [report["splits"][split]["rejected"] for split in counts] == [0, 0]
    if name in TRAINED:
        forks = request.getfixturevalue("forks")
        forks.train(RECIPES[name], *overrides, ranks=config.train.sequence_parallel)
        export(config, probe=False)
        made, _ = open_contract(RunFolder.of(config).export)
        assert made.length_control == config.data.length_control
    for system in ("lead1", "echo"):
        generate(config, system)
    systems = score(config)["systems"]
    assert {system: found["rows"] for system, found in systems.items()} == {"lead1": 4, "echo": 4}


def test_tasks_are_mixed_as_written(tmp_path):
    sources = {"papers": paper, "questions": question, "sentences": pair, "dev": paper}
    for name, row in sources.items():
        rows = [{"id": f"{name}{n}", **row(n)} for n in range(24)]
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    overrides = [f"runs={tmp_path}/runs", f"data.test.path={tmp_path}/dev.jsonl"]
    for index, name in enumerate(("papers", "questions", "sentences")):
        overrides.append(f"data.train.{index}.path={tmp_path}/{name}.jsonl")
    report = prepare(load(RECIPES["mixed_tasks"], overrides), 1)
    assert report["splits"]["train"]["kept"] == 72


@pytest.mark.parametrize("name", [*LARGE, "long_documents"])
def test_a_large_recipe_fits_on_the_gpus_that_its_head_names(name, tokenizer, tmp_path, capsys):
    model = tmp_path / "model"
    tokenizer.save_pretrained(model)
    (model / "config.json").write_text(json.dumps(LARGE.get(name, QWEN_8B)))
    counts = {"train": range(10, 34), "test": range(4)}
    rows = write_rows(tmp_path, SMALL.get(name, plain), counts)
    told = {command[1]: command[2:] for command in commands(name) if command[0] == "sumzero"}
    overrides = [*told["prepare"][1:], *rows, f"model.path={model}"]
    prepare(load(RECIPES[name], overrides), 1)
    for gpus in {*GPUS.get(name, ()), told["plan"][told["plan"].index("--gpus") + 1]}:
        capsys.readouterr()
        room = ["--gpus", gpus, "--gpu-memory", "80", "--json"]
        assert main(["plan", str(RECIPES[name]), *overrides, *room]) == 0
        recipe = json.loads(capsys.readouterr().out)["recipe"]
        assert recipe["settings"]["train.deepspeed"] == load(RECIPES[name]).train.deepspeed
        assert recipe["fits"], recipe
