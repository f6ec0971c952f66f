"""The report's numbers against those that are counted from the rows, one by one."""

import json
from collections import Counter
from itertools import chain

import numpy as np
import pytest

from sumzero.instructions import bundled
from sumzero.train.data_report import percentiles, summary

LIMIT = 160
TEXT = "The cat sat on the mat. It was warm. "
WAYS = bundled("summarize", "en").ways(None, length_control=False)


def _rows(letter, number, words):
    """Rows about documents of growing length; the last two are about the first two's."""
    return [
        {
            "id": f"{letter}{n}",
            "document": f"{letter}{n % (number - 2)} " + TEXT * (n % (number - 2) * words),
            "target": [f"A cat {n}.", f"Cat {n}."][: 1 + n % 2],
        }
        for n in range(number)
    ]


REPEATED, NO_DOCUMENT = {"id": "a0", "document": "x", "target": "x"}, {"id": "no", "target": "x"}
ROWS = {
    "a": [*_rows("a", 9, 2), REPEATED, NO_DOCUMENT],
    "b": [*_rows("b", 5, 5), {"id": "b", "document": "long", "target": "x " * 300}],
}
OTHERS = {
    "validation": [*_rows("v", 4, 1), ROWS["a"][0] | {"id": "v"}, {"id": "bad", "document": ""}],
    "test": [*_rows("t", 4, 1), *({**row, "id": f"t{row['id']}"} for row in ROWS["a"][:3])],
}


@pytest.fixture(scope="module")
def run(prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    train = [
        {"path": str(prepared.write(folder / f"{name}.jsonl", rows))} for name, rows in ROWS.items()
    ]
    others = {
        split: {"path": str(prepared.write(folder / f"{split}.jsonl", rows))}
        for split, rows in OTHERS.items()
    }
    training = {"bins_per_step": 2}
    return prepared(train=train, **others, max_length=LIMIT, training=training)


@pytest.fixture(scope="module")
def expected(run):
    """Of every example: (source, document, kept of it, prompt, targets), in tokens."""
    encode = run.renderer.encode_text
    around = len(run.renderer.head_ids) + len(run.renderer.tail_ids)
    fixed = around + max(sum(map(len, run.renderer.ask_parts(text))) for text in WAYS)
    found = {}
    for source, rows in ROWS.items():
        for row in rows[:-2] if source == "a" else rows[:-1]:
            texts = [row["target"]] if isinstance(row["target"], str) else row["target"]
            found.setdefault((source, row["document"].strip()), []).append(texts)
    examples = []
    for (source, document), targets in found.items():
        (ids,) = encode([document])
        lengths = [len(x) for x in run.renderer.encode_targets(list(chain(*targets)))]
        kept = min(len(ids), LIMIT - fixed - max(lengths))
        examples.append((source, len(ids), kept, kept + fixed, lengths))
    return examples


def test_rows_are_counted_by_what_became_of_them(run):
    counts = run.counts
    assert (counts["read"], counts["kept"], counts["rejected"]) == (17, 14, 3)
    assert counts["rejected_by_reason"] == {
        "duplicate id": 1,
        "no column": 1,
        "target too long": 1,
    }
    first, second = counts["sources"]
    assert (first["read"], first["kept"], first["rejected"]) == (11, 9, 2)
    assert (second["read"], second["kept"], second["rejected"]) == (6, 5, 1)
    assert second["rejected_by_reason"] == {"target too long": 1}
    assert len(run.rejects) == sum(x["rejected"] for x in run.report["splits"].values()) == 4


def test_lengths_and_shares_are_those_of_the_records(run, expected):
    counts = run.counts
    targets = list(chain(*(lengths for *_, lengths in expected)))
    prompts = [prompt for *_, prompt, lengths in expected for _ in lengths]
    assert counts["examples"] == len(expected)
    assert counts["targets"] == len(targets)
    assert counts["documents_with_several_targets"] == sum(len(x[-1]) > 1 for x in expected)
    assert counts["tokens"] == sum(prompts) + sum(targets)
    assert counts["supervised_tokens"] == sum(targets)
    share = sum(targets) / (sum(prompts) + sum(targets))
    assert counts["supervised_share"] == pytest.approx(share, abs=1e-4)
    documents = [document for _, document, *_ in expected]
    for name, lengths in (("document", documents), ("prompt", prompts), ("target", targets)):
        assert counts["lengths"][name] == _naive_percentiles(lengths)


def _naive_percentiles(lengths):
    """The smallest length that at least so many percent do not exceed, of those between."""
    ordered = sorted(lengths)
    at = {f"p{p}": -(-(len(ordered) - 1) * p // 100) for p in (5, 50, 95, 99)}
    return {name: ordered[index] for name, index in at.items()} | {"max": ordered[-1]}


def test_percentiles_are_lengths_that_occur():
    lengths = np.arange(1, 102) ** 2
    assert percentiles(lengths) == {
        "p5": 36,
        "p50": 51**2,
        "p95": 96**2,
        "p99": 10000,
        "max": 10201,
    }
    assert percentiles(np.array([7])) == dict.fromkeys(("p5", "p50", "p95", "p99", "max"), 7)


def test_cuts_are_counted_by_source(run, expected):
    cut = {"a": Counter(), "b": Counter()}
    for source, document, kept, *_ in expected:
        cut[source].update(documents=document > kept, tokens=document - kept)
    assert cut["a"]["documents"] > 0 < cut["b"]["documents"]
    for source, counts in zip(cut, run.counts["sources"], strict=True):
        assert counts["documents_cut"] == cut[source]["documents"]
        assert counts["document_tokens_cut"] == cut[source]["tokens"]
    assert run.counts["documents_cut"] == sum(x["documents"] for x in cut.values())
    assert run.counts["document_tokens_cut"] == sum(x["tokens"] for x in cut.values())


def test_documents_that_two_splits_share_are_counted_once_each_and_warned_of(run, prepared, caplog):
    # v's is a's first document; t's are a's first three.
    assert run.report["leakage"] == {
        "train/validation": 1,
        "train/test": 3,
        "validation/test": 1,
    }
    data = run.config.data
    prepared(train={"path": data.train[0].path}, test={"path": data.test[0].path})
    assert "3 documents stand both in data.train and data.test" in caplog.text


def test_the_plan_is_that_of_the_first_epoch(run):
    plan, epochs = run.report["plan"], run.epochs()
    first = epochs.epoch(0)
    assert plan["bins"] == first.plan.num_bins
    assert plan["steps_per_epoch"] == -(-first.plan.num_bins // 2)
    assert plan["tokens"] == int(first.layout.pieces.tokens.sum())
    assert plan["efficiency"] == pytest.approx(plan["tokens"] / (plan["bins"] * LIMIT), abs=1e-5)
    assert plan["tokens_without_sharing"] > plan["tokens"]
    assert list(plan["imbalance"]) == ["2 ranks"]


def test_the_summary_tells_all_of_it(run):
    report, text = run.report, summary(run.report)
    counts = report["splits"]["train"]
    for source in [counts, *counts["sources"]]:
        said = f"{source['read']} read, {source['kept']} kept, {source['rejected']} rejected"
        assert said in text
        assert f"{source['documents_cut']} documents cut, {source['document_tokens_cut']:,}" in text
    for reason, number in counts["rejected_by_reason"].items():
        assert f"{number} x {reason}" in text
    for lengths in counts["lengths"].values():
        assert ", ".join(f"{name} {value:,}" for name, value in lengths.items()) in text
    assert f"{counts['supervised_share']:.1%} supervised" in text
    assert "3 documents stand both in train and test" in text
    assert "1 document stands both in train and validation" in text
    assert "validation: 6 read, 5 kept, 1 rejected (1 x no column)" in text
    assert "test: 7 read, 7 kept, 0 rejected" in text
    assert f"{report['plan']['steps_per_epoch']} steps an epoch" in text


def test_the_report_is_written_as_it_is_returned(run):
    assert json.loads(run.folder.data_report.read_text()) == run.report


def test_a_summary_of_one_source_names_it_once(prepared):
    rows = [{"document": "A cat.", "target": "Cat."}]
    run = prepared(rows, training={"bins_per_step": 1})
    assert len(summary(run.report).splitlines()) == 6
