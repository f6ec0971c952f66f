"""Every recipe loads, and the commands in its head are what the program takes.

Each small one runs as written, with two steps of training: prepared from rows in the columns that
it names, trained, exported, generated for and scored. The large ones are prepared with a tiny
tokenizer and planned, with the shape of their model, for the GPUs that their heads name.
"""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoConfig

from sumzero import ds_configs
from sumzero.cli import _parser, main
from sumzero.demo import settings, with_paths
from sumzero.infer.generate import generate
from sumzero.infer.score import score
from sumzero.pipeline import export, prepare
from sumzero.runfile import load
from sumzero.runfolder import RunFolder, read_json, write_jsonl

from .train.trainings import Forks

ROOT = Path(__file__).parents[1]
RECIPES = {file.stem: file for file in sorted((ROOT / "recipes").glob("*.toml"))}
TRAINING = ["deepspeed", "--num_gpus", "N", "--module", "sumzero.train"]
BASE = {"vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 12288, "head_dim": 128}
QWEN_8B = {
    **{**BASE, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8},
    **{"model_type": "qwen3", "max_position_embeddings": 40960, "tie_word_embeddings": False},
}
LLAMA_70B = {
    **{"vocab_size": 128256, "hidden_size": 8192, "intermediate_size": 28672},
    **{"num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8},
    **{"model_type": "llama", "max_position_embeddings": 131072},
}
LARGE = {"lora_8b": QWEN_8B, "full_8b_zero3": QWEN_8B, "full_70b_zeropp": LLAMA_70B}
GPUS = [("lora_8b", 2), ("full_8b_zero3", 8), ("full_8b_zero3", 16), ("full_70b_zeropp", 64)]


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


# Of each small recipe its rows, and how many: with fewer its vocabulary would not fill a token a word.
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


def commands(recipe):
    """The commands of a recipe's head, each as a list of arguments."""
    head = recipe.read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    assert all(line.startswith("#") for line in head)
    shown = "\n".join(line[1:].strip() for line in head if line.startswith("#   ") and line[4] != " ")
    more = {line[1:].strip() for line in head if line.startswith("#       ")}
    lines, whole = [], ""
    for line in (line[1:].strip() for line in head):
        if whole or line.split(" ")[0] in ("sumzero", "deepspeed", "sbatch"):
            whole += line.removesuffix("\\")
            if not line.endswith("\\"):
                lines.append(shlex.split(whole))
                whole = ""
    del shown, more
    return lines


def test_the_recipes_of_every_task_and_size_are_there():
    assert RECIPES.keys() == SMALL.keys() | LARGE.keys() | {"mixed_tasks"}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_loads_and_its_head_says_what_it_needs_and_what_to_expect(name):
    config = load(RECIPES[name])
    assert config.name == name
    presets = Path(ds_configs.__file__).parent.glob("*.json")
    assert config.train.deepspeed in {preset.stem for preset in presets}
    head = RECIPES[name].read_text(encoding="utf-8").partition("\n\n")[0]
    needs, expects = head.index("\n# Needs: "), head.index("\n# Expect: ")
    assert needs < expects


@pytest.mark.parametrize("name", RECIPES)
def test_the_commands_of_a_head_are_what_the_program_takes(name):
    runs = {"demo"} if name == "demo" else set()  # that a command before has begun
    found = commands(RECIPES[name])
    assert found
    for program, *arguments in found:
        if program == "sumzero":
            options, more = _parser().parse_known_args(arguments)
            run, overrides = getattr(options, "run", None), [*options.overrides, *more]
        elif program == "deepspeed":
            assert [arguments[0], *arguments[2:4]] == [TRAINING[1], *TRAINING[3:]]
            run, overrides = arguments[4], arguments[5:]
        else:
            script = next(n for n, one in enumerate(arguments) if one.endswith(".sbatch"))
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


def test_the_demo_runs_its_recipe(tmp_path):
    config, recipe = settings(None, []), load(RECIPES["demo"])
    assert config == recipe
    placed = with_paths(config, Path("runs/demo/records"))
    paths = {split: getattr(placed.data, split)[0].path for split in ("train", "test")}
    assert paths == {split: getattr(recipe.data, split)[0].path for split in ("train", "test")}
    assert settings("my.jsonl", []).data.max_prompt is None
    assert replace(settings("my.jsonl", []), data=recipe.data) == recipe


@pytest.fixture(scope="session")
def forks(tmp_path_factory):
    forks = Forks(tmp_path_factory.mktemp("recipes"))
    yield forks
    forks.close()


@pytest.mark.parametrize("name", SMALL)
def test_a_small_recipe_runs_as_written(name, forks, tmp_path):
    counts = {"train": range(24), "test": range(100, 104)}
    overrides = [*write_rows(tmp_path, SMALL[name], counts), "train.max_steps=2"]
    config = load(RECIPES[name], overrides)
    report = prepare(config, 1)
    assert [report["splits"][split]["rejected"] for split in counts] == [0, 0]
    forks.train(RECIPES[name], *overrides, ranks=config.train.sequence_parallel)
    export(config, probe=False)
    for system in ("lead1", "echo"):
        generate(config, system)
    systems = score(config)["systems"]
    assert {system: found["rows"] for system, found in systems.items()} == {"lead1": 4, "echo": 4}
