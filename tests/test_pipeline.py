"""The demo's stages on a few hundred docstrings, with real DeepSpeed and real vLLM."""

import json
import re
import subprocess
import sys

import pytest

from sumzero import demo
from sumzero.errors import ConfigError, RunError
from sumzero.infer.generation import finished_generations
from sumzero.pipeline import run
from sumzero.records import read_all
from sumzero.runfile import load
from sumzero.runfolder import RunFolder, alone, read_jsonl, write_jsonl

ROWS = {"train": 600, "test": 40}


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """(run file, folder, output) of a run from docstrings to the report."""
    root = tmp_path_factory.mktemp("finished")
    demo.write_harvest(root / "records", ROWS)
    file = root / "small.toml"
    file.write_text(f"""
        runs = "{root}/runs"
        [model]
        path = "scratch"
        dtype = "float32"
        scratch = {{ vocab_size = 1000, hidden_size = 64, num_layers = 2, num_heads = 2, num_kv_heads = 1, intermediate_size = 128 }}
        [data]
        train = {{ path = "{root}/records/train.jsonl", lead = "lead" }}
        test = {{ path = "{root}/records/test.jsonl", lead = "lead" }}
        instruction = "Summarize."
        max_length = 256
        max_prompt = 48
        [train]
        bins_per_step = 2
        lr = 3e-3
        epochs = 2
        log_every = 5
        [generate]
        max_new_tokens = 24
        long = "truncate"
        cpu_kv_cache_gib = 0.25
    """)  # noqa: E501
    done = subprocess.run(
        [sys.executable, "-m", "sumzero.cli", "run", str(file)],
        capture_output=True,
        encoding="utf-8",
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return file, RunFolder.of(load(file)), done.stdout


def test_the_loss_falls(finished):
    _, folder, _ = finished
    events = read_jsonl(folder.root / "events.jsonl")
    losses = [event["loss"] for event in events if event["event"] == "step"]
    assert losses[-1] < 0.8 * losses[0]


def test_the_fine_tuned_model_beats_the_untrained_one(finished):
    _, folder, output = finished
    scores = json.loads(folder.scores.read_text())["systems"]
    assert list(scores) == ["lead1", "untrained", "finetuned"]
    trained, untrained = (scores[name]["metrics"] for name in ("finetuned", "untrained"))
    for metric in ("rouge1", "rougeL", "rougeLsum"):
        assert trained[metric]["value"] > untrained[metric]["value"]
        assert trained[metric]["low"] <= trained[metric]["value"] <= trained[metric]["high"]
    assert f"{trained['rougeL']['value']:.2f}" in output


def test_every_input_has_exactly_one_output_in_its_order(finished):
    file, folder, _ = finished
    source = load(file).data.test
    ids = [record.id for record in read_all(source, need_targets=True)[0]]
    assert len(ids) == ROWS["test"]
    generations = finished_generations(folder)
    assert set(generations) == {"lead1", "untrained", "finetuned"}
    for generation in generations.values():
        rows = generation.rows()
        assert [row["id"] for row in rows] == ids
    for row in generations["finetuned"].rows():
        assert row["document_kept"] <= row["document_tokens"]
        assert row["prompt_tokens"] <= 48
        assert 1 <= row["output_tokens"] <= 24
        assert row["finish_reason"] in ("stop", "length")


def test_the_report_is_one_page_with_the_scores_and_no_address(finished):
    _, folder, _ = finished
    page = folder.report.read_text(encoding="utf-8")
    scores = json.loads(folder.scores.read_text())["systems"]
    for found in scores.values():
        assert f"{found['metrics']['rougeL']['value']:.2f}" in page
    markup, examples = page.split('<script type="application/json"')  # which escapes every "<"
    assert re.findall("href=.", markup) == ['href="'] * markup.count('href="#')
    assert "src=" not in markup
    assert len(re.findall("<script", examples)) == 1  # the page's own


def test_the_export_has_a_card_with_the_scores(finished):
    _, folder, _ = finished
    card = (folder.export / "README.md").read_text(encoding="utf-8")
    scores = json.loads(folder.scores.read_text())["systems"]
    assert f"{scores['finetuned']['metrics']['rougeL']['value']:.2f} (" in card


def test_a_killed_generation_makes_only_the_missing_rows(finished):
    file, folder, _ = finished
    generation = finished_generations(folder)["finetuned"]
    shard = generation.folder / "shard-00000-of-00001.jsonl"
    lines = shard.read_bytes().splitlines(keepends=True)
    want = {row["id"]: row["text"] for row in generation.rows()}
    # What a SIGKILL in mid-write leaves: some whole rows, a torn one, no manifest.
    shard.write_bytes(b"".join(lines[:17]) + lines[17][:20])
    for name in ("manifest.json", "merged.jsonl"):
        (generation.folder / name).unlink()
    done = subprocess.run(
        [sys.executable, "-m", "sumzero.cli", "generate", str(file)],
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "17 rows are there, 23 to go" in done.stderr
    assert shard.read_bytes().splitlines(keepends=True)[:17] == lines[:17]
    again = finished_generations(folder)["finetuned"]
    assert again.manifest["rows_made_now"] == 23
    assert {row["id"]: row["text"] for row in again.rows()} == want


def test_test_documents_that_would_be_refused_after_the_training_are_refused_before(
    tmp_path, model_folder
):
    rows = [{"id": n, "document": "The cat sat.", "target": f"Cat {n}."} for n in range(4)]
    write_jsonl(tmp_path / "train.jsonl", rows)
    write_jsonl(tmp_path / "test.jsonl", [rows[0], {"id": "x", "document": "It was warm. " * 99}])
    file = tmp_path / "run.toml"
    file.write_text(f"""
        runs = "{tmp_path}/runs"
        model.path = "{model_folder}"
        [data]
        train.path = "{tmp_path}/train.jsonl"
        test.path = "{tmp_path}/test.jsonl"
        max_length = 128
        [generate]
        max_new_tokens = 16
    """)
    config = load(file)
    with pytest.raises(ConfigError, match="1 document is too long, 'x' first: "):
        run(config)
    assert RunFolder.of(config).data_report.is_file()
    assert not RunFolder.of(config).checkpoints.exists()


def test_a_run_that_another_process_is_at_work_on_keeps_its_settings(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(f'runs = "{tmp_path}/runs"\ndata.train.path = "a"\ndata.test.path = "b"\n')
    folder = RunFolder.of(load(file))
    folder.begin(load(file))
    before = folder.config.read_text()
    with alone(folder.root, "training"), pytest.raises(RunError, match="another `training`"):
        run(load(file, ["train.lr=0.5"]))
    assert folder.config.read_text() == before
