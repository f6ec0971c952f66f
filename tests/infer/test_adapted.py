"""Adapters in `sumzero generate`: several at once say what each says alone, and what peft says."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from sumzero.adapter import ABOUT, BASE_DIGEST
from sumzero.cli import main
from sumzero.infer.adapted import _unmarked, parse_adapters
from sumzero.weights_digest import weights_digest

from .adapters import tokens_of, write_adapter
from .served_run import ROWS, promised
from .sure_model import write_model

pytestmark = pytest.mark.filterwarnings("ignore")  # those of vLLM and what it imports
NEW = 12
HALF = "\ufffd"  # a character that the last token left half done, which vLLM does not show


@pytest.fixture(scope="module")
def base(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases") / "base"
    write_model(folder, tokenizer)
    return folder


@pytest.fixture(scope="module")
def adapters(base, tokenizer, tmp_path_factory):
    """Two sets of adapters, the first one's folder a run's, with the contract that both keep."""
    root = tmp_path_factory.mktemp("adapters")
    folders = root / "news" / "adapter", root / "talks"
    for seed, folder in enumerate(folders):
        write_adapter(base, folder, seed=seed)
        promised(folder, tokenizer)
        (folder / ABOUT).write_text(json.dumps({BASE_DIGEST: weights_digest(base)}))
    return folders


@pytest.fixture(scope="module")
def peft(adapters, tokenizer, tmp_path_factory):
    """By system and id, what peft says."""
    renderer, contract = promised(tmp_path_factory.mktemp("export"), tokenizer)
    asked = renderer.ask(contract.instructions[0].inference())
    prompts = [
        renderer.prompt(
            renderer.encode_text([row["document"]])[0], contract.prompt_limit(NEW), asked
        ).ids
        for row in ROWS
    ]
    said = {}
    for name, folder in zip(("news", "talks"), adapters, strict=True):
        made = tokens_of(folder, prompts, NEW, eos_token_id=renderer.stop_ids)
        texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in made]
        texts = [text.rstrip(HALF).strip() for text in texts]
        said[name] = {row["id"]: text for row, text in zip(ROWS, texts, strict=True)}
    return said


@pytest.fixture
def run(tmp_path):
    """A run without an export, and a function that gives a command to it."""
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    file = tmp_path / "run.toml"
    file.write_text(f"""
        runs = "{tmp_path}/runs"
        data.test.path = "{tmp_path}/test.jsonl"
        [generate]
        max_new_tokens = {NEW}
        long = "truncate"
        max_in_flight = 4
        dtype = "float32"
        cpu_kv_cache_gib = 0.1
    """)

    def give(command, *options):
        return main([command, str(file), *map(str, options)])

    return give


def with_each(*adapters):
    return [word for adapter in adapters for word in ("--adapter", adapter)]


def said_by(tmp_path):
    """By system and id, what was generated in the run, and what by."""
    texts, manifests = {}, {}
    for file in (tmp_path / "runs" / "run" / "generations").glob("*/manifest.json"):
        manifest = json.loads(file.read_text())
        rows = map(json.loads, file.with_name("merged.jsonl").read_text().splitlines())
        texts[manifest["system"]] = {row["id"]: row["text"] for row in rows}
        manifests[manifest["system"]] = manifest
    return texts, manifests


def test_two_at_once_say_what_peft_says_for_each(run, adapters, peft, tmp_path):
    assert run("generate", *with_each(*adapters)) == 0
    texts, manifests = said_by(tmp_path)
    assert texts == peft
    assert texts["news"] != texts["talks"]
    for name, manifest in manifests.items():
        assert list(texts[name]) == [row["id"] for row in ROWS]  # in their order
        assert manifest["rows_made_now"] == len(ROWS)
    news, talks = manifests["news"], manifests["talks"]
    assert news["weights"] == talks["weights"]
    assert news["adapter"] != talks["adapter"]


def test_what_is_missing_of_one_is_made_and_nothing_else(run, adapters, peft, tmp_path, capsys):
    """Alone, in shards, beside another that lacks other rows: the rows are always the same."""
    assert run("generate", *with_each(adapters[0]), "--shard", "0/2") == 0
    assert run("merge", *with_each(*adapters)) == 2
    assert "inputs have no row" in capsys.readouterr().err
    for shard in ("0/2", "1/2"):
        assert run("generate", *with_each(*adapters), "--shard", shard) == 0
    assert run("merge", *with_each(*adapters), "--parquet") == 0
    texts, manifests = said_by(tmp_path)
    assert texts == peft
    made = {name: manifest["rows_made_now"] for name, manifest in manifests.items()}
    assert made["news"] < made["talks"] == len(ROWS)
    assert len(list((tmp_path / "runs").rglob("merged.parquet"))) == 2
    assert run("generate", *with_each(*adapters)) == 0
    assert said_by(tmp_path)[0] == peft


def test_a_long_document_is_taken_apart_for_each_and_what_it_has_is_not_made_again(
    run, adapters, tmp_path
):
    def rows(file):
        found = map(json.loads, file.read_text().splitlines())
        return [{name: row[name] for name in row if name != "seconds"} for row in found]

    both = (*with_each(*adapters), "generate.long=map_reduce")
    assert run("generate", *both) == 0
    whole = {}
    for folder in (tmp_path / "runs" / "run" / "generations").iterdir():
        merged, file = rows(folder / "merged.jsonl"), folder / "shard-00000-of-00001.jsonl"
        assert [row["id"] for row in merged] == [row["id"] for row in ROWS]
        (cut,) = (row for row in merged if "tree" in row)
        ids = [node["id"] for level in cut["tree"]["levels"] for node in level]
        assert len(ids) > 2
        assert sorted(row["id"] for row in rows(file) if row.get("of") == "long") == sorted(
            ids[:-1]
        )
        whole[folder] = merged
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:-2]))
        (folder / "manifest.json").unlink()
    assert run("generate", *both) == 0
    assert {folder: rows(folder / "merged.jsonl") for folder in whole} == whole
    for folder in whole:
        ids = [row["id"] for row in rows(folder / "shard-00000-of-00001.jsonl")]
        assert len(ids) == len(set(ids))


def test_a_folder_may_have_an_equals_sign_in_its_path(tmp_path):
    folder = tmp_path / "lr=1e-4" / "talks"
    folder.mkdir(parents=True)
    for option, name in ((str(folder), "talks"), (f"mine={folder}", "mine")):
        (found,) = parse_adapters([option])
        assert (found.name, found.folder) == (name, folder)


def test_a_part_that_failed_is_named_by_its_own_id():
    failed = {"id": "1:a", "error": "1:a#0.1: the engine dies of this row", "metadata": {}}
    assert _unmarked(failed) == {**failed, "id": "a", "error": "a#0.1: the engine dies of this row"}
    for error in ("1: no", "the engine dies of this row: SIGKILL"):  # of the record itself
        assert _unmarked({"id": "1:a", "error": error}) == {"id": "a", "error": error}


def test_adapters_of_another_base_or_contract_are_refused(run, adapters, base, tmp_path, capsys):
    def refused(*options):
        assert run("generate", *options) == 2
        assert not (tmp_path / "runs" / "run" / "generations").exists()
        (line,) = capsys.readouterr().err.splitlines()[-1:]
        return line

    other = shutil.copytree(base, tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    tensors["model.norm.weight"][0] += 0.5
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    strange = shutil.copytree(adapters[1], tmp_path / "strange")
    settings = json.loads((strange / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = str(other)
    (strange / "adapter_config.json").write_text(json.dumps(settings))
    assert "were trained on other weights than those of" in refused(*with_each(strange))
    (strange / ABOUT).unlink()
    said = refused(*with_each(adapters[0], strange))
    assert f"its base {other} has other weights than {base}" in said

    longer = shutil.copytree(adapters[1], tmp_path / "longer")
    contract = json.loads((longer / "contract.json").read_text())
    (longer / "contract.json").write_text(json.dumps(contract | {"max_length": 200}))
    said = refused(*with_each(adapters[0], longer))
    assert "its contract is not that of" in said
    assert "differs: max_length; " in said
    (longer / "contract.json").unlink()
    assert "contract.json is missing; run `sumzero export`" in refused(*with_each(longer))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (with_each("nowhere"), "--adapter nowhere: there is no folder nowhere"),
        (with_each("{}", "{}"), "'talks' is taken; give it another name: NAME="),
        (with_each("lead1={}"), "'lead1' is taken"),
        (with_each("a/b={}"), "'a/b' is no name; write NAME="),
        ([*with_each("{}"), "--system", "untrained"], "--adapter names systems of its own"),
    ],
)
def test_a_name_that_is_none_is_told(run, adapters, capsys, options, said):
    assert run("generate", *(word.format(adapters[1]) for word in options)) == 2
    assert said in capsys.readouterr().err
