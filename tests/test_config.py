import dataclasses
import tomllib
from pathlib import Path

import pytest
import tomli_w

from sumzero.config import RunConfig
from sumzero.errors import ConfigError
from sumzero.runfile import as_dict, check, load

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.toml"))
EVERYTHING = """
name = "all.of-it_1"
runs = "/tmp/elsewhere"
seed = 7
[model]
path = "org/model"
revision = "main"
dtype = "float32"
attention = "sdpa"
[model.scratch]
vocab_size = 400
hidden_size = 96
num_layers = 1
num_heads = 6
num_kv_heads = 3
intermediate_size = 5
[data]
instruction = "Fasse zusammen.\\nKurz „bitte“."
max_length = 4096
max_prompt = 1000
truncation = "head_tail"
[data.train]
path = "a.jsonl"
id = "key"
document = "text"
targets = "summaries"
instruction = "question"
lead = "first"
[data.validation]
path = "b.jsonl"
[data.test]
path = "c.jsonl"
[train]
deepspeed = "mine.json"
bins_per_step = 4
epochs = 0.5
max_steps = 9
lr = 1e-4
schedule = "linear"
warmup = 0.0
min_lr = 1.0
weight_decay = 0.1
betas = [0.8, 0.99]
clip = 0.5
gradient_checkpointing = true
save_every = 3
log_every = 1
[generate]
max_new_tokens = 5
min_new_tokens = 2
temperature = 0.7
top_p = 0.5
top_k = 50
repetition_penalty = 1.2
max_repeats = 4
repeat_tokens = 16
speculative_tokens = 3
prefix_caching = false
dtype = "float16"
max_in_flight = 1
tensor_parallel = 2
gpu_memory_utilization = 0.5
cpu_kv_cache_gib = 0.25
enforce_eager = false
[score]
bootstrap = 100
"""


def problems(file, *overrides):
    with pytest.raises(ConfigError) as caught:
        load(file, overrides)
    return caught.value.problems


def test_an_empty_file_is_a_run_of_defaults_named_like_the_file(run_file):
    assert load(run_file("", "my_run-2.toml")) == RunConfig(name="my_run-2")


def test_a_name_in_the_file_comes_before_the_name_of_the_file(run_file):
    assert load(run_file('name = "other"')).name == "other"


def test_numbers_may_be_written_as_whole_ones_where_fractions_are_meant(run_file):
    epochs = load(run_file("[train]\nepochs = 2")).train.epochs
    assert epochs == 2.0
    assert isinstance(epochs, float)


@pytest.mark.parametrize(
    ("text", "key", "meant"),
    [
        ("sed = 1", "sed", "seed"),
        ("[trian]\nlr = 1e-4", "trian", "train"),
        ("[data]\nmax_lenght = 3000", "data.max_lenght", "data.max_length"),
        (
            "[model.scratch]\nhiden_size = 8",
            "model.scratch.hiden_size",
            "model.scratch.hidden_size",
        ),
        ('[data.test]\npath = "a"\ntarget = "b"', "data.test.target", "data.test.targets"),
        ("[train.lora]\nrnk = 8", "train.lora.rnk", "train.lora.rank"),
    ],
)
def test_a_typo_names_the_key_the_file_and_what_was_meant(run_file, text, key, meant):
    file = run_file(text)
    assert problems(file) == [f"{file}: {key}: no such setting; did you mean {meant}?"]


def test_a_key_like_no_other_gets_no_suggestion(run_file):
    file = run_file("qqqqq = 1")
    assert problems(file) == [f"{file}: qqqqq: no such setting"]


@pytest.mark.parametrize(
    ("override", "key", "shown"),
    [
        ("seed=true", "seed", "true"),
        ("seed=1.5", "seed", "1.5"),
        ("name=2024", "name", "2024"),
        ("train.lr=fast", "train.lr", '"fast"'),
        ("train.max_steps=2.0", "train.max_steps", "2.0"),
        ("train.gradient_checkpointing=1", "train.gradient_checkpointing", "1"),
        ('train.bins_per_step="8"', "train.bins_per_step", '"8"'),
        ("train.betas=[0.9]", "train.betas.1", "[0.9]"),
        ("train.betas=[0.9,0.95,0.99]", "train.betas", "[0.9, 0.95, 0.99]"),
        ("data.train=rows.jsonl", "data.train", '"rows.jsonl"'),
        ("data=[]", "data", "[]"),
        ("seed=2020-01-01", "seed", '"2020-01-01"'),
    ],
)
def test_a_value_of_the_wrong_type_is_shown_with_its_key(run_file, override, key, shown):
    file = run_file("")
    (problem,) = problems(file, override)
    assert problem.startswith(f"{file}: {key}: ")
    assert problem.endswith(f"(got {shown})")


@pytest.mark.parametrize(
    "override",
    [
        "seed=-1",
        "seed=99999999999999999999",
        "data.max_length=15",
        "data.max_prompt=0",
        "data.truncation=tail",
        "train.lr=0",
        "train.lr=-1e-5",
        "train.lr=nan",
        "train.lr=inf",
        "train.epochs=0",
        "train.warmup=1.01",
        "train.min_lr=-0.1",
        "train.weight_decay=-1",
        "train.betas=[0.9,1.5]",
        "train.clip=0",
        "train.bins_per_step=0",
        "train.schedule=step",
        "model.dtype=fp16",
        "model.scratch.vocab_size=299",
        "generate.max_new_tokens=0",
        "generate.temperature=-0.5",
        "generate.top_p=2",
        "score.bootstrap=10",
    ],
)
def test_a_value_out_of_range_is_one_problem_with_its_key(run_file, override):
    (problem,) = problems(run_file(""), override)
    assert f": {override.partition('=')[0]}" in problem


def test_a_weight_of_data_that_is_not_a_number_is_refused(run_file):
    file = run_file('[data.train]\npath = "rows.jsonl"\nweight = nan\n')
    (problem,) = problems(file)
    assert problem.startswith(f"{file}: data.train.weight: ")


@pytest.mark.parametrize("name", ["..", ".", ".hidden", "a/b", "../up", "", "a b", "a\\n", "-f"])
def test_a_name_that_is_no_plain_folder_name_is_refused(run_file, name):
    (problem,) = problems(run_file(f'name = "{name}"'))
    assert ": name: " in problem


@pytest.mark.parametrize(("heads", "kv_heads"), [(3, 3), (4, 3), (2, 4)])
def test_heads_that_do_not_divide_are_refused(run_file, heads, kv_heads):
    (problem,) = problems(
        run_file(""), f"model.scratch.num_heads={heads}", f"model.scratch.num_kv_heads={kv_heads}"
    )
    assert "model.scratch: num_kv_heads must divide num_heads" in problem


def test_all_faults_are_told_at_once(run_file):
    file = run_file(
        'seed = "x"\n[train]\nlr = -1\nwarm = 1\n[data]\nmax_length = 3\n[data.train]\n'
    )
    found = problems(file, "generate.top_p=3")
    keys = [problem.removeprefix(f"{file}: ").partition(":")[0] for problem in found]
    assert sorted(keys) == [
        "data.max_length",
        "data.train.path",
        "generate.top_p",
        "seed",
        "train.lr",
        "train.warm",
    ]


def test_the_error_text_has_a_line_for_every_fault():
    error = ConfigError(["a: one", "b: two"])
    assert str(error) == "a: one\nb: two"
    assert ConfigError("a: one").problems == ["a: one"]


@pytest.mark.parametrize("text", ["", EVERYTHING], ids=["defaults", "everything"])
def test_settings_come_back_from_the_file_they_are_written_to(run_file, text):
    config = load(run_file(text))
    written = tomli_w.dumps(as_dict(config))
    assert check(tomllib.loads(written), "written") == config


def test_settings_cannot_be_changed_afterwards(run_file):
    config = load(run_file(""))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.train.lr = 1.0


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda file: file.stem)
def test_every_recipe_is_a_whole_run(recipe):
    config = load(recipe)
    assert config.data.train


@pytest.mark.parametrize(
    ("values", "key", "why"),
    [
        ({"max_new_tokens": 5, "min_new_tokens": 6}, "min_new_tokens", "is above max_new_tokens"),
        ({"min_new_tokens": 129}, "min_new_tokens", "is above max_new_tokens = 128"),
        ({"max_repeats": 1}, "max_repeats", "greater than or equal to 2"),
        ({"top_p": 0.0}, "top_p", "greater than 0"),
        ({"temperature": 2.5}, "temperature", "less than or equal to 2"),
        ({"beams": 5, "temperature": 0.7}, "beams", "without temperature"),
        ({"beams": 5, "top_p": 0.9, "top_k": 9}, "beams", "without top_p, top_k"),
        ({"beams": 5, "speculative_tokens": 3}, "beams", "without speculative_tokens"),
        ({"beams": 2, "max_repeats": 3}, "beams", "without max_repeats"),
        ({"beams": 2, "repetition_penalty": 1.1}, "beams", "without repetition_penalty"),
        ({"beams": 2, "frequency_penalty": 1.0}, "beams", "without frequency_penalty"),
        ({"length_penalty": 2.0}, "length_penalty", "no effect without beams"),
        ({"early_stopping": True}, "early_stopping", "no effect without beams"),
    ],
)
def test_decoding_settings_that_contradict_each_other_are_refused(values, key, why):
    with pytest.raises(ConfigError) as caught:
        check({"name": "run", "generate": values}, "run.toml")
    (problem,) = caught.value.problems
    assert problem.startswith(f"run.toml: generate.{key}: ")
    assert why in problem


def test_a_beam_search_may_have_limits_and_a_length_penalty():
    values = {"beams": 5, "length_penalty": 2.0, "early_stopping": True, "min_new_tokens": 9}
    made = check({"name": "run", "generate": values}, "run.toml").generate
    assert (made.beams, made.length_penalty, made.early_stopping) == (5, 2.0, True)
