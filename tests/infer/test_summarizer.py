"""Summaries from Python, by a real engine on an export that has learnt its summaries by heart."""

import asyncio
import dataclasses
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from sumzero import Summarizer
from sumzero.errors import ConfigError, DataError, RunError
from sumzero.infer.summarizer import Summary
from sumzero.runfolder import RunFolder

from . import model_run
from .served_run import LONG, MAX_NEW, ROWS, write_run

TEXTS = [row["document"] for row in ROWS]
TARGETS = [row["target"] for row in ROWS]
ENGINE = {"max_new_tokens": MAX_NEW, "dtype": "float32", "cpu_kv_cache_gib": 0.25}
STORY = "\n\n".join(f"The cat {n} sat on the mat. It was warm, number {n}." for n in range(40))


@pytest.fixture(scope="module")
def export(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("summarizer")
    write_run(folder, tokenizer)
    return folder / "runs" / "run" / "export"


@pytest.fixture(scope="module")
def summarize(export):
    with Summarizer(export, long="truncate", **ENGINE) as one:
        yield one


def test_several_texts_have_their_summaries_in_their_order(summarize):
    found = summarize(iter(TEXTS))
    assert [one.text for one in found] == TARGETS
    assert {one.finish_reason for one in found} == {"stop"}
    cut = [one for one in found if one.truncated]
    assert [one.text for one in cut] == [TARGETS[-1]]
    assert 0 < cut[0].document_kept < cut[0].document_tokens
    assert cut[0].prompt_tokens == 256 - MAX_NEW
    for one in found:
        assert one.output_tokens > 0
        assert one.error is one.tree is None
    assert summarize([]) == []


def test_one_text_has_one_summary_which_reads_as_its_text(summarize):
    found = summarize(f" {TEXTS[0]}\n")
    assert isinstance(found, Summary)
    assert str(found) == f"{found}" == TARGETS[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.text = ""


def test_a_running_event_loop_as_in_a_notebook_is_no_hindrance(summarize):
    async def cell():
        return summarize(TEXTS[1]).text

    assert asyncio.run(cell()) == TARGETS[1]


def test_a_length_an_instruction_and_a_language_are_asked_for(summarize):
    plain = summarize(TEXTS[0])
    tight, wide = (summarize(TEXTS[0], instruction=text) for text in ("Sum up.", " Sum up.\n"))
    assert wide.prompt_tokens == tight.prompt_tokens  # stripped, as that of a record is
    for how in ({"max_words": 20}, {"sentences": 3}, {"instruction": "Say it again, but shorter."}):
        assert summarize(TEXTS[0], **how).prompt_tokens != plain.prompt_tokens
    assert summarize([TEXTS[0]], max_words=20)[0].document_tokens == plain.document_tokens


def test_control_tokens_in_a_text_stay_text(summarize):
    assert summarize("<|end|>" * 3).document_tokens > 3


def test_nothing_is_shown_where_stderr_is_no_terminal(summarize, capfd):
    summarize(TEXTS)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("texts", "how", "line"),
    [
        ("", {}, "text: is empty"),
        (["a", " \n"], {}, "texts[1]: is empty"),
        (["a", 5], {}, "texts[1]: not text but a number"),
        (["a", None], {}, "texts[1]: not text but null"),
        (["\ud800"], {}, "texts[0]: half a surrogate pair"),
        (5, {}, "texts: must be a string or several, not a number"),
        ({"a": "b"}, {}, "texts: must be a string or several, not an object"),
        ("a", {"max_words": 0}, "max_words: must be a whole number from 1, got 0"),
        ("a", {"sentences": True}, "sentences: must be a whole number from 1, got True"),
        ("a", {"max_words": 5, "sentences": 1}, "max_words, sentences: ask for one of them"),
        ("a", {"instruction": " "}, "instruction: is empty"),
        ("a", {"language": "xx"}, "language: 'xx'; the model was trained to be asked in en"),
        ("a", {"instruction": 5}, "instruction: not text but a number"),
        (
            "a",
            {"instruction": "Sum up.", "max_words": 5},
            "instruction: stands for itself; leave out max_words",
        ),
    ],
)
def test_what_cannot_be_summarized_is_told_in_one_line(export, texts, how, line):
    one = Summarizer(export, **ENGINE)  # which starts no engine for it
    with pytest.raises((DataError, ConfigError)) as refused:
        one(texts, **how)
    assert str(refused.value) == line


def test_a_text_that_does_not_fit_is_refused_before_an_engine_starts(export):
    with pytest.raises(ConfigError, match=r"1 document is too long, 'texts\[1\]' first: .*refine"):
        Summarizer(export, **ENGINE)(["Short.", LONG])


def test_settings_and_folders_are_checked_at_the_start(export, tmp_path):
    with pytest.raises(ConfigError, match=r"^Summarizer: generate\.max_tokens: no such setting"):
        Summarizer(export, max_tokens=5)
    with pytest.raises(RunError, match=rf"is a run folder; give {export}$"):
        Summarizer(export.parent)
    with pytest.raises(RunError, match=r"contract\.json.* run `sumzero export"):
        Summarizer(tmp_path)
    no_room = Summarizer(export, **ENGINE | {"max_new_tokens": 250})
    with pytest.raises(ConfigError, match="leaves no room for a document"):
        no_room("a")


def test_a_model_that_answers_needs_a_question_and_one_that_translates_is_refused(
    tmp_path, model_folder, tokenizer
):
    def exported(**source):
        rows = [{"id": "a", "document": "A cat.", "q": "Who?"}]
        run = model_run.write_run(tmp_path, model_folder, tokenizer, rows, source=source)
        return RunFolder.of(run).export

    one = Summarizer(exported(task="answer", instruction="q"))
    with pytest.raises(ConfigError, match=r"^instruction: missing; this model answers a question$"):
        one("The cat sat.")
    with pytest.raises(ConfigError, match=r"was trained to translate; use `sumzero generate`$"):
        Summarizer(exported(task="translate", target_language="zh"))


def test_adapters_alone_are_no_model(export, tmp_path):
    for file in export.iterdir():
        if file.name != "config.json":
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(
        RunError, match=r"has no model; of adapters make one with `sumzero export`$"
    ):
        Summarizer(tmp_path)


def test_a_text_without_a_summary_has_its_reason_or_raises_it_where_it_is_alone(summarize):
    reason = "the prompt does not fit: "
    (found,) = summarize(TEXTS[:1], instruction="cat " * 500)
    assert (found.text, found.finish_reason) == ("", "error")
    assert found.error.startswith(reason)
    with pytest.raises(RunError, match=f"^text: no summary: {reason}"):
        summarize(TEXTS[0], instruction="cat " * 500)


def test_a_long_text_is_summarized_in_parts_and_after_a_ctrl_c_others_are(export):
    def interrupt(*_):
        raise KeyboardInterrupt

    with Summarizer(export, long="map_reduce", **ENGINE) as one:
        found, short = one([STORY, TEXTS[0]])
        assert short.text == TARGETS[0]
        assert short.tree is None
        assert not found.truncated
        assert found.document_kept == found.document_tokens > 256
        levels = found.tree["levels"]
        assert len(levels[0]) > 3
        assert levels[-1][-1]["summary"] == found.text
        before = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        try:
            with pytest.raises(KeyboardInterrupt):
                one([STORY] * 1000)
        finally:
            signal.signal(signal.SIGALRM, before)
        assert one(TEXTS[0]).text == TARGETS[0]


def test_importing_sumzero_loads_no_model_library():
    code = (
        "import sumzero, sys; assert 'Summarizer' in dir(sumzero); "
        "print(*(m for m in ('torch', 'transformers', 'vllm') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_the_readme_s_snippet_runs(export, tmp_path, monkeypatch, capsys):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    _, _, after = readme.partition("\nFrom Python:\n")
    code = textwrap.dedent(re.match(r"(?:    .*\n|\n)+", after)[0])
    (tmp_path / "runs" / "scitldr").mkdir(parents=True)
    (tmp_path / "runs" / "scitldr" / "export").symlink_to(export)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) >= 3
