"""Documents beyond the context become rows with their trees, whatever was there before."""

import pytest

from sumzero.infer.answering import answers
from sumzero.infer.rows import there

from .model_run import Reader, opened, write_rows, write_run

STORY = "\n\n".join(f"The cat {n} sat on the mat. It was warm, number {n}." for n in range(40))
ROWS = [
    {"id": "a", "document": STORY, "tag": 1},
    {"id": "a#0.0", "document": "It was warm.", "tag": 2},
    {"id": "b", "document": STORY[:900], "tag": 3},
    {"id": "c", "document": STORY.replace("cat", "dog"), "tag": 4},
]


@pytest.fixture
def config(tmp_path, model_folder, tokenizer):
    def make(long, **data):
        generate, source = {"long": long}, {"metadata": ["tag"]}
        return write_run(
            tmp_path, model_folder, tokenizer, ROWS, generate=generate, source=source, **data
        )

    return make


def _first_words(prompt):
    """A summary of three words of the document."""
    return " ".join(prompt.replace("<|user|>", " ").split()[:3])


def _without_seconds(rows):
    return {row["id"]: {key: row[key] for key in row if key != "seconds"} for row in rows}


def _rows(run, engine, folder):
    inputs, model, _ = opened(run)
    found = there(folder, inputs)
    return list(answers(engine, inputs.of((~found.has).nonzero()[0]), run, model, found.nodes.of))


@pytest.mark.parametrize("long", ["map_reduce", "refine"])
def test_each_record_has_one_row_and_each_part_of_a_long_one_too(config, tokenizer, tmp_path, long):
    run = config(long)
    engine = Reader(tokenizer, _first_words)
    rows = _rows(run, engine, tmp_path)
    final = {row["id"]: row for row in rows if "of" not in row}
    assert len(final) == len([row for row in rows if "of" not in row]) == len(ROWS)
    assert len(engine.prompts) == len(rows)
    assert all(len(ids) <= 128 - 16 for ids in engine.prompts)
    fits = final["a#0.0"]
    assert "tree" not in fits
    assert fits["document_tokens"] == fits["document_kept"] > 0
    for record in (ROWS[0], ROWS[2], ROWS[3]):
        row = final[record["id"]]
        assert row["metadata"] == {"tag": record["tag"]}
        assert row["document_kept"] == row["document_tokens"] > 112
        assert row["truncated"] is False
        nodes = [node for level in row["tree"]["levels"] for node in level]
        parts = [one["id"] for one in rows if one.get("of") == row["id"]]
        assert sorted(parts) == sorted(node["id"] for node in nodes[:-1])
        assert nodes[-1]["id"] == row["id"]
        assert nodes[-1]["summary"] == row["text"]
        assert row["tree"]["long"] == long


@pytest.mark.parametrize("long", ["map_reduce", "refine"])
def test_what_was_cut_off_anywhere_goes_on_to_the_same_rows(config, tokenizer, tmp_path, long):
    run = config(long)
    rows = _rows(run, Reader(tokenizer, _first_words), tmp_path)
    for kept in range(0, len(rows), 5):
        folder = tmp_path / f"kept-{kept}"
        folder.mkdir()
        write_rows(folder / "shard-00000-of-00001.jsonl", rows[:kept])
        engine = Reader(tokenizer, _first_words)
        again = _rows(run, engine, folder)
        assert len(again) == len(rows) - kept
        assert len(engine.prompts) == len(again)
        assert _without_seconds(rows[:kept] + again) == _without_seconds(rows)


def test_a_document_without_a_summary_has_its_reason_and_the_others_have_theirs(
    config, tokenizer, tmp_path
):
    def answer(prompt):
        return "" if "dog" in prompt else _first_words(prompt)

    rows = _rows(config("map_reduce"), Reader(tokenizer, answer), tmp_path)
    final = {row["id"]: row for row in rows if "of" not in row}
    assert final["c"]["error"].endswith("summaries of a level are empty")
    assert final["c"]["metadata"] == {"tag": 4}
    assert len(final["c"]["tree"]["levels"]) == 1
    assert final["a"]["text"]
