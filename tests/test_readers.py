import json
import pickle

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sumzero.config import Source
from sumzero.errors import ConfigError, DataError
from sumzero.readers import blocks, digest, files, label, rows

ROWS = [{"id": f"r{index}", "document": "d" * index, "target": ["t"]} for index in range(600)]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)


@pytest.fixture
def data_set(tmp_path):
    """A folder of one data set, and one of two splits."""
    datasets.disable_progress_bars()
    whole = datasets.Dataset.from_list(ROWS)
    whole.save_to_disk(tmp_path / "whole", num_shards=2)
    halves = {"train": whole.select(range(300)), "test": whole.select(range(300, 600))}
    datasets.DatasetDict(halves).save_to_disk(tmp_path / "halves")
    return tmp_path


def write_lines(file, lines):
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def rows_of(path, **settings):
    return [row for block in blocks(Source(path=str(path), **settings)) for row in rows(block)]


NUMBERED = list(enumerate(ROWS, start=1))


def test_files_are_the_matches_of_a_glob_sorted(tmp_path):
    for name in ("b.jsonl", "a.csv", "c/b.jsonl", "d.jsonl/x"):
        write_lines(tmp_path / name, [])
    assert files(Source(path=f"{tmp_path}/*.jsonl")) == [tmp_path / "b.jsonl"]
    assert files(Source(path=f"{tmp_path}/**/b.jsonl")) == [
        tmp_path / "b.jsonl",
        tmp_path / "c/b.jsonl",
    ]
    assert files(Source(path="hub:some/name")) == []


def test_the_rows_of_a_glob_follow_one_another_and_formats_may_differ(tmp_path):
    write_lines(tmp_path / "1.jsonl", ROWS[:2])
    pq.write_table(pa.Table.from_pylist(ROWS[2:4]), tmp_path / "2.parquet")
    assert [row for _, row in rows_of(f"{tmp_path}/[0-9].*")] == ROWS[:4]


def test_a_name_with_the_signs_of_a_glob_is_a_name_where_it_is_there(tmp_path):
    write_lines(tmp_path / "rows[1].jsonl", ROWS[:1])
    write_lines(tmp_path / "rows1.jsonl", ROWS)
    assert rows_of(tmp_path / "rows[1].jsonl") == NUMBERED[:1]


@pytest.mark.parametrize(
    ("path", "settings", "fault"),
    [
        ("absent.jsonl", {}, "absent.jsonl: no such file"),
        ("absent/*.jsonl", {}, "absent/*.jsonl: no file matches"),
        ("*.jsonl.d", {}, "*.jsonl.d: no file matches"),
        ("folder.jsonl.d", {}, "folder.jsonl.d: no data set can be loaded (Directory"),
        ("*", {}, "other.txt: cannot be read; .jsonl"),
        ("halves", {}, "halves: has splits; set split to one of them: train, test"),
        ("halves", {"split": "dev"}, "halves: no split 'dev'; there are train, test"),
        ("whole", {"split": "test"}, "whole: has no splits; remove split = 'test'"),
    ],
)
def test_what_is_not_there_is_named(data_set, monkeypatch, path, settings, fault):
    monkeypatch.chdir(data_set)
    write_lines(data_set / "folder.jsonl.d" / "rows.jsonl", ROWS[:1])
    write_lines(data_set / "a.jsonl", ROWS[:1])
    (data_set / "other.txt").touch()
    with pytest.raises(DataError) as caught:
        list(blocks(Source(path=path, **settings)))
    assert str(caught.value).startswith(fault)
    assert "\n" not in str(caught.value)


def test_nothing_is_read_before_all_files_are_known(tmp_path):
    write_lines(tmp_path / "a.jsonl", ROWS)
    write_lines(tmp_path / "b.txt", [])
    with pytest.raises(DataError, match=r"b\.txt: cannot be read"):
        next(blocks(Source(path=f"{tmp_path}/*")))


@pytest.mark.parametrize(
    ("path", "option"),
    [("rows.jsonl", "split"), ("rows.jsonl", "subset"), ("*.jsonl", "revision"), (".", "subset")],
)
def test_a_setting_of_another_kind_of_source_is_refused(tmp_path, monkeypatch, path, option):
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(ConfigError, match=f"{option} is for data sets; remove {option}"):
        list(blocks(Source(path=path, **{option: "x"})))


def test_a_file_that_may_not_be_read_is_named(tmp_path):
    file = tmp_path / "rows.jsonl"
    write_lines(file, ROWS)
    found = blocks(Source(path=str(file)))
    file.unlink()
    file.mkdir()
    with pytest.raises(DataError, match=r"rows\.jsonl: "):
        list(found)


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet", "data set"])
def test_blocks_are_small_the_same_each_time_and_pickled_alone(data_set, kind):
    table = pa.Table.from_pylist([{"id": row["id"], "document": row["document"]} for row in ROWS])
    path = data_set / (f"rows.{kind}" if kind != "data set" else "whole")
    if kind == "jsonl":
        write_lines(path, table.to_pylist())
    elif kind == "json":
        path.write_text(json.dumps(table.to_pylist()))
    elif kind == "csv":
        path.write_text("id,document\n" + "".join(f"{r['id']},{r['document']}\n" for r in ROWS))
    elif kind == "parquet":
        pq.write_table(table, path, row_group_size=500)
    source = Source(path=str(path))
    found = list(blocks(source))
    assert found == list(blocks(source))
    sent = [pickle.dumps(block) for block in found]
    assert sum(map(len, sent)) < 2.5 * sum(len(row["document"]) + 20 for row in ROWS)
    counts = [len(list(rows(block))) for block in found]
    assert max(counts) <= 256
    assert len(found) <= 4
    assert [row for one in sent for row in rows(pickle.loads(one))] == rows_of(path)
    assert sum(counts) == 600
    assert [block.first for block in found] == [next(rows(block))[0] for block in found]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_long_rows_make_blocks_of_a_megabyte(tmp_path, kind):
    long = [{"document": "x" * 400_000}] * 5 + [{"document": "y" * 3_000_000}, {"document": "z"}]
    if kind == "jsonl":
        write_lines(tmp_path / "rows.jsonl", long)
    else:
        pq.write_table(pa.Table.from_pylist(long), tmp_path / "rows.parquet", use_dictionary=False)
    found = list(blocks(Source(path=f"{tmp_path}/*")))
    for block in found:
        texts = [row["document"] for _, row in rows(block)]
        assert len(texts) == 1 or sum(map(len, texts)) <= 2**20
    assert rows_of(f"{tmp_path}/*") == list(enumerate(long, start=1))


def test_a_saved_data_set_is_read_with_its_shards_and_splits(data_set):
    assert rows_of(data_set / "whole") == NUMBERED
    assert [row for _, row in rows_of(data_set / "halves", split="test")] == ROWS[300:]


def test_a_saved_data_set_may_be_called_as_a_format(data_set, tmp_path, monkeypatch):
    (data_set / "whole").rename(tmp_path / "json")
    monkeypatch.chdir(tmp_path)
    assert rows_of("json") == NUMBERED


def test_a_damaged_data_set_is_told(data_set):
    file = next((data_set / "whole").glob("*.arrow"))
    content = bytearray(file.read_bytes())
    del content[len(content) // 2 :]
    file.write_bytes(bytes(content))
    with pytest.raises(DataError, match="whole: "):
        rows_of(data_set / "whole")


def test_a_data_set_of_the_hub_is_read_by_name_and_split(tmp_path):
    write_lines(tmp_path / "repository" / "train.jsonl", ROWS)
    write_lines(tmp_path / "repository" / "test.jsonl", ROWS[:3])
    path = f"hub:{tmp_path}/repository"
    assert rows_of(path, split="train") == NUMBERED
    assert rows_of(path, split="test") == NUMBERED[:3]
    for split, fault in (
        (None, "set split to one of them: train, test"),
        ("dev", 'Unknown split "dev"'),
    ):
        with pytest.raises(DataError) as caught:
            rows_of(path, split=split)
        assert str(caught.value).startswith(path)
        assert fault in str(caught.value)


@pytest.mark.parametrize("name", ["owner/absent", "absent/folder/deep", "", "json", "parquet"])
def test_a_data_set_that_the_hub_lacks_is_one_line(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "rows.json", ROWS)  # which is not what "json" names
    with pytest.raises(DataError) as caught:
        rows_of(f"hub:{name}", split="train")
    assert str(caught.value).startswith(f"hub:{name}: ")
    assert "\n" not in str(caught.value)


def test_labels_tell_the_files_of_a_glob_apart(tmp_path):
    def of(path, file):
        return label(Source(path=path), file)

    assert of("data/rows.jsonl", "data/rows.jsonl") == "rows.jsonl"
    assert of("./rows.jsonl", "rows.jsonl") == "rows.jsonl"
    assert of("data/*/x.jsonl", "data/a/x.jsonl") == "a/x.jsonl"
    assert of("*.jsonl", "x.jsonl") == "x.jsonl"
    assert of("/data/**/*.jsonl", "/data/a/b/x.jsonl") == "a/b/x.jsonl"
    assert of("hub:owner/name", "hub:owner/name") == "owner/name"
    assert of(str(tmp_path), str(tmp_path)) == tmp_path.name


def test_the_digest_changes_with_content_and_names_and_not_with_place(data_set):
    def of(path, **settings):
        return digest(Source(path=str(path), **settings))

    for folder in ("a", "b"):
        write_lines(data_set / folder / "rows.jsonl", ROWS)
    one = of(data_set / "a" / "rows.jsonl")
    assert one == of(data_set / "b" / "*.jsonl") == of(data_set / "a" / "rows.jsonl")
    write_lines(data_set / "b" / "rows.jsonl", ROWS[1:])
    assert one != of(data_set / "b" / "rows.jsonl")
    write_lines(data_set / "a" / "more.jsonl", [])
    assert one != of(data_set / "a" / "*.jsonl")
    whole = of(data_set / "whole")
    assert whole == of(data_set / "whole") != of(data_set / "halves", split="train")
    hub = {split: of(f"hub:{data_set}/a", split=split) for split in ("train", "train[:9]")}
    assert hub["train"] == of(f"hub:{data_set}/a", split="train") != hub["train[:9]"]
    write_lines(data_set / "a" / "rows.jsonl", ROWS[2:])
    assert hub["train"] != of(f"hub:{data_set}/a", split="train")
    with pytest.raises(DataError, match="no such file"):
        of(data_set / "absent.jsonl")


def test_a_wrong_folder_is_refused_before_all_that_lies_in_it_is_read(tmp_path):
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "rows.jsonl").write_text("{}")
    with pytest.raises(DataError, match="no data set can be loaded"):
        digest(Source(path=str(tmp_path)))
