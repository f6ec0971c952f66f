"""A real Slurm cluster of two nodes for the tests of this folder: `cluster`, of cluster.py."""

import shutil
import tempfile
from pathlib import Path

import pytest

from sumzero.config import Scratch
from sumzero.train.scratch import initial_model

from .chains import hostile_user, whole_chain
from .cluster import Cluster
from .programs import why_not

FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker("slurm")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    cluster = getattr(item, "funcargs", {}).get("cluster")
    if report.when == "call" and report.failed and cluster is not None:
        evidence = cluster.evidence()
        if evidence.splitlines()[-1] not in report.longreprtext:  # a wait of the cluster's tells it
            report.sections.append(("Slurm", evidence))
    return report


@pytest.fixture(scope="session")
def state_folder():
    """Makes folders for clusters; pytest's own have names too long for sockets."""
    if hindrance := why_not():
        pytest.skip(hindrance)
    made = []

    def make():
        made.append(Path(tempfile.mkdtemp(prefix="sz", dir="/tmp")))
        return made[-1]

    yield make
    for folder in made:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def cluster(state_folder):
    """One for all tests: after each, its jobs are cancelled and its nodes put right."""
    with Cluster(state_folder()) as running:
        yield running


@pytest.fixture(scope="session")
def served_model(tokenizer, tmp_path_factory):
    """A folder as `model.path` wants it, of a model that vLLM runs on CPU too."""
    folder = tmp_path_factory.mktemp("served")
    shape = Scratch(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        intermediate_size=128,
    )
    tokenizer.save_pretrained(folder)
    initial_model(shape, tokenizer, positions=512, seed=0).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def user(cluster, served_model, tmp_path_factory):
    """See chains.py; one for all tests of chains."""
    return hostile_user(cluster, tmp_path_factory.mktemp("user"), served_model)


@pytest.fixture(scope="session")
def chain(cluster, user):
    return whole_chain(cluster, user)


@pytest.fixture(autouse=True)
def settled(request):
    """What a test leaves on the cluster does not disturb the next one."""
    shared = request.getfixturevalue("cluster") if "cluster" in request.fixturenames else None
    yield
    if shared is None:
        return
    try:
        shared.settle()
    except Exception:
        shared.stop()
        shared.start()
        raise
