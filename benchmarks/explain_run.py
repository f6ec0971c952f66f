"""A run whose summaries are known to depend on two sentences of each document, for bench_explain.

A document has from 4 to 7 sentences; one begins with "Note:", another one, before or after it, with
"Also:". A tiny model is trained to find those two, and to copy them or to say them in other words:
each name, verb, thing and place has another word, always the same, that no document has.

    Note: Anna found the lamp in Rome.    The light was discovered by Novak in Italy.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

NAMES = "Anna Boris Carla David Elena Frank Greta Henry Irene Jakob Karla Louis Maria Niels Olga"
VERBS = "found lost bought sold painted carried broke washed"
THINGS = "lamp horse coat drum boat clock ladder stone violin basket mirror kettle"
PLACES = "Rome Oslo Lima Kyoto Cairo Delhi Quito Perth"
SURNAMES = (
    "Novak Weber Moreau Rossi Berg Kowal Silva Tanaka Okafor Haddad Ivanov Mehta Chen Lopez Ek"
)
DONE = "discovered mislaid purchased traded coloured transported shattered cleaned"
ALIKE = "light mare jacket percussion ship timepiece steps rock fiddle hamper glass pot"
COUNTRIES = "Italy Norway Peru Japan Egypt India Ecuador Australia"
_FACT = (NAMES, VERBS, THINGS, PLACES)
_OTHER = dict(
    zip(" ".join(_FACT).split(), f"{SURNAMES} {DONE} {ALIKE} {COUNTRIES}".split(), strict=True)
)
MARKS = ("Note", "Also")
VOCABULARY, POSITIONS, NEW = 700, 512, 40
_BATCH, _RATE = 16, 3e-3


@dataclass(frozen=True)
class Marked:
    """A document, its summary, and the numbers of the sentences that the summary is made of."""

    document: str
    summary: str
    sources: tuple[int, int]


def marked(choose: random.Random, *, reworded: bool) -> Marked:
    """A random document, and its summary."""
    count = choose.randint(4, 7)
    facts = [[choose.choice(words.split()) for words in _FACT] for _ in range(count)]
    first, second = choose.sample(range(count), 2)
    marks = {first: MARKS[0], second: MARKS[1]}
    lines = [
        f"{marks.get(i, 'Then')}: {name} {verb} the {thing} in {place}."
        for i, (name, verb, thing, place) in enumerate(facts)
    ]
    said = [_in_other_words(*facts[i]) if reworded else lines[i] for i in (first, second)]
    return Marked(" ".join(lines), " ".join(said), (first, second))


def _in_other_words(name: str, verb: str, thing: str, place: str) -> str:
    return f"The {_OTHER[thing]} was {_OTHER[verb]} by {_OTHER[name]} in {_OTHER[place]}."


def write_run(folder: Path, rows: int, steps: int, *, reworded: bool) -> tuple[Path, list[Marked]]:
    """A run with so many records and a trained export; the run file, and what the records are."""
    from sumzero.config import Data, Scratch, Source
    from sumzero.contract import make_contract, write_contract
    from sumzero.prompt import PromptRenderer
    from sumzero.train.scratch import initial_model, train_tokenizer

    choose = random.Random(0)
    draw = partial(marked, choose, reworded=reworded)
    drawn = [draw() for _ in range(500)]
    texts = iter([f"{one.document} {one.summary}" for one in drawn])
    tokenizer = train_tokenizer(texts, VOCABULARY)
    scratch = Scratch(
        vocab_size=VOCABULARY,
        hidden_size=64,
        num_layers=2,
        num_heads=2,
        num_kv_heads=2,
        intermediate_size=128,
    )
    data = Data(train=(Source(path="train"),), max_length=POSITIONS)
    renderer = PromptRenderer(tokenizer, data.truncation)
    contract = make_contract(renderer, data)
    model = initial_model(scratch, tokenizer, positions=POSITIONS, seed=0).float()
    asked = renderer.ask(contract.instructions[0].inference())
    _learn(model, renderer, asked, draw, steps)
    export = folder / "runs" / "run" / "export"
    model.save_pretrained(export)
    tokenizer.save_pretrained(export)
    write_contract(export, contract)
    records = [draw() for _ in range(rows)]
    with (folder / "test.jsonl").open("w", encoding="utf-8") as out:
        for number, one in enumerate(records):
            row = {"id": f"row-{number}", "document": one.document, "target": one.summary}
            out.write(json.dumps(row) + "\n")
    run = folder / "run.toml"
    run.write_text(
        f"""
        runs = "{folder}/runs"
        data.test.path = "{folder}/test.jsonl"
        [generate]
        max_new_tokens = {NEW}
        dtype = "float32"
        cpu_kv_cache_gib = 0.5
        """,
        encoding="utf-8",
    )
    return run, records


def _learn(
    model: Any, renderer: Any, asked: list[int], draw: Callable[[], Marked], steps: int
) -> None:
    """Trains on documents of which none comes twice, on the summaries alone."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # what there is to compute is too little to be shared out
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _RATE, total_steps=steps, pct_start=0.1
    )
    for _ in range(steps):
        rows = []
        for _ in range(_BATCH):
            one = draw()
            document = renderer.encode_text([one.document])[0]
            prompt = renderer.prompt(document, POSITIONS - NEW, asked).ids
            rows.append((prompt, renderer.encode_targets([one.summary])[0]))
        longest = max(len(prompt) + len(target) for prompt, target in rows)
        ids = torch.zeros(_BATCH, longest, dtype=torch.long)
        labels = torch.full_like(ids, -100)
        for at, (prompt, target) in enumerate(rows):
            ids[at, : len(prompt) + len(target)] = torch.tensor(prompt + target)
            labels[at, len(prompt) : len(prompt) + len(target)] = torch.tensor(target)
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    torch.set_num_threads(threads)
    print(f"trained for {steps} steps, loss {loss.item():.4f}")
