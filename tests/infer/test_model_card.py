import json
import re
import shutil

import pytest
import yaml
from huggingface_hub import ModelCard

from sumzero.infer.report import report
from sumzero.infer.score import score
from sumzero.runfolder import RunFolder, read_json, write_json
from sumzero.weights_digest import weights_digest

from .scored_run import HOSTILE, answered, scored_run, source_rows, trained

BASE = "Qwen/Qwen3-0.6B"


@pytest.fixture
def run(tmp_path, model_folder):
    """A run with an export whose own summaries are scored, beside those of a model of others."""
    rows = source_rows()
    config = scored_run(
        tmp_path,
        rows=rows,
        data={
            "train": [
                {"path": "hub:org/papers", "targets": "tldr"},
                {"path": HOSTILE, "weight": 2},
            ],
            "test": {"path": str(tmp_path / "test.jsonl")},
        },
        model={"path": BASE},
    )
    trained(config)
    folder = RunFolder.of(config)
    shutil.copytree(model_folder, folder.export)
    made = {"checkpoint": "step-000120", "form": "whole", "dtype": "bfloat16", "base": BASE}
    write_json(folder.export / "export.json", {**made, "revision": None})
    texts = {row["id"]: row["target"][0] for row in rows}
    own = answered(tmp_path, config, texts, "own")
    about = {"system": "finetuned", "weights": weights_digest(folder.export), "asked": [HOSTILE]}
    about["sampling"] = {"temperature": 0.0, "beams": 1, "max_new_tokens": 64}
    write_json(own.folder / "manifest.json", {**own.manifest, **about})
    score(config)
    return config


def front_matter(text):
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)[1])


def test_the_card_has_the_numbers_that_were_scored(run):
    report(run)
    folder = RunFolder.of(run)
    text = (folder.export / "README.md").read_text(encoding="utf-8")
    scores = read_json(folder.scores, "")["systems"]
    found = scores["finetuned"]["metrics"]["rougeL"]
    assert f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})" in text
    assert f"`{found['signature']}`" in text
    for said in ("60 documents with 68 targets", "step-000120", "8 records", "max_new_tokens = 64"):
        assert said in text
    assert text.index("`finetuned`") < text.index("`lead1`")


def test_its_front_matter_is_the_hubs(run):
    report(run)
    file = RunFolder.of(run).export / "README.md"
    about = front_matter(file.read_text(encoding="utf-8"))
    assert about["base_model"] == BASE
    assert about["datasets"] == ["org/papers"]
    assert about["language"] == ["en"]
    assert about["pipeline_tag"] == "text-generation"
    assert "summarization" in about["tags"]
    (results,) = about["model-index"][0]["results"]
    scores = read_json(RunFolder.of(run).scores, "")["systems"]["finetuned"]["metrics"]
    values = {one["name"]: one["value"] for one in results["metrics"]}
    assert values["ROUGE-L"] == scores["rougeL"]["value"]
    # The Hub's own reader takes all of it back.
    read = ModelCard.load(file)
    assert {one.metric_name for one in read.data.eval_results} >= {"ROUGE-1", "ROUGE-2", "ROUGE-L"}
    assert read.data.model_name == "run"


def test_texts_of_the_data_are_code_in_the_card(run):
    report(run)
    text = (RunFolder.of(run).export / "README.md").read_text(encoding="utf-8")
    body = text.split("\n---\n", 1)[1]
    assert "</script>" in body
    bare = re.sub(r"(`+).*?(?<!`)\1(?!`)", "", body.split("<!-- sumzero")[0])
    assert "<" not in bare
    assert "{{" not in bare


def test_a_card_is_made_anew_with_new_numbers_until_a_user_changes_it(run, tmp_path):
    report(run)
    folder = RunFolder.of(run)
    file = folder.export / "README.md"
    first = file.read_text(encoding="utf-8")
    scores = json.loads(folder.scores.read_text())
    scores["systems"]["finetuned"]["metrics"]["rougeL"]["value"] = 12.3456
    folder.scores.write_text(json.dumps(scores))
    report(run)
    second = file.read_text(encoding="utf-8")
    assert "12.35 (" in second
    assert second != first
    file.write_text(second.replace("## Limits", "## What I know of its limits"))
    mine = file.read_bytes()
    report(run)
    assert file.read_bytes() == mine
    file.unlink()
    report(run)
    assert file.read_text(encoding="utf-8") == second


def test_scores_of_other_weights_are_no_card(run, caplog):
    export = RunFolder.of(run).export
    with (export / "model.safetensors").open("ab") as weights:
        weights.write(b" ")
    report(run)
    assert not (export / "README.md").exists()
    assert "the scores are those of other weights" in caplog.text


def test_a_run_without_an_export_has_no_card(run):
    shutil.rmtree(RunFolder.of(run).export)
    report(run)
    assert not RunFolder.of(run).export.exists()


def test_a_model_from_scratch_names_no_base(tmp_path, run):
    from dataclasses import replace

    report(replace(run, model=replace(run.model, path="scratch")))
    text = (RunFolder.of(run).export / "README.md").read_text(encoding="utf-8")
    assert "base_model" not in front_matter(text)
    assert "made from scratch" in text
