"""Fixtures of the whole suite: a tiny tokenizer, a tiny model's folder, and the shared records."""

import gc
import os
import shutil
import signal
import subprocess

# Before torch and transformers are imported: no test reaches for the network, and none starts pools
# of threads, since other tests are at work on the other cores.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
import torch
from hypothesis import settings

from sumzero.config import Scratch
from sumzero.log import logger

# Before triton is imported, which transformers does: without a GPU its kernels run interpreted.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# A script that starts the tests in the background has SIGINT ignored, in all that they start too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("same every time", deadline=None, derandomize=True, database=None)
settings.load_profile("same every time")

SENTENCES = (
    "The cat sat on the mat. It was warm, and the cat was happy to be there.",
    "A model reads the document once and writes a short summary of the text above.",
    "def get_name(self, index):\n    return self.names[index]  # the name of the index",
    "Čeští přátelé pijí naïve café; the price rose by 50 % in 2021.",
    "这是一个用于检查的句子。它很短。",
    "Summarize the text above in one sentence.",
)
SHAPE = Scratch(
    vocab_size=600,
    hidden_size=32,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    intermediate_size=64,
)


# Tests that share what takes minutes to make: they stay on one worker of pytest-xdist's.
SLURM = "tests/slurm/"
EXPORTS = ("tests/train/test_export.py", "tests/train/test_export_faults.py")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """`make test` has two workers, each of which runs whole files: their fixtures are made once."""
    from xdist.scheduler import LoadScopeScheduling

    class Files(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.split("::")[0]
            return next((one for one in (SLURM, EXPORTS) if file.startswith(one)), file)

    config.option.loadscopereorder = False
    return Files(config, log)


def pytest_collection_modifyitems(items):
    """What takes longest is begun first, so that the workers end together."""
    items.sort(key=lambda item: not item.nodeid.startswith(SLURM))


def pytest_collection_finish():
    """What was imported stays: to look through it for cycles takes seconds, amid some test."""
    gc.freeze()


def pytest_sessionfinish():
    gc.unfreeze()  # else libraries would find leaks at the end


@pytest.fixture(scope="session")
def tokenizer():
    from sumzero.train.scratch import train_tokenizer

    return train_tokenizer(iter(SENTENCES * 3), SHAPE.vocab_size)


@pytest.fixture(scope="session")
def model_folder(tokenizer, tmp_path_factory):
    """A folder as `model.path` wants it; tests only read it."""
    from sumzero.train.scratch import initial_model

    folder = tmp_path_factory.mktemp("model")
    tokenizer.save_pretrained(folder)
    initial_model(SHAPE, tokenizer, positions=512, seed=0).save_pretrained(folder)
    return folder


@pytest.fixture
def run_file(tmp_path):
    """Writes a run file; tests that need a whole run have their own."""

    def write(text, name="run.toml"):
        file = tmp_path / name
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return file

    return write


@pytest.fixture(scope="session")
def shared_data():
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the shared records are not beside the repository: {folder}")
    return folder


@pytest.fixture(autouse=True)
def logger_as_it_was():
    """Commands point the logger at the stderr of their test; the next test must not see that."""
    before = logger.handlers, logger.propagate, logger.level
    yield
    logger.handlers, logger.propagate = before[0], before[1]
    logger.setLevel(before[2])


@pytest.fixture
def namespace(tmp_path):
    """The command that gives a process mounts of its own; skips where that is not permitted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if shutil.which("unshare") is None:
        pytest.skip("there is no `unshare` here")
    refusals = []
    for command in (["unshare", "-m"], ["unshare", "-Urm"]):
        mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "none", str(disk)]
        tried = subprocess.run([*command, *mount], capture_output=True, text=True, check=False)
        if tried.returncode == 0:
            return [*command], disk
        refusals.append(tried.stderr.strip())
    pytest.skip(f"no mount namespace is permitted here: {'; '.join(refusals)}")
