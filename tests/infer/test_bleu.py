import numpy as np
import pytest
from sacrebleu import corpus_bleu, corpus_chrf
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from sumzero.infer import bleu
from sumzero.runfolder import read_jsonl

GERMAN = [
    (["Der Hund lief schnell nach Hause.", "Der Hund rannte nach Hause."], "Der Hund lief heim."),
    (["Es regnet in München, sagt sie."], "Es regnet in München, sagte sie."),
    (["Ja."], ""),
    (["3,5 Grad waren es am Abend.", "Am Abend waren es 3,5 Grad.", "3,5"], "Am Abend 3,5 Grad."),
]


def _sums(rows, language):
    of_rows = [bleu.statistics(targets, text, language) for targets, text in rows]
    return {name: np.array([row[name] for row in of_rows]).sum(axis=0) for name in bleu.METRICS}


def _streams(rows):
    most = max(len(targets) for targets, _ in rows)
    return [[(targets + [None] * most)[i] for targets, _ in rows] for i in range(most)]


def test_a_sum_of_rows_is_sacrebleus_score_of_the_corpus():
    sums = _sums(GERMAN, "de")
    texts, streams = [text for _, text in GERMAN], _streams(GERMAN)
    assert bleu.corpus_score("bleu", sums["bleu"]) == corpus_bleu(texts, streams).score
    assert bleu.corpus_score("chrf", sums["chrf"]) == corpus_chrf(texts, streams).score
    assert {name: len(x) for name, x in sums.items()} == bleu.WIDTHS


def test_a_sum_of_no_matches_is_nothing():
    sums = _sums([(["Ja."], "")], "de")
    assert bleu.corpus_score("bleu", sums["bleu"]) == 0
    assert bleu.corpus_score("chrf", sums["chrf"]) == 0


@pytest.mark.parametrize(("language", "tokenizer"), [("zh", "zh"), ("Chinese", "zh")])
def test_chinese_to_the_last_digit(shared_data, language, tokenizer):
    rows = read_jsonl(shared_data / "xquad_parallel_en-zh.jsonl")[:200]
    texts = [row["target"][: 3 + i % 20] for i, row in enumerate(rows)]
    streams = [[row["target"] for row in rows]]
    pairs = [([row["target"]], text) for row, text in zip(rows, texts, strict=True)]
    sums = _sums(pairs, language)
    expected = corpus_bleu(texts, streams, tokenize=tokenizer).score
    assert bleu.corpus_score("bleu", sums["bleu"]) == expected > 1
    assert bleu.corpus_score("chrf", sums["chrf"]) == corpus_chrf(texts, streams).score


def test_signatures_are_sacrebleus_own():
    for name, metric in (("bleu", BLEU(tokenize="zh")), ("chrf", CHRF())):
        metric.corpus_score(["我们。"], [["我们。"]])
        assert bleu.signature(name, ["zh"], [1]) == str(metric.get_signature())
    assert bleu.signature("bleu", ["de"], [1, 3]).startswith("nrefs:var|")
    mixed = bleu.signature("bleu", ["de", "zh"], [2])
    assert "tok:13a" in mixed
    assert "tok:zh" in mixed
    assert "nrefs:var" not in mixed


def test_a_tokenizer_that_is_not_installed_is_named_and_characters_counted(caplog, monkeypatch):
    made = bleu._bleu

    def without_mecab(name):
        if "mecab" in name:
            raise RuntimeError("requires extra dependencies")
        return made(name)

    monkeypatch.setattr(bleu, "_bleu", without_mecab)
    bleu.tokenizer_of.cache_clear()
    bleu._say_what_is_missing.cache_clear()
    try:
        assert bleu.tokenizer_of("ja") == "char"
        assert not caplog.text
        assert "tok:char" in bleu.signature("bleu", ["ja"], [1])
    finally:
        bleu.tokenizer_of.cache_clear()
        bleu._say_what_is_missing.cache_clear()
    assert "pip install 'sacrebleu[ja]'" in caplog.text
    assert bleu.tokenizer_of("th") == "char"
    assert bleu.tokenizer_of("fr") == "13a"
