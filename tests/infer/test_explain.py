"""`sumzero explain`: what is rendered, scored and written, with a model of random weights."""

import json
import os
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from sumzero.cli import main
from sumzero.contract import open_contract
from sumzero.errors import ConfigError, RunError
from sumzero.infer.answering import answers
from sumzero.infer.explain import explain
from sumzero.infer.explanation_file import read_explanation, table
from sumzero.infer.generate import merged
from sumzero.infer.generation import finished_generations
from sumzero.infer.job import open_job
from sumzero.infer.shards import Shard, append
from sumzero.runfile import load
from sumzero.runfolder import RunFolder

from .model_run import Reader, Scorer
from .served_run import promised
from .sure_model import write_model

pytestmark = pytest.mark.filterwarnings("ignore")  # those of vLLM and what it imports
SENTENCES = (
    "The cat sat on the mat.",
    "It was warm!",
    "A model reads the document once.",
    "Čeští přátelé pijí naïve café.",
    "这是一个用于检查的句子。",
    "It writes a short summary <|end|> of the text.",
    "The price rose by 50 % in 2021.",
    "def get_name(self, index): the name of the index.",
)
ROWS = [
    {"id": f"row-{i}", "document": " ".join(SENTENCES[(i + j) % 8] for j in range(1 + i % 8))}
    for i in range(12)
]
ROWS.append({"id": "long", "document": " ".join(SENTENCES[:4]) * 12})
LIMIT = 256 - 30  # tokens of a prompt


@pytest.fixture(scope="module")
def run_file(tokenizer, tmp_path_factory):
    root = tmp_path_factory.mktemp("explain")
    (root / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    file = root / "run.toml"
    file.write_text(f"""
        runs = "{root}/runs"
        [data.test]
        path = "{root}/test.jsonl"
        [generate]
        max_new_tokens = 30
        max_in_flight = 16
        dtype = "float32"
        long = "truncate"
        cpu_kv_cache_gib = 0.1
        [explain]
        ablations = 16
        checked = 3
        held_out = 8
        batched_tokens = 64
    """)
    export = root / "runs" / "run" / "export"
    renderer, _ = promised(export, tokenizer)
    write_model(export, tokenizer)
    GenerationConfig(eos_token_id=renderer.stop_ids).save_pretrained(export)
    return file


@pytest.fixture(scope="module")
def generation(run_file, tokenizer):
    """Summaries that the export has not written; how likely they are is what counts."""
    job = open_job(load(run_file), "finetuned", None)
    reader = Reader(tokenizer, lambda prompt: f"{prompt[20:45]}. It was warm. 很短。")
    records = iter(job.inputs)
    append(Shard(0, 1).file(made(job)), answers(reader, records, job.config, job.model, None))
    return merged(job)


def made(job):
    job.where.mkdir(parents=True)
    return job.where


class Dies:
    """Engines that die after some prompts."""

    seconds_start = 0.0

    def __init__(self, *_, **__):
        self._scorer = Scorer(fails=())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def generate(self, requests, stop_ids, seed):
        yield from islice(self._scorer.generate(requests, stop_ids, seed), 45)
        raise RunError("engine 0 died")


@pytest.fixture(scope="module")
def explained(run_file, generation):
    """All summaries explained by the command, the file's first line and its rows by id."""
    assert main(["explain", str(run_file), "--sample", "50"]) == 0
    head, rows = read_explanation(RunFolder.of(load(run_file)))
    assert head["cost"]["rows_made_now"] == len(ROWS)
    return head, {row["id"]: row for row in rows}


@pytest.fixture(scope="module")
def scored(run_file):
    """The log-probabilities that transformers gives the tokens of a text after a document."""
    export = RunFolder.of(load(run_file)).export
    model = AutoModelForCausalLM.from_pretrained(export, dtype=torch.float32)
    contract, renderer = open_contract(export)
    asked = renderer.ask(contract.instructions[0].inference())

    def score(document, text):
        prompt = renderer.prompt(renderer.encode_text([document])[0], LIMIT, asked).ids
        target, _ = renderer.target_spans(text)
        assert renderer.encode_targets([text])[0] == target + renderer.end_ids
        ids = torch.tensor([prompt + target[: 255 - len(prompt)]])
        with torch.no_grad():
            logprobs = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        return logprobs.gather(1, ids[0, len(prompt) :, None])[:, 0].numpy()

    return score


def test_every_summary_has_weights_of_its_documents_sentences(explained, generation):
    head, rows = explained
    assert list(rows) == [row["id"] for row in ROWS]
    assert head["sample"] == {
        "rows": 13,
        "chosen": 13,
        "explained": 13,
        "alignment_only": 0,
        "errors": 0,
        "left_out": {"failed": 0, "empty": 0},
    }
    for given, made in zip(ROWS, generation.rows(), strict=True):
        row = rows[given["id"]]
        shape = len(row["summary_sentences"]), len(row["document_sentences"])
        assert np.shape(row["weights"]) == np.shape(row["alignment"]) == shape
        assert np.isfinite(row["weights"]).all()
        for name, text in (("document", given["document"]), ("summary", made["text"])):
            spans = row[f"{name}_sentences"]
            assert all(text[begin:end].strip() == text[begin:end] for begin, end in spans)
            assert "".join("".join(text[a:b] for a, b in spans).split()) == "".join(text.split())
            assert all(a[1] <= b[0] for a, b in pairwise(spans))
    assert any(np.abs(row["weights"]).max() > 0.1 for row in rows.values())


def test_the_whole_prompt_is_that_of_the_generation_and_its_tokens_are_as_likely(
    explained, generation, scored
):
    for given, made in zip(ROWS, generation.rows(), strict=True):
        row = explained[1][given["id"]]
        assert row["prompt_tokens"] == made["prompt_tokens"]
        wanted = scored(given["document"], made["text"])
        np.testing.assert_allclose(row["token_logprobs"], wanted, rtol=0, atol=2e-4)
        assert sum(row["summary_logprobs"]) == pytest.approx(sum(row["token_logprobs"]), abs=0.01)
        assert len(row["token_spans"]) == len(row["token_logprobs"])


def test_a_document_of_one_sentence_has_what_its_summary_loses_without_it(
    explained, generation, scored
):
    """Both ablations there are: the fit is the difference, less the penalty on either side."""
    row = explained[1]["row-0"]
    text = generation.rows()[0]["text"]
    assert len(row["document_sentences"]) == 1
    assert row["cost"]["prompts"] == 2
    with_it, without = (scored(document, text) for document in (ROWS[0]["document"], ""))
    token_ends = np.array(row["token_spans"])[:, 1]
    begin, found = 0, []
    for _, end in row["summary_sentences"]:
        its = (token_ends > begin) & (token_ends <= end)
        loss, begin = with_it[its].sum() - without[its].sum(), end
        found.append(max(0, abs(loss) - 2 * 0.01 * its.sum()) * np.sign(loss))
    assert len(found) > 2
    assert max(map(abs, found)) > 1
    np.testing.assert_allclose(row["weights"], np.array(found)[:, None], atol=1e-3)


def test_what_was_cut_is_marked_and_is_no_source(explained, generation):
    row = explained[1]["long"]
    made = next(x for x in generation.rows() if x["id"] == "long")
    assert made["truncated"]
    assert row["cut"] == list(range(row["cut"][0], len(row["document_sentences"])))
    assert not np.array(row["weights"])[:, row["cut"]].any()
    assert row["cut_in_two"] in ([], [row["cut"][0] - 1])


def test_the_explanation_is_checked_beside_others(explained):
    head, rows = explained
    found = head["faithfulness"]
    assert found["summaries"] == sum("check" in row for row in rows.values()) == 3
    for of in (found["lds"], *found["drop"].values()):
        assert set(of) in (set(), {"ablation", "leave_one_out", "alignment", "random"})
        for value in of.values():
            assert value["low"] <= value["value"] <= value["high"]
    assert "leave one out" in table(head)
    assert head["cost"]["tokens_per_summary"] > 100


def test_a_larger_sample_takes_what_is_there_and_the_same_sample_is_the_same(
    explained, run_file, generation, monkeypatch
):
    def refuse(*_, **__):
        raise AssertionError("an engine was started")

    monkeypatch.setattr("sumzero.infer.explain.Engines", refuse)
    config = load(run_file)
    few = explain(config, sample=4)
    some = [row["id"] for row in read_explanation(RunFolder.of(config))[1]]
    assert len(some) == few["sample"]["explained"] == 4
    assert few["cost"]["rows_made_now"] == 0
    explain(config, sample=7)
    more = [row["id"] for row in read_explanation(RunFolder.of(config))[1]]
    assert set(some) < set(more)
    explain(config, sample=4)
    assert [row["id"] for row in read_explanation(RunFolder.of(config))[1]] == some


def test_what_died_goes_on_with_the_rows_that_are_there(
    explained, run_file, generation, monkeypatch
):
    """And ends with those of an explanation that was left alone."""
    config = load(run_file, ["explain.penalty=0.02", "explain.checked=0"])  # a key of its own
    before = set(generation.folder.glob("explained-*.jsonl"))
    with monkeypatch.context() as patched:
        patched.setattr("sumzero.infer.explain.Engines", Dies)
        with pytest.raises(RunError, match="engine 0 died"):
            explain(config, sample=8)
    (file,) = set(generation.folder.glob("explained-*.jsonl")) - before
    there = file.read_bytes()
    assert 1 <= there.count(b"\n") < 8
    with file.open("a") as out:
        out.write('{"id": "row-1", "wei')  # torn
    whole = Dies()
    whole.generate = whole._scorer.generate
    monkeypatch.setattr("sumzero.infer.explain.Engines", lambda *_, **__: whole)
    assert explain(config, sample=8)["cost"]["rows_made_now"] == 8 - there.count(b"\n")
    rows = read_explanation(RunFolder.of(config))[1]
    assert file.read_bytes().startswith(there)
    file.unlink()
    explain(config, sample=8)
    again = read_explanation(RunFolder.of(config))[1]
    for row in (*rows, *again):
        del row["cost"]["seconds"]
    assert rows == again
    assert len(rows) == 8


def test_what_cannot_be_explained_is_said(run_file, generation, tmp_path):
    config = load(run_file)
    with pytest.raises(RunError, match=r"nothing generated by 'untrained' yet \(there is: finet"):
        explain(config, "untrained")
    with pytest.raises(ConfigError, match="lead1: no model wrote these texts"):
        explain(config, "lead1")
    with pytest.raises(RunError, match="--id none: no row of"):
        explain(config, ids=["none"])
    other = load(run_file, [f'runs="{tmp_path}"'])
    with pytest.raises(RunError, match=r"nothing generated by 'finetuned' yet.*there is: none"):
        explain(other)
    manifest = generation.folder / "manifest.json"
    before = manifest.read_text()
    try:
        manifest.write_text(before.replace('"weights": "', '"weights": "0'))
        with pytest.raises(RunError, match="made otherwise; what differs now: weights"):
            explain(config)
        values = json.loads(before)
        manifest.write_text(json.dumps({**values, "system": "gpt", "endpoint": "http://x/v1"}))
        with pytest.raises(ConfigError, match="gpt: the server of such a model does not tell"):
            explain(config, "gpt")
        manifest.write_text(json.dumps({**values, "system": "mine", "adapter": "0"}))
        with pytest.raises(ConfigError, match="mine: it was made with adapters; merge them"):
            explain(config, "mine")
    finally:
        manifest.write_text(before)
    assert list(finished_generations(RunFolder.of(config))) == ["finetuned"]


def test_no_explanation_yet_is_said(tmp_path):
    with pytest.raises(RunError, match=r"no explanation; run `sumzero explain` first"):
        read_explanation(RunFolder(tmp_path))


def test_failed_and_empty_rows_are_counted_and_in_parts_is_aligned(run_file, generation, capsys):
    """Rows are changed on disk: what a generation with such rows has."""
    merged = generation.folder / "merged.jsonl"
    before = merged.read_text()
    rows = [json.loads(line) for line in before.splitlines()]
    rows[0] = {"id": "row-0", "error": "the engine dies of this row"}
    rows[1]["text"] = ""
    rows[2]["tree"] = {"long": "map_reduce", "levels": []}
    kept = os.stat(merged)
    try:
        merged.write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
        assert main(["explain", str(run_file), "--json"]) == 0
        head = json.loads(capsys.readouterr().out)
        assert head["sample"]["left_out"] == {"failed": 1, "empty": 1}
        assert head["sample"]["alignment_only"] == head["sample"]["chosen"] == 1
        (row,) = read_explanation(RunFolder.of(load(run_file)))[1]
        assert row["weights"] is None
        assert len(row["alignment"][0]) == len(row["document_sentences"]) == 3
        with pytest.raises(RunError, match="row-1: its summary is empty"):
            explain(load(run_file), ids=["row-1"])
        merged.write_text(json.dumps(rows[0]) + "\n")
        with pytest.raises(RunError, match="no summary to explain: 1 rows failed, 0 are empty"):
            explain(load(run_file))
    finally:
        merged.write_text(before)
        os.utime(merged, ns=(kept.st_atime_ns, kept.st_mtime_ns))
