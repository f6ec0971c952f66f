import json
import subprocess
from dataclasses import dataclass, replace
from typing import Any

import pytest

from sumzero.config import RunConfig
from sumzero.prompt import PromptRenderer
from sumzero.runfile import check
from sumzero.runfolder import RunFolder, read_jsonl
from sumzero.train import examples
from sumzero.train.batches import family
from sumzero.train.epoch import Epochs
from sumzero.train.store import TokenStore

from . import run_cases
from .launches import Launched, command, rank_arguments
from .trainings import Forks, Trainings

HIDDEN_SIZE = 32


@dataclass(frozen=True)
class Prepared:
    """A run whose data were prepared, and what training would be fed with."""

    config: RunConfig
    folder: RunFolder
    report: dict[str, Any]
    renderer: PromptRenderer

    @property
    def counts(self):
        return self.report["splits"]["train"]

    @property
    def store(self):
        return TokenStore(examples.store_file(self.folder, "train"))

    @property
    def rejects(self):
        return read_jsonl(self.folder.rejected)

    def epochs(self, **training):
        config = replace(self.config, train=replace(self.config.train, **training))
        return Epochs(self.store, config, HIDDEN_SIZE)

    def pieces(self, epoch=0):
        """Of each piece of an epoch, each branch's (id, prompt, target), as token ids."""
        epochs = self.epochs()
        store, layout = epochs.store, epochs.epoch(epoch).layout
        found = []
        for piece in range(len(layout.pieces)):
            example = int(layout.example[piece])
            names = store.identities(example)[layout.begin[piece] - store.offsets[example] :]
            laid_out = family(store, layout, piece)
            branches = [
                (name, [*laid_out.prefix.tolist(), *branch.prompt.tolist()], branch.target.tolist())
                for name, branch in zip(names, laid_out.branches, strict=False)
            ]
            fed = len(laid_out.prefix) + sum(
                len(x.prompt) + len(x.target) - 1 for x in laid_out.branches
            )
            assert fed == layout.pieces.tokens[piece] <= self.config.data.max_length
            found.append(branches)
        return found

    def texts(self, epoch=0):
        """What each piece of an epoch reads as: of each branch its (id, prompt, target)."""
        decode = self.renderer.tokenizer.decode
        return [
            [(name, decode(prompt), decode(target)) for name, prompt, target in piece]
            for piece in self.pieces(epoch)
        ]


class Preparations:
    """Prepares rows in this process: `prepared(rows, max_length=64)`."""

    def __init__(self, tokenizer, new_folder):
        self._tokenizer = tokenizer
        self._renderers = {}
        self.new_folder = new_folder

    @staticmethod
    def write(file, rows):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return file

    def settings(self, folder, rows=None, *, source=None, training=None, model="", seed=0, **data):
        """Of a run in a folder. `rows` are its training data; without them give `data.train`."""
        if rows is not None:
            file = self.write(folder / "rows.jsonl", rows)
            data["train"] = {"path": str(file), **(source or {})}
        values = {"name": "run", "runs": str(folder), "seed": seed, "model": {"path": str(model)}}
        return check({**values, "data": data, "train": training or {}}, "run.toml")

    def renderer(self, rule="head"):
        if rule not in self._renderers:
            self._renderers[rule] = PromptRenderer(self._tokenizer, rule)
        return self._renderers[rule]

    def __call__(self, rows=None, *, folder=None, processes=1, **values):
        config = self.settings(folder or self.new_folder(), rows, **values)
        renderer, at = self.renderer(config.data.truncation), RunFolder.of(config)
        report = examples.prepare(config, at, renderer, HIDDEN_SIZE, processes)
        return Prepared(config, at, report, renderer)


@pytest.fixture(scope="session")
def prepared(tokenizer, tmp_path_factory):
    return Preparations(tokenizer, lambda: tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="session")
def rank_command():
    return rank_arguments


@pytest.fixture(scope="session")
def launch():
    """Trains to the end, by DeepSpeed's launcher; fails with the output where it fails."""

    def run(ranks, run_file, *overrides, expect=0):
        arguments, environment = command(ranks, run_file, *overrides)
        done = subprocess.run(
            arguments,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            timeout=300,
            check=False,
        )
        assert done.returncode == expect, done.stdout[-3000:] + done.stderr[-3000:]
        return done

    return run


@pytest.fixture(scope="session")
def case(tmp_path_factory, tokenizer, prepared):
    """By name, a small training's run folder; all of `run_cases` are trained in one launch."""
    root = tmp_path_factory.mktemp("cases")
    run_cases.train(root, tokenizer, run_cases.CASES)
    made = {}

    def of(name):
        if name not in made:
            made[name] = run_cases.as_run(root, prepared, name, run_cases.CASES)
        return made[name]

    return of


@pytest.fixture(scope="session")
def tiny_run(model_folder):
    """Writes records and the run file of a tiny float32 training: `tiny_run(folder, **train)`."""

    def write(folder, *, num_records=40, more="", **train):
        for split, first in (("train", 0), ("held_out", 1000)):
            Preparations.write(
                folder / f"{split}.jsonl",
                [
                    {"id": index, "document": " ".join(words), "target": f"{words[0]} {words[-1]}."}
                    for index in range(first, first + num_records)
                    for words in [[f"word{(index * 7 + k) % 23}" for k in range(5 + index % 11)]]
                ],
            )
        settings = {"bins_per_step": 2, "epochs": 20, "max_steps": 8, "lr": 1e-3, "log_every": 1}
        lines = [f"{key} = {json.dumps(value)}" for key, value in (settings | train).items()]
        file = folder / "run.toml"
        file.write_text(
            f"""
            runs = "{folder}/runs"
            [model]
            path = "{model_folder}"
            dtype = "float32"
            [data]
            train.path = "{folder}/train.jsonl"
            max_length = 128
            instruction = "Sum up."
            {more}
            [train]
            """
            + "\n".join(lines)
        )
        return file

    return write


@pytest.fixture
def start_ranks(tmp_path):
    """Starts a training on ranks of its own: `start_ranks(2, run_file, "train.lr=1")`."""
    started = []

    def start(ranks, run_file, *overrides, **options):
        folder = tmp_path / f"launch-{len(started)}"
        folder.mkdir()
        started.append(Launched(folder, ranks, run_file, *overrides, **options))
        return started[-1]

    yield start
    for launched in started:
        launched.kill()


@pytest.fixture(scope="session")
def forks(tmp_path_factory):
    """`forks.train(run_file, "train.lr=1", ranks=2)` where nothing but its end matters."""
    made = Forks(tmp_path_factory.mktemp("forks"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def trainings(tmp_path_factory, model_folder, forks):
    """Trainings of a tiny model in forks of one process; see trainings.py."""
    return Trainings(tmp_path_factory.mktemp("trainings"), model_folder, forks)
