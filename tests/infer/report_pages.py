"""A report of two runs, opened in Chromium, and what its tests ask of it."""

import json
from contextlib import contextmanager

from sumzero.infer.report import report
from sumzero.infer.support import ATTRIBUTIONS
from sumzero.runfolder import RunFolder

from .browser import browser
from .scored_run import scored_run, source_rows, trained

MODEL = "org/a-model"


def explain(config, rows, texts):
    """attributions.jsonl for all rows but the first: the second of three sentences weighs most."""
    lines = [{"kind": "explanation"}]
    for row in rows[1:]:
        spans, start = [], 0
        for sentence in row["document"].split(". "):
            spans.append([start, start + len(sentence) + 1])
            start += len(sentence) + 2
        spans[-1][1] = len(row["document"])
        own = {"id": row["id"], "system": MODEL, "document_sentences": spans}
        own["summary_sentences"] = [[0, 3], [4, len(texts[row["id"]])]]
        own |= {"weights": [[0.5, 2.0, -1.0], [0, 0, 0]], "alignment": [[0, 0, 1.0], [0.5, 0, 0]]}
        if row["id"] == "r1":  # "Cat 1 sat on 🙂 mats."
            own["token_spans"] = [[0, 3], [3, 5], [5, 9], [9, 12], [12, 14], [12, 14], [14, 20]]
            own["token_logprobs"] = [0.0, -0.69, -0.7, -3.0, -1.0, -1.0, -6.0]
        lines.append(own)
    file = RunFolder.of(config).root / ATTRIBUTIONS
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_page(folder):
    """The page of a run beside another one."""
    rows = source_rows()
    texts = {row["id"]: " ".join(row["document"].split()[:6]) for row in rows}
    texts["r2"] = "Cut off…"
    config = scored_run(folder, "first", rows=rows, texts=texts)
    trained(config)
    explain(config, rows, texts)
    other = scored_run(folder, "second", rows=rows, texts={**texts, "r3": "Cat 3 sat.", "r5": None})
    return report(config, [other])


@contextmanager
def opened_page(made, profile):
    """The page in a browser; at the end it must have logged and loaded nothing else."""
    with browser(profile) as page:
        page.look(1280, 900)
        page.open(made.as_uri())
        yield page
        assert page.faults == []
        assert page.requests == [made.as_uri()]


def begin(page):
    """All examples, the first open, and nothing lit."""
    page.run(
        "for (const [id, value] of [['system', '0'], ['only', 'all'], ['order', 'input']])"
        " { at(id).value = value; at(id).dispatchEvent(new Event('change')); }"
        "at('search').value = ''; at('search').dispatchEvent(new Event('input'));"
        "at('list').focus(); at('list').querySelector('li').click();"
        "document.activeElement.blur()"
    )


def open_example(page, id_):
    page.run(f"[...at('list').children].find(x => x.textContent.startsWith('{id_}')).click()")


def ids(page):
    return page.run("[...at('list').querySelectorAll('.id')].map(x => x.textContent)")


def opened(page):
    return page.run("at('example-id').textContent")


def lit(page):
    return page.run(
        "[...at('document').querySelectorAll('.lit')].map(x => [x.textContent, x.dataset.weight])"
    )


def choose(page, field, value):
    page.run(f"at('{field}').value = '{value}'; at('{field}').dispatchEvent(new Event('change'))")


def contrast(page, selector):
    """WCAG's ratio of an element's text and what is painted behind it."""
    return page.run(
        """(selector => {
            const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
            const over = colours => {
                canvas.clearRect(0, 0, 1, 1);
                for (const colour of colours) {
                    canvas.fillStyle = colour;
                    canvas.fillRect(0, 0, 1, 1);
                }
                return [...canvas.getImageData(0, 0, 1, 1).data];
            };
            const light = rgb => rgb.slice(0, 3).map(v => v / 255)
                .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
                .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
            const element = document.querySelector(selector);
            const grounds = [];
            for (let at = element; at; at = at.parentElement)
                grounds.unshift(getComputedStyle(at).backgroundColor);
            const [a, b] = [light(over(grounds)),
                light(over([...grounds, getComputedStyle(element).color]))].sort((x, y) => x - y);
            return (b + 0.05) / (a + 0.05);
        })(""" + json.dumps(selector) + ")"
    )  # fmt: skip
