"""`prepare` as a whole: what is made again and what is kept, and what training accepts."""

import json
import logging
from collections import Counter

import pytest

from sumzero.errors import ConfigError, DataError, RunError
from sumzero.log import logger
from sumzero.runfolder import RunFolder
from sumzero.train.examples import check_prepared, store_file
from sumzero.train.store import TokenStore

ROWS = [{"id": n, "document": f"A cat sat {n}.", "target": "A cat."} for n in range(4)]


@pytest.fixture
def splits(prepared, tmp_path):
    """The sources of all splits, as settings."""
    return {
        split: {"path": str(prepared.write(tmp_path / f"{split}.jsonl", ROWS[:number]))}
        for split, number in (("train", 4), ("validation", 2), ("test", 2))
    }


@pytest.fixture
def stamps(tmp_path):
    """Of each split that was made or changed since last asked: its name."""
    before = {}

    def changed():
        files = {s: tmp_path / f"run/data/{s}.arrow" for s in ("train", "validation")}
        files["test"] = tmp_path / "run/data/test.hashes.npy"
        now = {split: file.stat().st_mtime_ns for split, file in files.items()}
        found = {split for split in now if now[split] != before.get(split)}
        before.update(now)
        return found

    return changed


def _append(source, row):
    with open(source["path"], "a", encoding="utf-8") as out:
        out.write(json.dumps(row) + "\n")


def test_only_what_changed_is_prepared_again(prepared, splits, stamps, tmp_path):
    report = prepared(folder=tmp_path, **splits).report
    assert stamps() == {"train", "validation", "test"}
    assert prepared(folder=tmp_path, **splits).report == report
    assert stamps() == set()
    _append(splits["validation"], {"id": "new", "document": "New.", "target": "New."})
    assert (
        prepared(folder=tmp_path, **splits).report["splits"]["train"] == report["splits"]["train"]
    )
    assert stamps() == {"validation"}
    rows = [*ROWS[:3], ROWS[3] | {"target": "A dog."}]
    prepared.write(tmp_path / "train.jsonl", rows)
    again = prepared(folder=tmp_path, **splits)
    assert stamps() == {"train"}
    assert "A dog.<|end|>" in {target for piece in again.texts() for _, _, target in piece}


def test_settings_that_no_store_depends_on_make_nothing_again(prepared, splits, stamps, tmp_path):
    prepared(folder=tmp_path, **splits)
    stamps()
    others = {**splits, "train": {**splits["train"], "weight": 2.5}, "share_documents": False}
    run = prepared(folder=tmp_path, training={"epochs": 7.0}, **others)
    assert stamps() == set()
    check_prepared(run.config, run.folder)


@pytest.mark.parametrize(
    "change",
    [{"max_length": 512}, {"instruction": "Sum up."}, {"duplicates": "keep"}],
    ids=lambda change: next(iter(change)),
)
def test_settings_that_stores_depend_on_make_them_again(prepared, splits, stamps, tmp_path, change):
    prepared(folder=tmp_path, **splits)
    stamps()
    prepared(folder=tmp_path, **splits, **change)
    assert stamps() >= {"train", "validation"}


def test_other_words_in_a_file_of_instructions_make_the_store_again(
    prepared, splits, stamps, tmp_path
):
    file = tmp_path / "words.toml"
    for words in ("Sum up.", "Be brief."):
        file.write_text(f'task = "summarize"\nlanguage = "en"\nparaphrases = ["{words}"]\n')
        splits["train"]["instructions"] = str(file)
        run = prepared(folder=tmp_path, **splits)
        assert "train" in stamps()
        assert all(words in prompt for piece in run.texts() for _, prompt, _ in piece)


def test_a_fault_leaves_what_is_prepared_and_is_found_before_the_training_data(
    prepared, splits, stamps, tmp_path
):
    prepared(folder=tmp_path, **splits)
    stamps()
    _append(splits["train"], ROWS[0] | {"id": "new"})
    prepared.write(tmp_path / "validation.jsonl", [{"id": 1, "document": "", "target": "x"}])
    with pytest.raises(DataError, match=r"validation\.jsonl:1: empty text .*no row of .* \(1 x "):
        prepared(folder=tmp_path, **splits)
    assert stamps() == set()
    splits.pop("validation")
    assert prepared(folder=tmp_path, **splits).counts["read"] == 5
    assert stamps() == {"train"}


def test_what_is_prepared_is_kept_when_a_later_split_fails(prepared, splits, stamps, tmp_path):
    train = splits.pop("train")
    broken = {"path": str(prepared.write(tmp_path / "empty.jsonl", []))}
    with pytest.raises(DataError, match=r"empty\.jsonl: has no rows"):
        prepared(folder=tmp_path, train=[train, broken], **splits)
    validation = tmp_path / "run/data/validation.arrow"
    before = validation.stat().st_mtime_ns
    prepared(folder=tmp_path, train=train, **splits)
    assert validation.stat().st_mtime_ns == before


def test_faults_of_test_data_are_listed_as_generation_meets_them(prepared, splits, tmp_path):
    _append(splits["test"], ROWS[0])
    run = prepared(folder=tmp_path, **splits)
    (reject,) = run.rejects
    assert (reject["line"], reject["reason"]) == (3, "duplicate id '0'")
    with pytest.raises(DataError, match=r"test\.jsonl:1: id '0' is also in .*test\.jsonl"):
        prepared(folder=tmp_path, **{**splits, "test": [splits["test"], dict(splits["test"])]})


def test_a_missing_file_is_told_before_anything_is_done(prepared, splits, tmp_path):
    splits["test"] = {"path": str(tmp_path / "nowhere.jsonl")}
    with pytest.raises(DataError, match=r"nowhere\.jsonl: no such file"):
        prepared(folder=tmp_path, **splits)
    assert not store_file(RunFolder(tmp_path / "run"), "train").exists()


def test_a_language_without_instructions_is_told_before_anything_is_done(prepared, splits):
    splits["train"]["language"] = "fr"
    with pytest.raises(ConfigError, match="in language 'fr'"):
        prepared(**splits)


def test_training_needs_the_data_as_the_settings_have_them(prepared, splits, tmp_path):
    config = prepared.settings(tmp_path, **splits)
    folder = RunFolder.of(config)
    with pytest.raises(RunError, match=r"data_report\.json is missing; run `sumzero prepare"):
        check_prepared(config, folder)
    with pytest.raises(RunError, match=r"train\.arrow is missing; run `sumzero prepare"):
        TokenStore(store_file(folder, "train"))
    run = prepared(folder=tmp_path, **splits)
    digest = check_prepared(config, folder)
    assert digest == run.counts["digest"]
    for name, value in (("max_length", 64), ("max_prompt", 64), ("instruction", "Other.")):
        other = prepared.settings(tmp_path, **splits, **{name: value})
        with pytest.raises(RunError, match=rf"\(data\.{name}\); run `sumzero prepare`"):
            check_prepared(other, folder)
    splits["train"]["language"] = "zh"
    with pytest.raises(RunError, match=r"\(data\.train\)"):
        check_prepared(prepared.settings(tmp_path, **splits), folder)


def test_training_needs_the_model_that_the_data_were_tokenised_for(prepared, splits, tmp_path):
    run = prepared(folder=tmp_path, **splits, model="scratch")
    for change, named in (
        ({"model": "other"}, r"\(model, model\.scratch, seed\)"),
        ({"model": "scratch", "seed": 1}, r"\(seed\)"),  # its random weights are of the seed
    ):
        with pytest.raises(RunError, match=named):
            check_prepared(prepared.settings(tmp_path, **splits, **change), run.folder)
    run = prepared(folder=tmp_path, **splits, model="other")
    check_prepared(prepared.settings(tmp_path, **splits, model="other", seed=1), run.folder)


def test_training_and_export_need_the_instructions_that_were_prepared(prepared, splits, tmp_path):
    file = tmp_path / "mine.toml"
    asks = 'task = "summarize"\nlanguage = "en"\nparaphrases = ["Sum it up."]\n'
    file.write_text(asks)
    splits["train"]["instructions"] = str(file)
    run = prepared(folder=tmp_path, **splits)
    check_prepared(run.config, run.folder)
    file.write_text(asks.replace("up", "all up"))
    with pytest.raises(RunError, match=r"\(instructions\); run `sumzero prepare`"):
        check_prepared(run.config, run.folder)


@pytest.mark.parametrize("content", ["[]", "{}", '{"settings": 1}', '{"settings": {}}', "{"])
def test_a_damaged_report_is_one_line(prepared, splits, tmp_path, content):
    run = prepared(folder=tmp_path, **splits)
    run.folder.data_report.write_text(content)
    with pytest.raises(RunError, match=r"damaged.*run `sumzero prepare RUN.toml`"):
        check_prepared(run.config, run.folder)


@pytest.mark.parametrize("content", ["[]", "null", '"x"', "{", "{}"])
def test_a_split_whose_counts_are_damaged_is_prepared_again(prepared, splits, tmp_path, content):
    run = prepared(folder=tmp_path, **splits)
    (run.folder.data / "train.json").write_text(content)
    assert prepared(folder=tmp_path, **splits).report == run.report


def test_damaged_hashes_of_the_test_split_are_one_line(prepared, splits, tmp_path):
    file = prepared(folder=tmp_path, **splits).folder.data / "test.hashes.npy"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(RunError, match=r"test\.hashes\.npy: damaged; remove it and run"):
        prepared(folder=tmp_path, **splits)


def test_ten_thousand_good_and_bad_rows_are_all_accounted_for(prepared, tmp_path):
    logger.setLevel(logging.ERROR)
    good = {"document": "A cat sat on the mat.", "target": ["A cat.", "Sat."], "lang": "en"}
    bad = [
        *({**good, "document": value} for value in ("", " ", None, 7, [], {"a": 1}, "\ud800")),
        *({**good, "target": value} for value in ("", [], None, [1], "x " * 500, "\udfff")),
        *({**good, "lang": value} for value in ("fr", "", 5, "e\0n")),
        *({**good, "id": value} for value in (True, 1.5, "", "\ud800", [])),
        *([], 5, None, "text", {}, {"document": "no target"}, {"\ud83d": 1}),
        *('{"document"', "\xff", "[" * 2000, "NaN"),
    ]
    sources, total = [], 0
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in ("a", "b"):
            rows = [
                bad[n // 3 % len(bad)]
                if n % 3 == 0
                else {**good, "id": n % 1900, "document": f"A {n % 700}."}
                for n in range(1700 + number)
            ]
            lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
            (folder / f"{name}.jsonl").write_bytes("\n".join(lines).encode("latin-1"))
            total += len(lines)
        sources.append({"path": f"{folder}/*.jsonl", "language_column": "lang"})
    assert total > 10_000
    run = prepared(train=sources, max_length=256)
    counts, rejects = run.counts, run.rejects
    assert counts["read"] == total == counts["kept"] + counts["rejected"]
    assert counts["rejected"] == len(rejects) == sum(counts["rejected_by_reason"].values())
    assert all(row["file"] and row["line"] and row["reason"] for row in rejects)
    places = Counter((row["file"], row["line"]) for row in rejects)
    assert max(places.values()) == 1
    for source, settings in zip(counts["sources"], sources, strict=True):
        assert source["path"] == settings["path"]
        assert source["read"] == source["kept"] + source["rejected"]
        listed = sum(row["file"].startswith(settings["path"][:-7]) for row in rejects)
        assert source["rejected"] == listed == sum(source["rejected_by_reason"].values())
    branches = [branch for piece in run.pieces() for branch in piece]
    assert len(branches) == 2 * counts["kept"] == counts["targets"]
