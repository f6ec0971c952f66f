import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from sumzero.cli import main
from sumzero.errors import ConfigError, RunError
from sumzero.infer.report import pull_request, report
from sumzero.infer.scored import quality, read_scored
from sumzero.infer.support import ATTRIBUTIONS
from sumzero.runfolder import RunFolder, read_json, write_json

from .scored_run import HOSTILE, run_settings, scored_run, source_rows, trained

WORDS = ("cat", "mat", "rain", "model", "paper", "result", "data", "we", "show", "that", "often")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two runs on the same records; tests only read them."""
    folder = tmp_path_factory.mktemp("reported")
    first = scored_run(folder, "first", model={"path": HOSTILE})
    texts = {row["id"]: row["target"][0] for row in source_rows()}
    return first, scored_run(folder, "second", texts=texts)


def browser_data(page):
    """What report.js is given."""
    found = re.search('<script type="application/json" id="browser-data">(.*?)</script>', page)
    return json.loads(found[1])


def long_rows(num, characters):
    rng = np.random.default_rng(0)
    rows = []
    for number in range(num):
        text = " ".join(rng.choice(WORDS, characters // 4))
        document = ". ".join(
            text[i : i + 120].strip().capitalize() for i in range(0, characters, 120)
        )
        rows.append({"id": f"r{number}", "document": document, "target": text[:80]})
    return rows


def test_the_page_is_one_file_that_names_no_other(made):
    page = report(made[0]).read_text(encoding="utf-8")
    assert not re.search(
        r"""(src|href|action|data|poster)\s*=\s*["'](?!#)""", page.split("<body>")[0]
    )
    assert not re.findall(r"<(?:img|link|iframe|object|embed|form action)", page)
    assert not re.search(r"https?://", page.replace("http-equiv", ""))


def test_hostile_text_is_nowhere_as_markup(made):
    page = report(made[0]).read_text(encoding="utf-8")
    assert page.count("<script") == page.count("</script") == 2
    assert 'onerror="window' not in page
    assert "<!--" not in page
    example = browser_data(page)["examples"][0]
    assert example["id"] == HOSTILE
    assert example["references"][0] == HOSTILE
    assert "&lt;/script&gt;" in page  # the setting


def test_what_the_page_says_is_what_was_scored(made):
    page = report(made[0]).read_text(encoding="utf-8")
    scores = read_json(RunFolder.of(made[0]).scores, "")["systems"]
    for system in scores.values():
        for metric in ("rouge1", "rougeL"):
            assert f"{system['metrics'][metric]['value']:.2f}" in page
    data = browser_data(page)
    rows = read_scored(made[0]).rows["org/a-model"]
    shown = {example["id"]: example["outputs"][0]["quality"] for example in data["examples"]}
    expected = dict(zip(rows.ids, quality(rows).round(2).tolist(), strict=True))
    assert shown == pytest.approx(expected)


def test_explanations_of_other_rows_are_not_shown(made):
    folder = RunFolder.of(made[0])
    spans = {"document_sentences": [[0, 3]], "summary_sentences": [[0, 2]], "weights": [[9.0]]}
    line = {"id": "r1", "system": "org/a-model", **spans}
    generation = read_scored(made[0]).generations["org/a-model"].folder.name
    seen = {}
    for name in (generation, "another"):
        head = {"kind": "explanation", "system": "org/a-model", "generation": name}
        head["method"] = {"weights": "change of something"}
        (folder.root / ATTRIBUTIONS).write_text(f"{json.dumps(head)}\n{json.dumps(line)}\n")
        page = report(made[0]).read_text(encoding="utf-8")
        methods = browser_data(page)["examples"][1]["outputs"][0]["support"]["methods"]
        seen[name] = [*methods, "Ablation is the change of something" in page]
    (folder.root / ATTRIBUTIONS).unlink()
    assert seen == {generation: ["ablation", True], "another": ["overlap", False]}


def test_other_runs_stand_beside_the_first(made):
    data = browser_data(report(made[0], [made[1]]).read_text(encoding="utf-8"))
    assert data["systems"] == ["first", "second", "lead1"]
    changes = [example["changes"] for example in data["examples"]]
    assert all(len(of_one) == 1 for of_one in changes)
    assert max(change for (change,) in changes) > 10


def test_runs_of_the_same_name_are_told_apart_by_their_paths(made, tmp_path):
    shutil.copytree(made[0].runs, tmp_path / "runs")
    copy = replace(made[0], runs=str(tmp_path / "runs"))
    data = browser_data(report(made[0], [copy]).read_text(encoding="utf-8"))
    assert data["systems"][1] == str(tmp_path / "runs" / "first")


def test_other_records_are_not_compared(made, tmp_path):
    other = scored_run(tmp_path, "other", rows=source_rows(9))
    before = RunFolder.of(made[0]).report.read_bytes()
    with pytest.raises(RunError, match=r"not of the same records.*'r8'"):
        report(made[0], [other])
    assert RunFolder.of(made[0]).report.read_bytes() == before


def test_other_references_are_not_compared(made, tmp_path):
    rows = [{**row, "target": "Another."} for row in source_rows()]
    with pytest.raises(RunError, match="other references"):
        report(made[0], [scored_run(tmp_path, "other", rows=rows)])


def test_a_run_is_not_compared_with_itself(made):
    with pytest.raises(ConfigError, match="second: named twice"):
        report(made[0], [made[1], made[1]])


def test_a_run_to_compare_with_must_be_scored(made, tmp_path):
    other = run_settings(tmp_path, "other", source_rows())
    with pytest.raises(RunError, match=r"other/scores.json is missing; run `sumzero score"):
        report(made[0], [other])


def test_rows_that_were_made_anew_must_be_scored_anew(made, tmp_path):
    shutil.copytree(made[0].runs, tmp_path / "runs")
    config = replace(made[0], runs=str(tmp_path / "runs"))
    for file in (tmp_path / "runs" / "first").glob("generations/*/merged.jsonl"):
        file.write_text(file.read_text() + " ")
    with pytest.raises(RunError, match=r"row_scores.parquet.*sumzero score"):
        report(config)


def test_records_that_are_not_there_any_more_are_named(tmp_path):
    config = scored_run(tmp_path)
    file = tmp_path / "test.jsonl"
    file.write_text("\n".join(file.read_text().splitlines()[:-1]))
    with pytest.raises(RunError, match=r"the records have changed, 'r7'"):
        report(config)
    with pytest.raises(ConfigError, match=r"data\.test"):
        report(replace(config, data=replace(config.data, test=())))


def test_a_run_of_which_there_is_nothing_is_refused(tmp_path):
    config = run_settings(tmp_path, "empty", source_rows())
    with pytest.raises(RunError, match="sumzero score"):
        report(config)
    with pytest.raises(RunError, match="sumzero score"):
        pull_request(config)


def test_a_damaged_file_is_named(tmp_path):
    config = run_settings(tmp_path, "damaged", source_rows())
    RunFolder.of(config).begin(config)
    trained(config)
    plan = RunFolder.of(config).plan
    plan.write_text('{"bins": ')
    with pytest.raises(RunError, match=r"plan\.json is damaged .* run `sumzero train RUN` again"):
        report(config)


def test_systems_that_were_not_scored_are_told(made, tmp_path):
    shutil.copytree(made[0].runs, tmp_path / "runs")
    config = replace(made[0], runs=str(tmp_path / "runs"))
    scores = RunFolder.of(config).scores
    write_json(scores, {**read_json(scores, ""), "left_out": [f"late: {HOSTILE}"]})
    page = report(config).read_text(encoding="utf-8")
    assert "Not scored: late: &lt;/script&gt;" in page


def test_a_page_is_no_larger_than_it_may_be_and_says_what_was_left_out(tmp_path):
    config = scored_run(tmp_path, rows=long_rows(60, 6000))
    page = report(config, largest=200_000).read_bytes()
    assert 190_000 < len(page) <= 200_000
    said = page.decode()
    assert "documents are cut to 2,000 characters" in said
    data = browser_data(said)
    assert f"{len(data['examples'])} of 60 records" in said
    assert all(example["left_out"] > 3900 for example in data["examples"])
    whole = browser_data(report(config).read_text(encoding="utf-8"))
    assert len(whole["examples"]) == 60
    assert not any(example["left_out"] for example in whole["examples"])


def test_one_record_is_enough(tmp_path):
    config = scored_run(tmp_path, rows=source_rows(1))
    trained(config, steps=1)
    assert len(browser_data(report(config).read_text(encoding="utf-8"))["examples"]) == 1


def test_the_command_takes_runs_and_settings(made, capsys, monkeypatch):
    folders = [str(RunFolder.of(config).root) for config in made]
    assert main(["report", *folders, "seed=3"]) == 0
    assert capsys.readouterr().out.strip() == f"{folders[0]}/report.html"
    assert main(["report", folders[0], "--markdown", folders[1]]) == 0
    assert "#### `second` less `first`" in capsys.readouterr().out
    assert main(["report", folders[0], "seed=x"]) == 2
    assert main(["report", folders[0], "no/such/run"]) == 2
    assert "no/such/run" in capsys.readouterr().err


def test_the_summary_has_a_row_a_system_and_survives_its_names(made, tmp_path):
    texts = {row["id"]: "Cats." for row in source_rows()}
    name = "a|b`</details>@team *x*"
    config = scored_run(tmp_path, texts=texts, system=name)
    told = pull_request(config)
    scores = read_json(RunFolder.of(config).scores, "")["systems"]
    (row,) = [line for line in told.splitlines() if "@team" in line]
    assert row.startswith("| ``a\\|b`</details>@team *x*`` |")
    assert f"{scores[name]['metrics']['rougeL']['value']:.2f} (" in row
    assert len(re.findall(r"(?<!\\)\|", row)) == 7
    assert sum(line.startswith("| `lead1` |") for line in told.splitlines()) == 1
    compared = pull_request(made[0], [made[1]])
    (row,) = [line for line in compared.splitlines() if line.startswith("| ROUGE-L |")]
    assert re.search(r"\+\d+\.\d\d \(\+?-?\d+\.\d\d to \+\d+\.\d\d\)", row)
