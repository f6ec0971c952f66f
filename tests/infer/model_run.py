"""A run with records and an export, and an engine that gives its prompts back: no vLLM starts."""

import json
import shutil

from sumzero.contract import make_contract, write_contract
from sumzero.infer.answering import open_model
from sumzero.infer.engine import Completion, Failure
from sumzero.infer.inputs import open_inputs
from sumzero.prompt import PromptRenderer
from sumzero.runfile import check
from sumzero.runfolder import RunFolder


def write_rows(file, rows):
    """Writes rows as JSON, one a line."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_run(
    folder, model_folder, tokenizer, rows, *, source=None, generate=None, explain=None, **data
):
    """The settings of a run whose test split is `rows`, with an export in its folder."""
    file = folder / "test.jsonl"
    write_rows(file, rows)
    source = {"path": str(file), **(source or {})}
    data = {"train": source, "test": source, "max_length": 128, **data}
    generate = {"max_new_tokens": 16, **(generate or {})}
    values = {"name": "run", "runs": str(folder / "runs"), "data": data, "generate": generate}
    values["explain"] = explain or {}
    made = check(values, "run.toml")
    export = RunFolder.of(made).export
    shutil.copytree(model_folder, export, dirs_exist_ok=True)
    renderer = PromptRenderer(tokenizer, made.data.truncation)
    write_contract(export, make_contract(renderer, made.data))
    return made


def opened(config):
    """The inputs of a run, its model, and what its generation is made by."""
    inputs = open_inputs(RunFolder.of(config).inputs, config.data.test)
    return inputs, *open_model(config, "finetuned", inputs)


class Reader:
    """Answers with what `answer` makes of prompts, of those that there are the last one first."""

    def __init__(self, tokenizer, answer=lambda text: f" {text}\n"):
        self._tokenizer = tokenizer
        self._answer = answer
        self.prompts = []

    def generate(self, requests, stop_ids, seed):
        assert stop_ids
        requests = iter(requests)
        while given := list(iter(lambda: next(requests, None), None)):
            yield from map(self._completed, reversed(given))

    def _completed(self, request):
        self.prompts.append(request.prompt_ids)
        text = self._answer(self._tokenizer.decode(request.prompt_ids))
        return Completion(request.id, text, (), len(text), "stop", 0.5)


class Scorer:
    """Scores "A cat. A price.": a sentence's tokens have -0.5 with its noun in the prompt, else -3.

    Without a tokenizer each score is made of the prompt's ids.
    """

    def __init__(self, tokenizer=None, *, fails=()):
        self._tokenizer = tokenizer
        self._fails = fails
        self.prompts = []

    def generate(self, requests, stop_ids, seed):
        requests = iter(requests)
        while given := list(iter(lambda: next(requests, None), None)):
            yield from map(self._completed, reversed(given))

    def _completed(self, request):
        ids, count = request.prompt_ids, request.scored
        if not self._tokenizer:
            return self._scored(request, [-(sum(ids) % 97) / 10.0] * count)
        prompt = self._tokenizer.decode(ids[:-count])
        self.prompts.append(prompt)
        if any(word in prompt for word in self._fails):
            return Failure(request.id, "the engine dies of this row: SIGKILL")
        first = len(self._tokenizer("A cat.", add_special_tokens=False).input_ids)
        of_both = [-0.5 if word in prompt else -3.0 for word in ("cat", "price")]
        return self._scored(request, [of_both[0]] * first + [of_both[1]] * (count - first))

    def _scored(self, request, logprobs):
        return Completion(request.id, "", (), 0, "scored", 0.1, tuple(logprobs))
